"""SDSS-V files: as BOSS wrote them, but for their names and the case of their columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from surveys.make_files import parse_spectrum, spec_hdus

import nalspark
from nalspark.errors import UnusableSpectrum
from nalspark.surveys.reader import identify, open_spectrum
from nalspark.surveys.sources import part_of

CATALOGID = 9007199254740993123  # of 19 digits; float64 would round it


def content(hdus: fits.HDUList) -> bytes:
    raw = io.BytesIO()
    hdus.writeto(raw)
    return raw.getvalue()


def as_sdssv(
    hdus: fits.HDUList, catalogid: int = CATALOGID, field: int = 15000, *, upper: bool = True, name: str = "SPALL"
) -> fits.HDUList:
    """The same spectrum in the layout of SDSS-V: no plate, no fiber of its own."""
    coadd, known = hdus[1], hdus[2].data
    z_err = known["Z_ERR"][0] if "Z_ERR" in known.columns.names else 2.0**-12
    columns = [fits.Column(c.name.upper() if upper else c.name, c.format, array=coadd.data[c.name]) for c in coadd.columns]
    row = {
        "FIELD": ("K", [field]), "MJD": ("K", [59300]), "OBS": ("3A", ["APO"]), "FIBERID_LIST": ("12A", ["291 292"]),
        "CATALOGID": ("K", [catalogid]), "SDSS_ID": ("K", [54459273]), "RACAT": ("D", [known["PLUG_RA"][0]]),
        "PLUG_RA": ("D", [known["PLUG_RA"][0]]), "PLUG_DEC": ("D", [known["PLUG_DEC"][0]]), "CLASS": ("6A", [known["CLASS"][0]]),
        "Z": ("E", [known["Z"][0]]), "Z_ERR": ("E", [z_err]), "ZWARNING": ("K", [known["ZWARNING"][0]]),
    }  # fmt: skip
    table = fits.BinTableHDU.from_columns([fits.Column(column, form, array=values) for column, (form, values) in row.items()])
    table.name = name
    primary = fits.PrimaryHDU()
    primary.header.update({"FIELDID": field, "MJD": 59300, "RUN2D": "v6_1_3"})
    return fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="COADD"), table])


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("name", ["SPALL", "SPECOBJ", ""])
def test_a_file_is_read_whatever_its_case(tmp_path: Path, upper: bool, name: str) -> None:
    spectrum = parse_spectrum(content(as_sdssv(spec_hdus(), upper=upper, name=name)), "x.fits")
    usual = parse_spectrum(content(spec_hdus()), "x.fits")
    assert spectrum.spectrum_id == f"015000-59300-{CATALOGID}" and spectrum.format == "sdssv_spec"
    assert spectrum.native == {"field": 15000, "mjd": 59300, "catalogid": CATALOGID}
    as_sdssv(spec_hdus(), upper=upper, name=name).writeto(tmp_path / "x.fits")
    assert identify(tmp_path / "x.fits") == spectrum.native
    assert (spectrum.ra, spectrum.dec, spectrum.z, spectrum.object_class) == (usual.ra, usual.dec, usual.z, "QSO")
    assert spectrum.z_err == 2.0**-12
    for one in ("flux", "ivar", "mask", "resolution"):
        assert np.array_equal(getattr(spectrum, one), getattr(usual, one))


@pytest.mark.parametrize("catalogid", [1, 4375786564, 27021598108289694, 2**63 - 1])
def test_identifiers_of_any_length_stay_whole(catalogid: int) -> None:
    assert parse_spectrum(content(as_sdssv(spec_hdus(), catalogid)), "x").native["catalogid"] == catalogid


@pytest.mark.parametrize("form", ["D", "E"])
def test_an_identifier_in_real_numbers_is_refused(form: str) -> None:
    hdus = as_sdssv(spec_hdus(), 4544940698)
    columns = [fits.Column(c.name, form if c.name == "CATALOGID" else c.format, array=hdus[2].data[c.name]) for c in hdus[2].columns]
    hdus[2] = fits.BinTableHDU.from_columns(columns, name="SPALL")
    with pytest.raises(UnusableSpectrum) as caught:
        parse_spectrum(content(hdus), "x.fits")
    assert caught.value.reason == "bad_id" and "CATALOGID" in caught.value.detail


@pytest.mark.parametrize("catalogid", [0, -1, -999])
def test_a_file_without_an_identifier_is_rejected(catalogid: int) -> None:
    with pytest.raises(UnusableSpectrum) as caught:
        parse_spectrum(content(as_sdssv(spec_hdus(), catalogid)), "x.fits")
    assert caught.value.reason == "bad_id" and "CATALOGID" in caught.value.detail


def test_a_field_of_the_time_of_plates_is_read_too() -> None:
    hdus = as_sdssv(spec_hdus())
    hdus[0].header["PLATEID"] = 15000
    assert parse_spectrum(content(hdus), "x.fits").format == "sdssv_spec"


def test_fields_are_parts_as_plates_are() -> None:
    assert part_of("spec-015000-59300-27021598108289694.fits", 100) == "plate15000"


@pytest.mark.data
def test_real_spectra_in_this_layout_give_the_same_absorbers(real_data: Path, tmp_path: Path) -> None:
    names = ["spec-3655-55240-0434.fits", "spec-4971-55747-0394.fits", "spec-7102-56666-0180.fits", "spec-7102-56666-0354.fits"]
    found: list[Any] = []
    for number, name in enumerate(names):
        path = real_data / "spectra" / "qso" / name
        with fits.open(path) as hdus:
            as_sdssv(hdus, CATALOGID + number).writeto(tmp_path / name)
        old, new = (nalspark.find(open_spectrum(file)).absorbers for file in (path, tmp_path / name))
        assert len(old) == len(new)
        for column in old.colnames:
            if column != "spectrum":
                np.testing.assert_array_equal(np.ma.getdata(old[column]), np.ma.getdata(new[column]), err_msg=f"{name} {column}")
        found += list(new["z_abs"])
    assert len(found) >= 4

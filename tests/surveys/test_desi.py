"""DESI coadds: one file, many targets; each is read, or rejected with its reason, and no other pays for it."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from surveys.make_desi import ARMS, STEP, TARGETS, coadd, redrock, wave

import nalspark
from nalspark.errors import NalsparkError
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.formats import desi
from nalspark.surveys.reader import open_spectra, parse_spectra
from nalspark.surveys.spectrum import RejectedSpectrum, SurveySpectrum


def content(hdus: fits.HDUList) -> bytes:
    raw = io.BytesIO()
    hdus.writeto(raw)
    return raw.getvalue()


def read(hdus: fits.HDUList | bytes, name: str = "coadd-main-dark-9144.fits") -> list[SurveySpectrum | RejectedSpectrum]:
    return list(parse_spectra(hdus if isinstance(hdus, bytes) else content(hdus), name))


def spectra(*arguments: Any, **settings: Any) -> list[SurveySpectrum]:
    found = read(*arguments, **settings)
    assert all(isinstance(one, SurveySpectrum) for one in found), found
    return [one for one in found if isinstance(one, SurveySpectrum)]


def reasons(found: list[SurveySpectrum | RejectedSpectrum]) -> list[str | None]:
    return [getattr(one, "reason", None) for one in found]


# ---- what is read


def test_every_target_is_a_spectrum() -> None:
    found = spectra(coadd())
    assert [one.spectrum_id for one in found] == [f"main-dark-9144-{target}" for target in TARGETS]
    first = found[0]
    assert repr(first) == f"<SurveySpectrum main-dark-9144-{TARGETS[0]}: class unknown, 4361 pixels>"
    assert first.native == {"survey": "main", "program": "dark", "healpix": 9144, "targetid": TARGETS[0]}
    assert (first.format, first.ra, first.dec, first.z, first.object_class, first.z_warning) == ("desi_coadd", 150.0, 2.0, None, "", 0)
    assert first.wave[0] == pytest.approx(3600, abs=1) and first.wave[-1] == pytest.approx(9824, abs=2)
    assert not first.mask.any() and first.loglam is None
    np.testing.assert_allclose(first.flux, 5.0, rtol=1e-6)


def test_arms_are_added_where_they_overlap() -> None:
    """Twice the inverse variance there; flux weighted by it."""
    hdus = coadd()
    hdus["R_FLUX"].data[:] = 8.0
    hdus["R_IVAR"].data[:] = 12.0
    one = spectra(hdus)[0]
    both = (one.wave > 5765) & (one.wave < 5795)
    np.testing.assert_allclose(one.flux[both], (4 * 5 + 12 * 8) / 16, rtol=1e-5)
    alone = (one.wave > 5000) & (one.wave < 5500)
    pixels = one.wave[both].mean() / one.wave[alone].mean()  # a pixel of the lattice has more of 0.8 Å the redder it is
    assert np.mean(one.ivar[both]) / np.mean(one.ivar[alone]) == pytest.approx(4 * pixels, rel=0.02)


def test_what_is_masked_is_no_data() -> None:
    hdus = coadd()
    hdus["B_MASK"].data[0, 1000:1020] = 1
    hdus["B_IVAR"].data[1, 1000:1020] = 0
    hdus["B_FLUX"].data[2, 1000:1020] = np.nan
    found = spectra(hdus)
    first, last = wave("B")[1000] + STEP, wave("B")[1019] - STEP
    for one in found:
        inside = (one.wave > first) & (one.wave < last)
        assert inside.sum() > 10 and one.mask[inside].all() and not one.flux[inside].any() and not one.ivar[inside].any()
        assert not one.mask[(one.wave < first - 3) | (one.wave > last + 3)].any()


def test_resolution_is_the_second_moment_and_the_pixels() -> None:
    one = spectra(coadd(sigma=0.9))[0]
    places = LATTICE.wavelength_at(np.arange(len(one.resolution)) * 100)
    inside = (places > 3700) & (places < 9700)
    pixel = places * np.log(10) * 1e-4 / STEP
    # Of eleven diagonals of a Gaussian of 0.9 nothing is cut off that matters.
    np.testing.assert_allclose(one.resolution[inside], np.sqrt((0.81 + 2 / 12) / pixel[inside] ** 2 + 1 / 12), rtol=2e-3)


def test_single_pixels_scatter_as_told_and_sums_as_their_errors_say() -> None:
    found = spectra(coadd(range(10**16, 10**16 + 40), noise=np.random.default_rng(3)))
    flux, ivar = (np.stack([getattr(one, name) for one in found])[:, 300:4300].astype(float) for name in ("flux", "ivar"))
    scatter = np.interp(np.arange(48 + 300, 48 + 4300) / 100, np.arange(len(found[0].scatter)), found[0].scatter)
    pull = (flux - 5.0) * np.sqrt(ivar)
    assert np.std(pull / scatter) == pytest.approx(1.0, abs=0.02)
    for region in (slice(0, 1500), slice(1500, 3000), slice(3000, 4000)):
        boxes = (flux - 5.0)[:, region].reshape(40, -1, 20).sum(axis=2) / np.sqrt((1 / ivar)[:, region].reshape(40, -1, 20).sum(axis=2))
        assert np.std(boxes) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kinds", [("MASK",), ("FLUX", "IVAR", "MASK", "RESOLUTION")], ids=["mask", "all"])
def test_images_compressed_in_tables(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    hdus, packed = coadd(), [f"{arm}_{kind}" for arm in ARMS for kind in kinds]
    again = coadd(compressed=packed)
    for name in hdus[2:]:
        if name.name.endswith("MASK"):
            name.data[:] = again[name.name].data[:] = rng.random(name.data.shape) < 0.01
    for one, other in zip(spectra(hdus), spectra(again), strict=True):
        assert np.array_equal(one.mask, other.mask)
        np.testing.assert_allclose(one.flux, other.flux, rtol=1e-3)


def test_a_single_arm_is_read() -> None:
    one = spectra(coadd(arms={"BRZ": (3600.0, 7781)}))[0]
    assert not one.mask.any() and len(one.flux) == 4361


def test_arms_off_a_common_lattice_are_rebinned_one_by_one() -> None:
    arms = {"B": (3569.3, 2975), "R": (5625.3, 2645), "Z": (7435.7, 2999)}
    one = spectra(coadd(arms=arms))[0]
    np.testing.assert_allclose(one.flux[one.mask == 0], 5.0, rtol=1e-5)
    assert (one.mask != 0).sum() <= 2


def test_files_plain_and_packed_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = content(coadd())
    (tmp_path / "coadd-main-dark-9144.fits").write_bytes(raw)
    (tmp_path / "coadd-main-dark-9144.fits.gz").write_bytes(gzip.compress(raw, 1))
    plain, packed = (list(open_spectra(path)) for path in sorted(tmp_path.iterdir()))
    for one, other in zip(plain, packed, strict=True):
        assert isinstance(one, SurveySpectrum) and isinstance(other, SurveySpectrum) and one.spectrum_id == other.spectrum_id
        assert np.array_equal(one.flux, other.flux) and np.array_equal(one.ivar, other.ivar)


def test_targets_of_tiles_are_named_by_them() -> None:
    tile = {"TILEID": ("J", [80613] * 3), "PETAL_LOC": ("I", [4] * 3)}
    found = spectra(coadd(header={"TILEID": 80613, "PETAL": 4, "NIGHT": 20210324}, fibermap=tile), "x.fits")
    assert found[0].spectrum_id == f"80613-20210324-4-{TARGETS[0]}" and found[0].native == {"tile": 80613, "targetid": TARGETS[0]}
    bare = spectra(coadd(header={}, fibermap=tile), "coadd-4-80613-thru20210324.fits")
    assert [one.spectrum_id for one in bare] == [one.spectrum_id for one in found]


def test_a_file_without_a_header_is_named_by_its_own_name() -> None:
    assert spectra(coadd(header={}), "coadd-sv1-bright-58293.fits")[0].spectrum_id == f"sv1-bright-58293-{TARGETS[0]}"
    assert spectra(coadd(header={"HPXPIXEL": 1375}), "spectra-16-1375.fits")[0].spectrum_id == f"1375-{TARGETS[0]}"


# ---- redshifts


def test_redshifts_come_from_the_file_beside(tmp_path: Path) -> None:
    path = tmp_path / "coadd-main-dark-9144.fits"
    coadd(fibermap={"OBJTYPE": ("3A", ["TGT", "TGT", "SKY"])}).writeto(path)
    assert [one.z for one in nalspark.read_spectra(path)] == [None, None, None]
    # In another order, and of one target not at all.
    redrock([TARGETS[1], 5, TARGETS[0]], [2.5, 9.0, 0.3], ["QSO", "QSO", "GALAXY"], [4, 0, 0]).writeto(
        tmp_path / "redrock-main-dark-9144.fits"
    )
    found = nalspark.read_spectra(path)
    assert [one.z for one in found] == [0.3, 2.5, None]
    assert [(one.object_class, one.z_warning) for one in found] == [("GALAXY", 0), ("QSO", 4), ("SKY", 1)]


@pytest.mark.parametrize("fault", ["no FITS file", "cut", "no table", "an image", "another pixel"])
def test_a_bad_file_of_redshifts_costs_the_redshifts_only(tmp_path: Path, fault: str) -> None:
    """And the class of its targets says so: it is shown with what is rejected."""
    coadd().writeto(tmp_path / "coadd-main-dark-9144.fits")
    beside = redrock(TARGETS, [1.0, 2.0, 3.0], ["QSO"] * 3)
    if fault == "no table":
        beside.pop()
    elif fault == "an image":
        beside[1] = fits.ImageHDU(np.zeros((2, 2, 2)), name="REDSHIFTS")
    elif fault == "another pixel":
        beside[0].header["HPXPIXEL"] = 7
    raw = b"no FITS file" if fault == "no FITS file" else content(beside)
    (tmp_path / "redrock-main-dark-9144.fits").write_bytes(raw[: len(raw) - 4000] if fault == "cut" else raw)
    found = nalspark.read_spectra(tmp_path / "coadd-main-dark-9144.fits")
    assert [(one.z, one.object_class) for one in found] == [(None, "REDROCK DAMAGED")] * 3


def test_redshifts_of_packed_files(tmp_path: Path) -> None:
    """Packed or not, on either side; of a target with two rows the first counts."""
    twice = content(redrock([*TARGETS, TARGETS[0]], [1.0, 2.0, 3.0, 9.0], ["QSO"] * 3 + ["STAR"]))
    for number, (end, other) in enumerate([("", ""), (".gz", ".gz"), (".gz", ""), ("", ".gz")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, raw in ((f"coadd-main-dark-9144.fits{end}", content(coadd())), (f"redrock-main-dark-9144.fits{other}", twice)):
            (folder / name).write_bytes(gzip.compress(raw, 1) if name.endswith(".gz") else raw)
        assert [one.z for one in nalspark.read_spectra(folder / f"coadd-main-dark-9144.fits{end}")] == [1.0, 2.0, 3.0]


def test_errors_of_redshifts_come_with_them(tmp_path: Path) -> None:
    """Where the file beside has any; one that is not above 0 is none, nor is what is no number."""
    path, beside = tmp_path / "coadd-main-dark-9144.fits", tmp_path / "redrock-main-dark-9144.fits"
    coadd().writeto(path)
    order = [TARGETS[2], TARGETS[0], TARGETS[1]]
    for errors, expected in (
        (("D", [-1.0, 2e-4, np.nan]), [2e-4, None, None]),
        (("D", [3e-4, 1e-4, 2e-4]), [1e-4, 2e-4, 3e-4]),
        (("4A", ["none"] * 3), [None] * 3),
        (None, [None] * 3),
    ):
        redrock(order, [2.2, 2.0, 2.1], ["QSO"] * 3, errors=errors).writeto(beside, overwrite=True)
        found = nalspark.read_spectra(path)
        assert [one.z for one in found] == [2.0, 2.1, 2.2] and [one.z_err for one in found] == expected


def test_standard_stars_are_stars() -> None:
    found = spectra(coadd(fibermap={"DESI_TARGET": ("K", [2**33, 4, 2**35])}))
    assert [one.object_class for one in found] == ["STAR", "", "STAR"]


# ---- one of several


def test_one_of_several_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    coadd().writeto(path)
    assert nalspark.read_spectrum(path, TARGETS[1]).spectrum_id == nalspark.read_spectrum(path, f"main-dark-9144-{TARGETS[1]}").spectrum_id
    with pytest.raises(NalsparkError, match="holds 3 spectra that can be used: say which"):
        nalspark.read_spectrum(path)
    with pytest.raises(NalsparkError, match="none is called 7"):
        nalspark.read_spectrum(path, 7)
    found = nalspark.find(nalspark.read_spectra(path), z=[2.0, 2.1, 2.2], score=False)
    assert len(found) == 3 and list(found.reason) == [None] * 3
    assert nalspark.read_spectrum(path, str(TARGETS[1])).native["targetid"] == TARGETS[1], "as a table of text has it"


def test_one_that_was_rejected_says_why_and_its_redshift_goes_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    coadd(fibermap={"COADD_FIBERSTATUS": ("J", [2, 0, 2])}).writeto(path)
    for which in (TARGETS[0], str(TARGETS[0]), f"main-dark-9144-{TARGETS[0]}"):
        with pytest.raises(NalsparkError, match="COADD_FIBERSTATUS is 2"):
            nalspark.read_spectrum(path, which)
    with pytest.raises(NalsparkError, match=f"holds 1 spectrum that can be used: none is called 7. There are main-.*{TARGETS[1]}"):
        nalspark.read_spectrum(path, 7)
    with pytest.raises(NalsparkError, match="There is no file nowhere.fits"):
        nalspark.read_spectrum(tmp_path / "nowhere.fits", TARGETS[0])
    redshifts = dict(zip(TARGETS, (2.0, 2.1, 2.2), strict=True))
    found = nalspark.read_spectra(path)
    assert [redshifts[one.native["targetid"]] for one in found] == [2.1]


# ---- what is rejected


def test_a_bad_target_costs_its_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desi, "_BATCH", 2)
    targets = [-11, 12, 13, 14, 15]
    hdus = coadd(targets, fibermap={
        "OBJTYPE": ("3A", ["TGT", "TGT", "BAD", "TGT", "TGT"]), "COADD_FIBERSTATUS": ("J", [0, 1 << 16, 0, 0, 8]),
    })  # fmt: skip
    for arm in ARMS:
        hdus[f"{arm}_IVAR"].data[3] = 0
    found = read(hdus)
    assert reasons(found) == ["unassigned_fiber", "bad_fiber", "unassigned_fiber", "ivar_all_zero", None]
    assert all(one.spectrum_id == f"main-dark-9144-{target}" for one, target in zip(found, targets, strict=True))
    assert "COADD_FIBERSTATUS is 65536" in found[1].detail  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda hdus: hdus.pop("FIBERMAP"), "missing_hdu"),
        (lambda hdus: hdus["B_WAVELENGTH"].data.__setitem__(slice(None), 5.0), "wavelength_invalid"),
        (lambda hdus: hdus["B_WAVELENGTH"].data.__setitem__(7, 3605.1), "wavelength_invalid"),
        (lambda hdus: setattr(hdus["R_FLUX"], "data", np.ones((3, 7), "f4")), "bad_image"),
        (lambda hdus: setattr(hdus["R_IVAR"], "data", np.ones((2, 2326), "f4")), "bad_image"),
        (lambda hdus: setattr(hdus["Z_RESOLUTION"], "data", np.ones((3, 2881), "f4")), "bad_image"),
        (lambda hdus: hdus["FIBERMAP"].data.field("TARGETID").__setitem__(1, TARGETS[0]), "desi_uncoadded"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_row(change: Any, reason: str) -> None:
    hdus = coadd()
    change(hdus)
    found = read(hdus)
    assert reasons(found) == [reason]
    assert found[0].spectrum_id is None and found[0].detail.startswith("coadd-main-dark-9144.fits")  # type: ignore[union-attr]


def test_a_file_of_redshifts_is_called_by_its_name() -> None:
    assert reasons(read(redrock(TARGETS, [1.0, 2.0, 3.0], ["QSO"] * 3))) == ["desi_redrock"]


HEALPIX = {"SURVEY": "main", "PROGRAM": "dark", "HPXPIXEL": 9144}


@pytest.mark.parametrize(
    "header, name, reason",
    [
        ({}, "x.fits", "missing_id"),
        ({"SURVEY": "main", "HPXPIXEL": 5}, "x.fits", "missing_id"),
        (HEALPIX | {"SURVEY": "../../e"}, "x.fits", "bad_id"),
        (HEALPIX | {"PROGRAM": "a'b"}, "x.fits", "bad_id"),
        (HEALPIX | {"HPXPIXEL": 99999999999}, "x.fits", "bad_id"),
        (HEALPIX | {"HPXPIXEL": -1}, "x.fits", "missing_id"),
        ({"TILEID": 80613}, "x.fits", "missing_id"),
        ({"TILEID": 80613, "PETAL": 4}, "x.fits", "missing_id"),
        ({"TILEID": 99999999999, "PETAL": 4, "NIGHT": 20210324}, "x.fits", "bad_id"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_refused(header: dict[str, Any], name: str, reason: str) -> None:
    assert reasons(read(coadd(header=header), name)) == [reason]


def test_files_of_one_tile_have_names_of_their_own() -> None:
    """Of all nights until one, of that night, of an exposure; from the header, else from the name of the file."""
    tile = {"TILEID": 80613, "PETAL": 4, "NIGHT": 20210324}
    headers = [
        tile, tile | {"SPGRP": "cumulative", "SPGRPVAL": 20210324}, tile | {"SPGRP": "pernight", "SPGRPVAL": 20210324},
        tile | {"SPGRP": "perexp", "SPGRPVAL": 81234},
    ]  # fmt: skip
    names = [spectra(coadd(header=header), "x.fits")[0].spectrum_id.rpartition("-")[0] for header in headers]
    assert names == ["80613-20210324-4", "80613-20210324-4", "80613-pernight20210324-4", "80613-perexp81234-4"]
    bare = {"TILEID": 80613}
    files = ["coadd-4-80613-thru20210324.fits", "coadd-4-80613-20210324.fits", "coadd-4-80613-exp00081234.fits"]
    names = [spectra(coadd(header=bare), name)[0].spectrum_id.rpartition("-")[0] for name in files]
    assert names == ["80613-20210324-4", "80613-pernight20210324-4", "80613-exp81234-4"]


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"TARGETID": ("2K", np.ones((3, 2)))}, ["bad_column_type"]),
        ({"TARGETID": ("K", np.zeros(0))}, ["no_targets"]),
        ({"COADD_FIBERSTATUS": ("2J", np.ones((3, 2)))}, [None, None, None]),
        ({"DESI_TARGET": ("E", [np.nan] * 3)}, [None, None, None]),
        ({"DESI_TARGET": ("4A", ["x"] * 3)}, [None, None, None]),
        ({"PETAL_LOC": ("2I", np.ones((3, 2))), "TILEID": ("2J", np.ones((3, 2)))}, [None, None, None]),
        ({"OBJTYPE": ("J", [1, 2, 3]), "TARGET_RA": ("3A", ["a"] * 3)}, [None, None, None]),
    ],
)
def test_columns_of_odd_types_are_left_aside(columns: dict[str, Any], expected: list[str | None]) -> None:
    hdus = coadd()
    if len(columns.get("TARGETID", ("", TARGETS))[1]) == 0:
        hdus["FIBERMAP"].data = hdus["FIBERMAP"].data[:0]
    else:
        hdus = coadd(fibermap=columns)
    assert reasons(read(hdus)) == expected


def test_a_table_that_is_none_is_refused() -> None:
    hdus = coadd()
    hdus[1] = fits.ImageHDU(np.zeros((3, 4)), name="FIBERMAP")
    assert reasons(read(hdus)) == ["bad_column_type"]
    hdus = coadd()
    hdus[2] = fits.ImageHDU(name="B_WAVELENGTH")
    assert reasons(read(hdus)) == ["wavelength_invalid"]


def test_files_that_would_fill_the_memory_are_refused() -> None:
    far = {"B": (3600.0, 2751), "R": (28000.0, 200)}
    assert reasons(read(coadd(arms=far))) == ["wavelength_invalid"] * 3
    assert reasons(read(coadd(arms={"B": (3600.0, 25_000)}))) == ["wavelength_invalid"]
    hdus = coadd(TARGETS[:1], arms={"B": (3600.0, 200)})
    hdus["B_RESOLUTION"].data = np.zeros((1, 65, 200), "f4")
    assert reasons(read(hdus)) == ["bad_image"]


def test_what_is_beyond_numbers_is_no_data() -> None:
    hdus = coadd()
    hdus["B_FLUX"].data[0, 100:140] = 3e38
    hdus["B_IVAR"].data[1, 100] = 1e-37
    hdus["B_IVAR"].data[2, 100] = 3e38
    for one, other in zip(spectra(hdus), spectra(coadd()), strict=True):
        assert np.isfinite(one.flux).all() and np.isfinite(one.ivar).all() and (one.ivar[one.mask != 0] == 0).all()
        far = np.abs(one.wave - 3600 - 0.8 * 120) > 25
        assert np.array_equal(one.flux[far], other.flux[far]) and np.array_equal(one.ivar[far], other.ivar[far])


def test_identifiers_in_real_numbers_are_refused() -> None:
    assert reasons(read(coadd(fibermap={"TARGETID": ("D", [1.0, 2.0, 3.0])}))) == ["bad_column_type"]


def test_cut_anywhere_every_target_before_the_cut_is_read() -> None:
    """And none is half a spectrum: where an arm is not there, or no inverse variance, nothing can be read."""
    raw = content(coadd())
    with fits.open(io.BytesIO(raw)) as hdus:
        place = {hdu.name: hdu.fileinfo()["datLoc"] for hdu in hdus}
        rows = {name: hdus[name].data.nbytes // 3 for name in ("B_IVAR", "Z_FLUX", "Z_IVAR", "Z_MASK", "Z_RESOLUTION")}
    nothing, first, whole = ["truncated"] * 3, [None, "truncated", "truncated"], [None] * 3
    cuts = {
        place["B_IVAR"] + rows["B_IVAR"] + 100: nothing,
        place["R_WAVELENGTH"] + 5: nothing,
        place["Z_FLUX"] + rows["Z_FLUX"] + 100: nothing,
        place["Z_IVAR"] + rows["Z_IVAR"] + 100: first,
        place["Z_MASK"] + rows["Z_MASK"] + 100: first,
        place["Z_RESOLUTION"] + rows["Z_RESOLUTION"] + 100: whole,
    }
    complete = spectra(raw)
    for cut, expected in cuts.items():
        found = read(raw[:cut])
        assert reasons(found) == expected, cut
        for one, other in zip(found, complete, strict=True):
            if isinstance(one, SurveySpectrum):
                assert np.array_equal(one.flux, other.flux) and np.array_equal(one.ivar, other.ivar)
    assert np.isnan(read(raw[: place["Z_RESOLUTION"] + 100])[0].resolution).all()  # type: ignore[union-attr]
    rng = np.random.default_rng(8)
    for cut in rng.integers(3 * 2880, len(raw), 60).tolist():
        found = read(raw[:cut])
        assert set(reasons(found)) <= {None, "truncated"} and len(found) in (1, 3), cut


def test_random_damage_is_a_reason_and_never_a_fault_of_ours() -> None:
    raw = bytearray(content(coadd(TARGETS[:2])))
    headers = [at for at in range(0, len(raw), 2880) if raw[at : at + 8] in (b"XTENSION", b"SIMPLE  ")]
    rng = np.random.default_rng(5)
    for _ in range(150):
        broken = bytearray(raw)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.choice(headers)) + int(rng.integers(0, 2880)) if rng.random() < 0.8 else int(rng.integers(0, len(raw)))
            broken[at] = int(rng.integers(0, 256))
        found = read(bytes(broken))
        assert found and "internal_error" not in reasons(found), [one.detail for one in found if isinstance(one, RejectedSpectrum)]


# ---- real files


@pytest.mark.data
def test_real_coadds_are_read_as_astropy_has_them(real_data: Path) -> None:
    """Flux and error over lines: the sum over 30 pixels of the lattice against that of the native pixels of the same range."""
    checked = 0
    for path in sorted((real_data / "spectra" / "desi").glob("coadd-*.fits")):
        with fits.open(path) as hdus:
            for row, one in enumerate(open_spectra(path)):
                assert isinstance(one, SurveySpectrum) and one.native["targetid"] == hdus["FIBERMAP"].data["TARGETID"][row]
                native, flux = hdus["B_WAVELENGTH"].data, hdus["B_FLUX"].data[row].astype(float)
                edges = 10 ** ((one.first_pixel + np.array([300, 330]) - 0.5) * 1e-4)
                overlap = np.clip(np.minimum(native + 0.4, edges[1]) - np.maximum(native - 0.4, edges[0]), 0, None)
                if (hdus["B_IVAR"].data[row][overlap > 0] <= 0).any():
                    continue
                widths = np.diff(10 ** ((one.first_pixel + np.arange(300, 331) - 0.5) * 1e-4))
                assert (one.flux[300:330] * widths).sum() == pytest.approx((flux * overlap).sum(), rel=1e-5, abs=1e-4)
                checked += 1
    assert checked >= 10


@pytest.mark.data
def test_real_errors_of_redshifts(real_data: Path) -> None:
    folder = real_data / "spectra" / "desi"
    table = fits.getdata(folder / "redrock-4-80613-thru20210324.fits", "REDSHIFTS")
    stated = {int(target): float(error) for target, error in zip(table["TARGETID"], table["ZERR"], strict=True)}
    found = nalspark.read_spectra(folder / "coadd-4-80613-thru20210324.fits")
    assert len(found) > 0 and [one.z_err for one in found] == [stated[one.native["targetid"]] for one in found]

"""Good files: what is read is what is in them, and the fast path equals astropy on every real file."""

from __future__ import annotations

import gzip
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from surveys.make_files import BRIGHT_SKY, FIRST_PIXEL, default_pixels, parse_spectrum, spec_hdus, write_spec, write_spspec
from surveys.test_broken_files import with_objects

from nalspark.errors import UnusableSpectrum
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import place_on_grid
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.spectrum import SurveySpectrum

CLASSES = {0: "", 1: "STAR", 2: "GALAXY", 3: "QSO", 4: "QSO", 5: "SKY", 6: "STAR"}


def same(one: SurveySpectrum, other: SurveySpectrum) -> bool:
    """Equal in every field and to the last bit of every array."""

    def key(value: Any) -> Any:
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)

    return all(key(getattr(one, name)) == key(getattr(other, name)) for name in SurveySpectrum.__slots__)


# ---- synthetic files -------------------------------------------------------------------------------------------------------------------


def test_spec_file(tmp_path: Path) -> None:
    path = write_spec(tmp_path / "any name.fits", plate=266, mjd=51602, fiber=7, z=1.25, z_warning=4)
    spectrum = open_spectrum(path)
    pixels = default_pixels(seed=7)
    assert (spectrum.spectrum_id, spectrum.format) == ("0266-51602-0007", "sdss_spec")
    assert spectrum.native == {"plate": 266, "mjd": 51602, "fiber": 7}
    assert (spectrum.ra, spectrum.dec) == (150.25, -1.5)  # the fiber's, not the plate's of the RA and DEC cards
    assert (spectrum.z_pipeline, spectrum.z_warning, spectrum.object_class) == (1.25, 4, "QSO")
    assert (spectrum.first_pixel, spectrum.loglam) == (FIRST_PIXEL, None)
    good = pixels["ivar"] > 0
    assert np.array_equal(spectrum.flux, np.where(good, pixels["flux"], 0).astype("f4"))
    assert np.array_equal(spectrum.ivar, pixels["ivar"].astype("f4"))
    expected = np.where(good, 0, PixelFlag.NO_DATA)
    assert pixels["and_mask"][10] == BRIGHT_SKY and expected[10] == 0  # noisier, as its error says, and used
    assert np.array_equal(spectrum.mask, expected)
    assert spectrum.resolution.shape == (48,) and (spectrum.resolution == 1.0).all()
    assert [array.dtype.str for array in (spectrum.flux, spectrum.ivar, spectrum.mask)] == ["<f4", "<f4", "|u1"]
    assert all(array.flags.writeable and array.flags.c_contiguous for array in (spectrum.flux, spectrum.ivar, spectrum.mask))


def test_spspec_file(tmp_path: Path) -> None:
    path = write_spspec(tmp_path / "x.fit", plate=266, mjd=51630, fiber=53, z=0.75)
    spectrum = open_spectrum(path)
    pixels = default_pixels(seed=53)
    assert (spectrum.spectrum_id, spectrum.format, spectrum.object_class) == ("0266-51630-0053", "sdss_spspec", "QSO")
    assert (spectrum.ra, spectrum.dec, spectrum.z_pipeline, spectrum.first_pixel) == (150.25, -1.5, 0.75, FIRST_PIXEL)
    assert np.allclose(spectrum.ivar, pixels["ivar"], rtol=1e-6)
    assert np.flatnonzero(spectrum.mask).tolist() == [3, 4] and (spectrum.mask[3:5] == PixelFlag.NO_DATA).all()
    assert spectrum.resolution is None


def test_four_rows_are_enough_for_an_old_spspec_file(tmp_path: Path) -> None:
    assert open_spectrum(write_spspec(tmp_path / "x.fit", rows=4)).format == "sdss_spspec"


@pytest.mark.parametrize("settings", [{"object_class": 5}, {"object_type": "SKY"}])
def test_a_sky_fiber_of_dr7_gets_bit_0(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert open_spectrum(write_spspec(tmp_path / "x.fit", **settings)).z_warning == 1


def test_dr7_warnings_are_not_read_as_modern_ones(tmp_path: Path) -> None:
    # Bit 0 of DR7 says that there is no spectrum; of ZWARNING, that the fiber looks at the sky.
    assert open_spectrum(write_spspec(tmp_path / "x.fit", z_warning=1)).z_warning == 0


@pytest.mark.parametrize("z_status, known", [(0, False), (1, False), (2, True), (12, True)])
def test_a_redshift_that_failed_is_none(tmp_path: Path, z_status: int, known: bool) -> None:
    assert math.isnan(open_spectrum(write_spspec(tmp_path / "x.fit", z_status=z_status)).z_pipeline) is not known


@pytest.mark.parametrize("stated, read", [(3e-4, 3e-4), (-1.0, None), (0.0, None), (math.nan, None), (math.inf, None)])
def test_the_error_of_a_redshift_is_above_0_or_none(tmp_path: Path, stated: float, read: float | None) -> None:
    assert open_spectrum(write_spec(tmp_path / "x.fits", z_err=("D", stated))).z_err == read
    if math.isfinite(stated):  # a card holds no other number
        assert open_spectrum(write_spspec(tmp_path / "x.fit", z_err=stated)).z_err == read


def test_a_file_without_an_error_of_its_redshift_is_read_all_the_same(tmp_path: Path) -> None:
    for column in (None, ("4A", "none"), ("2E", [1e-3, 1e-3])):
        spectrum = open_spectrum(write_spec(tmp_path / "x.fits", z_err=column))
        assert (spectrum.z, spectrum.z_err) == (1.5, None) and math.isnan(spectrum.z_pipeline_err)
    assert open_spectrum(write_spspec(tmp_path / "x.fit")).z_err is None
    assert open_spectrum(write_spspec(tmp_path / "x.fit", z_err=1e-3, z_status=0)).z_err is None  # of what failed


def test_spspec_wavelengths_by_the_other_keywords(tmp_path: Path) -> None:
    path = write_spspec(tmp_path / "x.fit", coeff0=None, coeff1=None, crval1=3.58, cd1_1=1e-4)
    assert open_spectrum(path).first_pixel == 35_800


def test_five_digit_plates(tmp_path: Path) -> None:
    assert open_spectrum(write_spec(tmp_path / "x.fits", plate=12345, fiber=1000)).spectrum_id == "12345-55240-1000"


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    plain = write_spec(tmp_path / "x.fits")
    half = len(plain.read_bytes()) // 2
    packed = tmp_path / "y.fits"
    packed.write_bytes(gzip.compress(plain.read_bytes()[:half]) + gzip.compress(plain.read_bytes()[half:]) + bytes(100))
    assert same(open_spectrum(packed), open_spectrum(plain))
    assert same(parse_spectrum(packed.read_bytes(), "s3a://bucket/y.fits"), open_spectrum(plain))


def test_hdus_without_names_and_columns_in_capitals(tmp_path: Path) -> None:
    hdus = spec_hdus()
    for hdu in hdus[1:]:
        del hdu.header["EXTNAME"]
    for name in hdus[1].columns.names:
        hdus[1].columns.change_name(name, name.upper())
    hdus.writeto(tmp_path / "x.fits")
    assert same(open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits")))


def test_ids_from_the_primary_header_where_there_is_no_specobj(tmp_path: Path) -> None:
    fits.HDUList(spec_hdus(z=1.0)[:2]).writeto(tmp_path / "x.fits")
    spectrum = open_spectrum(tmp_path / "x.fits")
    assert (spectrum.spectrum_id, spectrum.ra, spectrum.dec) == ("3655-55240-0026", 150.25, -1.5)
    assert math.isnan(spectrum.z_pipeline) and spectrum.object_class == "" and spectrum.z_warning == 0


def test_hdus_between_and_after_are_passed_over(tmp_path: Path) -> None:
    hdus = spec_hdus()
    hdus.insert(2, fits.ImageHDU(np.zeros((30, 40))))
    hdus.insert(1, fits.ImageHDU(np.zeros(10)))
    hdus.writeto(tmp_path / "x.fits")
    whole = (tmp_path / "x.fits").read_bytes()
    (tmp_path / "x.fits").write_bytes(whole + b"\xfe" * 10_000)  # never looked at
    assert same(open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits")))


def test_float32_jitter_is_on_the_lattice_and_a_drift_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lattice = (FIRST_PIXEL + np.arange(400)) * 1e-4
    assert open_spectrum(write_spec(tmp_path / "x.fits", loglam=lattice + rng.uniform(-4e-7, 4e-7, 400))).first_pixel == FIRST_PIXEL
    drifting = lattice * (1 + 1e-5)
    spectrum = open_spectrum(write_spec(tmp_path / "y.fits", loglam=drifting))
    assert spectrum.first_pixel is None and np.array_equal(spectrum.loglam, drifting.astype("f4").astype("f8"))
    coarse = open_spectrum(write_spspec(tmp_path / "z.fit", coeff1=2e-4))
    assert coarse.first_pixel is None and np.allclose(np.diff(coarse.loglam), 2e-4)


def test_pixels_that_are_no_numbers_are_without_data(tmp_path: Path) -> None:
    pixels = default_pixels()
    pixels["flux"][20], pixels["flux"][21], pixels["ivar"][22], pixels["ivar"][23], pixels["ivar"][24] = np.nan, np.inf, np.nan, np.inf, -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = open_spectrum(write_spec(tmp_path / "x.fits", **pixels))
    assert (spectrum.mask[20:25] == PixelFlag.NO_DATA).all() and not spectrum.flux[20:25].any() and not spectrum.ivar[20:25].any()
    assert np.isfinite(spectrum.flux).all() and (spectrum.ivar >= 0).all()


@pytest.mark.parametrize("change", ["no and_mask", "and_mask of reals", "all pixels marked"])
def test_masks_are_not_looked_at(tmp_path: Path, change: str) -> None:
    """Neither is a file refused for them: a pixel counts by its inverse variance alone."""
    hdus = spec_hdus(and_mask=np.full(400, -1, np.int32)) if change == "all pixels marked" else spec_hdus()
    if change != "all pixels marked":
        kept = [column for column in hdus[1].columns if column.name != "and_mask"]
        reals = [fits.Column("and_mask", "E", array=np.ones(400))] if change == "and_mask of reals" else []
        hdus[1] = fits.BinTableHDU.from_columns([*kept, *reals], name="COADD")
    hdus.writeto(tmp_path / "x.fits")
    assert same(open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits")))


# ---- as archives, editors and other programs write them


def in_another_order(hdus: fits.HDUList) -> None:
    hdus.insert(1, hdus.pop(2))


def foreign_table_first(hdus: fits.HDUList) -> None:
    """A model of the spectrum, under any name, that has the same columns."""
    foreign = fits.BinTableHDU(hdus[1].data.copy(), name="BESTFIT")
    foreign.data["flux"] += 7
    hdus.insert(1, foreign)


def unnamed_foreign_tables_first(hdus: fits.HDUList) -> None:
    pixels, objects = (fits.BinTableHDU(hdus[number].data.copy()) for number in (1, 2))
    pixels.data["flux"] += 7
    objects.data["Z"] = 0.1
    hdus.insert(1, pixels)
    hdus.insert(2, objects)


def integers(hdus: fits.HDUList) -> None:
    """Masks as unsigned integers, ids of other types."""
    data, row = hdus[1].data, hdus[2].data
    columns = [fits.Column(c.name, c.format, array=data[c.name]) for c in hdus[1].columns if c.name != "and_mask"]
    mask = fits.Column("and_mask", "J", bzero=2**31, array=data["and_mask"].astype("u4"))
    hdus[1] = fits.BinTableHDU.from_columns([mask, *columns], name="COADD")
    kinds = {"PLATE": ("I", 2**15, "u2"), "MJD": ("J", 2**31, "u4"), "ZWARNING": ("K", 2**63, "u8")}
    ids = [fits.Column(name, form, bzero=zero, array=row[name].astype(kind)) for name, (form, zero, kind) in kinds.items()]
    others = [fits.Column(c.name, c.format, array=row[c.name]) for c in hdus[2].columns if c.name not in kinds]
    hdus[2] = fits.BinTableHDU.from_columns([*ids, *others], name="SPECOBJ")


def nothing(hdus: fits.HDUList) -> None:
    """Written as it is."""


def with_shapes(raw: bytes) -> bytes:
    """TDIM in the tables' headers, of numbers and of texts, as far as a block has room."""
    for start in (at for at in range(0, len(raw), 2880) if raw.startswith(b"XTENSION", at)):
        end = raw.index(b"END".ljust(80), start)
        forms = [raw[at : at + 80] for at in range(start, end, 80) if raw.startswith(b"TFORM", at)]
        shapes = [f"TDIM{form[5:8].decode()}= '(1)'".ljust(80).encode() for form in forms if b"10E" not in form]
        room = -(end + 80) % 2880 // 80
        added = b"".join(shapes[:room])
        raw = raw[:end] + added + b"END".ljust(80) + raw[end + 80 + len(added) :]
    return raw


def text_behind_end(raw: bytes) -> bytes:
    for start in (at for at in range(0, len(raw), 2880) if raw.startswith((b"SIMPLE", b"XTENSION"), at)):
        end = raw.index(b"END".ljust(80), start) + 80
        if end % 2880:
            raw = raw[:end] + b"NAXIS   =                    7".ljust(80) + raw[end + 80 :]
    return raw


@pytest.mark.parametrize("change", [in_another_order, foreign_table_first, unnamed_foreign_tables_first, integers, nothing])
@pytest.mark.parametrize("edit", [bytes, with_shapes, text_behind_end])
def test_the_same_spectrum_however_it_is_written(tmp_path: Path, change: Any, edit: Any) -> None:
    hdus = spec_hdus(z_warning=4)
    change(hdus)
    hdus.writeto(tmp_path / "x.fits")
    raw = (tmp_path / "x.fits").read_bytes()
    assert edit is bytes or edit(raw) != raw
    assert same(parse_spectrum(edit(raw), "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits", z_warning=4)))


def test_scaled_pixels_and_those_that_are_null(tmp_path: Path) -> None:
    """Flux as integers, with a scale, and a number that stands for none."""
    hdus = spec_hdus()
    counts = np.rint(hdus[1].data["flux"] * 100).astype("i4")
    expected = counts * 0.01
    counts[50] = -99
    columns = [fits.Column(c.name, c.format, array=hdus[1].data[c.name]) for c in hdus[1].columns if c.name != "flux"]
    hdus[1] = fits.BinTableHDU.from_columns([*columns, fits.Column("flux", "J", null=-99, array=counts)], name="COADD")
    hdus[1].header["TSCAL8"] = 0.01
    hdus.writeto(tmp_path / "x.fits")
    spectrum = open_spectrum(tmp_path / "x.fits")
    assert np.flatnonzero(spectrum.mask).tolist() == [3, 4, 50]
    np.testing.assert_allclose(spectrum.flux[spectrum.mask == 0], expected[spectrum.mask == 0], rtol=1e-6)


def test_of_a_table_of_several_objects_the_row_that_the_header_names(tmp_path: Path) -> None:
    with_objects(26, [3, 26, 5]).writeto(tmp_path / "x.fits")
    spectrum = open_spectrum(tmp_path / "x.fits")
    assert (spectrum.native["fiber"], spectrum.z_pipeline) == (26, pytest.approx(0.26))


@pytest.mark.parametrize("factor", [1e-17, 1e17, 1e-20, 1e-30, 1e30], ids=str)
def test_the_unit_of_the_flux_does_not_matter(tmp_path: Path, factor: float) -> None:
    """Also where its inverse square is beyond float32."""
    hdus = spec_hdus()
    columns = {c.name: fits.Column(c.name, c.format, array=hdus[1].data[c.name]) for c in hdus[1].columns}
    for name, power in (("flux", 1), ("ivar", -2)):
        columns[name] = fits.Column(name, "D", array=hdus[1].data[name].astype("f8") * factor**power)
    hdus[1] = fits.BinTableHDU.from_columns(list(columns.values()), name="COADD")
    hdus.writeto(tmp_path / "x.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum, usual = open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits"))
    assert np.array_equal(spectrum.mask, usual.mask)
    np.testing.assert_allclose(spectrum.flux * spectrum.ivar**0.5, usual.flux * usual.ivar**0.5, rtol=1e-5)
    ratio = spectrum.flux[20] / usual.flux[20] / factor
    assert math.log2(ratio) == pytest.approx(round(math.log2(ratio)), abs=1e-5), "a power of two, which changes no digit"


# ---- rows that a file leaves out


def rows_of(kept: np.ndarray, off: float = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two files' columns of 600 pixels: one without the rows that are not kept, one with inverse variance 0 there."""
    pixels, loglam = default_pixels(600), (FIRST_PIXEL + np.arange(600)) * 1e-4 + off
    wdisp = 0.9 + np.arange(600) / 3000
    whole = pixels | {"loglam": loglam, "wdisp": wdisp, "ivar": np.where(kept, pixels["ivar"], 0)}
    return {name: values[kept] for name, values in whole.items()}, whole


@pytest.mark.parametrize("seed", range(4))
def test_rows_cut_out_are_pixels_without_data(tmp_path: Path, seed: int) -> None:
    """Bit for bit the same spectrum, as long as its ends are kept: gaps of 1 to 60 rows."""
    rng = np.random.default_rng(seed)
    kept = np.ones(600, bool)
    for length in (1, 2, 7, 30, 60):
        start = rng.integers(1, 535)
        kept[start : start + length] = False
    cut, whole = (open_spectrum(write_spec(tmp_path / f"{n}.fits", **columns)) for n, columns in enumerate(rows_of(kept)))
    assert same(cut, whole)
    assert cut.first_pixel == FIRST_PIXEL and len(cut.flux) == 600 and (cut.mask[~kept] == PixelFlag.NO_DATA).all()


def test_rows_cut_out_off_the_lattice_stay_out(tmp_path: Path) -> None:
    kept = np.arange(600) % 97 > 5
    cut, whole = (open_spectrum(write_spec(tmp_path / f"{n}.fits", **columns)) for n, columns in enumerate(rows_of(kept, 0.4e-4)))
    assert cut.first_pixel is None and len(cut.loglam) == kept.sum()
    assert (cut.resolution, whole.resolution) == (None, None)  # `wdisp` counts pixels that are not the lattice's
    placed = [place_on_grid([one.flux], [one.ivar], [one.mask], [one.loglam], LATTICE) for one in (cut, whole)]
    for name in ("flux", "ivar", "mask"):
        np.testing.assert_array_equal(*(getattr(spectra, name) for spectra in placed))


# ---- resolution


def test_the_resolution_is_sampled_from_wdisp(tmp_path: Path) -> None:
    line = 0.9 + np.arange(600) / 3000
    resolution = open_spectrum(write_spec(tmp_path / "x.fits", n_pixels=600, wdisp=line)).resolution
    place = np.clip(LATTICE.resolution_pixels - FIRST_PIXEL, 0, 599)
    np.testing.assert_allclose(resolution, line[place], rtol=1e-5)


@pytest.mark.parametrize("values", [0.0, -1.0, math.nan, math.inf, 77.0, 1e-3], ids=str)
def test_a_resolution_that_says_nothing_is_not_known(tmp_path: Path, values: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = open_spectrum(write_spec(tmp_path / "x.fits", wdisp=np.full(400, values)))
    assert np.isnan(spectrum.resolution).all() and (spectrum.mask == 0).sum() == 398


@pytest.mark.parametrize("form", [None, "8A", "3E"])
def test_a_file_without_a_resolution_is_read(tmp_path: Path, form: str | None) -> None:
    """No column, or one of another kind: the spectrum is as it would be, and its resolution nobody's."""
    hdus = spec_hdus()
    kept = [column for column in hdus[1].columns if column.name != "wdisp"]
    values = {"8A": ["wide"] * 400, "3E": np.ones((400, 3)), None: None}[form]
    hdus[1] = fits.BinTableHDU.from_columns([*kept, *([fits.Column("wdisp", form, array=values)] if form else [])], name="COADD")
    hdus.writeto(tmp_path / "x.fits")
    spectrum, usual = open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits"))
    assert spectrum.resolution is None
    assert all(getattr(spectrum, name).tobytes() == getattr(usual, name).tobytes() for name in ("flux", "ivar", "mask"))


def test_double_precision_columns(tmp_path: Path) -> None:
    hdus = spec_hdus()
    columns = [fits.Column(c.name, "D" if c.format == "E" else c.format, array=hdus[1].data[c.name]) for c in hdus[1].columns]
    hdus[1] = fits.BinTableHDU.from_columns(columns, name="COADD")
    hdus.writeto(tmp_path / "x.fits")
    assert same(open_spectrum(tmp_path / "x.fits"), open_spectrum(write_spec(tmp_path / "y.fits")))


@pytest.mark.parametrize("z", [-0.5, 0.0, 99.0, math.nan])
def test_an_absurd_redshift_is_carried_for_a_later_stage_to_judge(tmp_path: Path, z: float) -> None:
    found = open_spectrum(write_spec(tmp_path / "x.fits", z=z)).z_pipeline
    assert found == z or (math.isnan(z) and math.isnan(found))


def test_positions_off_the_sky_are_none(tmp_path: Path) -> None:
    spectrum = open_spectrum(write_spec(tmp_path / "x.fits", ra=-9999.0, dec=91.0))
    assert math.isnan(spectrum.ra) and math.isnan(spectrum.dec)


def test_the_class_is_plain_text(tmp_path: Path) -> None:
    assert open_spectrum(write_spec(tmp_path / "x.fits", object_class=" qso ")).object_class == "QSO"
    content = write_spec(tmp_path / "y.fits", object_class="GALAXY").read_bytes().replace(b"GALAXY", b"G\x1b\xff\x00XY")
    assert parse_spectrum(content, "y").object_class == "G\ufffd\ufffd"


# ---- real files ------------------------------------------------------------------------------------------------------------------------


_LAYOUTS: dict[tuple[str, ...], np.dtype[Any]] = {}


def first_row(table: fits.BinTableHDU) -> np.void:
    """The first row of a table as astropy has it. SPECOBJ has hundreds of columns, and to make them anew for every file takes long."""
    described = tuple(card.image for card in table.header.cards if card.keyword.startswith(("NAXIS1", "TTYPE", "TFORM", "TZERO", "TSCAL")))
    if described not in _LAYOUTS:
        _LAYOUTS[described] = table.columns.dtype
    layout, place = _LAYOUTS[described], table.fileinfo()
    place["file"].seek(place["datLoc"])
    return np.frombuffer(place["file"].read(layout.itemsize), layout.newbyteorder(">"))[0]


def by_astropy(path: Path) -> dict[str, Any]:
    """The same spectrum, read the plain way."""
    with fits.open(path, memmap=False) as hdus:
        header = hdus[0].header
        if hdus[0].data is not None:
            flux, _, error = hdus[0].data[:3]
            with np.errstate(divide="ignore"):
                ivar = np.where(error > 0, 1 / error.astype("f8") ** 2, 0).astype("f4")
            ids = header["PLATEID"], header["MJD"], header["FIBERID"]
            objects = header["Z"], CLASSES[header["SPEC_CLN"]], 1 if header["SPEC_CLN"] == 5 else 0, header["RAOBJ"], header["DECOBJ"]
            loglam = header["COEFF0"] + header["COEFF1"] * np.arange(len(flux))
        else:
            data, row = hdus[1].data, first_row(hdus[2])
            flux, ivar, loglam = data["flux"], data["ivar"], data["loglam"].astype("f8")
            ids = row["PLATE"], row["MJD"], row["FIBERID"]
            objects = row["Z"], row["CLASS"].decode(), row["ZWARNING"], row["PLUG_RA"], row["PLUG_DEC"]
        kept = ivar > 0
        flags = np.where(kept, 0, int(PixelFlag.NO_DATA))
        arrays = [np.where(kept, flux, 0).astype("<f4"), np.where(kept, ivar, 0).astype("<f4"), flags.astype("u1")]
        return {"ids": ids, "objects": objects, "loglam": loglam, "arrays": arrays}


def real_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "spectra").glob("*/sp*") if path.name.startswith(("spec-", "spSpec-")))


@pytest.mark.data
def test_every_real_file_equals_astropy(real_data: Path) -> None:
    paths = real_files(real_data)
    assert len(paths) > 300
    for path in paths:
        ours, theirs = open_spectrum(path), by_astropy(path)
        assert tuple(ours.native.values()) == theirs["ids"], path
        z, object_class, z_warning, ra, dec = theirs["objects"]
        assert (ours.z_pipeline, ours.object_class, ours.z_warning) == (z, object_class.strip(), z_warning), path
        assert (ours.ra, ours.dec) == (ra, dec), path
        assert ours.loglam is None and np.abs((ours.first_pixel + np.arange(len(ours.flux))) * 1e-4 - theirs["loglam"]).max() < 2e-6, path
        for mine, expected in zip((ours.flux, ours.ivar, ours.mask), theirs["arrays"], strict=True):
            assert mine.dtype == expected.dtype and mine.tobytes() == expected.tobytes(), path


@pytest.mark.data
def test_real_names_and_ids_agree(real_data: Path) -> None:
    for path in real_files(real_data):
        spectrum = open_spectrum(path)
        pieces = path.name.split(".")[0].split("-")[1:]
        plate, mjd, fiber = (pieces[1], pieces[0], pieces[2]) if path.name.startswith("spSpec") else pieces
        assert spectrum.spectrum_id == f"{int(plate):04d}-{mjd}-{int(fiber):04d}"


@pytest.mark.data
def test_sky_fibers_are_marked(real_data: Path) -> None:
    sky = [path for path in real_files(real_data) if path.parent.name == "sky"]
    assert sky and all(open_spectrum(path).z_warning & 1 for path in sky)


@pytest.mark.data
@pytest.mark.parametrize(
    "pattern, reason",
    [
        ("spectra/desi/redrock-*.fits", "desi_redrock"),
        ("spectra/desi/QSO_cat*.fits.gz", "not_a_spectrum"),
        ("catalogs/*.fit*", "not_a_spectrum"),
        ("templates/*.fits", "not_a_spectrum"),
        ("hetdex/*.fits", "not_a_spectrum"),
    ],
)
def test_catalogues_are_refused_by_name(real_data: Path, pattern: str, reason: str) -> None:
    paths = list(real_data.glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern}")
    for path in paths:
        with pytest.raises(UnusableSpectrum) as caught:
            open_spectrum(path)
        assert caught.value.reason == reason, path


@pytest.mark.data
def test_errors_of_redshifts_are_those_of_the_files(real_data: Path) -> None:
    """Of every third quasar: what SPECOBJ, SPALL or the header of the old files states, where it is above 0."""
    checked, negative, formats = 0, 0, set()
    for path in sorted((real_data / "spectra" / "qso").glob("*.fit*"))[::3] + [real_data / "spectra" / "qso" / "spec-0406-51869-0374.fits"]:
        try:
            spectrum = open_spectrum(path)
        except UnusableSpectrum:
            continue
        with fits.open(path) as hdus:
            tables = [hdu.data for hdu in hdus[1:] if {"Z_ERR", "CLASS"} <= {name.upper() for name in hdu.columns.names}]
            stated = float(tables[0]["Z_ERR"][0] if tables else hdus[0].header["Z_ERR"])
        assert spectrum.z_err == (stated if stated > 0 else None), path.name
        checked, negative = checked + 1, negative + (stated < 0)
        formats.add(spectrum.format)
    assert checked > 60 and negative > 0 and formats == {"sdss_spec", "sdss_spspec"}

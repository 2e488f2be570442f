"""Every way in which a file can be broken has its reason, and nothing else is ever raised."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from surveys.make_files import default_pixels, parse_spectrum, spec_hdus, spspec_hdus, table

from nalspark.errors import INTERNAL_ERROR, UnusableSpectrum
from nalspark.surveys import packed, reader, spec_files, stages
from nalspark.surveys.fits_table import MAX_HEADER_BYTES
from nalspark.surveys.reader import fetch_ahead, open_spectrum
from nalspark.tables.arrow import map_arrays
from nalspark.tables.schemas import FILES


def content(hdus: fits.HDUList) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdus.writeto(stream, output_verify="ignore")
    return stream.getvalue()


@cache
def spec(**settings: Any) -> bytes:
    return content(spec_hdus(**settings))


@cache
def spspec(**settings: Any) -> bytes:
    return content(spspec_hdus(**settings))


def replaced(raw: bytes, old: bytes, new: bytes) -> bytes:
    """Overwrite the first `old` by `new` of the same length."""
    assert old in raw and len(old) == len(new), (old, new)
    return raw.replace(old, new, 1)


def card(keyword: str, value: object) -> bytes:
    return f"{keyword:8}= {value!s:>20}".encode()


def pixels(**settings: Any) -> bytes:
    """A spec file with these of the default pixels changed."""
    return content(spec_hdus(**(default_pixels(200) | settings)))


def loglam(change: Callable[[np.ndarray], Any], n_pixels: int = 200) -> bytes:
    lattice = (35_800 + np.arange(n_pixels)) * 1e-4
    return content(spec_hdus(loglam=change(lattice)))


def with_value(lattice: np.ndarray, index: int, value: float) -> np.ndarray:
    lattice[index] = value
    return lattice


def with_columns(change: Callable[[list[fits.Column]], list[fits.Column]], hdu: int = 1) -> bytes:
    hdus = spec_hdus()
    columns = [fits.Column(c.name, c.format, array=hdus[hdu].data[c.name]) for c in hdus[hdu].columns]
    hdus[hdu] = fits.BinTableHDU.from_columns(change(columns), name=hdus[hdu].name)
    return content(hdus)


def as_format(columns: list[fits.Column], name: str, form: str, array: Any) -> list[fits.Column]:
    return [fits.Column(name, form, array=array) if c.name == name else c for c in columns]


def without_end() -> bytes:
    raw = spec()
    at = raw.index(b"END".ljust(80))
    return raw[:at] + b" " * 80 + raw[at + 80 :]


def folded_class() -> bytes:
    hdus = spec_hdus()
    number = hdus[2].columns.names.index("CLASS") + 1
    length = hdus[2].columns[number - 1].format.removesuffix("A")
    raw = content(hdus)
    form = f"TFORM{number:<3}= '{length}A".encode()
    at = raw.index(form, raw.index(b"SPECOBJ") - 8000)
    end = raw.index(b"END".ljust(80), at)
    return raw[:end] + f"TDIM{number:<4}= '({int(length) // 2},2)'".encode().ljust(80) + b"END".ljust(80) + raw[end + 160 :]


def with_objects(fiber: int | None, fibers: list[int]) -> fits.HDUList:
    """A file whose table of the object has rows of several fibers, each with a redshift of a hundredth of it."""
    hdus = spec_hdus(fiber=26)
    columns = {column.name: column for column in hdus[2].columns}
    given: dict[str, Any] = {"FIBERID": fibers, "Z": np.array(fibers) / 100}
    rows = {name: (c.format, given.get(name, [hdus[2].data[name][0]] * len(fibers))) for name, c in columns.items()}
    hdus[2] = table("SPECOBJ", rows)
    del hdus[0].header["FIBERID"]
    if fiber is not None:
        hdus[0].header["FIBERID"] = fiber
    return hdus


def without_cards(*keywords: str) -> bytes:
    hdus = spec_hdus()[:2]
    for keyword in keywords:
        del hdus[0].header[keyword]
    return content(fits.HDUList(hdus))


NAN = float("nan")
PADDING = b"COMMENT no end".ljust(80)

BROKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    # not FITS at all
    "no bytes": ("empty", lambda: b""),
    "a web page": ("not_fits", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "text": ("not_fits", lambda: b"wavelength flux\n3800.0 1.25\n" * 500),
    "binary junk": ("not_fits", lambda: np.random.default_rng(0).bytes(20_000)),
    "zeros": ("not_fits", lambda: bytes(20_000)),
    "a zip archive": ("not_fits", lambda: b"PK\x03\x04" + bytes(200)),
    "an HDF5 file": ("not_fits", lambda: b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "text in gzip": ("not_fits", lambda: gzip.compress(b"hello")),
    "nothing in gzip": ("empty", lambda: gzip.compress(b"")),
    "gzip cut short": ("truncated_gzip", lambda: gzip.compress(spec())[:-2000]),
    "gzip without its checksum": ("truncated_gzip", lambda: gzip.compress(spec())[:-5]),
    "gzip magic only": ("truncated_gzip", lambda: b"\x1f\x8b"),
    "damaged gzip": ("corrupt_gzip", lambda: gzip.compress(spec())[:3000] + b"\0" * 300 + gzip.compress(spec())[3300:]),
    "gzip of another method": ("corrupt_gzip", lambda: b"\x1f\x8b\x07" + bytes(100)),
    "a wrong gzip checksum": ("corrupt_gzip", lambda: gzip.compress(spec())[:-8] + bytes(8)),
    # cut short
    "a few letters": ("truncated", lambda: b"SIMP"),
    "cut in the primary header": ("truncated", lambda: spec()[:1000]),
    "cut after the primary header": ("truncated", lambda: spec()[:2880]),
    "cut in the next header's name": ("truncated", lambda: spec()[: 2880 + 5]),
    "cut in the COADD header": ("truncated", lambda: spec()[: 2880 + 1500]),
    "cut in COADD": ("truncated", lambda: spec()[: 3 * 2880 + 5000]),
    "cut in SPECOBJ": ("truncated", lambda: spec()[: 2880 * (1 + 1 + 5 + 1) + 60]),
    "an image cut short": ("truncated", lambda: spspec()[:6000]),
    "more rows promised than there are": ("truncated", lambda: replaced(spec(), card("NAXIS2", 400), card("NAXIS2", 400_000))),
    # headers
    "no END before data": ("corrupt_header", lambda: spspec().replace(b"END".ljust(80), b" " * 80, 1)),
    "no END before the next header": ("corrupt_header", without_end),
    "a header without end": ("header_too_large", lambda: spec()[:800] + PADDING * (MAX_HEADER_BYTES // 80 + 5000)),
    "a text file that begins like FITS": ("truncated", lambda: b"SIMPLE  = and so on, as everybody knows. " * 200),
    "an impossible BITPIX": ("corrupt_header", lambda: replaced(spec(), card("BITPIX", 8), card("BITPIX", 7))),
    "BITPIX that is a word": ("corrupt_header", lambda: replaced(spec(), card("BITPIX", 8), card("BITPIX", "eight"))),
    "a negative NAXIS": ("corrupt_header", lambda: replaced(spec(), card("NAXIS", 0), card("NAXIS", -1))),
    "a huge NAXIS": ("corrupt_header", lambda: replaced(spec(), card("NAXIS", 0), card("NAXIS", 10**6))),
    "an axis without length": ("corrupt_header", lambda: replaced(spec(), card("NAXIS2", 400), card("NAXIS9", 400))),
    "negative NAXIS2": ("corrupt_header", lambda: replaced(spec(), card("NAXIS2", 400), card("NAXIS2", -400))),
    "absurd NAXIS2": ("corrupt_header", lambda: replaced(spec(), card("NAXIS2", 400), card("NAXIS2", 10**14))),
    "an absurd heap": ("corrupt_header", lambda: replaced(spec(), card("PCOUNT", 0), card("PCOUNT", 10**17))),
    "rows of no bytes": ("corrupt_header", lambda: replaced(spec(), card("NAXIS1", 32), card("NAXIS1", 0))),
    "no rows, each of absurd length": (
        "corrupt_header",
        lambda: replaced(replaced(spec(), card("NAXIS1", 32), card("NAXIS1", 2**61)), card("NAXIS2", 400), card("NAXIS2", 0)),
    ),
    "the class of an object folded into two": ("bad_column_type", folded_class),
    "rows that do not add up": ("corrupt_header", lambda: replaced(spec(), card("NAXIS1", 32), card("NAXIS1", 33))),
    "an unknown format": ("corrupt_header", lambda: replaced(spec(), b"TFORM3  = 'E  ", b"TFORM3  = 'Y  ")),
    "too few rows promised": ("corrupt_header", lambda: replaced(spec(), card("NAXIS2", 400), card("NAXIS2", 200))),
    "too few fields": ("corrupt_header", lambda: replaced(spec(), card("TFIELDS", 8), card("TFIELDS", 7))),
    # FITS, but not this
    "no COADD table": ("wrong_hdu", lambda: content(fits.HDUList([hdu for hdu in spec_hdus() if hdu.name != "COADD"]))),
    "a catalogue": ("not_a_spectrum", lambda: content(fits.HDUList([fits.PrimaryHDU(), table("CATALOG", {"Z": ("D", [1.0, 2.0])})]))),
    "an image": ("not_a_spectrum", lambda: content(fits.HDUList([fits.PrimaryHDU(np.zeros((300, 300)))]))),
    # columns
    "no flux column": ("missing_column", lambda: with_columns(lambda columns: columns[1:])),
    "no loglam column": ("missing_column", lambda: with_columns(lambda columns: [c for c in columns if c.name != "loglam"])),
    "no ivar column": ("missing_column", lambda: with_columns(lambda columns: [c for c in columns if c.name != "ivar"])),
    "flux as text": ("bad_column_type", lambda: with_columns(lambda columns: as_format(columns, "flux", "8A", ["1.0"] * 400))),
    "flux as logical values": (
        "bad_column_type",
        lambda: with_columns(lambda columns: as_format(columns, "flux", "L", np.ones(400, bool))),
    ),
    "three objects, none the header's": ("missing_id", lambda: content(with_objects(26, [1, 2, 3]))),
    "three objects, none of them named": ("missing_id", lambda: content(with_objects(None, [1, 26, 3]))),
    "no table of the object, and half a block": ("truncated", lambda: content(fits.HDUList(spec_hdus()[:2]))[:-100]),
    "two fluxes per row": ("bad_column_type", lambda: with_columns(lambda columns: as_format(columns, "flux", "2E", np.ones((400, 2))))),
    "redshift as text": ("bad_column_type", lambda: with_columns(lambda columns: as_format(columns, "Z", "8A", ["1.5"]), hdu=2)),
    "class as a number": ("bad_column_type", lambda: with_columns(lambda columns: as_format(columns, "CLASS", "J", [3]), hdu=2)),
    # pixels
    "flux all nan": ("flux_all_nan", lambda: pixels(flux=np.full(200, NAN))),
    "ivar all zero": ("ivar_all_zero", lambda: pixels(ivar=np.zeros(200))),
    "ivar all nan": ("ivar_all_zero", lambda: pixels(ivar=np.full(200, NAN))),
    "flux only where ivar is zero": ("ivar_all_zero", lambda: pixels(flux=np.r_[1.0, np.full(199, NAN)], ivar=np.r_[0.0, np.ones(199)])),
    "no pixels": ("too_few_pixels", lambda: content(spec_hdus(n_pixels=0))),
    "too few pixels": ("too_few_pixels", lambda: content(spec_hdus(n_pixels=99))),
    "descending wavelengths": ("wavelength_descending", lambda: loglam(lambda grid: grid[::-1])),
    "wavelengths that turn back": ("wavelength_not_monotonic", lambda: loglam(lambda grid: np.r_[grid[:100], grid[:100]])),
    "one wavelength only": ("wavelength_not_monotonic", lambda: loglam(lambda grid: np.full(200, 3.6))),
    "a wavelength that is nan": ("wavelength_invalid", lambda: loglam(lambda grid: with_value(grid, 50, NAN))),
    "the first wavelength nan": ("wavelength_invalid", lambda: loglam(lambda grid: with_value(grid, 0, NAN))),
    "an infinite wavelength": ("wavelength_invalid", lambda: loglam(lambda grid: with_value(grid, -1, np.inf))),
    "wavelengths in Å, not their logarithms": ("wavelength_invalid", lambda: loglam(lambda grid: 10**grid)),
    "X-ray wavelengths": ("wavelength_invalid", lambda: loglam(lambda grid: grid - 3)),
    # identity
    "no ids anywhere": ("missing_id", lambda: without_cards("PLATEID", "MJD", "FIBERID")),
    "no fiber": ("missing_id", lambda: without_cards("FIBERID")),
    "fiber 0": ("bad_id", lambda: spec(fiber=0)),
    "a negative plate": ("bad_id", lambda: spec(plate=-1)),
    "mjd 0": ("bad_id", lambda: spec(mjd=0)),
    "a plate beyond all plates": ("bad_id", lambda: spec(plate=2_000_000)),
    "ids that are text": ("bad_id", lambda: content(spspec_hdus(plateid="two"))),
    # spSpec
    "spSpec without mask row": ("bad_image", lambda: content(spspec_hdus(rows=3))),
    "spSpec without COEFF0": ("missing_keyword", lambda: content(spspec_hdus(coeff0=None))),
    "spSpec without COEFF1": ("missing_keyword", lambda: content(spspec_hdus(coeff1=None))),
    "spSpec with descending wavelengths": ("wavelength_descending", lambda: content(spspec_hdus(coeff1=-1e-4))),
    "spSpec with absurd wavelengths": ("wavelength_invalid", lambda: content(spspec_hdus(coeff0=1e300, coeff1=1e300))),
    "spSpec without fiber": ("missing_id", lambda: content(spspec_hdus(fiberid=None))),
    "spSpec with few pixels": ("too_few_pixels", lambda: content(spspec_hdus(n_pixels=12))),
}


def check(fault: UnusableSpectrum, reason: str) -> None:
    assert fault.reason == reason, str(fault)
    assert fault.detail.endswith((".", "?")) and 20 < len(fault.detail) < 800
    fault.detail.encode("utf-8")
    assert fault.detail.replace("×", "x").replace("λ", "l").isprintable()


@pytest.mark.parametrize("kind", BROKEN)
def test_each_fault_has_its_reason(kind: str, tmp_path: Path) -> None:
    reason, make = BROKEN[kind]
    raw = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnusableSpectrum) as parsed:
            parse_spectrum(raw, "s3a://bucket/spec-1.fits")
    check(parsed.value, reason)
    path = tmp_path / "spec-1.fits"
    path.write_bytes(raw)
    with pytest.raises(UnusableSpectrum) as opened:
        open_spectrum(path)
    assert (opened.value.reason, opened.value.detail) == (reason, parsed.value.detail)


def test_a_missing_column_names_those_present_and_the_nearest() -> None:
    with pytest.raises(UnusableSpectrum, match="'ivar'.*flux, loglam, iwar.*Did you mean 'iwar'"):
        parse_spectrum(replaced(spec(), b"'ivar    '", b"'iwar    '"), "x")


# ---- files that cannot be opened -------------------------------------------------------------------------------------------------------


def refused(path: str | Path) -> UnusableSpectrum:
    with pytest.raises(UnusableSpectrum) as caught:
        open_spectrum(path)
    return caught.value


def test_what_is_not_a_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(refused(tmp_path / "none.fits"), "file_missing")
    check(refused(tmp_path / "none" / "none.fits"), "file_missing")
    check(refused(tmp_path), "is_a_directory")
    os.mkfifo(tmp_path / "pipe.fits")
    check(refused(tmp_path / "pipe.fits"), "not_a_regular_file")
    (tmp_path / "loop.fits").symlink_to("loop.fits")
    check(refused(tmp_path / "loop.fits"), "io_error")
    check(refused(str(tmp_path / ("x" * 300))), "io_error")
    check(refused("a\0b"), "unreadable")
    check(refused("\udcff.fits"), "file_missing")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check(refused(tmp_path), "permission_denied")


def test_what_is_fetched_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files only: to open a pipe would wait for ever. What is wrong is left to whoever reads the file."""
    (tmp_path / "x.fits").write_bytes(spec())
    os.mkfifo(tmp_path / "pipe.fits")
    advised: list[tuple[int, int]] = []

    def advise(handle: int, start: int, length: int, advice: int) -> None:
        advised.append((os.fstat(handle).st_size, start))
        raise OSError(22, "not on this file system")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    for path in (tmp_path / "none.fits", tmp_path, tmp_path / "pipe.fits", "a\0b", tmp_path / "x.fits"):
        fetch_ahead(os.fspath(path))
    assert advised == [(len(spec()), 0)]
    monkeypatch.delattr(os, "posix_fadvise")
    fetch_ahead(os.fspath(tmp_path / "x.fits"))


def test_files_are_fetched_ahead_but_for_those_whose_bytes_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(stages, "fetch_ahead", fetched.append)
    near = os.fspath(tmp_path / "x.fits")
    Path(near).write_bytes(spec())
    (rows,) = stages.read_files({"path": [near, "s3a://far/y.fits"], "part": ["a", "a"], "content": [None, spec()]})
    assert fetched == [near]
    assert rows["reason"] == [None, None]


@pytest.mark.parametrize(
    "fault, reason",
    [(PermissionError(13, "denied"), "permission_denied"), (OSError(5, "Input/output error"), "io_error"), (MemoryError(), "unreadable")],
)
def test_faults_of_the_operating_system(fault: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.fits").write_bytes(spec())

    def broken(*arguments: object) -> None:
        raise fault

    monkeypatch.setattr(reader, "_read", broken)
    check(refused(tmp_path / "x.fits"), reason)


# ---- faults of ours --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [TypeError, AssertionError, AttributeError, KeyError, RecursionError, ValueError, ZeroDivisionError])
def test_a_fault_of_ours_is_no_property_of_a_file(
    fault: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise fault("ours\nalone")

    monkeypatch.setattr(spec_files, "clean_pixels", broken)
    (tmp_path / "x.fits").write_bytes(spec())
    found = refused(tmp_path / "x.fits")
    check(found, INTERNAL_ERROR)
    assert fault.__name__ in found.detail and "ours" in found.detail, "what it was"
    assert "test_broken_files.py" in found.detail and "_pixels" in found.detail, "and where"
    (record,) = caplog.records
    assert record.name == "nalspark" and record.exc_info and record.exc_info[0] is fault, "the log has the whole traceback"


@pytest.mark.spark
def test_of_a_survey_only_the_row_at_fault_is_without_a_result(spark: Any, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"spec-{number}.fits").write_bytes(spec(fiber=1 + number) if number != 3 else b"no spectrum")
    files = spark.createDataFrame([(str(tmp_path / f"spec-{number}.fits"), "a") for number in range(5)], "path string, part string")

    def at_fault(columns: dict[str, Any]) -> dict[str, Any]:
        """What a worker does where the reader trips over one of the files."""
        from nalspark.surveys import reader, stages

        whole = reader._read

        def trips(fits: Any) -> Any:
            return np.uint8(1) + None if fits.path.endswith("spec-1.fits") else whole(fits)

        reader._read = trips
        try:
            (rows,) = stages.read_files(columns)
            return rows
        finally:
            reader._read = whole

    expected, rows = (
        sorted(frame.collect(), key=lambda row: row.path)
        for frame in (stages.ingest(files), map_arrays(files, at_fault, FILES, stages.SPECTRA_READ))
    )
    assert [row.reason for row in rows] == [None, INTERNAL_ERROR, None, "not_fits", None]
    assert "TypeError" in rows[1].detail and "trips" in rows[1].detail
    assert [rows[number] for number in (0, 2, 3, 4)] == [expected[number] for number in (0, 2, 3, 4)]


def test_a_gzip_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_DECOMPRESSED_BYTES", 2**20)
    with pytest.raises(UnusableSpectrum) as caught:
        parse_spectrum(gzip.compress(bytes(2**20 + 1)), "x.fits.gz")
    check(caught.value, "too_large")
    with pytest.raises(UnusableSpectrum) as caught:
        parse_spectrum(gzip.compress(bytes(2**20)), "x.fits.gz")
    check(caught.value, "not_fits")


# ---- faults nobody chose ---------------------------------------------------------------------------------------------------------------


#: What no damage of a file may come to: it is foreseen.
OURS = {INTERNAL_ERROR, "unreadable"}


def outcome(raw: bytes) -> str:
    """`good`, or the reason; anything but UnusableSpectrum fails the test, warnings included."""
    try:
        spectrum = parse_spectrum(raw, "x.fits")
    except UnusableSpectrum as fault:
        check(fault, fault.reason)
        assert fault.reason not in OURS, fault.detail
        return fault.reason
    assert spectrum.flux.shape == spectrum.ivar.shape == spectrum.mask.shape and len(spectrum.flux) >= 100
    assert np.isfinite(spectrum.flux).all() and np.isfinite(spectrum.ivar).all() and (spectrum.ivar >= 0).all()
    assert spectrum.native["plate"] > 0 and spectrum.native["fiber"] > 0 and abs(spectrum.z_warning) < 2**31
    return "good"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [spec, spspec])
def test_truncation_anywhere(make: Callable[[], bytes]) -> None:
    raw = make()
    # The last bytes needed are the object's row of 109 bytes in the block before SPZLINE, or the last pixel of the image.
    needed = raw.rindex(b"XTENSION") - 2880 + 109 if make is spec else 2880 + 4 * 5 * 400
    outcomes = {length: outcome(raw[:length]) for length in range(1, len(raw), 2880 // 7)}
    assert len(outcomes) > 20
    for length, found in outcomes.items():
        assert found == ("truncated" if length < needed else "good"), length
    assert outcome(raw) == "good"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [spec, spspec])
def test_truncation_at_every_block(make: Callable[[], bytes]) -> None:
    raw = make()
    for length in range(2880, len(raw), 2880):
        assert outcome(raw[:length]) in ("truncated", "good"), length


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [spec, spspec])
def test_random_damage_never_raises_anything_else(make: Callable[[], bytes]) -> None:
    rng = np.random.default_rng(20)
    raw = np.frombuffer(make(), np.uint8)
    of_cards = np.frombuffer(b"0123456789-+.'= ETPQA&", np.uint8)
    counted: dict[str, int] = {}
    for n in range(400):
        damaged = raw.copy()
        where = rng.integers(0, len(raw), size=2 ** rng.integers(0, 10))
        damaged[where] = rng.integers(0, 256, len(where)) if n % 2 else rng.choice(of_cards, len(where))
        found = outcome(damaged.tobytes())
        counted[found] = counted.get(found, 0) + 1
    assert len(counted) >= 4, counted


@pytest.mark.filterwarnings("error")
def test_random_damage_of_the_cards_that_matter() -> None:
    rng = np.random.default_rng(21)
    raw = spec()
    structural = (b"NAXIS", b"BITPI", b"TFORM", b"TTYPE", b"TFIEL", b"PCOUN", b"GCOUN")
    starts = [at for at in range(0, len(raw), 80) if raw[at : at + 5] in structural]
    assert len(starts) > 50
    counted: dict[str, int] = {}
    for _ in range(600):
        damaged = bytearray(raw)
        for at in rng.choice(starts, size=rng.integers(1, 4)):
            column = int(rng.integers(8, 31))
            damaged[at + column : at + column + 1] = rng.choice(list(b"0123456789-+.'= ETPQLXA&\xff")).astype("u1").tobytes()
        found = outcome(bytes(damaged))
        counted[found] = counted.get(found, 0) + 1
    assert counted["good"] > 50 and counted["corrupt_header"] > 50, counted


def test_a_string_may_go_on_for_thousands_of_cards() -> None:
    raw = spec()
    at = raw.index(b"EXTNAME", raw.index(b"XTENSION"))
    long = b"EXTNAME = 'COADD&'".ljust(80) + b"CONTINUE  'and on&'".ljust(80) * (36 * 100 - 1)
    assert outcome(raw[:at] + long + raw[at:]) == "good"


def test_blocks_exchanged_or_lost_never_raise_anything_else() -> None:
    rng = np.random.default_rng(22)
    blocks = [spec()[at : at + 2880] for at in range(0, len(spec()), 2880)]
    for _ in range(60):
        order = rng.permutation(len(blocks))[: rng.integers(1, len(blocks) + 1)]
        outcome(b"".join(blocks[at] for at in order))
        kept = [block for block in blocks if rng.random() > 0.1]
        outcome(b"".join(kept))


#: Cards that a table or an image may have, and values that none should have.
CARDS = tuple(f"{keyword}{n}" for keyword in ("TDIM", "TSCAL", "TZERO", "TFORM", "TTYPE", "NAXIS") for n in range(1, 5)) + (
    "BSCALE", "BZERO", "BLANK", "THEAP", "PCOUNT", "GCOUNT", "EXTNAME", "COEFF0", "COEFF1", "PLATEID", "MJD", "FIBERID", "SPEC_CLN",
)  # fmt: skip
VALUES = (
    "0", "1", "-1", "1E400", "NaN", "'text'", "'(1)'", "'(1,1)'", "'(2,2)'", "'(1,400)'", "T", "4611686018427387904", "9" * 60, "1.5", "''",
    "'&'", "'0E'", "'1A'", "'3A'", "'1PE(4)'", "'1QD'", "'9X'", "'1C'", "'1L'", "'J'", "'D'", "'flux'", "'COADD'", "'99999999999A'",
)  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_cards_that_no_file_should_have() -> None:
    rng = np.random.default_rng(23)
    counted: dict[str, int] = {}
    for n in range(600):
        damaged = bytearray((spec, spspec)[n % 2]())
        starts = [at for at in range(0, len(damaged), 80) if damaged[at + 8 : at + 10] == b"= "]
        for at in rng.choice(starts, size=rng.integers(1, 4)):
            damaged[at : at + 80] = f"{rng.choice(CARDS):8}= {rng.choice(VALUES)}".ljust(80).encode()
        found = outcome(bytes(damaged))
        counted[found] = counted.get(found, 0) + 1
    assert counted["good"] > 50 and counted["corrupt_header"] > 50, counted

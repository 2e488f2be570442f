"""The fast reader gives what astropy gives, and never believes a header."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import pytest
from astropy.io import fits
from surveys.make_files import table
from surveys.random_tables import verdict

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.fits_table import FitsFile, Hdu, Header, printable


def content(*hdus: fits.BinTableHDU | fits.ImageHDU, primary: fits.PrimaryHDU | None = None) -> bytes:
    stream = io.BytesIO()
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(stream)
    return stream.getvalue()


def opened(raw: bytes) -> FitsFile:
    return FitsFile(io.BytesIO(raw), "folder/some.fits")


def hdu_of(file: FitsFile, number: int) -> Hdu:
    return next(islice(file.hdus(), number, None))


def every_format(n_rows: int = 7) -> fits.BinTableHDU:
    rng = np.random.default_rng(1)
    columns = {
        "a_byte": ("B", rng.integers(0, 255, n_rows)),
        "short": ("I", rng.integers(-999, 999, n_rows)),
        "Long": ("J", rng.integers(-(2**31), 2**31 - 1, n_rows)),
        "huge": ("K", rng.integers(-(2**62), 2**62, n_rows)),
        "real": ("E", rng.standard_normal(n_rows)),
        "double": ("D", rng.standard_normal(n_rows)),
        "flag": ("L", rng.random(n_rows) > 0.5),
        "text": ("9A", [f"row {n}" for n in range(n_rows)]),
        "bits": ("11X", rng.random((n_rows, 11)) > 0.5),
        "vector": ("5E", rng.standard_normal((n_rows, 5))),
        "last": ("1J", np.arange(n_rows)),
    }
    return table("MANY", columns)


def equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same numbers to the last bit, whatever the byte order."""
    theirs = np.asarray(theirs)
    if ours.dtype.kind == "S":
        return [text.decode().rstrip() for text in ours] == list(theirs)
    return ours.dtype.isnative and ours.shape == theirs.shape and ours.tobytes() == theirs.astype(ours.dtype).tobytes()


@pytest.mark.parametrize("name", ["a_byte", "SHORT", "long", "huge", "real", "double", "flag", "text", "vector", "last"])
def test_every_simple_format_equals_astropy(name: str) -> None:
    hdu = every_format()
    file = opened(content(hdu))
    ours = file.columns(hdu_of(file, 1), [name])[name]
    assert equal(ours, hdu.data[name])


def test_unusual_columns_equal_astropy() -> None:
    plain = fits.Column("plain", "J", array=[1, 2, 3])
    unsigned = fits.Column("unsigned", "J", bzero=2**31, array=np.array([1, 2**31 + 1, 5], np.uint32))
    ragged = fits.Column("ragged", "PE()", array=np.array([[1.0], [2.0, 3.0], []], dtype=object))
    shaped = fits.Column("shaped", "4E", dim="(2,2)", array=np.arange(12.0).reshape(3, 2, 2))
    bits = fits.Column("bits", "3X", array=np.ones((3, 3), bool))
    hdu = fits.BinTableHDU.from_columns([plain, unsigned, ragged, shaped, bits], name="ODD")
    file = opened(content(hdu))
    found = file.columns(hdu_of(file, 1), ["unsigned", "shaped", "plain", "bits", "ragged"])
    assert found["unsigned"].tolist() == [1, 2**31 + 1, 5]
    assert found["shaped"].shape == (3, 2, 2)
    assert found["plain"].tolist() == [1, 2, 3] and found["plain"].dtype.isnative
    assert found["unsigned"].dtype == np.uint32 and found["bits"].tolist() == [[True] * 3] * 3
    assert [row.tolist() for row in found["ragged"]] == [[1.0], [2.0, 3.0], []]
    widths = {name: column.width for name, column in hdu_of(file, 1).layout.columns.items()}
    assert widths == {"plain": 1, "unsigned": 1, "ragged": 0, "shaped": 4, "bits": 3}


def test_scaled_columns_come_as_what_they_mean() -> None:
    raw = content(table("SCALED", {"scaled": ("I", [-18, -15, 0]), "plain": ("I", [1, 2, 3])}))
    card = b"TFORM1  = 'I       '"
    scale = b"".join(text.ljust(80) for text in (b"TSCAL1  =                  0.5", b"TZERO1  =                 10.0"))
    start = raw.index(card) + 80
    end = raw.index(b" " * 160, start) // 80 * 80 + 80
    raw = raw[:start] + scale + raw[start:end] + raw[end + 160 :]
    file = opened(raw)
    found = file.columns(hdu_of(file, 1), ["scaled", "plain"])
    assert found["scaled"].tolist() == [1.0, 2.5, 10.0] and found["plain"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("first", range(0, 300, 60))
def test_tables_at_random_are_read_as_astropy_reads_them(first: int) -> None:
    """More of them: benchmarks/fits_tables.py."""
    verdicts = [verdict(seed) for seed in range(first, first + 60)]
    assert [found for found in verdicts if found not in ("equal", "both refuse")] == []
    assert 0 < verdicts.count("both refuse") < 20


def edited(raw: bytes, card: bytes, *more: bytes) -> bytes:
    """A file with cards added behind one that is there; their number of blocks stays the same."""
    at = raw.index(card) // 80 * 80 + 80
    added = b"".join(text.ljust(80) for text in more)
    end = raw.index(b"END".ljust(80), at) + 80
    assert not raw[end : end + len(added)].strip(), "room for the cards"
    return raw[:at] + added + raw[at:end] + raw[end + len(added) :]


def test_the_length_of_a_row_is_naxis1() -> None:
    """Archive servers write TDIM (1) for texts of any length, of which astropy makes rows that are too short."""
    raw = content(table("CASJOBS", {"name": ("18A", ["first of them all", "second"]), "z": ("D", [1.82, 1.93])}))
    file = opened(edited(raw, b"TFORM1", b"TDIM1   = '(1)'"))
    found = file.columns(hdu_of(file, 1), ["name", "z"])
    assert found["name"].tolist() == [b"first of them all", b"second"] and found["z"].tolist() == [1.82, 1.93]


@pytest.mark.parametrize("dim, shape", [("(1)", (3,)), ("(1,1)", (3,)), ("(7)", (3,))])
def test_a_column_of_one_number_is_a_scalar_whatever_its_dimensions(dim: str, shape: tuple[int, ...]) -> None:
    file = opened(edited(content(table("ONE", {"z": ("E", [1.0, 2.0, 3.0])})), b"TFORM1", f"TDIM1   = '{dim}'".encode()))
    assert file.columns(hdu_of(file, 1), ["z"])["z"].shape == shape and hdu_of(file, 1).layout.columns["z"].is_number


def test_nulls_are_masked_and_whole_numbers_stay_exact() -> None:
    huge = 2**62 + 1
    column = fits.Column("id", "K", null=-1, array=np.array([huge, -1, 3]))
    file = opened(content(fits.BinTableHDU.from_columns([column])))
    found = file.columns(hdu_of(file, 1), ["id"])["id"]
    assert found.tolist() == [huge, None, 3] and found.dtype == np.int64


def test_rows_of_different_length_are_scaled_too() -> None:
    ragged = fits.Column("ragged", "PI()", array=np.array([[1], [2, 3], []], dtype=object))
    raw = content(fits.BinTableHDU.from_columns([ragged]))
    file = opened(edited(raw, b"TFORM1", b"TSCAL1  = 0.5", b"TZERO1  = 1.0"))
    assert [row.tolist() for row in file.columns(hdu_of(file, 1), ["ragged"])["ragged"]] == [[1.5], [2.0, 2.5], []]


def test_a_place_outside_the_heap_is_refused() -> None:
    ragged = fits.Column("ragged", "PI()", array=np.array([[1], [2, 3]], dtype=object))
    raw = content(fits.BinTableHDU.from_columns([ragged]))
    file = opened(raw.replace(np.array([2, 2], ">i4").tobytes(), np.array([2, 2000], ">i4").tobytes()))
    with pytest.raises(UnusableSpectrum, match="row 1 of column 'ragged' lies outside the heap"):
        file.columns(hdu_of(file, 1), ["ragged"])


def test_what_stands_behind_end_is_none_of_the_header() -> None:
    raw = content(table("T", {"z": ("E", [1.0, 2.0])}))
    end = raw.index(b"END".ljust(80), 2880) + 80
    for behind in (b"NAXIS2  =                    9", b"END", b"left by an editor"):
        file = opened(raw[:end] + behind.ljust(80) + raw[end + 80 :])
        assert file.columns(hdu_of(file, 1), ["z"])["z"].tolist() == [1.0, 2.0]
        assert hdu_of(file, 1).header.get("NAXIS2") == 2


def test_what_follows_the_last_hdu_is_passed_over_unless_lengths_are_wrong() -> None:
    raw = content(table("T", {"z": ("E", np.arange(2000.0))}))
    for added in (bytes(2880), b" " * 100, b"special records".ljust(2880) * 3):
        assert len(list(opened(raw + added).hdus())) == 2
    assert len(list(opened(raw[:-10]).hdus())) == 2, "without all of its padding"
    with pytest.raises(UnusableSpectrum, match="a header is due at byte"):
        list(opened(raw + bytes(2880) + raw[2880:]).hdus())


def test_some_rows_from_the_middle_are_read() -> None:
    hdu = every_format(50)
    file = opened(content(hdu))
    assert equal(file.columns(hdu_of(file, 1), ["real"], rows=3)["real"], hdu.data["real"][:3])
    assert equal(file.columns(hdu_of(file, 1), ["real"], rows=3, start=40)["real"], hdu.data["real"][40:43])
    assert equal(file.columns(hdu_of(file, 1), ["real"], start=48)["real"], hdu.data["real"][48:])
    assert len(file.columns(hdu_of(file, 1), ["real"], start=50)["real"]) == 0
    assert len(file.columns(hdu_of(file, 1), ["real"], rows=99)["real"]) == 50


def test_later_hdus_are_not_looked_at() -> None:
    raw = content(every_format(), fits.ImageHDU(np.zeros(5000)))
    reads: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(self.tell())
            return super().read(size)

    file = FitsFile(Watched(raw + b"\xff" * 5000), "x")
    second = hdu_of(file, 1)
    file.columns(second, ["real"])
    assert max(reads) == second.start


@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "scaled"])
def test_images_equal_astropy(kind: str) -> None:
    array = np.arange(15.0).reshape(3, 5)
    if kind != "scaled":
        array = array.astype(kind)
    primary = fits.PrimaryHDU(array)
    if kind == "scaled":
        primary.scale("int16", bscale=0.5, bzero=3.0)
    file = opened(content(primary=primary))
    found = file.image(hdu_of(file, 0))
    assert found.shape == (3, 5) and found.dtype.isnative and np.array_equal(found, np.arange(15.0).reshape(3, 5))


def test_card_values() -> None:
    header = fits.Header()
    header["TEXT"] = "it's / here"
    header["NUMBER"] = (-12, "a / comment")
    header["REAL"] = 1.5e-3
    header["YES"] = True
    header["EMPTY"] = ""
    header["LONG"] = "word " * 40
    raw = header.tostring().encode() + b"DOUBLE  =             1.25D+02 / Fortran's way".ljust(80) + b"BLANK   =".ljust(80)
    found = Header(raw)
    assert found.get("TEXT") == "it's / here" and found.get("LONG") == ("word " * 40).rstrip()
    assert (found.get("NUMBER"), found.get("REAL"), found.get("YES"), found.get("DOUBLE")) == (-12, 1.5e-3, True, 125.0)
    assert found.get("EMPTY") == "" and found.get("BLANK") is None and found.get("ABSENT") is None


def test_a_keyword_inside_a_comment_is_no_card() -> None:
    raw = b"COMMENT  the card NAXIS   = 7 is not here".ljust(80) + b"NAXIS   =                    2".ljust(80)
    assert Header(raw).get("NAXIS") == 2


def test_an_unknown_column_is_named_with_its_nearest() -> None:
    file = opened(content(every_format()))
    with pytest.raises(UnusableSpectrum, match="Did you mean 'double'") as caught:
        file.columns(hdu_of(file, 1), ["duble"])
    assert caught.value.reason == "missing_column" and "some.fits" in caught.value.detail and "folder/" not in caught.value.detail


def test_sizes_are_checked_before_memory_is_asked_for() -> None:
    raw = content(every_format())
    n_rows = b"NAXIS2  =                    7"
    for rows, reason in ((10**6, "truncated"), (10**12, "corrupt_header"), (10**30, "corrupt_header"), (-7, "corrupt_header")):
        file = opened(raw.replace(n_rows, b"NAXIS2  =".ljust(10) + str(rows).encode().rjust(max(20, len(str(rows))))[-31:], 1))
        with pytest.raises(UnusableSpectrum) as caught:
            file.columns(hdu_of(file, 1), ["real"])
        assert caught.value.reason == reason, rows


def test_layouts_are_remembered() -> None:
    raw = content(every_format())
    first, second = hdu_of(opened(raw), 1), hdu_of(opened(raw), 1)
    assert first.layout is second.layout


@pytest.mark.parametrize("text, expected", [("a\x00b\x1b", "a\ufffdb\ufffd"), ("é\udcff", "é\ufffd"), ("x" * 90, "x" * 80 + "…")])
def test_printable_text_can_be_stored(text: str, expected: str) -> None:
    assert printable(text) == expected and printable(text).encode("utf-8")

"""A small FITS reader for survey spectra: what the file is asked for, and nothing else of it.

astropy builds an object for every HDU, header card and column. A survey has millions of files that differ in their numbers only, so here a
table's layout is worked out once per distinct header and kept, HDUs are visited one at a time and only as far as asked, and columns are cut
straight out of the rows. Columns that are scaled, of variable length or otherwise unusual are handed to ``astropy.io.fits``.

A file is never believed: sizes are compared with the stream before anything is allocated, and every fault is an
:class:`~nalspark.errors.UnusableSpectrum` that says where.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum, did_you_mean

BLOCK = 2880
CARD = 80
#: A header of 50,000 cards; the longest of SDSS has some 700.
MAX_HEADER_BYTES = 4 * 2**20
#: Data that a header may promise before it is taken for nonsense; per-exposure SDSS files have some 10 MB.
MAX_DATA_BYTES = 2**31
_HEADER_CHUNK = 6 * BLOCK
_MAX_KEPT_HEADER = 40 * BLOCK

Value = bool | int | float | str

_STRING = re.compile(r"'((?:[^']|'')*)'")
_FORMAT = re.compile(r"(\d*)([LXBIJKAEDCMPQ])(.*)", re.DOTALL)
_WIDTHS = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_DTYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_BITPIX = (8, 16, 32, 64, -32, -64)
_PRINTABLE = bytes(range(32, 127)) + b"\t\r\n"
_OTHER_FORMATS = {
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89HDF": "HDF5",
    b"PAR1": "Parquet",
}


def printable(text: str, limit: int = 80) -> str:
    """Make text from a file fit for a message or a table: no control characters, no lone surrogates, bounded."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in text[:limit])
    return shown + ("…" if len(text) > limit else "")


@dataclass(frozen=True, slots=True)
class Header:
    """The cards of one HDU, unread until asked for."""

    raw: bytes

    def _find(self, card: bytes) -> int:
        at = self.raw.find(card)
        while at > 0 and at % CARD:
            at = self.raw.find(card, at + 1)
        return at

    def get(self, keyword: str, default: Value | None = None) -> Value | None:
        """Give the value of the first card of this keyword, or the default where there is none or it is blank."""
        at = self._find(keyword.encode("ascii").ljust(8) + b"=")
        value = None if at < 0 else self._value(at)
        return default if value is None else value

    def cards(self) -> dict[str, int]:
        """Give the position of the first card of every keyword: for those who need many of them."""
        positions: dict[bytes, int] = {}
        for at in range(0, len(self.raw), CARD):
            positions.setdefault(self.raw[at : at + 8], at)
        return {keyword.decode("ascii", "replace").rstrip(): at for keyword, at in positions.items()}

    def _value(self, at: int) -> Value | None:
        text = self.raw[at + 9 : at + CARD].decode("ascii", "replace").strip()
        if text.startswith("'"):
            return self._string(text, at)
        token = text.partition("/")[0].strip()
        if token in ("T", "F"):
            return token == "T"
        for convert in (int, float):
            try:
                return convert(token.replace("D", "E").replace("d", "e"))
            except ValueError:
                continue
        return token or None

    def _string(self, text: str, at: int) -> str:
        pieces = list[str]()
        while True:
            match = _STRING.match(text)
            value = match[1].replace("''", "'").rstrip() if match else text[1:].rstrip()
            # A long string goes on in the next card, marked by an ampersand (FITS 4.0, §4.2.1.2).
            at += CARD
            following = self.raw[at : at + CARD]
            if not (value.endswith("&") and following.startswith(b"CONTINUE")):
                return "".join([*pieces, value])
            pieces.append(value[:-1])
            text = following[8:].decode("ascii", "replace").strip()


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a binary table.

    Attributes
    ----------
    name, form : str
        TTYPE and TFORM as written.
    code : str
        The letter of the format: L, B, I, J, K, E, D, A, or one that only astropy reads.
    repeat : int
        Elements per row; of an A column: characters.
    offset : int
        Byte of the row at which the column begins.
    simple : bool
        Whether the bytes are the values: not scaled, not of variable length.
    """

    name: str
    form: str
    code: str
    repeat: int
    offset: int
    simple: bool

    @property
    def is_number(self) -> bool:
        """One number per row; scaled integers become real numbers when they are read."""
        return self.code in "BIJKED" and self.repeat == 1


@dataclass(frozen=True, slots=True)
class Layout:
    """What a header says of the data that follow it.

    Attributes
    ----------
    name : str
        EXTNAME in upper case, or empty: many eBOSS files have none.
    shape : tuple of int
        Of an image in numpy's order; of a table (rows, bytes per row).
    bitpix : int
    data_bytes : int
        Length of the data, without the padding to whole blocks.
    columns : mapping of str to Column, or None
        By lower-case name, in the order of the table; None where the HDU is no binary table.
    """

    name: str
    shape: tuple[int, ...]
    bitpix: int
    data_bytes: int
    columns: Mapping[str, Column] | None = None


@dataclass(frozen=True, slots=True)
class Hdu:
    """One HDU of a file: its number, its header, its layout, and the byte at which its data start."""

    number: int
    header: Header
    layout: Layout
    start: int


class FitsFile:
    """The HDUs of a seekable binary stream, visited one by one.

    Parameters
    ----------
    stream : binary file
        Read from its first byte to its end.
    name : str
        What messages call it.

    Raises
    ------
    UnusableSpectrum
        From the methods: ``empty``, ``not_fits``, ``truncated``, ``corrupt_header``, ``header_too_large``, ``missing_column``.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream = stream
        self.name = printable(os.path.basename(name), 120)
        self.size = stream.seek(0, io.SEEK_END)

    def _check_magic(self, head: bytes) -> None:
        if not head:
            raise UnusableSpectrum("empty", f"{self.name} has no bytes; expected a FITS file.")
        if b"SIMPLE  =".startswith(head):
            return
        kind = next((kind for magic, kind in _OTHER_FORMATS.items() if head.startswith(magic)), "")
        found = f"it looks like {kind}" if kind else f"it begins with {printable(head.decode('ascii', 'replace'))!r}"
        expected = "expected 'SIMPLE  =', plain or compressed with gzip"
        raise UnusableSpectrum("not_fits", f"{self.name} is not a FITS file: {found}; {expected}.")

    def hdus(self) -> Iterator[Hdu]:
        """Read the HDUs in order, the primary one first; a header is read when its turn comes, data never."""
        number = start = 0
        while (header := self._read_header(start)) is not None:
            hdu = Hdu(number, header, _layout(header), start + len(header.raw))
            yield hdu
            self._require(hdu, hdu.layout.data_bytes)
            start = hdu.start + -(-hdu.layout.data_bytes // BLOCK) * BLOCK
            if start == self.size:
                return
            if start > self.size:
                raise UnusableSpectrum("truncated", f"{self.name} ends at byte {self.size}, inside the last block of HDU {number}.")
            number += 1

    def _read_header(self, start: int) -> Header | None:
        self.stream.seek(start)
        raw = self.stream.read(_HEADER_CHUNK)
        if start == 0:
            self._check_magic(raw[:9])
        elif not b"XTENSION".startswith(raw[:8]):
            if len(raw) < BLOCK:
                return None  # a few bytes after the last HDU, which some transfers add
            raise _corrupt(f"{self.name}: a header is due at byte {start}, found {printable(raw[:8].decode('ascii', 'replace'))!r}")
        searched = 0
        while (end := _end_of_header(raw, searched)) < 0:
            searched = len(raw) // BLOCK * BLOCK
            more = self.stream.read(_HEADER_CHUNK) if len(raw) <= MAX_HEADER_BYTES else b""
            if not more:
                raise self._endless_header(start, raw)
            raw += more
        return Header(raw[:end])

    def _endless_header(self, start: int, raw: bytes) -> UnusableSpectrum:
        # Where the END card is missing the data are read as cards: binary numbers are not text.
        if len(raw.translate(None, _PRINTABLE)) > len(raw) // 20:
            return _corrupt(f"{self.name}: the header at byte {start} runs into binary data without an END card")
        if len(raw) > MAX_HEADER_BYTES:
            limit = MAX_HEADER_BYTES >> 20
            return UnusableSpectrum("header_too_large", f"{self.name}: the header at byte {start} has no END card in its first {limit} MB.")
        return UnusableSpectrum("truncated", f"{self.name} ends at byte {self.size}, inside the header that starts at byte {start}.")

    def _require(self, hdu: Hdu, n_bytes: int) -> None:
        """Refuse data that end after the file does, before any memory is asked for."""
        if hdu.start + n_bytes > self.size:
            which = f"HDU {hdu.number}" + (f" ({hdu.layout.name})" if hdu.layout.name else "")
            due = f"the data of {which} start at byte {hdu.start} and their header promises {n_bytes} bytes"
            raise UnusableSpectrum("truncated", f"{self.name} ends at byte {self.size}; {due}.")

    def _read_data(self, hdu: Hdu, n_bytes: int) -> bytes:
        self._require(hdu, n_bytes)
        self.stream.seek(hdu.start)
        data = self.stream.read(n_bytes)
        while len(data) < n_bytes:  # an unbuffered stream may give less than asked for
            more = self.stream.read(n_bytes - len(data))
            if not more:
                raise UnusableSpectrum("truncated", f"{self.name} gave {len(data)} of {n_bytes} bytes at byte {hdu.start}.")
            data += more
        return data

    def image(self, hdu: Hdu) -> NDArray[Any]:
        """Read the image of an HDU as native numbers.

        Returns
        -------
        ndarray, shape hdu.layout.shape
            float32 or float64; integer images come scaled by BSCALE and BZERO.
        """
        data = self._read_data(hdu, hdu.layout.data_bytes)
        scaled = hdu.header.get("BSCALE") is not None or hdu.header.get("BZERO") is not None
        if hdu.layout.bitpix > 0 or scaled:
            return _native(_astropy_data("PrimaryHDU", hdu, data, self.name))
        kind = f">f{-hdu.layout.bitpix // 8}"
        return _native(np.frombuffer(data, kind).reshape(hdu.layout.shape))

    def columns(self, hdu: Hdu, names: Iterable[str], rows: int | None = None) -> dict[str, NDArray[Any]]:
        """Read columns of a binary table.

        Parameters
        ----------
        hdu : Hdu
            Of a binary table.
        names : iterable of str
            In any case.
        rows : int, optional
            Read this many rows at most; default all.

        Returns
        -------
        dict of str to ndarray, shape (rows,) or (rows, repeat)
            By the names asked for. Numbers are in the machine's byte order; text is bytes of fixed width.

        Raises
        ------
        UnusableSpectrum
            ``missing_column`` or ``truncated``.
        """
        known = hdu.layout.columns or {}
        wanted = {name: self._column(known, name, hdu) for name in names}
        n_rows, row_bytes = hdu.layout.shape
        n_rows = n_rows if rows is None else min(n_rows, rows)
        if all(column.simple for column in wanted.values()):
            data = self._read_data(hdu, n_rows * row_bytes)
            return {name: _cut(column, data, n_rows, row_bytes) for name, column in wanted.items()}
        data = self._read_data(hdu, hdu.layout.data_bytes)
        table = _astropy_data("BinTableHDU", hdu, data, self.name, [column.name for column in wanted.values()])
        return {name: _native(self._one_a_row(column, table[column.name][:n_rows])) for name, column in wanted.items()}

    def _one_a_row(self, column: Column, values: NDArray[Any]) -> NDArray[Any]:
        """What astropy reads of a column, in which TDIM may have folded the one number, or the one string, of a row."""
        values = np.asarray(values)
        if values.ndim > 1 and (column.is_number or column.code == "A"):
            if values.size != len(values):
                raise _corrupt(f"{self.name}: TDIM makes a row of column '{column.name}' {values.shape[1:]} values; expected one")
            values = values.reshape(len(values))
        return values

    def _column(self, known: Mapping[str, Column], name: str, hdu: Hdu) -> Column:
        if name.lower() in known:
            return known[name.lower()]
        present = [column.name for column in known.values()]
        raise UnusableSpectrum(
            "missing_column",
            f"{self.name}: HDU {hdu.number} has no column '{name}'; it has {shown_list(present)}.{did_you_mean(name, present)}",
        )


def shown_list(names: list[str], limit: int = 12) -> str:
    """Write names for a message: the first few and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _corrupt(what: str) -> UnusableSpectrum:
    return UnusableSpectrum("corrupt_header", what + ".")


def _end_of_header(raw: bytes, searched: int) -> int:
    """Length of the header in whole blocks, or -1 where the block with its END card has not come yet."""
    for start in range(searched, len(raw) - BLOCK + 1, BLOCK):
        # Nothing follows END but padding: looking at the end of each block is many times faster than searching for the word.
        text = raw[start : start + BLOCK].rstrip(b" \0")
        if start and text.startswith(b"XTENSION"):
            raise _corrupt("a header has no END card before the next one begins")
        if text.endswith(b"END") and len(text) % CARD == 3:
            return start + BLOCK
    return -1


def _integer(header: Header, keyword: str, low: int, high: int, default: int | None = None) -> int:
    value = header.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        found = "missing" if value is None else printable(str(value), 40)
        raise _corrupt(f"{keyword} is {found}; expected a whole number from {low} to {high}")
    return value


def _shape(header: Header) -> tuple[int, tuple[int, ...]]:
    """BITPIX, and the lengths of the axes in numpy's order."""
    bitpix = _integer(header, "BITPIX", -64, 64)
    if bitpix not in _BITPIX:
        raise _corrupt(f"BITPIX is {bitpix}; expected one of {', '.join(map(str, _BITPIX))}")
    naxis = _integer(header, "NAXIS", 0, 999)
    return bitpix, tuple(_integer(header, f"NAXIS{n}", 0, 2**62) for n in range(naxis, 0, -1))


def _data_bytes(bitpix: int, shape: tuple[int, ...], extra: int = 0, groups: int = 1) -> int:
    """Length of the data (FITS 4.0, equations 1 and 2); a length that no spectrum file has is refused."""
    data_bytes = abs(bitpix) // 8 * groups * (extra + (math.prod(shape) if shape else 0))
    if data_bytes > MAX_DATA_BYTES:
        raise _corrupt(f"a header promises {data_bytes} bytes of data (axes {shape[::-1]}), more than any spectrum file has")
    return data_bytes


def _layout(header: Header) -> Layout:
    # No two files share a primary header; long ones are not kept, so that no file can fill the memory with its own.
    keep = header.raw.startswith(b"XTENSION") and len(header.raw) <= _MAX_KEPT_HEADER
    return _kept_layout(header) if keep else _parsed_layout(header)


def _parsed_layout(header: Header) -> Layout:
    bitpix, shape = _shape(header)
    if header.raw.startswith(b"SIMPLE"):
        return Layout("", shape, bitpix, _data_bytes(bitpix, shape))
    name = printable(str(header.get("EXTNAME", "")).strip().upper(), 40)
    extra = _integer(header, "PCOUNT", 0, 2**62, default=0)
    data_bytes = _data_bytes(bitpix, shape, extra, _integer(header, "GCOUNT", 0, 2**31, default=1))
    if header.get("XTENSION") not in ("BINTABLE", "A3DTABLE"):
        return Layout(name, shape, bitpix, data_bytes)
    if len(shape) != 2 or bitpix != 8:
        raise _corrupt(f"a binary table has NAXIS = {len(shape)} and BITPIX = {bitpix}; expected 2 and 8")
    if shape[1] > MAX_DATA_BYTES:
        raise _corrupt(f"a table has rows of {shape[1]} bytes, more than any spectrum file has")
    if shape[0] > 0 and shape[1] == 0:
        raise _corrupt(f"a table has {shape[0]} rows of no bytes")
    return Layout(name, shape, bitpix, data_bytes, _columns(header, row_bytes=shape[1]))


_kept_layout = lru_cache(maxsize=512)(_parsed_layout)


def _columns(header: Header, row_bytes: int) -> dict[str, Column]:
    """The columns of a binary table by lower-case name; of two with the same name the first."""
    cards = header.cards()

    def value(keyword: str) -> str:
        at = cards.get(keyword)
        return "" if at is None else printable(str(header._value(at) or "").strip(), 80)

    columns: dict[str, Column] = {}
    offset = 0
    for n in range(1, _integer(header, "TFIELDS", 0, 999) + 1):
        name, form = value(f"TTYPE{n}"), value(f"TFORM{n}")
        match = _FORMAT.fullmatch(form)
        if match is None:
            raise _corrupt(f"TFORM{n} is '{form}', which is no format of a FITS table")
        repeat, code = int(match[1] or 1), match[2]
        plain = code in "LBIJKED" or (code == "A" and not match[3])
        simple = plain and repeat > 0 and not any(f"{keyword}{n}" in cards for keyword in ("TSCAL", "TZERO", "TDIM"))
        columns.setdefault(name.lower(), Column(name, form, code, repeat, offset, simple))
        offset += (repeat + 7) // 8 if code == "X" else repeat * _WIDTHS[code]
    if offset != row_bytes:
        raise _corrupt(f"the columns of a table take {offset} bytes per row, but NAXIS1 is {row_bytes}")
    return columns


def _cut(column: Column, data: bytes, n_rows: int, row_bytes: int) -> NDArray[Any]:
    """A column out of the bytes of the rows; a copy in the machine's byte order."""
    data = data or bytes(row_bytes)  # numpy wants room for one row even where there is none
    if column.code == "A":
        return np.ndarray((n_rows,), f"S{column.repeat}", data, column.offset, (row_bytes,)).copy()
    kind = np.dtype(_DTYPES.get(column.code, "u1"))
    shape, strides = ((n_rows,), (row_bytes,)) if column.repeat == 1 else ((n_rows, column.repeat), (row_bytes, kind.itemsize))
    view: NDArray[Any] = np.ndarray(shape, kind, data, column.offset, strides)
    return view == ord("T") if column.code == "L" else _native(view)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="))


def _astropy_data(kind: str, hdu: Hdu, data: bytes, name: str, columns: Iterable[str] | None = None) -> Any:
    """The data of one HDU, or some of its columns by name, as astropy understands them: scaled, of variable length, or of a rare type."""
    from astropy.io import fits  # imported here: it takes longer than reading a thousand ordinary files

    padding = bytes(-len(data) % BLOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(fits, kind).fromstring(hdu.header.raw + data + padding).data
            return found if columns is None else {column: found.field(column) for column in columns}
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
        fits.VerifyError,
    ) as error:  # fmt: skip
        raise _corrupt(f"{name}: astropy cannot read HDU '{hdu.layout.name}': {printable(str(error), 200)}") from None

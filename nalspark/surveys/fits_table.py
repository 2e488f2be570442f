"""A small reader of FITS tables, for spectra and for catalogues: what a file is asked for, and nothing else of it.

astropy builds an object for every HDU, header card and column. A survey has millions of files that differ in their numbers only, so here a
table's layout is worked out once per distinct header and kept, HDUs are visited one at a time and only as far as asked, and columns are cut
straight out of the rows. A row is as long as NAXIS1 says: astropy takes its length from TDIM, and reads garbage where that is too small.

A file is never believed: sizes are compared with the stream before anything is allocated, and every fault is an
:class:`~nalspark.errors.UnusableSpectrum` that says where.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum, did_you_mean

BLOCK = 2880
CARD = 80
#: A header of 50,000 cards; the longest of SDSS has some 700.
MAX_HEADER_BYTES = 4 * 2**20
#: Data that a header may promise before it is taken for nonsense; the largest catalogues have some 10 GB.
MAX_DATA_BYTES = 2**40
#: Data that are read at once; per-exposure SDSS files have some 10 MB.
MAX_READ_BYTES = 2**31
_HEADER_CHUNK = 6 * BLOCK
#: As much of what follows the last HDU is looked at.
_MOST_ADDED = 2**25
_MAX_KEPT_HEADER = 40 * BLOCK

Value = bool | int | float | str

_STRING = re.compile(r"'((?:[^']|'')*)'")
_FORMAT = re.compile(r"(\d*)([LXBIJKAEDCMPQ])(.*)", re.DOTALL)
_ASCII_FORMAT = re.compile(r"([AIFED])(\d+)(?:\.\d+)?")
_DTYPES = {
    "L": "u1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8",
    "C": ">c8", "M": ">c16", "A": "S1", "P": ">i4", "Q": ">i8",
}  # fmt: skip
#: TZERO by which a column of signed integers stands for unsigned ones (FITS 4.0, table 19).
_UNSIGNED = {"I": 2**15, "J": 2**31, "K": 2**63}
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
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else "\ufffd" for char in shown)
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
    """One column of a table.

    Attributes
    ----------
    name, form : str
        TTYPE and TFORM as written.
    code : str
        The letter of the format: L, X, B, I, J, K, E, D, C, M, A; P and Q where rows differ in length.
    offset : int
        Byte of the row at which the column begins.
    kind : dtype
        Of one stored value, or one text; of ASCII text that of the field.
    shape : tuple of int
        Of what a row stores, in numpy's order; empty where that is one number or one text.
    bits : int
        Of an X column, in a row.
    element : Column, optional
        Describes the values, where rows differ in length.
    ascii : bool
        Whether numbers are written as text.
    scale, zero : float
        TSCAL and TZERO.
    null : int or bytes, optional
        TNULL: what is stored where a row has no value.
    """

    name: str
    form: str
    code: str
    offset: int
    kind: np.dtype[Any]
    shape: tuple[int, ...] = ()
    bits: int = 0
    element: Column | None = None
    ascii: bool = False
    scale: float = 1.0
    zero: float = 0.0
    null: int | bytes | None = None

    @property
    def is_number(self) -> bool:
        """One number per row; scaled integers become real numbers when they are read."""
        return self.code in "BIJKED" and not self.shape

    @property
    def is_text(self) -> bool:
        """One text per row."""
        return self.code == "A" and not self.shape

    @property
    def width(self) -> int:
        """Values per row; 0 where rows differ."""
        return 0 if self.element else self.bits or math.prod(self.shape)

    @property
    def plain(self) -> bool:
        """Whether numbers are what is stored."""
        return self.null is None and self.scale == 1 and self.zero == 0


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a header says of the data that follow it; one is itself only, so that it is quickly found where something is kept for it.

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
        By lower-case name, in the order of the table; None where the HDU is no table.
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
    path : str
        Where it lies in the local file system, if it does: other files may lie beside it.

    Raises
    ------
    UnusableSpectrum
        From the methods: ``empty``, ``not_fits``, ``truncated``, ``corrupt_header``, ``header_too_large``, ``missing_column``.
    """

    def __init__(self, stream: BinaryIO, name: str, path: str = "") -> None:
        self.stream, self.path = stream, path
        self.name = printable(os.path.basename(name), 120)
        self.size = stream.seek(0, io.SEEK_END)
        self._known: list[Hdu] = []
        self._through_astropy: Any = None

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
        """Read the HDUs in order, the primary one first; a header is read when its turn comes, and once, data never."""
        number = 0
        while number < len(self._known) or self._read_next():
            yield self._known[number]
            number += 1

    def _read_next(self) -> bool:
        start = 0
        if self._known:
            last = self._known[-1]
            self._require(last, last.layout.data_bytes)
            start = last.start + -(-last.layout.data_bytes // BLOCK) * BLOCK
            if start >= self.size:  # some leave out the padding of the last block
                return False
        header = self._read_header(start)
        if header is not None:
            self._known.append(Hdu(len(self._known), header, self._layout(header, len(self._known)), start + len(header.raw)))
        return header is not None

    def contents(self, limit: int = 5) -> str:
        """Describe the first HDUs for a message."""
        hdus = list(self.hdus())
        return "; ".join(map(_described, hdus[:limit])) + ("; …" if len(hdus) > limit else "")

    def _layout(self, header: Header, number: int) -> Layout:
        try:
            # No two files share a primary header; long ones are not kept, so that no file can fill the memory with its own.
            return _kept_layout(header) if number and len(header.raw) <= _MAX_KEPT_HEADER else _parsed_layout(header)
        except UnusableSpectrum as fault:
            raise self._named(fault, number) from None

    def _named(self, fault: UnusableSpectrum, number: int) -> UnusableSpectrum:
        return UnusableSpectrum(fault.reason, f"{self.name}, HDU {number}: {fault.detail}")

    def _read_header(self, start: int) -> Header | None:
        self.stream.seek(start)
        raw = self.stream.read(_HEADER_CHUNK)
        if start == 0:
            self._check_magic(raw[:9])
        elif not b"XTENSION".startswith(raw[:8]):
            if self._more_headers(start):
                raise _corrupt(f"{self.name}: a header is due at byte {start}, found {printable(raw[:8].decode('ascii', 'replace'))!r}")
            return None  # what some transfers and writers add after the last HDU
        searched = 0
        while (end := _end_card(raw, searched, self.name)) < 0:
            searched = len(raw) // BLOCK * BLOCK
            more = self.stream.read(_HEADER_CHUNK) if len(raw) <= MAX_HEADER_BYTES else b""
            if not more:
                raise self._endless_header(start, raw)
            raw += more
        whole = (end // BLOCK + 1) * BLOCK
        return Header(raw[:end].ljust(whole))  # what stands behind END, which some editors leave there, is none of the header

    def _more_headers(self, start: int) -> bool:
        """Whether a header begins at a later block: then what lies before it is no mere addition, but lengths are wrong."""
        for at in range(start + BLOCK, min(self.size, start + _MOST_ADDED), BLOCK):
            self.stream.seek(at)
            if self.stream.read(8) == b"XTENSION":
                return True
        return False

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

    def _read_data(self, hdu: Hdu, n_bytes: int, start: int = 0) -> bytes:
        """Read some of the data of an HDU, `start` bytes after their beginning."""
        self._require(hdu, start + n_bytes)
        if n_bytes > MAX_READ_BYTES:
            raise _corrupt(f"{self.name}: HDU {hdu.number} has {n_bytes} bytes of data, more than any spectrum file has")
        self.stream.seek(hdu.start + start)
        data = self.stream.read(n_bytes)
        while len(data) < n_bytes:  # an unbuffered stream may give less than asked for
            more = self.stream.read(n_bytes - len(data))
            if not more:
                raise UnusableSpectrum("truncated", f"{self.name} gave {len(data)} of {n_bytes} bytes at byte {hdu.start + start}.")
            data += more
        return data

    def image_shape(self, hdu: Hdu) -> tuple[int, ...]:
        """Give the shape of an image, in numpy's order, also where it is kept compressed in a table (FITS 4.0, §10)."""
        if not _is_compressed(hdu):
            return hdu.layout.shape
        return tuple(_integer(hdu.header, f"ZNAXIS{n}", 0, 2**62) for n in range(_integer(hdu.header, "ZNAXIS", 0, 999), 0, -1))

    def whole_rows(self, hdu: Hdu) -> int:
        """Count the rows of an image, along its first axis, that lie in the file before it ends."""
        rows = self.image_shape(hdu)[0]
        inside = max(self.size - hdu.start, 0)
        if _is_compressed(hdu) or not hdu.layout.data_bytes:
            return rows if inside >= hdu.layout.data_bytes else 0
        return min(rows, inside * rows // hdu.layout.data_bytes)

    def image(self, hdu: Hdu, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read the image of an HDU, or some of it along its first axis, as native numbers.

        Returns
        -------
        ndarray, shape as of :meth:`image_shape`
            float32 or float64; integer images come scaled by BSCALE and BZERO.

        Raises
        ------
        UnusableSpectrum
            ``truncated``, ``corrupt_header``; ``corrupt_image`` where a compressed one cannot be decompressed.
        """
        if _is_compressed(hdu):
            return self._decompressed(hdu, start, stop)
        bitpix, scale, zero = hdu.layout.bitpix, hdu.header.get("BSCALE"), hdu.header.get("BZERO")
        kind = f">f{-bitpix // 8}" if bitpix < 0 else ">u1" if bitpix == 8 else f">i{bitpix // 8}"
        shape = hdu.layout.shape
        if stop is None:
            data = self._read_data(hdu, hdu.layout.data_bytes)
        else:
            row = math.prod(shape[1:]) * abs(bitpix) // 8
            data, shape = self._read_data(hdu, (stop - start) * row, start * row), (stop - start, *shape[1:])
        stored = _native(np.frombuffer(data, kind).reshape(shape))
        if bitpix < 0 and scale is None and zero is None:
            return stored
        with np.errstate(all="ignore"):
            values = stored * _number(scale, 1.0, "BSCALE") + _number(zero, 0.0, "BZERO")
        return np.where(stored == _number(hdu.header.get("BLANK"), np.nan, "BLANK"), np.nan, values) if bitpix > 0 else values

    def _decompressed(self, hdu: Hdu, start: int, stop: int | None) -> NDArray[Any]:
        """Rows of an image that is kept compressed: only the tiles asked for are read."""
        from astropy.io import fits  # seconds to load, and few files are compressed so

        self._require(hdu, hdu.layout.data_bytes)
        stop = self.image_shape(hdu)[0] if stop is None else stop
        try:
            if self._through_astropy is None:
                self.stream.seek(0)
                self._through_astropy = fits.open(self.stream, memmap=False, lazy_load_hdus=True)
            section: Any = self._through_astropy[hdu.number].section
            rows = np.asarray(section[start:stop])
        except Exception as error:  # decoders in C, and astropy, raise whatever they like at damaged data
            what = f"{type(error).__name__}: {printable(str(error), 120)}"
            raise UnusableSpectrum("corrupt_image", f"{self.name}: HDU {hdu.number} cannot be decompressed ({what}).") from None
        return _native(rows)

    def columns(self, hdu: Hdu, names: Iterable[str], rows: int | None = None, start: int = 0) -> dict[str, NDArray[Any]]:
        """Read columns of a table.

        Parameters
        ----------
        hdu : Hdu
            Of a table, binary or of ASCII text.
        names : iterable of str
            In any case.
        rows : int, optional
            Read this many rows at most; default all.
        start : int
            The first row that is read.

        Returns
        -------
        dict of str to ndarray, shape (rows, ...)
            By the names asked for, in the machine's byte order; text is bytes of fixed width. Scaled numbers come as what they stand for
            (FITS 4.0, §7.3.2): unsigned integers, or float64. A column that declares a null (TNULL), or is of ASCII text, comes as a masked
            array where a row has none; one of variable length as an array of arrays.

        Raises
        ------
        UnusableSpectrum
            ``missing_column``, ``truncated`` or ``corrupt_header``.
        """
        n_rows, row_bytes = hdu.layout.shape
        n_rows = max(n_rows - start, 0) if rows is None else max(min(n_rows - start, rows), 0)
        data = self._read_data(hdu, n_rows * row_bytes, start * row_bytes)
        try:
            wanted, row = _stored(hdu.layout, tuple(names))
            stored = np.ndarray((n_rows,), row, data)
            values = {name: _meaning(column, stored[name]) for name, column in wanted.items()}
        except UnusableSpectrum as fault:
            raise self._named(fault, hdu.number) from None
        return {
            name: self._from_heap(hdu, column.element, values[name]) if column.element else values[name] for name, column in wanted.items()
        }

    def _from_heap(self, hdu: Hdu, element: Column, places: NDArray[Any]) -> NDArray[Any]:
        """Values of rows that differ in length, from their numbers and places, shape (n, 2), in what follows the rows."""
        after_rows = math.prod(hdu.layout.shape)
        start = _integer(hdu.header, "THEAP", after_rows, 2**62, default=after_rows)
        heap = self._read_data(hdu, max(hdu.layout.data_bytes - start, 0), start)
        values = np.empty(len(places), dtype=object)
        for row, (length, place) in enumerate(places.tolist()):
            count = -(-length // 8) if element.code == "X" else length
            if min(count, place) < 0 or place + count * element.kind.itemsize > len(heap):
                raise _corrupt(f"{self.name}: row {row} of column '{element.name}' lies outside the heap of HDU {hdu.number}")
            values[row] = _meaning(replace(element, bits=length), np.frombuffer(heap, element.kind, count, place if count else 0))
        return values


def _is_compressed(hdu: Hdu) -> bool:
    return "compressed_data" in (hdu.layout.columns or {}) and hdu.header.get("ZIMAGE") is True


def _described(hdu: Hdu) -> str:
    title = f"HDU {hdu.number}" + (f" '{hdu.layout.name}'" if hdu.layout.name else "")
    if hdu.layout.columns is not None:
        return f"{title} with columns {shown_list([column.name for column in hdu.layout.columns.values()], 6)}"
    shape = " × ".join(str(length) for length in reversed(hdu.layout.shape[:4]))
    return f"{title} with an image of {shape} pixels" if shape else f"{title} without data"


def shown_list(names: list[str], limit: int = 12) -> str:
    """Write names for a message: the first few and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _corrupt(what: str) -> UnusableSpectrum:
    return UnusableSpectrum("corrupt_header", what + ".")


def _end_card(raw: bytes, searched: int, name: str) -> int:
    """Byte at which the END card begins, or -1 where the block that has it has not come yet."""
    whole = len(raw) // BLOCK * BLOCK
    firsts = raw[searched:whole:CARD]  # first letters of the cards: many times faster than to search the text
    card = firsts.find(b"E")
    while card >= 0 and not _is_end(raw, searched + card * CARD):
        card = firsts.find(b"E", card + 1)
    end = searched + card * CARD if card >= 0 else -1
    if any(raw.startswith(b"XTENSION", start) for start in range(max(searched, BLOCK), end if card >= 0 else whole, BLOCK)):
        raise _corrupt(f"{name}: a header has no END card before the next one begins")
    return end


def _is_end(raw: bytes, at: int) -> bool:
    return raw[at : at + 3] == b"END" and raw[at + 3] in b" \0"


def _number(value: Value | None, default: float, keyword: str) -> float:
    if value is None:
        return default
    if isinstance(value, (bool, str)):
        raise _corrupt(f"{keyword} is {printable(str(value), 40)!r}; expected a number")
    return float(value)


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
    """Length of the data (FITS 4.0, equations 1 and 2); a length that no file has is refused."""
    data_bytes = abs(bitpix) // 8 * groups * (extra + (math.prod(shape) if shape else 0))
    if data_bytes > MAX_DATA_BYTES:
        raise _corrupt(f"a header promises {data_bytes} bytes of data (axes {shape[::-1]}), more than any file has")
    return data_bytes


def _parsed_layout(header: Header) -> Layout:
    bitpix, shape = _shape(header)
    if header.raw.startswith(b"SIMPLE"):
        return Layout("", shape, bitpix, _data_bytes(bitpix, shape))
    name = printable(str(header.get("EXTNAME", "")).strip().upper(), 40)
    extra = _integer(header, "PCOUNT", 0, 2**62, default=0)
    data_bytes = _data_bytes(bitpix, shape, extra, _integer(header, "GCOUNT", 0, 2**31, default=1))
    kind = str(header.get("XTENSION")).strip()
    if kind not in ("BINTABLE", "A3DTABLE", "TABLE"):
        return Layout(name, shape, bitpix, data_bytes)
    if len(shape) != 2 or bitpix != 8:
        raise _corrupt(f"a table has NAXIS = {len(shape)} and BITPIX = {bitpix}; expected 2 and 8")
    if shape[1] >= MAX_READ_BYTES:
        raise _corrupt(f"a table has rows of {shape[1]} bytes, more than any file has")
    if shape[0] > 0 and shape[1] == 0:
        raise _corrupt(f"a table has {shape[0]} rows of no bytes")
    return Layout(name, shape, bitpix, data_bytes, _columns(header, shape[1], ascii=kind == "TABLE"))


_kept_layout = lru_cache(maxsize=512)(_parsed_layout)


def _columns(header: Header, row_bytes: int, *, ascii: bool) -> dict[str, Column]:
    """The columns of a table by lower-case name; of two with the same name the first."""
    cards = header.cards()

    def value(keyword: str) -> Value | None:
        at = cards.get(keyword)
        return None if at is None else header._value(at)

    def text(keyword: str) -> str:
        return printable(str(value(keyword) or "").strip(), 80)

    columns: dict[str, Column] = {}
    used = 0
    for n in range(1, _integer(header, "TFIELDS", 0, 999) + 1):
        name, form, null = text(f"TTYPE{n}"), text(f"TFORM{n}"), value(f"TNULL{n}")
        if ascii:
            start = _integer(header, f"TBCOL{n}", 1, row_bytes) - 1
            column = _text_column(name, form, start, null)
            if start + column.kind.itemsize > row_bytes:
                raise _corrupt(f"column '{name}' ends behind the {row_bytes} bytes of a row")
        else:
            column = _binary_column(name, form, used, text(f"TDIM{n}"))
            used += column.kind.itemsize * math.prod(column.shape)
        columns.setdefault(name.lower(), _with_scale(column, *(value(f"{keyword}{n}") for keyword in ("TSCAL", "TZERO", "TNULL"))))
    if not ascii and used != row_bytes:
        raise _corrupt(f"the columns of a table take {used} bytes per row, but NAXIS1 is {row_bytes}")
    return columns


def _with_scale(column: Column, scale: Value | None, zero: Value | None, null: Value | None) -> Column:
    """The column with its TSCAL, TZERO and TNULL, or the same of its elements."""
    if column.element:
        return replace(column, element=_with_scale(column.element, scale, zero, null))
    if column.code not in "BIJKED":
        return column
    scaled = replace(column, scale=_number(scale, 1.0, "TSCAL"), zero=_number(zero, 0.0, "TZERO"))
    return replace(scaled, null=null) if column.code in "BIJK" and type(null) is int and not column.ascii else scaled


def _text_column(name: str, form: str, offset: int, null: Value | None) -> Column:
    """A column of a table of ASCII text (FITS 4.0, table 15)."""
    match = _ASCII_FORMAT.fullmatch(form)
    if match is None or not 0 < int(match[2]) < MAX_READ_BYTES:
        raise _corrupt(f"the format of column '{name}' is '{form}', which is none of a table of text")
    kind, absent = np.dtype(f"S{int(match[2])}"), str("" if null is None else null).strip().encode("ascii", "replace")
    return Column(name, form, "D" if match[1] == "F" else match[1], offset, kind, ascii=True, null=absent)


def _binary_column(name: str, form: str, offset: int, dims: str) -> Column:
    """A column of a binary table (FITS 4.0, table 18). A TDIM that does not fit the format is not heeded, as cfitsio does it."""
    match = _FORMAT.fullmatch(form)
    if match is None:
        raise _corrupt(f"the format of column '{name}' is '{form}', which is none of a FITS table")
    repeat, code, rest = int(match[1] or 1), match[2], match[3]
    if code == "A" and not match[1] and rest.isdigit():  # A7 for 7A
        repeat = int(rest)
    if repeat >= MAX_READ_BYTES or (code in "PQ" and (repeat > 1 or rest[:1] not in _DTYPES)):
        raise _corrupt(f"the format of column '{name}' is '{form}', which no row can have")
    column = Column(name, form, code, offset, np.dtype(_DTYPES[code]))
    if code in "PQ":
        element = Column(name, form, rest[0], 0, np.dtype(_DTYPES[rest[0]])) if repeat else None
        return replace(column, shape=(2 * repeat,), element=element)
    if code == "X":
        return replace(column, shape=(-(-repeat // 8),), bits=repeat)
    axes = tuple(map(int, re.findall(r"\d+", dims)))
    axes = axes if axes and math.prod(axes) == repeat > 0 else (repeat,)
    shape = axes[:0:-1] if code == "A" else axes[::-1]
    kind = np.dtype(f"S{axes[0]}") if code == "A" else column.kind
    return replace(column, kind=kind, shape=() if math.prod(shape) == 1 else shape)


@lru_cache(maxsize=512)
def _stored(layout: Layout, names: tuple[str, ...]) -> tuple[dict[str, Column], np.dtype[Any]]:
    """Columns of a table by the names asked for, and the type of what a row has of them."""
    known = layout.columns or {}
    for name in names:
        if name.lower() not in known:
            present = [column.name for column in known.values()]
            has = f"it has {shown_list(present)}.{did_you_mean(name, present)}"
            raise UnusableSpectrum("missing_column", f"There is no column '{name}'; {has}")
    columns = {name: known[name.lower()] for name in names}
    formats = [(column.kind, column.shape) if column.shape else column.kind for column in columns.values()]
    offsets = [column.offset for column in columns.values()]
    return columns, np.dtype({"names": list(columns), "formats": formats, "offsets": offsets, "itemsize": layout.shape[1]})


def _meaning(column: Column, stored: NDArray[Any]) -> NDArray[Any]:
    """What stored values stand for; a copy in the machine's byte order."""
    if column.ascii and column.code != "A":
        return _from_text(column, stored)
    if column.code == "A":
        return stored.copy()
    if column.code == "L":
        return stored == ord("T")
    if column.code == "X":
        return np.unpackbits(stored, axis=-1, count=column.bits).astype(bool)
    values = _native(stored)
    return values if column.plain else _scaled(column, values, column.null is not None and values == column.null)


def _from_text(column: Column, stored: NDArray[Any]) -> NDArray[Any]:
    text = np.char.strip(stored)
    missing = (text == b"") | (text == column.null)
    upper: Any = np.char.upper(text)
    digits = np.where(missing, b"0", np.char.replace(upper, b"D", b"E"))
    try:
        return _scaled(column, digits.astype(np.int64 if column.code == "I" else np.float64), missing)
    except (ValueError, OverflowError) as error:
        raise _corrupt(f"column '{column.name}' of format '{column.form}' holds no numbers: {printable(str(error), 120)}") from None


def _scaled(column: Column, values: NDArray[Any], missing: Any) -> NDArray[Any]:
    """TZERO + TSCAL × what is stored, masked where there is no value."""
    if not column.ascii and column.scale == 1 and column.zero == _UNSIGNED.get(column.code):
        values = values.view(f"u{values.itemsize}")
        values = values ^ values.dtype.type(_UNSIGNED[column.code])
    elif column.scale != 1 or column.zero != 0:
        with np.errstate(all="ignore"):
            values = values.astype(np.float64) * column.scale + column.zero
    return np.ma.MaskedArray(values, missing) if np.any(missing) else values


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="))

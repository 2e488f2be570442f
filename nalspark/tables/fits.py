"""A Parquet table as one FITS binary table, streamed: what astronomers open in TOPCAT, astropy or IDL.

Column metadata follows the widely read conventions: ``TUNITn`` (FITS standard), ``TUCDn`` and ``TCOMMn`` for the UCD and the description
(as STIL and TOPCAT write them). The file depends on the rows and the declaration only: no clock, no host, no versions in the header.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits

from nalspark.errors import StoreError
from nalspark.tables.data_model import bit_meanings
from nalspark.tables.table import Column, Table

#: FITS pads every header and data unit to blocks of this many bytes.
_BLOCK = 2880
#: Rows held in memory at a time.
_BATCH_ROWS = 32_768
#: Parquet kind → TFORM code and numpy type on disk (big-endian); a string's width comes from the data.
_FORMS = {"int": ("J", ">i4"), "long": ("K", ">i8"), "float": ("E", ">f4"), "double": ("D", ">f8"), "bool": ("L", "S1")}
#: FITS headers are ASCII; these are the other characters that descriptions use.
_ASCII = str.maketrans(
    {"Å": "Angstrom", "α": "alpha", "λ": "lambda", "σ": "sigma", "χ": "chi", "Δ": "Delta", "±": "+/-", "–": "-", "—": "-", "→": "->",
     "×": "x", "≥": ">=", "≤": "<=", "’": "'", "²": "^2", "³": "^3", "`": ""}
)  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """What only the data can tell: the number of rows, the widths of the strings, and which integer columns have nulls."""

    rows: int
    widths: Mapping[str, int]
    with_nulls: frozenset[str]


def write_fits(parquet_dir: Path, table: Table, path: Path, enums: Mapping[str, type[IntFlag]] | None = None) -> int:
    """Write a Parquet table as a FITS binary table, in memory that does not grow with the number of rows.

    The rows come in the order of the files' names and, within a file, as stored. Null becomes NaN in floating columns, the empty string in
    text, and in integers the smallest value of the type, declared as ``TNULLn``. Characters outside ASCII become backslash escapes.
    The file appears under its name only when it is complete.

    Parameters
    ----------
    parquet_dir : Path
        One file, or a folder with files at any depth; names that begin with ``_`` or ``.`` are not read.
    table : Table
        Its declaration: names, types, units, UCDs, descriptions.
    path : Path
        The FITS file; replaced where it exists.
    enums : mapping, optional
        Column name → the IntFlag of its bits. The cards ``FLAG<n>`` and ``FLAGC<n>`` give name and meaning of bit n of ``flags``.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    StoreError
        Where a column is a list or pixels, a unit is unknown, there is no Parquet file, or a file lacks a column.
    """
    _check_columns(table)
    files = _parquet_files(parquet_dir, table)
    layout = _survey(files, table)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as stream:
            _write(stream, files, table, layout, enums or {})
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return layout.rows


def _check_columns(table: Table) -> None:
    for column in table.columns:
        if column.kind.startswith("list<") or column.pixel_dtype:
            raise StoreError(
                f"Column '{column.name}' of table '{table.name}' is of kind {column.kind}: a FITS table here holds one value per cell. "
                "Publish this table as Parquet, or leave the column out."
            )


def _parquet_files(folder: Path, table: Table) -> list[Path]:
    if folder.is_file():
        files = [folder]
    else:
        found = sorted(file for file in folder.rglob("*.parquet") if file.is_file())
        files = [file for file in found if not any(piece.startswith(("_", ".")) for piece in file.relative_to(folder).parts)]
    if not files:
        raise StoreError(f"There is no Parquet file of table '{table.name}' in '{folder}'. Was the stage that writes it run?")
    for file in files:
        missing = [name for name in table.names if name not in pq.read_schema(file).names]
        if missing:
            raise StoreError(f"'{file}' lacks the column '{missing[0]}' of table '{table.name}'. Was it written by another version?")
    return files


def _batches(files: Sequence[Path], columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """All rows, in batches with the declared types."""
    names = [column.name for column in columns]
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=names):
                arrays = [batch.column(batch.schema.get_field_index(column.name)).cast(column.arrow_type) for column in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=names)


# ---- first pass


def _survey(files: Sequence[Path], table: Table) -> _Layout:
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    texts = [column for column in table.columns if column.kind == "string"]
    integers = [column for column in table.columns if column.kind in ("int", "long")]
    widths = dict.fromkeys((column.name for column in texts), 1)
    nulls, taken = set(), set()
    for batch in _batches(files, texts + integers):
        for column, array in zip(texts + integers, batch.columns, strict=True):
            if column.kind == "string":
                widths[column.name] = max(widths[column.name], _encoded(array).dtype.itemsize)
                continue
            nulls |= {column.name} if array.null_count else set()
            taken |= {column.name} if pc.any(pc.equal(array, _null_value(column))).as_py() else set()
    if nulls & taken:
        name = min(nulls & taken)
        raise StoreError(
            f"Column '{name}' of table '{table.name}' has nulls and also the value that stands for null in FITS, the smallest of its type."
        )
    return _Layout(rows, widths, frozenset(nulls))


def _null_value(column: Column) -> int:
    return int(np.iinfo(column.arrow_type.to_pandas_dtype()).min)


def _encoded(array: pa.Array) -> np.ndarray:
    """Text as fixed-width bytes, at least one."""
    cells = [(cell or "").encode("ascii", "backslashreplace") for cell in array.to_pylist()]
    return np.array(cells, dtype=f"S{max((len(cell) for cell in cells), default=1) or 1}")


# ---- header


def _header(table: Table, layout: _Layout, enums: Mapping[str, type[IntFlag]]) -> fits.Header:
    dtype = _row_dtype(table, layout)
    cards: list[tuple[str, object, str]] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "bytes"),
        ("NAXIS", 2, "rows of bytes"),
        ("NAXIS1", dtype.itemsize, "bytes in a row"),
        ("NAXIS2", layout.rows, "rows"),
        ("PCOUNT", 0, "no variable-length arrays"),
        ("GCOUNT", 1, ""),
        ("TFIELDS", len(table.columns), "columns"),
        ("EXTNAME", table.name, "name of the table"),
        ("TABDESC", _ascii(table.description), ""),
    ]
    for number, column in enumerate(table.columns, start=1):
        cards += _column_cards(number, column, layout)
    for name, enum in enums.items():
        if name in table.names:
            cards += _bit_cards(name, enum)
    return fits.Header(cards)


def _column_cards(number: int, column: Column, layout: _Layout) -> Iterator[tuple[str, object, str]]:
    form = f"{layout.widths[column.name]}A" if column.kind == "string" else _FORMS[column.kind][0]
    yield f"TTYPE{number}", column.name, ""
    yield f"TFORM{number}", form, ""
    if column.unit:
        yield f"TUNIT{number}", _fits_unit(column), ""
    if column.name in layout.with_nulls:
        yield f"TNULL{number}", _null_value(column), "stands for null"
    if column.ucd:
        yield f"TUCD{number}", column.ucd, ""
    if column.description:
        yield f"TCOMM{number}", _ascii(column.description), ""


def _bit_cards(column: str, enum: type[IntFlag]) -> Iterator[tuple[str, object, str]]:
    # Room is left in the eight characters of a keyword for the C and a bit number of two digits.
    stem = column.upper().replace("_", "").removesuffix("S")[:5]
    for name, meaning in bit_meanings(enum).items():
        value = int(enum[name])
        bit = value.bit_length() - 1
        yield f"{stem}{bit}", name, f"{column}: bit {bit}, value {value}"
        if meaning:
            yield f"{stem}C{bit}", _ascii(meaning), ""


def _fits_unit(column: Column) -> str:
    try:
        with warnings.catch_warnings():
            # ``erg/s/cm^2/Angstrom`` is understood; astropy only advises against several slashes.
            warnings.simplefilter("ignore", u.UnitsWarning)
            return str(u.Unit(column.unit).to_string("fits"))
    except ValueError as error:
        raise StoreError(f"Column '{column.name}': '{column.unit}' is not a unit that FITS can express ({error}).") from None


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text.translate(_ASCII)).encode("ascii", "replace").decode("ascii")


# ---- rows


def _row_dtype(table: Table, layout: _Layout) -> np.dtype:
    forms = {column.name: f"S{layout.widths[column.name]}" for column in table.columns if column.kind == "string"}
    return np.dtype([(column.name, forms.get(column.name) or _FORMS[column.kind][1]) for column in table.columns])


def _values(array: pa.Array, column: Column) -> np.ndarray:
    """One column of a batch as FITS stores it."""
    if column.kind == "string":
        return _encoded(array)
    if column.kind == "bool":
        codes = array.cast(pa.uint8()).fill_null(2).to_numpy(zero_copy_only=False)
        return np.array([b"F", b"T", b"\0"])[codes]
    if column.kind in ("int", "long"):
        return array.fill_null(_null_value(column)).to_numpy(zero_copy_only=False)
    return array.to_numpy(zero_copy_only=False)


@dataclass
class _Summing:
    """Bytes on their way to a file, with their FITS checksum; sums are over whole 32-bit words, so up to three bytes wait for the next."""

    stream: BinaryIO
    length: int = 0
    total: int = 0
    _waiting: bytes = field(default=b"", repr=False)

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self.length += len(data)
        data = self._waiting + data
        whole = len(data) // 4 * 4
        self._waiting = data[whole:]
        self.total = _sum32(data[:whole], self.total)

    def pad(self) -> None:
        self.write(b"\0" * (-self.length % _BLOCK))


def _sum32(data: bytes, start: int = 0) -> int:
    """Ones'-complement sum of big-endian 32-bit words (FITS standard 4.0, appendix J)."""
    total = start + int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _checksum_text(total: int) -> str:
    """The 16 characters of CHECKSUM that bring a unit's sum to −0 (FITS standard 4.0, appendix J.2)."""
    complement = 0xFFFFFFFF & ~total
    letters = np.zeros((4, 4), dtype=int)
    for byte in range(4):
        value = complement >> (24 - 8 * byte) & 0xFF
        four = np.full(4, value // 4 + ord("0"))
        four[0] += value % 4
        # Only digits and letters are allowed: pairs step aside, one up and one down, so that their sum stays.
        while any(not chr(letter).isalnum() for letter in four):
            for pair in (four[:2], four[2:]):
                if any(not chr(letter).isalnum() for letter in pair):
                    pair += (1, -1)
        letters[:, byte] = four
    text = "".join(chr(letter) for letter in letters.ravel())
    return text[-1] + text[:-1]


def _sealed(header: fits.Header, data_sum: int) -> bytes:
    """A header as bytes, with DATASUM and CHECKSUM; its length does not depend on the sum."""
    header = header.copy()
    header["DATASUM"] = (str(data_sum).ljust(10), "sum of the data's 32-bit words")
    header["CHECKSUM"] = ("0" * 16, "makes the sum of the whole unit -0")
    total = _sum32(header.tostring().encode("ascii"), data_sum)
    header["CHECKSUM"] = _checksum_text(total)
    return header.tostring().encode("ascii")


def _write(stream: BinaryIO, files: Sequence[Path], table: Table, layout: _Layout, enums: Mapping[str, type[IntFlag]]) -> None:
    stream.write(_sealed(fits.PrimaryHDU().header, 0))
    start, header = stream.tell(), _header(table, layout, enums)
    stream.write(_sealed(header, 0))
    dtype, out, written = _row_dtype(table, layout), _Summing(stream), 0
    for batch in _batches(files, table.columns):
        rows = np.zeros(batch.num_rows, dtype=dtype)
        for column, array in zip(table.columns, batch.columns, strict=True):
            rows[column.name] = _values(array, column)
        out.write(rows.tobytes())
        written += batch.num_rows
    if written != layout.rows:
        raise StoreError(
            f"Table '{table.name}': {written} rows were read where its Parquet files declare {layout.rows}. Is another run writing them?"
        )
    out.pad()
    stream.seek(start)
    stream.write(_sealed(header, out.total))

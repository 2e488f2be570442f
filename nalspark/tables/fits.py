"""A Parquet table as one FITS binary table, streamed: what astronomers open in TOPCAT, astropy or IDL.

Column metadata follows the widely read conventions: ``TUNITn`` (FITS standard), ``TUCDn`` and ``TCOMMn`` for the UCD and the description
(as STIL and TOPCAT write them). The file depends on the rows and the declaration only: no clock, no host, no versions in the header.

astropy writes it. The rows go through a temporary file of this machine, from which the sums are made: the catalogue itself is written from
its first byte to its last, as the mounted folders of a cloud want it.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits

from nalspark.errors import StoreError
from nalspark.tables.arrow import read_batches
from nalspark.tables.data_model import bit_meanings
from nalspark.tables.quantities import unit_of
from nalspark.tables.table import Column, Table

#: Parquet kind → TFORM code; a string's width comes from the data.
_FORMS = {"int": "J", "long": "K", "float": "E", "double": "D", "bool": "L"}
#: Comment of the cards CHECKSUM and DATASUM, in which astropy would note the time.
_SUMS = "FITS checksum convention"
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


def write_fits(
    files: Sequence[Path],
    table: Table,
    path: Path,
    enums: Mapping[str, type[IntFlag]] | None = None,
    *,
    cards: Mapping[str, bool | int | float | str] | None = None,
) -> int:
    """Write Parquet files as a FITS binary table, in memory that does not grow with the number of rows.

    Null becomes NaN in floating columns, the empty string in text, a zero byte in logical columns, and in integers the smallest value of
    the type, declared as ``TNULLn``. Characters outside ASCII become backslash escapes.

    Parameters
    ----------
    files : sequence of Path
        Their rows come in this order.
    table : Table
        Its declaration: names, types, units, UCDs, descriptions. No lists, no pixels: a cell holds one value.
    path : Path
        The FITS file; replaced where it exists.
    enums : mapping, optional
        Column name → the IntFlag of its bits. The cards ``FLAG<n>`` and ``FLAGC<n>`` give name and meaning of bit n of ``flags``.
    cards : mapping, optional
        Further cards of the table's header: keyword of at most eight characters → value.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    StoreError
        Where a column of integers has nulls, and the value that stands for them.
    """
    layout = _survey(files, table)
    with tempfile.TemporaryDirectory(prefix="nalspark-fits-") as scratch:
        draft = Path(scratch) / "draft.fits"
        hdu = _empty_hdu(table, layout, enums or {})
        hdu.header.update({name: _ascii(value) if isinstance(value, str) else value for name, value in (cards or {}).items()})
        _write_rows(draft, files, table, hdu)
        with fits.open(draft, memmap=True) as hdus:
            for hdu in hdus:
                hdu.add_datasum(_SUMS)
                hdu.add_checksum(_SUMS, override_datasum=True)
            hdus.writeto(path, overwrite=True)
    return layout.rows


# ---- first pass


def _survey(files: Sequence[Path], table: Table) -> _Layout:
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    texts = [column for column in table.columns if column.kind == "string"]
    integers = [column for column in table.columns if column.kind in ("int", "long")]
    widths = dict.fromkeys((column.name for column in texts), 1)
    nulls, taken = set(), set()
    for batch in read_batches(files, texts + integers):
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


def _empty_hdu(table: Table, layout: _Layout, enums: Mapping[str, type[IntFlag]]) -> fits.BinTableHDU:
    """The table with its complete header, and no rows."""
    hdu = fits.BinTableHDU.from_columns([_fits_column(column, layout) for column in table.columns], name=table.name)
    header = hdu.header
    header["NAXIS2"] = layout.rows
    header.set("EXTNAME", table.name, "name of the table", after="TFIELDS")
    header.set("TABDESC", _ascii(table.description), after="EXTNAME")
    for number, column in enumerate(table.columns, start=1):
        last = next(card for card in (f"TNULL{number}", f"TUNIT{number}", f"TFORM{number}") if card in header)
        if column.description:
            header.set(f"TCOMM{number}", _ascii(column.description), after=last)
        if column.ucd:
            header.set(f"TUCD{number}", column.ucd, after=last)
    for name, enum in enums.items():
        if name in table.names:
            header.extend(_bit_cards(name, enum))
    return hdu


def _fits_column(column: Column, layout: _Layout) -> fits.Column:
    form = f"{layout.widths[column.name]}A" if column.kind == "string" else _FORMS[column.kind]
    null = _null_value(column) if column.name in layout.with_nulls else None
    return fits.Column(column.name, form, unit=str(unit_of(column).to_string("fits")) if column.unit else None, null=null)


def _bit_cards(column: str, enum: type[IntFlag]) -> Iterator[tuple[str, object, str]]:
    # Room is left in the eight characters of a keyword for the C and a bit number of two digits.
    stem = column.upper().replace("_", "").removesuffix("S")[:5]
    for name, meaning in bit_meanings(enum).items():
        value = int(enum[name])
        bit = value.bit_length() - 1
        yield f"{stem}{bit}", name, f"{column}: bit {bit}, value {value}"
        if meaning:
            yield f"{stem}C{bit}", _ascii(meaning), ""


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text.translate(_ASCII)).encode("ascii", "replace").decode("ascii")


# ---- rows


def _values(array: pa.Array, column: Column) -> np.ndarray:
    """One column of a batch as FITS stores it."""
    if column.kind == "string":
        return _encoded(array)
    if column.kind == "bool":
        codes = array.cast(pa.uint8()).fill_null(2).to_numpy(zero_copy_only=False)
        return np.frombuffer(b"FT\0", np.int8)[codes]
    if column.kind in ("int", "long"):
        return array.fill_null(_null_value(column)).to_numpy(zero_copy_only=False)
    return array.to_numpy(zero_copy_only=False)


def _write_rows(path: Path, files: Sequence[Path], table: Table, hdu: fits.BinTableHDU) -> None:
    """Write the table behind an empty primary unit, a batch of rows at a time."""
    dtype = hdu.columns.dtype.newbyteorder(">")
    with fits.StreamingHDU(path, hdu.header) as stream:
        for batch in read_batches(files, table.columns):
            rows = np.zeros(batch.num_rows, dtype=dtype)
            for column, array in zip(table.columns, batch.columns, strict=True):
                rows[column.name] = _values(array, column)
            if len(rows):
                stream.write(rows.view(np.uint8))

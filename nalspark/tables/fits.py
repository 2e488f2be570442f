"""A Parquet table as one FITS binary table, streamed: what astronomers open in TOPCAT, astropy or IDL.

Column metadata follows the widely read conventions: ``TUNITn`` (FITS standard), ``TUCDn`` and ``TCOMMn`` for the UCD and the description
(as STIL and TOPCAT write them). The file depends on the rows and the declaration only: no clock, no host, no versions in the header.

astropy writes it. The rows go through a temporary file of this machine, from which the sums are made: the catalogue itself is written from
its first byte to its last, as the mounted folders of a cloud want it.
"""

from __future__ import annotations

import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits

from nalspark.errors import StoreError
from nalspark.tables.arrow import read_batches
from nalspark.tables.atomic import replacing
from nalspark.tables.data_model import bit_meanings
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


def write_fits(parquet_dir: Path, table: Table, path: Path, enums: Mapping[str, type[IntFlag]] | None = None) -> int:
    """Write a Parquet table as a FITS binary table, in memory that does not grow with the number of rows.

    The rows come in the order of the files' names and, within a file, as stored. Null becomes NaN in floating columns, the empty string in
    text, a zero byte in logical columns, and in integers the smallest value of the type, declared as ``TNULLn``. Characters outside ASCII
    become backslash escapes.
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
    with replacing(path) as new, tempfile.TemporaryDirectory(prefix="nalspark-fits-") as scratch:
        draft = Path(scratch) / "draft.fits"
        _write_rows(draft, files, table, _empty_hdu(table, layout, enums or {}))
        with fits.open(draft, memmap=True) as hdus:
            for hdu in hdus:
                hdu.add_datasum(_SUMS)
                hdu.add_checksum(_SUMS, override_datasum=True)
            hdus.writeto(new)
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
    return fits.Column(column.name, form, unit=_fits_unit(column) if column.unit else None, null=null)


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
    dtype, due = hdu.columns.dtype.newbyteorder(">"), hdu.header["NAXIS2"]
    written = 0
    with fits.StreamingHDU(path, hdu.header) as stream:
        for batch in read_batches(files, table.columns):
            rows = np.zeros(batch.num_rows, dtype=dtype)
            for column, array in zip(table.columns, batch.columns, strict=True):
                rows[column.name] = _values(array, column)
            written += batch.num_rows
            if len(rows) and written <= due:
                stream.write(rows.view(np.uint8))
    if written != due:
        raise StoreError(
            f"Table '{table.name}': {written} rows were read where its Parquet files declare {due}. Is another run writing them?"
        )

"""The files of catalogues: FITS, VOTable, text, Parquet and npz, each read once from its beginning to its end.

What a column means is not known here. A format is one function in :data:`_FORMATS`: it looks at a file and gives a :class:`CatalogFile`.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from astropy.io import votable
from astropy.utils.xml.iterparser import get_xml_iterator

from nalspark.errors import CatalogError, UnusableSpectrum
from nalspark.surveys import catalog_text
from nalspark.surveys.fits_table import Column, FitsFile, Hdu

#: Some rows of some columns: text as strings, or numbers.
RawColumns = dict[str, pa.Array]

#: Rows that are in memory at a time.
ROWS_AT_ONCE = 65_536
#: Bytes of FITS rows that are in memory at a time.
_BYTES_AT_ONCE = 64 << 20
#: How packed files begin → what they are, and what opens them.
_PACKED: dict[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
#: What reading a damaged one of them raises, and what the libraries raise where a file, or its header, is damaged.
_UNPACKING = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
_DAMAGED = (*_UNPACKING, UnusableSpectrum, zipfile.BadZipFile, csv.Error, ExpatError, pa.ArrowException, OSError, LookupError, ValueError)
_SHOWN_COLUMNS = 30


@dataclass(frozen=True)
class CatalogFile:
    """A file as its own headers describe it.

    Attributes
    ----------
    widths : mapping
        Name of every column → values per row; 0 where that is not a number of them.
    n_rows : int
    read : callable
        ``names of columns -> iterator of RawColumns``: all rows in their order, a bounded number at a time. Raises `CatalogError`.
    place : callable
        ``row, counted from 0 -> where it is``, for messages.
    """

    widths: Mapping[str, int]
    n_rows: int
    read: Callable[[Sequence[str]], Iterator[RawColumns]]
    place: Callable[[int], str] = "row {} (counted from 0)".format


def open_file(path: Path, known: frozenset[str]) -> CatalogFile:
    """Look at a file whose format its content tells: extensions lie.

    Parameters
    ----------
    path : Path
        Of a file, or of a folder of Parquet files.
    known : frozenset of str
        What columns may be called (:func:`nalspark.surveys.catalog_text.folded`), by which the header of a text is found.

    Raises
    ------
    CatalogError
        Where it is none of the formats, or damaged as far as its headers tell.
    """
    kind, look = _format(path)
    if look is _text_file:
        look = partial(_text_file, known=known)
    with _faults_told(path, kind):
        content = look(path)

    def read(names: Sequence[str]) -> Iterator[RawColumns]:
        with _faults_told(path, kind):
            yield from content.read(names)

    return replace(content, read=read)


def _format(path: Path) -> tuple[str, Callable[..., CatalogFile]]:
    """What a file is by its beginning, and what looks at it."""
    if path.is_dir():
        return _FORMATS[b"PAR1"]
    with _faults_told(path, "readable"), _open_bytes(path) as file:
        head = file.read(4096)
    if not head:
        raise CatalogError(f"Catalogue '{path}' is empty (0 bytes).")
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return "a readable VOTable", _votable_file
    kind, look = next((known for start, known in _FORMATS.items() if head.startswith(start)), ("a readable table of text", _text_file))
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if look is _text_file and not wide and (b"\x00" in head or head.startswith(b"\x89HDF")):
        raise CatalogError(f"Catalogue '{path}' is none of FITS, VOTable, text, Parquet and npz. Convert it to one of these.")
    return kind, look


def files_of(path: Path) -> list[Path]:
    """Give the files of a catalogue in a fixed order: itself, or the Parquet files of a folder but for those that are hidden.

    Raises
    ------
    CatalogError
        Where a folder has none.
    """
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.rglob("*.parquet")) if not any(part[0] in "._" for part in file.relative_to(path).parts)]
    if not files:
        raise CatalogError(f"Catalogue '{path}' is a folder without Parquet files (*.parquet); name a file in it.")
    return files


@contextmanager
def _faults_told(path: Path, kind: str) -> Iterator[None]:
    """Say of a damaged file that it is not what it looks like: a sentence instead of what the libraries raise."""
    try:
        yield
    except _DAMAGED as error:
        packed = _packing(path)
        if packed and isinstance(error, _UNPACKING):
            raise CatalogError(f"Catalogue '{path}' is a damaged {packed[0]} file: {error}. Download it again.") from None
        if isinstance(error, UnusableSpectrum):
            raise CatalogError(f"Catalogue '{path}' is no usable FITS file, {error}") from None
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CatalogError(f"Catalogue '{path}' is not {kind}: {str(why).rstrip('.')}.") from None


def _packing(path: Path) -> tuple[str, Callable[[Path], Any]] | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    return next((packing for start, packing in _PACKED.items() if head.startswith(start)), None)


def _open_bytes(path: Path) -> IO[bytes]:
    """The file's content, decompressed where it is packed."""
    packing = _packing(path)
    return cast(IO[bytes], packing[1](path) if packing else path.open("rb"))


def _as_arrow(values: np.ndarray) -> pa.Array:
    """A column of numpy, of n elements, as strings or as numbers in the machine's byte order; null where it is masked.

    Integers of 64 bits stay what they are: float64 would ruin identifiers. So do real numbers of fewer: who reads one sees what it holds.
    """
    flat, masked = np.ma.getdata(values).ravel(), np.ma.getmaskarray(values).ravel()
    if flat.dtype.kind == "S":
        flat = np.char.decode(flat, "ascii", "replace")
    kept = (flat.dtype.kind in "iu" and flat.dtype.itemsize == 8) or flat.dtype.kind == "f"
    kind = str if flat.dtype.kind in "UO" else flat.dtype.newbyteorder("=") if kept else np.float64
    return pa.array(flat.astype(kind), mask=masked if masked.any() else None)


# --- FITS ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _fits_tables(path: Path) -> Iterator[tuple[FitsFile, list[Hdu]]]:
    """The first table of a FITS file and the tables of as many rows that directly follow it, as qsoabsfind writes them."""
    with _open_bytes(path) as stream:
        file, tables = FitsFile(cast(BinaryIO, stream), path.name), list[Hdu]()
        try:
            for hdu in file.hdus():
                if hdu.layout.columns is not None and (not tables or hdu.layout.shape[0] == tables[0].layout.shape[0]):
                    tables.append(hdu)
                elif tables:
                    break
        except UnusableSpectrum:
            # A fault behind the rows is none of theirs: unpadded ends, and what was added or cut off later.
            if not tables or any(hdu.start + hdu.layout.shape[0] * hdu.layout.shape[1] > file.size for hdu in tables):
                raise
        if not tables:
            raise CatalogError(f"Catalogue '{path}' is a FITS file without a table; a catalogue is a table.")
        yield file, tables


def _fits_columns(tables: list[Hdu]) -> dict[str, tuple[Hdu, Column]]:
    """Name → the first column of it, and its table."""
    columns = dict[str, tuple[Hdu, Column]]()
    for hdu in tables:
        for column in (hdu.layout.columns or {}).values():
            columns.setdefault(column.name, (hdu, column))
    return columns


def _fits_file(path: Path) -> CatalogFile:
    with _fits_tables(path) as (_, tables):
        widths = {name: 0 if column.code in "CM" else column.width for name, (_, column) in _fits_columns(tables).items()}
        n_rows = tables[0].layout.shape[0]
        if n_rows == 1 and 1 not in widths.values():  # a column in each cell, as IDL and TOPCAT write it
            n_rows = max(widths.values(), key=list(widths.values()).count, default=1)
            widths = {name: int(width == n_rows) for name, width in widths.items()}
        return CatalogFile(widths, n_rows, lambda names: _fits_rows(path, names))


def _fits_rows(path: Path, names: Sequence[str]) -> Iterator[RawColumns]:
    with _fits_tables(path) as (file, tables):
        owners = {name: hdu for name, (hdu, _) in _fits_columns(tables).items() if name in names}
        row_bytes = max(hdu.layout.shape[1] for hdu in tables)
        rows = max(1, min(ROWS_AT_ONCE, _BYTES_AT_ONCE // row_bytes))
        for start in range(0, tables[0].layout.shape[0], rows):
            values: dict[str, np.ndarray] = {}
            for hdu in tables:
                values |= file.columns(hdu, [name for name, owner in owners.items() if owner is hdu], rows, start)
            yield {name: _as_arrow(values[name]) for name in names}


# --- npz -----------------------------------------------------------------------------------------------------------------------------


def _npz_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, from the beginning of its file; what follows are its values."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _npz_file(path: Path) -> CatalogFile:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                headers[member.removesuffix(".npy")] = _npz_header(file)
    if pickled := [name for name, (_, dtype) in headers.items() if dtype.hasobject]:
        raise CatalogError(
            f"Catalogue '{path}' holds Python objects in {', '.join(pickled[:_SHOWN_COLUMNS])}. They are never loaded, because that "
            "can run any code: save numbers or fixed-width strings instead."
        )
    lengths = {shape[0] for shape, _ in headers.values() if len(shape) == 1}
    if len(lengths) > 1:
        raise CatalogError(
            f"Catalogue '{path}' has columns of unequal lengths {sorted(lengths)}; a catalogue has one value per row in each."
        )
    widths = {name: 1 if len(shape) == 1 else 0 for name, (shape, _) in headers.items()}
    return CatalogFile(widths, next(iter(lengths), 0), lambda names: _npz_rows(path, names))


def _npz_rows(path: Path, names: Sequence[str]) -> Iterator[RawColumns]:
    """All columns side by side: numpy would read each whole."""
    with zipfile.ZipFile(path) as archive, ExitStack() as opened:
        files = {name: opened.enter_context(archive.open(f"{name}.npy")) for name in names}
        headers = {name: _npz_header(file) for name, file in files.items()}
        for start in range(0, min(shape[0] for shape, _ in headers.values()), ROWS_AT_ONCE):
            rows = {}
            for name, ((n_rows,), dtype) in headers.items():
                content = files[name].read(min(ROWS_AT_ONCE, n_rows - start) * dtype.itemsize)
                rows[name] = _as_arrow(np.frombuffer(content, dtype))
            yield rows


# --- Parquet -------------------------------------------------------------------------------------------------------------------------


def _parquet_file(path: Path) -> CatalogFile:
    """A file, or a folder of them, as Spark and others write it; what its folders are called (``plate=266``) are columns too."""
    dataset = ds.dataset([str(file) for file in files_of(path)], format="parquet", partitioning="hive", partition_base_dir=str(path))
    widths = {field.name: 0 if pa.types.is_nested(field.type) else 1 for field in dataset.schema}
    index = _range_index(next(dataset.get_fragments())).keys() - widths.keys()
    schema = pa.schema([*dataset.schema, *(pa.field(name, pa.int64()) for name in sorted(index))])

    def read(names: Sequence[str]) -> Iterator[RawColumns]:
        for part in dataset.get_fragments():
            ranges, row = _range_index(part), 0
            missing = [name for name in names if name in index and name not in (*ranges, *part.physical_schema.names)]
            if missing:
                raise LookupError(f"'{part.path}' has no column '{missing[0]}', which another file of the folder has")
            for batch in part.to_batches(schema=schema, columns=list(names), batch_size=ROWS_AT_ONCE, use_threads=False):
                rows, row = slice(row, row + len(batch)), row + len(batch)
                yield {name: pa.array(ranges[name][rows], pa.int64()) if name in ranges else batch[name] for name in names}

    return CatalogFile({**widths, **dict.fromkeys(index, 1)}, dataset.count_rows(use_threads=False), read)


def _range_index(part: ds.ParquetFileFragment) -> dict[str, range]:
    """Give the index of a pandas table whose values lie in equal steps: pandas keeps it beside the columns, as three numbers.

    They may be of a larger table, of which this file is a part in any order: then nothing is known of its rows. A column of the same name
    goes first.
    """
    columns = {*part.physical_schema.names, *ds.get_partition_keys(part.partition_expression)}
    try:
        kept = [
            one
            for one in (part.physical_schema.pandas_metadata or {})["index_columns"]
            if isinstance(one, dict) and isinstance(one["name"], str)
        ]
        ranges = {one["name"]: range(*(int(np.int64(one[end])) for end in ("start", "stop", "step"))) for one in kept}
        return {name: numbers for name, numbers in ranges.items() if name not in columns and len(numbers) == part.count_rows()}
    except (LookupError, TypeError, ValueError, OverflowError):  # whoever wrote it is not pandas
        return {}


# --- VOTable -------------------------------------------------------------------------------------------------------------------------


def _votable_file(path: Path) -> CatalogFile:
    """The columns are named before the first data; the data are read by astropy, the columns that are asked for only."""
    fields = list[Mapping[str, str]]()
    with _open_bytes(path) as file, get_xml_iterator(file) as elements:
        for begins, tag, attributes, _ in elements:
            if begins and tag == "FIELD":
                fields.append(attributes)
            elif fields and tag == "DATA":
                break
    if not fields:
        raise CatalogError(f"Catalogue '{path}' is XML without a table, such as the error message of a server. Download it again.")
    scalar = [field.get("datatype") == "char" or field.get("arraysize", "1") == "1" for field in fields]
    names = [field["name"] for field in fields]
    places = {name: place for place, name in reversed(list(enumerate(names)))}
    widths = {name: int(scalar[places[name]]) for name in names}
    return CatalogFile(widths, len(_votable(path, [0])), lambda names: _votable_rows(path, {name: places[name] for name in names}))


def _votable(path: Path, places: Sequence[int]) -> np.ma.MaskedArray:
    """Some columns of the first table; astropy wants them in the order of the file."""
    with warnings.catch_warnings(), _open_bytes(path) as file:
        warnings.simplefilter("ignore")  # few files keep all rules of the format
        return votable.parse(file, columns=sorted(places), verify="ignore").get_first_table().array


def _votable_rows(path: Path, places: Mapping[str, int]) -> Iterator[RawColumns]:
    rows = _votable(path, list(places.values()))
    columns = dict(zip(sorted(places, key=places.__getitem__), rows.dtype.names or (), strict=True))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield {name: _as_arrow(rows[column][start : start + ROWS_AT_ONCE]) for name, column in columns.items()}


# --- text ----------------------------------------------------------------------------------------------------------------------------


def _open_text(path: Path) -> TextIO:
    """The file's text, whatever its line ends; bytes that are not UTF-8 are replaced: they stand in columns that are not read."""
    file = cast(io.BufferedReader, _open_bytes(path))
    wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", errors="replace")


def _text_file(path: Path, known: frozenset[str]) -> CatalogFile:
    with _open_text(path) as file:
        layout = catalog_text.find_layout(file, known)

    def read(names: Sequence[str]) -> Iterator[RawColumns]:
        with _open_text(path) as file:
            yield from catalog_text.rows(file, layout, names)

    def place(row: int) -> str:
        with _open_text(path) as file:
            return f"line {catalog_text.line_of(file, layout, row)}"

    n_rows = sum(len(columns[layout.names[0]]) for columns in read(layout.names[:1]))
    return CatalogFile(dict.fromkeys(layout.names, 1), n_rows, read, place)


#: How a file of a format begins → what it then is, and what looks at it. What begins with none of these, nor with a tag, is taken for text.
_FORMATS: dict[bytes, tuple[str, Callable[[Path], CatalogFile]]] = {
    b"SIMPLE  =": ("a readable FITS file", _fits_file),
    b"PAR1": ("a readable Parquet file", _parquet_file),
    b"PK\x03\x04": ("a readable npz file", _npz_file),
}

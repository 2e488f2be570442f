"""The files of catalogues: FITS, CSV, Parquet and npz, each read once from its beginning to its end.

What a column means is not known here. A format is one function in :data:`_FORMATS`: it looks at a file and gives a :class:`CatalogFile`.
"""

from __future__ import annotations

import csv
import gzip
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from nalspark.errors import CatalogError

#: Some rows of some columns: text as strings, or numbers.
RawColumns = dict[str, pa.Array]

#: Rows that are in memory at a time.
ROWS_AT_ONCE = 65_536
#: What reading a damaged gzip file raises.
_UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error)
#: What the libraries raise where a file, or its header, is damaged.
_DAMAGED = (*_UNPACKING, zipfile.BadZipFile, pa.ArrowException, OSError, ValueError)
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
    """

    widths: Mapping[str, int]
    n_rows: int
    read: Callable[[Sequence[str]], Iterator[RawColumns]]


def open_file(path: Path) -> CatalogFile:
    """Look at a file whose format its content tells: extensions lie.

    Raises
    ------
    CatalogError
        Where it is none of the formats, or damaged as far as its headers tell.
    """
    with _faults_told(path, "readable"), _open_bytes(path) as file:
        head = file.read(4096)
    if not head:
        raise CatalogError(f"Catalogue '{path}' is empty (0 bytes).")
    kind, look = next((known for start, known in _FORMATS.items() if head.startswith(start)), ("readable as CSV", _csv_file))
    if look is _csv_file and (b"\x00" in head or head.startswith(b"\x89HDF")):
        raise CatalogError(f"Catalogue '{path}' is none of FITS, CSV, Parquet and npz. Convert it to one of these.")
    with _faults_told(path, kind):
        content = look(path)

    def read(names: Sequence[str]) -> Iterator[RawColumns]:
        with _faults_told(path, kind):
            yield from content.read(names)

    return CatalogFile(content.widths, content.n_rows, read)


@contextmanager
def _faults_told(path: Path, kind: str) -> Iterator[None]:
    """Say of a damaged file that it is not what it looks like: a sentence instead of what the libraries raise."""
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, _UNPACKING) and _is_packed(path):
            raise CatalogError(f"Catalogue '{path}' is a damaged gzip file: {error}. Download it again.") from None
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CatalogError(f"Catalogue '{path}' is not {kind}: {why}.") from None


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open_bytes(path: Path) -> IO[bytes]:
    """The file's content, decompressed where it is gzip."""
    return cast(IO[bytes], gzip.open(path, "rb")) if _is_packed(path) else path.open("rb")


def _as_arrow(values: np.ndarray) -> pa.Array:
    """A column of numpy, shape (n,) or (n, 1), as strings or as numbers in the machine's byte order."""
    flat = np.asarray(values).reshape(len(values))
    if flat.dtype.kind == "S":
        flat = np.char.decode(flat, "ascii", "replace")
    return pa.array(flat if flat.dtype.kind == "U" else flat.astype(np.float64))


# --- FITS ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _fits_tables(path: Path) -> Iterator[list[Any]]:
    """The first table of a FITS file and the tables of as many rows that directly follow it, as qsoabsfind writes them."""
    with ExitStack() as opened:
        tables: list[Any] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # unpadded ends and the like: the rows are still where they should be
            for hdu in opened.enter_context(fits.open(path, memmap=True, lazy_load_hdus=True)):
                is_table = isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
                if is_table and (not tables or hdu.header["NAXIS2"] == tables[0].header["NAXIS2"]):
                    tables.append(hdu)
                elif tables:
                    break
        yield tables


def _fits_file(path: Path) -> CatalogFile:
    widths, n_rows, needed = dict[str, int](), 0, 0
    try:
        with _fits_tables(path) as tables:
            for hdu in tables:
                n_rows = int(hdu.header["NAXIS2"])
                needed = max(needed, hdu.fileinfo()["datLoc"] + n_rows * int(hdu.header["NAXIS1"]))
                is_text = isinstance(hdu, fits.TableHDU)  # of ASCII: its numbers are text in the file, one in a field
                here = {name: 1 if is_text else int(np.prod(hdu.columns.dtype[name].shape, dtype=int)) for name in hdu.columns.names}
                widths = {**here, **widths}
    except (LookupError, TypeError) as error:  # from astropy, of a header that makes no sense
        raise ValueError(error) from None
    if not needed:
        with _open_bytes(path) as file:  # of a damaged gzip file astropy sees the beginning, and says nothing
            while file.read(4 << 20):
                pass
        raise CatalogError(f"Catalogue '{path}' is a FITS file without a table; a catalogue is a binary table.")
    if not _is_packed(path) and (size := path.stat().st_size) < needed:
        raise CatalogError(f"Catalogue '{path}' is truncated: its header promises {needed} bytes, it has {size}. Download it again.")
    return CatalogFile(widths, n_rows, lambda names: _fits_rows(path, names))


def _fits_rows(path: Path, names: Sequence[str]) -> Iterator[RawColumns]:
    with _fits_tables(path) as tables:
        owners = {name: hdu for hdu in reversed(tables) for name in hdu.columns.names if name in names}
        readers = []
        for hdu in tables:
            if here := [name for name, owner in owners.items() if owner is hdu]:
                readers.append((_ascii_rows if isinstance(hdu, fits.TableHDU) else _binary_rows)(path, hdu, here))
        for pieces in zip(*readers, strict=True):
            yield {name: column for piece in pieces for name, column in piece.items()}


def _binary_rows(path: Path, hdu: Any, names: Sequence[str]) -> Iterator[RawColumns]:
    """Rows as they are stored: to cut a table of astropy's takes a second for some hundred columns."""
    dtype, left = hdu.columns.dtype.newbyteorder(">"), int(hdu.header["NAXIS2"])
    with _open_bytes(path) as file:
        file.seek(hdu.fileinfo()["datLoc"])
        while left:
            wanted = min(ROWS_AT_ONCE, left)
            content = file.read(wanted * dtype.itemsize)
            if len(content) < wanted * dtype.itemsize:
                raise CatalogError(f"Catalogue '{path}' is truncated {left} rows before its end. Download it again.")
            left -= wanted
            rows = np.frombuffer(content, dtype)
            yield {name: _as_arrow(_scaled(rows[name], hdu.columns[name])) for name in names}


def _scaled(stored: np.ndarray, column: fits.Column) -> np.ndarray:
    """Numbers as the header says: TZERO + TSCAL × what is stored, NaN where that is TNULL."""
    if stored.dtype.kind == "S":
        return stored
    scale, zero = float(column.bscale or 1), float(column.bzero or 0)
    values = stored.astype(np.float64)
    if scale != 1 or zero != 0:
        values = values * scale + zero
    return values if column.null in (None, "") else np.where(stored == int(column.null), np.nan, values)


def _ascii_rows(path: Path, hdu: Any, names: Sequence[str]) -> Iterator[RawColumns]:
    """Read a table of text whole, by astropy: such tables are small and of the past."""
    stored = hdu.data.view(np.ndarray)
    whole = {}
    for name in names:
        null = str(hdu.columns[name].null or "").strip()
        values = hdu.data.field(name)
        whole[name] = np.where(np.char.strip(stored[name]) == null.encode(), np.nan, values) if null else values
    for start in range(0, len(stored), ROWS_AT_ONCE):
        yield {name: _as_arrow(values[start : start + ROWS_AT_ONCE]) for name, values in whole.items()}


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
    with pq.ParquetFile(path) as file:
        widths = {field.name: 0 if pa.types.is_nested(field.type) else 1 for field in file.schema_arrow}
        return CatalogFile(widths, file.metadata.num_rows, lambda names: _parquet_rows(path, names))


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[RawColumns]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(names)):
            yield {name: batch[name] for name in names}


# --- CSV -----------------------------------------------------------------------------------------------------------------------------


def _csv_layout(path: Path) -> tuple[list[str], str, int]:
    """Column names, delimiter, and the number of lines before the first row.

    The header is the first line; where lines start with ``#``, it is the last of these if it has as many fields as the line below.
    """
    lines: list[str] = []
    with _open_bytes(path) as file:
        for line in file:
            lines.append(line.decode("utf-8-sig" if not lines else "utf-8"))
            if len([text for text in lines if text.strip() and not text.startswith("#")]) == 2 or len(lines) == 1000:
                break
    plain = [index for index, text in enumerate(lines) if text.strip() and not text.startswith("#")]
    if not plain:
        raise CatalogError(f"Catalogue '{path}' has no header line; the first line of a CSV file names its columns.")
    header, first_row = lines[plain[0]], plain[0] + 1
    delimiter = max(",\t;|", key=header.count)
    comment = lines[plain[0] - 1] if plain[0] else ""
    if comment.startswith("#") and comment.count(delimiter) == header.count(delimiter) > 0:
        header, first_row = comment.lstrip("# "), plain[0]
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    return names, delimiter, first_row


def _csv_file(path: Path) -> CatalogFile:
    layout = _csv_layout(path)
    columns = layout[0]
    n_rows = sum(len(batch[columns[0]]) for batch in _csv_rows(path, layout, columns[:1]))
    return CatalogFile(dict.fromkeys(columns, 1), n_rows, lambda names: _csv_rows(path, layout, names))


#: Bytes of a CSV file that Arrow parses at a time.
_CSV_BLOCK = 8 << 20


def _csv_rows(path: Path, layout: tuple[list[str], str, int], names: Sequence[str]) -> Iterator[RawColumns]:
    """The rows as strings: types guessed from the first block would fail on a later one."""
    columns, delimiter, first_row = layout
    read = pa_csv.ReadOptions(column_names=columns, skip_rows=first_row, block_size=_CSV_BLOCK, use_threads=False)
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, include_columns=list(names), strings_can_be_null=False
    )
    # Arrow's threads read ahead: of a file of Python's they would need the interpreter, and end a process that is about to end itself.
    with pa.input_stream(str(path), compression="gzip" if _is_packed(path) else None) as file:
        try:
            batches = pa_csv.open_csv(file, read, pa_csv.ParseOptions(delimiter=delimiter), convert)
        except pa.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise
            return
        for batch in batches:
            yield {name: batch[name] for name in names}


#: How a file of a format begins → what it then is, and what looks at it. A file of text that begins with none of these is taken for CSV.
_FORMATS: dict[bytes, tuple[str, Callable[[Path], CatalogFile]]] = {
    b"SIMPLE  =": ("a readable FITS file", _fits_file),
    b"PAR1": ("a readable Parquet file", _parquet_file),
    b"PK\x03\x04": ("a readable npz file", _npz_file),
}

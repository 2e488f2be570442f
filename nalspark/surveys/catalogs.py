"""Quasar and absorber catalogues: FITS, CSV, Parquet or npz in, canonical columns out.

Every catalogue spells its columns in its own way. The spellings are data: one TOML file per kind of catalogue in ``conf/catalogs``,
chosen by the columns that a file has, or by the user with ``path::map``. A :class:`Catalog` is what the driver keeps of a file - some
names and a row count - and :func:`read_rows` is what a worker does with it: read a range of rows. Nobody holds a whole catalogue.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import json
import sys
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nalspark.errors import CatalogError, did_you_mean

Kind = Literal["quasars", "absorbers"]
Rows = dict[str, np.ndarray]

ID_COLUMNS = ("plate", "mjd", "fiber")
_POSITION_COLUMNS = ("ra", "dec")
_NUMBERS: dict[str, tuple[str, ...]] = {
    "quasars": ("z",),
    "absorbers": ("z_qso", "z_abs", "ew_primary", "ew_primary_err", "ew_secondary", "ew_secondary_err"),
}
_SNR_COLUMNS = ("snr_primary", "snr_secondary")
_REQUIRED: dict[str, tuple[str, ...]] = {"quasars": ("z",), "absorbers": ("z_abs", "ew_primary")}
#: An equivalent width this negative is a fill value (-99, -999, -9999), not a measurement.
_EW_FILL = -90.0
#: What reading a damaged gzip file raises.
_UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error)
_BLANKS = ("", "nan", "null", "none", "n/a", "na", "--", "-")
_SHOWN_COLUMNS = 30


def canonical_columns(kind: Kind) -> tuple[str, ...]:
    """The columns that :func:`read_rows` gives for a kind of catalogue, ``row`` included."""
    return ("row", *ID_COLUMNS, *_POSITION_COLUMNS, *_NUMBERS[kind])


# --- the maps: which column is which -------------------------------------------------------------------------------------------------


class OneStringId(BaseModel):
    """Plate, mjd and fiber written as one string."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = Field(min_length=1)
    separator: str = Field(default="-", min_length=1)
    order: tuple[Literal["plate", "mjd", "fiber"], ...] = ("plate", "mjd", "fiber")


class CatalogMap(BaseModel):
    """One file of ``conf/catalogs``: how a kind of catalogue spells the canonical columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    description: str = ""
    species: str = ""
    """Species of an absorber catalogue; empty where it may be any."""
    signature: tuple[str, ...] = ()
    """Columns by which the catalogue is recognised; the longest signature is tried first, an empty one last."""
    columns: dict[str, tuple[str, ...]]
    """Canonical name -> accepted spellings, the best first; upper and lower case are the same."""
    pmf: OneStringId | None = None

    def faults(self) -> list[str]:
        """What the types cannot express: canonical names, and an order that has plate, mjd and fiber once each."""
        allowed = {*ID_COLUMNS, *_POSITION_COLUMNS, *_NUMBERS[self.kind], *(_SNR_COLUMNS if self.kind == "absorbers" else ())}
        faults = [
            f"columns.{name} is not a column of {self.kind}.{did_you_mean(name, allowed)}" for name in self.columns if name not in allowed
        ]
        faults += [f"columns.{name} is required of {self.kind}." for name in _REQUIRED[self.kind] if not self.columns.get(name)]
        if self.pmf and sorted(self.pmf.order) != sorted(ID_COLUMNS):
            faults.append("pmf.order must name plate, mjd and fiber once each.")
        return faults


def conf_dir() -> Path:
    """The folder of settings and facts: ``conf/`` beside the package in a checkout, else where the wheel put it."""
    beside = Path(__file__).resolve().parents[2] / "conf"
    return beside if (beside / "catalogs").is_dir() else Path(sys.prefix) / "share" / "nalspark" / "conf"


def _load_map(path: Path) -> tuple[CatalogMap | None, list[str]]:
    try:
        loaded = CatalogMap.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return None, [f"{path}: not valid TOML: {error}"]
    except ValidationError as error:
        return None, [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return loaded, [f"{path}: {fault}" for fault in loaded.faults()]


@cache
def load_maps(folder: Path | None = None) -> tuple[CatalogMap, ...]:
    """All catalogue maps, the most specific first.

    Parameters
    ----------
    folder : Path, optional
        Folder of TOML files; by default ``conf/catalogs``.

    Raises
    ------
    CatalogError
        Naming every fault of every file at once, or that there are no files.
    """
    folder = folder or conf_dir() / "catalogs"
    results = [_load_map(path) for path in sorted(folder.glob("*.toml"))]
    faults = [fault for _, found in results for fault in found]
    if faults:
        raise CatalogError(f"{len(faults)} fault(s) in the catalogue maps:\n  " + "\n  ".join(faults))
    if not results:
        raise CatalogError(f"There are no catalogue maps (*.toml) in {folder}: is nalspark installed completely?")
    maps = [loaded for loaded, _ in results if loaded is not None]
    return tuple(sorted(maps, key=lambda loaded: (-len(loaded.signature), loaded.name)))


def _spelled(present: Mapping[str, int], spellings: Iterable[str]) -> str | None:
    """The column that a list of spellings means; exact case before any case, columns of one value per row only."""
    scalars = [name for name, width in present.items() if width == 1]
    folded = {name.lower(): name for name in reversed(scalars)}
    for spelling in spellings:
        found = spelling if spelling in scalars else folded.get(spelling.lower())
        if found is not None:
            return found
    return None


def _resolve(loaded: CatalogMap, present: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """Canonical name -> the file's name, and what is missing of what must be there."""
    found = {name: _spelled(present, spellings) for name, spellings in loaded.columns.items()}
    if loaded.pmf:
        found["pmf"] = _spelled(present, loaded.pmf.columns)
    columns = {name: column for name, column in found.items() if column is not None}
    missing = [name for name in _REQUIRED[loaded.kind] if name not in columns]
    known_by_id = "pmf" in columns or all(name in columns for name in ID_COLUMNS)
    if not known_by_id and not all(name in columns for name in _POSITION_COLUMNS):
        missing.append("plate, mjd, fiber (or ra, dec)")
    return columns, missing


def _complain(path: Path, loaded: CatalogMap, missing: list[str], present: Mapping[str, int]) -> CatalogError:
    names = [name if width == 1 else f"{name} ({width or 'other than one'} values per row)" for name, width in present.items()]
    shown = ", ".join(names[:_SHOWN_COLUMNS]) + (f", … ({len(names)} in all)" if len(names) > _SHOWN_COLUMNS else "")
    wanted, hints = [], set()
    for name in missing:
        spellings = loaded.columns.get(name, ())
        wanted.append(f"{name} (accepted: {', '.join(spellings)})" if spellings else name)
        hints |= {did_you_mean(spelling, present) for spelling in (name, *spellings)}
    hint = "".join(sorted(hints)[:2])
    return CatalogError(
        f"Catalogue '{path}' has no column for {'; '.join(wanted)}, as the map '{loaded.name}' of {loaded.kind} needs it.{hint} "
        f"It has: {shown}. Name another map with '{path.name}::map' or describe this one in conf/catalogs."
    )


def _forced_map(name: str, kind: Kind) -> CatalogMap:
    of_kind = {loaded.name: loaded for loaded in load_maps() if loaded.kind == kind}
    found = of_kind.get(name) or of_kind.get(f"{name}_{kind}")
    if found is None:
        raise CatalogError(f"There is no map '{name}' of {kind}; there are {', '.join(sorted(of_kind))}.{did_you_mean(name, of_kind)}")
    return found


def _choose(path: Path, forced: str, kind: Kind, present: Mapping[str, int]) -> tuple[CatalogMap, dict[str, str]]:
    candidates = [_forced_map(forced, kind)] if forced else [loaded for loaded in load_maps() if loaded.kind == kind]
    for loaded in candidates:
        signed = forced or all(_spelled(present, [name]) for name in loaded.signature)
        columns, missing = _resolve(loaded, present)
        if signed and not missing:
            return loaded, columns
    raise _complain(path, candidates[-1], _resolve(candidates[-1], present)[1], present)


# --- the files: names, row counts and row ranges -------------------------------------------------------------------------------------


def _open_bytes(path: Path) -> IO[bytes]:
    """The file's content, decompressed where it is gzip."""
    return cast(IO[bytes], gzip.open(path, "rb")) if _is_gzip(path) else path.open("rb")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _format_of(path: Path) -> str:
    """The format, from the content: extensions lie."""
    try:
        with _open_bytes(path) as file:
            head = file.read(4096)
    except _UNPACKING as error:
        raise CatalogError(f"Catalogue '{path}' is a damaged gzip file: {error}. Download it again.") from None
    if head.startswith(b"SIMPLE  ="):
        return "fits"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if not head:
        raise CatalogError(f"Catalogue '{path}' is empty (0 bytes).")
    if b"\x00" in head or head.startswith(b"\x89HDF"):
        raise CatalogError(f"Catalogue '{path}' is none of FITS, CSV, Parquet and npz. Convert it to one of these.")
    return "csv"


@dataclass(frozen=True)
class _FitsTable:
    """Where the rows of one binary table lie and how its columns are to be understood."""

    dtype: np.dtype
    offset: int
    n_rows: int
    scales: Mapping[str, tuple[float, float]]
    nulls: Mapping[str, int]

    @property
    def widths(self) -> dict[str, int]:
        fields = {name: self.dtype[name] for name in self.dtype.names or ()}
        return {name: int(np.prod(field.shape, dtype=int)) for name, field in fields.items()}


def _binary_table(hdu: Any) -> _FitsTable:
    columns = hdu.columns
    scales = {
        column.name: (
            1.0 if column.bscale in (None, "") else float(column.bscale),
            0.0 if column.bzero in (None, "") else float(column.bzero),
        )
        for column in columns
    }
    nulls = {column.name: int(column.null) for column in columns if column.null not in (None, "")}
    return _FitsTable(columns.dtype.newbyteorder(">"), hdu.fileinfo()["datLoc"], int(hdu.header["NAXIS2"]), scales, nulls)


def _fits_tables(path: Path) -> list[_FitsTable | dict[str, np.ndarray]]:
    """The first table of a FITS file and the tables of as many rows that directly follow it, as qsoabsfind writes them.

    ASCII tables are small and of the past: astropy reads them whole.
    """
    tables: list[_FitsTable | dict[str, np.ndarray]] = []
    n_rows = -1
    try:
        with warnings.catch_warnings(), fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
            warnings.simplefilter("ignore", AstropyWarning)  # unpadded ends and the like: the rows are still where they should be
            for hdu in hdus:
                if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                    if tables:
                        break
                    continue
                if tables and int(hdu.header["NAXIS2"]) != n_rows:
                    break
                n_rows = int(hdu.header["NAXIS2"])
                if isinstance(hdu, fits.BinTableHDU):
                    tables.append(_binary_table(hdu))
                else:
                    tables.append({name: np.asarray(hdu.data.field(name)) for name in hdu.columns.names})
    except (OSError, ValueError, KeyError, TypeError, IndexError, *_UNPACKING) as error:
        raise CatalogError(f"Catalogue '{path}' is not a readable FITS file: {error}.") from None
    if not tables:
        raise CatalogError(f"Catalogue '{path}' is a FITS file without a table; a catalogue is a binary table.")
    return tables


def _describe_fits(path: Path) -> tuple[dict[str, int], int]:
    present: dict[str, int] = {}
    n_rows = 0
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    for table in _fits_tables(path):
        widths = table.widths if isinstance(table, _FitsTable) else dict.fromkeys(table, 1)
        n_rows = table.n_rows if isinstance(table, _FitsTable) else len(next(iter(table.values()), ()))
        present = {**widths, **present}
        if isinstance(table, _FitsTable) and not packed:
            needed, size = table.offset + table.n_rows * table.dtype.itemsize, path.stat().st_size
            if size < needed:
                raise CatalogError(
                    f"Catalogue '{path}' is truncated: its header promises {needed} bytes, it has {size}. Download it again."
                )
    return present, n_rows


def _fits_column(rows: np.ndarray, table: _FitsTable, name: str) -> np.ndarray:
    raw = rows[name]
    if raw.dtype.kind == "S":
        return np.array([cell.decode("ascii", "replace") for cell in raw.tolist()], dtype=object)
    values = raw.astype(raw.dtype.newbyteorder("="))
    scale, zero = table.scales[name]
    null = np.zeros(len(values), bool) if name not in table.nulls else values == table.nulls[name]
    if scale != 1 or zero != 0:
        values = values.astype(np.float64) * scale + zero
    return np.where(null, np.nan, values) if null.any() else values


def _read_fits(path: Path, names: Iterable[str], start: int, stop: int) -> dict[str, np.ndarray]:
    wanted = list(names)
    out: dict[str, np.ndarray] = {}
    for table in _fits_tables(path):
        if not isinstance(table, _FitsTable):
            out |= {name: table[name][start:stop] for name in wanted if name in table and name not in out}
            continue
        here = [name for name in wanted if name in (table.dtype.names or ()) and name not in out]
        if not here:
            continue
        content, needed = b"", (stop - start) * table.dtype.itemsize
        with contextlib.suppress(*_UNPACKING), _open_bytes(path) as file:
            file.seek(table.offset + start * table.dtype.itemsize)
            content = file.read(needed)
        if len(content) < needed:
            raise CatalogError(f"Catalogue '{path}' is truncated or damaged before row {stop}. Download it again.")
        rows = np.frombuffer(content, dtype=table.dtype)
        out |= {name: _fits_column(rows, table, name) for name in here}
    return out


def _npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and types of the arrays of an npz file; only their headers are read."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                headers[member.removesuffix(".npy")] = (shape, dtype)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CatalogError(f"Catalogue '{path}' is not a readable npz file: {error}.") from None
    return headers


def _describe_npz(path: Path) -> tuple[dict[str, int], int]:
    headers = _npz_headers(path)
    pickled = [name for name, (_, dtype) in headers.items() if dtype.hasobject]
    if pickled:
        raise CatalogError(
            f"Catalogue '{path}' holds Python objects in {', '.join(pickled[:_SHOWN_COLUMNS])}. They are never loaded, because that "
            "can run any code: save numbers or fixed-width strings instead."
        )
    lengths = {shape[0] for shape, _ in headers.values() if len(shape) == 1}
    if len(lengths) > 1:
        raise CatalogError(
            f"Catalogue '{path}' has columns of unequal lengths {sorted(lengths)}; a catalogue has one value per row in each."
        )
    return {name: 1 if len(shape) == 1 else 0 for name, (shape, _) in headers.items()}, next(iter(lengths), 0)


def _read_npz(path: Path, names: Iterable[str], start: int, stop: int) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name][start:stop] for name in names}


def _describe_parquet(path: Path) -> tuple[dict[str, int], int]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"Catalogue '{path}' is not a readable Parquet file: {error}.") from None
    return {field.name: 0 if pa.types.is_nested(field.type) else 1 for field in file.schema_arrow}, file.metadata.num_rows


def _read_parquet(path: Path, names: Iterable[str], start: int, stop: int) -> dict[str, np.ndarray]:
    file = pq.ParquetFile(path)
    columns = list(dict.fromkeys(names))
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups = [group for group, end in enumerate(ends) if end > start and end - file.metadata.row_group(group).num_rows < stop]
    if not groups:
        return {name: np.empty(0) for name in columns}
    first = int(ends[groups[0]]) - file.metadata.row_group(groups[0]).num_rows
    table = file.read_row_groups(groups, columns=columns).slice(start - first, stop - start)
    return {name: table[name].to_numpy() for name in columns}


def _csv_layout(path: Path) -> tuple[list[str], str, int]:
    """Column names, delimiter, and the number of lines before the first row.

    The header is the first line; where lines start with ``#``, it is the last of these if it has as many fields as the line below.
    """
    lines: list[str] = []
    try:
        with _open_bytes(path) as file:
            for line in file:
                lines.append(line.decode("utf-8-sig" if not lines else "utf-8"))
                if len([text for text in lines if text.strip() and not text.startswith("#")]) == 2 or len(lines) == 1000:
                    break
    except (UnicodeDecodeError, OSError, *_UNPACKING) as error:
        raise CatalogError(f"Catalogue '{path}' is not readable as CSV: {error}.") from None
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


def _csv_batches(path: Path, names: list[str] | None) -> Iterable[pa.RecordBatch]:
    """The rows as batches of strings: types guessed from the first block would fail on a later one."""
    columns, delimiter, first_row = _csv_layout(path)
    wanted = columns[:1] if names is None else names
    try:
        # Arrow's threads read ahead: of a file of Python's they would need the interpreter, and end a process that is about to end itself.
        with pa.input_stream(str(path), compression="gzip" if _is_gzip(path) else None) as file:
            yield from pa_csv.open_csv(
                file,
                read_options=pa_csv.ReadOptions(column_names=columns, skip_rows=first_row, block_size=8 << 20, use_threads=False),
                parse_options=pa_csv.ParseOptions(delimiter=delimiter),
                convert_options=pa_csv.ConvertOptions(
                    column_types={name: pa.string() for name in wanted}, include_columns=wanted, strings_can_be_null=False
                ),
            )
    except (pa.ArrowException, OSError, *_UNPACKING) as error:
        if "Empty CSV" not in str(error):
            raise CatalogError(f"Catalogue '{path}' is not readable as CSV: {error}.") from None


def _describe_csv(path: Path) -> tuple[dict[str, int], int]:
    columns = _csv_layout(path)[0]
    return dict.fromkeys(columns, 1), sum(batch.num_rows for batch in _csv_batches(path, None))


def _read_csv(path: Path, names: Iterable[str], start: int, stop: int) -> dict[str, np.ndarray]:
    wanted = list(dict.fromkeys(names))
    kept, first = [], 0
    for batch in _csv_batches(path, wanted):
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        if low < high:
            kept.append(batch.slice(low, high - low))
        first += batch.num_rows
        if first >= stop:
            break
    table = pa.Table.from_batches(kept, pa.schema([(name, pa.string()) for name in wanted]))
    return {name: table[name].to_numpy() for name in wanted}


_DESCRIBE = {"fits": _describe_fits, "npz": _describe_npz, "parquet": _describe_parquet, "csv": _describe_csv}
_READ = {"fits": _read_fits, "npz": _read_npz, "parquet": _read_parquet, "csv": _read_csv}


# --- catalogues ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catalog:
    """What is known of a catalogue before its rows are read: enough for a worker to read any range of them.

    Attributes
    ----------
    name : str
        The file's name.
    path : str
    kind : str
        ``quasars`` or ``absorbers``.
    map : str
        Name of the map in ``conf/catalogs`` by which its columns are understood.
    species : str
        Species of the absorbers; empty where the catalogue does not say.
    n_rows : int
    digest : str
        Changes with the content of the file and of its map, not with its place or age.
    format : str
        ``fits``, ``csv``, ``parquet`` or ``npz``.
    columns : tuple of (str, str)
        Canonical name and the file's own, of those columns that the file has.
    pmf : tuple, optional
        Separator and order of plate, mjd and fiber, where they are one string.
    """

    name: str
    path: str
    kind: Kind
    map: str
    species: str
    n_rows: int
    digest: str
    format: str
    columns: tuple[tuple[str, str], ...]
    pmf: tuple[str, tuple[str, ...]] | None = None

    @property
    def rows_per_read(self) -> int:
        """Rows that a worker reads at once; formats without random access are read in fewer, larger pieces."""
        return 100_000 if self.format in ("fits", "parquet") and not self.path.endswith(".gz") else 1_000_000


def _digest(path: Path, loaded: CatalogMap) -> str:
    digest = hashlib.blake2b(json.dumps(loaded.model_dump(), sort_keys=True).encode(), digest_size=16)
    with path.open("rb") as file:
        while block := file.read(4 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_catalog(path: str | Path, kind: Kind, species: str = "") -> Catalog:
    """Recognise a catalogue; its rows are only counted.

    Parameters
    ----------
    path : str or Path
        A FITS, CSV, Parquet or npz file, FITS and CSV also gzipped; ``path::map`` forces a map of ``conf/catalogs``.
    kind : str
        ``quasars`` or ``absorbers``.
    species : str, optional
        The species that a run searches: an absorber catalogue of another one is refused.

    Returns
    -------
    Catalog

    Raises
    ------
    CatalogError
        Where the file is absent, unreadable, empty, of the wrong species, or lacks a column.
    """
    if kind not in _NUMBERS:
        raise CatalogError(f"'{kind}' is no kind of catalogue; there are {' and '.join(_NUMBERS)}.{did_you_mean(kind, _NUMBERS)}")
    text, _, forced = str(path).partition("::")
    file = Path(text)
    if not file.is_file():
        if file.is_dir():
            raise CatalogError(f"Catalogue '{text}' is a folder; name a file in it.")
        near = did_you_mean(file.name, [other.name for other in file.parent.iterdir()]) if file.parent.is_dir() else ""
        raise CatalogError(f"Catalogue '{text}' does not exist.{near}")
    try:
        format_name = _format_of(file)
        present, n_rows = _DESCRIBE[format_name](file)
        if n_rows == 0:
            raise CatalogError(f"Catalogue '{text}' has no rows.")
        loaded, columns = _choose(file, forced, kind, present)
        digest = _digest(file, loaded)
    except OSError as error:
        raise CatalogError(f"Catalogue '{text}' cannot be read: {error.strerror or error}.") from None
    if species and loaded.species and species != loaded.species:
        raise CatalogError(f"Catalogue '{text}' lists {loaded.species} absorbers (map '{loaded.name}'), but the run searches {species}.")
    one_string = (loaded.pmf.separator, tuple(loaded.pmf.order)) if loaded.pmf and "pmf" in columns else None
    return Catalog(
        file.name, str(file.resolve()), kind, loaded.name, loaded.species, n_rows, digest, format_name, tuple(columns.items()), one_string
    )


def _from_text(values: np.ndarray, where: str) -> np.ndarray:
    text = pc.utf8_trim_whitespace(pa.array([None if cell is None else str(cell) for cell in values], pa.string()))
    blank = pc.is_in(pc.utf8_lower(text), pa.array(_BLANKS))
    text = pc.if_else(blank, pa.scalar(None, pa.string()), text)
    try:
        return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{where} holds text where numbers are expected: {error}.") from None


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Any column as float64, NaN where nothing is given."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if values.dtype.kind in "OSU":
        if values.dtype.kind == "O" and not any(isinstance(cell, str) for cell in values[:100]):
            return np.array([np.nan if cell is None else cell for cell in values], dtype=np.float64)
        cells = np.char.decode(values, "ascii", "replace") if values.dtype.kind == "S" else values
        return _from_text(cells, where)
    return values.astype(np.float64)


def _identifiers(values: np.ndarray) -> np.ndarray:
    """Plate, mjd or fiber as int32; -1 where there is none. All are positive integers, so 0, -1, -9999, NaN and 12.5 are none."""
    good = np.isfinite(values) & (values >= 1) & (values < 2**31) & (values == np.floor(np.where(np.isfinite(values), values, 0)))
    return np.where(good, values, -1).astype(np.int32)


def _split_identifiers(values: np.ndarray, separator: str, order: tuple[str, ...]) -> Rows:
    """One-string identifiers as three int32 columns; -1 where a string has not three numbers."""
    out = {name: np.full(len(values), -1, np.int32) for name in order}
    for row, cell in enumerate(values):
        text = cell.decode("ascii", "replace") if isinstance(cell, bytes) else str(cell)
        pieces = [piece.strip() for piece in text.split(separator)]
        if len(pieces) == len(order) and all(piece.isascii() and piece.isdigit() and len(piece) < 10 for piece in pieces):
            for name, piece in zip(order, pieces, strict=True):
                out[name][row] = int(piece) or -1
    return out


def _clean_absorbers(out: Rows, numbers: Mapping[str, np.ndarray]) -> None:
    """Turn fill values into NaN, and signal-to-noise ratios into errors where the catalogue has no errors."""
    out["z_abs"] = np.where(out["z_abs"] > 0, out["z_abs"], np.nan)
    for line in ("primary", "secondary"):
        width, error, snr = out[f"ew_{line}"], out[f"ew_{line}_err"], numbers.get(f"snr_{line}")
        width = np.where(width > _EW_FILL, width, np.nan)
        if snr is not None:
            from_snr = np.divide(np.abs(width), snr, out=np.full(len(width), np.nan), where=snr > 0)
            error = np.where(error > 0, error, from_snr)
        out[f"ew_{line}"], out[f"ew_{line}_err"] = width, np.where(error > 0, error, np.nan)


def read_rows(catalog: Catalog, start: int, stop: int) -> Rows:
    """Read a range of rows of a catalogue.

    Parameters
    ----------
    catalog : Catalog
    start, stop : int
        First row and the one after the last; rows are counted from 0.

    Returns
    -------
    dict of ndarray, shape (n,)
        ``row`` (int64); ``plate``, ``mjd``, ``fiber`` (int32, -1 where not given); ``ra``, ``dec`` (deg) and the numbers of the kind
        (float64, NaN where not given): ``z`` of quasars; ``z_qso``, ``z_abs``, ``ew_primary``, ``ew_primary_err``, ``ew_secondary``,
        ``ew_secondary_err`` (rest Å) of absorbers. No row is left out: one without a usable identifier or position cannot match.

    Raises
    ------
    CatalogError
        Where the file has changed since it was opened, or holds text where numbers belong.
    """
    stop = min(stop, catalog.n_rows)
    columns = dict(catalog.columns)
    raw = _READ[catalog.format](Path(catalog.path), columns.values(), start, stop)
    numbers = {
        name: _numbers(raw[column], f"Column '{column}' of catalogue '{catalog.path}', rows {start} to {stop},")
        for name, column in columns.items()
        if name != "pmf"
    }
    n = stop - start
    nothing = np.full(n, np.nan)
    out: Rows = {"row": np.arange(start, stop, dtype=np.int64)}
    out |= {name: _identifiers(numbers.get(name, nothing)) for name in ID_COLUMNS}
    if catalog.pmf:
        out |= _split_identifiers(raw[columns["pmf"]], *catalog.pmf)
    out |= {name: numbers.get(name, nothing) for name in (*_POSITION_COLUMNS, *_NUMBERS[catalog.kind])}
    if catalog.kind == "absorbers":
        _clean_absorbers(out, numbers)
    return {name: out[name] for name in canonical_columns(catalog.kind)}


def equivalent_width_quantiles(catalog: Catalog, weakest: float = 0.3) -> tuple[float, ...]:
    """201 quantiles of the first line's rest equivalent widths, in Å, above `weakest`: a population to draw absorbers from.

    Of a catalogue of more than 200,000 rows, the first ones.

    Raises
    ------
    CatalogError
        Where it has fewer than 20 such absorbers.
    """
    width = np.asarray(read_rows(catalog, 0, min(catalog.n_rows, 200_000))["ew_primary"], dtype=float)
    width = width[np.isfinite(width) & (width > weakest)]
    if len(width) < 20:
        raise CatalogError(f"'{catalog.path}' has {len(width)} equivalent widths above {weakest} Å; a population needs 20 at least.")
    return tuple(np.quantile(width, np.linspace(0.0, 1.0, 201)).tolist())

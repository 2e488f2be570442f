"""Quasar and absorber catalogues: FITS, CSV, Parquet or npz in, canonical columns out.

Every catalogue spells its columns in its own way. The spellings are data: one TOML file per kind of catalogue in ``conf/catalogs``,
chosen by the columns that a file has, or by the user with ``path::map``. :func:`open_catalog` recognises a file, :func:`read_rows` reads
it once from its beginning to its end, and :func:`write_parquet` keeps what it reads for Spark. Nobody holds a whole catalogue.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nalspark.errors import CatalogError, did_you_mean
from nalspark.surveys.catalog_files import open_file
from nalspark.tables import atomic

Kind = Literal["quasars", "absorbers"]
Rows = dict[str, np.ndarray]
Facts = TypeVar("Facts", bound=BaseModel)

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
_BLANKS = ("", "nan", "null", "none", "n/a", "na", "--", "-")
_SHOWN_COLUMNS = 30
#: Rows that a population of absorbers is taken from at most.
_POPULATION_ROWS = 200_000
#: Raise it where the same file would be read as other rows: what was converted before is then converted again.
_REVISION = 1


def canonical_schema(kind: Kind) -> pa.Schema:
    """Give the columns that :func:`read_rows` gives for a kind of catalogue, and their types in what :func:`write_parquet` writes."""
    numbers = dict.fromkeys((*_POSITION_COLUMNS, *_NUMBERS[kind]), pa.float64())
    return pa.schema({"row": pa.int64(), **dict.fromkeys(ID_COLUMNS, pa.int32()), **numbers})


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

    @model_validator(mode="after")
    def _names_canonical_columns(self) -> CatalogMap:
        allowed = {*ID_COLUMNS, *_POSITION_COLUMNS, *_NUMBERS[self.kind], *(_SNR_COLUMNS if self.kind == "absorbers" else ())}
        faults = [
            f"columns.{name} is not a column of {self.kind}.{did_you_mean(name, allowed)}" for name in self.columns if name not in allowed
        ]
        faults += [f"columns.{name} is required of {self.kind}." for name in _REQUIRED[self.kind] if not self.columns.get(name)]
        if self.pmf and sorted(self.pmf.order) != sorted(ID_COLUMNS):
            faults.append("pmf.order must name plate, mjd and fiber once each.")
        if faults:
            raise ValueError(" ".join(faults))
        return self


def conf_dir() -> Path:
    """Give the folder of settings and facts: ``conf/`` beside the package in a checkout, else where the wheel put it."""
    beside = Path(__file__).resolve().parents[2] / "conf"
    return beside if (beside / "catalogs").is_dir() else Path(sys.prefix) / "share" / "nalspark" / "conf"


def read_facts(path: Path, model: type[Facts]) -> tuple[Facts | None, list[str]]:
    """Read a TOML file of ``conf/``; give what it says, or None and all its faults."""
    try:
        return model.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}), []
    except OSError as error:
        return None, [f"it cannot be read: {error.strerror}."]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return None, [f"it is not valid TOML: {error}."]
    except ValidationError as error:
        return None, [": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"]))) for fault in error.errors()]


@cache
def load_maps(folder: Path | None = None) -> tuple[CatalogMap, ...]:
    """Load all catalogue maps, the most specific first.

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
    results = {path: read_facts(path, CatalogMap) for path in sorted(folder.glob("*.toml"))}
    faults = [f"{path}: {fault}" for path, (_, found) in results.items() for fault in found]
    if faults:
        raise CatalogError(f"{len(faults)} fault(s) in the catalogue maps:\n  " + "\n  ".join(faults))
    if not results:
        raise CatalogError(f"There are no catalogue maps (*.toml) in {folder}: is nalspark installed completely?")
    maps = [loaded for loaded, _ in results.values() if loaded is not None]
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


def _candidates(forced: str, kind: Kind) -> list[CatalogMap]:
    """The maps of a kind, or that which the user named."""
    of_kind = {loaded.name: loaded for loaded in load_maps() if loaded.kind == kind}
    if not forced:
        return list(of_kind.values())
    if named := of_kind.get(forced) or of_kind.get(f"{forced}_{kind}"):
        return [named]
    raise CatalogError(f"There is no map '{forced}' of {kind}; there are {', '.join(sorted(of_kind))}.{did_you_mean(forced, of_kind)}")


def _choose(path: Path, forced: str, kind: Kind, present: Mapping[str, int]) -> tuple[CatalogMap, dict[str, str]]:
    for loaded in _candidates(forced, kind):
        columns, missing = _resolve(loaded, present)
        if not missing and (forced or all(_spelled(present, [name]) for name in loaded.signature)):
            return loaded, columns
    raise _complain(path, loaded, missing, present)


# --- catalogues ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catalog:
    """What is known of a catalogue before its rows are read.

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
    columns: tuple[tuple[str, str], ...]
    pmf: tuple[str, tuple[str, ...]] | None = None


def _existing(text: str) -> Path:
    file = Path(text)
    if file.is_dir():
        raise CatalogError(f"Catalogue '{text}' is a folder; name a file in it.")
    if not file.is_file():
        near = did_you_mean(file.name, [other.name for other in file.parent.iterdir()]) if file.parent.is_dir() else ""
        raise CatalogError(f"Catalogue '{text}' does not exist.{near}")
    return file


def _digest(path: Path, loaded: CatalogMap) -> str:
    of_map = hashlib.blake2b(json.dumps(loaded.model_dump(), sort_keys=True).encode(), digest_size=16)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: of_map).hexdigest()
    except OSError as error:
        raise CatalogError(f"Catalogue '{path}' cannot be read: {error.strerror}.") from None


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
    file = _existing(text)
    content = open_file(file)
    if content.n_rows == 0:
        raise CatalogError(f"Catalogue '{text}' has no rows.")
    loaded, columns = _choose(file, forced, kind, content.widths)
    digest = _digest(file, loaded)
    if species and loaded.species and species != loaded.species:
        raise CatalogError(f"Catalogue '{text}' lists {loaded.species} absorbers (map '{loaded.name}'), but the run searches {species}.")
    one_string = (loaded.pmf.separator, tuple(loaded.pmf.order)) if loaded.pmf and "pmf" in columns else None
    return Catalog(
        file.name, str(file.resolve()), kind, loaded.name, loaded.species, content.n_rows, digest, tuple(columns.items()), one_string
    )


# --- rows ----------------------------------------------------------------------------------------------------------------------------


def _numbers(column: pa.Array, where: str) -> np.ndarray:
    """Any column as float64, NaN where nothing is given."""
    try:
        if not pa.types.is_primitive(column.type) and not pa.types.is_decimal(column.type):
            text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
            column = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(_BLANKS)), pa.scalar(None, pa.string()), text)
        return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CatalogError(f"{where} holds text where numbers are expected: {error}.") from None


def _identifiers(values: np.ndarray) -> np.ndarray:
    """Plate, mjd or fiber as int32; -1 where there is none. All are positive integers, so 0, -1, -9999, NaN and 12.5 are none."""
    good = np.isfinite(values) & (values >= 1) & (values < 2**31) & (values == np.floor(np.where(np.isfinite(values), values, 0)))
    return np.where(good, values, -1).astype(np.int32)


def _split_identifiers(column: pa.Array, separator: str, order: tuple[str, ...]) -> Rows:
    """One-string identifiers as three int32 columns; -1 where a string has not three numbers of at most nine digits."""
    pattern = re.escape(separator).join(rf"\s*(?P<{name}>[0-9]{{1,9}})\s*" for name in order)
    found = pc.extract_regex(pc.cast(column, pa.string()), f"^{pattern}$")
    return {name: _identifiers(_numbers(pc.struct_field(found, name), name)) for name in order}


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


def _canonical(raw: Mapping[str, pa.Array], catalog: Catalog, start: int) -> Rows:
    """Rows of the file's own columns, the first of them row `start`, in canonical columns."""
    columns = dict(catalog.columns)
    stop = start + len(next(iter(raw.values())))
    numbers = {
        name: _numbers(raw[column], f"Column '{column}' of catalogue '{catalog.path}', rows {start} to {stop},")
        for name, column in columns.items()
        if name != "pmf"
    }
    nothing = np.full(stop - start, np.nan)
    out: Rows = {"row": np.arange(start, stop, dtype=np.int64)}
    out |= {name: _identifiers(numbers.get(name, nothing)) for name in ID_COLUMNS}
    if catalog.pmf:
        out |= _split_identifiers(raw[columns["pmf"]], *catalog.pmf)
    out |= {name: numbers.get(name, nothing) for name in (*_POSITION_COLUMNS, *_NUMBERS[catalog.kind])}
    if catalog.kind == "absorbers":
        _clean_absorbers(out, numbers)
    return out


def read_rows(catalog: Catalog) -> Iterator[Rows]:
    """Read a catalogue once, some ten thousand rows at a time.

    Parameters
    ----------
    catalog : Catalog

    Yields
    ------
    dict of ndarray, shape (n,)
        ``row`` (int64), counted from 0 through all of them; ``plate``, ``mjd``, ``fiber`` (int32, -1 where not given); ``ra``, ``dec``
        (deg) and the numbers of the kind (float64, NaN where not given): ``z`` of quasars; ``z_qso``, ``z_abs``, ``ew_primary``,
        ``ew_primary_err``, ``ew_secondary``, ``ew_secondary_err`` (rest Å) of absorbers. No row is left out: one without a usable
        identifier or position cannot match.

    Raises
    ------
    CatalogError
        Where the file has changed since it was opened, is damaged, or holds text where numbers belong.
    """
    path, start = Path(catalog.path), 0
    for raw in open_file(path).read(sorted({column for _, column in catalog.columns})):
        rows = _canonical(raw, catalog, start)
        start += len(rows["row"])
        if len(rows["row"]):
            yield rows
    if start != catalog.n_rows:
        raise CatalogError(f"Catalogue '{path}' had {catalog.n_rows} rows when it was opened and has {start} now. Run it again.")


def write_parquet(catalog: Catalog, folder: str | Path) -> Path:
    """Write a catalogue as Parquet in canonical columns, null where nothing is given, unless that was done before.

    Parameters
    ----------
    catalog : Catalog
    folder : path
        Of converted catalogues; made where it is not there.

    Returns
    -------
    Path
        Of the file, which is whole. Its name begins with the catalogue's digest.

    Raises
    ------
    CatalogError
        As :func:`read_rows`.
    """
    path, schema = Path(folder).absolute() / f"{catalog.digest}-{_REVISION}.parquet", canonical_schema(catalog.kind)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path) as new, pq.ParquetWriter(new, schema) as writer:
        for rows in read_rows(catalog):
            of = {name: pa.array(values, mask=values < 0 if name in ID_COLUMNS else np.isnan(values)) for name, values in rows.items()}
            writer.write_batch(pa.RecordBatch.from_arrays(list(of.values()), schema=schema))
    return path


def equivalent_width_quantiles(catalog: Catalog, weakest: float = 0.3) -> tuple[float, ...]:
    """Give 201 quantiles of the first line's rest equivalent widths, in Å, above `weakest`: a population to draw absorbers from.

    Of a catalogue of more than 200,000 rows, the first ones.

    Raises
    ------
    CatalogError
        Where it has fewer than 20 such absorbers.
    """
    first = takewhile(lambda rows: rows["row"][0] < _POPULATION_ROWS, read_rows(catalog))
    width = np.concatenate([rows["ew_primary"][rows["row"] < _POPULATION_ROWS] for rows in first])
    width = width[np.isfinite(width) & (width > weakest)]
    if len(width) < 20:
        raise CatalogError(f"'{catalog.path}' has {len(width)} equivalent widths above {weakest} Å; a population needs 20 at least.")
    return tuple(np.quantile(width, np.linspace(0.0, 1.0, 201)).tolist())

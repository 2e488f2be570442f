"""Quasar and absorber catalogues: FITS, VOTable, text, Parquet or npz in, canonical columns out.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from nalspark.surveys.catalog_files import files_of, open_file
from nalspark.surveys.catalog_text import folded
from nalspark.surveys.identity import FILE_NUMBERS, ID_COLUMNS, KEYS, LONG_IDS, PLATE_MJD_FIBER
from nalspark.tables import atomic

Kind = Literal["quasars", "absorbers"]
Rows = dict[str, np.ndarray]
Facts = TypeVar("Facts", bound=BaseModel)

_POSITION_COLUMNS = ("ra", "dec")
#: What a coordinate counts where it is written with minutes and seconds, hours or degrees, and its largest value, both in deg.
_UNITS = {"ra": (15.0, 360.0), "dec": (1.0, 90.0)}
_NUMBERS: dict[str, tuple[str, ...]] = {
    "quasars": ("z", "z_err"),
    "absorbers": ("z_qso", "z_abs", "ew_primary", "ew_primary_err", "ew_secondary", "ew_secondary_err"),
}
_SNR_COLUMNS = ("snr_primary", "snr_secondary")
_REQUIRED: dict[str, tuple[str, ...]] = {"quasars": ("z",), "absorbers": ("z_abs", "ew_primary")}
#: An equivalent width this negative is a fill value (-99, -999, -9999), not a measurement.
_EW_FILL = -90.0
#: Nor is one this large a redshift (99, 999.99), or one that is not positive (0, -1, -999).
_Z_FILL = 90.0
#: What text tables write where a row has nothing.
_BLANK = r"(?i)^([-.*…?]*|nan|null|none|n/a|na|\\N|masked|<null>|\(null\))$"
#: Hours or degrees, minutes and seconds.
_SEXAGESIMAL = r"^(?P<sign>[-+]?)(?P<whole>\d{1,3})[:hd\s]\s*(?P<minutes>[0-5]?\d)[:m'\s]\s*(?P<seconds>[0-5]?\d(?:\.\d*)?)[s\"]?$"
#: What stands before a column that tells quasars from other objects.
_WHERE = "where "
_SHOWN_COLUMNS = 30
_SHOWN_TEXT = 40
#: Rows that a population of absorbers is taken from at most.
_POPULATION_ROWS = 200_000
#: Raise it where the same file would be read as other rows: what was converted before is then converted again.
_REVISION = 4


def canonical_schema(kind: Kind) -> pa.Schema:
    """Give the columns that :func:`read_rows` gives for a kind of catalogue, and their types in what :func:`write_parquet` writes."""
    numbers = dict.fromkeys((*_POSITION_COLUMNS, *_NUMBERS[kind]), pa.float64())
    return pa.schema({"row": pa.int64(), **{name: pa.int64() if name in LONG_IDS else pa.int32() for name in ID_COLUMNS}, **numbers})


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
    """Canonical name -> accepted spellings, the best first; upper and lower case are the same. ``{z}`` in those of ``z_err`` stands for
    what the file calls the redshift that was taken: the error of another one says nothing of it."""
    pmf: OneStringId | None = None
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Of a list that has other objects too: column -> the texts that a quasar has in it. Other rows give no redshift."""
    files: dict[Literal["field", "survey", "program"], tuple[str, ...]] = Field(default_factory=dict)
    """As `columns`, of what only names an archive's files: read where files are fetched, and nowhere else."""

    @model_validator(mode="after")
    def _names_canonical_columns(self) -> CatalogMap:
        allowed = {*ID_COLUMNS, *_POSITION_COLUMNS, *_NUMBERS[self.kind], *(_SNR_COLUMNS if self.kind == "absorbers" else ())}
        faults = [
            f"columns.{name} is not a column of {self.kind}.{did_you_mean(name, allowed)}" for name in self.columns if name not in allowed
        ]
        faults += [f"columns.{name} is required of {self.kind}." for name in _REQUIRED[self.kind] if not self.columns.get(name)]
        if self.pmf and sorted(self.pmf.order) != sorted(PLATE_MJD_FIBER):
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


@cache
def _known_names() -> frozenset[str]:
    """All that any map calls a column."""
    spellings = [names for loaded in load_maps() for names in (*loaded.columns.values(), loaded.pmf.columns if loaded.pmf else ())]
    return frozenset(folded(name) for names in spellings for name in names)


def _spelled(present: Mapping[str, int], spellings: Iterable[str]) -> str | None:
    """The column that a list of spellings means; exact case before any case, columns of one value per row only."""
    scalars = [name for name, width in present.items() if width == 1]
    lower = {name.lower(): name for name in reversed(scalars)}
    return next((found for name in spellings if (found := name if name in scalars else lower.get(name.lower()))), None)


def _nearly_spelled(present: Mapping[str, int], spellings: Iterable[str]) -> str | None:
    """The column that is called so but for underscores and the like: ``zVI`` is Z_VI."""
    near = {folded(name): name for name, width in reversed(list(present.items())) if width == 1}
    return next((near[name] for name in map(folded, spellings) if name in near), None)


def _resolve(loaded: CatalogMap, present: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """Canonical name -> the file's name, and what is missing of what must be there."""
    spelled = {**loaded.columns, **({"pmf": loaded.pmf.columns} if loaded.pmf else {})}
    spelled.pop("z_err", None)
    columns = {name: column for name, spellings in spelled.items() if (column := _spelled(present, spellings)) is not None}
    for name, spellings in spelled.items():  # what is spelled so is nobody else's: e_w2796 folds to what EW_2796 does
        left = {column: width for column, width in present.items() if column not in columns.values()}
        if name not in columns and (near := _nearly_spelled(left, spellings)) is not None:
            columns[name] = near
    left = {column: width for column, width in present.items() if column not in columns.values()}
    of_z = [spelling.replace("{z}", columns.get("z", "")) for spelling in loaded.columns.get("z_err", ())]
    if (known := _spelled(left, of_z) or _nearly_spelled(left, of_z)) is not None:
        columns["z_err"] = known
    missing = [name for name in _REQUIRED[loaded.kind] if name not in columns]
    columns |= {f"{_WHERE}{name}": told for name in loaded.where if (told := _spelled(present, [name]))}
    known_by_id = "pmf" in columns or any(all(name in columns for name in key) for key in KEYS)
    if not known_by_id and not all(name in columns for name in _POSITION_COLUMNS):
        missing.append("plate, mjd, fiber (or targetid, or catalogid, or ra, dec)")
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
    where : mapping of str to tuple of str
        As of :class:`CatalogMap`.
    files : tuple of (str, str)
        As `columns`, of those that only name an archive's files.
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
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()

    @property
    def has_other_objects(self) -> bool:
        """Whether rows without a redshift may be no quasars."""
        return any(name.startswith(_WHERE) for name, _ in self.columns)


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise CatalogError(f"Catalogue '{text}' does not exist.{near}")
    return path


def _digest(path: Path, loaded: CatalogMap) -> str:
    # What names files changes no row of the canonical columns.
    digest = hashlib.blake2b(json.dumps(loaded.model_dump(exclude={"files"}), sort_keys=True).encode(), digest_size=16)
    try:
        for file in files_of(path):
            digest.update(b"" if file == path else str(file.relative_to(path)).encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        return digest.hexdigest()
    except OSError as error:
        raise CatalogError(f"Catalogue '{path}' cannot be read: {error.strerror}.") from None


def open_catalog(path: str | Path, kind: Kind, species: Collection[str] = ()) -> Catalog:
    """Recognise a catalogue; its rows are only counted.

    Parameters
    ----------
    path : str or Path
        A file of FITS, VOTable, text, Parquet or npz, all but the last two also packed, or a folder of Parquet files; ``path::map``
        forces a map of ``conf/catalogs``.
    kind : str
        ``quasars`` or ``absorbers``.
    species : collection of str, optional
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
    content = open_file(file, _known_names())
    if content.n_rows == 0:
        raise CatalogError(f"Catalogue '{text}' has no rows.")
    loaded, columns = _choose(file, forced, kind, content.widths)
    digest = _digest(file, loaded)
    if species and loaded.species and loaded.species not in species:
        searched = ", ".join(species)
        raise CatalogError(f"Catalogue '{text}' lists {loaded.species} absorbers (map '{loaded.name}'), but the run searches {searched}.")
    one_string = (loaded.pmf.separator, tuple(loaded.pmf.order)) if loaded.pmf and "pmf" in columns else None
    files = tuple((name, found) for name, spellings in loaded.files.items() if (found := _spelled(content.widths, spellings)))
    about = (loaded.name, loaded.species, content.n_rows, digest, tuple(columns.items()), one_string, loaded.where, files)
    return Catalog(file.name, str(file.resolve()), kind, *about)


# --- rows ----------------------------------------------------------------------------------------------------------------------------


def _numbers(column: pa.Array) -> np.ndarray:
    """Any column as float64, NaN where nothing is given. Raises `ArrowException` where it is neither."""
    if not pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type):
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        try:
            return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            column = pc.if_else(pc.match_substring_regex(column, _BLANK), pa.scalar(None, pa.string()), column)
            column = pc.replace_substring_regex(column, r"^([-+.\d]+)[dD]([-+]?\d+)$", r"\1e\2")  # exponents as Fortran writes them
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _degrees(column: pa.Array, unit: float, largest: float) -> np.ndarray:
    """A coordinate in deg, also where it is text of hours or degrees, minutes and seconds; raises as :func:`_numbers`."""
    try:
        return _numbers(column)
    except pa.ArrowException:
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    found = pc.extract_regex(column, _SEXAGESIMAL)
    whole, minutes, seconds = (_numbers(pc.struct_field(found, name)) for name in ("whole", "minutes", "seconds"))
    angle = (whole + minutes / 60 + seconds / 3600) * unit * np.where(pc.equal(pc.struct_field(found, "sign"), "-").fill_null(False), -1, 1)
    if (np.abs(angle) > largest).any():
        raise pa.ArrowInvalid("no position on the sky")
    plain = _numbers(pc.if_else(pc.is_valid(found), pa.scalar(None, pa.string()), column))
    return np.where(np.isnan(angle), plain, angle)


def _first_fault(column: pa.Array, convert: Callable[[pa.Array], np.ndarray]) -> int:
    """The first row that cannot be converted, by halving."""
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            convert(column[start:middle])
            start = middle
        except pa.ArrowException:
            stop = middle
    return start


def _identifiers(values: np.ndarray) -> np.ndarray:
    """Plate, mjd or fiber as int32; -1 where there is none. All are positive integers, so 0, -1, -9999, NaN and 12.5 are none."""
    good = np.isfinite(values) & (values >= 1) & (values < 2**31) & (values == np.floor(np.where(np.isfinite(values), values, 0)))
    return np.where(good, values, -1).astype(np.int32)


#: Whole numbers that a real one of so many bytes holds.
_EXACT = {2: 2**11, 4: 2**24, 8: 2**53}


def _long_identifiers(column: pa.Array) -> np.ndarray:
    """Identifiers of 64 bits, -1 where there is none. A real number that does not hold a whole one exactly is not what was meant."""
    if pa.types.is_floating(column.type):
        real = _numbers(column)
        exact = (real > 0) & (real < _EXACT[column.type.bit_width // 8]) & (real == np.floor(real))
        return np.where(exact, real, -1.0).astype(np.int64)
    if not pa.types.is_integer(column.type):
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        fits = pc.and_(pc.match_substring_regex(column, r"^\d{1,19}$"), pc.less_equal(pc.utf8_lpad(column, 19, "0"), f"{2**63 - 1}"))
        column = pc.if_else(fits, column, pa.scalar(None, pa.string()))
    elif column.type == pa.uint64():
        column = pc.if_else(pc.less(column, pa.scalar(2**63, pa.uint64())), column, pa.scalar(None, pa.uint64()))
    values = pc.cast(column, pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(values > 0, values, -1)


def _split_identifiers(column: pa.Array, separator: str, order: tuple[str, ...]) -> Rows:
    """One-string identifiers as three int32 columns; -1 where a string has not three numbers of at most nine digits."""
    pattern = re.escape(separator).join(rf"\s*(?P<{name}>[0-9]{{1,9}})\s*" for name in order)
    found = pc.extract_regex(pc.cast(column, pa.string()), f"^{pattern}$")
    return {name: _identifiers(_numbers(pc.struct_field(found, name))) for name in order}


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


def _placed(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Right ascensions from 0 to 360, where a catalogue has them from -180 to 180. Both -1 or -99 is no position."""
    return np.where((ra >= -180) & (ra < 0) & (ra != dec), ra + 360, ra)


def _canonical(raw: Mapping[str, pa.Array], catalog: Catalog, start: int, place: Callable[[int], str]) -> Rows:
    """Rows of the file's own columns, the first of them row `start`, in canonical columns."""
    columns = dict(catalog.columns)
    n_rows = len(next(iter(raw.values())))

    def numbers_of(name: str) -> np.ndarray:
        column, convert = raw[columns[name]], (lambda values: _degrees(values, *_UNITS[name])) if name in _UNITS else _numbers
        try:
            return convert(column)
        except pa.ArrowException:
            row = _first_fault(column, convert)
            raise CatalogError(
                f"Column '{columns[name]}' of catalogue '{catalog.path}', {place(start + row)}, holds text where numbers are expected: "
                f"{str(column[row])[:_SHOWN_TEXT]!r}."
            ) from None

    numbers = {name: numbers_of(name) for name in columns if name not in ("pmf", *LONG_IDS) and not name.startswith(_WHERE)}
    nothing = np.full(n_rows, np.nan)
    out: Rows = {"row": np.arange(start, start + n_rows, dtype=np.int64)}
    out |= {name: _identifiers(numbers.get(name, nothing)) for name in PLATE_MJD_FIBER}
    for name in LONG_IDS:
        out[name] = _long_identifiers(raw[columns[name]]) if name in columns else np.full(n_rows, -1, np.int64)
    if catalog.pmf:
        out |= _split_identifiers(raw[columns["pmf"]], *catalog.pmf)
    out |= {name: numbers.get(name, nothing) for name in (*_POSITION_COLUMNS, *_NUMBERS[catalog.kind])}
    out["ra"] = _placed(out["ra"], out["dec"])
    if catalog.kind == "absorbers":
        _clean_absorbers(out, numbers)
    else:
        out["z"] = np.where((out["z"] > 0) & (out["z"] < _Z_FILL), out["z"], np.nan)
        out["z_err"] = np.where((out["z_err"] > 0) & (out["z_err"] < np.inf), out["z_err"], np.nan)
        for name, texts in catalog.where.items():
            if (told := columns.get(f"{_WHERE}{name}")) is not None:
                said = pc.utf8_upper(pc.utf8_trim_whitespace(pc.cast(raw[told], pa.string())))
                out["z"][~pc.is_in(said, pa.array(texts)).to_numpy(zero_copy_only=False)] = np.nan
    return out


def _naming_files(raw: Mapping[str, pa.Array], catalog: Catalog, names: Sequence[str], n_rows: int) -> Rows:
    """What names files: int64, -1 where there is none; words in lower case, empty where there is none."""
    own, out = dict(catalog.files), Rows()
    for name in names:
        if name in FILE_NUMBERS:
            out[name] = _long_identifiers(raw[own[name]]) if name in own else np.full(n_rows, -1, np.int64)
        elif name in own:
            words = pc.utf8_lower(pc.utf8_trim_whitespace(pc.cast(raw[own[name]], pa.string()))).fill_null("")
            out[name] = pc.if_else(pc.match_substring_regex(words, _BLANK), "", words).to_numpy(zero_copy_only=False)
        else:
            out[name] = np.full(n_rows, "", object)
    return out


def read_rows(catalog: Catalog, files: Sequence[str] = ()) -> Iterator[Rows]:
    """Read a catalogue once, some ten thousand rows at a time.

    Parameters
    ----------
    catalog : Catalog
    files : sequence of str
        Of what names an archive's files: ``field`` (int64, -1 where not given), ``survey``, ``program`` (str in lower case, empty where not
        given), to be read too.

    Yields
    ------
    dict of ndarray, shape (n,)
        ``row`` (int64), counted from 0 through all of them; ``plate``, ``mjd``, ``fiber`` (int32), ``targetid``, ``catalogid`` (int64),
        -1 where not given; ``ra``, ``dec`` (deg, right ascension from 0) and the numbers of the kind (float64, NaN where not given): ``z``
        of quasars and its error ``z_err``; ``z_qso``, ``z_abs``, ``ew_primary``, ``ew_primary_err``, ``ew_secondary``,
        ``ew_secondary_err`` (rest Å) of absorbers. No row is left out: one without a usable identifier or position cannot match.

    Raises
    ------
    CatalogError
        Where the file has changed since it was opened, is damaged, or holds text where numbers belong.
    """
    path, start = Path(catalog.path), 0
    content = open_file(path, _known_names())
    own = [column for name, column in catalog.files if name in files]
    for raw in content.read(sorted({*(column for _, column in catalog.columns), *own})):
        rows = _canonical(raw, catalog, start, content.place)
        rows |= _naming_files(raw, catalog, files, len(rows["row"]))
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


def rows_given(converted: Path) -> dict[str, int]:
    """Count the rows that have a value, by column, of a catalogue as :func:`write_parquet` wrote it; a fill value is none."""
    about = pq.read_metadata(converted)
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    return {
        name: about.num_rows - sum(group.column(place).statistics.null_count for group in groups)
        for place, name in enumerate(about.schema.names)
    }


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

"""What an evaluation reads: the tables of a result, known absorbers, other catalogues, and the pixels of the spectra concerned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from nalspark.absorption.chain import PIXELS, on_lattice, prepare
from nalspark.absorption.normalize import Normalized
from nalspark.errors import NalsparkError, StoreError
from nalspark.judging.strength import ERRORS
from nalspark.lines import LineSpecies
from nalspark.surveys.catalogs import open_catalog, read_rows
from nalspark.surveys.crossmatch.sky import is_position, nearest
from nalspark.surveys.identity import ID_COLUMNS, KEYS, match_by_id
from nalspark.tables.arrow import decode
from nalspark.tables.result import Result, open_parquet, open_result, read_columns
from nalspark.tables.schemas import MATCHES, SPECTRA
from nalspark.tables.store import Store

#: Spectra that are held in memory together.
_BATCH_ROWS = 256
_SIGHTLINES = ("spectrum_id", "part", "path", *ID_COLUMNS, "ra", "dec", "z_qso", "snr", "z_start", "z_stop")
_DECLARED = {column.name: column for column in SPECTRA.columns}
_TRUTH = ("spectrum_id", "z_abs", "ew_primary", "ew_secondary")


@dataclass(frozen=True)
class Catalogue:
    """A result of `nalspark find` with the columns of its published tables that judging needs.

    Attributes
    ----------
    result : Result
    absorbers, sightlines : DataFrame
    """

    result: Result
    absorbers: pd.DataFrame
    sightlines: pd.DataFrame

    @property
    def species(self) -> LineSpecies:
        """The line species that was searched."""
        return self.result.species

    @property
    def has_pixels(self) -> bool:
        """Whether the spectra are still there."""
        return self.result.has(SPECTRA.name)


def read_result(folder: str | Path) -> Catalogue:
    """Read the published tables of a result.

    Raises
    ------
    StoreError
        Where the directory is not there, or holds no published catalogue.
    """
    result = open_result(folder)
    first, second = result.species.primary.label, result.species.secondary.label
    widths = [f"ew_{first}", f"ew_{first}_err", f"snr_{first}", f"snr_{second}"]
    names = ["spectrum_id", "z_abs", *widths, "fwhm_kms", "doublet_ratio", "score", "absorber_id"]
    absorbers = result.table("absorbers", names).to_pandas()
    return Catalogue(result, absorbers, _sightlines(result).drop_duplicates("spectrum_id", ignore_index=True))


def _sightlines(result: Result) -> pd.DataFrame:
    """The published sightlines, identifiers as whole numbers: -1 where there is none, as in a result of an earlier version."""
    known = result.dataset("sightlines").schema.names
    table = result.table("sightlines", [name for name in _SIGHTLINES if name in known or name not in ID_COLUMNS])
    for name in ID_COLUMNS:  # of whole numbers with gaps pandas makes real ones, which do not hold them
        if name in known:
            table = table.set_column(table.schema.get_field_index(name), name, table[name].fill_null(-1))
        else:
            table = table.append_column(name, pa.repeat(pa.scalar(-1, pa.int64()), table.num_rows))
    return table.to_pandas()


def read_truth(path: str | Path, catalogue: Catalogue) -> pd.DataFrame:
    """Read the known absorbers of the searched spectra, of any species; see :func:`nalspark.judging.evaluate.evaluate_result`.

    Raises
    ------
    NalsparkError
        Where it cannot be read, or none of its systems is in a searched spectrum.
    """
    if not Path(str(path).partition("::")[0]).exists():
        raise NalsparkError(f"There is no truth '{path}'; expected a Parquet file of known absorbers, or an absorber catalogue.")
    names = _parquet_names(Path(path)) if Path(path).exists() else []
    if all(name in names for name in _TRUTH):
        truth = _parquet_truth(Path(path), [name for name in (*_TRUTH, "species", "sigma_kms", *ERRORS) if name in names])
        known = truth[truth["spectrum_id"].isin(catalogue.sightlines["spectrum_id"])]
    else:
        truth = known = read_catalogue(path, catalogue)
    if known.empty and not (truth.empty and names):
        raise NalsparkError(
            f"No system of '{path}' lies in one of the {len(catalogue.sightlines)} searched spectra of {catalogue.result.root}: "
            "is it the truth of another survey?"
        )
    return known.reset_index(drop=True)


def _parquet_names(path: Path) -> list[str]:
    """The columns of a Parquet file or folder; none where it is something else."""
    try:
        return list(open_parquet(path).schema.names)
    except StoreError:
        return []


def _parquet_truth(path: Path, columns: list[str]) -> pd.DataFrame:
    truth = read_columns(open_parquet(path), columns, f"'{path}'").to_pandas()
    numbers = [name for name in columns if name not in ("spectrum_id", "species")]
    texts = [name for name in numbers if len(truth) and not pd.api.types.is_numeric_dtype(truth[name])]
    if texts:
        raise NalsparkError(f"Column '{texts[0]}' of '{path}' holds text where numbers are expected.")
    return truth.astype(dict.fromkeys(numbers, float))


def read_catalogue(path: str | Path, catalogue: Catalogue) -> pd.DataFrame:
    """Read an absorber catalogue's rows in the searched spectra; a row is there once for each spectrum of its quasar."""
    listed = open_catalog(path, "absorbers", [catalogue.species.name])
    rows = pd.concat(map(pd.DataFrame, read_rows(listed)), ignore_index=True)
    return assign_spectra(rows[rows["z_abs"].notna()], catalogue.sightlines, catalogue.result.settings.crossmatch.match_radius_arcsec)


def assign_spectra(rows: pd.DataFrame, sightlines: pd.DataFrame, radius_arcsec: float) -> pd.DataFrame:
    """Give catalogue rows the ``spectrum_id`` of the spectra of their quasar: by a key, else as the nearest on the sky.

    Parameters
    ----------
    rows : DataFrame
        The columns of the keys (-1 where not given), ``ra dec`` (NaN where not given).
    sightlines : DataFrame
    radius_arcsec : float
    """
    ids = list(ID_COLUMNS)
    has_id = pd.concat([(rows[list(key)] > 0).all(axis=1) for key in KEYS], axis=1).any(axis=1)
    by_id = match_by_id(rows, sightlines)
    spectra = sightlines[~sightlines["spectrum_id"].isin(by_id["spectrum_id"])]
    spectra = spectra[is_position(spectra["ra"].to_numpy(float), spectra["dec"].to_numpy(float))]
    placed = rows[is_position(rows["ra"].to_numpy(float), rows["dec"].to_numpy(float))]
    # Rows of one quasar: the same identifier, else the same position.
    keys = [placed[name].where(has_id[placed.index], -1) for name in ids]
    keys += [placed[name].mask(has_id[placed.index], 0.0) for name in ("ra", "dec")]
    placed = placed.assign(quasar=placed.groupby(keys).ngroup())
    quasars = placed.drop_duplicates("quasar")
    left, right = ((frame["ra"].to_numpy(float), frame["dec"].to_numpy(float)) for frame in (spectra, quasars))
    quasar, _ = nearest(left, right, quasars["quasar"].to_numpy(np.int64), radius_arcsec)
    seen = pd.DataFrame({"spectrum_id": spectra["spectrum_id"].to_numpy(), "quasar": quasar})
    on_sky = placed.merge(seen[seen["quasar"] >= 0], on="quasar").drop(columns="quasar")
    return pd.concat([frame for frame in (by_id, on_sky) if len(frame)] or [by_id], ignore_index=True)


def other_catalogues(catalogue: Catalogue, paths: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """Give name → systems in the searched spectra: of the files given, else of the catalogues that the result was crossmatched with."""
    if paths:
        names = [Path(str(path).partition("::")[0]).name for path in paths]
        # Two files of one name differ by their paths.
        keys = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
        return {key: read_catalogue(path, catalogue) for key, path in zip(keys, paths, strict=True)}
    if not catalogue.result.has(MATCHES.name):
        return {}
    return listed_systems(catalogue.result.table(MATCHES.name, LISTED).to_pandas())


#: Columns of the matches that say which systems a catalogue has in a spectrum.
LISTED = ("spectrum_id", "catalogue", "z_abs", "ew_primary")


def listed_systems(matches: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Give name → systems, one a row and sorted, of rows of the matches with the columns :data:`LISTED`."""
    rows = matches[matches["z_abs"].map(np.size, na_action="ignore") > 0]
    unknown = [[None] * len(z) for z in rows["z_abs"]]
    rows = rows.assign(ew_primary=rows["ew_primary"].where(rows["ew_primary"].notna(), pd.Series(unknown, rows.index, dtype=object)))
    systems = rows.explode(["z_abs", "ew_primary"]).dropna(subset="z_abs").astype({"z_abs": float, "ew_primary": float})
    systems = systems.sort_values(["catalogue", "spectrum_id", "z_abs"])
    return {str(name): group.reset_index(drop=True) for name, group in systems.groupby("catalogue")}


def pixels_of(catalogue: Catalogue, spectrum_id: pd.Series) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Normalized]]:
    """Read the spectra of some systems in batches, each spectrum once, however many systems it has.

    Parameters
    ----------
    catalogue : Catalogue
    spectrum_id : Series
        One a system.

    Yields
    ------
    row, spectrum : ndarray of int, shape (m,)
        Systems, counted from 0, and the spectrum of each in the batch. A system whose spectrum is not there comes in none.
    normalized : Normalized
        The batch, as :func:`pixels` gives it.

    Raises
    ------
    StoreError
        Where they cannot be read.
    """
    rows_of = {str(name): rows for name, rows in spectrum_id.reset_index(drop=True).groupby(spectrum_id.to_numpy()).indices.items()}
    for names, ready in pixels(catalogue, list(rows_of)):
        taken = [rows_of[str(name)] for name in names]
        yield np.concatenate(taken), np.repeat(np.arange(len(taken)), [len(some) for some in taken]), ready


def pixels(catalogue: Catalogue, spectra: Sequence[str]) -> Iterator[tuple[NDArray[Any], Normalized]]:
    """Read some spectra in batches and normalise them as the run did; only the parts that hold one of them are opened.

    Yields
    ------
    names : ndarray of str, shape (n,)
    normalized : Normalized, n of them

    Raises
    ------
    StoreError
        Where they cannot be read.
    """
    lines = catalogue.sightlines[catalogue.sightlines["spectrum_id"].isin(spectra)]
    store, settings = Store(catalogue.result.root), catalogue.result.settings
    recorded = catalogue.result.manifest.parts(SPECTRA.name)
    for name, searched in lines.groupby("part"):
        if name not in recorded or not recorded[str(name)].path:
            continue
        wanted = ds.field("path").isin(list(searched["path"])) & ds.field("spectrum_id").isin(list(searched["spectrum_id"]))
        targets = searched.set_index(["path", "spectrum_id"])["z_qso"]
        try:
            # Of a column that an earlier version did not know all is null.
            table = open_parquet(store.files(recorded[str(name)])).replace_schema(SPECTRA.arrow_schema)
            for batch in table.to_batches(columns=["path", "spectrum_id", *PIXELS], filter=wanted, batch_size=_BATCH_ROWS):
                named = zip(batch["path"].to_pylist(), batch["spectrum_id"].to_pylist(), strict=True)
                batch = batch.filter(pa.array([pair in targets.index for pair in named], pa.bool_()))
                if batch.num_rows:
                    columns = decode(batch, _DECLARED)
                    z_qso = targets.loc[list(zip(columns["path"], columns["spectrum_id"], strict=True))]
                    yield columns["spectrum_id"], prepare(on_lattice(columns), z_qso.to_numpy(float), settings)
        except (pa.ArrowException, OSError, StoreError) as error:
            raise StoreError(f"The spectra in '{recorded[str(name)].path}' of {store.root} cannot be read: {error}") from None

"""``nalspark evaluate``: a published catalogue against known absorbers and against other catalogues, in print, numbers and pictures.

Nothing here needs Spark: the published tables are small, and of the spectra only those concerned are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from matplotlib.figure import Figure

from nalspark import metrics
from nalspark.errors import NalsparkError, StoreError
from nalspark.judging import systems as judge
from nalspark.lines import LineSpecies
from nalspark.plots import evaluation as plots
from nalspark.plots.evaluation import Sheet
from nalspark.settings import Settings, from_tree
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import SDSS_GRID
from nalspark.surveys.catalogs import ID_COLUMNS, open_catalog, read_rows
from nalspark.surveys.crossmatch.sky import is_position, nearest
from nalspark.tables.arrow import decode
from nalspark.tables.manifest import Manifest
from nalspark.tables.schemas import MATCHES, NORMALIZED
from nalspark.tables.store import Store

#: Bins of the tables and pictures.
EW_EDGES = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, np.inf)
SNR_EDGES = (0.0, 2.0, 4.0, 6.0, 10.0, 20.0, np.inf)
Z_EDGES = np.round(np.arange(0.0, 6.01, 0.2), 1)
_SCORE_BINS = 8
#: Spectra that are held in memory together.
_BATCH_ROWS = 256
_SIGHTLINES = ("spectrum_id", "part", *ID_COLUMNS, "ra", "dec", "snr", "z_start", "z_stop")
_TRUTH = ("spectrum_id", "z_abs", "ew_primary", "ew_secondary")


@dataclass(frozen=True)
class Result:
    """A result of `nalspark find`.

    Attributes
    ----------
    store, manifest, settings
        The directory and what it says of itself.
    absorbers, sightlines : DataFrame
        The published tables.
    """

    store: Store
    manifest: Manifest
    settings: Settings
    absorbers: pd.DataFrame
    sightlines: pd.DataFrame

    @property
    def species(self) -> LineSpecies:
        return self.settings.line_species

    @property
    def has_pixels(self) -> bool:
        """Whether the normalised spectra are still there."""
        parts = [part for part in self.manifest.parts(NORMALIZED.name).values() if part.path]
        return bool(parts) and all((self.store.root / part.path).is_dir() for part in parts)


@dataclass
class Evaluation:
    """What is collected on the way.

    Attributes
    ----------
    heading : str
    numbers : dict
        Goes to evaluation.json.
    sheets : list of Sheet
    figures : dict
        File name → figure and caption.
    """

    heading: str
    numbers: dict[str, Any] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)
    figures: dict[str, tuple[Figure, str]] = field(default_factory=dict)

    def text(self) -> str:
        return "\n\n".join([self.heading, *(plots.as_text(sheet) for sheet in self.sheets)])


def evaluate_result(catalogue: str | Path, truth: str | Path | None = None, catalogues: Sequence[str | Path] = ()) -> Evaluation:
    """Judge a published catalogue.

    Parameters
    ----------
    catalogue : path
        Directory of a result.
    truth : path, optional
        Known absorbers: Parquet with ``spectrum_id z_abs ew_primary ew_secondary``, and as far as known ``sigma_kms species`` and the
        widths' errors, as `nalspark simulate survey` writes it; or an absorber catalogue that :func:`open_catalog` reads.
    catalogues : sequence of path
        Other catalogues of the same spectra; by default those that the result was crossmatched with.

    Returns
    -------
    Evaluation

    Raises
    ------
    NalsparkError
        Where a file is not there, lacks a column, or has nothing in common with the spectra, or there is nothing to compare with.
    """
    result = open_result(catalogue)
    others = _other_catalogues(result, catalogues)
    if truth is None and all(theirs.empty for theirs in others.values()):
        raise NalsparkError(
            f"There is nothing to judge {result.store.root} by: give --truth FILE or --catalogues FILE with systems in its spectra, "
            "or search again with --absorbers so that the result knows other catalogues."
        )
    heading = f"{result.store.root}: {len(result.absorbers)} {result.species.name} absorbers in {len(result.sightlines)} searched spectra"
    evaluation = Evaluation(heading, {"catalogue": str(result.store.root), "species": result.species.name})
    evaluation.numbers |= {"absorbers": len(result.absorbers), "sightlines": len(result.sightlines)}
    if truth is not None:
        _against_truth(evaluation, result, read_truth(truth, result))
        evaluation.heading += f"; truth: {truth}"
        evaluation.numbers["truth"] = str(truth)
    for name, theirs in others.items():
        if theirs.empty:
            evaluation.heading += f"; {name}: no system in these spectra, so nothing to compare"
        else:
            _against_catalogue(evaluation, result, name, theirs)
    return evaluation


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write ``evaluation.json``, ``evaluation.html`` and its pictures into a folder; what an earlier evaluation left is replaced.

    Raises
    ------
    NalsparkError
        Where the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (figure, _) in evaluation.figures.items():
            figure.savefig(out / name, dpi=150)
        text = json.dumps(_plain(evaluation.numbers), indent=1, ensure_ascii=False, allow_nan=False)
        (out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        captions = {name: caption for name, (_, caption) in evaluation.figures.items()}
        page = plots.evaluation_page(evaluation.heading, evaluation.sheets, captions)
        (out / "evaluation.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise NalsparkError(f"The evaluation cannot be written to '{out}': {error.strerror}. Give another folder with --out.") from None


def _plain(value: Any) -> Any:
    """JSON's types only; what is not finite is null."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- reading


def open_result(folder: str | Path) -> Result:
    """A result of `nalspark find`: its published tables, whole.

    Raises
    ------
    StoreError
        Where the directory is not there, or holds no published catalogue.
    """
    store = Store(folder)
    if not store.manifest_path.is_file():
        raise StoreError(f"{store.root} is no result of nalspark: it has no manifest.json. Name the --out of `nalspark find`.")
    manifest = store.manifest()
    settings = from_tree(manifest.settings, str(store.manifest_path))
    first, second = settings.line_species.primary.label, settings.line_species.secondary.label
    widths = [f"ew_{first}", f"ew_{first}_err", f"snr_{first}", f"snr_{second}"]
    absorbers = _published(store, "absorbers.parquet", ["spectrum_id", "z_abs", *widths, "fwhm_kms", "doublet_ratio", "score"])
    sightlines = _published(store, "sightlines.parquet", list(_SIGHTLINES))
    return Result(store, manifest, settings, absorbers, sightlines.drop_duplicates("spectrum_id", ignore_index=True))


def _published(store: Store, name: str, columns: list[str]) -> pd.DataFrame:
    path = store.published(name)
    if not path.exists():
        raise StoreError(f"{path} is not there: the result is not published yet. Run stage 'publish' first.")
    return _read_parquet(path, columns)


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file or folder.

    Raises
    ------
    StoreError
        Where it is not readable, or lacks one of them.
    """
    try:
        found = ds.dataset(path, format="parquet", partitioning=None)
        missing = [name for name in columns if name not in found.schema.names]
        if not missing:
            return found.to_table(columns=columns).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"'{path}' is not readable as Parquet: {error}.") from None
    raise StoreError(f"'{path}' has no column '{missing[0]}'; it has {', '.join(found.schema.names)}.")


def _parquet_names(path: Path) -> list[str]:
    """The columns of a Parquet file or folder; none where it is something else."""
    try:
        return list(ds.dataset(path, format="parquet", partitioning=None).schema.names)
    except (pa.ArrowException, OSError):
        return []


def read_truth(path: str | Path, result: Result) -> pd.DataFrame:
    """Known absorbers of the searched spectra, of any species; see :func:`evaluate_result`.

    Raises
    ------
    NalsparkError
        Where it cannot be read, or none of its systems is in a searched spectrum.
    """
    if not Path(str(path).partition("::")[0]).exists():
        raise NalsparkError(f"There is no truth '{path}'; expected a Parquet file of known absorbers, or an absorber catalogue.")
    names = _parquet_names(Path(path)) if Path(path).exists() else []
    if all(name in names for name in _TRUTH):
        truth = _parquet_truth(Path(path), [name for name in (*_TRUTH, "species", "sigma_kms", *judge.ERRORS) if name in names])
        known = truth[truth["spectrum_id"].isin(result.sightlines["spectrum_id"])]
    else:
        truth = known = read_catalogue(path, result)
    if known.empty and not (truth.empty and names):
        raise NalsparkError(
            f"No system of '{path}' lies in one of the {len(result.sightlines)} searched spectra of {result.store.root}: "
            "is it the truth of another survey?"
        )
    return known.reset_index(drop=True)


def _parquet_truth(path: Path, columns: list[str]) -> pd.DataFrame:
    truth = _read_parquet(path, columns)
    numbers = [name for name in columns if name not in ("spectrum_id", "species")]
    texts = [name for name in numbers if len(truth) and not pd.api.types.is_numeric_dtype(truth[name])]
    if texts:
        raise NalsparkError(f"Column '{texts[0]}' of '{path}' holds text where numbers are expected.")
    return truth.astype(dict.fromkeys(numbers, float))


def read_catalogue(path: str | Path, result: Result) -> pd.DataFrame:
    """An absorber catalogue's rows in the searched spectra; a row is there once for each spectrum of its quasar."""
    catalog = open_catalog(path, "absorbers", result.species.name)
    step = catalog.rows_per_read
    pieces = [pd.DataFrame(read_rows(catalog, start, start + step)) for start in range(0, catalog.n_rows, step)]
    rows = pd.concat(pieces, ignore_index=True)
    return assign_spectra(rows[rows["z_abs"].notna()], result.sightlines, result.settings.crossmatch.match_radius_arcsec)


def assign_spectra(rows: pd.DataFrame, sightlines: pd.DataFrame, radius_arcsec: float) -> pd.DataFrame:
    """Give catalogue rows the ``spectrum_id`` of the spectra of their quasar: by plate, mjd and fiber, else as the nearest on the sky.

    Parameters
    ----------
    rows : DataFrame
        ``plate mjd fiber`` (-1 where not given), ``ra dec`` (NaN where not given).
    sightlines : DataFrame
    radius_arcsec : float
    """
    ids = list(ID_COLUMNS)
    has_id = (rows[ids] > 0).all(axis=1)
    by_id = rows[has_id].merge(sightlines[["spectrum_id", *ids]], on=ids)
    spectra = sightlines[~sightlines["spectrum_id"].isin(by_id["spectrum_id"])]
    spectra = spectra[is_position(spectra["ra"].to_numpy(float), spectra["dec"].to_numpy(float))]
    placed = rows[is_position(rows["ra"].to_numpy(float), rows["dec"].to_numpy(float))]
    # Rows of one quasar: the same identifier, else the same position.
    keys = [placed[name].where(has_id[placed.index], -1) for name in ids]
    keys += [placed[name].mask(has_id[placed.index], 0.0) for name in ("ra", "dec")]
    placed = placed.assign(quasar=placed.groupby(keys).ngroup())
    quasars = placed.drop_duplicates("quasar")
    left, right = ((frame["ra"].to_numpy(float), frame["dec"].to_numpy(float)) for frame in (spectra, quasars))
    found, _ = nearest(left, right, quasars["quasar"].to_numpy(np.int64), radius_arcsec)
    seen = pd.DataFrame({"spectrum_id": spectra["spectrum_id"].to_numpy(), "quasar": found})
    on_sky = placed.merge(seen[seen["quasar"] >= 0], on="quasar").drop(columns="quasar")
    return pd.concat([frame for frame in (by_id, on_sky) if len(frame)] or [by_id], ignore_index=True)


def _other_catalogues(result: Result, paths: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """Name → systems in the searched spectra: of the files given, else of the catalogues that the result was crossmatched with."""
    if paths:
        names = [Path(str(path).partition("::")[0]).name for path in paths]
        # Two files of one name are told apart by their paths.
        return {
            name if names.count(name) == 1 else str(path): read_catalogue(path, result) for name, path in zip(names, paths, strict=True)
        }
    parts = [result.store.root / part.path for part in result.manifest.parts(MATCHES.name).values() if part.path]
    tables = [_read_parquet(path, ["spectrum_id", "catalogue", "z_abs"]) for path in parts if path.is_dir()]
    if not tables:
        return {}
    rows = pd.concat(tables, ignore_index=True)
    systems = rows.explode("z_abs").dropna(subset="z_abs").astype({"z_abs": float})
    return {str(name): group.reset_index(drop=True) for name, group in systems.groupby("catalogue")}


# ---- measuring


def measure_systems(result: Result, systems: pd.DataFrame) -> pd.DataFrame:
    """The doublet fit at given redshifts of searched spectra: of the table `normalized` only their rows are read, some at a time.

    Parameters
    ----------
    result : Result
    systems : DataFrame
        ``spectrum_id``, ``z_abs``.

    Returns
    -------
    DataFrame, one row per system in its order
        Columns of :func:`nalspark.absorption.measure.measure_candidates`; NaN where the spectrum is not there.
    """
    rows_of = {str(name): rows for name, rows in systems.reset_index(drop=True).groupby("spectrum_id").indices.items()}
    redshift, pieces = systems["z_abs"].to_numpy(dtype=float), []
    for columns in _pixels(result, list(rows_of)):
        taken = [rows_of[name] for name in columns["spectrum_id"]]
        rows, spectrum = np.concatenate(taken), np.repeat(np.arange(len(taken)), [len(some) for some in taken])
        spectra = Spectra(columns["flux"][spectrum], columns["ivar"][spectrum], columns["mask"][spectrum], SDSS_GRID)
        measured = judge.measure_at(spectra, columns["continuum"][spectrum], redshift[rows], result.species)
        pieces.append(pd.DataFrame(measured, index=rows))
    first, second = result.species.primary.label, result.species.secondary.label
    nothing = pd.DataFrame(columns=[f"{what}_{line}{end}" for line in (first, second) for what, end in (("ew", "_err"), ("snr", ""))])
    return pd.concat(pieces or [nothing]).reindex(np.arange(len(systems))).set_axis(systems.index)


def _pixels(result: Result, spectra: list[str]) -> Iterator[dict[str, Any]]:
    """Batches of the normalised spectra asked for."""
    declared = {column.name: column for column in NORMALIZED.columns}
    parts = result.sightlines.loc[result.sightlines["spectrum_id"].isin(spectra), "part"].unique()
    recorded = result.manifest.parts(NORMALIZED.name)
    names = ["spectrum_id", "flux", "ivar", "continuum", "mask"]
    for path in [recorded[part].path for part in parts if part in recorded and recorded[part].path]:
        try:
            table = ds.dataset(result.store.root / path, format="parquet", partitioning=None)
            wanted = ds.field("spectrum_id").isin(spectra) & ds.field("flux").is_valid()
            for batch in table.to_batches(columns=names, filter=wanted, batch_size=_BATCH_ROWS):
                if batch.num_rows:
                    yield decode(batch, declared)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"The normalised spectra in '{path}' of {result.store.root} cannot be read: {error}.") from None


def _truth_errors(matched: judge.Matched, result: Result) -> tuple[pd.DataFrame, dict[str, int]]:
    """Standard errors of the true systems in the searched path (see :mod:`nalspark.judging.systems`), and how many came from where."""
    truth, species = matched.truth[matched.truth["in_path"]], result.species
    errors = pd.DataFrame(np.nan, index=truth.index, columns=list(judge.ERRORS))
    known = [name for name in judge.ERRORS if name in truth]
    errors[known] = truth[known].astype(float).where(truth[known] > 0)
    given = errors.notna().to_numpy().all(axis=1)
    if result.has_pixels:
        measured = measure_systems(result, truth[~given])
        for name, line in zip(judge.ERRORS, (species.primary, species.secondary), strict=True):
            errors[name] = errors[name].fillna(measured[f"ew_{line.label}_err"].astype(float))
    fitted = errors.notna().to_numpy().all(axis=1) & ~given
    instrument = result.settings.measure.instrument_sigma_kms
    sigma = truth["sigma_kms"] if "sigma_kms" in truth else np.full(len(truth), np.nan)
    factor = judge.error_factor(matched.absorbers, species, SDSS_GRID, instrument)
    estimated = judge.estimate_errors(truth["snr"], sigma, species, SDSS_GRID, instrument)
    for name, values in zip(judge.ERRORS, estimated, strict=True):
        errors[name] = errors[name].fillna(pd.Series(factor * values, index=truth.index))
    estimated_count = int((~given & ~fitted).sum())
    sources = {"given by the truth": int(given.sum()), "fitted at the true redshift": int(fitted.sum())}
    return errors, {**sources, "estimated from the S/N": estimated_count}


# ---- what is told


def _against_truth(evaluation: Evaluation, result: Result, truth: pd.DataFrame) -> None:
    matched = judge.match_truth(result.absorbers, result.sightlines, truth, result.species)
    errors, sources = _truth_errors(matched, result)
    own = matched.truth.assign(**{name: errors[name] for name in judge.ERRORS})
    own["strong"] = judge.is_strong(own)
    matched = judge.Matched(own, matched.absorbers, matched.others)
    _per_spectrum(evaluation, matched, result, sources)
    _per_absorber(evaluation, matched, result.species)
    if len(matched.others):
        _other_species(evaluation, matched, result)
    groups = judge.distributions(matched, result.species)
    figure = plots.distributions_figure(groups, _distribution_panels(groups, result.species))
    caption = "Found and missed systems in the searched path by their true values; spurious ones by the catalogue's."
    evaluation.figures["distributions.png"] = figure, caption


def _distribution_panels(groups: Mapping[str, pd.DataFrame], species: LineSpecies) -> dict[str, tuple[str, np.ndarray]]:
    z = pd.concat([frame["z_abs"] for frame in groups.values()])
    low, high = (np.floor(z.min() * 5) / 5, np.ceil(z.max() * 5) / 5) if len(z) else (0.0, 1.0)
    return {
        "z_abs": ("absorption redshift", np.linspace(low, max(high, low + 0.2), 13)),
        "ew": (f"rest equivalent width W({species.primary.label}) (Å)", np.arange(0.0, 4.01, 0.25)),
        "fwhm_kms": ("FWHM, instrument removed (km/s)", np.arange(0.0, 401.0, 25.0)),
        "doublet_ratio": ("doublet ratio", np.arange(0.6, 2.61, 0.1)),
    }


_RATES = {
    "accuracy": "accuracy", "precision": "precision", "recall": "recall (completeness)", "f1": "F1", "auc": "AUC of the score",
    "balanced_accuracy": "balanced accuracy (the paper's AUC)",
}  # fmt: skip
#: Zhao et al. (2019), Table 2: real and artificial test spectra.
_PUBLISHED = {
    "accuracy": (0.8971, 0.8649), "precision": (0.8977, 0.8165), "recall": (0.8524, 0.8710), "f1": (0.8729, 0.8428),
    "balanced_accuracy": (0.8907, 0.8658),
}  # fmt: skip


def _per_spectrum(evaluation: Evaluation, matched: judge.Matched, result: Result, sources: Mapping[str, int]) -> None:
    spectra = judge.sightline_outcomes(matched, result.sightlines)
    label, score, called = (spectra[name].to_numpy() for name in ("label", "score", "predicted"))

    def all_metrics(label: np.ndarray, score: np.ndarray, called: np.ndarray) -> dict[str, float]:
        return metrics.binary_metrics(label, score, predicted=called)

    values, errors = all_metrics(label, score, called), metrics.bootstrap_errors(all_metrics, label, score, called)
    tp_right = int((spectra["label"] & spectra["predicted"] & spectra["found_strong"]).sum())
    fp_weak = int((~spectra["label"] & spectra["predicted"] & spectra["weak"]).sum())
    inside = matched.truth[matched.truth["in_path"]]
    evaluation.numbers["per_spectrum"] = {
        "metrics": values, "errors": {name: errors[name] for name in _RATES if name in errors}, "tp_with_a_strong_system_found": tp_right,
        "fp_with_a_weak_system": fp_weak, "systems_in_path": len(inside), "strong_in_path": int(inside["strong"].sum()),
        "sigma": dict(sources),
    }  # fmt: skip
    rows = []
    for name, text in _RATES.items():
        paper = [f"{number:.3f}" for number in _PUBLISHED.get(name, ())] or ["", ""]
        rows.append([text, _number(values[name], 3), _number(errors.get(name, math.nan), 3), *paper])
    note = (
        f"TP {values['tp']}, TN {values['tn']}, FP {values['fp']}, FN {values['fn']}. A spectrum is positive if a true system in the path "
        f"searched has W >= {judge.STRONG_EW} Å and both lines at {judge.STRONG_SIGNIFICANCE:.0f} sigma ({int(inside['strong'].sum())} of "
        f"{len(inside)} systems), and called positive if the catalogue has an absorber there; what the truth does not list is not there. "
        "Sigma: "
        + "; ".join(f"{count} {how}" for how, count in sources.items() if count)
        + f". In {tp_right} of the TP the strong system itself was found; {fp_weak} of the FP hold a true system that is not strong."
    )
    heads = ["", "#this", "#+-", "#Zhao+19 real", "#artificial"]
    evaluation.sheets.append(Sheet("Per spectrum (Zhao et al. 2019, Table 2; their spectra are others)", heads, rows, note))
    _scores(evaluation, spectra, matched, values)


def _scores(evaluation: Evaluation, spectra: pd.DataFrame, matched: judge.Matched, values: Mapping[str, float]) -> None:
    """ROC and reliability."""
    false_rate, true_rate = metrics.roc_curve(spectra["label"], spectra["score"])
    curve = metrics.reliability(matched.absorbers["true"], matched.absorbers["score"], _SCORE_BINS)
    published = (1.0 - values["specificity"], values["recall"])
    drawn = plots.ScoreCurves(
        false_rate, true_rate, published, values["auc"], curve.score, curve.fraction, curve.lower, curve.upper
    )  # fmt: skip
    caption = "Left: ROC curve of the spectra, scored by their best absorber, 0 without any. Right: the score, and what is true."
    evaluation.figures["scores.png"] = plots.scores_figure(drawn), caption
    evaluation.numbers["reliability"] = {
        "score": curve.score, "fraction": curve.fraction, "lower": curve.lower, "upper": curve.upper, "count": curve.count,
        "expected_calibration_error": curve.expected_calibration_error,
    }  # fmt: skip


def _per_absorber(evaluation: Evaluation, matched: judge.Matched, species: LineSpecies) -> None:
    inside = matched.truth[matched.truth["in_path"]]
    rows, width = matched.absorbers, f"ew_{species.primary.label}"
    of_truth: dict[str, tuple[str, Any]] = {"ew": ("ew_primary", EW_EDGES), "z_abs": ("z_abs", Z_EDGES), "snr": ("snr", SNR_EDGES)}
    complete = {key: judge.fractions(inside[column], inside["found"], edges) for key, (column, edges) in of_truth.items()}
    score_edges = judge.equal_count_edges(rows["score"], _SCORE_BINS)
    of_rows: dict[str, tuple[str, Any]] = {
        "score": ("score", score_edges),
        "ew": (width, EW_EDGES),
        "z_abs": ("z_abs", Z_EDGES),
        "snr": ("snr", SNR_EDGES),
    }
    pure = {key: judge.fractions(rows[column], rows["true"], edges) for key, (column, edges) in of_rows.items() if len(edges) > 1}
    by_snr = {
        _range("S/N", low, high): judge.fractions(some["ew_primary"], some["found"], EW_EDGES)
        for low, high in zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True)
        if len(some := inside[(inside["snr"] >= low) & (inside["snr"] < high)])
    }
    evaluation.numbers |= {"completeness": complete, "completeness_ew_by_snr": by_snr, "purity": pure}
    error = evaluation.numbers["reliability"]["expected_calibration_error"]
    notes = (
        "Of the true systems in the searched path, whatever their strength; intervals of 68 % (Wilson).",
        f"Of the catalogue's rows. Expected calibration error of the score: {_number(error, 3)} (only a probability can be calibrated).",
    )
    for title, what, tables, note in (("Completeness", "found", complete, notes[0]), ("Purity", "true", pure, notes[1])):
        total = (len(inside), int(inside["found"].sum())) if tables is complete else (len(rows), int(rows["true"].sum()))
        evaluation.sheets.append(_fraction_sheet(title, what, tables, total, note))
    labels = {"ew": f"W({species.primary.label}) (Å)", "z_abs": "absorption redshift", "snr": "S/N per pixel", "score": "score"}
    for name, tables in (("completeness", complete), ("purity", pure)):
        figure = plots.fractions_figure({labels[key]: table for key, table in tables.items()}, name)
        evaluation.figures[f"{name}.png"] = (
            figure,
            f"{name.capitalize()} with 68 % intervals; above, the systems in each bin.",
        )
    figure = plots.curves_figure(by_snr, f"true rest equivalent width W({species.primary.label}) (Å)", "completeness")
    evaluation.figures["completeness_ew.png"] = (
        figure,
        "Completeness by equivalent width, for ranges of the S/N per pixel.",
    )


_SYMBOLS = {"ew": "W", "z_abs": "z", "snr": "S/N", "score": "score"}


def _fraction_sheet(title: str, what: str, tables: Mapping[str, pd.DataFrame], total: tuple[int, int], note: str) -> Sheet:
    """`tables` with the total, (trials, successes), on top."""
    lower, upper = metrics.binomial_interval([total[1]], [total[0]])
    rate = total[1] / total[0] if total[0] else math.nan
    rows = [["all", str(total[1]), str(total[0]), _number(rate, 3), f"{lower[0]:.3f}-{upper[0]:.3f}"]]
    for key, table in tables.items():
        for row in table.to_dict("records"):
            interval = f"{row['lower']:.3f}-{row['upper']:.3f}"
            bounds = _range(_SYMBOLS[key], row["low"], row["high"])
            rows.append([bounds, str(row["successes"]), str(row["trials"]), f"{row['fraction']:.3f}", interval])
    return Sheet(title, ["", f"#{what}", "#of", "#fraction", "#68 %"], rows, note)


def _range(symbol: str, low: float, high: float) -> str:
    if not np.isfinite(high):
        return f"{symbol} above {low:.3g}"
    digits = next((n for n in range(3, 7) if f"{low:.{n}g}" != f"{high:.{n}g}"), 0)
    return f"{symbol} {low:.{digits}g}-{high:.{digits}g}" if digits else f"{symbol} {low:.3g}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _other_species(evaluation: Evaluation, matched: judge.Matched, result: Result) -> None:
    outcomes = judge.species_outcomes(matched, result.sightlines, result.species)
    evaluation.numbers["species"] = {"systems": outcomes.systems, "spurious": outcomes.spurious}
    rows = [[str(cell) for cell in row] for row in outcomes.systems.to_numpy()]
    spurious = ", ".join(f"{count} on {name}" for name, count in outcomes.spurious.items())
    note = (
        "Systems with a line where the doublet was searched. Mistaken: a catalogue row that is no true system of its own has its first or "
        f"second line on one of theirs. Spurious rows of the catalogue by what they sit on: {spurious}."
    )
    heads = ["true species", "#systems", f"#found as {result.species.name}", f"#mistaken for {result.species.name}", "#unseen"]
    evaluation.sheets.append(Sheet("Species", heads, rows, note))


def _against_catalogue(evaluation: Evaluation, result: Result, name: str, theirs: pd.DataFrame) -> None:
    found = judge.agreement(result.absorbers, result.sightlines, theirs)
    listed = int(found.only_ours["spectrum_id"].isin(theirs["spectrum_id"]).sum())
    told: dict[str, Any] = {
        "systems": len(theirs), "in_common": len(found.in_common), "only_ours": len(found.only_ours), "only_ours_in_listed_spectra": listed,
        "only_theirs": len(found.only_theirs), "outside_the_path": found.outside,
    }  # fmt: skip
    rows = [
        ["in common", str(told["in_common"]), "", ""],
        ["only ours", str(told["only_ours"]), "", f"{listed} of them in spectra that it lists"],
        ["only theirs, in the searched path", str(told["only_theirs"]), "", f"{found.outside} more outside it"],
    ]
    note = "The normalised spectra are not there any more: the disagreements cannot be measured again."
    if result.has_pixels:
        note = _measured_again(result, found, told, rows)
    evaluation.numbers.setdefault("catalogues", {})[name] = told
    title = f"{name}: {len(theirs)} systems in the searched spectra"
    evaluation.sheets.append(Sheet(title, ["", "#systems", "#pass 3 sigma", ""], rows, note))


def _measured_again(result: Result, found: judge.Agreement, told: dict[str, Any], rows: list[list[str]]) -> str:
    """Measure the disagreements, fill in what passes, and say what follows from it."""
    confirmed = {}
    for number, (side, systems) in enumerate((("only_ours", found.only_ours), ("only_theirs", found.only_theirs)), start=1):
        passed = judge.passes(measure_systems(result, systems), result.species)
        confirmed[side], told[f"{side}_pass"] = systems.assign(confirmed=passed), int(passed.sum())
        rows[number][2] = str(int(passed.sum()))
    judged = judge.Agreement(found.in_common, confirmed["only_ours"], confirmed["only_theirs"], found.outside)
    counts = judge.disagreements(judged, result.absorbers, result.sightlines)
    ours, theirs = counts.corrected_accuracies()
    told["spectra"] = {**vars(counts), "agreement": counts.agreement_rate(), "accuracy_ours": ours, "accuracy_theirs": theirs}
    return (
        f"Disagreements measured again with the doublet fit at their redshifts. Spectra: {counts.both} with a system in both; "
        f"{counts.only_ours} in ours only, {counts.ours_confirmed} pass; {counts.only_theirs} in theirs only, {counts.theirs_confirmed} "
        f"pass; {counts.neither} in neither: agreement {_number(counts.agreement_rate(), 3)}. If the measurement is right, ours is right "
        f"in {_number(ours, 3)} of the spectra, theirs in {_number(theirs, 3)} (Zhao et al. 2019: .941 and .923). Where the two agree both "
        "are taken to be right; a spectrum that it does not list counts as without a system; our rows have passed a fit like this before."
    )

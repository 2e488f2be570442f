"""``nalspark evaluate``: a published catalogue against known absorbers, people's labels and other catalogues, in numbers.

Nothing here needs Spark: the published tables are small, and of the spectra only those concerned are read. What is printed and drawn of the
numbers is in :mod:`nalspark.judging.page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nalspark import metrics
from nalspark.errors import NalsparkError
from nalspark.judging.inputs import Catalogue, other_catalogues, pixels_of, read_result, read_truth
from nalspark.judging.labelled import label_numbers
from nalspark.judging.match import Comparison, by_species, compare, disagreements, rounding_of, species_outcomes
from nalspark.judging.strength import ERRORS, FWHM_PER_SIGMA, error_factor, estimate_errors, is_strong, measure_at, passes
from nalspark.judging.worth import expected_completeness, result_purity
from nalspark.lines import LineSpecies
from nalspark.spectra.grid import LATTICE
from nalspark.tables.result import Result

Array = NDArray[np.float64]

#: Bins of the tables and pictures.
EW_EDGES = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, np.inf)
SNR_EDGES = (0.0, 2.0, 4.0, 6.0, 10.0, 20.0, np.inf)
Z_EDGES = np.round(np.arange(0.0, 6.01, 0.2), 1)
_SCORE_BINS = 8


@dataclass
class Evaluation:
    """A catalogue judged.

    Attributes
    ----------
    heading : str
    species : LineSpecies
    numbers : dict
        All that was counted; goes to evaluation.json.
    roc : pair of ndarray, shape (k,)
        False and true positive rates of the spectra, scored by their best absorber; empty without a truth.
    groups : dict
        Result of :func:`distributions`; empty without a truth.
    """

    heading: str
    species: LineSpecies
    numbers: dict[str, Any] = field(default_factory=dict)
    roc: tuple[Array, Array] = (np.zeros(0), np.zeros(0))
    groups: dict[str, pd.DataFrame] = field(default_factory=dict)


def evaluate_result(
    folder: str | Path,
    truth: str | Path | None = None,
    catalogues: Sequence[str | Path] = (),
    labels: pd.DataFrame | None = None,
    label_errors: tuple[float, float] | None = None,
) -> Evaluation:
    """Judge a published catalogue.

    Parameters
    ----------
    folder : path
        Directory of a result.
    truth : path, optional
        Known absorbers: Parquet with ``spectrum_id z_abs ew_primary ew_secondary``, and as far as known ``sigma_kms species`` and the
        widths' errors, as `nalspark simulate survey` writes it; or an absorber catalogue that
        :func:`nalspark.surveys.catalogs.open_catalog` reads.
    catalogues : sequence of path
        Other catalogues of the same spectra; by default those that the result was crossmatched with.
    labels : DataFrame, optional
        What people say, see :func:`nalspark.judging.labelled.join_labels`.
    label_errors : pair of float, optional
        How often they take for an absorber what is none, and the reverse.

    Returns
    -------
    Evaluation

    Raises
    ------
    NalsparkError
        Where a file is not there, lacks a column, or has nothing in common with the spectra, or there is nothing to compare with.
    """
    catalogue = read_result(folder)
    root, species = catalogue.result.root, catalogue.species
    others = other_catalogues(catalogue, catalogues)
    if truth is None and labels is None and all(theirs.empty for theirs in others.values()):
        raise NalsparkError(
            f"There is nothing to judge {root} by: give --truth FILE, --labels PATH or --catalogues FILE with systems in its spectra, "
            "or search again with --absorbers so that the result knows other catalogues."
        )
    heading = f"{root}: {len(catalogue.absorbers)} {species.name} absorbers in {len(catalogue.sightlines)} searched spectra"
    evaluation = Evaluation(heading, species, {"catalogue": str(root), "species": species.name})
    evaluation.numbers |= {"absorbers": len(catalogue.absorbers), "sightlines": len(catalogue.sightlines)}
    if truth is not None:
        _against_truth(evaluation, catalogue, read_truth(truth, catalogue))
        evaluation.heading += f"; truth: {truth}"
        evaluation.numbers["truth"] = str(truth)
    if labels is not None:
        evaluation.numbers["labels"] = label_numbers(catalogue.absorbers, labels, species, label_errors)
        evaluation.heading += f"; labels of {len(labels)} systems"
    for name, theirs in others.items():
        if theirs.empty:
            evaluation.heading += f"; {name}: no system in these spectra, so nothing to compare"
        else:
            evaluation.numbers.setdefault("catalogues", {})[name] = _against_catalogue(catalogue, theirs)
    return evaluation


# ---- measuring


def measure_systems(catalogue: Catalogue, systems: pd.DataFrame) -> pd.DataFrame:
    """Fit the doublet at given redshifts of searched spectra: only their rows are read, some at a time.

    Parameters
    ----------
    catalogue : Catalogue
    systems : DataFrame
        ``spectrum_id``, ``z_abs``.

    Returns
    -------
    DataFrame, one row per system in its order
        Columns of :func:`nalspark.absorption.measure.measure_candidates`; NaN where the spectrum is not there.
    """
    redshift, pieces = systems["z_abs"].to_numpy(dtype=float), []
    for rows, spectrum, ready in pixels_of(catalogue, systems["spectrum_id"]):
        measured = measure_at(ready.spectra.take(spectrum), ready.continuum[spectrum], redshift[rows], catalogue.species)
        pieces.append(pd.DataFrame(measured, index=rows))
    lines = (catalogue.species.primary.label, catalogue.species.secondary.label)
    nothing = pd.DataFrame(columns=[f"{what}_{line}{end}" for line in lines for what, end in (("ew", "_err"), ("snr", ""))])
    return pd.concat(pieces or [nothing]).reindex(np.arange(len(systems))).set_axis(systems.index)


def _truth_errors(compared: Comparison, catalogue: Catalogue) -> tuple[pd.DataFrame, dict[str, int]]:
    """Standard errors of the true systems in the searched path (see :mod:`nalspark.judging.strength`), and how many came from where."""
    truth, species, known = compared.inside, catalogue.species, [name for name in ERRORS if name in compared.truth]
    errors = pd.DataFrame(np.nan, index=truth.index, columns=list(ERRORS))
    errors[known] = truth[known].astype(float).where(truth[known] > 0)
    given = errors.notna().to_numpy().all(axis=1)
    if catalogue.has_pixels:
        measured = measure_systems(catalogue, truth[~given])
        for name, line in zip(ERRORS, (species.primary, species.secondary), strict=True):
            errors[name] = errors[name].fillna(measured[f"ew_{line.label}_err"].astype(float))
    fitted = errors.notna().to_numpy().all(axis=1) & ~given
    instrument = catalogue.result.settings.measure.instrument_sigma_kms
    sigma = truth["sigma_kms"] if "sigma_kms" in truth else np.full(len(truth), np.nan)
    factor = error_factor(compared.absorbers, species, LATTICE, instrument)
    for name, values in zip(ERRORS, estimate_errors(truth["snr"], sigma, species, LATTICE, instrument), strict=True):
        errors[name] = errors[name].fillna(pd.Series(factor * values, index=truth.index))
    sources = {"given by the truth": given, "fitted at the true redshift": fitted, "estimated from the S/N": ~given & ~fitted}
    return errors, {name: int(which.sum()) for name, which in sources.items()}


# ---- against the truth


def _against_truth(evaluation: Evaluation, catalogue: Catalogue, truth: pd.DataFrame) -> None:
    own, others = by_species(truth, catalogue.species)
    compared = compare(catalogue.absorbers, catalogue.sightlines, own, rounding_of(own["z_abs"]))
    errors, sources = _truth_errors(compared, catalogue)
    known = compared.truth.assign(**{name: errors[name] for name in ERRORS})
    compared = replace(compared, truth=known.assign(strong=is_strong(known)))
    spectra = sightline_outcomes(compared, catalogue.sightlines)
    evaluation.roc = metrics.roc_curve(spectra["label"], spectra["score"])
    evaluation.groups = distributions(compared, catalogue.species)
    evaluation.numbers |= {
        "per_spectrum": {**_per_spectrum(spectra, compared), "sigma": sources},
        **_per_absorber(compared, catalogue.species),
        **_expected(compared.inside, catalogue.result),
    }
    if len(others):
        outcomes = species_outcomes(compared, others, catalogue.sightlines, catalogue.species)
        evaluation.numbers["species_outcomes"] = {"systems": outcomes.systems, "spurious": outcomes.spurious}


def sightline_outcomes(compared: Comparison, sightlines: pd.DataFrame) -> pd.DataFrame:
    """Give label, decision and score of every searched spectrum, as Zhao et al. (2019) count them.

    Parameters
    ----------
    compared : Comparison
        Its truth with a column ``strong``.
    sightlines : DataFrame

    Returns
    -------
    DataFrame, one row per sightline
        ``spectrum_id``; ``label``: a strong true system lies in the searched path; ``predicted``: the catalogue has an absorber here;
        ``score``: the best of its absorbers, 0 without any; ``found_strong``: one of the strong systems itself was found;
        ``weak``: there are true systems, but no strong one in the path.
    """
    truth, rows = compared.truth, compared.absorbers
    strong = truth["strong"] & truth["in_path"]
    out = sightlines[["spectrum_id"]].reset_index(drop=True)
    best = rows.groupby("spectrum_id")["score"].max()
    out["label"] = out["spectrum_id"].isin(truth.loc[strong, "spectrum_id"])
    out["predicted"] = out["spectrum_id"].isin(rows["spectrum_id"])
    out["score"] = out["spectrum_id"].map(best).fillna(0.0).astype(float)
    out["found_strong"] = out["spectrum_id"].isin(truth.loc[strong & truth["found"], "spectrum_id"])
    out["weak"] = out["spectrum_id"].isin(truth["spectrum_id"]) & ~out["label"]
    return out


def _decided(label: ArrayLike, score: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    return metrics.binary_metrics(label, score, predicted=predicted)


def _per_spectrum(spectra: pd.DataFrame, compared: Comparison) -> dict[str, Any]:
    """The metrics of Zhao et al. (2019, Table 2) with bootstrap errors, and what their counts consist of."""
    columns = [spectra[name].to_numpy() for name in ("label", "score", "predicted")]
    values, errors, inside = _decided(*columns), metrics.bootstrap_errors(_decided, *columns), compared.inside
    return {
        "metrics": values,
        "errors": {name: error for name, error in errors.items() if name not in ("specificity", "tp", "tn", "fp", "fn")},
        "tp_with_a_strong_system_found": int((spectra["label"] & spectra["predicted"] & spectra["found_strong"]).sum()),
        "fp_with_a_weak_system": int((~spectra["label"] & spectra["predicted"] & spectra["weak"]).sum()),
        "systems_in_path": len(inside),
        "strong_in_path": int(inside["strong"].sum()),
    }


def _per_absorber(compared: Comparison, species: LineSpecies) -> dict[str, Any]:
    """Completeness and purity in bins, and how far the score is a probability."""
    inside, rows = compared.inside, compared.absorbers
    edges: dict[str, ArrayLike] = {"ew": EW_EDGES, "z_abs": Z_EDGES, "snr": SNR_EDGES}
    score = equal_count_edges(rows["score"], _SCORE_BINS)
    of_rows = {**({"score": score} if len(score) > 1 else {}), **edges}
    curve = metrics.reliability(rows["true"], rows["score"], _SCORE_BINS)
    ranges = zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True)
    by_snr = {pair: inside[(inside["snr"] >= pair[0]) & (inside["snr"] < pair[1])] for pair in ranges}
    return {
        "reliability": {**vars(curve), "expected_calibration_error": curve.expected_calibration_error},
        "systems": {"in_path": len(inside), "found": int(inside["found"].sum()), "true_rows": int(rows["true"].sum())},
        "completeness": {
            key: fractions(inside["ew_primary" if key == "ew" else key], inside["found"], cuts) for key, cuts in edges.items()
        },
        "completeness_ew_by_snr": {
            bin_name("snr", *pair): fractions(some["ew_primary"], some["found"], EW_EDGES) for pair, some in by_snr.items() if len(some)
        },
        "purity": {
            key: fractions(rows[f"ew_{species.primary.label}" if key == "ew" else key], rows["true"], cuts) for key, cuts in of_rows.items()
        },
    }


def _expected(inside: pd.DataFrame, result: Result) -> dict[str, Any]:
    """What the completeness function of the catalogue foretells of the true systems in the path, by W: nothing where it is not known."""
    if not result.has("completeness") or not result.table("completeness", ["completeness"])["completeness"].is_valid().to_numpy().any():
        return {}
    chance = expected_completeness(result, inside)
    known = inside.assign(expected=chance, variance=chance * (1.0 - chance))[np.isfinite(chance)]
    table = fractions(known["ew_primary"], known["found"], EW_EDGES)
    of_bin = np.searchsorted(table["low"], known["ew_primary"], "right") - 1
    sums = known.groupby(of_bin)[["expected", "variance"]].sum()
    purity = result_purity(result)
    how = {"by_decoys": purity.by_decoys, "by_score": purity.by_score, "n_decoys": purity.n_decoys, "n_pieces": purity.n_pieces}
    return {"worth": {"expected": table.assign(expected=sums["expected"], error=np.sqrt(sums["variance"])), **how}}


_SYMBOLS = {"ew": "W", "z_abs": "z", "snr": "S/N", "score": "score"}


def bin_name(key: str, low: float, high: float) -> str:
    """Name a bin of ``ew``, ``z_abs``, ``snr`` or ``score``, with as many digits as tell its ends apart."""
    if not np.isfinite(high):
        return f"{_SYMBOLS[key]} above {low:.3g}"
    digits = next((n for n in range(3, 7) if f"{low:.{n}g}" != f"{high:.{n}g}"), 0)
    return f"{_SYMBOLS[key]} {low:.{digits}g}-{high:.{digits}g}" if digits else f"{_SYMBOLS[key]} {low:.3g}"


def fractions(values: ArrayLike, success: ArrayLike, edges: ArrayLike) -> pd.DataFrame:
    """Count how many succeed in bins of a quantity: completeness where success is found, purity where it is true.

    Parameters
    ----------
    values : array, shape (m,)
    success : array of bool, shape (m,)
    edges : array, shape (b + 1,)
        Ascending; a bin has its lower edge and not its upper one, but the last has both. Values outside are left out, as is NaN.

    Returns
    -------
    DataFrame, one row per bin that is not empty
        ``low high successes trials fraction lower upper``: the last two are the 68 % interval.
    """
    cuts, value, good = np.asarray(edges, dtype=float), np.asarray(values, dtype=float), np.asarray(success, dtype=bool)
    trials, successes = (np.histogram(some, cuts)[0] for some in (value, value[good]))
    lower, upper = metrics.binomial_interval(successes, trials)
    table = pd.DataFrame({
        "low": cuts[:-1], "high": cuts[1:], "successes": successes, "trials": trials,
        "fraction": successes / np.maximum(trials, 1), "lower": lower, "upper": upper,
    })  # fmt: skip
    return table[table["trials"] > 0].reset_index(drop=True)


def equal_count_edges(values: ArrayLike, bins: int) -> Array:
    """Give edges of at most so many bins of about equally many values; the last is just above the largest. Empty without values."""
    finite = np.sort(np.asarray(values, dtype=float))
    finite = finite[np.isfinite(finite)]
    return np.unique([*finite[np.arange(bins) * len(finite) // bins], np.nextafter(finite[-1], np.inf)]) if len(finite) else finite


def distributions(compared: Comparison, species: LineSpecies) -> dict[str, pd.DataFrame]:
    """Give found, missed and spurious systems by redshift, strength, width and doublet ratio (Zhao et al. 2019, fig. 7).

    Found and missed systems come with their true values, spurious ones with those of the catalogue. FWHM in km/s has no instrument in it.

    Returns
    -------
    dict
        ``found``, ``missed`` (in the searched path), ``spurious`` → DataFrame of ``z_abs ew fwhm_kms doublet_ratio``.
    """
    names = ["z_abs", "ew", "fwhm_kms", "doublet_ratio"]

    def true(systems: pd.DataFrame) -> pd.DataFrame:
        sigma = systems["sigma_kms"] if "sigma_kms" in systems else pd.Series(np.nan, index=systems.index)
        ratio = systems["ew_primary"] / systems["ew_secondary"].where(systems["ew_secondary"] > 0)
        return pd.concat([systems["z_abs"], systems["ew_primary"], FWHM_PER_SIGMA * sigma, ratio], axis=1, keys=names).astype(float)

    rows = compared.spurious[["z_abs", f"ew_{species.primary.label}", "fwhm_kms", "doublet_ratio"]]
    return {"found": true(compared.in_common), "missed": true(compared.missed), "spurious": rows.set_axis(names, axis=1).astype(float)}


# ---- against another catalogue


def _against_catalogue(catalogue: Catalogue, theirs: pd.DataFrame) -> dict[str, Any]:
    """The agreement system by system and, where the pixels are there, what a measurement says of the disagreements."""
    rounding = rounding_of(theirs["z_abs"])
    compared = compare(catalogue.absorbers, catalogue.sightlines, theirs, rounding)
    ours, missed = compared.spurious, compared.missed
    numbers: dict[str, Any] = {
        "systems": len(theirs), "rounding": rounding, "in_common": len(compared.in_common), "only_ours": len(ours),
        "only_ours_in_listed_spectra": int(ours["spectrum_id"].isin(theirs["spectrum_id"]).sum()), "only_theirs": len(missed),
        "outside_the_path": len(theirs) - len(compared.in_common) - len(missed),
    }  # fmt: skip
    if catalogue.has_pixels:
        ours_pass, theirs_pass = (passes(measure_systems(catalogue, some), catalogue.species) for some in (ours, missed))
        counts = disagreements(compared, catalogue.sightlines, ours_pass, theirs_pass)
        right = counts.corrected_accuracies()
        numbers |= {"only_ours_pass": int(ours_pass.sum()), "only_theirs_pass": int(theirs_pass.sum())}
        numbers["spectra"] = {
            **vars(counts), "agreement": counts.agreement_rate(), "accuracy_ours": right[0], "accuracy_theirs": right[1]
        }  # fmt: skip
    return numbers

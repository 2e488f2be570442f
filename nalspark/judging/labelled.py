"""What people's labels say of a catalogue: its purity, by score and as a whole, and how far its scores are probabilities.

Labels come as what the reviewers say together (:func:`nalspark.review.labels.consensus`), a row per system. People may have looked at an
uneven sample of the scores: the whole is estimated stratum by stratum (:mod:`nalspark.sampling`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nalspark import metrics
from nalspark.errors import NalsparkError
from nalspark.judging.match import partners
from nalspark.lines import LineSpecies
from nalspark.sampling import STRATA, strata_of, stratified_fraction

#: The class that says that a row is real, and the one that says it is not; any other, or none, is unsure.
ABSORBER, NOT = "absorber", "not"
_BINS = 8


def join_labels(labels: pd.DataFrame, absorbers: pd.DataFrame, species: LineSpecies) -> tuple[pd.Series, dict[str, int]]:
    """Give catalogue rows the class of their labels: by the absorber's id, else where spectrum, species and redshift are the same system.

    Parameters
    ----------
    labels : DataFrame
        ``system``, ``spectrum_id``, ``species``, ``z``, ``class``: one row per system; null where not known.
    absorbers : DataFrame
        The catalogue: ``absorber_id``, ``spectrum_id``, ``z_abs``.
    species : LineSpecies
        Its species. Labels of another are left out; those that name none are taken to be of it.

    Returns
    -------
    classes : Series, with some of the index of `absorbers`
        What people say of the rows that they looked at: ``absorber``, ``not``, or else ``unsure``.
    counts : dict
        Systems ``by_id``, ``by_match``, ``unmatched`` and ``other_species``.
    """
    own = labels["species"].isna() | (labels["species"] == species.name)
    ours, rows = labels[own].reset_index(drop=True), absorbers.reset_index(drop=True)
    named = rows["absorber_id"].dropna().drop_duplicates()
    by_id = ours["system"].map(pd.Series(named.index, index=named)).fillna(-1).astype(int)
    by_id = by_id.mask(by_id.duplicated(), -1)  # one label a row
    rest = ours[(by_id < 0) & ours["spectrum_id"].notna() & np.isfinite(ours["z"])].rename(columns={"z": "z_abs"})
    free = rows.drop(index=by_id[by_id >= 0])
    by_match = partners(rest, free).reindex(ours.index, fill_value=-1)
    row = by_id.where(by_id >= 0, by_match)
    known = row >= 0
    classes = ours.loc[known, "class"].where(ours.loc[known, "class"].isin([ABSORBER, NOT]), "unsure")
    counts = {"by_id": (by_id >= 0).sum(), "by_match": (by_match >= 0).sum(), "unmatched": (~known).sum(), "other_species": (~own).sum()}
    joined = pd.Series(classes.to_numpy(dtype=object), index=absorbers.index[row[known]]).sort_index()
    return joined, {name: int(count) for name, count in counts.items()}


def label_numbers(
    absorbers: pd.DataFrame, labels: pd.DataFrame, species: LineSpecies, errors: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Judge a catalogue by people's labels.

    Parameters
    ----------
    absorbers : DataFrame
        The catalogue: ``absorber_id``, ``spectrum_id``, ``z_abs``, ``score``.
    labels : DataFrame
        As for :func:`join_labels`.
    species : LineSpecies
    errors : pair of float, optional
        How often people take for an absorber what is none, and the reverse; where given, the purity is corrected for it as well.

    Returns
    -------
    dict
        ``systems`` labelled and how they were joined, see :func:`join_labels`; ``absorber``, ``not``, ``unsure``: rows so labelled;
        ``covered``: the part of the rows in strata of score that have labels; ``purity``, of these: see :func:`purity_of`; ``by_score``:
        see :func:`by_score`; ``reliability``: of the sure ones; ``mean_score`` of the whole catalogue.

    Raises
    ------
    NalsparkError
        Where no label is of a row of the catalogue.
    """
    classes, counts = join_labels(labels, absorbers, species)
    if classes.empty:
        raise NalsparkError(
            f"None of {len(labels)} labelled systems is one of the {len(absorbers)} rows of this catalogue ({species.name}): "
            "are they labels of another survey or species?"
        )
    said = {name: (classes == name).to_numpy() for name in (ABSORBER, NOT, "unsure")}
    scores = absorbers["score"].to_numpy(dtype=float)
    labelled = absorbers.loc[classes.index, "score"].to_numpy(dtype=float)
    sure = ~said["unsure"] & np.isfinite(labelled)
    curve = metrics.reliability(said[ABSORBER][sure], labelled[sure], _BINS)
    return {
        "systems": len(labels), **counts, **{name: int(rows.sum()) for name, rows in said.items()},
        "covered": float(_strata(scores)[_strata(labelled) > 0].sum() / max(len(scores), 1)),
        "purity": purity_of(scores, labelled, said[ABSORBER], said["unsure"], errors),
        "by_score": by_score(scores, labelled, said[ABSORBER], said["unsure"]),
        "reliability": {**vars(curve), "expected_calibration_error": curve.expected_calibration_error},
        "mean_score": float(np.nanmean(scores)),
    }  # fmt: skip


Flags = NDArray[np.bool_]


def _strata(scores: NDArray[np.float64], which: Flags | None = None) -> NDArray[np.int64]:
    """How many scores each stratum has, of those chosen; a score that is NaN is in none."""
    stratum = strata_of(scores)
    chosen = stratum >= 0 if which is None else (stratum >= 0) & which
    return np.bincount(stratum[chosen], minlength=len(STRATA) - 1)


def purity_of(
    scores: NDArray[np.float64],
    labelled: NDArray[np.float64],
    absorber: Flags,
    unsure: Flags,
    errors: tuple[float, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Estimate the purity of the whole catalogue from the labelled rows, weighted back by stratum of score.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Of all rows. Strata without any label are left out: of them nothing is known.
    labelled : ndarray, shape (n,)
        Of the labelled ones.
    absorber, unsure : ndarray of bool, shape (n,)
        What people say of them; what is neither is not an absorber.
    errors : pair of float, optional
        As for :func:`label_numbers`.

    Returns
    -------
    dict
        ``sure``: of the rows that people are sure of; ``least`` and ``most``: with those that they are unsure of as not, and as
        absorbers; with `errors` also ``corrected``, the sure ones after :func:`nalspark.metrics.rogan_gladen`. Each has ``fraction
        error lower upper`` of the whole, and ``successes``, ``trials`` of the labelled rows as they are.
    """
    sizes = np.where(_strata(labelled) > 0, _strata(scores), 0)
    cases = {"sure": (absorber, ~unsure), "least": (absorber, None), "most": (absorber | unsure, None)}
    purity: dict[str, dict[str, float]] = {}
    for name, (success, among) in cases.items():
        k, n = _strata(labelled, success), _strata(labelled, among)
        purity[name] = {**vars(stratified_fraction(k, n, sizes)), "successes": int(k.sum()), "trials": int(n.sum())}
    if errors:
        sure, scale = purity["sure"], 1.0 - sum(errors)
        ends = {name: float(np.clip(metrics.rogan_gladen(sure[name], *errors), 0.0, 1.0)) for name in ("fraction", "lower", "upper")}
        purity["corrected"] = {**sure, **ends, "error": sure["error"] / scale}
    return purity


def by_score(scores: NDArray[np.float64], labelled: NDArray[np.float64], absorber: Flags, unsure: Flags) -> pd.DataFrame:
    """Count labels in bins of score, the strata; parameters as for :func:`purity_of`.

    Returns
    -------
    DataFrame, one row per bin with labels
        ``low high``; ``rows`` of the catalogue; ``labelled``; ``unsure`` of them; ``successes`` and ``trials``: absorbers and all of those
        that people are sure of; ``fraction lower upper``: the purity of these and its 68 % interval; ``least`` and ``most``: the purity
        with the unsure ones as not, and as absorbers.
    """
    n, k, doubtful, trials = (_strata(labelled, which) for which in (None, absorber, unsure, ~unsure))
    lower, upper = metrics.binomial_interval(k, trials)
    table = pd.DataFrame({
        "low": STRATA[:-1], "high": STRATA[1:], "rows": _strata(scores), "labelled": n, "unsure": doubtful,
        "successes": k, "trials": trials, "fraction": np.where(trials > 0, k / np.maximum(trials, 1), np.nan),
        "lower": lower, "upper": upper, "least": k / np.maximum(n, 1), "most": (k + doubtful) / np.maximum(n, 1),
    })  # fmt: skip
    return table[table["labelled"] > 0].reset_index(drop=True)

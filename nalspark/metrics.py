"""How good a detector is, from labels and scores: the metrics of Zhao et al. (2019, Table 2), calibration, errors of all of them, and how
far those who label agree.

The ROC curve and its area are scikit-learn's, the intervals astropy's; both libraries are loaded when they are first needed. Nothing here
asks where the labels and scores come from: an example may be a spectrum, a candidate or an absorber.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Probability within one standard deviation of a Gaussian: 68.27 %.
ONE_SIGMA = erf(sqrt(0.5))


def decision_rates(tp: int, tn: int, fp: int, fn: int) -> dict[str, float]:
    """Compute the rates of decisions from the numbers of true and false positives and negatives.

    Returns
    -------
    dict
        ``accuracy``; ``precision``, of those called positive how many are; ``recall``, of the positives how many were called so;
        ``specificity``, the same of the negatives; ``f1``, the harmonic mean of precision and recall; ``balanced_accuracy``, the mean of
        recall and specificity. A rate of nothing is NaN. The column AUC of Zhao et al. (2019), Table 2, is the balanced accuracy: their
        other columns give 0.891, and 0.8907 is printed.
    """
    parts = {
        "accuracy": (tp + tn, tp + tn + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }
    rates = {name: part / whole if whole else float("nan") for name, (part, whole) in parts.items()}
    return rates | {"balanced_accuracy": 0.5 * (rates["recall"] + rates["specificity"])}


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    return np.asarray(values).astype(float) > 0.5


def _check_lengths(*arrays: NDArray) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"labels, scores and decisions must be of one length, but have {[len(array) for array in arrays]}")


def roc_curve(label: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """Give false and true positive rates as the threshold falls from above all scores to the lowest; one point per distinct score.

    Parameters
    ----------
    label : array of bool or 0/1, shape (n,)
    score : array, shape (n,)
        On any scale: only the order counts.

    Returns
    -------
    false_rate, true_rate : ndarray, shape (k + 1,)
        From (0, 0) to (1, 1); NaN where there is no negative, or no positive.
    """
    from sklearn import metrics
    from sklearn.exceptions import UndefinedMetricWarning

    positive, values = _flags(label), np.asarray(score, dtype=float)
    _check_lengths(positive, values)
    if not len(positive):
        return np.full(1, np.nan), np.full(1, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # one label only: the rates are NaN
        false_rate, true_rate, _ = metrics.roc_curve(positive, values, pos_label=True, drop_intermediate=False)
    return false_rate, true_rate


def area_under_curve(label: ArrayLike, score: ArrayLike) -> float:
    """Give the area under the ROC curve: the chance that a positive scores higher than a negative, equal scores counting half.

    NaN where all labels are the same. Parameters as for :func:`roc_curve`.
    """
    from sklearn.metrics import auc

    false_rate, true_rate = roc_curve(label, score)
    return float("nan") if np.isnan(false_rate[-1] + true_rate[-1]) else float(auc(false_rate, true_rate))


def binary_metrics(label: ArrayLike, score: ArrayLike, threshold: float = 0.5, *, predicted: ArrayLike | None = None) -> dict[str, float]:
    """Give the metrics of Zhao et al. (2019), Table 2.

    Parameters
    ----------
    label : array of bool or 0/1, shape (n,)
    score : array, shape (n,)
    threshold : float
        Positive is what scores at least this; not used where `predicted` is given.
    predicted : array of bool or 0/1, shape (n,), optional
        The decisions, where they are not a threshold on the score.

    Returns
    -------
    dict
        ``accuracy precision recall specificity f1 balanced_accuracy auc``, then the counts ``tp tn fp fn``.
    """
    positive = _flags(label)
    called = np.asarray(score, dtype=float) >= threshold if predicted is None else _flags(predicted)
    _check_lengths(positive, called)
    # Sums, not scikit-learn's confusion_matrix: a bootstrap counts 200 times, and its checks take a thousand times as long.
    decisions = {"tp": positive & called, "tn": ~positive & ~called, "fp": ~positive & called, "fn": positive & ~called}
    counts = {name: int(rows.sum()) for name, rows in decisions.items()}
    return {**decision_rates(**counts), "auc": area_under_curve(label, score), **counts}


def bootstrap_errors(metrics: Callable[..., Mapping[str, float]], *arrays: ArrayLike, draws: int = 200) -> dict[str, float]:
    """Give standard errors of metrics: their scatter over samples drawn from the examples with replacement (Efron 1979).

    Parameters
    ----------
    metrics : callable
        Takes the arrays, gives names and numbers.
    *arrays : arrays, shape (n, …)
        Drawn together, row by row.
    draws : int

    Returns
    -------
    dict
        Name → standard deviation; draws in which a metric is undefined are left out, and without two others it is NaN.
    """
    rows = [np.asarray(array) for array in arrays]
    _check_lengths(*rows)
    n, rng = len(rows[0]), np.random.default_rng(20190801)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws if n else 0):
        chosen = rng.integers(0, n, n)
        for name, value in metrics(*[row[chosen] for row in rows]).items():
            drawn.setdefault(name, []).append(float(value))
    finite = {name: [value for value in values if np.isfinite(value)] for name, values in drawn.items()}
    return {name: float(np.std(values, ddof=1)) if len(values) > 1 else float("nan") for name, values in finite.items()}


def binomial_interval(successes: ArrayLike, trials: ArrayLike) -> tuple[Array, Array]:
    """Give the 68.27 % interval of a fraction by Wilson (1927): honest near 0 and 1, where the square root of p(1-p)/n says 0.

    Parameters
    ----------
    successes, trials : array of int, shape (b,)

    Returns
    -------
    lower, upper : ndarray, shape (b,)
        0 and 1 where there was no trial.
    """
    from astropy.stats import binom_conf_interval

    k, n = np.asarray(successes, dtype=int), np.asarray(trials, dtype=int)
    if not k.size:
        return np.zeros(0), np.zeros(0)
    lower, upper = binom_conf_interval(k, np.maximum(n, 1), confidence_level=ONE_SIGMA, interval="wilson")
    # The ends are exact where all or none succeed; rounding would leave 1e-17.
    return np.where((n > 0) & (k > 0), lower, 0.0), np.where((n > 0) & (k < n), upper, 1.0)


def rogan_gladen(fraction: ArrayLike, false_positive: float, false_negative: float) -> Array:
    """Correct a fraction called positive for known errors of whoever calls (Rogan & Gladen 1978): (q - f₊) / (1 - f₊ - f₋).

    Parameters
    ----------
    fraction : array, any shape
        q, of those judged.
    false_positive, false_negative : float
        f₊, how many of the negatives are called positive, and f₋, how many of the positives are called negative; together below 1. A
        standard error of q is divided by 1 - f₊ - f₋.

    Returns
    -------
    ndarray, the same shape
        May lie a little outside 0 to 1, as an unbiased estimate must.
    """
    if not (false_positive >= 0.0 and false_negative >= 0.0 and false_positive + false_negative < 1.0):
        raise ValueError(f"error rates must be at least 0 and together below 1, but are {false_positive} and {false_negative}")
    return (np.asarray(fraction, dtype=float) - false_positive) / (1.0 - false_positive - false_negative)


def cohen_kappa(counts: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Compute Cohen's κ from a table of what two judges said: 1 - disagreement seen / expected by chance (Cohen 1960).

    Parameters
    ----------
    counts : array, shape (..., k, k)
        How many the first put into class i and the second into class j.
    values : array, shape (k,), optional
        Classes that are numbers: a disagreement counts by its squared distance (Cohen 1968). Without, all count the same.

    Returns
    -------
    ndarray, shape (...)
        NaN where both always say the same one thing.
    """
    seen = np.asarray(counts, dtype=float)
    place = np.arange(seen.shape[-1]) if values is None else np.asarray(values, dtype=float)
    distance = (place[:, None] - place) ** 2
    cost = (distance > 0).astype(float) if values is None else distance
    chance = seen.sum(axis=-1)[..., :, None] * seen.sum(axis=-2)[..., None, :] / np.maximum(seen.sum(axis=(-2, -1)), 1.0)[..., None, None]
    disagreed, expected = ((cost * some).sum(axis=(-2, -1)) for some in (seen, chance))
    return np.where(expected > 0, 1.0 - disagreed / np.where(expected > 0, expected, 1.0), np.nan)


def cohen_kappa_error(counts: ArrayLike, values: ArrayLike | None = None, draws: int = 400) -> float:
    """Give the standard error of :func:`cohen_kappa` for one table, shape (k, k): its scatter over tables drawn from it (Efron 1979)."""
    seen = np.asarray(counts, dtype=float)
    n = int(seen.sum())
    if n < 2:
        return float("nan")
    drawn = np.random.default_rng(20190801).multinomial(n, seen.ravel() / n, size=draws).reshape(draws, *seen.shape)
    kappa = cohen_kappa(drawn, values)
    finite = kappa[np.isfinite(kappa)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")


def fleiss_kappa(votes: ArrayLike) -> float:
    """Compute Fleiss' κ of several judges, not always the same ones, over classes without order (Fleiss 1971).

    Parameters
    ----------
    votes : array, shape (n, k)
        How many put example i into class j. An example with one vote says nothing of agreement and is left out. Where the numbers of
        votes differ, each example counts the same (Gwet 2014, ch. 2); where they do not, this is Fleiss' formula.

    Returns
    -------
    float
        NaN where all say the same one thing, or nothing has two votes.
    """
    given = np.asarray(votes, dtype=float)
    given = given[given.sum(axis=1) > 1]
    if not len(given):
        return float("nan")
    judges = given.sum(axis=1)
    agreed = float(((given * (given - 1.0)).sum(axis=1) / (judges * (judges - 1.0))).mean())
    chance = float(((given / judges[:, None]).mean(axis=0) ** 2).sum())
    return (agreed - chance) / (1.0 - chance) if chance < 1.0 else float("nan")


def jackknife_error(without: Array) -> Array:
    """Compute the standard error from estimates that each leave one of r regions out (Efron 1982): √((r-1)/r Σ (x - mean)²).

    Parameters
    ----------
    without : ndarray, shape (r, ...)

    Returns
    -------
    ndarray, shape (...)
        NaN for a single region.
    """
    r = len(without)
    if r < 2:
        return np.full(without.shape[1:], np.nan)
    return np.asarray(np.sqrt((r - 1) / r * ((without - without.mean(axis=0)) ** 2).sum(axis=0)))


def poisson_interval(counts: ArrayLike) -> tuple[Array, Array]:
    """Give the 68.27 % interval of a mean from a count, exact (Gehrels 1986): 0 to 1.84 for no event.

    Parameters
    ----------
    counts : array, shape (b,)
        Whole numbers, or effective numbers of weighted events: the interval is continuous.

    Returns
    -------
    lower, upper : ndarray, shape (b,)
    """
    from astropy.stats import poisson_conf_interval

    lower, upper = poisson_conf_interval(np.asarray(counts, dtype=float), interval="frequentist-confidence", sigma=1)
    return lower, upper


@dataclass(frozen=True)
class Reliability:
    """What a score promises against what comes true, in bins of equally many examples.

    Attributes
    ----------
    score : ndarray, shape (b,)
        Mean score of each bin.
    fraction, lower, upper : ndarray, shape (b,)
        Fraction of positives, and its 68 % interval.
    count : ndarray of int, shape (b,)
    """

    score: Array
    fraction: Array
    lower: Array
    upper: Array
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of score and fraction, each bin with its share of the examples (Naeini et al. 2015); NaN without examples."""
        total = self.count.sum()
        return float((self.count * np.abs(self.score - self.fraction)).sum() / total) if total else float("nan")


def reliability(label: ArrayLike, score: ArrayLike, bins: int = 10) -> Reliability:
    """Give the reliability curve. Equal scores share a bin, so the result does not depend on the order of the examples.

    Parameters
    ----------
    label : array of bool or 0/1, shape (n,)
    score : array, shape (n,)
    bins : int
        At most so many; fewer where many scores are equal.
    """
    positive, values = _flags(label), np.asarray(score, dtype=float)
    _check_lengths(positive, values)
    rank = np.searchsorted(np.sort(values), values, side="left")
    number = rank * bins // max(len(values), 1)
    count = np.bincount(number, minlength=bins)
    filled = count > 0
    of_bin = np.maximum(count, 1)
    mean = np.bincount(number, weights=values, minlength=bins) / of_bin
    successes = np.bincount(number, weights=positive, minlength=bins)
    lower, upper = binomial_interval(successes, count)
    return Reliability(mean[filled], (successes / of_bin)[filled], lower[filled], upper[filled], count[filled])

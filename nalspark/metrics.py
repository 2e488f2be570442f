"""How good a detector is, from labels and scores: the metrics of Zhao et al. (2019, Table 2), calibration, and errors of all of them.

Nothing here asks where the labels and scores come from: an example may be a spectrum, a candidate or an absorber.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class Confusion:
    """Counts of right and wrong decisions; a rate whose denominator is empty is NaN.

    Attributes
    ----------
    tp, tn, fp, fn : int
        True and false positives and negatives.
    """

    tp: int
    tn: int
    fp: int
    fn: int

    @property
    def accuracy(self) -> float:
        """Right decisions of all: (TP + TN) / n."""
        return _ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Of those called positive, how many are: TP / (TP + FP)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Of the positives, how many were called so: TP / (TP + FN)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Of the negatives, how many were called so: TN / (TN + FP)."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of recall and specificity: the area under the curve of the decisions alone.

        The column AUC of Zhao et al. (2019), Table 2, is this number: their accuracy, precision and recall give .891, and .8907 is printed.
        """
        return 0.5 * (self.recall + self.specificity)


def confusion(label: ArrayLike, predicted: ArrayLike) -> Confusion:
    """Count decisions.

    Parameters
    ----------
    label, predicted : array of bool or 0/1, shape (n,)
    """
    positive, called = _flags(label), _flags(predicted)
    _check_lengths(positive, called)
    tp, called_in_all, positives = int((positive & called).sum()), int(called.sum()), int(positive.sum())
    return Confusion(tp, len(positive) - called_in_all - positives + tp, called_in_all - tp, positives - tp)


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    return np.asarray(values).astype(float) > 0.5


def _check_lengths(*arrays: NDArray) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"labels, scores and decisions must be of one length, but have {[len(array) for array in arrays]}")


def area_under_curve(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, equal scores counting half.

    Mann–Whitney's U over the number of pairs, from mid-ranks; NaN where all labels are the same.

    Parameters
    ----------
    label : array of bool or 0/1, shape (n,)
    score : array, shape (n,)
        On any scale: only the order counts.
    """
    positive, values = _flags(label), np.asarray(score, dtype=float)
    _check_lengths(positive, values)
    n_positive = int(positive.sum())
    pairs = n_positive * (len(positive) - n_positive)
    if not pairs:
        return float("nan")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(counts) - 0.5 * (counts - 1.0)
    return float((mid_rank[place][positive].sum() - 0.5 * n_positive * (n_positive + 1)) / pairs)


def roc_curve(label: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """False and true positive rates as the threshold falls from above all scores to the lowest; one point per distinct score.

    Parameters
    ----------
    label : array of bool or 0/1, shape (n,)
    score : array, shape (n,)

    Returns
    -------
    false_rate, true_rate : ndarray, shape (k + 1,)
        From (0, 0) to (1, 1); NaN where there is no negative, or no positive.
    """
    positive, values = _flags(label), np.asarray(score, dtype=float)
    _check_lengths(positive, values)
    order = np.argsort(-values, kind="stable")
    last_of_equals = np.append(np.diff(values[order]) != 0, True) if len(order) else np.zeros(0, bool)
    rates = []
    for chosen in (~positive, positive):
        rising = np.concatenate([[0.0], np.cumsum(chosen[order])[last_of_equals]])
        rates.append(rising / chosen.sum() if chosen.any() else np.full_like(rising, np.nan))
    return rates[0], rates[1]


def binary_metrics(label: ArrayLike, score: ArrayLike, threshold: float = 0.5, *, predicted: ArrayLike | None = None) -> dict[str, float]:
    """The metrics of Zhao et al. (2019), Table 2.

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
    counts = confusion(label, np.asarray(score, dtype=float) >= threshold if predicted is None else predicted)
    names = ("accuracy", "precision", "recall", "specificity", "f1", "balanced_accuracy")
    rates = {name: float(getattr(counts, name)) for name in names}
    return {**rates, "auc": area_under_curve(label, score), "tp": counts.tp, "tn": counts.tn, "fp": counts.fp, "fn": counts.fn}


def bootstrap_errors(
    metrics: Callable[..., Mapping[str, float]], *arrays: ArrayLike, draws: int = 200, seed: int = 20190801
) -> dict[str, float]:
    """Standard errors of metrics: their scatter over samples drawn from the examples with replacement (Efron 1979).

    Parameters
    ----------
    metrics : callable
        Takes the arrays, gives names and numbers.
    *arrays : arrays, shape (n, …)
        Drawn together, row by row.
    draws : int
    seed : int

    Returns
    -------
    dict
        Name → standard deviation; draws in which a metric is undefined are left out, and without two others it is NaN.
    """
    rows = [np.asarray(array) for array in arrays]
    _check_lengths(*rows)
    n, rng = len(rows[0]), np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws if n else 0):
        chosen = rng.integers(0, n, n)
        for name, value in metrics(*[row[chosen] for row in rows]).items():
            drawn.setdefault(name, []).append(float(value))
    finite = {name: [value for value in values if np.isfinite(value)] for name, values in drawn.items()}
    return {name: float(np.std(values, ddof=1)) if len(values) > 1 else float("nan") for name, values in finite.items()}


def binomial_interval(successes: ArrayLike, trials: ArrayLike, sigma: float = 1.0) -> tuple[Array, Array]:
    """Interval of a fraction by Wilson (1927): honest near 0 and 1, where the square root of p(1-p)/n says 0.

    Parameters
    ----------
    successes, trials : array of int, shape (b,)
    sigma : float
        Half-width in Gaussian standard deviations; 1 for 68.27 %.

    Returns
    -------
    lower, upper : ndarray, shape (b,)
        0 and 1 where there was no trial.
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    safe = np.maximum(n, 1.0)
    centre = (k + 0.5 * sigma**2) / (safe + sigma**2)
    half = sigma / (safe + sigma**2) * np.sqrt(np.maximum(k * (safe - k) / safe, 0.0) + 0.25 * sigma**2)
    lower, upper = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    # The ends are exact where all or none succeed; rounding would leave 1e-17.
    return np.where((n > 0) & (k > 0), lower, 0.0), np.where((n > 0) & (k < n), upper, 1.0)


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
    """The reliability curve. Equal scores share a bin, so the result does not depend on the order of the examples.

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

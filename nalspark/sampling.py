"""A sample drawn unevenly by score, and the fractions of the whole that follow from it.

Most rows of a catalogue have scores near 1. Equal numbers from each stratum of score show where people and scores part; weighted back by
how many rows each stratum has, they give the fraction of the whole without bias (Cochran 1977, *Sampling Techniques*, ch. 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.metrics import binomial_interval

Array = NDArray[np.float64]

#: Edges of the strata. They do not depend on the catalogue: a sample drawn from one serves the next.
STRATA = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def strata_of(scores: ArrayLike, edges: ArrayLike = STRATA) -> NDArray[np.int64]:
    """Give the stratum of every score, from 0; one beyond the edges is in the outermost, one that is NaN in none: -1.

    Parameters
    ----------
    scores : array, shape (m,)
    edges : array, shape (h + 1,)
        Ascending; a stratum has its lower edge, not its upper one.
    """
    score, cuts = np.asarray(scores, dtype=float), np.asarray(edges, dtype=float)
    inside = np.clip(np.searchsorted(cuts, score, side="right") - 1, 0, len(cuts) - 2)
    return np.where(np.isfinite(score), inside, -1).astype(np.int64)


def stratified_sample(scores: ArrayLike, n: int, rng: np.random.Generator, edges: ArrayLike = STRATA) -> tuple[NDArray[np.int64], Array]:
    """Draw rows, equally many from every stratum of score; a stratum that has fewer gives all it has, and the others more.

    Parameters
    ----------
    scores : array, shape (m,)
        One per row of the catalogue; rows without a score are not drawn.
    n : int
        Rows to draw, at least the number of strata; all rows where there are fewer.
    rng : Generator
    edges : array, shape (h + 1,)

    Returns
    -------
    rows : ndarray of int, shape (n,)
        Round by round one of every stratum, at random: whoever stops early has looked at equally many of each as well.
    weights : ndarray, shape (n,)
        How many rows of the catalogue each stands for, N_h / n_h of its stratum.
    """
    if n < 1:
        raise ValueError(f"a sample has at least one row, not {n}")
    stratum = strata_of(scores, edges)
    some = np.flatnonzero(stratum >= 0)
    rows = some[round_by_round(stratum[some], rng.random(len(some)))][:n]
    counts, drawn = (np.bincount(stratum[these], minlength=1 + stratum.max(initial=0)) for these in (some, rows))
    return rows, (counts / np.maximum(drawn, 1))[stratum[rows]]


def round_by_round(stratum: NDArray[np.int64], order: ArrayLike) -> NDArray[np.int64]:
    """Order rows so that one of every stratum comes in turn, shape (m,).

    Parameters
    ----------
    stratum : ndarray of int, shape (m,)
    order : array, shape (m,)
        Numbers as good as random, by which rows of one stratum, and those of one round, follow each other.
    """
    order, place = np.asarray(order), np.zeros(len(stratum), dtype=np.int64)
    by_stratum = np.lexsort((order, stratum))
    _, first, which = np.unique(stratum[by_stratum], return_index=True, return_inverse=True)
    place[by_stratum] = np.arange(len(stratum)) - first[which]
    return np.lexsort((order, place))


@dataclass(frozen=True)
class Estimate:
    """A fraction of the whole, from a stratified sample.

    Attributes
    ----------
    fraction : float
        Σ (N_h / N) p_h. NaN without a sample.
    error : float
        Its standard error, √Σ (N_h / N)² (1 - n_h / N_h) p_h (1 - p_h) / (n_h - 1): 0 where every stratum is all one thing.
    lower, upper : float
        Its 68 % interval, from Wilson's of each stratum (Zou et al. 2009): honest there too.
    strata : int
        Those that were told apart; one with fewer than two of the sample goes with its neighbour.
    """

    fraction: float
    error: float
    lower: float
    upper: float
    strata: int


def stratified_fraction(successes: ArrayLike, trials: ArrayLike, sizes: ArrayLike) -> Estimate:
    """Estimate a fraction of the whole from a sample of every stratum.

    Parameters
    ----------
    successes, trials : array of int, shape (h,)
        Of the sample, by stratum; within a stratum it is as good as random.
    sizes : array of int, shape (h,)
        How many the strata hold, at least as many as were sampled.
    """
    merged = _merged(*(np.asarray(some, dtype=np.int64) for some in (successes, trials, sizes)))
    k, n, size = merged.T
    if not n.sum():
        return Estimate(float("nan"), float("nan"), 0.0, 1.0, 0)
    if (n > size).any():
        raise ValueError(f"strata of {size.tolist()} cannot have given samples of {n.tolist()}")
    share, p, unseen = size / size.sum(), k / n, 1.0 - n / size
    variance = share**2 * unseen * p * (1.0 - p) / np.maximum(n - 1, 1)
    low, high = binomial_interval(k, n)
    below, above = (float(np.sqrt((share**2 * unseen * (p - end) ** 2).sum())) for end in (low, high))
    fraction = float((share * p).sum())
    return Estimate(fraction, float(np.sqrt(variance.sum())), max(fraction - below, 0.0), min(fraction + above, 1.0), len(n))


def _merged(successes: NDArray[np.int64], trials: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Neighbouring strata put together until each has two of the sample, (h', 3): the last may join the one before it."""
    groups: list[NDArray[np.int64]] = []
    for row in np.stack([successes, trials, sizes], axis=1):
        if groups and groups[-1][1] < 2:
            groups[-1] = groups[-1] + row
        elif row[2]:
            groups.append(row)
    if len(groups) > 1 and groups[-1][1] < 2:
        last = groups.pop()
        groups[-1] = groups[-1] + last
    return np.array(groups, dtype=np.int64).reshape(-1, 3)

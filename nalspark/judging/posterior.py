"""The true equivalent widths behind measured ones: why a steep distribution must not be counted by what was measured.

Where weak absorbers are many and errors large, more absorbers are measured above a limit than lie above it (Eddington 1913). A measured
W_obs with error e stands for a distribution of true W: ``f(W) N(W_obs; W, e) C(W, σ_W, z)``, f being how frequent absorbers are and C the
completeness, because only what was found was measured. With an exponential f of scale W*, f N is a Gaussian of mean ``W_obs - e²/W*`` and
width e, cut off at W = 0.

Put into the sum over absorbers of ``1 / (C ΔZ)``, the expectation of every term is exact: C in the distribution and 1 / C in the weight
cancel, so a weight never exceeds 1 / ∫ C over the distribution, however small C is at one end of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from nalspark.judging.path import Bins, Completeness

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Equally probable nodes of a distribution of true W.
NODES = 48
#: Absorbers that are worked on together.
_ROWS = 8192
#: Least mean of the Gaussian in its widths: below it the exponential alone decides.
_FAR = -30.0


def true_widths(ew: ArrayLike, ew_err: ArrayLike, w_star: ArrayLike, nodes: int = NODES) -> Array:
    """Give equally probable true equivalent widths of absorbers, before completeness: the middles of as many quantiles.

    Parameters
    ----------
    ew, ew_err : array_like, shape (m,), rest Å
        Measured, and their standard errors.
    w_star : array_like, shape (m,) or a number, rest Å
        Scale of the exponential distribution that they come from.
    nodes : int

    Returns
    -------
    ndarray, shape (m, nodes), rest Å, ascending
    """
    width, error = np.asarray(ew, dtype=float), np.asarray(ew_err, dtype=float)
    mean = width / error - error / np.asarray(w_star, dtype=float)
    above = ndtr(np.maximum(mean, _FAR))[:, None]
    u = (np.arange(nodes) + 0.5) / nodes
    standard = -ndtri(above * (1.0 - u))
    return np.asarray(np.maximum(error[:, None] * (np.maximum(mean, _FAR)[:, None] + standard), 1e-6), dtype=float)


class Absorbers(NamedTuple):
    """m absorbers that count, one per system.

    Attributes
    ----------
    z, ew, ew_err, sigma_ew, score : ndarray, shape (m,)
        Redshift; rest equivalent width of the first line, its error and the sensitivity of the place, Å; probability.
    region, z_bin : ndarray of int, shape (m,)
    """

    z: Array
    ew: Array
    ew_err: Array
    sigma_ew: Array
    score: Array
    region: Index
    z_bin: Index


class Terms(NamedTuple):
    """What some absorbers add to sums over true W.

    Attributes
    ----------
    rows : slice
        The absorbers.
    column : ndarray of int, shape (m, k)
        Fine bin of W of each node.
    counted : ndarray, shape (m, k)
        The probability that this is an absorber of that W, 0 where its place does not show such absorbers.
    corrected : ndarray, shape (m, k)
        The same over completeness.
    """

    rows: slice
    column: Index
    counted: Array
    corrected: Array


def terms(absorbers: Absorbers, completeness: Completeness, w_star: ArrayLike, bins: Bins) -> Iterator[Terms]:
    """Spread absorbers over true W, some at a time.

    Parameters
    ----------
    absorbers : Absorbers
    completeness : callable
    w_star : array_like, shape (m,) or a number, rest Å
    bins : Bins
    """
    scale = np.broadcast_to(np.asarray(w_star, dtype=float), absorbers.ew.shape)
    for start in range(0, len(absorbers.ew), _ROWS):
        rows = slice(start, start + _ROWS)
        width, sigma = true_widths(absorbers.ew[rows], absorbers.ew_err[rows], scale[rows]), absorbers.sigma_ew[rows, None]
        complete = completeness(width, sigma, absorbers.z[rows, None])
        chance = absorbers.score[rows] / np.maximum(complete.sum(axis=1), 1e-12)
        seen = (width >= bins.significance * sigma) & (width < bins.ew[-1])
        corrected = np.where(seen, chance[:, None], 0.0)
        yield Terms(rows, np.minimum(bins.ew_bin(width), len(bins.ew) - 2), corrected * complete, corrected)


class Spread(NamedTuple):
    """Sums of :class:`Terms` by region, redshift bin and fine bin of true W, shape (r, b, w) each."""

    counted: Array
    corrected: Array


def spread(absorbers: Absorbers, completeness: Completeness, w_star: ArrayLike, bins: Bins, regions: int) -> Spread:
    """Sum up what absorbers are worth, by region, redshift bin and fine bin of true W.

    Parameters
    ----------
    absorbers : Absorbers
    completeness : callable
    w_star : array_like, shape (m,) or a number, rest Å
    bins : Bins
    regions : int
        How many there are.
    """
    shape = (regions, *bins.shape)
    sums = Spread(np.zeros(shape), np.zeros(shape))
    size = int(np.prod(shape))
    for part in terms(absorbers, completeness, w_star, bins):
        place = (absorbers.region[part.rows] * shape[1] + absorbers.z_bin[part.rows])[:, None] * shape[2] + part.column
        for total, values in zip(sums, (part.counted, part.corrected), strict=True):
            total += np.bincount(place.ravel(), values.ravel(), size).reshape(shape)
    return sums

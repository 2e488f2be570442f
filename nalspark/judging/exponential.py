"""The exponential law of equivalent widths, ``f(W) = N*/W* exp(-W/W*)``, fitted by maximum likelihood.

Were true W known, absorbers between two W would be a Poisson process of density ``f(W) G(W)``, with ``G = ∫ C dZ`` over the places that
show W. The likelihood is greatest where the mean W of the absorbers is the mean of that density, and their number its integral. The true W
are known by their distributions only, which themselves depend on W*, so the two are computed in turn until they agree (expectation and
maximisation, Dempster et al. 1977).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from nalspark.judging.path import Completeness, Path
from nalspark.judging.posterior import Absorbers, spread
from nalspark.metrics import jackknife_error

Array = NDArray[np.float64]
#: W* of each zone → number and sum of true W of the absorbers, (r, zones) each.
Moments = Callable[[Array], tuple[Array, Array]]

#: Between which W* is looked for, Å, and where the iteration starts.
_RANGE, _START = (0.05, 10.0), 0.7
_ROUNDS, _TOLERANCE = 30, 1e-4
#: Fewest absorbers to fit to.
_LEAST = 5.0
#: Factor by which W* is changed to see how the true widths depend on it.
_STEP = 1.05


class Fit(NamedTuple):
    """N* and W* of z zones, shape (z,) each; NaN where there are too few absorbers.

    Attributes
    ----------
    n_fitted : ndarray
        Sum of the probabilities of absorbers in the range.
    n_star, w_star : ndarray
        W* in Å.
    n_star_err, w_star_err : ndarray
        From the curvature of the likelihood.
    n_star_jackknife, w_star_jackknife : ndarray
    """

    n_fitted: Array
    n_star: Array
    n_star_err: Array
    n_star_jackknife: Array
    w_star: Array
    w_star_err: Array
    w_star_jackknife: Array


class _Problem(NamedTuple):
    """Middles and widths of the fine bins of W in the range, and G there: (r, zones, w)."""

    middle: Array
    width: Array
    folded: Array

    def without(self, region: int) -> Array:
        return self.folded.sum(axis=0) - self.folded[region]


def fit_exponential(
    absorbers: Absorbers,
    path: Path,
    folded: Array,
    completeness: Completeness,
    ew_range: tuple[float, float],
    *,
    by_bin: bool = False,
) -> Fit:
    """Fit N* and W*.

    Parameters
    ----------
    absorbers : Absorbers
    path : Path
    folded : ndarray, shape (r, b, w)
        As :meth:`Path.folded` gives it.
    completeness : callable
    ew_range : pair of float
        True W between which the law is fitted, Å; of the settings' own.
    by_bin : bool
        Fit each redshift bin by itself, not all together.

    Returns
    -------
    Fit
        Of b zones, or of one.
    """
    bins, cut = path.bins, path.bins.between(*ew_range)
    n_z, regions = bins.shape[0], len(folded)
    zone = np.arange(n_z) if by_bin else np.zeros(n_z, np.int64)
    member = (zone[None, :] == np.arange(zone.max(initial=0) + 1)[:, None]).astype(float)
    problem = _Problem(bins.middle[cut], np.diff(bins.ew)[cut], np.einsum("zb,rbw->rzw", member, folded[..., cut]))

    def moments(w_star: Array) -> tuple[Array, Array]:
        counted = spread(absorbers, completeness, w_star[zone[absorbers.z_bin]], bins, regions).counted[..., cut]
        return counted.sum(axis=-1) @ member.T, (counted @ problem.middle) @ member.T

    def together(w_star: Array) -> tuple[Array, Array]:
        n, total = moments(w_star)
        return n.sum(axis=0), total.sum(axis=0)

    whole = problem.folded.sum(axis=0)
    w_star = _iterate(together, whole, problem, np.full(len(member), _START))
    n = together(np.where(np.isfinite(w_star), w_star, _START))[0]
    n_star = n / _integral(whole, problem, w_star)
    errors = _curvature(whole, problem, w_star, n)
    jackknife = _jackknife(moments, problem, w_star)
    return Fit(n, n_star, n_star * errors[0], jackknife[0], w_star, w_star * errors[1], jackknife[1])


def _integral(folded: Array, problem: _Problem, w_star: Array, power: int = 0) -> Array:
    """∫ W^power exp(-W/W*) / W* G dW of each zone; NaN where it is 0."""
    law = np.exp(-problem.middle / w_star[:, None]) / w_star[:, None] * problem.width
    total = (law * problem.middle**power * folded).sum(axis=1)
    return np.where(total > 0, total, np.nan)


def _solve(folded: Array, problem: _Problem, n: float, total: float) -> float:
    """W* at which the mean W expected is that of the absorbers; NaN where there is none, or too few absorbers."""
    if n < _LEAST or not folded.any():
        return float("nan")

    def excess(w_star: float) -> float:
        law = np.exp(-problem.middle / w_star) * problem.width * folded
        return float((law @ problem.middle) / law.sum() - total / n)

    if not excess(_RANGE[0]) < 0 < excess(_RANGE[1]):
        return float("nan")
    return float(brentq(excess, *_RANGE, xtol=1e-7))


def _iterate(moments: Moments, folded: Array, problem: _Problem, start: Array) -> Array:
    """W* of each zone that agrees with the true widths that follow from it."""
    w_star = start
    for _ in range(_ROUNDS):
        n, total = moments(w_star)
        solved = np.array([_solve(*some) for some in zip(folded, [problem] * len(folded), n, total, strict=True)])
        settled = ~np.isfinite(solved) | (np.abs(solved - w_star) <= _TOLERANCE * w_star)
        w_star = np.where(np.isfinite(solved), solved, start)
        if settled.all():
            break
    return np.where(np.isfinite(solved), w_star, np.nan)


def _curvature(folded: Array, problem: _Problem, w_star: Array, n: Array) -> tuple[Array, Array]:
    """Relative standard errors of N* and W*: of the Fisher information of a Poisson process in ln N* and ln W*."""
    zeroth, first, second = (_integral(folded, problem, w_star, power) for power in (0, 1, 2))
    mean, square = first / zeroth / w_star, second / zeroth / w_star**2
    variance = np.maximum(square - mean**2, 1e-12)
    number = np.where(n >= _LEAST, n, np.nan)
    return np.sqrt((square - 2 * mean + 1) / (number * variance)), 1.0 / np.sqrt(number * variance)


def _jackknife(moments: Moments, problem: _Problem, w_star: Array) -> tuple[Array, Array]:
    """Standard errors of N* and W* over regions; how the true widths depend on W* is taken as linear in its logarithm."""
    regions, known = len(problem.folded), np.where(np.isfinite(w_star), w_star, _START)
    if regions < 2:
        return np.full(len(known), np.nan), np.full(len(known), np.nan)
    low, high = moments(known / _STEP), moments(known * _STEP)
    estimates = []
    for region in range(regions):
        folded = problem.without(region)
        ends = [[values.sum(axis=0) - values[region] for values in pair] for pair in (low, high)]

        def between(w: Array, ends: list[list[Array]] = ends) -> tuple[Array, Array]:
            part = 0.5 * (np.log(w / known) / np.log(_STEP) + 1.0)
            n, total = (a + part * (b - a) for a, b in zip(*ends, strict=True))
            return n, total

        w = _iterate(between, folded, problem, known)
        estimates.append((between(np.where(np.isfinite(w), w, known))[0] / _integral(folded, problem, w), w))
    n_star_error, w_star_error = jackknife_error(np.array(estimates))
    return n_star_error, w_star_error

"""The quasar's continuum with its emission lines, without the narrow absorption in front of it.

A Whittaker smoother (Whittaker 1923; Eilers 2003, Anal. Chem. 75, 3631): the curve u that minimises
``Σ snr² (f/c - u)² + λ Σ (second difference of u)²`` about an earlier continuum c; then c is replaced by c·u. The weights are
signal-to-noise ratios, so the smoothing length is ``(λ / snr²)^¼`` pixels: a bright emission line is followed closely, a faint stretch is
averaged over more pixels. Gaps are bridged by straight lines. Narrow features are found in the residuals and set aside before each round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from nalspark.spectra.rescale import masked_median

#: Boxes, in pixels, over which residuals are averaged to see unresolved lines, resolved lines and strong doublets.
_BOXES = (1, 5, 11)
#: Longest runs that can be narrow absorption (a doublet of strong lines) or a narrow spike; longer ones are the quasar's own shape.
_LONGEST_DEFICIT, _LONGEST_EXCESS = 45, 15


#: A deficit is deep, and has wings, beyond this multiple of the threshold.
_DEEP = 6.0
#: Pixels that may still change between two rounds of setting aside when a continuum is taken as settled.
_SETTLED = 8
#: Residuals of a flexible continuum scatter somewhat less than the noise: errors are not reduced by more than this.
_LEAST_INFLATION = 0.85
#: Signal-to-noise ratio per pixel at which the smoothing length is the one asked for, and the highest one that shortens it further.
_SNR_OF_SCALE, _SNR_MOST = 10.0, 40.0


def whittaker(values: NDArray[np.float64], weights: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Smooth each row.

    Parameters
    ----------
    values : ndarray, shape (n, p)
    weights : ndarray, shape (n, p), not negative; at least two positive ones in every row
    scale : float
        Smoothing length in pixels where the weight is 1; it goes with weight^-¼.

    Returns
    -------
    ndarray, shape (n, p)
    """
    n_pixels = values.shape[1]
    penalty = np.zeros((3, n_pixels))  # lower band storage of D'D, D the second difference
    penalty[0] = 6.0
    penalty[0, [0, -1]], penalty[0, [1, -2]] = 1.0, 5.0
    penalty[1, :-1] = -4.0
    penalty[1, [0, -2]] = -2.0
    penalty[2, :-2] = 1.0
    penalty *= scale**4
    smooth = np.empty_like(values)
    band = np.empty_like(penalty)
    for row, (value, weight) in enumerate(zip(values, weights, strict=True)):
        band[:] = penalty
        band[0] += weight
        smooth[row] = solveh_banded(band, weight * value, lower=True, overwrite_ab=True, check_finite=False)
    return smooth


def _runs_no_longer_than(marked: NDArray[np.bool_], longest: int) -> NDArray[np.bool_]:
    """Of the marked pixels, those in runs of at most `longest`."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    short = (stops - starts) <= longest
    steps = np.zeros((marked.shape[0], marked.shape[1] + 1), dtype=np.int8)
    np.add.at(steps, (rows[short], starts[short]), 1)
    np.add.at(steps, (rows[short], stops[short]), -1)
    return np.cumsum(steps[:, :-1], axis=1, dtype=np.int8) > 0


def _grow(marked: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Every pixel within `by` pixels of a marked one."""
    grown = marked.copy()
    for shift in range(1, by + 1):
        grown[:, shift:] |= marked[:, :-shift]
        grown[:, :-shift] |= marked[:, shift:]
    return grown


def _box_sums(values: NDArray[np.floating] | NDArray[np.bool_], box: int) -> NDArray[np.float64]:
    """Sum over the `box` pixels around each pixel, zeros beyond the ends."""
    half = box // 2
    running = np.cumsum(np.pad(values, ((0, 0), (half + 1, box - 1 - half))), axis=1, dtype=float)  # an even box reaches further blue
    return running[:, box:] - running[:, :-box]


def stands_out(deviation: NDArray[np.float64], good: NDArray[np.bool_], significance: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels of narrow deficits and of narrow excesses.

    Parameters
    ----------
    deviation : ndarray, shape (n, p)
        (flux - continuum) / σ.
    good : ndarray of bool, shape (n, p)
    significance : float
        Threshold, in σ of the averaged deviation.

    Returns
    -------
    deficit, excess : ndarrays of bool, shape (n, p)
    """
    deficit = np.zeros(deviation.shape, dtype=bool)
    excess, deep = deficit.copy(), deficit.copy()
    value = np.where(good, deviation, 0.0)
    for box in _BOXES:
        if box == 1:
            total, limit = value, np.full((), significance)
        else:
            total, limit = _box_sums(value, box), significance * np.sqrt(np.maximum(_box_sums(good, box), 1.0))
        # A pixel belongs to a feature when it lies inside the box that shows it and deviates the same way itself.
        deficit |= _grow(total < -limit, box // 2)
        deep |= _grow(total < -_DEEP * limit, box // 2 + 2)
        excess |= _grow(total > limit, box // 2)
    # The wings of a deep line are set aside with it; round a shallow one, that would choose pixels by their noise.
    deficit, excess = (deficit & (deviation < -0.5)) | deep, _grow(excess & (deviation > 0.5), 1)
    return _runs_no_longer_than(deficit, _LONGEST_DEFICIT), _runs_no_longer_than(excess, _LONGEST_EXCESS)


def _bridge(continuum: NDArray[np.float64], aside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The continuum with straight lines across what is set aside: a dip that an earlier round took from an absorber does not stay."""
    bridged, pixel = continuum.copy(), np.arange(continuum.shape[1])
    for row, gaps in zip(bridged, aside, strict=True):
        if gaps.any() and not gaps.all():
            row[gaps] = np.interp(pixel[gaps], pixel[~gaps], row[~gaps])
    return bridged


def _refine(value: NDArray[np.float64], weight: NDArray[np.float64], continuum: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """One round: smooth flux/continuum with weights of (signal-to-noise ratio)²."""
    # Where an earlier round dipped to zero or below, its typical level stands in, or the ratio would explode.
    level = np.maximum(continuum, 0.1 * np.median(np.abs(continuum), axis=1, keepdims=True))
    snr = np.minimum(np.sqrt(weight) * level, _SNR_MOST) / _SNR_OF_SCALE
    return level * whittaker(value / level, snr**2, scale)


def fit_continuum(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: NDArray[np.bool_], *, scale: float, iterations: int, significance: float
) -> NDArray[np.float64]:
    """Continuum of each spectrum.

    Parameters
    ----------
    flux, ivar : ndarray, shape (n, p), in one unit and its inverse square
    good : ndarray of bool, shape (n, p)
        Pixels that may be used; at least two in every row.
    scale : float
        Smoothing length at a signal-to-noise ratio of 10 per pixel, pixels.
    iterations : int
        Rounds of setting aside and fitting.
    significance : float
        What stands out by more is set aside.

    Returns
    -------
    ndarray, shape (n, p), the unit of flux
    """
    value = np.where(good, flux, 0.0).astype(float)
    weight = np.where(good, ivar, 0.0).astype(float)
    typical = np.sqrt(masked_median(weight, good))[:, None]
    continuum = whittaker(value, np.minimum(weight / typical**2, _SNR_MOST), 2.0 * scale)
    # One round without setting aside: the flanks of emission lines are reached before anything is taken for absorption.
    continuum = _refine(value, weight, continuum, scale)
    aside = np.zeros(good.shape, dtype=bool)
    active = np.arange(len(value))
    for _ in range(iterations):
        deviation = (value[active] - continuum[active]) * np.sqrt(weight[active])
        now = np.logical_or(*stands_out(deviation, good[active], significance))
        # A row that would lose nearly everything keeps all: its errors, not its features, are at fault.
        now &= ((good[active] & ~now).sum(axis=1) >= 0.5 * good[active].sum(axis=1))[:, None]
        changed = (now != aside[active]).sum(axis=1) > _SETTLED
        aside[active] = now
        active = active[changed]
        if not len(active):
            break
        healed = _bridge(continuum[active], aside[active])
        continuum[active] = _refine(value[active], np.where(aside[active], 0.0, weight[active]), healed, scale)
    return continuum


def error_inflation(deviation: NDArray[np.float64], good: NDArray[np.bool_], window: int) -> NDArray[np.float64]:
    """Factor by which the errors must be multiplied for the residuals to scatter as they should, shape (n, p).

    Survey errors are too small on sky lines and up to a tenth too large elsewhere; the factor is not below :data:`_LEAST_INFLATION`. Only
    residuals above the continuum are used, where absorption cannot lie: sky residuals scatter both ways. They are capped at 6 σ, so that
    one cosmic ray does not blind a whole window.
    """
    above = good & (deviation > 0)
    total, count = _box_sums(np.where(above, np.minimum(deviation, 6.0), 0.0), window), _box_sums(above, window)
    # The mean of the upper half of a Gaussian is √(2/π) σ; unlike the rms it is ruled by the core, not by a few wild pixels. Thirty unit
    # residuals are added as a prior: a window with few pixels says little.
    return np.maximum((total / np.sqrt(2.0 / np.pi) + 30.0) / (count + 30.0), _LEAST_INFLATION)

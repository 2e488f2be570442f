"""The quasar's continuum with its emission lines, without the narrow absorption in front of it.

A Whittaker smoother (Whittaker 1923; Eilers 2003, Anal. Chem. 75, 3631): the curve u that minimises
``Σ snr² (f/c - u)² + λ Σ (second difference of u)²`` about an earlier continuum c; then c is replaced by c·u. The weights are
signal-to-noise ratios, so the smoothing length is ``(λ / snr²)^¼`` pixels: a bright emission line is followed closely, a faint stretch is
averaged over more pixels. λ may vary along a spectrum. Gaps are bridged by straight lines. Narrow features are found in the residuals and
masked before each round.

What goes pixel by pixel runs in compiled loops, row by row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.compiled import compiled
from nalspark.spectra.rescale import masked_median

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Boxes, in pixels, over which residuals are averaged to see unresolved lines, resolved lines and strong doublets.
_BOXES = (1, 5, 11)
#: Longest runs that can be narrow absorption (a doublet of strong lines) or a narrow spike; longer ones are the quasar's own shape.
_LONGEST = (45, 15)


#: A deficit is deep, and has wings, beyond this multiple of the threshold.
_DEEP = 6.0
#: Pixels whose mask may still change between two rounds when a continuum counts as converged.
_SETTLED = 8
#: Residuals of a flexible continuum scatter somewhat less than the noise: errors are not reduced by more than this.
_LEAST_INFLATION = 0.85
#: Mean of the upper half of a Gaussian, σ.
_MEAN_ABOVE = float(np.sqrt(2.0 / np.pi))
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
    values, weights = np.ascontiguousarray(values, float), np.ascontiguousarray(weights, float)
    smooth, work = np.empty(values.shape), np.empty((3, values.shape[1]))
    for row in range(len(values)):
        _solve(values[row], weights[row], float(scale) ** 4, smooth[row], work)
    return smooth


@compiled
def _solve(value: Floats, weight: Floats, stiffness: float, u: Floats, work: Floats) -> None:
    """Solve (W + λ D'D) u = W v, D the second difference, by L D L' of the five bands; `work` is room for (3, p) numbers."""
    n, inverse, near, far = len(value), work[0], work[1], work[2]
    # One and two pixels before: 1/pivot, pivot times the elements of L beside the diagonal (a, b), and what is solved so far. Sums are
    # written in the order in which their parts are ready: every pixel waits for the one before.
    inverse1 = inverse2 = a1 = b1 = b2 = u1 = u2 = 0.0
    for i in range(n):
        diagonal, first, second = 6.0 * stiffness, -4.0 * stiffness, stiffness
        if i < 2 or i >= n - 2:
            diagonal = stiffness if i == 0 or i == n - 1 else 5.0 * stiffness
            first = 0.0 if i == n - 1 else -2.0 * stiffness if i == 0 or i == n - 2 else first
            second = 0.0 if i >= n - 2 else second
        here = 1.0 / (((weight[i] + diagonal) - b2 * b2 * inverse2) - a1 * a1 * inverse1)
        a = first - a1 * inverse1 * b1
        u0 = (weight[i] * value[i] - b2 * inverse2 * u2) - a1 * inverse1 * u1
        inverse[i], near[i], far[i], u[i] = here, a * here, second * here, u0
        inverse1, inverse2, a1, b1, b2, u1, u2 = here, inverse1, a, second, b1, u0, u1
    u1 = u2 = 0.0
    for i in range(n - 1, -1, -1):
        u[i] = (u[i] * inverse[i] - far[i] * u2) - near[i] * u1
        u1, u2 = u[i], u1


@compiled
def _keep_short_runs(marked: Flags, longest: int) -> None:
    """Unmark the runs that are longer than `longest`."""
    run = 0
    for i in range(len(marked)):
        run = run + 1 if marked[i] else 0
        if run > longest and (i == len(marked) - 1 or not marked[i + 1]):
            for j in range(i - run + 1, i + 1):
                marked[j] = False


@compiled
def _mark_outliers(deviation: Floats, good: Flags, significance: float, marks: Flags, work: Floats, steps: NDArray[np.int64]) -> None:
    """Mark the deficits and the excesses of a spectrum, (2, p). `work` (4, p + 10) and `steps` (3, p + 1) are room.

    Sums over boxes are widened from one box to the next. Steps are +1 where a deficit, excess or deep deficit begins, -1 behind its end.
    """
    n, reach, least = len(deviation), 0, significance**2
    value, counted, total, count = work[0], work[1], work[2], work[3]
    value[:5] = counted[:5] = value[n + 5 :] = counted[n + 5 :] = 0.0
    for i in range(n):
        total[i], count[i] = (deviation[i], 1.0) if good[i] else (0.0, 0.0)
        value[i + 5], counted[i + 5], steps[0, i], steps[1, i], steps[2, i] = total[i], count[i], 0, 0, 0
    for box in _BOXES:
        for u in range(reach + 1, box // 2 + 1):
            blue, red, blue_count, red_count = value[5 - u :], value[5 + u :], counted[5 - u :], counted[5 + u :]
            for i in range(n):
                total[i] += blue[i] + red[i]
                count[i] += blue_count[i] + red_count[i]
        reach = box // 2
        for i in range(n):
            squared, limit = total[i] * total[i], least * max(count[i], 1.0)
            if squared > limit:
                kind = 0 if total[i] < 0.0 else 1
                steps[kind, max(i - reach, 0)] += 1
                steps[kind, min(i + reach + 1, n)] -= 1
                if kind == 0 and squared > _DEEP**2 * limit:
                    steps[2, max(i - reach - 2, 0)] += 1
                    steps[2, min(i + reach + 3, n)] -= 1
    low = high = deep = before = 0
    for i in range(n):
        low, high, deep = low + steps[0, i], high + steps[1, i], deep + steps[2, i]
        # A pixel belongs to a feature when it lies inside the box that shows it and deviates the same way itself. The wings of a deep
        # line are masked with it; around a shallow one, that would select pixels by their noise.
        marks[0, i] = (low > 0 and deviation[i] < -0.5) or deep > 0
        excess = 1 if high > 0 and deviation[i] > 0.5 else 0
        marks[1, i] = excess + before > 0
        if excess and i > 0:
            marks[1, i - 1] = True
        before = excess
    for kind in range(2):
        _keep_short_runs(marks[kind], _LONGEST[kind])


def clip_outliers(
    deviation: NDArray[np.float64], good: NDArray[np.bool_], significance: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the pixels of narrow deficits and of narrow excesses.

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
    n, n_pixels = deviation.shape
    marks, work, steps = np.empty((n, 2, n_pixels), bool), np.empty((4, n_pixels + 10)), np.empty((3, n_pixels + 1), np.int64)
    for row in range(n):
        _mark_outliers(deviation[row].astype(float), good[row].astype(bool), float(significance), marks[row], work, steps)
    return marks[:, 0], marks[:, 1]


@compiled
def _bridge(continuum: Floats, aside: Flags) -> None:
    """Straight lines across masked pixels: a dip that an earlier round took from an absorber does not stay."""
    n, last = len(continuum), -1
    for i in range(n + 1):
        if i < n and aside[i]:
            continue
        blue, red = continuum[max(last, 0)], continuum[min(i, n - 1)]
        if last < 0:
            blue = red
        if i == n:
            red = blue
        slope = (red - blue) / (i - last)
        if last >= 0 or i < n:
            for j in range(last + 1, i):
                continuum[j] = blue + slope * (j - last)
        last = i


def _refine(value: Floats, root: Floats, looseness: Floats, continuum: Floats, work: Floats) -> None:
    """One round of a spectrum, in place: flux/continuum is smoothed with weights of (signal-to-noise ratio)²; `root` is √ivar.

    `looseness` is 1/λ of every pixel: the weights are multiplied by it, so that λ is 1.
    """
    ratio, weight, smooth = work[3:, : len(value)]
    # Where an earlier round dipped to zero or below, a part of its typical level stands in, or the ratio would explode.
    if continuum.min() < 0.1 * continuum.max():
        middle = len(value) // 2
        np.abs(continuum, out=ratio)
        ratio.partition(middle)
        np.maximum(continuum, 0.1 * ratio[middle], out=continuum)
    np.divide(value, continuum, out=ratio)
    np.multiply(root, continuum, out=weight)
    np.minimum(weight, _SNR_MOST, out=weight)
    np.divide(weight, _SNR_OF_SCALE, out=weight)
    np.square(weight, out=weight)
    np.multiply(weight, looseness, out=weight)
    _solve(ratio, weight, 1.0, smooth, work)
    np.multiply(continuum, smooth, out=continuum)


def fit_continuum(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: NDArray[np.bool_], *, scale: ArrayLike, iterations: int, significance: float
) -> NDArray[np.float64]:
    """Fit the continuum of each spectrum.

    Parameters
    ----------
    flux, ivar : ndarray, shape (n, p), in one unit and its inverse square
    good : ndarray of bool, shape (n, p)
        Pixels that may be used; at least two in every row.
    scale : array_like, shape () or (n, p)
        Smoothing length at a signal-to-noise ratio of 10 per pixel, pixels.
    iterations : int
        Rounds of masking and fitting.
    significance : float
        Pixels that deviate by more are masked.

    Returns
    -------
    ndarray, shape (n, p), the unit of flux
    """
    scales = np.broadcast_to(np.asarray(scale, dtype=float), np.shape(flux))
    fitted = [_fit_row(flux[row], ivar[row], good[row], scales[row], iterations, float(significance)) for row in range(len(flux))]
    return np.array(fitted, float).reshape(np.shape(flux))


def _fit_row(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: Flags, scale: Floats, iterations: int, significance: float
) -> Floats:
    """:func:`fit_continuum` of one spectrum: over its good pixels, beyond which the curve stays at its ends."""
    found, whole = np.flatnonzero(good), np.empty(len(flux))
    inside = slice(found[0], found[-1] + 1)
    whole[inside] = _fit_covered(flux[inside], ivar[inside], good[inside], scale[inside], iterations, significance)
    whole[: found[0]], whole[found[-1] :] = whole[found[0]], whole[found[-1]]
    return whole


def _fit_covered(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: Flags, scale: Floats, iterations: int, significance: float
) -> Floats:
    """:func:`fit_continuum` of a spectrum that begins and ends with a good pixel."""
    n, n_good = len(flux), np.count_nonzero(good)
    work, steps, marks = np.empty((6, n + 10)), np.empty((3, n + 1), np.int64), np.empty((2, n), bool)
    value, root, continuum = np.where(good, flux, 0.0).astype(float), np.sqrt(np.where(good, ivar, 0.0).astype(float)), np.empty(n)
    looseness = scale**-4.0
    # The first curve may bend everywhere: one that is stiff here misses real quasars by so much that their own shape is masked.
    _solve(value, np.minimum((root / masked_median(root[None], good[None])[0]) ** 2, _SNR_MOST), (2.0 * scale.min()) ** 4, continuum, work)
    # One round without masking: the flanks of emission lines are reached before anything is taken for absorption.
    _refine(value, root, looseness, continuum, work)
    aside, deviation = np.zeros(n, bool), np.empty(n)
    for _ in range(iterations):
        np.subtract(value, continuum, out=deviation)
        deviation *= root
        _mark_outliers(deviation, good, significance, marks, work, steps)
        now = marks[0] | marks[1]
        # A spectrum that would lose nearly everything keeps all: its errors, not its features, are at fault.
        if np.count_nonzero(good & ~now) < 0.5 * n_good:
            now[:] = False
        changed, aside = np.count_nonzero(now != aside), now
        if changed <= _SETTLED:
            break
        _bridge(continuum, aside)
        _refine(value, np.where(aside, 0.0, root), looseness, continuum, work)
    return continuum


def error_inflation(deviation: NDArray[np.float64], good: NDArray[np.bool_], window: int) -> NDArray[np.float64]:
    """Compute the factor by which the errors must be multiplied for the residuals to scatter as they should, shape (n, p).

    Survey errors are too small on sky lines and up to a tenth too large elsewhere; the factor is not below :data:`_LEAST_INFLATION`. Only
    residuals above the continuum are used, where absorption cannot lie: sky residuals scatter both ways. They are capped at 6 σ, so that
    one cosmic ray does not blind a whole window.
    """
    n, n_pixels = deviation.shape
    factor, room = np.empty((n, n_pixels)), np.zeros((2, n_pixels + 1))
    for row in range(n):
        _inflate(deviation[row].astype(float), good[row].astype(bool), int(window), factor[row], room)
    return factor


@compiled
def _inflate(deviation: Floats, good: Flags, window: int, factor: Floats, room: Floats) -> None:
    n, total, count = len(deviation), room[0], room[1]
    blue, red = window // 2, window - window // 2  # an even window reaches further blue
    for i in range(n):
        use = good[i] and deviation[i] > 0.0
        total[i + 1] = total[i] + (min(deviation[i], 6.0) if use else 0.0)
        count[i + 1] = count[i] + use
    for i in range(n):
        first, last = max(i - blue, 0), min(i + red, n)
        # The mean of the upper half of a Gaussian is √(2/π) σ; unlike the rms it is ruled by the core, not by a few wild pixels. Thirty
        # unit residuals are added as a prior: a window with few pixels says little.
        mean = ((total[last] - total[first]) / _MEAN_ABOVE + 30.0) / (count[last] - count[first] + 30.0)
        factor[i] = max(mean, _LEAST_INFLATION)

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
_REACH = max(_BOXES) // 2
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


@compiled
def _eliminate(
    value: float, weight: float, stiffness: float, end: int, before: tuple[float, ...], kept: Floats
) -> tuple[float, ...]:  # fmt: skip
    """Take one pixel, `end` pixels from that end of the spectrum where this began, out of the equations of :func:`_solve`.

    `before` is 1/pivot of the last two pixels, the two elements beside the last one's pivot, the farther one of the pixel before it, and
    what is solved so far of both; the same, one pixel on, is given back. `kept` is room for the three numbers that the way back needs. Sums
    are written in the order in which their parts are ready: every pixel waits for the one before.
    """
    inverse1, inverse2, a1, b1, b2, u1, u2 = before
    diagonal, first = 6.0 * stiffness, -4.0 * stiffness
    if end < 2:
        diagonal, first = (stiffness, -2.0 * stiffness) if end == 0 else (5.0 * stiffness, first)
    here = 1.0 / (((weight + diagonal) - b2 * b2 * inverse2) - a1 * a1 * inverse1)
    a = first - a1 * inverse1 * b1
    u0 = (weight * value - b2 * inverse2 * u2) - a1 * inverse1 * u1
    kept[0], kept[1], kept[2] = u0 * here, a * here, stiffness * here
    return here, inverse1, a, stiffness, b1, u0, u1


@compiled
def _solve(value: Floats, weight: Floats, stiffness: float, u: Floats, work: Floats) -> None:
    """Solve (W + λ D'D) u = W v, D the second difference: five bands, eliminated from both ends at once, since each waits for itself.

    At least four pixels; `work` is room for (p, 3) numbers.
    """
    n, half = len(value), (len(value) - 2) // 2
    blue = red = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if n % 2:
        red = _eliminate(value[n - 1], weight[n - 1], stiffness, 0, red, work[n - 1])
    for i in range(half):
        j = n - 1 - n % 2 - i
        blue = _eliminate(value[i], weight[i], stiffness, i, blue, work[i])
        red = _eliminate(value[j], weight[j], stiffness, i + n % 2, red, work[j])
    # Two pixels are left in the middle.
    i, j = half, half + 1
    inverse1, inverse2, a1, b1, b2, u1, u2 = blue
    inverse3, inverse4, a3, b3, b4, u3, u4 = red
    first = weight[i] + (6.0 if half > 1 else 5.0) * stiffness - b2 * b2 * inverse2 - a1 * a1 * inverse1 - b3 * b3 * inverse3
    second = weight[j] + (6.0 if n - j > 2 else 5.0) * stiffness - b4 * b4 * inverse4 - a3 * a3 * inverse3 - b1 * b1 * inverse1
    both = -4.0 * stiffness - a1 * b1 * inverse1 - a3 * b3 * inverse3
    left = weight[i] * value[i] - b2 * inverse2 * u2 - a1 * inverse1 * u1 - b3 * inverse3 * u3
    right = weight[j] * value[j] - b4 * inverse4 * u4 - a3 * inverse3 * u3 - b1 * inverse1 * u1
    determinant = first * second - both * both
    u[i], u[j] = (left * second - right * both) / determinant, (right * first - left * both) / determinant
    u1, u2, u3, u4 = u[i], u[j], u[j], u[i]
    for i in range(half - 1, -1, -1):
        j = n - 1 - n % 2 - i
        u[i] = (work[i, 0] - work[i, 2] * u2) - work[i, 1] * u1
        u[j] = (work[j, 0] - work[j, 2] * u4) - work[j, 1] * u3
        u1, u2, u3, u4 = u[i], u1, u[j], u3
    if n % 2:
        u[n - 1] = (work[n - 1, 0] - work[n - 1, 2] * u4) - work[n - 1, 1] * u3


@compiled
def _keep_short_runs(marked: Flags, longest: int) -> None:
    """Unmark the runs that are longer than `longest`."""
    start, n = 0, len(marked)
    while start < n:
        stop = start
        while stop < n and marked[stop]:
            stop += 1
        if stop - start > longest:
            marked[start:stop] = False
        start = stop + 1


@compiled
def _accumulate(values: Floats, sums: Floats) -> None:
    """Sums of the values before each pixel, (p + 2 reach + 1,): as many pixels more at either end as the widest box reaches beyond."""
    n = len(values)
    sums[: _REACH + 1] = 0.0
    for i in range(n):
        sums[i + _REACH + 1] = sums[i + _REACH] + values[i]
    sums[n + _REACH + 1 :] = sums[n + _REACH]


@compiled
def _outlier_limits(good: Flags, significance: float, limits: Floats, sums: Floats) -> None:
    """Squares that the sums of a spectrum's deviations over boxes must exceed, (3, p)."""
    _accumulate(good.astype(np.float64), sums)
    for box in range(len(_BOXES)):
        first, last = _REACH - _BOXES[box] // 2, _REACH + _BOXES[box] // 2 + 1
        for i in range(len(good)):
            limits[box, i] = significance**2 * max(sums[i + last] - sums[i + first], 1.0)


@compiled
def _mark_outliers(deviation: Floats, limits: Floats, marks: Flags, sums: Floats) -> None:
    """Mark the deficits and the excesses of a spectrum, (2, p), where the squares of its sums over boxes exceed their `limits` (3, p).

    The deviation is 0 where there is no good pixel. `sums` is room for p + 2 reach + 1 numbers.
    """
    n, beyond = len(deviation), np.empty(len(deviation), np.bool_)
    _accumulate(deviation, sums)
    marks[:] = False
    for box in range(len(_BOXES)):
        reach, limit = _BOXES[box] // 2, limits[box]
        before, behind = sums[_REACH - reach :], sums[_REACH + reach + 1 :]
        for i in range(n):  # in vectors: few are beyond
            total = behind[i] - before[i]
            beyond[i] = total * total > limit[i]
        for i in range(n):
            if beyond[i]:
                total = behind[i] - before[i]
                # A pixel belongs to a feature when it lies inside the box that shows it and deviates the same way itself. Beside an
                # excess, one more is marked. The wings of a deep line are masked with it; around a shallow one, that would select pixels
                # by their noise.
                for j in range(max(i - reach, 0), min(i + reach + 1, n)):
                    if total < 0.0 and deviation[j] < -0.5:
                        marks[0, j] = True
                    elif total > 0.0 and deviation[j] > 0.5:
                        marks[1, max(j - 1, 0) : j + 2] = True
                if total < 0.0 and total * total > _DEEP**2 * limit[i]:
                    marks[0, max(i - reach - 2, 0) : i + reach + 3] = True
    for kind in range(2):
        _keep_short_runs(marks[kind], _LONGEST[kind])


@compiled
def _bridge(continuum: Floats, aside: Flags) -> None:
    """Straight lines across masked pixels: a dip that an earlier round took from an absorber does not stay."""
    n, last = len(continuum), -1
    for i in range(n + 1):
        if i < n and aside[i]:
            continue
        if i > last + 1 and (last >= 0 or i < n):
            blue, red = continuum[max(last, 0)], continuum[min(i, n - 1)]
            if last < 0:
                blue = red
            if i == n:
                red = blue
            slope = (red - blue) / (i - last)
            for j in range(last + 1, i):
                continuum[j] = blue + slope * (j - last)
        last = i


@compiled
def _middle(values: Floats) -> float:
    """The upper median, by quickselect (Hoare 1961); the values are left in another order."""
    low, high, middle = 0, len(values) - 1, len(values) // 2
    while low < high:
        pivot, left, right = values[middle], low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left, right = left + 1, right - 1
        low, high = (left if right < middle else low), (right if left > middle else high)
    return values[middle]


@compiled
def _refine(value: Floats, root: Floats, looseness: Floats, aside: Flags, continuum: Floats, room: Floats, work: Floats) -> None:
    """One round of a spectrum, in place: flux/continuum is smoothed with weights of (signal-to-noise ratio)²; `root` is √ivar.

    `looseness` is 1/λ of every pixel: the weights are multiplied by it, so that λ is 1. `room` is for (3, p) numbers, `work` for (p, 3).
    """
    ratio, weight, smooth = room[0], room[1], room[2]
    # Where an earlier round dipped to zero or below, a part of its typical level stands in, or the ratio would explode.
    # Whether it dips is told by a count: to find the middle value takes longer.
    lowest, low = np.inf, 0
    for i in range(len(value)):
        lowest = min(lowest, continuum[i])
    for i in range(len(value)):
        low += abs(continuum[i]) <= 10.0 * lowest
    if low <= len(value) // 2:
        least = 0.1 * _middle(np.abs(continuum))
        for i in range(len(value)):
            continuum[i] = max(continuum[i], least)
    for i in range(len(value)):
        ratio[i] = value[i] / continuum[i]
        snr = min(root[i] * continuum[i], _SNR_MOST) / _SNR_OF_SCALE
        weight[i] = 0.0 if aside[i] else snr * snr * looseness[i]
    _solve(ratio, weight, 1.0, smooth, work)
    for i in range(len(value)):
        continuum[i] *= smooth[i]


def fit_continuum(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: NDArray[np.bool_], *, scale: ArrayLike, iterations: int, significance: float
) -> NDArray[np.float64]:
    """Fit the continuum of each spectrum.

    Parameters
    ----------
    flux, ivar : ndarray, shape (n, p), in one unit and its inverse square
    good : ndarray of bool, shape (n, p)
        Pixels that may be used; in every row at least two, of which the first and the last are three pixels apart or more.
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
    scales, fitted = np.broadcast_to(np.asarray(scale, dtype=float), np.shape(flux)), np.empty(np.shape(flux))
    for row in range(len(flux)):
        covered = np.flatnonzero(good[row])
        first, last = covered[0], covered[-1]
        inside = row, slice(first, last + 1)
        typical = masked_median(ivar[row : row + 1], good[row : row + 1])[0]
        _fit_covered(flux[inside], ivar[inside], good[inside], scales[inside], float(typical), iterations, significance, fitted[inside])
        fitted[row, :first], fitted[row, last:] = fitted[row, first], fitted[row, last]
    return fitted


@compiled
def _fit_covered(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: Flags, scale: Floats, typical: float, iterations: int, significance: float,
    continuum: Floats,
) -> None:  # fmt: skip
    """:func:`fit_continuum` of a spectrum that begins and ends with a good pixel; `typical` is its median ivar."""
    n, n_good = len(flux), 0
    room, work = np.empty((3, n)), np.empty((n, 3))
    limits, sums, marks = np.empty((3, n)), np.empty(n + 2 * _REACH + 1), np.empty((2, n), np.bool_)
    value, root, first_weight, deviation, aside = np.zeros(n), np.zeros(n), np.zeros(n), np.empty(n), np.zeros(n, np.bool_)
    looseness, shortest = np.empty(n), np.inf
    for i in range(n):
        looseness[i] = 1.0 / (scale[i] * scale[i]) ** 2
        shortest = min(shortest, scale[i])
        if good[i]:
            n_good += 1
            value[i], root[i] = flux[i], np.sqrt(np.float64(ivar[i]))
            first_weight[i] = min(root[i] * root[i] / typical, _SNR_MOST)
    _outlier_limits(good, significance, limits, sums)
    # The first curve may bend everywhere: one that is stiff here misses real quasars by so much that their own shape is masked.
    _solve(value, first_weight, (2.0 * shortest) ** 4, continuum, work)
    # One round without masking: the flanks of emission lines are reached before anything is taken for absorption.
    _refine(value, root, looseness, aside, continuum, room, work)
    for _ in range(iterations):
        for i in range(n):
            deviation[i] = (value[i] - continuum[i]) * root[i]
        _mark_outliers(deviation, limits, marks, sums)
        left = changed = 0
        for i in range(n):
            left += good[i] and not (marks[0, i] or marks[1, i])
        for i in range(n):
            # A spectrum that would lose nearly everything keeps all: its errors, not its features, are at fault.
            now = (marks[0, i] or marks[1, i]) and left >= 0.5 * n_good
            changed += now != aside[i]
            aside[i] = now
        if changed <= _SETTLED:
            break
        _bridge(continuum, aside)
        _refine(value, root, looseness, aside, continuum, room, work)


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
        # One `&` and no `and`: which residuals lie above is chance, and a processor would guess wrong half of the time.
        use = good[i] & (deviation[i] > 0.0)
        total[i + 1] = total[i] + (min(deviation[i], 6.0) if use else 0.0)
        count[i + 1] = count[i] + use
    for i in range(n):
        first, last = max(i - blue, 0), min(i + red, n)
        # The mean of the upper half of a Gaussian is √(2/π) σ; unlike the rms it is ruled by the core, not by a few wild pixels. Thirty
        # unit residuals are added as a prior: a window with few pixels says little.
        mean = ((total[last] - total[first]) / _MEAN_ABOVE + 30.0) / (count[last] - count[first] + 30.0)
        factor[i] = max(mean, _LEAST_INFLATION)

"""The lines of a composite: equivalent widths by direct summation above a local continuum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.lines import ALL_LINES, SPEED_OF_LIGHT_KMS, Transition
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Half the range of velocities (km/s) that is summed for a line; towards a neighbour, no further than half the way.
SUMMED_KMS = 550.0
#: The continuum is a straight line through what lies within the second velocity (km/s), and not within the first of any known line.
_CLEAR_KMS, _CONTINUUM_KMS = 700.0, 3500.0
#: The continuum of a spectrum is fitted across this range of velocities (km/s) around each line, seen or not.
BRIDGED_KMS = 400.0
#: Pixels that a straight line needs at least.
_FEWEST = 12


def lines_of(grid: WavelengthGrid, lines: Sequence[Transition] = ALL_LINES) -> tuple[Transition, ...]:
    """Give the lines that lie on a rest-frame grid, in the order of wavelength, each once."""
    low, high = grid.wavelength[[0, -1]]
    return tuple(sorted((line for line in set(lines) if low < line.wavelength < high), key=lambda line: line.wavelength))


def near_lines(z: ArrayLike, grid: WavelengthGrid, within_kms: float = BRIDGED_KMS) -> NDArray[np.bool_]:
    """Mark the pixels of observed spectra that lie near a known line at a redshift.

    Parameters
    ----------
    z : array_like, shape (m,)
    grid : WavelengthGrid
        p pixels, observed frame.
    within_kms : float

    Returns
    -------
    ndarray of bool, shape (m, p)
    """
    rest = grid.pixel(np.array(sorted({line.wavelength for line in ALL_LINES})))
    shift = np.log10(1.0 + np.asarray(z, dtype=float)) / grid.step
    reach, pixel = within_kms / grid.pixel_kms, np.arange(grid.n_pixels)
    near = np.zeros((len(shift), grid.n_pixels), dtype=bool)
    for centre in rest:
        near |= np.abs(pixel - (centre + shift)[:, None]) <= reach
    return near


def equivalent_widths(spectra: Array, grid: WavelengthGrid, lines: Sequence[Transition]) -> Array:
    """Sum up the lines of normalised spectra in the rest frame.

    W = Σ (1 - F/c) Δλ over ±550 km/s, c being a straight line fitted to what lies beside (±3500 km/s, without 700 km/s around any line of
    `lines`): what the normalisation leaves of the continuum plays no part. Between two lines that are nearer the sum ends half-way: of
    blended doublets each loses there about as much as it gains.

    Parameters
    ----------
    spectra : ndarray, shape (r, p)
        NaN where there is nothing.
    grid : WavelengthGrid
        p pixels, rest frame.
    lines : sequence of l Transition

    Returns
    -------
    ndarray, shape (r, l), Å
        NaN where pixels of the line are lacking.
    """
    centres = np.array([line.wavelength for line in lines])
    velocity = SPEED_OF_LIGHT_KMS * np.log(grid.wavelength / centres[:, None])
    clear = (np.abs(velocity) > _CLEAR_KMS).all(axis=0)
    result = np.full((len(spectra), len(lines)), np.nan)
    for number, v in enumerate(velocity):
        beside, share = clear & (np.abs(v) < _CONTINUUM_KMS), _shares(v, SPEED_OF_LIGHT_KMS * np.log(centres / centres[number]), grid)
        summed = np.flatnonzero(share)
        if len(summed):
            width = grid.wavelength[summed] * np.log(10.0) * grid.step * share[summed]
            for row, values in enumerate(spectra):
                result[row, number] = _width(values, v, beside, (summed, width))
    return result


def _shares(velocity: Array, others: Array, grid: WavelengthGrid) -> Array:
    """How much of each pixel is summed, (p,); `others` are the velocities of all lines in the frame of this one."""
    low = max(-SUMMED_KMS, 0.5 * max((v for v in others if v < 0), default=-np.inf))
    high = min(SUMMED_KMS, 0.5 * min((v for v in others if v > 0), default=np.inf))
    half = 0.5 * grid.pixel_kms
    return np.clip((np.minimum(velocity + half, high) - np.maximum(velocity - half, low)) / (2 * half), 0.0, 1.0)


def _width(values: Array, velocity: Array, beside: NDArray[np.bool_], line: tuple[NDArray[np.int64], Array]) -> float:
    summed, width = line
    fitted = beside & np.isfinite(values)
    if np.count_nonzero(fitted) < _FEWEST or not np.isfinite(values[summed]).all():
        return np.nan
    slope, level = np.polyfit(velocity[fitted] / _CONTINUUM_KMS, values[fitted], 1)
    continuum = level + slope * velocity[summed] / _CONTINUUM_KMS
    return float(((1.0 - values[summed] / continuum) * width).sum()) if (continuum > 0).all() else np.nan

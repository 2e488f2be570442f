"""Spectra of any length and origin onto one grid: padding and cropping on the lattice, resampling only off it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import WavelengthGrid

#: Steps over which the usual distance of pixels is taken, and the multiple of it from which on pixels are missing between two.
_NEIGHBOURHOOD, _GAP = 11, 1.5


def place_on_grid(
    flux: Sequence[NDArray[np.float32]],
    ivar: Sequence[NDArray[np.float32]],
    mask: Sequence[NDArray[np.uint8]],
    origin: Sequence[int | NDArray[np.float64]],
    grid: WavelengthGrid,
    resolution: Sequence[NDArray[np.float32] | None] | None = None,
) -> Spectra:
    """Bring spectra to a common grid.

    Parameters
    ----------
    flux, ivar, mask : sequences of n ndarrays
        Each spectrum on its own pixels.
    origin : sequence of n
        The lattice index of the first pixel, or, for a spectrum off the lattice, log10 of the wavelength (Å) of every pixel, ascending.
    grid : WavelengthGrid
    resolution : sequence of n ndarrays, shape (r,), or None, optional
        As :class:`Spectra` has it; None where it is not known.

    Returns
    -------
    Spectra
        Pixels that a spectrum does not cover have flux and ivar 0 and the flag NO_DATA.
    """
    shape = (len(flux), grid.n_pixels)
    known = np.full((len(flux), len(grid.resolution_pixels)), np.nan, np.float32)
    for row, values in enumerate(() if resolution is None else resolution):
        if values is not None:
            known[row] = values
    empty = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(shape, PixelFlag.NO_DATA, np.uint8)
    result = Spectra(*empty, grid, known)
    for row, (values, weights, bits, start) in enumerate(zip(flux, ivar, mask, origin, strict=True)):
        if isinstance(start, np.ndarray):
            result.flux[row], result.ivar[row], result.mask[row] = resample(values, weights, bits, start, grid)
            continue
        shift = int(start) - grid.first
        low, high = max(shift, 0), min(shift + len(values), grid.n_pixels)
        if low < high:
            here, there = slice(low, high), slice(low - shift, high - shift)
            result.flux[row, here], result.ivar[row, here], result.mask[row, here] = values[there], weights[there], bits[there]
    return result


def sample_resolution(sigma: NDArray[np.floating], loglam: NDArray[np.float64], grid: WavelengthGrid) -> NDArray[np.float32]:
    """Sample the σ of a line-spread function where :class:`Spectra` keeps it.

    Parameters
    ----------
    sigma : ndarray, shape (p,), lattice pixels
        Of every pixel of a spectrum. Values that no spectrograph has (below 0.3 or above 5) say nothing.
    loglam : ndarray, shape (p,), log10 of Å, ascending
    grid : WavelengthGrid

    Returns
    -------
    ndarray, shape (r,); NaN where no pixel says anything
    """
    known = np.flatnonzero((sigma > 0.3) & (sigma < 5.0))
    places = grid.resolution_pixels * grid.step
    return np.interp(places, loglam[known], sigma[known]).astype(np.float32) if len(known) else np.full(len(places), np.nan, np.float32)


def fill_gaps(pixels: NDArray[np.int64], *columns: NDArray[Any]) -> list[NDArray[Any]]:
    """Spread columns over consecutive pixels of the lattice, with 0 where a spectrum has none: what is not there is no data.

    Parameters
    ----------
    pixels : ndarray of int, shape (p,), ascending
    columns : ndarrays, shape (p,)

    Returns
    -------
    list of ndarrays, shape (pixels[-1] - pixels[0] + 1,)
    """
    length = int(pixels[-1] - pixels[0]) + 1
    if length == len(pixels):
        return list(columns)
    filled = [np.zeros(length, column.dtype) for column in columns]
    for new, column in zip(filled, columns, strict=True):
        new[pixels - pixels[0]] = column
    return filled


def _edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Begin and end of every pixel, shape (2p,): half way to its neighbours, but half a usual step into a gap."""
    steps = np.diff(centres)
    usual = median_filter(steps, _NEIGHBOURHOOD, mode="nearest")
    half = 0.5 * np.where(steps > _GAP * usual, usual, steps)
    return np.stack([centres - np.append(half[:1], half), centres + np.append(half, half[-1:])], axis=1).ravel()


def resample(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.uint8], loglam: NDArray[np.float64], grid: WavelengthGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Average a spectrum over the grid's pixels, each old pixel weighted with its overlap; flux is conserved where nothing is masked.

    Where pixels are missing between two of a spectrum there is no data. A pixel that is not good is as one that is missing. The variance is
    that of the weighted mean. Correlations between neighbouring new pixels, which any resampling makes, are not kept.
    """
    good = (mask == 0) & (ivar > 0)
    if np.count_nonzero(good) < 2:  # a pixel alone has no width
        nothing = np.zeros(grid.n_pixels, np.float32)
        return nothing, nothing.copy(), np.full(grid.n_pixels, PixelFlag.NO_DATA, np.uint8)
    old = _edges(loglam[good])
    width = old[1::2] - old[::2]
    new = (grid.first + np.arange(grid.n_pixels + 1) - 0.5) * grid.step

    def overlap_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of a step function over every new pixel."""
        integral = np.concatenate([[0.0], np.cumsum(values * width)])
        return np.diff(np.interp(new, old, np.stack([integral[:-1], integral[1:]], axis=1).ravel()))

    covered = overlap_sum(np.ones(len(width)))
    total = np.maximum(covered, 1e-30)
    average = overlap_sum(flux[good].astype(float)) / total
    # Σ overlap² σ² / (Σ overlap)²; overlap² is taken as overlap times the narrower of the two pixels.
    narrower = np.minimum(width, grid.step)
    variance = overlap_sum(narrower / ivar[good]) / total**2
    usable = covered > 0.5 * grid.step
    bits = np.where(usable, 0, PixelFlag.NO_DATA).astype(np.uint8)
    new_ivar = np.where(usable, 1.0 / np.maximum(variance, 1e-30), 0.0)
    return np.where(usable, average, 0.0).astype(np.float32), new_ivar.astype(np.float32), bits

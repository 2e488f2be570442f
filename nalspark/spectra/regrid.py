"""Spectra of any length and origin onto one grid: padding and cropping on the lattice, resampling only off it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import WavelengthGrid


def place_on_grid(
    flux: Sequence[NDArray[np.float32]],
    ivar: Sequence[NDArray[np.float32]],
    mask: Sequence[NDArray[np.uint8]],
    origin: Sequence[int | NDArray[np.float64]],
    grid: WavelengthGrid,
) -> Spectra:
    """Bring spectra to a common grid.

    Parameters
    ----------
    flux, ivar, mask : sequences of n ndarrays
        Each spectrum on its own pixels.
    origin : sequence of n
        The lattice index of the first pixel, or, for a spectrum off the lattice, log10 of the wavelength (Å) of every pixel, ascending.
    grid : WavelengthGrid

    Returns
    -------
    Spectra
        Pixels that a spectrum does not cover have flux and ivar 0 and the flag NO_DATA.
    """
    shape = (len(flux), grid.n_pixels)
    result = Spectra(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(shape, PixelFlag.NO_DATA, np.uint8), grid)
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


def _edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def resample(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.uint8], loglam: NDArray[np.float64], grid: WavelengthGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Average a spectrum over the grid's pixels, each old pixel weighted with its overlap; flux is conserved where nothing is masked.

    The variance is that of the weighted mean. Correlations between neighbouring new pixels, which any resampling makes, are not kept.
    """
    good = (mask == 0) & (ivar > 0)
    old = _edges(loglam)
    new = (grid.first + np.arange(grid.n_pixels + 1) - 0.5) * grid.step

    def overlap_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of a step function over every new pixel."""
        integral = np.concatenate([[0.0], np.cumsum(values * np.diff(old))])
        return np.diff(np.interp(new, old, integral))

    covered = overlap_sum(good.astype(float))
    total = np.maximum(covered, 1e-30)
    average = overlap_sum(np.where(good, flux, 0.0)) / total
    # Σ overlap² σ² / (Σ overlap)²; overlap² is taken as overlap times the narrower of the two pixels.
    narrower = np.minimum(np.diff(old), grid.step)
    variance = overlap_sum(np.where(good, narrower / np.where(good, ivar, 1.0), 0.0)) / total**2
    usable = covered > 0.5 * grid.step
    bits = np.where(usable, 0, PixelFlag.NO_DATA).astype(np.uint8)
    new_ivar = np.where(usable, 1.0 / np.maximum(variance, 1e-30), 0.0)
    return np.where(usable, average, 0.0).astype(np.float32), new_ivar.astype(np.float32), bits

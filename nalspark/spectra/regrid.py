"""Spectra of any length and origin onto one grid: padding and cropping on the lattice, resampling only off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import RESOLUTION_STEP, WavelengthGrid

#: Steps over which the usual distance of pixels is taken, and the multiple of it from which on pixels are missing between two.
_NEIGHBOURHOOD, _GAP = 11, 1.5


def place_on_grid(
    flux: Sequence[NDArray[np.float32]],
    ivar: Sequence[NDArray[np.float32]],
    mask: Sequence[NDArray[np.uint8]],
    origin: Sequence[int | NDArray[np.float64]],
    grid: WavelengthGrid,
    *,
    resolution: Sequence[NDArray[np.float32] | None] | None = None,
    scatter: Sequence[NDArray[np.float32] | None] | None = None,
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
    scatter : sequence of n ndarrays, shape (r,), or None, optional
        As :class:`Spectra` has it, of spectra that lie on the lattice because somebody rebinned them; None where nobody did.

    Returns
    -------
    Spectra
        Pixels that a spectrum does not cover have flux and ivar 0 and the flag NO_DATA.
    """
    shape = (len(flux), grid.n_pixels)
    empty = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(shape, PixelFlag.NO_DATA, np.uint8)
    known, of_single = _rows(resolution, len(flux), grid, np.nan), _rows(scatter, len(flux), grid, 1.0)
    result = Spectra(*empty, grid, known, of_single)
    for row, (values, weights, bits, start) in enumerate(zip(flux, ivar, mask, origin, strict=True)):
        if isinstance(start, np.ndarray):
            result.flux[row], result.ivar[row], result.mask[row], of_single[row] = resample(values, weights, bits, start, grid)
            continue
        shift = int(start) - grid.first
        low, high = max(shift, 0), min(shift + len(values), grid.n_pixels)
        if low < high:
            here, there = slice(low, high), slice(low - shift, high - shift)
            result.flux[row, here], result.ivar[row, here], result.mask[row, here] = values[there], weights[there], bits[there]
    return result if (of_single != 1.0).any() else replace(result, scatter=None)


def _rows(given: Sequence[NDArray[np.float32] | None] | None, n: int, grid: WavelengthGrid, otherwise: float) -> NDArray[np.float32]:
    """Rows of shape (r,), and `otherwise` in those that are not given."""
    rows = np.full((n, len(grid.resolution_pixels)), otherwise, np.float32)
    for row, values in enumerate(() if given is None else given):
        if values is not None:
            rows[row] = values
    return rows


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


def _edges(centres: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Begin and end of every pixel, shape (p,) each: half way to its neighbours, but half a usual step into a gap."""
    steps = np.diff(centres)
    usual = median_filter(steps, _NEIGHBOURHOOD, mode="nearest")
    half = 0.5 * np.where(steps > _GAP * usual, usual, steps)
    return centres - np.append(half[:1], half), centres + np.append(half, half[-1:])


class Rebinning:
    """From pixels that do not lie on the lattice to a grid: each new pixel is the mean of the old ones, weighted with their overlap in Å.

    Flux is conserved where nothing is masked. Neighbouring new pixels share old ones, so their errors are correlated. The inverse variance
    is that which is right for sums over several pixels, lines above all; single pixels scatter less, by :attr:`scatter`.

    Parameters
    ----------
    begin, end : ndarray, shape (p,), Å
        Of the old pixels, ascending; they do not overlap.
    grid : WavelengthGrid
    """

    def __init__(self, begin: NDArray[np.float64], end: NDArray[np.float64], grid: WavelengthGrid) -> None:
        edges = grid.wavelength_at(np.arange(grid.n_pixels + 1) - 0.5)
        self._step = np.diff(edges)
        middle = 0.5 * (begin + end)
        self._narrower = np.minimum(end - begin, middle * (10 ** (0.5 * grid.step) - 10 ** (-0.5 * grid.step)))
        # Pieces, each of one old and one new pixel.
        cuts = np.unique(np.concatenate([begin, end, edges]))
        centre = 0.5 * (cuts[1:] + cuts[:-1])
        old, new = (np.searchsorted(some, centre, side="right") - 1 for some in (begin, edges))
        shared = (old >= 0) & (new >= 0) & (new < grid.n_pixels) & (centre < end[np.maximum(old, 0)])
        self._old, self._new, self._overlap = old[shared], new[shared], np.diff(cuts)[shared]
        self._first = np.flatnonzero(np.diff(self._new, prepend=-1))
        self._blocks = len(grid.resolution_pixels)

    def _overlap_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of step functions, shape (n, p), over every new pixel, shape (n, q)."""
        sums = np.zeros((len(values), len(self._step)))
        if len(self._first):  # piece by piece: in a difference of long sums one large value would drown what comes after it
            sums[:, self._new[self._first]] = np.add.reduceat(values[:, self._old] * self._overlap, self._first, axis=1)
        return sums

    def __call__(
        self, flux: NDArray[np.floating], ivar: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
        """Rebin n spectra.

        Parameters
        ----------
        flux, ivar : ndarray, shape (n, p)
            What has no inverse variance is no data.

        Returns
        -------
        flux, ivar, mask : ndarray, shape (n, q)
            Pixels of which the half or more is not covered have flux and ivar 0 and the flag NO_DATA.
        """
        good = ivar > 0
        covered = self._overlap_sum(good.astype(float))
        usable, total = covered > 0.5 * self._step, np.maximum(covered, 1e-30)
        average = self._overlap_sum(np.where(good, flux, 0.0).astype(float)) / total
        # Σ overlap² σ² / (Σ overlap)²; overlap² is taken as overlap times the narrower of the two pixels: that holds in sums.
        variance = self._overlap_sum(np.where(good, self._narrower / np.where(good, ivar, 1.0), 0.0)) / total**2
        with np.errstate(over="ignore", divide="ignore"):
            new_flux, new_ivar = average.astype(np.float32), (1.0 / variance).astype(np.float32)
        usable &= np.isfinite(new_flux) & (new_ivar > 0) & np.isfinite(new_ivar)
        bits = np.where(usable, 0, PixelFlag.NO_DATA).astype(np.uint8)
        return np.where(usable, new_flux, np.float32(0)), np.where(usable, new_ivar, np.float32(0)), bits

    @cached_property
    def scatter(self) -> NDArray[np.float32]:
        """How much single new pixels scatter over what their inverse variance says, shape (r,), at the grid's ``resolution_pixels``.

        1 where no old pixel is shared, 0.8 where most are: √(Σ overlap² / Σ overlap · narrower), of the pixels around.
        """
        block = np.minimum((self._new + RESOLUTION_STEP // 2) // RESOLUTION_STEP, self._blocks - 1)
        covered, single = (np.bincount(block, self._overlap**power, self._blocks) for power in (1, 2))
        sums = np.bincount(block, self._overlap * self._narrower[self._old], self._blocks)
        # A block of which little is covered says nothing: where the pixels' edges lie is chance there.
        known = np.flatnonzero(covered > 0.3 * covered.max())
        if not len(known):
            return np.ones(self._blocks, np.float32)
        return np.interp(np.arange(self._blocks), known, np.sqrt(single[known] / sums[known])).astype(np.float32)


def resample(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.uint8], loglam: NDArray[np.float64], grid: WavelengthGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Rebin a spectrum off the lattice: flux, ivar and mask, shape (q,), and scatter, shape (r,), as of :class:`Rebinning`.

    Where pixels are missing between two of a spectrum there is no data. A pixel that is not good is as one that is missing.
    """
    good = (mask == 0) & (ivar > 0)
    if np.count_nonzero(good) < 2:  # a pixel alone has no width
        nothing = np.zeros(grid.n_pixels, np.float32)
        unknown = np.ones(len(grid.resolution_pixels), np.float32)
        return nothing, nothing.copy(), np.full(grid.n_pixels, PixelFlag.NO_DATA, np.uint8), unknown
    begin, end = _edges(loglam[good])
    rebin = Rebinning(10.0**begin, 10.0**end, grid)
    new_flux, new_ivar, bits = rebin(flux[None, good], ivar[None, good])
    return new_flux[0], new_ivar[0], bits[0], rebin.scatter

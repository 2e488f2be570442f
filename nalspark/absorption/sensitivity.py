"""How strong an absorber must be to be seen: the error of an equivalent width at every redshift of a sightline.

A line of known place, and of a Gaussian shape of s pixels, has an amplitude with variance ``1 / Σ w g²``, w being the inverse variance of
1 - flux/continuum, so its rest equivalent width has the error ``σ_W = s √(2π) λ₀ ln10 step / √(Σ w g²)``: 1 + z cancels on a log-λ grid.
Of the two lines of a doublet the worse one counts. Bins are groups of eleven pixels of the lattice, Δz = 0.0025 (1 + z), the same for every
spectrum of every survey. Free width, continuum and noise that is not Gaussian make errors larger than σ_W, and a network has its own mind:
what is found at which W / σ_W is measured (:mod:`nalspark.judging.completeness`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.compiled import compiled
from nalspark.lines import LineSpecies
from nalspark.spectra.grid import LATTICE, WavelengthGrid

Array = NDArray[np.float64]

#: Lattice pixels of a bin, by the place of the first line.
BIN_PIXELS = 11
#: More bins than any wavelength has: none lies beyond 100,000 Å.
MOST_BINS = 50_000 // BIN_PIXELS
#: Gaussian σ in pixels of the line that σ_W is given for: 110 km/s, a Mg II absorber of typical width seen through SDSS's instrument.
REFERENCE_PIXELS = 1.6
#: Pixels on either side of its centre on which a line is seen: 3 σ.
_REACH = 5


class Sensitivity(NamedTuple):
    """σ_W of n spectra in b bins.

    Attributes
    ----------
    first_bin : int
        Number of the first bin: bin k holds the lattice pixels 11 k to 11 k + 10.
    sigma_ew : ndarray, shape (n, b), rest Å
        Harmonic mean over the searched pixels of the bin, of the worse of both lines; NaN where nothing is searched.
    n_searched : ndarray of uint8, shape (n, b)
        Searched pixels of the bin.
    """

    first_bin: int
    sigma_ew: NDArray[np.float32]
    n_searched: NDArray[np.uint8]

    def at(self, row: NDArray[np.int64], pixel: NDArray[np.int64], grid: WavelengthGrid) -> NDArray[np.float32]:
        """Give σ_W of some rows at grid pixels of the first line, rest Å, shape (m,)."""
        return self.sigma_ew[row, (grid.first + pixel) // BIN_PIXELS - self.first_bin]

    def cells(self) -> dict[str, list[Any]]:
        """Give what a table keeps of each spectrum: `first_bin`, `sigma_ew` and `n_searched`, without the empty bins at both ends."""
        any_searched, n_bins = self.n_searched > 0, self.n_searched.shape[1]
        start = any_searched.argmax(axis=1)
        stop = np.where(any_searched.any(axis=1), n_bins - any_searched[:, ::-1].argmax(axis=1), start)
        ends = list(zip(start, stop, strict=True))
        return {
            "first_bin": [self.first_bin + int(a) for a in start],
            **{
                name: [values[row, a:b] for row, (a, b) in enumerate(ends)]
                for name, values in self._asdict().items()
                if name != "first_bin"
            },
        }


def bin_edges(species: LineSpecies, bins: ArrayLike) -> Array:
    """Give the absorption redshift of the lower edges of bins, the same shape as `bins`; of bin k + 1 it is the upper edge of bin k."""
    log_wave = (np.asarray(bins, dtype=float) * BIN_PIXELS - 0.5) * LATTICE.step
    return np.asarray(10.0**log_wave / species.primary.wavelength - 1.0, dtype=float)


def bin_of(species: LineSpecies, z: ArrayLike) -> NDArray[np.int64]:
    """Give the bin that holds each absorption redshift; the inverse of :func:`bin_edges`."""
    index = np.log10(species.primary.wavelength * (1.0 + np.asarray(z, dtype=float))) / LATTICE.step
    return np.floor((index + 0.5) / BIN_PIXELS).astype(np.int64)


#: What a table has of a sightline's bins.
BIN_COLUMNS = ("first_bin", "sigma_ew", "n_searched")


def flat_bins(columns: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Give the bins of a batch of rows of SENSITIVITY one after the other, those in which something is searched.

    Parameters
    ----------
    columns : mapping
        ``first_bin``, (n,), and of each row ``sigma_ew`` and ``n_searched``.

    Returns
    -------
    row, bins : ndarray of int, shape (k,)
        Whose bin it is, and its number.
    sigma_ew, searched : ndarray, shape (k,)
        σ_W, rest Å, and the part of the bin that is searched.
    """
    length = np.array([len(cell) for cell in columns["n_searched"]], dtype=np.int64)
    row = np.repeat(np.arange(len(length)), length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    count, sigma = (np.concatenate([*columns[name], ()]).astype(float) for name in ("n_searched", "sigma_ew"))
    some = np.flatnonzero(count > 0)
    bins = np.asarray(columns["first_bin"], dtype=np.int64)[row] + within
    return row[some], bins[some], sigma[some], count[some] / BIN_PIXELS


@compiled
def _mean_errors(
    weight: NDArray[np.float32], searched: NDArray[np.bool_], shift: int, scales: Array, taps: Array, bins: NDArray[np.int64],
    results: tuple[NDArray[np.float32], NDArray[np.uint8]],
) -> None:  # fmt: skip
    """Write the harmonic mean σ_W of the searched pixels of each bin, and their number; `scales` are W over amplitude of both lines."""
    reach, n_pixels = len(taps) // 2, weight.shape[1]
    power = np.empty(n_pixels)
    for row in range(len(weight)):
        w, mean, count = weight[row], results[0][row], results[1][row]
        power[:] = 0.0
        for u in range(-reach, reach + 1):
            tap, first, last = taps[reach + u], max(-u, 0), min(n_pixels - u, n_pixels)
            for i in range(first, last):
                power[i] += tap * w[i + u]
        for i in range(n_pixels - shift):
            if searched[row, i]:
                mean[bins[i]] += min(np.sqrt(power[i]) / scales[0], np.sqrt(power[i + shift]) / scales[1])
                count[bins[i]] += 1
        for k in range(len(mean)):
            mean[k] = count[k] / mean[k] if count[k] > 0 else np.nan


def measure_sensitivity(
    weight: NDArray[np.float32], searched: NDArray[np.bool_], species: LineSpecies, grid: WavelengthGrid
) -> Sensitivity:
    """Compute σ_W of every spectrum, bin by bin.

    Parameters
    ----------
    weight : ndarray, shape (n, p)
        Inverse variance of 1 - flux/continuum; 0 where there is no data.
    searched : ndarray of bool, shape (n, p)
        Pixels at which the first line is searched.
    species : LineSpecies
    grid : WavelengthGrid
    """
    bins = (grid.first + np.arange(grid.n_pixels)) // BIN_PIXELS
    shape = len(weight), int(bins[-1] - bins[0]) + 1
    sigma, count = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    per_amplitude = REFERENCE_PIXELS * np.sqrt(2.0 * np.pi) * np.log(10.0) * grid.step
    scales = per_amplitude * np.array([species.primary.wavelength, species.secondary.wavelength])
    taps = np.exp(-((np.arange(-_REACH, _REACH + 1) / REFERENCE_PIXELS) ** 2))
    shift = round(species.offset_pixels(species.secondary, grid.step))
    _mean_errors(weight, searched, shift, scales, taps, bins - bins[0], (sigma, count))
    return Sensitivity(int(bins[0]), sigma, count)

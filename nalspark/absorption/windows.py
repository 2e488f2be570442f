"""Where a species can be seen in a quasar: search window, observed-frame masks, searched redshift path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nalspark.compiled import compiled
from nalspark.lines import CA_II_3934, CA_II_3969, NA_I_5891, NA_I_5897, LineSpecies
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import WavelengthGrid

#: Observed wavelengths (Å) with strong sky residuals in every survey spectrum (qsoabsfind's defaults, Anand et al. 2021, §3.2).
SKY_LINES = ((5568.0, 5588.0), (6295.0, 6305.0))
#: Half width in Å of the masks on the Milky Way's Ca II and Na I lines (3928–3940 and 3963–3975 Å for Ca II, as Anand et al. 2021).
GALACTIC_HALF_WIDTH = 6.0
#: Pixels on either side of a line that must be usable for it to be searchable there.
_REACH = 2


def observed_mask(grid: WavelengthGrid) -> NDArray[np.uint8]:
    """Set the bits of PixelFlag that depend on the observed wavelength only, shape (p,)."""
    wavelength = grid.wavelength
    mask = np.zeros(grid.n_pixels, dtype=np.uint8)
    for blue, red in SKY_LINES:
        mask[(wavelength >= blue) & (wavelength <= red)] |= np.uint8(PixelFlag.SKY_LINE)
    for line in (CA_II_3934, CA_II_3969, NA_I_5891, NA_I_5897):
        mask[np.abs(wavelength - line.wavelength) <= GALACTIC_HALF_WIDTH] |= np.uint8(PixelFlag.GALACTIC)
    return mask


def search_window(grid: WavelengthGrid, species: LineSpecies, z_qso: NDArray[np.float64], blue_z: float) -> NDArray[np.bool_]:
    """Mark the pixels at which the first line may lie, shape (n, p), masks not regarded.

    From the red side of the blue emission line, computed for ``z_qso + blue_z``, to the blue side of the species' own emission line
    (Zhao et al. 2019, §2.1: rest 1550–2800 Å for Mg II).
    """
    wavelength = grid.wavelength
    blue, red = species.window_rest
    z_qso = np.asarray(z_qso, dtype=float)[:, None]
    return (wavelength > blue * (1.0 + z_qso + blue_z)) & (wavelength < red * (1.0 + z_qso))


def searchable(window: NDArray[np.bool_], good: NDArray[np.bool_], offset: int) -> NDArray[np.bool_]:
    """Mark the pixels of the first line at which both lines have usable pixels all around, shape (n, p).

    Parameters
    ----------
    window : ndarray of bool, shape (n, p)
    good : ndarray of bool, shape (n, p)
    offset : int
        Pixels from the first line to the second.
    """
    n_pixels = good.shape[1]
    padded = np.pad(good, ((0, 0), (_REACH, _REACH + offset)), constant_values=False)
    usable = np.ones_like(good)
    for tooth in (0, offset):
        near = np.zeros(good.shape, dtype=np.int8)
        for shift in range(2 * _REACH + 1):
            near += padded[:, tooth + shift : tooth + shift + n_pixels]
        usable &= near >= 2 * _REACH  # one bad pixel in five is bridged
    return window & usable


def redshift_path(
    grid: WavelengthGrid, species: LineSpecies, searched: NDArray[np.bool_]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], NDArray[np.float64]]:
    """Compute the searched redshift intervals of each spectrum.

    Parameters
    ----------
    grid : WavelengthGrid
    species : LineSpecies
    searched : ndarray of bool, shape (n, p)

    Returns
    -------
    z_start, z_stop : lists of n ndarrays
        Ends of the intervals, at pixel edges.
    redshift_path : ndarray, shape (n,)
        Their total length.
    """
    edges = grid.wavelength_at(np.arange(grid.n_pixels + 1) - 0.5) / species.primary.wavelength - 1.0
    steps = np.diff(np.pad(searched, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    start = [edges[np.flatnonzero(row == 1)] for row in steps]
    stop = [edges[np.flatnonzero(row == -1)] for row in steps]
    delta = np.array([float((b - a).sum()) for a, b in zip(start, stop, strict=True)])
    return start, stop, delta


@compiled
def _run_around(searched: NDArray[np.bool_], row: NDArray[np.int64], pixel: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.stack((pixel, pixel + 1))
    for k in range(len(row)):
        line = searched[row[k]]
        while ends[0, k] > 0 and line[ends[0, k] - 1]:
            ends[0, k] -= 1
        while ends[1, k] < len(line) and line[ends[1, k]]:
            ends[1, k] += 1
    return ends


def interval_around(
    grid: WavelengthGrid, species: LineSpecies, searched: NDArray[np.bool_], row: NDArray[np.int64], pixel: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the searched interval of :func:`redshift_path` that holds each of some pixels: its ends in redshift, shape (m,) each.

    Parameters
    ----------
    grid : WavelengthGrid
    species : LineSpecies
    searched : ndarray of bool, shape (n, p)
    row, pixel : ndarray of int, shape (m,)
        Searched pixels, and whose they are.
    """
    first, last = grid.wavelength_at(_run_around(searched, row, pixel) - 0.5) / species.primary.wavelength - 1.0
    return first, last

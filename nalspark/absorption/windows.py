"""Where a species can be seen in a quasar: search window, searched redshift path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nalspark.compiled import compiled
from nalspark.lines import OUR_GALAXY, SPEED_OF_LIGHT_KMS, LineSpecies
from nalspark.settings import Preprocess
from nalspark.spectra.grid import WavelengthGrid

#: Pixels on either side of a line that must be usable for it to be searchable there.
_REACH = 2


def search_window(grid: WavelengthGrid, species: LineSpecies, z_qso: NDArray[np.float64], settings: Preprocess) -> NDArray[np.bool_]:
    """Mark the pixels at which the first line is searched, with or without data, shape (n, p).

    From the red side of the blue emission line, computed for ``z_qso + window_blue_z``, or from ``window_rest_blue``, to absorption
    redshifts of ``window_beyond_kms`` above the quasar's. The Milky Way's own lines are left out.
    """
    blue = settings.window_rest_blue or species.window_rest[0]
    red = species.primary.wavelength * (1.0 + settings.window_beyond_kms / SPEED_OF_LIGHT_KMS)
    return _between(grid, z_qso, blue, red, settings.window_blue_z) & (grid.wavelength > species.primary.wavelength * (1.0 + OUR_GALAXY))


def zhao_window(grid: WavelengthGrid, species: LineSpecies, z_qso: NDArray[np.float64], settings: Preprocess) -> NDArray[np.bool_]:
    """Mark the pixels that a whole-spectrum network sees (Zhao et al. 2019, §2.1: rest 1550–2800 Å for Mg II), shape (n, p)."""
    return _between(grid, z_qso, *species.window_rest, settings.window_blue_z)


def _between(grid: WavelengthGrid, z_qso: NDArray[np.float64], blue: float, red: float, blue_z: float) -> NDArray[np.bool_]:
    """Mark the pixels between two wavelengths of the quasar's rest frame, the blue one computed for ``z_qso + blue_z``."""
    wavelength, z = grid.wavelength, np.asarray(z_qso, dtype=float)[:, None]
    return (wavelength > blue * (1.0 + z + blue_z)) & (wavelength < red * (1.0 + z))


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
    ends = np.empty((2, len(row)), np.int64)
    for k in range(len(row)):
        ends[0, k], ends[1, k] = pixel[k], pixel[k] + 1
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

"""A candidate as an image: one row per transition, one column per velocity pixel, aligned by the grid's geometry.

Behind the rows of the species' own lines are those of its alternatives: lines that would be there if the candidate were another ion.

A true absorber shows the same shape in the same columns of several rows; a pair of another ion, a sky residual or a half-shifted alias does
not. The image holds all that the measurement and a network need, so nothing downstream reads the spectrum again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.compiled import compiled
from nalspark.lines import LineSpecies

#: Columns on either side of the line: 49 in all, ± 1650 km/s.
HALF_WIDTH = 24


@dataclass(frozen=True)
class ImageGeometry:
    """Where the rows of an image lie with respect to the candidate's pixel.

    Attributes
    ----------
    offsets : ndarray of int, shape (t,)
        Whole pixels from the candidate's pixel to the row's middle column.
    fractions : ndarray, shape (t,)
        What is left: pixels from the row's middle column to the line itself, between -½ and ½.
    primary, secondary : int
        Rows of the doublet.
    """

    offsets: NDArray[np.int64]
    fractions: NDArray[np.float64]
    primary: int
    secondary: int

    @classmethod
    def of(cls, species: LineSpecies, step_dex: float) -> ImageGeometry:
        """Give the geometry of a species on a grid of steps of `step_dex` in log10 λ."""
        own = [species.offset_pixels(line, step_dex) for line in species.transitions]
        exact = np.array([*own, *species.alternative_pixels(step_dex)])
        whole = np.round(exact).astype(np.int64)
        lines = species.transitions
        return cls(whole, exact - whole, lines.index(species.primary), lines.index(species.secondary))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (t, c)."""
        return len(self.offsets), 2 * HALF_WIDTH + 1


def cut_images(
    values: NDArray[np.float32], row: NDArray[np.int64], pixel: NDArray[np.int64], geometry: ImageGeometry
) -> NDArray[np.float32]:
    """Cut the candidates' images out of a batch of spectra.

    Parameters
    ----------
    values : ndarray, shape (n, p)
    row, pixel : ndarray of int, shape (m,)
        Spectrum and grid pixel of each candidate.
    geometry : ImageGeometry

    Returns
    -------
    ndarray, shape (m, t, c); 0 beyond the ends of the grid
    """
    images = np.zeros((len(row), *geometry.shape), np.float32)
    _cut(np.ascontiguousarray(values, np.float32), row, pixel + geometry.offsets[:, None] - HALF_WIDTH, images)
    return images


@compiled
def _cut(values: NDArray[np.float32], row: NDArray[np.int64], first: NDArray[np.int64], images: NDArray[np.float32]) -> None:
    """Copy into `images` (m, t, c) what lies from the pixels `first` (t, m) on."""
    n_pixels, columns = values.shape[1], images.shape[2]
    for k in range(len(row)):
        for line in range(len(first)):
            start = first[line, k]
            for pixel in range(max(start, 0), min(start + columns, n_pixels)):
                images[k, line, pixel - start] = values[row[k], pixel]


def core_is_covered(distance: NDArray[np.float64], width: NDArray[np.float64], inverse_error: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell where seven tenths of a line's core, within 1.5 σ, have data; shape (m,).

    Parameters
    ----------
    distance, inverse_error : ndarray, shape (m, c)
        Pixels from the line; inverse standard error, 0 where masked.
    width : ndarray, shape (m, 1)
        σ in pixels.
    """
    core = np.abs(distance) <= np.maximum(1.5 * width, 1.0)
    return np.asarray(((inverse_error > 0) & core).sum(axis=1) >= 0.7 * core.sum(axis=1))

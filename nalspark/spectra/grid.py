"""The wavelength lattice: pixels of constant log10 λ, the same integer lattice for every SDSS spectrum.

SDSS writes log10 λ as multiples of 1e-4, so a pixel has an integer index ``round(log10 λ / 1e-4)`` that is the same in every file. Grids
are ranges of that index; going from one to another is padding and cropping, never resampling.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.lines import SPEED_OF_LIGHT_KMS


@dataclass(frozen=True)
class WavelengthGrid:
    """A range of the log-λ lattice.

    Attributes
    ----------
    first : int
        Lattice index of pixel 0: its wavelength is ``10 ** (first * step)`` Å.
    n_pixels : int
        Number of pixels.
    step : float
        Dex of wavelength per pixel.
    """

    first: int
    n_pixels: int
    step: float = 1e-4

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Vacuum wavelength of every pixel centre, shape (p,), Å."""
        return 10.0 ** ((self.first + np.arange(self.n_pixels, dtype=np.float64)) * self.step)

    @property
    def pixel_kms(self) -> float:
        """Velocity width of one pixel, km/s (69.03 for 1e-4 dex)."""
        return SPEED_OF_LIGHT_KMS * np.log(10.0) * self.step

    @property
    def fingerprint(self) -> str:
        """A short digest that a table or a model is checked against."""
        return hashlib.sha256(f"{self.first}:{self.n_pixels}:{self.step!r}".encode()).hexdigest()[:12]

    def pixel(self, wavelength: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Give the fractional pixel position of a wavelength in Å; 0 is the centre of the first pixel."""
        return np.log10(wavelength) / self.step - self.first

    def wavelength_at(self, pixel: ArrayLike) -> NDArray[np.float64]:
        """Give the wavelength in Å at a fractional pixel position: the inverse of :meth:`pixel`."""
        return 10.0 ** ((self.first + np.asarray(pixel, dtype=float)) * self.step)


#: Dex per pixel of the lattice on which SDSS writes its spectra.
LATTICE_STEP = 1e-4
#: float32 log10 λ near 4 is exact to 2.4e-7; a fiftieth of a pixel is well above that and far below a shift that would matter.
LATTICE_TOLERANCE = 2e-6


def lattice_pixel(loglam: NDArray[np.float64]) -> int | None:
    """Find where on the lattice the first of a spectrum's pixels lies.

    Parameters
    ----------
    loglam : ndarray, shape (p,), log10 of Å

    Returns
    -------
    int or None
        The lattice index; None where any pixel is off the lattice, or neighbours are not neighbours on it.
    """
    if not math.isfinite(loglam[0]):
        return None
    first = round(float(loglam[0]) / LATTICE_STEP)
    # Written so that nan fails. Each pixel is compared with its own lattice point, so that no drift along the spectrum goes unseen.
    on_lattice = np.abs(loglam - first * LATTICE_STEP - _steps(len(loglam))).max() < LATTICE_TOLERANCE
    return first if on_lattice else None


@lru_cache(maxsize=64)
def _steps(n_pixels: int) -> NDArray[np.float64]:
    steps = np.asarray(np.arange(n_pixels) * LATTICE_STEP)
    steps.flags.writeable = False
    return steps


#: 3800–9200 Å in steps of 1e-4 dex: 3841 pixels (Zhao et al. 2019, §2.1).
SDSS_GRID = WavelengthGrid(first=35798, n_pixels=3841)

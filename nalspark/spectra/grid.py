"""The wavelength lattice: pixels of constant log10 λ, the same integer lattice for every survey.

SDSS writes log10 λ as multiples of 1e-4, so a pixel has an integer index ``round(log10 λ / 1e-4)`` that is the same in every file. Grids
are ranges of that index; going from one to another is padding and cropping, never resampling. A spectrum has data where its survey
recorded any; the rest of the lattice has none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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

    @property
    def resolution_pixels(self) -> NDArray[np.int64]:
        """Lattice indices, shape (r,), at which the σ of the line-spread function is kept."""
        return self.first + np.arange(0, self.n_pixels + RESOLUTION_STEP, RESOLUTION_STEP)

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
#: Index that no wavelength has.
_ABSURD_PIXEL = 1e10


def lattice_pixels(loglam: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Find where on the lattice a spectrum's pixels lie.

    Parameters
    ----------
    loglam : ndarray, shape (p,), log10 of Å

    Returns
    -------
    ndarray of int, shape (p,), or None
        Ascending lattice indices, with jumps where pixels were left out; None where any pixel is off the lattice, or pixels are wider.
    """
    with np.errstate(all="ignore"):  # what is no number lies nowhere
        pixels = np.rint(loglam / LATTICE_STEP)
        on_lattice = np.abs(loglam - pixels * LATTICE_STEP).max() < LATTICE_TOLERANCE
        steps = pixels[1:] - pixels[:-1]
    if not (on_lattice and steps.min(initial=1.0) > 0 and abs(pixels[-1]) < _ABSURD_PIXEL):
        return None
    # Most steps are 1 in a spectrum that lacks pixels; in one of pixels of 2e-4 dex none is.
    return pixels.astype(np.int64) if 2 * np.count_nonzero(steps == 1) >= len(steps) else None


#: Lattice pixels between the places at which a spectrum's resolution is kept: it changes slowly.
RESOLUTION_STEP = 100
#: 3560–10400 Å: all that SDSS, BOSS, SDSS-V and DESI record. What is searched.
LATTICE = WavelengthGrid(first=35515, n_pixels=4656)
#: The crop of 3800–9200 Å, 3841 pixels, that the network of Zhao et al. 2019, §2.1, sees.
ZHAO_GRID = WavelengthGrid(first=35798, n_pixels=3841)

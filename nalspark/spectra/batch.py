"""A batch of spectra as arrays, and the bits that say why a pixel is not used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.grid import RESOLUTION_STEP, WavelengthGrid


class PixelFlag(IntFlag):
    """Why a pixel is not searched. Any bit set means: not used."""

    NO_DATA = 1  #: no inverse variance, or not covered by the spectrum
    FOREST = 16  #: bluewards of the quasar's Lyα emission, where no continuum can be seen
    ABSURD = 32  #: flux or inverse variance a thousand times what the rest of the spectrum has


@dataclass(frozen=True)
class Spectra:
    """`n` spectra of `p` pixels on one grid.

    Attributes
    ----------
    flux : ndarray, shape (n, p), 1e-17 erg/s/cm²/Å or dimensionless after rescaling
    ivar : ndarray, shape (n, p), inverse variance in the inverse square of flux's unit; 0 where there is no data
    mask : ndarray of uint8, shape (n, p), bits of :class:`PixelFlag`
    grid : WavelengthGrid
    resolution : ndarray, shape (n, r), lattice pixels, or None
        Gaussian σ of the line-spread function at the grid's ``resolution_pixels``; NaN where it is not known.
    scatter : ndarray, shape (n, r), or None
        Of rebinned spectra: how much single pixels scatter over what their errors say, which hold in sums; None where no pixel is shared.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint8]
    grid: WavelengthGrid
    resolution: NDArray[np.float32] | None = None
    scatter: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.flux), self.grid.n_pixels)
        for name in ("flux", "ivar", "mask"):
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} has shape {found}, expected (n spectra, p pixels) = {shape}")

    def take(self, which: NDArray[Any]) -> Spectra:
        """Take some of them, by a mask or by numbers."""
        resolution, scatter = (None if values is None else values[which] for values in (self.resolution, self.scatter))
        return Spectra(self.flux[which], self.ivar[which], self.mask[which], self.grid, resolution, scatter)

    def deviations(self, continuum: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the deviations from a continuum, shape (n, p), in units of what single pixels should scatter."""
        deviation: NDArray[np.float64] = (self.flux - continuum) * np.sqrt(self.ivar)
        if self.scatter is not None:
            places = np.arange(self.scatter.shape[1]) * RESOLUTION_STEP
            deviation /= np.stack([np.interp(np.arange(self.grid.n_pixels), places, row) for row in self.scatter])
        return deviation

    def resolution_at(self, row: NDArray[np.int64], pixel: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give the σ of the line-spread function at pixels of some rows, shape (m,), lattice pixels; NaN where it is not known."""
        if self.resolution is None:
            return np.full(len(row), np.nan)
        place = np.asarray(pixel) / RESOLUTION_STEP
        left = np.clip(place.astype(np.int64), 0, self.resolution.shape[1] - 2)
        known, part = self.resolution.astype(float), place - left
        return known[row, left] * (1.0 - part) + known[row, left + 1] * part

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pixels that may be used, shape (n, p)."""
        return (self.mask == 0) & (self.ivar > 0)

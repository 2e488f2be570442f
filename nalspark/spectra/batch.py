"""A batch of spectra as arrays, and the bits that say why a pixel is not used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.grid import WavelengthGrid


class PixelFlag(IntFlag):
    """Why a pixel is not searched. Any bit set means: not used."""

    NO_DATA = 1  #: no inverse variance, or not covered by the spectrum
    BRIGHT_SKY = 2  #: the survey's own flag for residuals of a bright sky line (SDSS and_mask bit 23)
    SKY_LINE = 4  #: strong sky residual at fixed observed wavelength (5577, 6300 Å)
    GALACTIC = 8  #: Milky Way absorption (Ca II H and K, Na I D)
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
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint8]
    grid: WavelengthGrid

    def __post_init__(self) -> None:
        shape = (len(self.flux), self.grid.n_pixels)
        for name in ("flux", "ivar", "mask"):
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} has shape {found}, expected (n spectra, p pixels) = {shape}")

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pixels that may be used, shape (n, p)."""
        return (self.mask == 0) & (self.ivar > 0)

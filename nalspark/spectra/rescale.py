"""The clean-region rescaling of Zhao et al. 2019, §2.1: flux divided by its median where the quasar has no strong line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.batch import Spectra

#: (largest z_qso, observed frame?, blue Å, red Å), Zhao et al. 2019, §2.1.
CLEAN_REGIONS = (
    (1.0, True, 4150.0, 4250.0),
    (1.8, False, 3020.0, 3100.0),
    (2.8, False, 2150.0, 2250.0),
    (np.inf, False, 1420.0, 1500.0),
)


def clean_region(z_qso: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the observed wavelengths (Å) between which each quasar's flux is taken, two arrays of shape (n,)."""
    blue, red = np.full((2, len(z_qso)), np.nan)
    lower = -np.inf
    for upper, observed, start, stop in CLEAN_REGIONS:
        here = (z_qso > lower) & (z_qso <= upper)
        stretch = 1.0 if observed else 1.0 + z_qso[here]
        blue[here], red[here] = start * stretch, stop * stretch
        lower = upper
    return blue, red


def masked_median(values: NDArray[np.floating], use: NDArray[np.bool_]) -> NDArray[Any]:
    """Compute the median over the pixels of each row where `use` holds; NaN where there are none. Shape (n,)."""
    middle = np.full((2, len(values)), np.nan, values.dtype)
    for row, chosen in enumerate(use):
        left = values[row][chosen]
        if len(left):
            half = len(left) // 2
            left.partition(half)
            middle[:, row] = left[half] if len(left) % 2 else left[:half].max(), left[half]
    return 0.5 * (middle[0] + middle[1])


def rescale_factor(spectra: Spectra, z_qso: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the flux by which each spectrum is divided, shape (n,), in flux's unit.

    The median of the clean region; where that region is not covered, or its median is not positive, the median of the whole spectrum. NaN
    where neither is positive.
    """
    wavelength = spectra.grid.wavelength
    blue, red = clean_region(z_qso)
    good = spectra.good
    inside = good & (wavelength >= blue[:, None]) & (wavelength <= red[:, None])
    factor = masked_median(spectra.flux, inside)
    dark = ~(factor > 0)
    factor[dark] = masked_median(spectra.flux[dark], good[dark])
    return np.where(factor > 0, factor, np.nan)

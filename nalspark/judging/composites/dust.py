"""The extinction law of the Small Magellanic Cloud's bar, and how much of it a composite shows against its controls."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]

#: A(V) / E(B-V) of the bar, and the parameters of its ultraviolet curve (Gordon et al. 2003, ApJ 594, 279, Tables 2 and 3).
R_V = 2.74
_C1, _C2, _C3, _C4, _X0, _GAMMA = -4.959, 2.264, 0.389, 0.461, 4.6, 1.0
#: Wavelength (μm) and A / A(V) in the optical and near infrared (their Table 4; J and K as Gordon et al. 2016, ApJ 826, 104, smooth them).
_OPTICAL = ((2.198, 0.11), (1.65, 0.169), (1.25, 0.25), (0.81, 0.567), (0.65, 0.801), (0.55, 1.0), (0.44, 1.374), (0.37, 1.672))
#: Where the ultraviolet curve begins, and the two of its points that the optical one joins (Fitzpatrick 1999, PASP 111, 63), μm.
_BEGINS, _JOINS = 0.27, (0.27, 0.26)
#: Wavelengths (Å) between which the law is known.
LAW_RANGE = (1000.0, 33_000.0)
#: ln of the flux that one magnitude takes away.
_PER_MAGNITUDE = -0.4 * np.log(10.0)


def smc_law(wavelength: ArrayLike) -> Array:
    """Compute k(λ) = A(λ) / E(B-V) of the SMC bar.

    Gordon et al. (2003, ApJ 594, 279): the curve of Fitzpatrick & Massa (1990) below 2700 Å, a spline through their points above, as in
    ``dust_extinction.averages.G03_SMCBar``. Their spectra reach from 1160 Å; bluewards to 1000 Å the curve is continued.

    Parameters
    ----------
    wavelength : array_like, any shape, vacuum Å, rest frame of the dust

    Returns
    -------
    ndarray, the same shape
        NaN outside :data:`LAW_RANGE`.
    """
    wave = np.asarray(wavelength, dtype=float)
    known = (wave >= LAW_RANGE[0]) & (wave <= LAW_RANGE[1])
    x = 1e4 / np.where(known, wave, 5500.0)
    law = np.where(x >= 1.0 / _BEGINS, _ultraviolet(x), _optical()(x))
    return np.where(known, R_V * law, np.nan)


def _ultraviolet(x: Array) -> Array:
    """A / A(V) at x in 1/μm."""
    bump = x**2 / ((x**2 - _X0**2) ** 2 + (x * _GAMMA) ** 2)
    rise = np.where(x >= 5.9, 0.5392 * (x - 5.9) ** 2 + 0.05644 * (x - 5.9) ** 3, 0.0)
    return (_C1 + _C2 * x + _C3 * bump + _C4 * rise) / R_V + 1.0


@cache
def _optical() -> CubicSpline:
    """A / A(V) redwards of the ultraviolet, of 1/μm."""
    joins = 1.0 / np.array(_JOINS)
    wave, law = np.array(_OPTICAL).T
    return CubicSpline(np.r_[0.0, 1.0 / wave, joins], np.r_[0.0, law, _ultraviolet(joins)], bc_type="natural")


def fit_reddening(difference: Array, law: Array, weight: Array) -> Array:
    """Fit E(B-V) to differences of ln flux that are each measured from a mean of their own.

    Minimises Σ w (d + 0.4 ln 10 · E(B-V) · k)². `difference` and `law` are means over spectra of what each spectrum has less its own mean
    over its wavelengths: so the unknown brightness of each spectrum plays no part, whichever wavelengths it has.

    Parameters
    ----------
    difference : ndarray, shape (…, d)
        ln of the flux of the absorbed less that of the controls, at d wavelengths.
    law : ndarray, shape (…, d)
        k(λ), magnitudes for E(B-V) = 1.
    weight : ndarray, shape (…, d), 0 where there is nothing

    Returns
    -------
    ndarray, shape (…)
        Magnitudes; NaN where nothing is known.
    """
    known = (weight > 0) & np.isfinite(difference) & np.isfinite(law)
    used, y, x = np.where(known, weight, 0.0), np.where(known, difference, 0.0), _PER_MAGNITUDE * np.where(known, law, 0.0)
    square = (used * x * x).sum(axis=-1)
    with np.errstate(all="ignore"):
        return np.where(square > 0, (used * x * y).sum(axis=-1) / square, np.nan)


def transmission(law: ArrayLike, ebv: ArrayLike) -> Array:
    """Compute the part of the light that dust leaves, 10^(-0.4 E(B-V) k)."""
    return np.exp(_PER_MAGNITUDE * np.asarray(ebv, dtype=float) * np.asarray(law, dtype=float))

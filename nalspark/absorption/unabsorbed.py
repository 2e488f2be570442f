"""The continuum of a quasar around C IV as it would be without broad absorption: stiff, and fitted to what is not absorbed.

The search's own continuum follows a broad trough; this one cannot. It is a sum of power laws and of Gaussian emission lines of known
places (Vanden Berk et al. 2001, AJ 122, 549, Table 2), none of them negative, so that it is smooth and does not dip. How it is fitted:
:mod:`nalspark.absorption.stiff_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.stiff_fit import combine, fit_components
from nalspark.lines import SPEED_OF_LIGHT_KMS
from nalspark.spectra.batch import Spectra

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Rest wavelengths (Å) between which the continuum is fitted: from N V to the Fe II and N III] blend.
REST_RANGE = (1262.0, 1790.0)
#: Pixels averaged for the fit: 276 km/s.
_BIN = 4
#: Exponents of the power laws of λ.
_SLOPES = (-3.0, -1.5, 0.0, 1.5)
#: Emission lines and blends: rest wavelength (Å), displacements and Gaussian σ (km/s), and the height over the continuum that is usual: the
#: prior of every amplitude, by which a line does not grow where a trough leaves no pixel to deny it.
_LINES = (
    (1240.0, (0.0,), (2500.0, 5500.0), 1.0),  # red wing of Lyα and N V
    (1305.0, (0.0,), (1500.0, 3000.0), 0.15),  # O I, Si II
    (1335.5, (0.0,), (1500.0, 3000.0), 0.1),  # C II
    (1398.3, (-1500.0, 0.0, 1500.0), (1500.0, 3000.0, 5000.0), 0.2),  # Si IV, O IV]
    (1549.1, (-1500.0, -500.0, 0.0, 500.0), (400.0, 700.0, 1500.0), 1.0),  # C IV, its core
    (1549.1, (-3000.0, -1500.0, 0.0), (3000.0, 5000.0), 1.0),  # and its wings
    (1602.0, (0.0,), (6000.0,), 0.1),  # the bump redwards of C IV
    (1640.4, (-1500.0, 0.0), (1000.0, 2500.0, 5000.0), 0.15),  # He II
    (1664.7, (0.0,), (1500.0, 3000.0), 0.15),  # O III], Al II
    (1745.0, (0.0,), (3000.0, 7000.0), 0.15),  # N III], Fe II
)
#: Fraction of the bins that a fit needs.
_LEAST = 0.25
#: Rest wavelength (Å) redwards of which C IV has no troughs: 2000 km/s beyond the line.
_REDDEST = 1560.0


@dataclass(frozen=True)
class Unabsorbed:
    """Continua of n spectra at the q pixels of the quasar's rest frame around C IV.

    Attributes
    ----------
    pixel : ndarray of int, shape (n, q)
        Pixel of the spectrum's grid; may lie outside it.
    wavelength : ndarray, shape (q,)
        Rest wavelength, Å.
    continuum : ndarray, shape (n, q), in the unit of flux
        NaN where the spectrum has too few pixels.
    root : ndarray, shape (n, c, c)
        Lower triangle L with L Lᵀ = the inverse covariance of the components' amplitudes; 1 on the diagonal for those that are 0.
    active : ndarray of bool, shape (n, c)
        Components that are not 0.
    """

    pixel: NDArray[np.int64]
    wavelength: Floats
    continuum: Floats
    root: Floats
    active: Flags


@lru_cache(maxsize=4)
def rest_frame(step: float) -> tuple[int, Floats, Floats]:
    """Give the first pixel of the rest-frame lattice, the wavelengths (q,) in Å, and the components there (q, c)."""
    first = round(np.log10(REST_RANGE[0]) / step)
    n_pixels = (round(np.log10(REST_RANGE[1]) / step) - first) // _BIN * _BIN
    wave = 10.0 ** ((first + np.arange(n_pixels)) * step)
    parts = [(wave / 1500.0) ** slope for slope in _SLOPES]
    for line, displacements, sigmas, _ in _LINES:
        v = SPEED_OF_LIGHT_KMS * np.log(wave / line)
        parts += [np.exp(-0.5 * ((v - centre) / sigma) ** 2) for centre in displacements for sigma in sigmas]
    components = np.ascontiguousarray(np.stack(parts, axis=1))
    wave.flags.writeable = components.flags.writeable = False
    return first, wave, components


def _prior() -> Floats:
    """Inverse variances of the amplitudes about 0, (c,), in units of the spectrum's typical level; next to nothing for the power laws."""
    lines = [usual**-2.0 for _, displacements, sigmas, usual in _LINES for _ in range(len(displacements) * len(sigmas))]
    return np.array([0.01] * len(_SLOPES) + lines)


def unabsorbed_continuum(spectra: Spectra, z_qso: NDArray[np.float64]) -> Unabsorbed:
    """Fit the continuum of each quasar between :data:`REST_RANGE`; the result for one does not depend on the others.

    Parameters
    ----------
    spectra : Spectra, n of them, in any unit of flux
    z_qso : ndarray, shape (n,)
    """
    grid = spectra.grid
    first, wave, components = rest_frame(grid.step)
    n, (q, c) = len(z_qso), components.shape
    shift = np.rint(np.log10(1.0 + np.where(z_qso > -1.0, z_qso, 0.0)) / grid.step).astype(np.int64)
    pixel = first - grid.first + shift[:, None] + np.arange(q)
    binned = np.ascontiguousarray(components.reshape(-1, _BIN, c).mean(axis=1))
    continuum, root, active = np.full((n, q), np.nan), np.zeros((n, c, c)), np.zeros((n, c), dtype=bool)
    good, prior, broad = spectra.good, _prior(), wave[::_BIN] < _REDDEST
    for row in range(n):
        here = np.clip(pixel[row], 0, grid.n_pixels - 1)
        weight = np.where(good[row, here] & (here == pixel[row]), spectra.ivar[row, here], 0.0).astype(float)
        value, error, known = _bins(np.where(weight > 0, spectra.flux[row, here], 0.0).astype(float), weight)
        if np.count_nonzero(known) >= _LEAST * len(known) and (scale := float(np.median(value[known]))) > 0:
            amplitude = np.zeros(c)
            fit_components(value / scale, error / scale, known, broad, binned, prior, amplitude, root[row])
            combine(components, scale * amplitude, continuum[row])
            active[row] = amplitude > 0
            root[row] /= scale
    return Unabsorbed(pixel, wave, continuum, root, active)


def _bins(flux: Floats, ivar: Floats) -> tuple[Floats, Floats, Flags]:
    """Weighted means over bins, their standard errors, and which bins have data; all (b,)."""
    weight = ivar.reshape(-1, _BIN).sum(axis=1)
    known = weight > 0
    safe = np.where(known, weight, 1.0)
    return (flux * ivar).reshape(-1, _BIN).sum(axis=1) / safe, np.where(known, 1.0 / np.sqrt(safe), np.inf), known

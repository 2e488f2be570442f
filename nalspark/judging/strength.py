"""How strong a true system is, and whether a system passes a measurement.

A true system is *strong* where its equivalent width is at least 0.3 Å and both its lines reach 3 σ (Zhao et al. 2019, §2.2). σ is the
truth's own where it gives one. Else it is the error that the doublet fit has at the true redshift (:func:`measure_at`): every true system
is fitted there, found or not, so that what is strong cannot depend on what was found. Where the pixels are not at hand it is estimated from
the sightline's signal-to-noise ratio (:func:`estimate_errors`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.measure import STRONG_EW, STRONG_SIGNIFICANCE, measure_candidates
from nalspark.absorption.normalize import residuals
from nalspark.lines import LineSpecies
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Gaussian σ of a system whose width is not known: rest FWHM 2.2 Å, the median of real Mg II systems, with SDSS's instrument taken off.
_TYPICAL_SIGMA_KMS = 70.0
#: Gaussian σ in pixels from which a fit at a given redshift starts.
_START_WIDTH = 1.8
FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
#: Columns of a truth table with the standard errors of its equivalent widths, Å.
ERRORS = ("ew_primary_err", "ew_secondary_err")


def measure_at(spectra: Spectra, continuum: NDArray[np.float32], z_abs: Array, species: LineSpecies) -> dict[str, Array]:
    """Fit the doublet at given redshifts, whether or not anything was found there; the fit may move by 6 pixels.

    Parameters
    ----------
    spectra : Spectra
        n spectra as :func:`nalspark.absorption.normalize.normalize` leaves them; one row per redshift.
    continuum : ndarray, shape (n, p)
    z_abs : ndarray, shape (n,)
    species : LineSpecies

    Returns
    -------
    dict of ndarray, shape (n,)
        What :func:`nalspark.absorption.measure.measure_candidates` gives.
    """
    grid = spectra.grid
    pixel = np.round(grid.pixel(species.primary.wavelength * (1.0 + np.asarray(z_abs, dtype=float)))).astype(np.int64)
    residual, weight = residuals(spectra.flux, spectra.ivar, continuum, spectra.mask)
    geometry, row = ImageGeometry.of(species, grid.step), np.arange(len(pixel))
    found = {"pixel": pixel, "width_pixels": np.full(len(pixel), _START_WIDTH)}
    image, inverse_error = (cut_images(values, row, pixel, geometry) for values in (residual, np.sqrt(weight)))
    return measure_candidates(image, inverse_error, found, species, grid)


def estimate_errors(
    snr: ArrayLike, sigma_kms: ArrayLike, species: LineSpecies, grid: WavelengthGrid, instrument_sigma_kms: float
) -> tuple[Array, Array]:
    """Estimate the standard errors of the two equivalent widths from the signal-to-noise ratio per pixel alone, rest Å, shape (n,) each.

    A line of known place and Gaussian width of s pixels, weighted by its profile, has ``σ_W = λ₀ ln10 step √(2 √π s) / snr`` (for the
    amplitude: ``Σ g² = √π s``). Free width and continuum make real errors larger: calibrate with :func:`error_factor`.

    Parameters
    ----------
    snr : array, shape (n,)
        Of the continuum, per pixel.
    sigma_kms : array, shape (n,)
        Gaussian σ of the lines before the instrument; where NaN, that of a typical system.
    species : LineSpecies
    grid : WavelengthGrid
    instrument_sigma_kms : float
    """
    sigma = np.asarray(sigma_kms, dtype=float)
    width = np.hypot(np.where(np.isfinite(sigma), sigma, _TYPICAL_SIGMA_KMS), instrument_sigma_kms) / grid.pixel_kms
    per_angstrom = np.log(10.0) * grid.step * np.sqrt(2.0 * np.sqrt(np.pi) * width) / np.asarray(snr, dtype=float)
    return species.primary.wavelength * per_angstrom, species.secondary.wavelength * per_angstrom


def error_factor(absorbers: pd.DataFrame, species: LineSpecies, grid: WavelengthGrid, instrument_sigma_kms: float) -> float:
    """Give the median ratio of the catalogue's own errors to :func:`estimate_errors`; 1 for an empty catalogue.

    Parameters
    ----------
    absorbers : DataFrame
        With ``snr`` of the sightline, as :func:`nalspark.judging.match.compare` gives it.
    """
    sigma = absorbers["fwhm_kms"] / FWHM_PER_SIGMA
    estimated = estimate_errors(absorbers["snr"], sigma, species, grid, instrument_sigma_kms)[0]
    ratio = absorbers[f"ew_{species.primary.label}_err"].to_numpy(dtype=float) / estimated
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 1.0


def is_strong(truth: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which true systems are strong (see the module), shape (m,); one with an unknown width or error is not.

    Parameters
    ----------
    truth : DataFrame
        ``ew_primary``, ``ew_secondary``, ``ew_primary_err``, ``ew_secondary_err``.
    """
    width, error = (truth[list(names)].to_numpy(dtype=float) for names in (("ew_primary", "ew_secondary"), ERRORS))
    return (width[:, 0] >= STRONG_EW) & ((width >= STRONG_SIGNIFICANCE * error) & (error > 0)).all(axis=1)


def passes(measured: pd.DataFrame, species: LineSpecies) -> NDArray[np.bool_]:
    """Say whether both lines reach 3 σ in a measurement, shape (m,); what could not be measured does not pass."""
    names = [f"snr_{line.label}" for line in (species.primary, species.secondary)]
    return (measured[names].to_numpy(dtype=float) >= STRONG_SIGNIFICANCE).all(axis=1)

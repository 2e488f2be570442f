"""What the catalogue says of an absorber: redshift, equivalent widths, width, companions, column densities, flags.

Rest equivalent width of a Gaussian line of amplitude A and σ = s pixels: ``W = A s √(2π) λ₀ ln10 step``; on a log-λ grid 1 + z cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.column_density import Profile, doublet_profiles, measure_column_densities
from nalspark.absorption.fit import EPSILON, FIRST, LEVEL, LOG_WIDTH, SECOND, SLOPE, DoubletFit, fit_doublets
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, core_is_covered
from nalspark.absorption.systems import in_path
from nalspark.lines import CA_II_3934, CA_II_3969, NA_I_5891, NA_I_5897, SPEED_OF_LIGHT_KMS, LineSpecies
from nalspark.settings import Settings
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Equivalent width (Å) and significance of a strong system (Zhao et al. 2019, §2.2 and §3.2).
STRONG_EW, STRONG_SIGNIFICANCE = 0.3, 3.0

_SQRT_2PI = np.sqrt(2.0 * np.pi)
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


class AbsorberFlag(IntFlag):
    """What is to be remarked about an absorber."""

    BAL_LIKE = 1  #: much of the 5000 km/s around it lies below the continuum
    NEAR_QUASAR = 2  #: within `near_quasar_kms` of z_qso: may belong to the quasar
    SKY_LINE = 4  #: a line lies on a strong night-sky line
    BAD_RATIO = 8  #: doublet ratio more than 2 σ outside what atomic physics allows
    BLENDED = 16  #: another candidate within 25 pixels, or strong unexplained absorption beside the lines
    EDGE = 32  #: part of the doublet has no data
    UNRESOLVED = 64  #: not wider than the instrument: fwhm_kms is 0
    POOR_FIT = 128  #: reduced χ² above 2
    MISALIGNED = 256  #: the two lines do not lie at one redshift, or differ in width
    CROWDED = 512  #: the spectrum shows many narrow features that this absorber does not explain
    OFF_PATH = 1024  #: z_abs lies outside the searched interval: drop the row for incidence rates
    BEYOND_QUASAR = 2048  #: z_abs is above z_qso: gas that falls in, or a wrong quasar redshift
    BLUE_OF_WINDOW = 4096  #: bluewards of the species' own search window (of C IV emission for Mg II), where other lines are frequent
    GALACTIC = 8192  #: a line lies on the Milky Way's Ca II H, K or Na I D
    WEAK = 16384  #: a line is below its measured signal-to-noise threshold
    BROAD = 32768  #: wider than narrow absorption of its equivalent width usually is


#: Strong night-sky lines and bands (Å, vacuum) in SDSS spectra: Hg I and Na of street lights, O I, O₂ and OH.
SKY_FEATURES = (4359.6, 5462.3, 5578.9, 5891.6, 6302.1, 6365.5, 6865.0, 7247.0, 7278.0, 7605.0, 7623.0, 7996.0, 8347.0, 8402.0, 8432.0)
_GALACTIC_LINES = tuple(line.wavelength for line in (CA_II_3934, CA_II_3969, NA_I_5891, NA_I_5897))


def _equivalent_width(fit: DoubletFit, column: int, angstrom_per_pixel: float) -> tuple[Array, Array]:
    """W and its standard error in rest Å, from the amplitude in `column` and the common width."""
    amplitude, width = fit.parameters[:, column], np.exp(fit.parameters[:, LOG_WIDTH])
    factor = _SQRT_2PI * angstrom_per_pixel * width
    variance = (
        fit.covariance[:, column, column]
        + amplitude**2 * fit.covariance[:, LOG_WIDTH, LOG_WIDTH]
        + 2.0 * amplitude * fit.covariance[:, column, LOG_WIDTH]
    )
    return factor * amplitude, factor * np.sqrt(np.maximum(variance, 0.0))


def _companion(residual: Array, inverse_error: Array, centre: Array, width: Array) -> tuple[Profile, Array]:
    """A line of known place and width with a free level under it, and its amplitude's standard error; NaN where not covered."""
    u = np.arange(-HALF_WIDTH, HALF_WIDTH + 1, dtype=float)
    distance = u - centre[:, None]
    # The level is taken close by: Fe II 2374 and 2382 are 15 pixels apart.
    weight = np.where(np.abs(distance) <= 4.0 + 3.0 * width[:, None], inverse_error**2, 0.0)
    profile = np.exp(-0.5 * (distance / width[:, None]) ** 2)
    total, linear, power = weight.sum(axis=1), (weight * profile).sum(axis=1), (weight * profile**2).sum(axis=1)
    determinant = np.maximum(total * power - linear**2, 1e-12)
    level, line = (weight * residual).sum(axis=1), (weight * profile * residual).sum(axis=1)
    covered = core_is_covered(distance, width[:, None], inverse_error)
    amplitude = np.where(covered, (total * line - linear * level) / determinant, np.nan)
    under = np.where(covered, (power * level - linear * line) / determinant, np.nan)
    error, under_error = (np.where(covered, np.sqrt(square / determinant), np.nan) for square in (total, power))
    return Profile(centre, width, amplitude, np.broadcast_to(under[:, None], residual.shape), under_error), error


def _box(residual: Array, inverse_error: Array, fit: DoubletFit, shift: float, offset: float) -> tuple[Array, Array]:
    """Direct summation over a line after the other line and the continuum correction are taken off; pixels.

    The box reaches 3 σ, but not beyond the middle of the doublet. Masked pixels are filled from the model.
    """
    gap_to_other = offset if shift == 0.0 else -offset
    u = np.arange(-HALF_WIDTH, HALF_WIDTH + 1, dtype=float)
    epsilon, width = fit.parameters[:, EPSILON, None], np.exp(fit.parameters[:, LOG_WIDTH, None])
    here, other = (FIRST, SECOND) if shift == 0.0 else (SECOND, FIRST)
    x, y = u - epsilon - shift, u - epsilon - shift - gap_to_other
    level = fit.parameters[:, LEVEL, None] + fit.parameters[:, SLOPE, None] * (u if shift == 0.0 else u + offset - shift)
    line = fit.parameters[:, here, None] * np.exp(-0.5 * (x / width) ** 2)
    others = fit.parameters[:, other, None] * np.exp(-0.5 * (y / width) ** 2)
    # Each pixel counts with the part of it that lies in the box.
    part = np.clip(3.0 * width + 0.5 - np.abs(x), 0.0, 1.0)
    good = inverse_error > 0
    total = (part * np.where(good, residual - level - others, line)).sum(axis=1)
    variance = (part**2 * np.where(good, 1.0 / np.maximum(inverse_error, 1e-12) ** 2, 0.0)).sum(axis=1)
    variance += part.sum(axis=1) ** 2 * fit.covariance[:, LEVEL, LEVEL]
    return total, np.sqrt(variance)


def measure_candidates(
    residual: NDArray[np.float32],
    inverse_error: NDArray[np.float32],
    candidates: Mapping[str, NDArray[Any]],
    species: LineSpecies,
    grid: WavelengthGrid,
) -> dict[str, Array]:
    """Measure all that the catalogue says of an absorber and that comes from its image.

    Parameters
    ----------
    residual, inverse_error : ndarray, shape (m, t, c)
        Candidate images.
    candidates : mapping of str to ndarray, shape (m,)
        Their ``pixel`` and ``width_pixels``.
    species : LineSpecies
    grid : WavelengthGrid

    Returns
    -------
    dict of ndarray, shape (m,)
        Columns of the absorbers table, named after the species' lines, and the fit's diagnostics ``coverage``, ``contamination``,
        ``split_kms``, ``split_significance``, ``sigma_pixels``, ``wavelength_primary``, ``wavelength_secondary`` (observed Å).
    """
    geometry = ImageGeometry.of(species, grid.step)
    offset = species.offset_pixels(species.secondary, grid.step)
    image, error = residual.astype(float), inverse_error.astype(float)
    fit = fit_doublets(image, error, candidates["width_pixels"].astype(float), geometry, offset)
    scale = np.log(10.0) * grid.step
    position = grid.wavelength_at(candidates["pixel"] + fit.parameters[:, EPSILON])
    redshift = position / species.primary.wavelength - 1.0
    sigma = np.exp(fit.parameters[:, LOG_WIDTH])
    result = {
        "z_abs": redshift,
        "z_abs_err": (1.0 + redshift) * scale * np.sqrt(fit.covariance[:, EPSILON, EPSILON]),
        "chi2_reduced": fit.chi2_reduced,
        "coverage": fit.coverage,
        "contamination": fit.contamination,
        "split_kms": fit.split * grid.pixel_kms,
        "split_significance": np.abs(fit.split) / fit.split_error,
        "sigma_pixels": sigma,
        "sigma_pixels_err": sigma * np.sqrt(fit.covariance[:, LOG_WIDTH, LOG_WIDTH]),
        "wavelength_primary": position,
        "wavelength_secondary": species.secondary.wavelength * (1.0 + redshift),
    }
    for line, column, row in ((species.primary, FIRST, geometry.primary), (species.secondary, SECOND, geometry.secondary)):
        width, width_error = _equivalent_width(fit, column, line.wavelength * scale)
        result[f"ew_{line.label}"], result[f"ew_{line.label}_err"] = width, width_error
        result[f"snr_{line.label}"] = width / width_error
        result[f"depth_{line.label}"] = fit.parameters[:, column]
        result[f"depth_{line.label}_err"] = np.sqrt(fit.covariance[:, column, column])
        shift = 0.0 if column == FIRST else float(geometry.fractions[row])
        box, box_error = _box(image[:, row], error[:, row], fit, shift, offset)
        result[f"ew_{line.label}_box"], result[f"ew_{line.label}_box_err"] = (
            box * line.wavelength * scale,
            box_error * line.wavelength * scale,
        )
    profiles = doublet_profiles(fit, species, geometry, offset)
    for line in species.companions:
        row = species.transitions.index(line)
        centre = geometry.fractions[row] + fit.parameters[:, EPSILON]
        profiles[line], amplitude_error = _companion(image[:, row], error[:, row], centre, sigma)
        factor = _SQRT_2PI * line.wavelength * scale * sigma
        result[f"ew_{line.label}"], result[f"ew_{line.label}_err"] = factor * profiles[line].depth, factor * amplitude_error
    result |= measure_column_densities(image, error, profiles, species, grid)
    result["doublet_ratio"], result["doublet_ratio_err"] = _doublet_ratio(fit, species)
    return result


def _doublet_ratio(fit: DoubletFit, species: LineSpecies) -> tuple[Array, Array]:
    """W₁/W₂ and its standard error; the common width cancels, the covariance of the amplitudes does not."""
    first, second = fit.parameters[:, FIRST], fit.parameters[:, SECOND]
    safe = np.where(np.abs(second) > 1e-6, second, 1e-6)
    ratio = first / safe * species.primary.wavelength / species.secondary.wavelength
    a, b, ab = (fit.covariance[:, i, j] for i, j in ((FIRST, FIRST), (SECOND, SECOND), (FIRST, SECOND)))
    relative = a / np.maximum(first**2, 1e-12) + b / safe**2 - 2.0 * ab / np.where(np.abs(first * safe) > 1e-12, first * safe, 1e-12)
    return ratio, np.abs(ratio) * np.sqrt(np.maximum(relative, 0.0))


def intrinsic_fwhm(sigma_kms: Array, sigma_kms_err: Array, instrument_sigma_kms: ArrayLike) -> tuple[Array, Array]:
    """Compute the FWHM in km/s with the instrument's Gaussian σ taken off in quadrature, and its standard error; 0 where not resolved."""
    instrument = np.asarray(instrument_sigma_kms, dtype=float)
    left = sigma_kms**2 - instrument**2
    resolved = left > 0
    sigma = np.sqrt(np.where(resolved, left, 0.0))
    error = sigma_kms * sigma_kms_err / np.maximum(sigma, 0.3 * instrument + 1e-9)
    return _FWHM_PER_SIGMA * sigma, _FWHM_PER_SIGMA * error


def velocity_from_quasar(z_abs: Array, z_qso: Array) -> Array:
    """Compute the velocity in km/s of the absorber towards us with respect to z_qso: β from (1+z_qso)/(1+z_abs) (relativistic)."""
    ratio = ((1.0 + z_qso) / (1.0 + z_abs)) ** 2
    return SPEED_OF_LIGHT_KMS * (ratio - 1.0) / (ratio + 1.0)


def velocity_error(z_abs: Array, z_abs_err: Array, z_qso: Array, z_qso_err: Array) -> Array:
    """Compute the standard error in km/s of :func:`velocity_from_quasar` by those of both redshifts; NaN where one of them is not known."""
    ratio = ((1.0 + z_qso) / (1.0 + z_abs)) ** 2
    relative = np.hypot(z_qso_err / (1.0 + z_qso), z_abs_err / (1.0 + z_abs))
    return SPEED_OF_LIGHT_KMS * 4.0 * ratio / (ratio + 1.0) ** 2 * relative


def flag_absorbers(measured: dict[str, Array], context: dict[str, Array], species: LineSpecies, settings: Settings) -> NDArray[np.int32]:
    """Set the bits of :class:`AbsorberFlag`, shape (m,).

    Parameters
    ----------
    measured : dict
        Result of :func:`measure_candidates` with ``fwhm_kms``.
    context : dict
        ``z_qso``, ``velocity_kms``, ``neighbour_pixels`` (NaN where alone), ``depressed_fraction``, ``crowding``, ``z_start``, ``z_stop``
        (of the searched interval) of each candidate.
    species : LineSpecies
    settings : Settings
    """
    limits, first, second = settings.measure, species.primary, species.secondary
    ratio, error, fwhm = measured["doublet_ratio"], measured["doublet_ratio_err"], measured["fwhm_kms"]
    width_kms = measured[f"ew_{first.label}"] / first.wavelength * SPEED_OF_LIGHT_KMS
    wavelengths = np.stack([measured["wavelength_primary"], measured["wavelength_secondary"]], axis=1)
    neighbour = np.nan_to_num(context["neighbour_pixels"], nan=np.inf)
    own_blue = species.window_rest[0] * (1.0 + context["z_qso"] + settings.preprocess.window_blue_z)
    return _bits(
        {
            AbsorberFlag.BAL_LIKE: context["depressed_fraction"] > 0.4,
            AbsorberFlag.NEAR_QUASAR: context["velocity_kms"] < limits.near_quasar_kms,
            AbsorberFlag.SKY_LINE: _lies_on(wavelengths, SKY_FEATURES),
            # W of lines that are black is as their wavelengths.
            AbsorberFlag.BAD_RATIO: (ratio + 2.0 * error < first.wavelength / second.wavelength)
            | (ratio - 2.0 * error > species.optically_thin_ratio),
            AbsorberFlag.BLENDED: (neighbour < 25.0) | (measured["contamination"] > 4.0),
            AbsorberFlag.EDGE: measured["coverage"] < 0.8,
            AbsorberFlag.UNRESOLVED: fwhm == 0.0,
            AbsorberFlag.POOR_FIT: measured["chi2_reduced"] > 2.0,
            # 3e-4 in Δλ/λ: the shape cut of the Zhu & Ménard (2013) pipeline.
            AbsorberFlag.MISALIGNED: (np.abs(measured["split_kms"]) > 90.0) & (measured["split_significance"] > 2.0),
            AbsorberFlag.CROWDED: context["crowding"] > limits.crowding,
            AbsorberFlag.OFF_PATH: ~in_path(measured["z_abs"], context["z_start"][:, None], context["z_stop"][:, None]),
            AbsorberFlag.BEYOND_QUASAR: measured["z_abs"] > context["z_qso"],
            AbsorberFlag.BLUE_OF_WINDOW: measured["wavelength_primary"] < own_blue,
            AbsorberFlag.GALACTIC: _lies_on(wavelengths, _GALACTIC_LINES),
            AbsorberFlag.WEAK: (measured[f"snr_{first.label}"] < limits.min_snr_primary)
            | (measured[f"snr_{second.label}"] < limits.min_snr_secondary),
            # Strong systems are many components, and wide: the limit grows with the equivalent width.
            AbsorberFlag.BROAD: fwhm > limits.max_fwhm_kms + 0.85 * width_kms,
        }
    )


def _lies_on(wavelengths: Array, features: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether a line (m, 2) lies within three pixels of a feature: residuals are as wide as the instrument."""
    return (np.abs(wavelengths[..., None] / np.array(features) - 1.0) < 7e-4).any(axis=(1, 2))


def _bits(conditions: Mapping[Any, NDArray[np.bool_]]) -> NDArray[np.int32]:
    return np.sum([np.where(condition, int(bit), 0) for bit, condition in conditions.items()], axis=0).astype(np.int32)

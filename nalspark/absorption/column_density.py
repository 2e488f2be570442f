"""Column densities of an absorber's lines, linear and by apparent optical depth, and whether its doublet is saturated.

Apparent optical depth (Savage & Sembach 1991, ApJ 379, 245, eq. 8): ``N = 3.768e14 / (f λ) ∫ ln(1/F) dv`` in cm⁻², v in km/s, λ in Å.
Where ln(1/F) is 1 - F, this is the linear relation ``N = 1.13e20 W / (f λ²)`` (Spitzer 1978, eq. 3-48). Clouds narrower than the instrument
look shallower than they are, and both values are then too small. Only the two lines of the doublet show it: the stronger falls short more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.fit import EPSILON, FIRST, LEVEL, LOG_WIDTH, SECOND, SLOPE, DoubletFit
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, core_is_covered
from nalspark.lines import LineSpecies, Transition
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: m_e c / (π e²) for velocities in km/s and wavelengths in Å (Savage & Sembach 1991, eq. 8).
PER_OPTICAL_DEPTH = 3.768e14
#: The doublet counts as saturated unless the stronger line has more than this part of the weaker line's column density (-0.05 dex) …
AGREEMENT = 10.0**-0.05
#: … by this many standard errors. One finds 95 % of saturated doublets at any signal-to-noise ratio: docs/column_density.md.
CERTAINTY = 1.0
#: Signal-to-noise ratio from which the weaker line alone gives the ion's column density: of a saturated doublet; of one that is not, where
#: the line's noise is then no more than what the stronger line may lack.
_ALONE_SATURATED, _ALONE = 3.0, 10.0
#: F below which a pixel is dark whatever its error: sky subtraction leaves that much.
_DARK = 0.01
#: Dark pixels of one line that make it saturated.
_DARK_PIXELS = 2
_U = np.arange(-HALF_WIDTH, HALF_WIDTH + 1, dtype=float)
_LN10, _SQRT_2PI = np.log(10.0), np.sqrt(2.0 * np.pi)


@dataclass(frozen=True)
class Profile:
    """What was fitted to one line of m candidates, on the c columns of its row of the image.

    Attributes
    ----------
    centre, width, depth : ndarray, shape (m,)
        The Gaussian: pixels from the middle column, σ in pixels, and its amplitude in 1 - F. NaN where nothing was fitted.
    level : ndarray, shape (m, c)
        1 - flux/continuum without the line: the correction of the continuum.
    level_error : ndarray, shape (m,)
    other : ndarray, shape (m, c), or 0
        Optical depth of another line that reaches into the row.
    """

    centre: Array
    width: Array
    depth: Array
    level: Array
    level_error: Array
    other: Array | float = 0.0


@dataclass(frozen=True)
class OpticalDepth:
    """Result of :func:`integrate_optical_depth`.

    Attributes
    ----------
    total, error : ndarray, shape (m,)
        ∫ ln(1/F) over pixels, and its standard error; NaN where the line's core has no data.
    dark : ndarray of int, shape (m,)
        Pixels of the line with F at or below its standard error, or 0.01.
    """

    total: Array
    error: Array
    dark: NDArray[np.int64]


def integrate_optical_depth(residual: Array, inverse_error: Array, profile: Profile, reach: float) -> OpticalDepth:
    """Integrate the apparent optical depth of one line over ± 3 σ of its fitted width.

    F of a dark pixel counts as its standard error: what it gives is a lower limit. Noise of standard error e makes ln(1/F) too large by
    e²/2F² in the mean, which is taken off. Beyond the range, and where pixels are masked, the fitted Gaussian stands in.

    Parameters
    ----------
    residual, inverse_error : ndarray, shape (m, c)
        The line's row of the images: 1 - flux/continuum, and its inverse standard error (0 where masked).
    profile : Profile
    reach : float
        Pixels from the line at which the range ends even so: the middle to the next line.
    """
    good, correction = inverse_error > 0, 1.0 / np.maximum(1.0 - profile.level, 0.1)
    noise = np.where(good, correction / np.where(good, inverse_error, 1.0), 0.0)
    floor = np.maximum(noise, _DARK)
    distance, width = np.abs(_U - profile.centre[:, None]), profile.width[:, None]
    model = np.maximum(1.0 - profile.depth[:, None] * np.exp(-0.5 * (distance / width) ** 2), floor)
    flux = (1.0 - residual) * correction
    observed = -np.log(np.maximum(flux, floor)) - 0.5 * (noise / model) ** 2 - profile.other
    # Each pixel counts with the part of it that lies in the range.
    part = np.clip(np.minimum(3.0 * width, reach) + 0.5 - distance, 0.0, 1.0) * good
    total = (part * observed - (1.0 - part) * np.log(model)).sum(axis=1)
    # Of the flux, which the noise changes, dτ = -dF / F; of the level, by which all of it is divided, dτ = -dlevel / (1 - level).
    variance = ((part / model * noise) ** 2).sum(axis=1) + ((part * correction).sum(axis=1) * profile.level_error) ** 2
    covered = core_is_covered(distance, width, inverse_error)
    dark = ((part > 0.5) & (flux <= floor)).sum(axis=1)
    return OpticalDepth(np.where(covered, total, np.nan), np.where(covered, np.sqrt(variance), np.nan), dark)


def doublet_profiles(fit: DoubletFit, species: LineSpecies, geometry: ImageGeometry, offset: float) -> dict[Transition, Profile]:
    """Give the profiles of the doublet's two lines, `offset` pixels apart, each on its own row of the image."""
    epsilon, slope, level = (fit.parameters[:, column, None] for column in (EPSILON, SLOPE, LEVEL))
    width, level_error = np.exp(fit.parameters[:, LOG_WIDTH]), np.sqrt(fit.covariance[:, LEVEL, LEVEL])
    rows = ((species.primary, FIRST, SECOND, 0.0, offset), (species.secondary, SECOND, FIRST, offset, -offset))
    profiles = {}
    for line, here, other, begin, gap in rows:
        shift = float(geometry.fractions[species.transitions.index(line)])
        centre = epsilon + shift
        blend = fit.parameters[:, other, None] * np.exp(-0.5 * ((_U - centre - gap) / width[:, None]) ** 2)
        profiles[line] = Profile(
            centre=centre[:, 0],
            width=width,
            depth=fit.parameters[:, here],
            level=level + slope * (_U + begin - shift),
            level_error=level_error,
            other=-np.log(np.maximum(1.0 - blend, _DARK)),
        )
    return profiles


def measure_column_densities(
    residual: Array, inverse_error: Array, profiles: Mapping[Transition, Profile], species: LineSpecies, grid: WavelengthGrid
) -> dict[str, NDArray[np.float64] | NDArray[np.bool_]]:
    """Measure the column density of every line, of the doublet's ion, and tell which doublets are saturated.

    Parameters
    ----------
    residual, inverse_error : ndarray, shape (m, t, c)
        Candidate images.
    profiles : mapping of Transition to Profile
        Of every line of the species.
    species : LineSpecies
    grid : WavelengthGrid

    Returns
    -------
    dict of ndarray, shape (m,)
        ``log_n_<line>`` by apparent optical depth with its standard error ``log_n_<line>_err``, and ``log_n_linear_<line>``: log10 of N in
        cm⁻², errors in dex; NaN where the line is not covered, or no absorption is left. ``saturated``; ``log_n`` and ``log_n_err`` of the
        doublet's ion.
    """
    result, linear, depths = {}, {}, {}
    for line, profile in profiles.items():
        row = species.transitions.index(line)
        apart = [
            abs(species.offset_pixels(other, grid.step) - species.offset_pixels(line, grid.step)) for other in profiles if other != line
        ]
        depth = integrate_optical_depth(residual[:, row], inverse_error[:, row], profile, 0.5 * min(apart))
        unit = PER_OPTICAL_DEPTH / (line.strength * line.wavelength) * grid.pixel_kms
        linear[line] = unit * np.where(np.isfinite(depth.total), _SQRT_2PI * profile.depth * profile.width, np.nan)
        depths[line] = unit * depth.total, unit * depth.error, depth.dark
    for line, (column, error, _) in depths.items():
        result[f"log_n_{line.label}"], result[f"log_n_{line.label}_err"] = _in_dex(column, error)
        result[f"log_n_linear_{line.label}"] = _in_dex(linear[line], error)[0]
    strong, weak = depths[species.primary], depths[species.secondary]
    saturated = is_saturated(strong, weak)
    result["log_n"], result["log_n_err"] = _in_dex(*_of_ion(strong[:2], weak[:2], saturated))
    return {**result, "saturated": saturated}


def is_saturated(strong: tuple[Array, Array, NDArray[np.int64]], weak: tuple[Array, Array, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Tell which doublets are saturated, or may be as far as the noise lets one tell; shape (m,).

    At a difference of 0.05 dex between the lines the stronger one falls short by 0.1 dex, the weaker by half of that, for single clouds
    narrower and wider than the instrument alike. Not saturated is what shows a smaller difference by :data:`CERTAINTY` standard errors, and
    has no line with two dark pixels. A doublet of which one line is not covered counts as saturated.

    Parameters
    ----------
    strong, weak : tuple of ndarray, shape (m,)
        Column density by apparent optical depth, its standard error, both in one linear unit, and the number of dark pixels.
    """
    margin, error = strong[0] - AGREEMENT * weak[0], np.hypot(strong[1], AGREEMENT * weak[1])
    dark = (strong[2] >= _DARK_PIXELS) | (weak[2] >= _DARK_PIXELS)
    return np.asarray(~(margin > CERTAINTY * error) | dark)


def _of_ion(strong: tuple[Array, Array], weak: tuple[Array, Array], saturated: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The weaker line alone where it is measured well enough, else the mean of both, weighted by the errors."""
    columns, errors = np.stack([strong[0], weak[0]]), np.stack([strong[1], weak[1]])
    weight = np.where(np.isfinite(errors), 1.0 / np.maximum(errors, 1e-30) ** 2, 0.0)
    alone = weak[0] >= np.where(saturated, _ALONE_SATURATED, _ALONE) * weak[1]
    weight[0] = np.where(alone, 0.0, weight[0])
    total = np.where(weight.sum(axis=0) > 0, weight.sum(axis=0), np.nan)
    return (weight * np.nan_to_num(columns)).sum(axis=0) / total, 1.0 / np.sqrt(total)


def _in_dex(column: Array, error: Array) -> tuple[Array, Array]:
    """log10 of column densities and its standard error; NaN where there is nothing to take the logarithm of."""
    positive = np.where(column > 0, column, np.nan)
    return np.log10(positive), error / (positive * _LN10)

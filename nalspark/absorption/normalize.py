"""A spectrum made ready for the search: rescaling, continuum, honest errors, searched redshifts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.windows import redshift_path, search_window, searchable
from nalspark.compiled import compiled
from nalspark.lines import LineSpecies
from nalspark.settings import Preprocess
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.continuum import error_inflation, fit_continuum
from nalspark.spectra.grid import WavelengthGrid
from nalspark.spectra.noise_model import noise_factor
from nalspark.spectra.rescale import masked_median, rescale_factor

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Rest wavelength (Å) of the quasar's Lyα emission.
LYMAN_ALPHA = 1215.67
#: Rest wavelengths (Å) of a quasar's emission lines and blends, where its spectrum may bend (Vanden Berk et al. 2001, Table 2).
EMISSION = (
    (1150.0, 1290.0), (1370.0, 1440.0), (1500.0, 1600.0), (1620.0, 1690.0), (1840.0, 1950.0), (2740.0, 2860.0), (3400.0, 3460.0),
    (3700.0, 3760.0), (3840.0, 3990.0), (4080.0, 4130.0), (4310.0, 4400.0), (4800.0, 5060.0), (5840.0, 5910.0), (6250.0, 6380.0),
    (6480.0, 6800.0),
)  # fmt: skip
#: Pixels over which the continuum stiffens beside an emission line: 4000 km/s.
_STIFFENS = 60.0
#: log λ of the bluest pixel of the lattice on which the stiffness is kept.
_BLUEST = 2.6
#: Flux over the clean region's, or inverse variance over the median, that no spectrum has.
_ABSURD, _ABSURD_BIT = 1e3, np.uint8(PixelFlag.ABSURD)


@dataclass(frozen=True)
class Normalized:
    """What :func:`normalize` gives for n spectra.

    Attributes
    ----------
    spectra : Spectra
        Rescaled; inverse variances after inflation.
    continuum : ndarray, shape (n, p), in the unit of the rescaled flux
    rescale : ndarray, shape (n,)
        The flux that everything was divided by.
    snr : ndarray, shape (n,)
        Median signal-to-noise ratio of the continuum per pixel in the search window.
    z_start, z_stop : lists of n ndarrays
        Searched redshift intervals.
    redshift_path : ndarray, shape (n,)
    reason, detail : ndarrays of object, shape (n,)
        Why a spectrum cannot be searched; None where it can.
    """

    spectra: Spectra
    continuum: NDArray[np.float32]
    rescale: NDArray[np.floating]
    snr: NDArray[np.floating]
    z_start: list[NDArray[np.float64]]
    z_stop: list[NDArray[np.float64]]
    redshift_path: NDArray[np.float64]
    reason: NDArray[np.object_]
    detail: NDArray[np.object_]


@dataclass(frozen=True)
class Continua:
    """What :func:`fit_continua` gives for n spectra.

    Attributes
    ----------
    spectra : Spectra
        Rescaled; inverse variances after inflation.
    continuum : ndarray, shape (n, p), in the unit of the rescaled flux
    rescale : ndarray, shape (n,)
        The flux that everything was divided by.
    known : ndarray of bool, shape (n, p)
        Pixels redwards of Lyα that the survey has.
    usable : ndarray of bool, shape (n,)
        Whether there was anything to fit.
    """

    spectra: Spectra
    continuum: NDArray[np.float32]
    rescale: NDArray[np.floating]
    known: NDArray[np.bool_]
    usable: NDArray[np.bool_]


def residuals(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], continuum: NDArray[np.float32], mask: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute ``1 - flux/continuum`` and its inverse variance, both of shape (n, p); 0 where the pixel is not used."""
    unused = (mask != 0) | ~(ivar > 0) | ~(continuum > 0)
    with np.errstate(all="ignore"):
        residual, weight = flux / continuum, continuum * continuum
        np.subtract(np.float32(1.0), residual, out=residual)
        weight *= ivar
    residual[unused] = weight[unused] = 0.0
    return residual.astype(np.float32, copy=False), weight.astype(np.float32, copy=False)


def searched_pixels(
    spectra: Spectra, continuum: NDArray[np.float32], z_qso: NDArray[np.float64], species: LineSpecies, settings: Preprocess
) -> NDArray[np.bool_]:
    """Mark the pixels at which the first line is searched, shape (n, p)."""
    window = search_window(spectra.grid, species, z_qso, settings)
    good = spectra.good & (continuum > 0)
    return searchable(window, good, round(species.offset_pixels(species.secondary, spectra.grid.step)))


@lru_cache(maxsize=8)
def _rest_scale(step: float, within: float, between: float) -> NDArray[np.float64]:
    """The smoothing length on a lattice of rest wavelengths that begins at :data:`_BLUEST`."""
    wave = _BLUEST + step * np.arange(round(1.6 / step))
    ends = np.log10(np.array(EMISSION))[:, :, None]
    beside = np.maximum(ends[:, 0] - wave, wave - ends[:, 1]).clip(0.0).min(axis=0) / step
    return within * (between / within) ** np.minimum(beside / _STIFFENS, 1.0)


def smoothing_scale(grid: WavelengthGrid, z_qso: NDArray[np.float64], settings: Preprocess) -> NDArray[np.float64]:
    """Give the continuum's smoothing length in pixels at a signal-to-noise ratio of 10, shape (n, p): short only in emission lines.

    Between them a quasar bends little, and a curve that can bend follows absorption lines.
    """
    known = _rest_scale(grid.step, settings.continuum_scale_pixels, max(settings.continuum_scale_between, settings.continuum_scale_pixels))
    first = grid.first - _BLUEST / grid.step - np.log10(1.0 + np.where(z_qso > -1.0, z_qso, 0.0)) / grid.step
    pixel = np.rint(first).astype(np.int64)[:, None] + np.arange(grid.n_pixels)
    return known.take(pixel, mode="clip")


def normalize(spectra: Spectra, z_qso: NDArray[np.float64], species: LineSpecies, settings: Preprocess) -> Normalized:
    """Prepare a batch for the search; see the module's docstring. The result for a spectrum does not depend on the others."""
    return find_path(fit_continua(spectra, z_qso, settings), z_qso, species, settings)


def fit_continua(spectra: Spectra, z_qso: NDArray[np.float64], settings: Preprocess) -> Continua:
    """Rescale spectra, fit their continua and scale their errors, whatever is searched in them."""
    grid = spectra.grid
    mask = spectra.mask | np.where(grid.wavelength < LYMAN_ALPHA * (1.0 + z_qso[:, None]), np.uint8(PixelFlag.FOREST), np.uint8(0))
    masked = replace(spectra, mask=mask)
    good, factor = masked.good, rescale_factor(masked, z_qso)
    # A spectrum without a scale or without pixels is carried through as ones, so that a batch stays one array.
    usable = np.isfinite(factor) & (np.count_nonzero(good, axis=1) >= settings.min_good_pixels)
    known = good.copy()
    flux, ivar = np.empty(mask.shape, np.float32), np.empty(mask.shape, np.float32)
    most = _ABSURD * masked_median(spectra.ivar, good)
    _rescale(
        spectra.flux,
        spectra.ivar,
        usable,
        np.where(usable, factor, 1.0),
        most,
        noise_factor(settings.noise_model, grid),
        (flux, ivar, mask, good),
    )
    fitted = fit_continuum(
        flux, ivar, good, scale=smoothing_scale(grid, z_qso, settings), iterations=settings.continuum_iterations,
        significance=settings.clip_significance,
    )  # fmt: skip
    ready = replace(spectra, flux=flux, ivar=ivar, mask=mask)
    ivar /= error_inflation(ready.deviations(fitted), good, settings.noise_window_pixels) ** 2
    return Continua(ready, fitted.astype(np.float32), factor, known, usable)


def find_path(continua: Continua, z_qso: NDArray[np.float64], species: LineSpecies, settings: Preprocess) -> Normalized:
    """Find where a species can be searched, and why it cannot."""
    ready, continuum, grid = continua.spectra, continua.continuum, continua.spectra.grid
    window = search_window(grid, species, z_qso, settings)
    in_window = np.count_nonzero(continua.known & window, axis=1)
    usable = continua.usable & (in_window >= settings.min_good_pixels)
    snr = masked_median(np.sqrt(ready.ivar) * continuum, ready.good & window)
    searched = searched_pixels(ready, continuum, z_qso, species, settings) & usable[:, None]
    start, stop, delta = redshift_path(grid, species, searched)
    reason, detail = _verdicts(window.sum(axis=1), in_window, continua.rescale, snr, z_qso, grid.wavelength[[0, -1]], species, settings)
    nowhere = (reason == None) & ~(delta > 0)  # noqa: E711 - an element-wise comparison
    reason[nowhere], detail[nowhere] = "no_search_path", "No pixel of the search window has usable neighbours at both lines of the doublet."
    return Normalized(ready, continuum, continua.rescale, snr, start, stop, delta, reason, detail)


def continuum_across(
    ready: Normalized, row: NDArray[np.int64], z_qso: NDArray[np.float64], lines: NDArray[np.bool_], settings: Preprocess
) -> NDArray[np.float32]:
    """Fit continua once more where it is known which pixels are absorbed: a curve that sees a weak line follows it.

    Parameters
    ----------
    ready : Normalized
        n spectra.
    row : ndarray of int, shape (m,)
        Which of them.
    z_qso : ndarray, shape (m,)
    lines : ndarray of bool, shape (m, p)
        Pixels that are bridged.
    settings : Preprocess

    Returns
    -------
    ndarray, shape (m, p), in the unit of the rescaled flux
    """
    chosen = ready.spectra.take(row)
    fitted = fit_continuum(
        chosen.flux, chosen.ivar, chosen.good & ~lines, scale=smoothing_scale(chosen.grid, z_qso, settings),
        iterations=settings.continuum_iterations, significance=settings.clip_significance,
    )  # fmt: skip
    return fitted.astype(np.float32)


@compiled
def _rescale(
    flux: Floats, ivar: Floats, usable: Flags, scale: Doubles, most: Doubles, underrated: Doubles,
    results: tuple[Floats, Floats, NDArray[np.uint8], Flags],
) -> None:  # fmt: skip
    """Write flux and inverse variance in units of `scale` (n,); what is absurd is set to 0 and marked in the mask; ones if not usable.

    The filters work in single precision: one pixel with a weight a million times the others' would hide everything else in its row.
    """
    for row in range(len(flux)):
        new_flux, new_ivar, mask, good = results[0][row], results[1][row], results[2][row], results[3][row]
        for i in range(len(new_flux)):
            scaled, weight = flux[row, i] / scale[row], ivar[row, i] * scale[row] ** 2
            if good[i] and (ivar[row, i] > most[row] or abs(scaled) > _ABSURD):
                mask[i] |= _ABSURD_BIT
                good[i], scaled, weight = False, 0.0, 0.0
            if usable[row]:
                new_flux[i], new_ivar[i] = scaled, weight / underrated[i] ** 2
            else:
                new_flux[i], new_ivar[i], good[i] = 1.0, 1.0, True


def _verdicts(
    window: NDArray[np.int64],
    in_window: NDArray[np.int64],
    factor: NDArray[np.floating],
    snr: NDArray[np.floating],
    z_qso: NDArray[np.float64],
    ends: NDArray[np.float64],
    species: LineSpecies,
    settings: Preprocess,
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Why each spectrum cannot be searched: reason and sentence, None where it can."""
    reason, detail = np.full(len(z_qso), None, dtype=object), np.full(len(z_qso), None, dtype=object)
    for row in range(len(z_qso)):
        if window[row] == 0:
            reason[row] = "no_search_path"
            detail[row] = (
                f"At z_qso = {z_qso[row]:.4f} {species.name} can be searched at no wavelength between {ends[0]:.0f} and {ends[1]:.0f} Å."
            )
        elif in_window[row] < settings.min_good_pixels:
            reason[row] = "too_few_good_pixels"
            detail[row] = f"{in_window[row]} usable pixels in the search window; {settings.min_good_pixels} are needed."
        elif not np.isfinite(factor[row]):
            reason[row] = "no_positive_flux"
            detail[row] = "The median flux is not positive: there is no continuum to see absorption against."
        elif not snr[row] >= settings.min_snr:
            reason[row] = "low_snr"
            detail[row] = f"Median signal-to-noise ratio {snr[row]:.2f} per pixel in the search window; {settings.min_snr:g} is needed."
    return reason, detail

"""The absorption method on arrays: prepare, propose, score, measure. Spectra have no names here, only row numbers.

    spectra (n, p), z (n,) → Normalized → Searchable → Candidates → scores → measured

Whoever has names (the Spark stages, the mocks) attaches them by ``row``. The network is given from outside, as a function: see
:func:`scorer`. What is found in a spectrum does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption import measure as measuring
from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.normalize import Normalized, normalize, residuals, searched_pixels
from nalspark.absorption.search import Doublet, Peaks, Thresholds, find_doublets
from nalspark.absorption.sensitivity import Sensitivity, measure_sensitivity
from nalspark.absorption.windows import interval_around, zhao_window
from nalspark.lines import LineSpecies
from nalspark.settings import Settings
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE, ZHAO_GRID, WavelengthGrid
from nalspark.spectra.regrid import place_on_grid

#: The columns that make a candidate's image, in the order of a network's channels; and what a whole-spectrum network sees.
IMAGE_COLUMNS, SPECTRUM_COLUMNS = ("image_residual", "image_inverse_error"), ("flux",)
#: The columns that hold a spectrum's pixels as the survey published them.
PIXELS = ("first_pixel", "loglam", "flux", "ivar", "mask", "resolution", "scatter")
#: 5000 km/s in pixels: the range around an absorber in which a broad trough (BAL) counts.
_BAL_REACH = 72


@dataclass(frozen=True)
class Searchable:
    """The m spectra of a batch that can be searched.

    Attributes
    ----------
    row : ndarray of int, shape (m,)
        Which spectra of the batch they are, ascending.
    spectra : Spectra, m of them
        Rescaled, with honest errors.
    continuum : ndarray, shape (m, p), in the unit of the rescaled flux
    z_qso : ndarray, shape (m,)
    """

    row: NDArray[np.int64]
    spectra: Spectra
    continuum: NDArray[np.float32]
    z_qso: NDArray[np.float64]

    @classmethod
    def of(cls, normalized: Normalized, z_qso: NDArray[np.float64]) -> Searchable:
        """Take those that have no reason against it."""
        whole = cls(np.arange(len(z_qso)), normalized.spectra, normalized.continuum, np.asarray(z_qso, dtype=float))
        return whole.take(np.array([reason is None for reason in normalized.reason], dtype=bool))

    def take(self, which: NDArray[np.bool_]) -> Searchable:
        """Take some of them, by a mask of shape (m,)."""
        spectra = self.spectra if which.all() else self.spectra.take(which)
        return Searchable(self.row[which], spectra, self.continuum[which], self.z_qso[which])


@dataclass(frozen=True)
class Candidates:
    """Candidate doublets of a batch, m of them, in the precision in which tables keep them. All arrays have shape (m,) but the images.

    Attributes
    ----------
    row : ndarray of int
        Spectrum of the batch.
    pixel : ndarray of int
        Grid pixel of the first line.
    z_qso : ndarray
        Redshift of the spectrum's quasar.
    z_start, z_stop : ndarray
        Searched redshift interval in which the candidate lies.
    z_search : ndarray
        Redshift at which the matched filter peaks.
    width_pixels : ndarray
        Gaussian σ of the best filter, pixels.
    instrument_pixels : ndarray
        Gaussian σ of the line-spread function at the doublet, pixels; NaN where it is not known.
    significance, filter_snr_primary, filter_snr_secondary : ndarray
        Of both lines together, and of each.
    neighbour_pixels : ndarray
        Pixels to the nearest other candidate of the spectrum; NaN where alone.
    depressed_fraction : ndarray
        Fraction of the pixels within 5000 km/s that lie significantly below the continuum.
    crowding : ndarray
        Narrow features of the spectrum that the candidate does not explain, per 1000 searched pixels.
    sigma_ew : ndarray, rest Å
        σ_W of the sightline there: see :mod:`nalspark.absorption.sensitivity`.
    image_residual, image_inverse_error : ndarray, shape (m, t, c)
        1 - flux/continuum around each line, and its inverse standard error.
    grid : WavelengthGrid
    """

    row: NDArray[np.int64]
    pixel: NDArray[np.int64]
    z_qso: NDArray[np.float64]
    z_start: NDArray[np.float64]
    z_stop: NDArray[np.float64]
    z_search: NDArray[np.float64]
    width_pixels: NDArray[np.float32]
    instrument_pixels: NDArray[np.float32]
    significance: NDArray[np.float32]
    filter_snr_primary: NDArray[np.float32]
    filter_snr_secondary: NDArray[np.float32]
    neighbour_pixels: NDArray[np.float32]
    depressed_fraction: NDArray[np.float32]
    crowding: NDArray[np.float32]
    sigma_ew: NDArray[np.float32]
    image_residual: NDArray[np.float32]
    image_inverse_error: NDArray[np.float32]
    grid: WavelengthGrid

    def __len__(self) -> int:
        return len(self.row)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "grid"}

    @property
    def images(self) -> NDArray[np.float32]:
        """What a network sees of each, shape (m, t, c, 2)."""
        return np.stack([self.image_residual, self.image_inverse_error], axis=-1)

    def take(self, which: NDArray[Any]) -> Candidates:
        """Take some of them, by a mask or by numbers."""
        return Candidates(**{name: values[which] for name, values in self.columns.items()}, grid=self.grid)

    def names(self, of_spectra: Sequence[str]) -> list[str]:
        """Name the candidates: the spectrum's name, of `of_spectra` (n,), and the lattice pixel."""
        return [f"{of_spectra[row]}-{self.grid.first + pixel}" for row, pixel in zip(self.row, self.pixel, strict=True)]


#: Spectra and their candidates → the score of each candidate, in [0, 1].
Scorer = Callable[[Searchable, Candidates], NDArray[np.float32]]


@dataclass(frozen=True)
class Detections:
    """What :func:`detect` gives for a batch.

    Attributes
    ----------
    candidates : Candidates
        All m that were proposed.
    score : ndarray, shape (m,)
        NaN where nobody scored.
    kept : ndarray of int, shape (k,)
        The candidates that were measured.
    measured : dict of ndarray, shape (k,)
        From :func:`measure`. Absorbers are the rows that are ``accepted``.
    """

    candidates: Candidates
    score: NDArray[np.float32]
    kept: NDArray[np.int64]
    measured: dict[str, NDArray[Any]]


def on_lattice(columns: Mapping[str, Any]) -> Spectra:
    """Lay the pixels of spectra, :data:`PIXELS` by name, on the lattice."""
    origin = [loglam if loglam is not None else int(first) for loglam, first in zip(columns["loglam"], columns["first_pixel"], strict=True)]
    flux, ivar, mask, resolution, scatter = (columns[name] for name in ("flux", "ivar", "mask", "resolution", "scatter"))
    return place_on_grid(flux, ivar, mask, origin, LATTICE, resolution=resolution, scatter=scatter)


def prepare(spectra: Spectra, z_qso: NDArray[np.float64], settings: Settings) -> Normalized:
    """Rescale spectra, fit their continua, and tell which redshifts can be searched; as many rows as spectra."""
    return normalize(spectra, z_qso, settings.line_species, settings.preprocess)


class Light(NamedTuple):
    """What is searched of m spectra: 1 - flux/continuum, its inverse variance, and the pixels of the first line, (m, p) each; and σ_W."""

    residual: NDArray[np.float32]
    weight: NDArray[np.float32]
    searched: NDArray[np.bool_]
    sensitivity: Sensitivity


def light_of(searchable: Searchable, settings: Settings) -> Light:
    """Compute what is searched of spectra, and how well an absorber would be seen in them."""
    species, spectra = settings.line_species, searchable.spectra
    residual, weight = residuals(spectra.flux, spectra.ivar, searchable.continuum, spectra.mask)
    searched = searched_pixels(spectra, searchable.continuum, searchable.z_qso, species, settings.preprocess)
    return Light(residual, weight, searched, measure_sensitivity(weight, searched, species, spectra.grid))


def propose(searchable: Searchable, settings: Settings, light: Light | None = None, species: LineSpecies | None = None) -> Candidates:
    """Find candidate doublets: generously, the network decides.

    Parameters
    ----------
    searchable : Searchable
    settings : Settings
    light : Light, optional
        Of these spectra, where it is at hand.
    species : LineSpecies, optional
        By default that of the settings; another one, with the same first line, is searched in the same pixels.
    """
    species, limits, spectra = species or settings.line_species, settings.search, searchable.spectra
    grid = spectra.grid
    residual, weight, searched, sensitivity = light or light_of(searchable, settings)
    thresholds = Thresholds(
        limits.min_significance, limits.min_snr_primary, limits.min_snr_secondary, limits.min_separation_pixels, limits.max_per_spectrum
    )
    peaks = find_doublets(residual, weight, searched, Doublet.of(species, grid.step), limits.widths_pixels, thresholds)
    geometry = ImageGeometry.of(species, grid.step)
    z_start, z_stop = interval_around(grid, species, searched, peaks.row, peaks.pixel)
    return Candidates(
        row=searchable.row[peaks.row],
        pixel=peaks.pixel,
        z_qso=searchable.z_qso[peaks.row],
        z_start=z_start,
        z_stop=z_stop,
        z_search=grid.wavelength_at(peaks.pixel) / species.primary.wavelength - 1.0,
        width_pixels=peaks.width,
        instrument_pixels=spectra.resolution_at(peaks.row, peaks.pixel).astype(np.float32),
        significance=peaks.significance,
        filter_snr_primary=peaks.snr_primary,
        filter_snr_secondary=peaks.snr_secondary,
        neighbour_pixels=_neighbours(peaks),
        depressed_fraction=_depressed_fraction(residual, weight, peaks),
        crowding=peaks.crowding,
        sigma_ew=sensitivity.at(peaks.row, peaks.pixel, grid),
        image_residual=cut_images(residual, peaks.row, peaks.pixel, geometry),
        image_inverse_error=np.sqrt(cut_images(weight, peaks.row, peaks.pixel, geometry)),
        grid=grid,
    )


def _neighbours(peaks: Peaks) -> NDArray[np.float32]:
    """Pixels to the nearest other candidate of the same spectrum; NaN where alone."""
    order = np.lexsort((peaks.pixel, peaks.row))
    apart = np.where(np.diff(peaks.row[order]) == 0, np.diff(peaks.pixel[order]), np.inf)
    distance = np.full(len(order), np.inf)
    distance[order] = np.minimum(np.append(apart, np.inf), np.insert(apart, 0, np.inf))[: len(order)]
    return np.where(np.isfinite(distance), distance, np.nan).astype(np.float32)


def _depressed_fraction(residual: NDArray[np.float32], weight: NDArray[np.float32], peaks: Peaks) -> NDArray[np.float32]:
    """Fraction of the pixels within 5000 km/s that belong to absorption: five-pixel averages above 3 σ."""
    n_pixels = residual.shape[1]
    pixel = peaks.pixel[:, None] + np.arange(-_BAL_REACH - 2, _BAL_REACH + 3)
    inside = np.clip(pixel, 0, n_pixels - 1)
    row = peaks.row[:, None]
    significance = np.where(pixel == inside, residual[row, inside] * np.sqrt(weight[row, inside]), 0.0)
    average = sum(significance[:, shift : shift + 2 * _BAL_REACH + 1] for shift in range(5)) / np.sqrt(5.0)
    return ((average > 3.0) & (pixel == inside)[:, 2:-2]).mean(axis=1).astype(np.float32)


# ---- the network's side


def spectrum_inputs(spectra: Spectra, z_qso: NDArray[np.float64], settings: Settings) -> NDArray[np.float32]:
    """Make what a whole-spectrum network sees: rescaled flux inside the paper's window, 0 elsewhere (Zhao et al. 2019, §2.1).

    Less 1, unlike the paper's: with a step at the window's edges the networks hardly learn (docs/networks.md).

    Returns
    -------
    ndarray, shape (n, 3841)
    """
    first = ZHAO_GRID.first - spectra.grid.first
    crop = slice(first, first + ZHAO_GRID.n_pixels)
    window = zhao_window(ZHAO_GRID, settings.line_species, z_qso, settings.preprocess)
    return np.where(window & spectra.good[:, crop], spectra.flux[:, crop] - 1.0, 0.0).astype(np.float32)


def input_shapes(species: LineSpecies, grid: WavelengthGrid) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Give the columns that a network may read, each with the shape of one of them in one example."""
    return {IMAGE_COLUMNS: ImageGeometry.of(species, grid.step).shape, SPECTRUM_COLUMNS: (ZHAO_GRID.n_pixels,)}


def scorer(predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], inputs: tuple[str, ...], settings: Settings) -> Scorer:
    """Make the chain's `score` of a network.

    Parameters
    ----------
    predict : callable
        Examples (m, \\*shape, channels) → scores (m,) in [0, 1].
    inputs : tuple of str
        What an example is: :data:`IMAGE_COLUMNS` of a candidate, or :data:`SPECTRUM_COLUMNS` of a spectrum, whose score all its candidates
        then have.
    settings : Settings
    """

    def of_images(_: Searchable, candidates: Candidates) -> NDArray[np.float32]:
        return predict(candidates.images)

    def of_spectra(searchable: Searchable, candidates: Candidates) -> NDArray[np.float32]:
        scores = predict(spectrum_inputs(searchable.spectra, searchable.z_qso, settings)[..., None])
        return scores[np.searchsorted(searchable.row, candidates.row)]

    return of_images if inputs == IMAGE_COLUMNS else of_spectra


# ---- measure


def instrument_kms(pixels: ArrayLike, settings: Settings) -> NDArray[np.float64]:
    """Give the Gaussian σ of the line-spread function in km/s of what is known in lattice pixels; the setting's where it is not (NaN)."""
    known = np.asarray(pixels, dtype=float) * LATTICE.pixel_kms
    return np.where(np.isfinite(known), known, settings.measure.instrument_sigma_kms)


def measure(candidates: Candidates, score: NDArray[np.floating] | None, settings: Settings) -> dict[str, NDArray[Any]]:
    """Fit candidates, and tell which of them the network accepts: nothing else decides.

    Parameters
    ----------
    candidates : Candidates, m of them
    score : ndarray, shape (m,), or None
        Without scores all are accepted.
    settings : Settings

    Returns
    -------
    dict of ndarray, shape (m,)
        ``row`` and ``pixel`` of the candidates, and the columns of the measured table that are not names of the spectrum.
    """
    species, grid = settings.line_species, candidates.grid
    images = candidates.image_residual, candidates.image_inverse_error
    measured = measuring.measure_candidates(*images, candidates.columns, species, grid)
    instrument = instrument_kms(candidates.instrument_pixels, settings)
    measured |= {f"sigma_fit_kms{end}": measured[f"sigma_pixels{end}"] * grid.pixel_kms for end in ("", "_err")}
    measured["fwhm_kms"], measured["fwhm_kms_err"] = measuring.intrinsic_fwhm(
        measured["sigma_fit_kms"], measured["sigma_fit_kms_err"], instrument
    )
    velocity = measuring.velocity_from_quasar(measured["z_abs"], candidates.z_qso)
    names = ("neighbour_pixels", "depressed_fraction", "crowding", "significance", "z_start", "z_stop")
    context = {**{name: candidates.columns[name].astype(float) for name in names}, "velocity_kms": velocity, "z_qso": candidates.z_qso}
    scores = np.full(len(candidates), np.nan) if score is None else np.asarray(score, dtype=float)
    return {
        **measured,
        "row": candidates.row,
        "pixel": candidates.pixel,
        "z_qso": candidates.z_qso,
        "species": np.full(len(candidates), species.name, dtype=object),
        "significance": context["significance"],
        "sigma_ew": candidates.sigma_ew,
        "velocity_kms": velocity,
        "score": scores,
        "flags": measuring.flag_absorbers(measured, context, species, settings),
        "accepted": np.full(len(candidates), score is None) | (scores >= settings.infer.min_score),
    }


def worth_measuring(score: NDArray[np.floating], settings: Settings) -> NDArray[np.bool_]:
    """Tell which candidates the network does not rule out, shape (m,); compared in double precision, as Spark does."""
    return np.asarray(score, dtype=float) >= settings.infer.measure_score


def detect(searchable: Searchable, score: Scorer | None, settings: Settings) -> Detections:
    """Propose, score and measure.

    Parameters
    ----------
    searchable : Searchable
    score : callable or None
        See :func:`scorer`. With None all candidates are measured.
    settings : Settings
    """
    candidates = propose(searchable, settings)
    if score is None:
        kept, unknown = np.arange(len(candidates)), np.full(len(candidates), np.nan, np.float32)
        return Detections(candidates, unknown, kept, measure(candidates, None, settings))
    scores = score(searchable, candidates)
    kept = np.flatnonzero(worth_measuring(scores, settings))
    return Detections(candidates, scores, kept, measure(candidates.take(kept), scores[kept], settings))

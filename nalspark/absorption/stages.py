"""The absorption programme as Spark stages: preprocess, search, measure, and the sightlines with their non-detections.

Each stage is a function of data frames and settings; the numpy functions under it are the ones that the tests call directly.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.absorption import measure as measuring
from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.normalize import normalize, residuals, searched_pixels
from nalspark.absorption.search import Doublet, Peaks, Thresholds, find_doublets
from nalspark.absorption.windows import interval_around, search_window
from nalspark.settings import Settings
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import SDSS_GRID
from nalspark.spectra.regrid import place_on_grid
from nalspark.tables.arrow import Columns, map_arrays
from nalspark.tables.schemas import CANDIDATES, NORMALIZED, SPECTRA, TRAINING_SPECTRA, absorbers_table
from nalspark.tables.table import Column, Table

#: The columns that make a candidate's image, in the order of a network's channels; and what a whole-spectrum network sees.
IMAGE_COLUMNS, SPECTRUM_COLUMNS = ("image_residual", "image_inverse_error"), ("flux",)
_CARRIED = ("spectrum_id", "part", "plate", "mjd", "fiber", "ra", "dec", "z_qso")
#: 5000 km/s in pixels: how far around an absorber a BAL trough counts.
_BAL_REACH = 72


def measured_table(settings: Settings) -> Table:
    """The catalogue's columns for every candidate, and the bits that veto it; a row with veto = 0 is an absorber."""
    catalogue = absorbers_table(settings.line_species)
    veto = Column("veto", "int", "Bits of Veto: why the candidate is not an absorber; 0 for an absorber")
    return Table("measured", "One row per candidate, measured.", (*catalogue.columns, veto))


# ---- preprocess


def normalize_columns(columns: Columns, settings: Settings) -> Columns:
    """Rows of spectra with their targets → rows of NORMALIZED."""
    origin = [loglam if loglam is not None else int(first) for loglam, first in zip(columns["loglam"], columns["first_pixel"], strict=True)]
    spectra = place_on_grid(columns["flux"], columns["ivar"], columns["mask"], origin, SDSS_GRID)
    ready = normalize(spectra, columns["z_qso"].astype(float), settings.line_species, settings.preprocess)
    usable = [reason is None for reason in ready.reason]

    def pixels(values: np.ndarray) -> np.ndarray | list:
        """Only a usable spectrum keeps its pixels."""
        return values if all(usable) else [row if keep else None for row, keep in zip(values, usable, strict=True)]

    return {
        **{name: columns[name] for name in _CARRIED},
        "rescale": ready.rescale,
        "snr": ready.snr,
        "z_start": ready.z_start,
        "z_stop": ready.z_stop,
        "redshift_path": ready.redshift_path,
        "flux": pixels(ready.spectra.flux),
        "ivar": pixels(ready.spectra.ivar),
        "continuum": pixels(ready.continuum),
        "mask": pixels(ready.spectra.mask),
        "reason": ready.reason,
        "detail": ready.detail,
    }


def preprocess(spectra: DataFrame, targets: DataFrame, settings: Settings) -> DataFrame:
    """Normalise every target's spectrum.

    Parameters
    ----------
    spectra : DataFrame of SPECTRA
    targets : DataFrame of TARGETS, usable rows only
        Small beside the pixels: it is broadcast, one wave of parts at a time.
    settings : Settings

    Returns
    -------
    DataFrame of NORMALIZED; as many rows as targets
    """
    pixels = spectra.select("path", "first_pixel", "loglam", "flux", "ivar", "mask")
    joined = pixels.join(F.broadcast(targets.select("path", *_CARRIED)), "path")
    return map_arrays(joined, partial(normalize_columns, settings=settings), SPECTRA, NORMALIZED)


# ---- search


def _neighbours(peaks: Peaks) -> np.ndarray:
    """Pixels to the nearest other candidate of the same spectrum; NaN where alone."""
    order = np.lexsort((peaks.pixel, peaks.row))
    apart = np.where(np.diff(peaks.row[order]) == 0, np.diff(peaks.pixel[order]), np.inf)
    distance = np.full(len(order), np.inf)
    distance[order] = np.minimum(np.append(apart, np.inf), np.insert(apart, 0, np.inf))[: len(order)]
    return np.where(np.isfinite(distance), distance, np.nan)


def _depressed_fraction(residual: np.ndarray, weight: np.ndarray, peaks: Peaks) -> np.ndarray:
    """Fraction of the pixels within 5000 km/s that belong to absorption: five-pixel averages above 3 σ."""
    n_pixels = residual.shape[1]
    pixel = peaks.pixel[:, None] + np.arange(-_BAL_REACH - 2, _BAL_REACH + 3)
    inside = np.clip(pixel, 0, n_pixels - 1)
    row = peaks.row[:, None]
    significance = np.where(pixel == inside, residual[row, inside] * np.sqrt(weight[row, inside]), 0.0)
    average = sum(significance[:, shift : shift + 2 * _BAL_REACH + 1] for shift in range(5)) / np.sqrt(5.0)
    return ((average > 3.0) & (pixel == inside)[:, 2:-2]).mean(axis=1)


def search_columns(columns: Columns, settings: Settings) -> Columns:
    """Rows of NORMALIZED → rows of CANDIDATES."""
    species, limits = settings.line_species, settings.search
    spectra = Spectra(columns["flux"], columns["ivar"], columns["mask"], SDSS_GRID)
    residual, weight = residuals(spectra.flux, spectra.ivar, columns["continuum"], spectra.mask)
    searched = searched_pixels(spectra, columns["continuum"], columns["z_qso"].astype(float), species, settings.preprocess)
    thresholds = Thresholds(
        limits.min_significance, limits.min_snr_primary, limits.min_snr_secondary, limits.min_separation_pixels, limits.max_per_spectrum
    )
    peaks = find_doublets(residual, weight, searched, Doublet.of(species, SDSS_GRID.step), limits.widths_pixels, thresholds)
    geometry = ImageGeometry.of(species, SDSS_GRID.step)
    carried = {name: columns[name][peaks.row] for name in _CARRIED}
    z_start, z_stop = interval_around(SDSS_GRID, species, searched, peaks.row, peaks.pixel)
    return {
        "candidate_id": [f"{name}-{SDSS_GRID.first + pixel}" for name, pixel in zip(carried["spectrum_id"], peaks.pixel, strict=True)],
        **carried,
        "z_start": z_start,
        "z_stop": z_stop,
        "z_search": SDSS_GRID.wavelength_at(peaks.pixel) / species.primary.wavelength - 1.0,
        "pixel": peaks.pixel,
        "width_pixels": peaks.width,
        "significance": peaks.significance,
        "filter_snr_primary": peaks.snr_primary,
        "filter_snr_secondary": peaks.snr_secondary,
        "neighbour_pixels": _neighbours(peaks),
        "depressed_fraction": _depressed_fraction(residual, weight, peaks),
        "crowding": peaks.crowding,
        "image_residual": cut_images(residual, peaks.row, peaks.pixel, geometry),
        "image_inverse_error": np.sqrt(cut_images(weight, peaks.row, peaks.pixel, geometry)),
    }


def search(normalized: DataFrame, settings: Settings) -> DataFrame:
    """Find candidate doublets.

    Parameters
    ----------
    normalized : DataFrame of NORMALIZED, usable rows only
    settings : Settings

    Returns
    -------
    DataFrame of CANDIDATES
    """
    needed = normalized.select(*_CARRIED, "flux", "ivar", "continuum", "mask")
    return map_arrays(needed, partial(search_columns, settings=settings), NORMALIZED, CANDIDATES)


# ---- infer


def spectrum_inputs(spectra: Spectra, z_qso: NDArray[np.float64], settings: Settings) -> NDArray[np.float32]:
    """What a whole-spectrum network sees: rescaled flux inside the search window, 0 elsewhere (Zhao et al. 2019, §2.1); shape (n, p).

    Less 1, unlike the paper's: with a step at the window's edges the networks hardly learn (docs/networks.md).
    """
    window = search_window(spectra.grid, settings.line_species, z_qso, settings.preprocess.window_blue_z)
    return np.where(window & spectra.good, spectra.flux - 1.0, 0.0).astype(np.float32)


def whole_spectrum_columns(columns: Columns, settings: Settings) -> Columns:
    """Rows of NORMALIZED → what a whole-spectrum network sees of them."""
    spectra = Spectra(columns["flux"], columns["ivar"], columns["mask"], SDSS_GRID)
    return {
        "spectrum_id": columns["spectrum_id"],
        "flux": spectrum_inputs(spectra, columns["z_qso"].astype(float), settings),
    }


def whole_spectra(normalized: DataFrame, settings: Settings) -> DataFrame:
    """NORMALIZED, usable rows only → ``spectrum_id`` and the ``flux`` that a whole-spectrum network sees."""
    target = Table("whole_spectra", "Inputs of a whole-spectrum network.", (NORMALIZED.columns[0], TRAINING_SPECTRA.columns[-1]))
    needed = normalized.select("spectrum_id", "z_qso", "flux", "ivar", "mask")
    return map_arrays(needed, partial(whole_spectrum_columns, settings=settings), NORMALIZED, target)


# ---- measure


def measure_columns(columns: Columns, settings: Settings) -> Columns:
    """Rows of CANDIDATES → rows of the measured table."""
    species, limits = settings.line_species, settings.measure
    shape = (-1, *ImageGeometry.of(species, SDSS_GRID.step).shape)
    images = columns["image_residual"].reshape(shape), columns["image_inverse_error"].reshape(shape)
    measured = measuring.measure_candidates(*images, columns, species, SDSS_GRID)
    measured["fwhm_kms"], measured["fwhm_kms_err"] = measuring.intrinsic_fwhm(
        measured["sigma_pixels"] * SDSS_GRID.pixel_kms, measured["sigma_pixels_err"] * SDSS_GRID.pixel_kms, limits.instrument_sigma_kms
    )
    velocity = measuring.velocity_from_quasar(measured["z_abs"], columns["z_qso"])
    names = ("neighbour_pixels", "depressed_fraction", "crowding", "significance", "z_start", "z_stop")
    context = {**{name: columns[name].astype(float) for name in names}, "velocity_kms": velocity}
    veto_limits = measuring.Limits(
        limits.min_snr_primary, limits.min_snr_secondary, limits.max_fwhm_kms, limits.max_contamination, limits.crowding,
        limits.crowded_significance, limits.crowded_score, settings.infer.min_score,
    )  # fmt: skip
    context["score"] = columns["score"].astype(float)
    return {
        **{name: columns[name] for name in _CARRIED},
        **measured,
        "absorber_id": columns["candidate_id"],
        "species": np.full(len(velocity), species.name, dtype=object),
        "significance": context["significance"],
        "velocity_kms": velocity,
        "score": columns["score"].astype(float),
        "flags": measuring.flag_absorbers(measured, context, species, limits.near_quasar_kms, limits.crowding),
        "veto": measuring.veto_candidates(measured, context, species, veto_limits),
    }


def measure(candidates: DataFrame, scores: DataFrame, settings: Settings) -> DataFrame:
    """Fit every candidate that the network does not rule out; ``veto`` tells which are absorbers.

    Parameters
    ----------
    candidates : DataFrame of CANDIDATES
    scores : DataFrame of SCORES
        Few and narrow beside the candidates' images: they are broadcast, one wave of parts at a time.
    settings : Settings

    Returns
    -------
    DataFrame of :func:`measured_table`
    """
    possible = scores.where(F.col("score") >= settings.infer.measure_score).select("candidate_id", "score")
    candidates = candidates.join(F.broadcast(possible), "candidate_id")
    return map_arrays(candidates, partial(measure_columns, settings=settings), CANDIDATES, measured_table(settings))


# ---- sightlines


def sightlines(targets: DataFrame, normalized: DataFrame, absorbers: DataFrame, matches: DataFrame) -> DataFrame:
    """One row per searched spectrum: who it is, what was searched, how many absorbers it has, which absorber catalogues know it."""
    searched = normalized.select("spectrum_id", "snr", "z_start", "z_stop", "redshift_path")
    found = absorbers.groupBy("spectrum_id").agg(F.count("*").cast("int").alias("n_absorbers"))
    described = F.struct("catalogue", "match", "separation_arcsec", "n_systems", "n_strong", "z_abs")
    matches = matches.where("kind IS NULL OR kind = 'absorbers'")  # null: of a result made when the table had no others
    known = matches.groupBy("spectrum_id").agg(F.to_json(F.sort_array(F.collect_list(described))).alias("matches"))
    joined = targets.join(searched, "spectrum_id").join(found, "spectrum_id", "left").join(known, "spectrum_id", "left")
    return joined.withColumn("n_absorbers", F.coalesce("n_absorbers", F.lit(0)))

"""The absorption programme as Spark stages: preprocess, search, measure, and the sightlines with their non-detections.

Each stage is a function of data frames and settings; the numpy functions under it are the ones that the tests call directly.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntFlag
from functools import partial

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.absorption import measure as measuring
from nalspark.absorption.examples import candidate_examples, spectrum_examples, spectrum_inputs
from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.impostors import KINDS
from nalspark.absorption.inject import ZHAO_2019, Population
from nalspark.absorption.mocks import Continuum, Recipe, SkyNoise
from nalspark.absorption.normalize import normalize, residuals, searched_pixels
from nalspark.absorption.search import Doublet, Peaks, Thresholds, find_doublets
from nalspark.absorption.windows import interval_around
from nalspark.learning.ensemble import FittedSecondRound
from nalspark.learning.inference import second_round_columns
from nalspark.learning.models import PackedModel
from nalspark.settings import Settings
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import SDSS_GRID
from nalspark.spectra.regrid import place_on_grid
from nalspark.tables.arrow import Columns, map_arrays
from nalspark.tables.schemas import CANDIDATES, NORMALIZED, SECOND_ROUND_COLUMNS, SPECTRA, TRAINING, TRAINING_SPECTRA, absorbers_table
from nalspark.tables.table import Column, Table

#: The columns that make a candidate's image, in the order of a network's channels; and what a whole-spectrum network sees.
IMAGE_COLUMNS, SPECTRUM_COLUMNS = ("image_residual", "image_inverse_error"), ("flux",)
_CARRIED = ("spectrum_id", "part", "plate", "mjd", "fiber", "ra", "dec", "z_qso")
#: Impostors that are learned from more often than the others: those that were taken for absorbers most often when all came alike.
_HARDEST = ("CIV", "CIV", "CIV", "SiIV", "FeII2586", "CaII")
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
        "delta_z": ready.delta_z,
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


# ---- vet


class VetFlag(IntFlag):
    """What the second round says that score and fit do not."""

    OVERRULED = 1  #: score and second round decide differently
    VETOED = 2  #: accepted by the second round, and vetoed by the fit


def vetted_table(settings: Settings) -> Table:
    """The measured candidates, each with its band, its place in the map, the verdict and its flags; none is removed."""
    flags = Column("vet_flags", "int", "Bits of VetFlag; 0: nothing to remark", ucd="meta.code.qual")
    measured = measured_table(settings).columns
    return Table("vetted", "One row per measured candidate, with a second look at it.", (*measured, *SECOND_ROUND_COLUMNS, flags))


def vet_columns(columns: Columns, packed: PackedModel, second: FittedSecondRound, settings: Settings) -> Columns:
    """Measured candidates with their images → rows of the vetted table."""
    found = second_round_columns(columns, packed, second, settings.infer.batch_size)
    overruled = found["accepted"] != (columns["score"].astype(float) >= settings.infer.min_score)
    vetoed = found["accepted"] & (columns["veto"].astype(int) != 0)
    flags = np.where(overruled, VetFlag.OVERRULED, 0) | np.where(vetoed, VetFlag.VETOED, 0)
    return {**{name: columns[name] for name in measured_table(settings).names}, **found, "vet_flags": flags.astype(np.int32)}


def vet(candidates: DataFrame, measured: DataFrame, packed: PackedModel, second: FittedSecondRound, settings: Settings) -> DataFrame:
    """A second look at every measured candidate.

    Parameters
    ----------
    candidates : DataFrame of CANDIDATES
    measured : DataFrame of :func:`measured_table`
        Few and narrow beside the candidates' images: they are broadcast, one wave of parts at a time.
    packed : PackedModel
    second : FittedSecondRound
        Made for that model.
    settings : Settings

    Returns
    -------
    DataFrame of :func:`vetted_table`, as many rows as measured
    """
    images = candidates.select(F.col("candidate_id").alias("absorber_id"), *IMAGE_COLUMNS)
    joined = images.join(F.broadcast(measured), "absorber_id")
    work = partial(vet_columns, packed=packed, second=second, settings=settings)
    return map_arrays(joined, work, CANDIDATES, vetted_table(settings))


# ---- simulate

#: Absorbers as they are, from the weakest that can be seen; and as many weak as strong ones.
REALISTIC = Population(counts=(0.0,) * 6 + (1.0,), ew_law="zm13", incidence=1.0, ew_min=0.15)
_BROAD = Population(counts=(0.2, 0.6, 0.2), ew_law="log-uniform", ew_min=0.2, ew_max=5.0)
#: What an artificial spectrum is made from: its name, the part and the split that its examples belong to.
MOCK_NAMES = Table("mock_names", "Names of artificial spectra.", TRAINING.select("quasar_id", "part", "split"))


def populations(settings: Settings, sample: tuple[float, ...] = ()) -> tuple[Population, ...]:
    """What the spectra to learn from are populated with; `sample` has the equivalent widths of the empirical population."""
    known = {"broad": (REALISTIC, _BROAD), "zm13": (REALISTIC,), "log-uniform": (_BROAD,), "zhao2019": (ZHAO_2019,)}
    if settings.simulate.population == "empirical":
        return (replace(_BROAD, ew_law="empirical", ew_sample=sample),)
    return known[settings.simulate.population]


def recipes(
    settings: Settings, sky: SkyNoise | None = None, continuum: Continuum | None = None, sample: tuple[float, ...] = ()
) -> dict[str, Recipe]:
    """How the spectra of each split are made: those to learn from, and those to calibrate and test with.

    The latter have absorbers as they are, unless the population is the paper's.
    """
    chosen, species = settings.simulate, settings.line_species
    kinds = tuple(kind for kind in KINDS if kind != species.name)
    # No fiber on both sides: what is tested on was not learned from.
    fibers = (sky.take(slice(0, None, 2)), sky.take(slice(1, None, 2))) if sky else (None, None)
    harder = kinds + tuple(kind for kind in _HARDEST if kind in kinds)
    learn = Recipe(species, populations(settings, sample), chosen.seed, chosen.contaminated, harder, sky=fibers[0], continuum=continuum)
    real = learn.populations if chosen.population == "zhao2019" else (REALISTIC,)
    judge = replace(learn, populations=real, contaminated=chosen.contaminated_realistic, kinds=kinds, sky=fibers[1])
    return {"train": learn, "validation": learn, "calibration": judge, "test": judge}


def examples_table(settings: Settings) -> Table:
    """The table of examples that the settings ask for; both are called ``training``."""
    return TRAINING if settings.simulate.examples == "candidates" else replace(TRAINING_SPECTRA, name=TRAINING.name)


def _spectra_of_splits(settings: Settings) -> dict[str, int]:
    """How many artificial spectra each split is made from."""
    learn, judge = settings.simulate.n, settings.simulate.n_realistic
    return {"train": learn - learn // 5, "validation": learn // 5, "calibration": judge - judge // 2, "test": judge // 2}


def example_parts(settings: Settings) -> list[str]:
    """The parts of the training table: ``<split>-<number>``."""
    size = settings.simulate.spectra_per_part
    return [f"{split}-{block:05d}" for split, n in _spectra_of_splits(settings).items() for block in range(-(-n // size))]


def mock_names(spark: SparkSession, parts: list[str], settings: Settings) -> DataFrame:
    """The artificial spectra of some parts: a frame of MOCK_NAMES. No name is in two parts."""
    size, numbers = settings.simulate.spectra_per_part, _spectra_of_splits(settings)
    blocks = []
    for part in parts:
        split, _, block = part.rpartition("-")
        blocks.append((part, split, int(block) * size, min((int(block) + 1) * size, numbers[split]) - 1))
    ranges = spark.createDataFrame(blocks, "part string, split string, first long, last long")
    number = F.explode(F.sequence("first", "last"))
    names = ranges.select("part", "split", number.alias("number"))
    tasks = max(spark.sparkContext.defaultParallelism, sum(last - first for _, _, first, last in blocks) // 1000)
    # Neighbours in one task: it writes few parts.
    names = names.repartitionByRange(tasks, "part", "number").sortWithinPartitions("part", "number")
    return names.select(F.concat_ws("-", "split", "number").alias("quasar_id"), "part", "split")


def example_columns(columns: Columns, recipes: dict[str, Recipe], settings: Settings) -> Columns:
    """Names of artificial spectra → rows of TRAINING or TRAINING_SPECTRA."""
    make = candidate_examples if settings.simulate.examples == "candidates" else spectrum_examples
    names, made = columns["quasar_id"], []
    part = dict(zip(names, columns["part"], strict=True))
    for split in sorted(set(columns["split"])):
        examples = make(list(names[columns["split"] == split]), recipes[split], settings)
        parts = np.array([part[name] for name in examples["quasar_id"]], dtype=object)
        made.append({**examples, "split": np.full(len(parts), split, dtype=object), "part": parts})
    return {key: np.concatenate([examples[key] for examples in made]) for key in made[0]}


def simulate(names: DataFrame, recipes: dict[str, Recipe], settings: Settings) -> DataFrame:
    """Make artificial spectra and the examples that come of them.

    Parameters
    ----------
    names : DataFrame of MOCK_NAMES
    recipes : dict
        From :func:`recipes`.
    settings : Settings

    Returns
    -------
    DataFrame of TRAINING, or of TRAINING_SPECTRA
    """
    return map_arrays(names, partial(example_columns, recipes=recipes, settings=settings), MOCK_NAMES, examples_table(settings))


# ---- sightlines


def sightlines(targets: DataFrame, normalized: DataFrame, absorbers: DataFrame, matches: DataFrame) -> DataFrame:
    """One row per searched spectrum: who it is, what was searched, how many absorbers it has, which absorber catalogues know it."""
    searched = normalized.select("spectrum_id", "snr", "z_start", "z_stop", "delta_z")
    found = absorbers.groupBy("spectrum_id").agg(F.count("*").cast("int").alias("n_absorbers"))
    described = F.struct("catalogue", "match", "separation_arcsec", "n_systems", "n_strong", "z_abs")
    matches = matches.where("kind IS NULL OR kind = 'absorbers'")  # null: of a result made when the table had no others
    known = matches.groupBy("spectrum_id").agg(F.to_json(F.sort_array(F.collect_list(described))).alias("matches"))
    joined = targets.join(searched, "spectrum_id").join(found, "spectrum_id", "left").join(known, "spectrum_id", "left")
    return joined.withColumn("n_absorbers", F.coalesce("n_absorbers", F.lit(0)))

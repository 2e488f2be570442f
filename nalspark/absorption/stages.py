"""The absorption programme as Spark stages: preprocess, search, measure, and the sightlines with their non-detections.

Each stage decodes columns, calls :mod:`nalspark.absorption.chain`, and attaches by ``row`` whose the results are.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.absorption import chain
from nalspark.absorption.chain import IMAGE_COLUMNS, Candidates, Searchable
from nalspark.absorption.images import ImageGeometry
from nalspark.settings import Settings
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import place_on_grid
from nalspark.tables import schemas
from nalspark.tables.arrow import Columns, map_arrays
from nalspark.tables.schemas import CANDIDATES, NORMALIZED, SPECTRA, TRAINING_SPECTRA
from nalspark.tables.table import Table

#: Who a spectrum is: carried through every stage.
_CARRIED = ("spectrum_id", "part", "plate", "mjd", "fiber", "ra", "dec", "z_qso")


def measured_table(settings: Settings) -> Table:
    """Declare the table of measured candidates of the species that is searched."""
    return schemas.measured_table(settings.line_species)


# ---- preprocess


def normalize_columns(columns: Columns, settings: Settings) -> Columns:
    """Normalise rows of spectra with their targets; rows of NORMALIZED."""
    origin = [loglam if loglam is not None else int(first) for loglam, first in zip(columns["loglam"], columns["first_pixel"], strict=True)]
    spectra = place_on_grid(columns["flux"], columns["ivar"], columns["mask"], origin, LATTICE, columns["resolution"])
    ready = chain.prepare(spectra, columns["z_qso"].astype(float), settings)
    usable = [reason is None for reason in ready.reason]
    resolution = ready.spectra.resolution
    assert resolution is not None  # `place_on_grid` gives it

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
        "resolution": pixels(resolution),
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
    pixels = spectra.select("path", "first_pixel", "loglam", "flux", "ivar", "mask", "resolution")
    joined = pixels.join(F.broadcast(targets.select("path", *_CARRIED)), "path")
    return map_arrays(joined, partial(normalize_columns, settings=settings), SPECTRA, NORMALIZED)


# ---- search


def _searchable(columns: Columns) -> Searchable:
    """Rows of NORMALIZED that can be searched, as the chain knows them."""
    spectra = Spectra(columns["flux"], columns["ivar"], columns["mask"], LATTICE, columns["resolution"])
    return Searchable(np.arange(len(columns["z_qso"])), spectra, columns["continuum"], columns["z_qso"].astype(float))


def search_columns(columns: Columns, settings: Settings) -> Columns:
    """Search rows of NORMALIZED; rows of CANDIDATES."""
    candidates = chain.propose(_searchable(columns), settings)
    carried = {name: columns[name][candidates.row] for name in _CARRIED}
    return {**candidates.columns, **carried, "candidate_id": candidates.names(columns["spectrum_id"])}


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
    needed = normalized.select(*_CARRIED, "flux", "ivar", "continuum", "mask", "resolution")
    return map_arrays(needed, partial(search_columns, settings=settings), NORMALIZED, CANDIDATES)


# ---- infer


def whole_spectrum_columns(columns: Columns, settings: Settings) -> Columns:
    """Give what a whole-spectrum network sees of rows of NORMALIZED."""
    spectra = Spectra(columns["flux"], columns["ivar"], columns["mask"], LATTICE)
    return {
        "spectrum_id": columns["spectrum_id"],
        "flux": chain.spectrum_inputs(spectra, columns["z_qso"].astype(float), settings),
    }


def whole_spectra(normalized: DataFrame, settings: Settings) -> DataFrame:
    """Give of NORMALIZED, usable rows only, ``spectrum_id`` and the ``flux`` that a whole-spectrum network sees."""
    target = Table("whole_spectra", "Inputs of a whole-spectrum network.", (NORMALIZED.columns[0], TRAINING_SPECTRA.columns[-1]))
    needed = normalized.select("spectrum_id", "z_qso", "flux", "ivar", "mask")
    return map_arrays(needed, partial(whole_spectrum_columns, settings=settings), NORMALIZED, target)


# ---- measure


def measure_columns(columns: Columns, settings: Settings) -> Columns:
    """Measure rows of CANDIDATES with their scores; rows of the measured table."""
    shape = (-1, *ImageGeometry.of(settings.line_species, LATTICE.step).shape)
    images = {name: columns[name].reshape(shape) for name in IMAGE_COLUMNS}
    known = {field.name: columns[field.name] for field in fields(Candidates) if field.name in columns}
    row = np.arange(len(columns["candidate_id"]))
    candidates = Candidates(**{**known, **images, "row": row, "grid": LATTICE})
    measured = chain.measure(candidates, columns["score"], settings)
    return {**measured, **{name: columns[name] for name in _CARRIED}, "absorber_id": columns["candidate_id"]}


def measure(candidates: DataFrame, scores: DataFrame, settings: Settings) -> DataFrame:
    """Fit every candidate that the network does not rule out; ``accepted`` tells which are absorbers.

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
    """Give one row per searched spectrum: who it is, what was searched, how many absorbers it has, which absorber catalogues know it."""
    searched = normalized.select("spectrum_id", "snr", "z_start", "z_stop", "redshift_path")
    counted = absorbers.groupBy("spectrum_id").agg(F.count("*").cast("int").alias("n_absorbers"))
    described = F.struct("catalogue", "match", "separation_arcsec", "n_systems", "n_strong", "z_abs")
    matches = matches.where("kind IS NULL OR kind = 'absorbers'")  # null: of a result made when the table had no others
    known = matches.groupBy("spectrum_id").agg(F.to_json(F.sort_array(F.collect_list(described))).alias("matches"))
    joined = targets.join(searched, "spectrum_id").join(counted, "spectrum_id", "left").join(known, "spectrum_id", "left")
    return joined.withColumn("n_absorbers", F.coalesce("n_absorbers", F.lit(0)))

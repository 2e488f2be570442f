"""What the catalogue is worth, as Spark stages: absorbers put into the run's own spectra, and doublets of a wrong separation.

Each decodes columns, calls :mod:`nalspark.judging.injections` or :mod:`nalspark.judging.decoys`, and attaches by ``row`` whose the results
are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.absorption import chain
from nalspark.absorption.chain import Scorer, Searchable
from nalspark.judging.decoys import find_decoys
from nalspark.judging.injections import Sightlines, inject_and_find
from nalspark.learning.inference import detector_at_work
from nalspark.learning.models import PackedModel
from nalspark.settings import Settings
from nalspark.tables.arrow import Columns, map_arrays
from nalspark.tables.schemas import DECOYS, INJECTIONS, SPECTRA


def _with_catalogue(spectra: DataFrame, searched: DataFrame, absorbers: DataFrame) -> DataFrame:
    """The pixels of the spectra that were searched, with their path and the redshifts of the absorbers that the catalogue has in them."""
    known = absorbers.groupBy("spectrum_id").agg(F.sort_array(F.collect_list("z_abs")).alias("known"))
    facts = searched.select("spectrum_id", "part", "z_qso", "z_start", "z_stop").join(known, "spectrum_id", "left")
    return spectra.select("spectrum_id", *chain.PIXELS).join(F.broadcast(facts), "spectrum_id")


def _known(columns: Columns) -> list[Any]:
    return [np.zeros(0) if cell is None else np.asarray(cell, dtype=float) for cell in columns["known"]]


def _scorer(packed: PackedModel, settings: Settings) -> Scorer:
    """The model, put to work in this worker."""
    return chain.scorer(detector_at_work(packed, settings.infer.batch_size).predict, packed.card.inputs, settings)


def injection_columns(columns: Columns, packed: PackedModel, settings: Settings) -> Columns:
    """Put absorbers into rows of spectra and look for them; rows of INJECTIONS."""
    z_start, z_stop = ([np.asarray(cell, dtype=float) for cell in columns[name]] for name in ("z_start", "z_stop"))
    z_qso = columns["z_qso"].astype(float)
    sightlines = Sightlines(columns["spectrum_id"], chain.on_lattice(columns), z_qso, z_start, z_stop, _known(columns))
    found = inject_and_find(sightlines, _scorer(packed, settings), settings)
    return {**found, **{name: columns[name][found["row"]] for name in ("spectrum_id", "part")}}


def inject(spectra: DataFrame, searched: DataFrame, absorbers: DataFrame, packed: PackedModel, settings: Settings) -> DataFrame:
    """Put absorbers into the spectra of a run, and look for them.

    Parameters
    ----------
    spectra : DataFrame of SPECTRA, usable rows only
    searched : DataFrame of SEARCHED, usable rows only
        Narrow beside the pixels: they are broadcast, one wave of parts at a time.
    absorbers : DataFrame
        Of the catalogue: ``spectrum_id`` and ``z_abs``.
    packed : PackedModel
        What the catalogue was scored with.
    settings : Settings

    Returns
    -------
    DataFrame of INJECTIONS
    """
    frame = _with_catalogue(spectra, searched, absorbers)
    return map_arrays(frame, partial(injection_columns, packed=packed, settings=settings), SPECTRA, INJECTIONS)


def decoy_columns(columns: Columns, packed: PackedModel, settings: Settings) -> Columns:
    """Search rows of spectra for doublets of a wrong separation; rows of DECOYS."""
    z_qso = columns["z_qso"].astype(float)
    searchable = Searchable.of(chain.prepare(chain.on_lattice(columns), z_qso, settings), z_qso)
    light = chain.light_of(searchable, settings)
    found = find_decoys(searchable, light, _known(columns), _scorer(packed, settings), settings)
    return {**found, **{name: columns[name][found["row"]] for name in ("spectrum_id", "part")}}


def decoys(spectra: DataFrame, searched: DataFrame, absorbers: DataFrame, packed: PackedModel, settings: Settings) -> DataFrame:
    """Search the spectra of a run for doublets of a wrong separation; parameters as for :func:`inject`.

    Returns
    -------
    DataFrame of DECOYS
    """
    frame = _with_catalogue(spectra, searched, absorbers)
    return map_arrays(frame, partial(decoy_columns, packed=packed, settings=settings), SPECTRA, DECOYS)

"""The absorption programme as Spark stages: search, measure, and the sightlines with their non-detections.

Each stage decodes columns, calls :mod:`nalspark.absorption.chain`, and attaches by ``row`` whose the results are. Normalised pixels are
not kept: whoever needs them again (eigenspectra, pictures, whole-spectrum networks) has them made by :func:`normalize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nalspark.absorption import chain
from nalspark.absorption.balnicity import measure_balnicity, observed_wavelength
from nalspark.absorption.chain import IMAGE_COLUMNS, Candidates, Searchable
from nalspark.absorption.images import ImageGeometry
from nalspark.absorption.normalize import Continua, Normalized, find_path, fit_continua
from nalspark.absorption.systems import STEP, system_names
from nalspark.lines import LineSpecies
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.tables import schemas
from nalspark.tables.arrow import Columns, decode, map_arrays, map_batches, map_to_tables
from nalspark.tables.schemas import (
    BALNICITY,
    CANDIDATES,
    NORMALIZED,
    PUBLISHED_SENSITIVITY,
    SPECTRA,
    TRAINING_SPECTRA,
)  # fmt: skip
from nalspark.tables.table import Table

#: Pixels, 770 km/s: nearer rows may be pieces of one wide system.
_PIECES_APART = 11.14
#: Who a spectrum is: carried through every stage.
_CARRIED = ("spectrum_id", "part", *schemas.NATIVE_IDS, "ra", "dec", "z_qso")


def measured_table(settings: Settings) -> Table:
    """Declare the table of measured candidates of the species that is searched."""
    return schemas.measured_table(settings.line_species)


# ---- search


def _of_targets(spectra: DataFrame, targets: DataFrame) -> DataFrame:
    """The pixels of every target; targets are small beside them and are broadcast, one wave of parts at a time."""
    pixels = spectra.select("path", "spectrum_id", *chain.PIXELS)
    return pixels.join(F.broadcast(targets.select("path", *_CARRIED)), ["path", "spectrum_id"])


def _summary(columns: Columns, ready: Normalized) -> Columns:
    names = ("rescale", "snr", "z_start", "z_stop", "redshift_path", "reason", "detail")
    return {**{name: columns[name] for name in _CARRIED}, **{name: getattr(ready, name) for name in names}}


def search_columns(columns: Columns, each: Sequence[Settings]) -> list[Columns]:
    """Normalise rows of spectra with their targets, and search them for each species; rows of SEARCHED, CANDIDATES and SENSITIVITY."""
    continua = fit_continua(chain.on_lattice(columns), columns["z_qso"].astype(float), each[0].preprocess)
    return [rows for settings in each for rows in _search_species(columns, continua, settings)]


def _search_species(columns: Columns, continua: Continua, settings: Settings) -> tuple[Columns, Columns, Columns]:
    z_qso = columns["z_qso"].astype(float)
    ready = find_path(continua, z_qso, settings.line_species, settings.preprocess)
    searchable = Searchable.of(ready, z_qso)
    light = chain.light_of(searchable, settings)
    candidates = chain.propose(searchable, settings, light)
    row = candidates.row
    carried = {name: columns[name][row] for name in _CARRIED}
    named = {**carried, "candidate_id": candidates.names(columns["spectrum_id"])}
    found = {**candidates.columns, **named, "continuum_flux": ready.continuum[row, candidates.pixel] * ready.rescale[row]}
    seen = {**{name: columns[name][searchable.row] for name in ("spectrum_id", "part")}, **light.sensitivity.cells()}
    return _summary(columns, ready), found, seen


def search(spectra: DataFrame, targets: DataFrame, each: Sequence[Settings], tables: Sequence[Table]) -> DataFrame:
    """Normalise every target's spectrum, find candidate doublets, and tell how strong a doublet must be to be seen.

    Parameters
    ----------
    spectra : DataFrame of SPECTRA
    targets : DataFrame of TARGETS, usable rows only
    each : sequence of Settings
        Of each species; they differ in nothing else.
    tables : sequence of Table
        SEARCHED, CANDIDATES and SENSITIVITY of each species.

    Returns
    -------
    DataFrame
        Rows of the tables, of those like SEARCHED as many as targets: see :func:`nalspark.tables.arrow.rows_of`.
    """
    return map_to_tables(_of_targets(spectra, targets), partial(search_columns, each=each), SPECTRA, tables)


# ---- normalised pixels, on demand


def normalize_columns(columns: Columns, settings: Settings) -> Columns:
    """Normalise rows of spectra with their targets; rows of NORMALIZED."""
    ready = chain.prepare(chain.on_lattice(columns), columns["z_qso"].astype(float), settings)
    spectra = ready.spectra
    pixels = {"flux": spectra.flux, "ivar": spectra.ivar, "continuum": ready.continuum, "mask": spectra.mask}
    return {**_summary(columns, ready), **pixels}


def normalize(spectra: DataFrame, targets: DataFrame, settings: Settings) -> DataFrame:
    """Normalise every target's spectrum once more; parameters as for :func:`search`.

    Returns
    -------
    DataFrame of NORMALIZED
        Rows that can be searched.
    """
    frame = map_arrays(_of_targets(spectra, targets), partial(normalize_columns, settings=settings), SPECTRA, NORMALIZED)
    return frame.where(F.col("reason").isNull())


def normalized(spectra: pa.Table, targets: pa.Table, settings: Settings) -> dict[str, Columns]:
    """Normalise a few targets' spectra without Spark: spectrum_id → its columns of NORMALIZED, of those that can be searched."""
    same = ["path", "spectrum_id"]
    joined = spectra.select([*same, *chain.PIXELS]).join(targets.select(["path", *_CARRIED]), same).combine_chunks()
    found = dict[str, Columns]()
    for batch in joined.to_batches():
        columns = normalize_columns(decode(batch, {column.name: column for column in SPECTRA.columns}), settings)
        rows = [{name: values[row] for name, values in columns.items()} for row in range(batch.num_rows)]
        found |= {row["spectrum_id"]: row for row in rows if row["reason"] is None}
    return found


def whole_spectrum_columns(columns: Columns, settings: Settings) -> Columns:
    """Give what a whole-spectrum network sees of rows of spectra with their targets, of those that can be searched."""
    z_qso = columns["z_qso"].astype(float)
    ready = Searchable.of(chain.prepare(chain.on_lattice(columns), z_qso, settings), z_qso)
    return {"spectrum_id": columns["spectrum_id"][ready.row], "flux": chain.spectrum_inputs(ready.spectra, ready.z_qso, settings)}


def whole_spectra(spectra: DataFrame, targets: DataFrame, settings: Settings) -> DataFrame:
    """Give ``spectrum_id`` and the ``flux`` that a whole-spectrum network sees; parameters as for :func:`search`."""
    target = Table("whole_spectra", "Inputs of a whole-spectrum network.", (NORMALIZED.columns[0], TRAINING_SPECTRA.columns[-1]))
    return map_arrays(_of_targets(spectra, targets), partial(whole_spectrum_columns, settings=settings), SPECTRA, target)


# ---- broad absorption


def balnicity_columns(columns: Columns, settings: Settings) -> Columns:
    """Measure broad absorption in rows of spectra with their targets; rows of BALNICITY."""
    z_qso = columns["z_qso"].astype(float)
    ready = Searchable.of(chain.prepare(chain.on_lattice(columns), z_qso, settings), z_qso)
    measured = measure_balnicity(ready.spectra, ready.z_qso)
    ends = [observed_wavelength(trough, z) for trough, z in zip(measured.ai_troughs, ready.z_qso, strict=True)]
    return {
        **{name: columns[name][ready.row] for name in ("spectrum_id", "part")},
        **{f"{name[:2]}_civ{name[2:]}": getattr(measured, name) for name in ("bi", "bi_err", "ai", "ai_err")},
        "trough_start": [trough[:, 1] for trough in ends],
        "trough_stop": [trough[:, 0] for trough in ends],
    }


def balnicity(spectra: DataFrame, targets: DataFrame, settings: Settings) -> DataFrame:
    """Measure broad absorption in every target's spectrum; parameters as for :func:`search`.

    Returns
    -------
    DataFrame of BALNICITY
        A row for each that can be searched.
    """
    return map_arrays(_of_targets(spectra, targets), partial(balnicity_columns, settings=settings), SPECTRA, BALNICITY)


# ---- measure


def measure_columns(columns: Columns, settings: Settings) -> Columns:
    """Measure rows of CANDIDATES with their scores; rows of the measured table."""
    shape = (-1, *ImageGeometry.of(settings.line_species, LATTICE.step).shape)
    images = {name: columns[name].reshape(shape) for name in IMAGE_COLUMNS}
    known = {field.name: columns[field.name] for field in fields(Candidates) if field.name in columns}
    row = np.arange(len(columns["candidate_id"]))
    candidates = Candidates(**{**known, **images, "row": row, "grid": LATTICE})
    measured = chain.measure(candidates, columns["score"], settings)
    named = {**{name: columns[name] for name in _CARRIED}, "absorber_id": columns["candidate_id"]}
    return {**measured, **named, "continuum_flux": columns["continuum_flux"]}


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


# ---- what is published


def with_object(rows: DataFrame, objects: DataFrame) -> DataFrame:
    """Add ``object_id`` and ``primary`` to rows that have a ``spectrum_id``; a spectrum without a position is an object of its own."""
    known = rows.join(objects.select("spectrum_id", "object_id", "primary"), "spectrum_id", "left")
    return known.withColumns({"object_id": F.coalesce("object_id", "spectrum_id"), "primary": F.coalesce("primary", F.lit(True))})


def with_quasar_error(absorbers: DataFrame, targets: DataFrame) -> DataFrame:
    """Add ``z_qso_err`` to absorbers, from rows of TARGETS."""
    return absorbers.join(targets.select("spectrum_id", "z_qso_err"), "spectrum_id", "left")


def with_system(absorbers: DataFrame, settings: Settings) -> DataFrame:
    """Add ``system_id`` to absorbers with an ``object_id``: see :func:`nalspark.absorption.systems.system_names`."""
    return _with_system(absorbers, f"ew_{settings.line_species.primary.label}")


def with_systems(absorbers: DataFrame, objects: DataFrame, species: Sequence[LineSpecies]) -> DataFrame:
    """Name objects and systems anew of absorbers of several species, and add ``n_ions``, how many of these a system shows."""
    width = F.coalesce(*(F.when(F.col("species") == one.name, F.col(f"ew_{one.primary.label}")) for one in species))
    known = absorbers.drop("object_id", "system_id").join(objects.select("spectrum_id", "object_id"), "spectrum_id", "left")
    known = known.withColumns({"object_id": F.coalesce("object_id", "spectrum_id"), "own_width": width})
    ions = F.size(F.collect_set("species").over(Window.partitionBy("object_id", "system_id")))
    return _with_system(known, "own_width").withColumn("n_ions", ions)


def _with_system(absorbers: DataFrame, ew: str) -> DataFrame:
    schema = T.StructType([*absorbers.schema.fields, T.StructField("system_id", T.StringType())])
    return map_batches(absorbers.repartition("object_id"), partial(_name_systems, ew=ew), schema)


def _name_systems(batches: Iterator[pa.RecordBatch], ew: str) -> Iterator[pa.RecordBatch]:
    """All rows of a partition: whole objects."""
    if kept := list(batches):
        whole = pa.Table.from_batches(kept)
        names = system_names(*(whole[name].to_numpy(zero_copy_only=False) for name in ("object_id", "z_abs", ew)))
        yield from whole.append_column("system_id", pa.array(names, pa.string())).to_batches()


def n_pieces(absorbers: DataFrame) -> int:
    """Count absorbers nearer to the one before them, in the same spectrum, than pieces of one wide system may lie."""
    pixel = F.log10(1 + F.col("z_abs")) / STEP
    before = F.lag(pixel).over(Window.partitionBy("spectrum_id").orderBy("z_abs"))
    near = absorbers.select((pixel - before).alias("apart")).where(F.col("apart") < _PIECES_APART)
    return near.count()


def with_trough(absorbers: DataFrame, balnicity: DataFrame, settings: Settings) -> DataFrame:
    """Add ``bi_civ`` and ``in_trough`` to absorbers, from rows of BALNICITY."""
    line = settings.line_species.primary.wavelength * (1 + F.col("z_abs"))
    inside = F.exists(F.arrays_zip("trough_start", "trough_stop"), lambda ends: (ends.trough_start <= line) & (line <= ends.trough_stop))
    known = absorbers.join(balnicity.select("spectrum_id", "bi_civ", "ai_civ", "trough_start", "trough_stop"), "spectrum_id", "left")
    known = known.withColumn("in_trough", F.when(F.col("ai_civ").isNotNull(), inside))
    return known.drop("ai_civ", "trough_start", "trough_stop")


def sensitivity(searched: DataFrame, sensitivity: DataFrame, objects: DataFrame, balnicity: DataFrame) -> DataFrame:
    """Give the table of sensitivity as it is published, from rows that were searched."""
    facts = with_object(searched.select("spectrum_id", "ra", "dec", "z_qso", "snr"), objects)
    facts = facts.join(balnicity.select("spectrum_id", "bi_civ"), "spectrum_id", "left")
    return facts.join(sensitivity.drop("part"), "spectrum_id").select(*PUBLISHED_SENSITIVITY.names)


def sightlines(
    targets: DataFrame, searched: DataFrame, absorbers: DataFrame, matches: DataFrame, objects: DataFrame, balnicity: DataFrame
) -> DataFrame:
    """Give one row per searched spectrum: who it is, what was searched, how many absorbers it has, which absorber catalogues know it.

    `objects` is what :func:`nalspark.surveys.crossmatch.stages.objects` gives; `balnicity` may be empty.
    """
    searched = searched.select("spectrum_id", "snr", "z_start", "z_stop", "redshift_path")
    counted = absorbers.groupBy("spectrum_id").agg(F.count("*").cast("int").alias("n_absorbers"))
    described = F.struct("catalogue", "match", "separation_arcsec", "n_systems", "n_strong", "z_abs")
    matches = matches.where("kind IS NULL OR kind = 'absorbers'")  # null: of a result made when the table had no others
    known = matches.groupBy("spectrum_id").agg(F.to_json(F.sort_array(F.collect_list(described))).alias("matches"))
    joined = targets.join(searched, "spectrum_id")
    for others in (counted, known, objects, balnicity.drop("part")):
        joined = joined.join(others, "spectrum_id", "left")
    filled = {"n_absorbers": F.lit(0), "object_id": F.col("spectrum_id"), "n_epochs": F.lit(1), "primary": F.lit(True)}
    return joined.withColumns({name: F.coalesce(name, otherwise) for name, otherwise in filled.items()})

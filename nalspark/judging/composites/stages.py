"""Composites with Spark: which spectra are wanted at which redshifts, their controls, and the sums over them.

Only sums go to the driver, some 20 MB each of absorbers and of controls, however many spectra there are. They are sums of whole numbers
(:mod:`nalspark.judging.composites.arrays`): partitions do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nalspark.absorption import chain
from nalspark.absorption.normalize import continuum_across
from nalspark.errors import StoreError
from nalspark.judging.composites.arrays import Sums, add_spectra
from nalspark.judging.composites.selection import Selection, parse_selection
from nalspark.judging.composites.tables import Stack, make_stack
from nalspark.judging.composites.widths import near_lines
from nalspark.session import parallelism, shuffles
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.catalogs import Catalog
from nalspark.surveys.crossmatch.stages import catalog_frame, pairs_on_sky
from nalspark.tables.arrow import Batches, Columns, decode, map_batches
from nalspark.tables.result import Result
from nalspark.tables.schemas import SIGHTLINES, SPECTRA, absorbers_table
from nalspark.tables.store import Store, spark_path
from nalspark.tables.table import Table

#: What a request is for: an absorber without controls, one with them, a control.
_ALONE, _MATCHED, _CONTROL = 0, 1, 2
#: Widths of the bins of z_qso and of ln(S/N) in which controls are looked for, the narrow ones first.
CONTROL_BINS = ((0.05, 0.3), (0.1, 0.6), (0.2, 1.2))
#: Requests up to which they are sent to all workers; more are shuffled, and the spectra with them.
_BROADCAST = 300_000
#: Tasks for each core, and requests that a task is worth: each has sums of its own to send.
_TASKS, _SPECTRA_PER_TASK = 2, 256
#: Spectra whose pixels are held in memory together, at the redshifts that they are wanted at.
_ROWS = 256
#: What is needed of a sightline to stack it.
_TARGET = ("spectrum_id", "path", "part", "z_qso", "snr", "object_id")


@dataclass(frozen=True)
class Plan:
    """What is stacked.

    Attributes
    ----------
    select : str
        Condition on the columns of the absorbers and of their sightlines; of pairs, where there are positions. Empty: all.
    controls : int
        Spectra without a selected absorber for each one with, 0: none, and no dust.
    control_select : str
        Condition on the columns of the sightlines that controls are taken from.
    seed : int
        Of the bootstrap and of the choice of controls.
    positions : Catalog, optional
        Positions and redshifts to stack at, instead of absorbers.
    radius_arcsec : float
        How far from a sightline a position may lie.
    """

    select: str = ""
    controls: int = 3
    control_select: str = ""
    seed: int = 1
    positions: Catalog | None = None
    radius_arcsec: float = 30.0


def read_conditions(result: Result, plan: Plan) -> tuple[Selection, Selection]:
    """Read the conditions of a plan, on what is stacked and on its controls.

    Columns are those of absorbers and of their sightlines; of positions ``z`` and ``separation_arcsec`` with those of their sightlines; of
    controls those of sightlines.

    Raises
    ------
    SettingsError
        Where one is no condition, or names another column.
    """
    own = {"z": "double", "separation_arcsec": "double"} if plan.positions else _kinds(absorbers_table(result.species))
    return parse_selection(plan.select, _kinds(SIGHTLINES) | own), parse_selection(plan.control_select, _kinds(SIGHTLINES))


def _kinds(table: Table) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}


def stack_result(spark: SparkSession, result: Result, plan: Plan, scratch: Path, say: Callable[[str], None]) -> Stack:
    """Stack the spectra of a result in the rest frame of its absorbers, or at redshifts that are given.

    Parameters
    ----------
    spark : SparkSession
    result : Result
        Published, with its spectra.
    plan : Plan
    scratch : Path
        A folder that all workers see, for lists of spectra; whoever gives it removes it.
    say : callable
        Takes lines on what is done.

    Raises
    ------
    StoreError
        Where the result lacks its spectra, or nothing is left to stack.
    SettingsError
        Where the selection is wrong.
    """
    conditions = read_conditions(result, plan)
    if not result.has(SPECTRA.name):
        raise StoreError(f"{result.root} does not hold its spectra any more: run stage 'ingest', then stack again.")
    with shuffles(spark, result.manifest.published.get(f"{SIGHTLINES.name}.parquet", 0)):
        requests, facts = _requested(spark, result, plan, conditions, scratch)
        say(f"{facts['n_spectra']} {'pairs' if plan.positions else 'absorbers'} in the spectra of {facts['n_objects']} quasars are stacked")
        sums = _sums_of(spark, result, requests, plan.seed)
    absorbers, controls, n = sums[_MATCHED], sums[_CONTROL], facts["n_spectra"]
    if absorbers.n_spectra != n:
        raise StoreError(f"Of {n} spectra to be stacked {absorbers.n_spectra} are in {result.root}: bring it up to date, then stack again.")
    if plan.controls:
        say(f"{controls.n_spectra} control spectra for {int(absorbers['spectra'][0, 1])} of them")
    stack = make_stack(absorbers, controls if plan.controls else None, facts["n_objects"], facts["n_control_objects"])
    chosen = {"species": result.species.name, "select": plan.select, "controls": plan.controls}
    chosen |= {"control_select": plan.control_select, "seed": plan.seed}
    return replace(stack, facts=facts | stack.facts | chosen)


def _requested(
    spark: SparkSession, result: Result, plan: Plan, conditions: tuple[Selection, Selection], scratch: Path
) -> tuple[DataFrame, dict[str, Any]]:
    """Rows of spectra and redshifts, controls among them, and counts of what is stacked."""
    lines = _sightlines(spark, result)
    rows, counts = _wanted(spark, result, plan, lines, scratch)
    wanted = _kept(_chosen(rows, conditions[0]).select(*_TARGET, "z_stack"), scratch / "wanted")
    n, n_objects = wanted.agg(F.count("*"), F.countDistinct("object_id")).collect()[0]
    if not n:
        raise StoreError(_nothing(result, conditions[0], plan, counts))
    # A noisy spectrum of an absorbed quasar shows no absorber and yet its dust: for controls all spectra of an object count together.
    of_object = lines.withColumn("n_absorbers", F.sum("n_absorbers").over(Window.partitionBy("object_id")))
    requests = _kept(_with_controls(wanted, _chosen(of_object, conditions[1]), plan), scratch / "requests")
    n_control_objects = requests.where(F.col("kind") == _CONTROL).select("spectrum_id").distinct().count()
    return requests, counts | {"n_spectra": n, "n_objects": n_objects, "n_control_objects": n_control_objects}


def _nothing(result: Result, selection: Selection, plan: Plan, counts: dict[str, Any]) -> str:
    such = f" that are '{selection.text}'" if selection.text else ""
    if plan.positions is None:
        return f"{result.root} has no absorbers{such}: nothing is stacked. Give a wider --select."
    near = f"lies within {plan.radius_arcsec:g} arcsec of a sightline and in front of its quasar{such}"
    return f"Of {counts['n_positions']} positions none {near}: nothing is stacked. Give a larger --radius."


def _sightlines(spark: SparkSession, result: Result) -> DataFrame:
    store = Store(result.root)
    lines = store.load(spark, SIGHTLINES.spark_schema, store.published(f"{SIGHTLINES.name}.parquet"))
    # Null where an earlier version published.
    return lines.withColumns({"object_id": F.coalesce("object_id", "spectrum_id"), "primary": F.coalesce("primary", F.lit(True))})


def _kept(frame: DataFrame, folder: Path) -> DataFrame:
    """Write rows that are read several times, and read them back."""
    frame.write.mode("overwrite").parquet(spark_path(folder))
    return Store.load(frame.sparkSession, frame.schema, folder)


# ---- which spectra, at which redshifts


def _wanted(spark: SparkSession, result: Result, plan: Plan, lines: DataFrame, scratch: Path) -> tuple[DataFrame, dict[str, Any]]:
    """What may be stacked, with all that it can be selected by, and the redshift ``z_stack``; and what else to tell."""
    if plan.positions is None:
        store, table = Store(result.root), absorbers_table(result.species)
        absorbers = store.load(spark, table.spark_schema, store.published(f"{table.name}.parquet"))
        of_sightline = [name for name in absorbers.columns if name in lines.columns and name != "spectrum_id"]
        return absorbers.drop(*of_sightline).join(lines, "spectrum_id").withColumn("z_stack", F.col("z_abs")), {}
    places = catalog_frame(spark, plan.positions, scratch).where(F.col("z") > 0)
    pairs = pairs_on_sky(lines.select(F.col("spectrum_id").alias("left_id"), "ra", "dec"), places, plan.radius_arcsec)
    redshifts = places.select(F.col("row").alias("right_row"), "z", F.col("z").alias("z_stack"))
    rows = pairs.join(redshifts, "right_row").withColumnRenamed("left_id", "spectrum_id").join(lines, "spectrum_id")
    told = {"positions": plan.positions.name, "n_positions": plan.positions.n_rows, "radius_arcsec": plan.radius_arcsec}
    return rows.where(F.col("z") < F.col("z_qso")), told


def _chosen(rows: DataFrame, selection: Selection) -> DataFrame:
    condition = selection.apply(F.col)
    return rows if condition is None else rows.where(condition if not isinstance(condition, bool) else F.lit(condition))


def _with_controls(wanted: DataFrame, lines: DataFrame, plan: Plan) -> DataFrame:
    """Rows of requests: those wanted, and for each as many controls as the plan says, of sightlines whose quasar is not among them.

    An absorber and its controls have the same ``object_id``, since the bootstrap must draw them together.
    """
    if not plan.controls:
        return wanted.withColumn("kind", F.lit(_ALONE))
    spare = lines.select(*_TARGET).join(wanted.select("object_id").distinct(), "object_id", "anti").where("snr > 0")
    left = wanted.withColumn("number", F.xxhash64("spectrum_id", "z_stack", F.lit(plan.seed)))
    done: DataFrame | None = None
    for bins in CONTROL_BINS:
        pairs = _in_bins(left, spare, bins, plan)
        matched = pairs.select("spectrum_id", "z_stack").distinct()
        rows = _requests(left, matched, pairs)
        done = rows if done is None else done.unionByName(rows)
        left = left.join(matched, ["spectrum_id", "z_stack"], "anti")
    assert done is not None
    return done.unionByName(left.drop("number").withColumn("kind", F.lit(_ALONE)))


def _in_bins(wanted: DataFrame, spare: DataFrame, bins: tuple[float, float], plan: Plan) -> DataFrame:
    """Pairs of those wanted, with as many controls each as the plan says, of the same bin of z_qso and S/N; in turn, if there are few."""
    cell = [F.floor(F.col("z_qso") / bins[0]).alias("bin_z"), F.floor(F.log("snr") / bins[1]).alias("bin_snr")]
    keys = Window.partitionBy("bin_z", "bin_snr")
    pool = spare.select("*", *cell, F.xxhash64("spectrum_id", F.lit(plan.seed)).alias("order"))
    pool = pool.withColumn("place", F.row_number().over(keys.orderBy("order", "spectrum_id")) - 1)
    sizes = pool.groupBy("bin_z", "bin_snr").agg(F.count("*").alias("size"))
    ranked = wanted.where("snr > 0").select("spectrum_id", "z_stack", "object_id", *cell, "number")
    ranked = ranked.withColumn("rank", F.row_number().over(keys.orderBy("number", "spectrum_id", "z_stack")) - 1)
    each = ranked.join(sizes, ["bin_z", "bin_snr"]).withColumn("which", F.explode(F.sequence(F.lit(0), F.lit(plan.controls - 1))))
    turn = each.withColumn("place", (F.col("rank") * plan.controls + F.col("which")) % F.col("size"))
    control = F.struct(*(name for name in _TARGET if name != "object_id")).alias("control")
    return turn.join(pool.select("bin_z", "bin_snr", "place", control), ["bin_z", "bin_snr", "place"])


def _requests(wanted: DataFrame, matched: DataFrame, pairs: DataFrame) -> DataFrame:
    own = wanted.join(matched, ["spectrum_id", "z_stack"], "semi").select(*_TARGET, "z_stack", F.lit(_MATCHED).alias("kind"))
    others = pairs.select("control.*", "object_id", "z_stack", F.lit(_CONTROL).alias("kind"))
    return own.unionByName(others)


# ---- sums


def _sums_of(spark: SparkSession, result: Result, requests: DataFrame, seed: int) -> dict[int, Sums]:
    """Add up the spectra of all requests: sums of absorbers and of controls."""
    n, parts = requests.agg(F.count("*"), F.sort_array(F.collect_set("part"))).collect()[0]
    asked = F.sort_array(F.collect_list(F.struct("kind", "z_stack", "object_id"))).alias("asked")
    each = requests.groupBy("path", "spectrum_id").agg(F.first("z_qso").alias("z_qso"), asked)
    each = each.select("path", "spectrum_id", "z_qso", *(F.col(f"asked.{name}").alias(name) for name in ("kind", "z_stack", "object_id")))
    pixels = Store(result.root).read(spark, result.manifest, SPECTRA, parts).select("path", "spectrum_id", *chain.PIXELS)
    spectra = pixels.join(F.broadcast(each) if n <= _BROADCAST else each, ["path", "spectrum_id"])
    # Each task's sums are some 50 MB, however few spectra it has.
    return sum_spectra(spectra.coalesce(min(_TASKS * parallelism(spark), 1 + n // _SPECTRA_PER_TASK)), result.settings, seed)


def sum_spectra(spectra: DataFrame, settings: Settings, seed: int) -> dict[int, Sums]:
    """Add up spectra, each at all the redshifts that it is wanted at.

    Parameters
    ----------
    spectra : DataFrame
        ``z_qso``, the pixels of SPECTRA, and the lists ``kind``, ``z_stack``, ``object_id``, one item a request.
    settings : Settings
        By which they are normalised.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict of Sums
        Of absorbers under 1, of controls under 2.
    """
    pieces = map_batches(spectra, partial(_add_batches, settings=settings, seed=seed), _SCHEMA)
    total = map_batches(pieces.repartition("sample", "piece"), _merge_pieces, _SCHEMA)
    found: dict[int, dict[int, bytes]] = {_MATCHED: {}, _CONTROL: {}}
    for row in total.toLocalIterator():
        found[row["sample"]][row["piece"]] = bytes(row["numbers"])
    return {sample: Sums.of_pieces(pieces) for sample, pieces in found.items()}


_SCHEMA = "sample int, piece int, numbers binary"
_DECLARED = {column.name: column for column in SPECTRA.columns}


def _add_batches(batches: Batches, settings: Settings, seed: int) -> Batches:
    sums = {_MATCHED: Sums(), _CONTROL: Sums()}
    for batch in batches:
        if batch.num_rows:
            _add_batch(sums, decode(batch, _DECLARED), settings, seed)
    for sample, of_sample in sums.items():
        for number, piece in of_sample.pieces():
            yield _row(sample, number, piece)


def _add_batch(sums: dict[int, Sums], columns: Columns, settings: Settings, seed: int) -> None:
    """Add spectra at all the redshifts that they are wanted at, each with the continuum across the lines at that redshift."""
    z_qso = columns["z_qso"].astype(float)
    ready = chain.prepare(chain.on_lattice(columns), z_qso, settings)
    row = np.repeat(np.arange(len(columns["z_stack"])), [len(cell) for cell in columns["z_stack"]])
    kind, z, objects = (np.concatenate([np.asarray(cell) for cell in columns[name]]) for name in ("kind", "z_stack", "object_id"))
    usable = np.array([reason is None for reason in ready.reason], dtype=bool)[row]
    good = ready.spectra.good
    for sample, of_sample in sums.items():
        mine = np.flatnonzero(usable & ((kind == _CONTROL) == (sample == _CONTROL)))
        for chosen in np.split(mine, range(_ROWS, len(mine), _ROWS)):  # a spectrum may be wanted at many redshifts
            these, dusty = row[chosen], kind[chosen] != _ALONE
            continuum = continuum_across(ready, these, z_qso[these], near_lines(z[chosen], LATTICE), settings.preprocess)
            light = ready.spectra.flux[these], continuum, good[these]
            add_spectra(of_sample, light, z[chosen], list(objects[chosen]), for_dust=dusty, seed=seed)


def _merge_pieces(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Add up the pieces of the same place; whole places lie in one partition."""
    sums: dict[tuple[int, int], np.ndarray] = {}
    for batch in batches:
        for row in batch.to_pylist():
            place, numbers = (row["sample"], row["piece"]), np.frombuffer(row["numbers"], "<i8")
            sums[place] = sums[place] + numbers if place in sums else numbers
    for (sample, number), numbers in sums.items():
        yield _row(sample, number, numbers.astype("<i8").tobytes())


def _row(sample: int, piece: int, numbers: bytes) -> pa.RecordBatch:
    arrays = [pa.array([sample], pa.int32()), pa.array([piece], pa.int32()), pa.array([numbers], pa.binary())]
    return pa.RecordBatch.from_arrays(arrays, ["sample", "piece", "numbers"])

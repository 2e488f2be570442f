"""Two published catalogues, absorber by absorber: which were gained, lost, moved or measured anew, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nalspark.absorption.systems import MATCH_PIXELS, MATCH_PIXELS_PER_ANGSTROM, STEP
from nalspark.errors import StoreError
from nalspark.tables.changes import value_changes
from nalspark.tables.manifest import Manifest
from nalspark.tables.result import Result, open_result
from nalspark.tables.schemas import CHANGES, REJECTIONS, SCORES, SIGHTLINES, absorbers_table, measured_table
from nalspark.tables.store import Store
from nalspark.tables.table import Table

#: Settings that cannot change a catalogue.
_IDLE = ("pipeline.", "out", "publish.", "completeness.", "statistics.")
#: Columns that are not in the hash as they are: where a row lies, what is compared otherwise, what follows from other rows.
_APART = {"part", "score", "continuum_flux", "object_id", "primary", "system_id", "completeness", "weight"}
#: What a change is called, from what the other catalogue knows of the spectrum.
_GAINED = {
    "spectrum_absent": "new spectrum",
    "spectrum_rejected": "the spectrum was rejected before",
    "not_searched": "that redshift was not searched before",
    "low_score": "its score was too low before",
    "no_candidate": "the search did not propose it before",
    "unknown": "the earlier result keeps no candidates to tell why",
}
_LOST = {
    "spectrum_absent": "the spectrum is gone",
    "spectrum_rejected": "the spectrum is rejected now",
    "not_searched": "that redshift is not searched any more",
    "low_score": "its score is too low now",
    "no_candidate": "the search does not propose it any more",
    "unknown": "the later result keeps no candidates to tell why",
}
_PAIRED = {"same_spectrum": "from the same data", "other_spectrum": "the spectrum, its redshift or its search window changed"}
#: Change → reason → sentence.
REASONS = {"gained": _GAINED, "lost": _LOST, "moved": _PAIRED, "remeasured": _PAIRED}


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Attributes
    ----------
    changes : DataFrame of CHANGES
    causes : list of str
        What is set otherwise: settings, model, catalogues, version.
    """

    changes: DataFrame
    causes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Write the numbers of changes by kind and reason, each with its most significant example, as text."""
        best = F.max_by(F.struct("spectrum_id", F.coalesce("z_after", "z_before").alias("z")), F.coalesce("ew_after", "ew_before"))
        rows = self.changes.groupBy("change", "reason").agg(F.count("*").alias("n"), best.alias("best")).collect()
        lines = [f"changed     {cause}" for cause in self.causes] or ["no setting, model or catalogue differs"]
        if not rows:
            return "\n".join([*lines, "the catalogues have the same absorbers"])
        total = Counter[str]()
        for row in rows:
            total[row["change"]] += row["n"]
        for change, reasons in REASONS.items():
            lines.append(f"{change:<11} {total[change]}")
            for row in sorted((row for row in rows if row["change"] == change), key=lambda row: -row["n"]):
                example = f"for one {row['best']['spectrum_id']} at z = {row['best']['z']:.4f}"
                lines.append(f"  {row['n']:>9} {reasons[row['reason']]}; {example}")
        return "\n".join(lines)


def open_side(folder: str | Path) -> Result:
    """Open a result directory, or one of its `versions/`.

    Raises
    ------
    StoreError
        Where it is not there, or holds no whole published catalogue.
    """
    result = open_result(folder)
    if not (result.manifest.parts("published") and result.has("absorbers")):
        raise StoreError(f"{result.root} holds no whole catalogue: run stage 'publish' first.")
    return result


def _published(spark: SparkSession, side: Result, table: Table) -> DataFrame:
    store = Store(side.root)
    return store.load(spark, table.spark_schema, store.published(f"{table.name}.parquet"))


def compare_catalogues(spark: SparkSession, before: Result, after: Result) -> Comparison:
    """Compare two catalogues: what became of every absorber.

    Absorbers of one spectrum are paired with the nearest one of the other catalogue, if they are one system
    (:mod:`nalspark.absorption.systems`) and each is the other's nearest. A pair has moved where the redshift differs at all, and is
    measured anew where only its other numbers differ; pairs that are equal are not listed. What only one of the two catalogues has a
    column for, as where an earlier version made the other, is not compared.

    Parameters
    ----------
    spark : SparkSession
    before, after : Result

    Raises
    ------
    StoreError
        Where the two are of different species.
    """
    if before.species != after.species:
        raise StoreError(f"{before.root} is a catalogue of {before.species.name}, {after.root} of {after.species.name}.")
    shared = _shared_columns(before, after)
    old, new = _absorbers(spark, before, shared), _absorbers(spark, after, shared)
    pairs = _pairs(old, new)
    lost, gained = (
        rows.join(pairs.select(F.col(f"{side}.id").alias("id")), "id", "anti") for rows, side in ((old, "before"), (new, "after"))
    )
    changes = _paired(pairs, _sightlines(spark, before), _sightlines(spark, after))
    for rows, change, other in ((lost, "lost", after), (gained, "gained", before)):
        changes = changes.unionByName(_unpaired(spark, rows, change, other))
    return Comparison(changes.select(*CHANGES.names), _causes(before.manifest, after.manifest))


def _causes(before: Manifest, after: Manifest) -> list[str]:
    changes = [change for change in value_changes(before.settings, after.settings) if not change.startswith(_IDLE)]
    changes += value_changes(before.inputs, after.inputs)
    return changes + value_changes({"nalspark": before.version}, {"nalspark": after.version})


def _shared_columns(before: Result, after: Result) -> list[str]:
    """Columns of the absorbers that both catalogues have, but for those that are compared otherwise."""
    known = set(before.dataset("absorbers").schema.names) & set(after.dataset("absorbers").schema.names)
    return [name for name in absorbers_table(after.species).names if name in known - _APART]


def _absorbers(spark: SparkSession, side: Result, shared: list[str]) -> DataFrame:
    """Narrow rows, and a hash of the columns `shared`."""
    measured = F.xxhash64(*shared, F.round("score", 6)).alias("content")
    width = F.col(f"ew_{side.species.primary.label}").alias("ew")
    names = ("spectrum_id", F.col("absorber_id").alias("id"), "z_abs", width, "score", measured, "continuum_flux")
    return _published(spark, side, absorbers_table(side.species)).select(*names)


def _pairs(old: DataFrame, new: DataFrame) -> DataFrame:
    """``spectrum_id``, ``before`` and ``after``: absorbers that are each other's nearest."""
    left, right = (frame.select("spectrum_id", F.struct(*frame.columns).alias(name)) for frame, name in ((old, "before"), (new, "after")))
    near = _one_system(left.join(right, "spectrum_id"), "before", "after.z_abs")
    for side in ("before", "after"):
        order = Window.partitionBy("spectrum_id", f"{side}.id").orderBy("distance", "before.id", "after.id")
        near = near.withColumn(f"rank_{side}", F.row_number().over(order))
    return near.where("rank_before = 1 and rank_after = 1").select("spectrum_id", "before", "after")


def _one_system(pairs: DataFrame, reference: str, other: str) -> DataFrame:
    """Of pairs those that are one system, as :func:`nalspark.absorption.systems.same_system` says it of arrays, with their ``distance``.

    `reference` is a struct with ``z_abs`` and ``ew``, `other` a redshift.
    """
    z, width = F.col(f"{reference}.z_abs"), F.coalesce(F.col(f"{reference}.ew"), F.lit(0.0))
    distance = F.abs(F.log10(1 + z) - F.log10(1 + F.col(other))) / STEP
    radius = MATCH_PIXELS + MATCH_PIXELS_PER_ANGSTROM * F.greatest(width - 1, F.lit(0.0))
    return pairs.withColumn("distance", distance).where(F.col("distance") <= radius)


def _sightlines(spark: SparkSession, side: Result) -> DataFrame:
    """``spectrum_id``, ``z_start``, ``z_stop`` and a hash of what a spectrum and its search window are."""
    content = F.xxhash64("path", "z_qso", "snr", "z_start", "z_stop")
    found = _published(spark, side, SIGHTLINES).select("spectrum_id", "z_start", "z_stop", content.alias("data"))
    return found.dropDuplicates(["spectrum_id"])


def _values(before: str | None, after: str | None) -> list[Expression]:
    """The columns of CHANGES that come from either side; null where there is none."""
    sides = {"before": before, "after": after}
    fields = {"absorber_id": "id", "z": "z_abs", "ew": "ew", "score": "score"}
    return [
        (F.col(f"{place}.{short}") if place else F.lit(None).cast("string" if short == "id" else "double")).alias(f"{name}_{side}")
        for name, short in fields.items()
        for side, place in sides.items()
    ]


def _paired(pairs: DataFrame, before: DataFrame, after: DataFrame) -> DataFrame:
    # Null where an earlier version searched: that says nothing of what was measured.
    other_continuum = F.coalesce(F.col("before.continuum_flux") != F.col("after.continuum_flux"), F.lit(False))
    changed = pairs.where((F.col("before.content") != F.col("after.content")) | other_continuum)
    old, new = (frame.select("spectrum_id", F.col("data").alias(name)) for frame, name in ((before, "data_before"), (after, "data_after")))
    known = changed.join(old, "spectrum_id").join(new, "spectrum_id")
    moved = F.col("before.z_abs") != F.col("after.z_abs")
    same = F.col("data_before") == F.col("data_after")
    return known.select(
        "spectrum_id",
        F.when(moved, "moved").otherwise("remeasured").alias("change"),
        F.when(same, "same_spectrum").otherwise("other_spectrum").alias("reason"),
        F.lit("").alias("detail"),
        *_values("before", "after"),
    )


def _unpaired(spark: SparkSession, rows: DataFrame, change: str, other: Result) -> DataFrame:
    """Absorbers that the other catalogue lacks, with what it knows of them."""
    sightlines = _sightlines(spark, other).withColumn("known", F.lit(True)).drop("data")
    rejected = _published(spark, other, REJECTIONS).where(F.col("spectrum_id").isNotNull())
    rejected = rejected.groupBy("spectrum_id").agg(F.min(F.concat_ws(": ", "stage", "detail")).alias("rejection"))
    found = rows.join(sightlines, "spectrum_id", "left").join(rejected, "spectrum_id", "left")
    found = found.join(_verdicts(spark, rows, other), "id", "left")
    z = F.col("z_abs")
    searched = F.exists(F.arrays_zip("z_start", "z_stop"), lambda ends: (ends["z_start"] <= z) & (z <= ends["z_stop"]))
    reason = (
        F.when(F.col("known").isNull() & F.col("rejection").isNotNull(), "spectrum_rejected")
        .when(F.col("known").isNull(), "spectrum_absent")
        .when(F.col("verdict").isNotNull(), F.col("verdict"))
        .when(~searched, "not_searched")  # asked last: a fit may end a pixel outside the path in which it was found
        .otherwise("no_candidate" if other.manifest.parts("measured") else "unknown")
    )
    detail = F.when(F.col("reason") == "spectrum_rejected", F.col("rejection"))
    described = found.select("spectrum_id", reason.alias("reason"), "rejection", F.struct(*rows.columns).alias("row"))
    sides = ("row", None) if change == "lost" else (None, "row")
    return described.select(
        "spectrum_id", F.lit(change).alias("change"), "reason", F.coalesce(detail, F.lit("")).alias("detail"), *_values(*sides)
    )


def _verdicts(spark: SparkSession, rows: DataFrame, other: Result) -> DataFrame:
    """``id`` → ``verdict``: ``low_score`` where the other result had a candidate there that it did not publish."""
    store = Store(other.root)
    measured = store.read(spark, other.manifest, measured_table(other.species)).where(~F.coalesce("accepted", F.lit(False)))
    there = measured.select("spectrum_id", F.col("z_abs").alias("z_there"))
    here = rows.select("spectrum_id", F.struct(*rows.columns).alias("row"))
    near = _one_system(here.join(there, "spectrum_id"), "row", "z_there").select(F.col("row.id").alias("id"))
    # What the network rules out is not measured at all, and has a score only.
    scored = store.read(spark, other.manifest, SCORES).select(F.col("candidate_id").alias("id"))
    known = near.unionByName(rows.select("id").join(scored, "id", "semi")).distinct()
    return known.withColumn("verdict", F.lit("low_score"))

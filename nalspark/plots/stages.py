"""Publishing: the catalogue's files, and the report's numbers gathered in Spark. Only counts and a handful of rows reach the driver."""

from __future__ import annotations

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.absorption.measure import AbsorberFlag, Veto
from nalspark.absorption.stages import measured_table, sightlines
from nalspark.settings import Settings
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.manifest import Manifest
from nalspark.tables.publish import write_fits
from nalspark.tables.schemas import CANDIDATES, MATCHES, NORMALIZED, REJECTIONS, SIGHTLINES, TARGETS, absorbers_table
from nalspark.tables.store import Store


def all_rejections(spectra: DataFrame, targets: DataFrame, normalized: DataFrame) -> DataFrame:
    """One row per file or spectrum that is not searched, with the stage that rejected it."""
    names = [name for name in REJECTIONS.names if name != "stage"]
    paths = targets.where(F.col("reason").isNull()).select("spectrum_id", "path")
    parts = {"ingest": spectra, "crossmatch": targets, "preprocess": normalized.join(paths, "spectrum_id")}
    frames = [frame.where(F.col("reason").isNotNull()).select(*names).withColumn("stage", F.lit(stage)) for stage, frame in parts.items()]
    return frames[0].unionByName(frames[1]).unionByName(frames[2]).select(*REJECTIONS.names)


def _write(store: Store, frame: DataFrame, name: str, *order: str) -> int:
    """Write a published table beside the old one, then put it in its place; returns its rows."""
    new = store.published(f".{name}.new")
    frame.orderBy(*order).write.mode("overwrite").parquet(str(new))
    store.replace(name, new)
    return frame.sparkSession.read.parquet(str(store.published(name))).count()


def publish(spark: SparkSession, store: Store, manifest: Manifest, settings: Settings) -> dict[str, int]:
    """Write the catalogue.

    Returns
    -------
    dict
        Published file → number of its rows.
    """
    species = settings.line_species
    catalogue = absorbers_table(species)
    targets, normalized = (store.read(spark, manifest, table) for table in (TARGETS, NORMALIZED))
    measured = store.read(spark, manifest, measured_table(settings))
    usable = [frame.where(F.col("reason").isNull()) for frame in (targets, normalized)]
    absorbers = measured.where(F.col("veto") == 0).select(*catalogue.names)
    spectra = store.read(spark, manifest, SPECTRA_READ)
    searched = sightlines(*usable, absorbers, store.read(spark, manifest, MATCHES)).select(*SIGHTLINES.names)
    rows = {
        "absorbers.parquet": _write(store, absorbers, "absorbers.parquet", "spectrum_id", "z_abs"),
        "sightlines.parquet": _write(store, searched, "sightlines.parquet", "spectrum_id"),
        "rejections.parquet": _write(store, all_rejections(spectra, targets, normalized), "rejections.parquet", "path"),
    }
    new = store.published(".absorbers.fits.new")
    rows["absorbers.fits"] = write_fits(store.published("absorbers.parquet"), catalogue, new, {"flags": AbsorberFlag})
    store.replace("absorbers.fits", new)
    return rows

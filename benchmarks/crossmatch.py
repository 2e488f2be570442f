"""Sky matching: ours on Spark against astropy's match_to_catalog_sky, on the same two synthetic skies, and the real catalogues.

Run: ``python benchmarks/crossmatch.py [--rows 1000000] [--radius 1.0]``. Every answer is compared; a difference ends the run.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units as u
from astropy.coordinates import SkyCoord
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.session import spark_session
from nalspark.surveys.catalogs import open_catalog, read_rows
from nalspark.surveys.crossmatch import sky
from nalspark.surveys.crossmatch.stages import catalog_frame, match_by_id, match_on_sky


def two_skies(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two skies, shape (rows, 2) in deg: half of the second are the first's positions moved by about 0.5″, the rest are unrelated.

    A fiftieth of each lies within 20″ of a pole and as much within 20″ of the meridian where right ascension wraps.
    """
    rng = np.random.default_rng(seed)

    def sky_of(n: int) -> np.ndarray:
        ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
        patch = n // 50
        dec[:patch] = np.sign(rng.uniform(-1, 1, patch)) * (90 - 20 / 3600 * np.sqrt(rng.uniform(0, 1, patch)))
        ra[patch : 2 * patch] = rng.uniform(-20, 20, patch) / 3600 % 360
        return np.stack([ra, dec], axis=1)

    left, right = sky_of(rows), sky_of(rows)
    moved = rng.permutation(rows)[: rows // 2]
    vectors = sky.unit_vectors(*left[moved].T) + rng.normal(0, np.radians(0.5 / 3600) / np.sqrt(2), (len(moved), 3))
    ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 360
    dec = np.degrees(np.arctan2(vectors[:, 2], np.hypot(vectors[:, 0], vectors[:, 1])))
    right[rows // 2 : rows // 2 + len(moved)] = np.stack([ra, dec], axis=1)
    return left, right[rng.permutation(rows)]


def by_astropy(left: np.ndarray, right: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left indices, right indices and separations (arcsec) of the matches."""
    index, separation, _ = SkyCoord(*left.T * u.deg).match_to_catalog_sky(SkyCoord(*right.T * u.deg))
    near = np.flatnonzero(separation.arcsec <= radius)
    return near, index[near], separation.arcsec[near]


def parquet_of(folder: Path, name: str, positions: np.ndarray, key: str) -> str:
    """Positions as Parquet files, as a survey would have them: Spark reads them as the matching runs."""
    (folder / name).mkdir()
    for piece, rows in enumerate(np.array_split(np.arange(len(positions)), 8)):
        table = pa.table({key: rows.astype(np.int64), "ra": positions[rows, 0], "dec": positions[rows, 1]})
        pq.write_table(table, folder / name / f"{piece}.parquet")
    return str(folder / name)


def best_of(times: int, frame: DataFrame) -> float:
    """Seconds for Spark to compute all of a frame and drop it, the best of some runs."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        frame.write.format("noop").mode("overwrite").save()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def compare(spark: SparkSession, rows: int, radius: float, times: int) -> tuple[float, float]:
    """Seconds of ours and of astropy's for one size, after their answers were found equal."""
    left, right = two_skies(rows)
    with tempfile.TemporaryDirectory(prefix="nalspark-benchmark-") as name:
        folder = Path(name)
        ours = spark.read.parquet(parquet_of(folder, "left", left, "left_id"))
        theirs = spark.read.parquet(parquet_of(folder, "right", right, "row")).withColumn("catalogue", F.lit(0))
        matched = match_on_sky(ours, theirs, radius)
        answer = matched.toPandas().sort_values("left_id")
        seconds = best_of(times, matched)
    astropy_seconds = np.inf
    for _ in range(times):
        start = time.perf_counter()
        expected = by_astropy(left, right, radius)
        astropy_seconds = min(astropy_seconds, time.perf_counter() - start)
    assert np.array_equal(answer["left_id"], expected[0]), "not the same positions have a match"
    assert np.array_equal(answer["right_row"], expected[1]), "a different row was matched"
    worst = np.abs(answer["separation_arcsec"].to_numpy() - expected[2]).max()
    assert worst < 1e-6, f"separations differ by up to {worst} arcsec"
    print(f"{rows:>10,} x {rows:,}: {len(answer):,} matches, equal to astropy's (separations to {worst:.1e} arcsec)")
    print(f"{'':>10} nalspark {seconds:7.2f} s   astropy {astropy_seconds:7.2f} s   ratio {seconds / astropy_seconds:.2f}")
    return seconds, float(astropy_seconds)


def real_catalogues(spark: SparkSession, folder: Path, radius: float, converted: str) -> None:
    """The absorber catalogues of two data releases against each other and against a list of quasars, by id and on the sky."""
    dr7, dr12 = (open_catalog(folder / f"Raghunathan2016_MgII_{name}.fits", "absorbers") for name in ("DR7", "DR12"))
    quasars = open_catalog(folder / "brodzeller2023_sdss_qso_pmf_z.npz", "quasars")
    frames = {one.name: catalog_frame(spark, one, converted).withColumn("catalogue", F.lit(0)) for one in (dr7, dr12, quasars)}
    for one, other in ((dr7, dr12), (dr7, quasars), (dr12, quasars)):
        left = frames[one.name].withColumnRenamed("row", "left_id")
        by_id = match_by_id(left, frames[other.name]).count()
        on_sky = match_on_sky(left, frames[other.name], radius).count()
        a, b = (pd.concat(map(pd.DataFrame, read_rows(catalog)), ignore_index=True) for catalog in (one, other))
        known = {key for key in zip(b["plate"], b["mjd"], b["fiber"], strict=True) if min(key) > 0}
        assert by_id == sum(key in known for key in zip(a["plate"], a["mjd"], a["fiber"], strict=True))
        expected = 0
        if sky.is_position(b["ra"], b["dec"]).any():
            expected = len(by_astropy(np.stack([a["ra"], a["dec"]], 1), np.stack([b["ra"], b["dec"]], 1), radius)[0])
        assert on_sky == expected
        print(f"{one.name} ({one.n_rows:,} rows) x {other.name} ({other.n_rows:,}): {by_id:,} by id, {on_sky:,} on the sky")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--radius", type=float, default=1.0, help="arcsec")
    parser.add_argument("--times", type=int, default=2, help="runs of each, of which the best counts")
    options = parser.parse_args()
    spark = spark_session("local[2]", "nalspark-benchmark-crossmatch")
    compare(spark, 10_000, options.radius, 1)  # starts the Python workers
    tenth, _ = compare(spark, options.rows // 10, options.radius, options.times)
    seconds, _ = compare(spark, options.rows, options.radius, options.times)
    print(f"{'':>10} ten times the rows take {seconds / tenth:.1f} times as long")
    data = Path(os.environ.get("NALSPARK_DATA", Path(__file__).parents[2] / "shared" / "data")) / "catalogs"
    if data.is_dir():
        with tempfile.TemporaryDirectory(prefix="nalspark-benchmark-") as converted:
            real_catalogues(spark, data, options.radius, converted)
    else:
        print(f"no real catalogues in {data}; set NALSPARK_DATA to the folder that has them")
    print(f"peak memory of the driver's Python: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    spark.stop()


if __name__ == "__main__":
    main()

"""Small surveys, whole runs and their comparison, for the tests of the pipeline, the jobs, the command line and the cluster."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from astropy.io import fits

from nalspark.mocks.survey import simulate_survey
from nalspark.pipeline.catalogue import CATALOGUE, pipeline
from nalspark.progress import Progress
from nalspark.settings import Settings, load
from nalspark.surroundings import prepare
from nalspark.tables.table import Table

#: Ids by which the rows of the published tables are put in order.
PUBLISHED = {"absorbers": "absorber_id", "sightlines": "spectrum_id", "rejections": "path"}
#: The pictures and the histograms' drawing are the report's own tests; without a gallery a run is seconds shorter.
QUICK = ("ingest.plates_per_part=1", "publish.gallery=0")


def make_survey(folder: Path, n: int = 40, per_part: int = 8, seed: int = 3) -> Path:
    """A simulated survey in ``folder/parts/<plate>/``, `per_part` files in each of them; one file is compressed, one is no spectrum.

    The plates of the file names are not those in the files: a part follows from the name, a spectrum from the content.
    """
    simulate_survey(folder, n, seed)
    for number, file in enumerate(sorted((folder / "spectra").rglob("spec-*.fits"))):
        plate = 1001 + number // per_part
        new = folder / "parts" / str(plate) / f"spec-{plate}-52000-{number:04d}.fits"
        new.parent.mkdir(parents=True, exist_ok=True)
        file.rename(new)
        if number == 0:
            (new.parent / f"{new.name}.gz").write_bytes(gzip.compress(new.read_bytes(), 1))
            new.unlink()
    (folder / "parts" / "1001" / "spec-1001-52000-9999.fits").write_text("no spectrum\n" * 300)
    return folder


def add_part(folder: Path, plate: int, n: int, seed: int) -> Path:
    """A folder of `n` more spectra, a part of their own: simulated ids are the same for every seed, so theirs get another plate."""
    simulate_survey(folder, n, seed)
    new = folder / "parts" / str(plate)
    new.mkdir(parents=True)
    for number, file in enumerate(sorted((folder / "spectra").rglob("spec-*.fits"))):
        with fits.open(file) as hdus:
            hdus[0].header["PLATEID"] += 1100
            hdus[2].data["PLATE"] += 1100
            hdus.writeto(new / f"spec-{plate}-52000-{number:04d}.fits")
    return new


def settings_of(survey: Path, out: Path, *overrides: str, **values: Any) -> Settings:
    """Settings of a run over a survey of :func:`make_survey`."""
    given: dict[str, Any] = {"spectra": [str(survey / "parts")], "quasars": [str(survey / "quasars.fits")], "out": str(out)}
    return load(overrides=[*QUICK, *overrides], **(given | values))


def run(spark: Any, settings: Settings, *stages: str, **how: Any) -> dict[str, int]:
    """Bring a result up to date; returns stage → parts that were made anew."""
    summaries = pipeline(spark, settings, Progress(None)).run(stages or CATALOGUE, **how)
    return {summary.stage: summary.parts_done for summary in summaries}


def spark_frame(spark: Any, batch: pa.RecordBatch, table: Table) -> Any:
    """A batch as a frame: Spark 3.5 takes no Arrow table."""
    return spark.createDataFrame([tuple(row.values()) for row in batch.to_pylist()], table.spark_schema)


def published(out: Path) -> dict[str, pd.DataFrame]:
    """The published tables, rows in the order of their ids, lists as tuples."""
    tables = {}
    for name, key in PUBLISHED.items():
        table = pd.read_parquet(out / f"{name}.parquet").sort_values([key, *(["spectrum_id"] if key == "path" else [])], ignore_index=True)
        tables[name] = table.map(lambda cell: tuple(cell) if isinstance(cell, np.ndarray) else cell)
    return tables


def assert_same_catalogue(left: Path, right: Path) -> None:
    """The published tables of two results are equal to the last bit."""
    ours, theirs = published(left), published(right)
    for name in PUBLISHED:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)
    assert (left / "absorbers.fits").read_bytes() == (right / "absorbers.fits").read_bytes()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder: its size and the time of its last change."""
    status = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}


#: Sessions of the tests are short, and several: the JVMs' second compiler costs more than it saves.
_JVM_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that starts a Spark session of its own."""
    scripts = str(Path(sys.executable).parent)
    own = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    own |= {"JDK_JAVA_OPTIONS": _JVM_OPTIONS}
    kept = {key: value for key, value in os.environ.items() if key not in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET")}
    java = {name: value for name, value in prepare(local=True).variables.items() if name in ("JAVA_HOME", "NALSPARK_JAVA") and value}
    return kept | java | own | {"PATH": scripts + os.pathsep + os.environ.get("PATH", ""), "PYTHONIOENCODING": "utf-8"} | more


#: Seconds after which a process that a test started is taken for hung: on a busy machine it takes many times what it needs.
PATIENCE = 800
COMMAND = (sys.executable, "-m", "nalspark")


def nalspark(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=PATIENCE, check=False, errors="replace")

"""From spectra to scored candidates: spectra per second in arrays, and under Spark from Parquet.

    python benchmarks/inference.py [--n 24576] [--cores 2] [--model DIR]

The spectra are artificial, with absorbers as frequent as Zhu & Ménard (2013) find them and an interloper in every tenth. "Arrays": they are
normalized before; one process for each core, with one thread each, all at work between the same two barriers. "Spark": the table SPECTRA as
the pipeline writes it, normalized, searched and scored in one plan, whose scores are summed. Beside it the same columns merely decoded,
which no detector under Spark can be faster than. The two ways must agree in the sum of the scores. The network is numpy's; with
CUDA_VISIBLE_DEVICES=0 it is TensorFlow's, on a processor where there is no GPU.

CPU time is that of all processes, by kind. With it the rate of an idle machine can be told on a busy one: 10⁶ · cores / µs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chain import descendants, kind_of
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.absorption import stages
from nalspark.absorption.chain import PIXELS, Searchable, prepare, propose
from nalspark.learning.inference import prepare_worker, score
from nalspark.learning.models import read_model
from nalspark.mocks.recipes import Mocks, Recipe, make_mocks
from nalspark.mocks.stages import REALISTIC
from nalspark.session import spark_session
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.tables.arrow import Columns, encode, map_arrays, rows_of
from nalspark.tables.schemas import CANDIDATES, SEARCHED, SPECTRA, TARGETS
from nalspark.tables.store import Store
from nalspark.tables.table import Column, Table

#: Spectra of a batch, as Spark hands them over.
BATCH = 256
PART = "1"
COUNTED = Table("counted", "Rows of each batch.", (Column("rows", "long", "Rows"),))


def made(start: int, stop: int) -> list[tuple[list[str], Mocks]]:
    """The artificial spectra of some numbers with their names, in batches."""
    recipe = Recipe(Settings().line_species, (REALISTIC,), seed=7, contaminated=0.1)
    batches = []
    for first in range(start, stop, BATCH):
        names = [f"bench-{number}" for number in range(first, min(first + BATCH, stop))]
        batches.append((names, make_mocks(names, recipe)))
    return batches


def searchable(mocks: Mocks, settings: Settings) -> Searchable:
    return Searchable.of(prepare(mocks.spectra, mocks.z_qso, settings), mocks.z_qso)


def as_columns(names: list[str], mocks: Mocks) -> Columns:
    """A batch as rows of SPECTRA, and of TARGETS."""
    spectra, n = mocks.spectra, len(names)
    pixels = {"flux": spectra.flux, "ivar": spectra.ivar, "mask": spectra.mask, "first_pixel": np.full(n, LATTICE.first)}
    return {"spectrum_id": names, "path": names, "part": [PART] * n, "z_qso": mocks.z_qso, **pixels}


# ---- arrays


def in_arrays(numbers: tuple[int, int], model: str, passes: int, folder: Path, barrier: Any, results: Any) -> None:
    """One process: make spectra, write them to Parquet, warm up, and search and score them as often as asked for."""
    prepare_worker()
    settings, mocks = Settings(), made(*numbers)
    for table in (SPECTRA, TARGETS):
        rows = pa.Table.from_batches([encode(as_columns(*batch), table) for batch in mocks])
        pq.write_table(rows, folder / f"{table.name}-{numbers[0]}.parquet", row_group_size=BATCH)
    batches = [searchable(some, settings) for _, some in mocks]
    detector = read_model(model).load(settings.infer.batch_size)
    search_and_score(batches[:2], detector.predict, settings)
    for _ in range(passes):
        barrier.wait()
        results.put((sum(len(batch.row) for batch in batches), *search_and_score(batches, detector.predict, settings)))
        barrier.wait()


def search_and_score(
    batches: list[Searchable], predict: Callable[[np.ndarray], np.ndarray], settings: Settings
) -> tuple[int, float, np.ndarray]:
    """Number of candidates, sum of their scores, CPU seconds of the search, of stacking the images and of the network."""
    candidates, total, seconds = 0, 0.0, np.zeros(3)
    for batch in batches:
        ticks = [time.process_time()]
        found = propose(batch, settings)
        ticks.append(time.process_time())
        examples = found.images
        ticks.append(time.process_time())
        scores = predict(examples)
        seconds += np.diff([*ticks, time.process_time()])
        candidates, total = candidates + len(scores), total + float(scores.sum(dtype=float))
    return candidates, total, seconds


def measure_arrays(options: argparse.Namespace, folder: Path) -> tuple[int, int, float]:
    """Print the rate in arrays; number of spectra and candidates, sum of the scores. Leaves the spectra in `folder`."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(options.cores + 1), context.Queue()
    edges = np.linspace(0, options.n, options.cores + 1).astype(int).tolist()
    workers = [
        context.Process(target=in_arrays, args=((start, stop), options.model, options.passes, folder, barrier, results))
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]
    for worker in workers:
        worker.start()
    rates, costs = [], []
    for _ in range(options.passes):
        barrier.wait()
        started = time.perf_counter()
        barrier.wait()
        taken = time.perf_counter() - started
        n, candidates, total, seconds = (sum(part) for part in zip(*[results.get() for _ in workers], strict=True))
        rates.append(n / taken)
        costs.append(1e6 * seconds / n)
    for worker in workers:
        worker.join()
    search, stack, network = np.median(costs, axis=0)
    print(f"{n} spectra, {candidates / n:.2f} candidates each")
    cost = f"search {search:.0f}, images {stack:.0f}, network {network:.0f}"
    print(f"arrays, {options.cores} processes:    {told(rates)}; CPU µs per spectrum: {cost}")
    return n, candidates, total


# ---- Spark


def cpu_seconds() -> dict[str, float]:
    """CPU time so far of this process and all below it, by kind."""
    used: dict[str, float] = {}
    for pid in descendants(os.getpid()):
        kind = kind_of(pid, os.getpid())
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        used[kind] = used.get(kind, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def count_rows(columns: Columns) -> Columns:
    """Rows of a batch that is decoded and not looked at."""
    return {"rows": np.array([len(columns["path"])])}


def measure_spark(options: argparse.Namespace, folder: Path) -> tuple[int, int, float]:
    """Print the rates under Spark; number of spectra and candidates, sum of the scores."""
    settings, packed = Settings(), read_model(options.model)
    spark = spark_session(f"local[{options.cores}]", "inference")
    store = Store(folder / "store")
    written = spark.read.schema(SPECTRA.spark_schema).parquet(str(folder / f"{SPECTRA.name}-*.parquet")).repartition(2 * options.cores)
    place = store.root / store.write(written, SPECTRA, "run", {PART: ""})[PART].path
    targets = spark.read.schema(TARGETS.spark_schema).parquet(str(folder / f"{TARGETS.name}-*.parquet"))

    def table() -> DataFrame:
        return store.load(spark, SPECTRA.spark_schema, place)

    def decoded() -> Any:
        return map_arrays(table().select("path", *PIXELS), count_rows, SPECTRA, COUNTED).agg(F.sum("rows")).first()

    def found() -> DataFrame:
        return stages.search(table(), targets, settings)

    def scored() -> Any:
        return score(rows_of(found(), CANDIDATES), packed, settings.infer).agg(F.count("*"), F.sum("score")).first()

    n = rows_of(found(), SEARCHED).where("reason IS NULL").count()
    for name, query in (("only decoded", decoded), ("scored", scored)):
        rates, costs = [], []
        for number in range(options.warm_up + options.passes):
            before, started = cpu_seconds(), time.perf_counter()
            result = query()
            taken = time.perf_counter() - started
            if number >= options.warm_up:
                rates.append(n / taken)
                costs.append({kind: 1e6 * (used - before.get(kind, 0.0)) / n for kind, used in cpu_seconds().items()})
        cost = ", ".join(f"{kind} {median(each.get(kind, 0.0) for each in costs):.0f}" for kind in costs[-1])
        print(f"Spark, {name + ':':<16} {told(rates)}; CPU µs per spectrum: {cost}")
    spark.stop()
    return n, result[0], result[1]


def told(rates: list[float]) -> str:
    return f"{median(rates):,.0f} spectra/s (passes {min(rates):,.0f} to {max(rates):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=24_576, help="spectra; of few, the fixed costs of a pass are seen")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", default="", help="directory of a model; the one that ships with nalspark by default")
    parser.add_argument("--warm-up", type=int, default=6, help="passes under Spark before")
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        arrays = measure_arrays(options, Path(folder))
        spark = measure_spark(options, Path(folder))
    if arrays[:2] != spark[:2] or not np.isclose(arrays[2], spark[2], rtol=1e-9):
        raise SystemExit(f"Spark and arrays differ in spectra, candidates or scores: {arrays} and {spark}")
    print(f"load {os.getloadavg()[0]:.1f} at the end; Spark and arrays agree: {spark[1]} candidates, sum of scores {spark[2]:.3f}")


if __name__ == "__main__":
    main()

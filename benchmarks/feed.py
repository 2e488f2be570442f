"""What the feed promises, measured: every row in every epoch on a busy machine, at what speed; and two Spark workers against one process.

    python benchmarks/feed.py [--epochs 200] [--rows 8000] [--hogs 4] [--no-workers]

Epochs are read first as the machine is, then while processes that do nothing but compute keep all cores busy. The rows of each epoch are
counted at the end of the whole chain, batches of tensors; each epoch takes turns with a plain reading of the same files by pyarrow, so that
a busy machine slows both, and the ratios are medians. Then petastorm reads as often without the guard, to show what it is for.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nalspark.errors import FeedError
from nalspark.learning import feed as feeding
from nalspark.learning.training import fit_on_spark, train_members
from nalspark.session import spark_session
from nalspark.settings import Train

COLUMNS, SHAPE = ("image_residual", "image_inverse_error"), (8, 49)
#: Relative difference of the lowest validation losses that counts as the same.
TOLERANCE = 0.05


def make_feed(folder: Path, rows: int, files: int = 4, group: int = 250, seed: int = 0) -> feeding.Feed:
    """A training table as Spark lays it out: half of the images hold a doublet of 0 to 4 σ a pixel."""
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.5).astype("f4")
    residual = rng.normal(0, 0.1, (rows, *SHAPE)).astype("<f4")
    residual[label == 1, :2, 23:26] += rng.uniform(0, 0.4, (int(label.sum()), 1, 1))
    inverse, draw = np.full((rows, *SHAPE), 10, "<f4"), rng.random(rows)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        images = {name: [values[i].tobytes() for i in part] for name, values in zip(COLUMNS, (residual, inverse), strict=True)}
        path = folder / f"in_part={number}" / "part-0.zstd.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({**images, "label": label[part], "draw": draw[part]}), path, row_group_size=group, compression="zstd")
    return feeding.Feed(tuple(sorted(map(str, Path(folder).rglob("*.parquet")))), COLUMNS, SHAPE)


@contextmanager
def busy(hogs: int) -> Iterator[None]:
    """All cores at work on something else."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(hogs)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def read_plainly(feed: feeding.Feed, decode: bool) -> int:
    """The floor: pyarrow reads the same columns; and, asked to, makes arrays of them."""
    rows = 0
    for path in feed.files:
        table = pq.read_table(path, columns=[*COLUMNS, "label"], partitioning=None)
        rows += table.num_rows
        if decode:
            np.stack([np.frombuffer(b"".join(table[name].to_pylist()), "<f4").reshape(-1, *SHAPE) for name in COLUMNS], axis=-1)
    return rows


def guarded(feed: feeding.Feed, epochs: int) -> None:
    """Count the rows of every epoch, and how often the guard had something to wait for."""
    waited, counts, ratios = [], Counter[int](), {"reading": [], "reading and decoding": []}
    rates, hand_out = [], feeding._hand_out

    def noting(reader: Any) -> None:
        waited.append(not reader.ventilator.completed())
        hand_out(reader)

    with patch.object(feeding, "_hand_out", noting):
        for seed in range(epochs):
            start = time.perf_counter()
            counts[sum(int((y != feeding.PADDING).numpy().sum()) for _, y in feed.epoch(256, seed=seed))] += 1
            taken = time.perf_counter() - start
            rates.append(feed.rows() / taken)
            for name, decode in (("reading", False), ("reading and decoding", True)):
                start = time.perf_counter()
                read_plainly(feed, decode)
                ratios[name].append((time.perf_counter() - start) / taken)
    print(f"rows of an epoch → epochs: {dict(counts)}; the footers promise {feed.rows()}")
    print(f"epochs in which the guard waited for row groups to be handed out: {sum(waited)} of {epochs}")
    print(f"feed: {statistics.median(rates):,.0f} rows/s, shuffled, decoded, in batches of 256")
    for name, values in ratios.items():
        print(f"feed / pyarrow {name}: {statistics.median(values):.2f}   (from {min(values):.2f} to {max(values):.2f})")


def unguarded(feed: feeding.Feed, epochs: int) -> None:
    """The same reader without the guard: epochs that lost rows, and other orders of the rows for the same seed."""
    lost, orders = 0, Counter[bytes]()
    with patch.object(feeding, "_hand_out", lambda reader: None):
        for _ in range(epochs):
            try:
                orders[b"".join(group[0][0] for group in feed._read(1, 0, 1, None))] += 1
            except FeedError:
                lost += 1
    print(f"without the guard: {lost} of {epochs} epochs lost rows; {len(orders)} orders of the row groups for one seed")


def workers(folder: Path) -> None:
    """The lowest validation loss of two barrier workers and of one process, at the same global batch."""
    train, validation = make_feed(folder / "train", 4000, seed=1), make_feed(folder / "validation", 2000, seed=2)
    settings = Train(members=1, epochs=8, batch_size=256, workers=2, learning_rate=0.002)
    spark = spark_session("local[2]", "feed", {"spark.python.worker.reuse": "false"})
    try:
        ((_, two),) = fit_on_spark(spark, train, validation, settings, checkpoints=folder / "two")
    finally:
        spark.stop()
    ((_, one),) = train_members(train, validation, settings, checkpoints=folder / "one")
    ((_, other),) = train_members(train, validation, settings.model_copy(update={"seed": 2}), checkpoints=folder / "other")
    losses = {"two workers": two, "one process": one, "one process, another seed": other}
    for name, history in losses.items():
        print(f"{name:<26} validation losses " + " ".join(f"{loss:.4f}" for loss in history["validation_loss"]))
    difference = min(two["validation_loss"]) / min(one["validation_loss"]) - 1
    print(f"lowest, two workers over one: {difference:+.2%}; within {TOLERANCE:.0%}: {abs(difference) <= TOLERANCE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--hogs", type=int, default=4)
    parser.add_argument("--no-workers", action="store_true", help="leave out the comparison of two Spark workers with one process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        feed = make_feed(Path(folder) / "table", options.rows)
        print(f"{options.rows} rows of 2 x {4 * 8 * 49} bytes in {len(feed._sizes)} row groups, as the machine is")
        guarded(feed, max(5, options.epochs // 10))
        print(f"\nthe same beside {options.hogs} busy processes")
        with busy(options.hogs):
            guarded(feed, options.epochs)
            unguarded(feed, options.epochs)
        if not options.no_workers:
            print()
            workers(Path(folder))


if __name__ == "__main__":
    main()

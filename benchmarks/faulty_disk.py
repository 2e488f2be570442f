"""Disks that fail under a run: errors of the file system for a source, or for the result, and whether a row is wrong or lost.

    python benchmarks/faulty_disk.py --n 20            # needs gcc and Linux

A library put before the system's own (faulty_disk.c) answers calls on chosen paths with ENOENT, EACCES, EIO, ESTALE or ENOSPC, or with
fewer bytes than asked for, in Java and in Python. One session; every trial is two runs into the result of the trial before, or a new one:

* of a source: in the first run each row of another file must be as it always is, the row of the file too, or rejected with a reason that
  may pass; the second, without the fault and without `--force`, must give the undisturbed table;
* of the result: the first run ends with an error, or well; the second must give the undisturbed table.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from runs import environment, make_survey, run, settings_of

from nalspark.errors import MAY_PASS, NalsparkError
from nalspark.session import spark_session
from nalspark.settings import Settings
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.store import Store

_OF_SOURCES = [(call, number) for call in ("open", "read", "stat") for number in ("ENOENT", "EACCES", "EIO", "ESTALE")] + [("short", "EIO")]
_OF_RESULTS = [
    *((call, number) for call in ("open", "write", "mkdir") for number in ("EACCES", "EIO", "ENOSPC")), ("rename", "EIO"),
    ("rename", "EACCES"), ("fsync", "EIO"), ("read", "EIO"), ("short", "EIO"),
]  # fmt: skip
#: Pieces of the paths of a result.
_PLACES = ("/tables/spectra/", "/tables/files/", "manifest.json", ".parquet", "_temporary", "/out")


@contextmanager
def faulty(call: str, number: str, skip: int, text: str) -> Iterator[None]:
    plan = Path(os.environ["FAULTY_PLAN"])
    new = plan.with_suffix(".new")
    new.write_text(f"{call} {getattr(errno, number)} {skip} {text}")
    new.replace(plan)
    try:
        yield
    finally:
        plan.unlink()


def rows_of(spark: object, settings: Settings) -> pd.DataFrame:
    store = Store(settings.out)
    rows = store.read(spark, store.manifest(), SPECTRA_READ).toPandas()  # type: ignore[arg-type]
    return rows.sort_values("path", ignore_index=True).drop(columns="detail")


def of_source(spark: object, settings: Settings, whole: pd.DataFrame, chance: random.Random) -> str:
    """What is wrong; empty where nothing is."""
    call, number = chance.choice(_OF_SOURCES)
    path = chance.choice(whole["path"].tolist())
    with faulty(call, number, chance.choice([0, 0, 1, 2, 5]), Path(path).name):
        run(spark, settings, "ingest", force=True)
    found, other = rows_of(spark, settings), whole["path"] != path
    reason = found.loc[found["path"] == path, "reason"].tolist()
    print(f"  {call} {number} of {Path(path).name}: {'read whole' if pd.isna(reason[0]) else reason[0]}", end="", flush=True)
    if not found[other].equals(whole[other]):
        return "rows of other files differ"
    if reason[0] not in MAY_PASS and not found.equals(whole):
        return f"the row of the file is another, reason {reason[0]}"
    again = run(spark, settings, "ingest")["ingest"]
    print(f"; then {again} part(s) anew", end="")
    return "" if rows_of(spark, settings).equals(whole) else "the next run does not mend it"


def of_result(spark: object, settings: Settings, whole: pd.DataFrame, chance: random.Random) -> str:
    call, number = chance.choice(_OF_RESULTS)
    place = chance.choice(_PLACES)
    with faulty(call, number, chance.choice([0, 1, 3, 10]), place if place != "/out" else str(settings.out)):
        try:
            run(spark, settings, "ingest", force=True)
            end = "no error"
        except NalsparkError as error:
            end = f"a sentence: {str(error).splitlines()[0][:150]}"
        except Exception as error:
            end = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    print(f"  {call} {number} in {place}: {end}", end="", flush=True)
    run(spark, settings, "ingest")
    return "" if rows_of(spark, settings).equals(whole) else "the next run does not mend it"


def trials(n: int, seed: int, folder: Path) -> int:
    chance, wrong = random.Random(seed), 0
    survey = make_survey(folder / "survey", 24, per_part=8)
    spark = spark_session("local[2]", "faulty_disk", {"spark.sql.shuffle.partitions": "2", "spark.task.maxFailures": "1"})
    spark.sparkContext.setLogLevel("OFF")  # of faults that are put there on purpose
    settings = settings_of(survey, folder / "out")
    run(spark, settings, "ingest")
    whole = rows_of(spark, settings)
    for number in range(n):
        print(f"{number + 1:>3}", end="", flush=True)
        fault = (of_source, of_result)[number % 2](spark, settings, whole, chance)
        wrong += bool(fault)
        print(f"{'   WRONG: ' if fault else ''}{fault}", flush=True)
    spark.stop()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20, help="trials")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if "FAULTY_PLAN" not in os.environ:  # once more, with the library before the system's own
        with tempfile.TemporaryDirectory() as scratch:
            library, source = Path(scratch) / "faulty.so", Path(__file__).with_suffix(".c")
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-w", "-o", library, source, "-ldl"], check=True)
            own = environment(LD_PRELOAD=str(library), FAULTY_PLAN=str(Path(scratch) / "plan"), PYTHONWARNINGS="ignore")
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=own, check=False).returncode)
    with tempfile.TemporaryDirectory() as scratch:
        wrong = trials(options.n, options.seed, Path(scratch))
    print(f"{options.n} trials, {wrong} wrong")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()

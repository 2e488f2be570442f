"""What a reprocess costs: after ten per cent new files, and with nothing new; seconds and CPU seconds beside those of the first run.

    python benchmarks/reprocess.py                     # 10,000 simulated spectra
    python benchmarks/reprocess.py --n 50000 --survey DIR
    python benchmarks/reprocess.py --warm 500          # without what a session pays once: all runs in one that has worked before

Every run is a process of its own with a new session; seconds are those of the work, after the session has started. New files are on
plates of their own, as those of a new data release are: a part holds one plate. The bar: at most 25 % of the first run, and at most
15 s with nothing new.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from scaling import cpu_seconds, subset, warm_up

from nalspark.mocks.survey import simulate_survey
from nalspark.pipeline.catalogue import pipeline
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import load


def run_once(spark: SparkSession, survey: Path, out: Path) -> dict[str, Any]:
    """One reprocess in this process, and what it did."""
    settings = load(
        spectra=[str(survey / "spectra")], out=str(out), quasars=[str(survey / "quasars.fits")], overrides=["ingest.plates_per_part=1"]
    )
    started, cpu = time.monotonic(), cpu_seconds(os.getpid())
    summaries = pipeline(spark, settings, Progress(None)).run(explain=True)
    stages = {summary.stage: (summary.parts_done, summary.seconds) for summary in summaries}
    return {"seconds": time.monotonic() - started, "cpu": cpu_seconds(os.getpid()) - cpu, "stages": stages}


def in_a_new_session(survey: Path, out: Path, master: str) -> dict[str, Any]:
    """One reprocess in a process of its own, and what it did."""
    command = [sys.executable, __file__, "--one", str(survey), str(out), "--master", master]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def told(what: str, found: dict[str, Any]) -> tuple[float, float]:
    """Print what a run did; its seconds and CPU seconds."""
    stages = ", ".join(f"{stage} {n} in {seconds:.1f} s" for stage, (n, seconds) in found["stages"].items())
    print(f"{what:<22} {found['seconds']:7.1f} s {found['cpu']:7.1f} CPU s; parts: {stages}", flush=True)
    return found["seconds"], found["cpu"]


def set_aside(survey: Path, fraction: float) -> list[tuple[Path, Path]]:
    """Take whole plates away, large ones first, up to a fraction of the files; where they are, and where they were."""
    plates = sorted((survey / "spectra").iterdir(), key=lambda plate: -len(list(plate.iterdir())))
    total, moved, away = sum(len(list(plate.iterdir())) for plate in plates), 0, survey / "later"
    away.mkdir()
    places = []
    for plate in plates:
        n = len(list(plate.iterdir()))
        if moved + n <= fraction * total:
            places.append((away / plate.name, plate))
            plate.rename(away / plate.name)
            moved += n
    print(f"{total} spectra, of which {moved} on {len(places)} plate(s) come later", flush=True)
    return places


def play(survey: Path, out: Path, run: Callable[[Path, Path], dict[str, Any]]) -> None:
    """First run, ten per cent more, and nothing more."""
    places = set_aside(survey, 0.1)
    first = told("first run", run(survey, out))
    for away, plate in places:
        away.rename(plate)
    (survey / "later").rmdir()
    grown = told("ten per cent new files", run(survey, out))
    idle = told("nothing new", run(survey, out))
    share = [f"{new / whole:.0%}" for new, whole in zip(grown, first, strict=True)]
    print(f"new files: {share[0]} of the first run's seconds, {share[1]} of its CPU seconds; nothing new: {idle[0]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="spectra that the one session of all runs works on first")
    parser.add_argument("--survey", type=Path, help="a simulated survey to use; its plates are moved and put back")
    parser.add_argument("--one", type=Path, nargs=2, metavar=("SURVEY", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with running_session(options.master) as spark:
            print(json.dumps(run_once(spark, *options.one)))
        return
    with tempfile.TemporaryDirectory(dir=options.survey and options.survey.parent) as folder:
        survey, out = options.survey or Path(folder) / "survey", Path(folder) / "out"
        if not options.survey:
            simulate_survey(survey, options.n, options.seed)
        if not options.warm:
            play(survey, out, partial(in_a_new_session, master=options.master))
            return
        with running_session(options.master) as spark:
            warm_up(spark, subset(survey, options.warm), Path(folder) / "warm")
            play(survey, out, partial(run_once, spark))


if __name__ == "__main__":
    main()

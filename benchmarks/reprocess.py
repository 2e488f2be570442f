"""What a reprocess costs: after ten per cent new files, and with nothing new; seconds and CPU seconds beside those of the first run.

    python benchmarks/reprocess.py                     # 10,000 simulated spectra
    python benchmarks/reprocess.py --n 50000 --survey DIR

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
from pathlib import Path

from scaling import cpu_seconds

from nalspark.pipeline import Pipeline
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import load
from nalspark.surveys.simulate import simulate_survey


def run_once(survey: Path, out: Path, master: str) -> dict[str, object]:
    """One reprocess in this process, and what it did."""
    settings = load(
        spectra=[str(survey / "spectra")], out=str(out), quasars=[str(survey / "quasars.fits")], overrides=["ingest.plates_per_part=1"]
    )
    with running_session(master) as spark:
        started, cpu = time.monotonic(), cpu_seconds(os.getpid())
        summaries = Pipeline(spark, settings, Progress(None)).run(explain=True)
        seconds = time.monotonic() - started
        return {"seconds": seconds, "cpu": cpu_seconds(os.getpid()) - cpu, "parts": {s.stage: s.parts_done for s in summaries}}


def measured(survey: Path, out: Path, master: str, what: str) -> float:
    command = [sys.executable, __file__, "--one", str(survey), str(out), "--master", master]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    parts = ", ".join(f"{stage} {n}" for stage, n in found["parts"].items())
    print(f"{what:<22} {found['seconds']:7.1f} s {found['cpu']:7.1f} CPU s; parts: {parts}", flush=True)
    return float(found["seconds"])


def set_aside(survey: Path, fraction: float) -> list[tuple[Path, Path]]:
    """Take whole plates away until a fraction of the files is gone; where they are, and where they were."""
    plates = sorted((survey / "spectra").iterdir(), key=lambda plate: len(list(plate.iterdir())))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--survey", type=Path, help="a simulated survey to use; its plates are moved and put back")
    parser.add_argument("--one", type=Path, nargs=2, metavar=("SURVEY", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_once(*options.one, options.master)))
        return
    with tempfile.TemporaryDirectory(dir=options.survey and options.survey.parent) as folder:
        survey, out = options.survey or Path(folder) / "survey", Path(folder) / "out"
        if not options.survey:
            simulate_survey(survey, options.n, options.seed)
        places = set_aside(survey, 1 / 11)
        first = measured(survey, out, options.master, "first run")
        for away, plate in places:
            away.rename(plate)
        (survey / "later").rmdir()
        grown = measured(survey, out, options.master, "ten per cent new files")
        idle = measured(survey, out, options.master, "nothing new")
    print(f"new files: {grown / first:.0%} of the first run; nothing new: {idle:.1f} s")


if __name__ == "__main__":
    main()

"""Runs stopped at random moments: whether each ends with its sentence and status, within seconds, and leaves no process and no file.

    python benchmarks/stops.py                  # 20 runs, seeded, on all local cores
    python benchmarks/stops.py --cluster        # on a master and two workers on the loopback

Half of the signals are SIGINT, half SIGTERM; half go to the process alone, half to its group, as a terminal sends Ctrl-C. A process
belongs to a run whose environment it has. The last run is repeated in its directory, and must give the catalogue of an undisturbed one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cluster import started_cluster
from runs import COMMAND, PATIENCE, QUICK, assert_same_catalogue, environment, make_survey

_SENTENCE = "nalspark: stopped. What was finished is kept: run the same command again to go on."
_MARK = "NALSPARK_STOPPED_RUN"
#: Seconds within which nothing may be left.
_DUE_S = 5.0


@dataclass
class Trial:
    """A run that is stopped, and what came of it."""

    number: int
    after: float
    signal: signal.Signals
    to_group: bool
    status: int = 0
    seconds: float = 0.0
    said: str = ""
    left: int = 0
    files: int = 0

    @property
    def good(self) -> bool:
        told = [line for line in self.said.splitlines() if line == _SENTENCE]
        ended = self.status == 128 + self.signal and len(told) == 1 and self.said.rstrip().endswith(_SENTENCE)
        return ended and "Traceback" not in self.said and "\tat " not in self.said and not self.left and self.seconds <= _DUE_S

    def __str__(self) -> str:
        where = "group" if self.to_group else "process"
        what = f"{self.signal.name} to the {where} after {self.after:5.1f} s: status {self.status}, {len(self.said.splitlines())} lines"
        left = f"{self.left} processes and {self.files} temporary files left"
        return f"{self.number:>3} {what}, all gone after {self.seconds:.1f} s, {left}{'' if self.good else '  WRONG'}"


def alive(mark: str) -> list[int]:
    """Processes that have a mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{_MARK}={mark}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def command(survey: Path, out: Path, master: str) -> list[str]:
    where = ["--quasars", str(survey / "quasars.fits"), "--out", str(out), "--master", master]
    return [*COMMAND, "find", str(survey / "parts"), *where, "--set", *QUICK]


def play(trial: Trial, survey: Path, folder: Path, master: str) -> None:
    """Start a run, stop it, and look at what is left."""
    mark, scratch = str(trial.number), folder / f"scratch{trial.number}"
    scratch.mkdir()
    own = environment(**{_MARK: mark, "TMPDIR": str(scratch), "SPARK_LOCAL_DIRS": str(scratch)})
    with (folder / "said").open("w+") as said:
        how = {"stdout": said, "stderr": said, "env": own, "process_group": 0}
        process = subprocess.Popen(command(survey, folder / f"out{trial.number}", master), **how)
        time.sleep(trial.after)
        began = time.monotonic()
        (os.killpg if trial.to_group else os.kill)(process.pid, trial.signal)
        trial.status = process.wait(PATIENCE)
        while alive(mark) and time.monotonic() - began < 2 * _DUE_S:
            time.sleep(0.05)
        trial.seconds = time.monotonic() - began
        trial.left, trial.files = len(alive(mark)), len(list(scratch.iterdir()))
        said.seek(0)
        trial.said = said.read()
    for pid in alive(mark):
        os.kill(pid, signal.SIGKILL)
    print(trial, flush=True)
    if not trial.good:
        print("\n".join(f"      {line[:150]}" for line in trial.said.splitlines()[:12]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spectra", type=int, default=40)
    parser.add_argument("--cluster", action="store_true")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        survey = make_survey(folder / "survey", options.spectra, per_part=20)
        with started_cluster(folder / "cluster", patience=1800) if options.cluster else nullcontext() as cluster:
            master, began = cluster.master if cluster else "local[*]", time.monotonic()
            subprocess.run(command(survey, folder / "whole", master), check=True, env=environment(), capture_output=True)
            seconds = time.monotonic() - began
            print(f"undisturbed: {seconds:.0f} s", flush=True)
            kinds = [(kind, group) for group in (False, True) for kind in (signal.SIGINT, signal.SIGTERM)]
            trials = [Trial(n, chance.uniform(0.1, 0.95 * seconds), *kinds[n % len(kinds)]) for n in range(options.n)]
            for trial in trials:
                play(trial, survey, folder, master)
            last = folder / f"out{trials[-1].number}"
            subprocess.run(command(survey, last, master), check=True, env=environment(), capture_output=True)
        assert_same_catalogue(last, folder / "whole")
    good = sum(trial.good for trial in trials)
    slowest = max(trial.seconds for trial in trials)
    print(f"{good} of {len(trials)} runs: the sentence once, their status, nothing left within {_DUE_S:.0f} s (at most {slowest:.1f} s);")
    print("the last, run again, has the catalogue of an undisturbed run")


if __name__ == "__main__":
    main()

"""Processes killed at random, and whether the catalogue is the same: executors, workers, Python workers, drivers, and a full disk.

    python benchmarks/faults.py                       # 20 kills, seeded, and a limit on the size of files
    python benchmarks/faults.py --kills 8 --seed 2

A real standalone cluster on the loopback: a master and two workers of one core. Every run starts in an empty directory; a process of the
kind is killed (SIGKILL) at a random moment of a random stage; a run that ends by it is repeated in the same directory. All runs have
speculative execution on, so that tasks also run twice. Compared is a digest of the contents of the published tables and the FITS file with
that of an undisturbed run, on the cluster and in a local session.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from chain import descendants

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cluster import Cluster, start_worker, started_cluster
from runs import COMMAND, environment, make_survey, published, settings_of

from nalspark.pipeline.catalogue import CATALOGUE, pipeline
from nalspark.progress import Progress
from nalspark.session import spark_session

KINDS = ("executor", "worker", "Python worker", "driver")
_SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "50ms",
    "spark.speculation.quantile": "0.25",
    "spark.speculation.multiplier": "1.1",
    "spark.executor.memory": "900m",
    "spark.sql.shuffle.partitions": "4",
}
_NOTHING = "nothing: the run had ended"
#: Files larger than this cannot be written while the disk is "full": less than a part of spectra.
_FULL_BYTES = 200_000


def content_digest(out: Path) -> str:
    """Of all rows of the published tables, in order of their ids, and of the FITS file."""
    total = hashlib.sha256((out / "absorbers.fits").read_bytes())
    for name, table in sorted(published(out).items()):
        total.update(name.encode() + pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return total.hexdigest()[:16]


def account(out: Path, files: int) -> str:
    """Whether every file is in the catalogue once."""
    tables = published(out)
    rows = len(tables["sightlines"]) + len(tables["rejections"])
    doubled = int(tables["sightlines"]["path"].duplicated().sum() + tables["absorbers"]["absorber_id"].duplicated().sum())
    return "" if rows == files and not doubled else f" {files - rows} lost, {doubled} doubled"


@dataclass
class Killer(Progress):
    """Kills at a moment of a stage.

    Attributes
    ----------
    stage : str
    delay : float
        Seconds after the stage has begun.
    kill : callable
        Does it, and says what was killed; empty where there was nothing to kill.
    """

    stage: str
    delay: float
    kill: Callable[[], str]
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(None)

    def note(self, event: str, **what: Any) -> None:
        if event == "stage_started" and what["stage"] == self.stage and not self.killed:
            threading.Thread(target=self._wait_and_kill, daemon=True).start()

    def _wait_and_kill(self) -> None:
        time.sleep(self.delay)
        end = time.monotonic() + 30
        while not self.killed and time.monotonic() < end:
            self.killed += [said] if (said := self.kill()) else []
            time.sleep(0.02)


def kill_executor(cluster: Cluster, name: str) -> str:
    pids = cluster.executors(name)
    with suppress(ProcessLookupError):
        if pids:
            os.kill(pids[0], signal.SIGKILL)
            return f"executor of {name}"
    return ""


def kill_worker(cluster: Cluster, name: str) -> str:
    """The worker and its executor; another worker comes in its place."""
    cluster.kill(name)
    start_worker(cluster, name)
    return name


def kill_python(cluster: Cluster, name: str) -> str:
    """A Python worker that a task uses, or may use next."""
    for executor in cluster.executors(name):
        pythons = [pid for pid in descendants(executor)[1:] if "python" in _command(pid)]
        if len(pythons) > 1:  # the first is the daemon that forks the others
            with suppress(ProcessLookupError):
                os.kill(pythons[-1], signal.SIGKILL)
                return f"Python worker of {name}"
    return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def run_here(spark: Any, survey: Path, out: Path, progress: Progress) -> int:
    """Bring a result up to date in this process's session; how many attempts that took."""
    for attempt in range(1, 5):
        try:
            pipeline(spark, settings_of(survey, out, "pipeline.partitions=4"), progress).run()
            return attempt
        except Exception as error:
            print(f"    stopped: {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)
    raise SystemExit("four attempts ended before a catalogue was there")


def command_of(survey: Path, out: Path, master: str, log: Path) -> list[str]:
    sets = ["--set", "ingest.plates_per_part=1", "publish.gallery=0", "pipeline.partitions=4"]
    where = ["--quasars", str(survey / "quasars.fits"), "--out", str(out), "--master", master, "--log", str(log)]
    return [*COMMAND, "find", str(survey / "parts"), *where, *sets]


def kill_driver(survey: Path, out: Path, cluster: Cluster, stage: str, delay: float) -> str:
    """Start a run in a process group of its own, and kill all of it."""
    log = out.with_suffix(".jsonl")
    conf = " ".join(f"--conf {key}={value}" for key, value in _SPECULATION.items())
    own = environment(PYSPARK_SUBMIT_ARGS=f"{conf} pyspark-shell")
    process = subprocess.Popen(
        command_of(survey, out, cluster.master, log), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=own, start_new_session=True
    )
    while process.poll() is None and not (log.exists() and _begun(log, stage)):
        time.sleep(0.05)
    time.sleep(delay)
    ended = process.poll() is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _NOTHING if ended else "driver"


def _begun(log: Path, stage: str) -> bool:
    lines = log.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return any(event["event"] == "stage_started" and event["stage"] == stage for event in events)


def full_disk(survey: Path, out: Path) -> str:
    """A run that can write no file of more than some kB: what it says, and how it ends."""
    command = command_of(survey, out, "local[2]", out.with_suffix(".jsonl"))
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (_FULL_BYTES, _FULL_BYTES))
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, preexec_fn=limited)
    last = ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else ""
    traceback = ", with a traceback" if "Traceback" in ended.stderr else ""
    return f"status {ended.returncode}{traceback}: {last[:220]}"


@dataclass
class Trial:
    """One kill to come: of what, in which stage, when, at which worker."""

    kind: str
    stage: str
    fraction: float
    worker: str
    out: Path
    killed: str = ""
    attempts: int = 0


def trials(kills: int, seed: int, folder: Path) -> list[Trial]:
    chance = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    return [
        Trial(kind, chance.choice(CATALOGUE), chance.random(), chance.choice(("worker1", "worker2")), folder / f"out{number:02d}")
        for number, kind in enumerate(kinds)
    ]


def disturbed(spark: Any, survey: Path, cluster: Cluster, trial: Trial, seconds: dict[str, float]) -> None:
    how = {"executor": kill_executor, "worker": kill_worker, "Python worker": kill_python}[trial.kind]
    killer = Killer(trial.stage, trial.fraction * seconds[trial.stage], lambda: how(cluster, trial.worker))
    trial.attempts = run_here(spark, survey, trial.out, killer)
    trial.killed = killer.killed[0] if killer.killed else _NOTHING


class Judge:
    """Compares with an undisturbed result, and counts."""

    def __init__(self, reference: Path, files: int) -> None:
        self.digest, self.files = content_digest(reference), files
        self.killed = self.same = self.trials = 0

    def look(self, out: Path, what: str) -> bool:
        found, missing = content_digest(out), account(out, self.files)
        print(f"{what:<90} {found}{missing}{'' if found == self.digest else '  ANOTHER CATALOGUE'}", flush=True)
        return found == self.digest and not missing

    def judge(self, trial: Trial) -> None:
        self.trials += 1
        self.killed += trial.killed != _NOTHING
        what = f"{self.trials:>3} {trial.kind:<13} in {trial.stage:<10} -> {trial.killed}, {trial.attempts} attempt(s)"
        self.same += self.look(trial.out, what)


def play(cluster: Cluster, survey: Path, folder: Path, planned: list[Trial]) -> Judge:
    """All trials: first those with a driver that lives on, then those that kill it."""
    spark = on_cluster(cluster)
    summaries = pipeline(spark, settings_of(survey, folder / "whole", "pipeline.partitions=4"), Progress(None)).run()
    seconds = {summary.stage: summary.seconds / 2 for summary in summaries}  # from the second run on a session is warm
    judge = Judge(folder / "whole", len(list((survey / "parts").rglob("*.fits*"))))
    judge.look(folder / "whole", f"undisturbed, {judge.files} files")
    for trial in (trial for trial in planned if trial.kind != "driver"):
        disturbed(spark, survey, cluster, trial, seconds)
        judge.judge(trial)
    spark.stop()
    drivers = [trial for trial in planned if trial.kind == "driver"]
    for trial in drivers:
        trial.killed = kill_driver(survey, trial.out, cluster, trial.stage, trial.fraction * seconds[trial.stage])
    said = full_disk(survey, folder / "full")
    spark = spark_session("local[2]", "faults")
    for trial in drivers:
        trial.attempts = 1 + run_here(spark, survey, trial.out, Progress(None))
        judge.judge(trial)
    for name, what in (("full", f"full disk, {said}; then resumed"), ("local", "undisturbed, local session")):
        run_here(spark, survey, folder / name, Progress(None))
        judge.look(folder / name, what)
    spark.stop()
    return judge


def on_cluster(cluster: Cluster) -> Any:
    return spark_session(cluster.master, "faults", _SPECULATION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=60, help="simulated spectra")
    options = parser.parse_args()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        survey = make_survey(folder / "survey", options.n, per_part=20)
        with started_cluster(folder / "cluster", patience=1800) as cluster:
            judge = play(cluster, survey, folder, trials(options.kills, options.seed, folder))
    print(f"{judge.killed} kills, {judge.same} of {judge.trials} catalogues identical to the undisturbed one")


if __name__ == "__main__":
    main()

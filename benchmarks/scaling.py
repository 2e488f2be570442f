"""How time and memory grow with the number of spectra and of cores: seconds, CPU seconds and rates by stage, slopes, peak memory.

    python benchmarks/scaling.py 1000 5000 20000 50000 --results scaling.jsonl         # growth with the survey, on two cores
    python benchmarks/scaling.py 5000 --cores 1 2 --repeat 3 --results speedup.jsonl   # growth with the cores
    python benchmarks/scaling.py 5000 --cores 1 2 --warm 500                           # the same, without what a session pays once
    python benchmarks/scaling.py --draw scaling.jsonl docs/scaling.png                 # the figure of docs/scaling.md

Every spectrum is a simulated file of its own; `--survey DIR` keeps them, and smaller surveys are hard links to the first files of it. One
core means that every process of the run is held on one processor. Seconds are those of the stages, after the session has started; CPU
seconds are those of all processes of the run (driver, JVM, Python workers), to be read beside the seconds where a machine is shared.
With `--warm N` the session has worked on the first N spectra before: Java has compiled, the workers have loaded what they need.
Memory is the resident size, shared pages counted once, sampled every three seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from astropy.table import Table
from chain import descendants, kind_of, resident_mib
from pyspark.sql import SparkSession

from nalspark.absorption.chain import Searchable, prepare, propose
from nalspark.learning.inference import prepare_worker
from nalspark.learning.models import read_model
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.mocks.stages import REALISTIC
from nalspark.mocks.survey import simulate_survey
from nalspark.pipeline.catalogue import CATALOGUE, pipeline
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import load
from nalspark.surveys.reader import open_spectrum

_TICK = os.sysconf("SC_CLK_TCK")
#: The bar on linearity is read between these numbers of spectra, where both were run.
_LINEAR = (5000, 50_000)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, those that have ended included."""
    total = 0
    for one in descendants(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICK


class Stopwatch(Progress):
    """Notes the CPU time of this process and of all below it at the end of every stage."""

    def __init__(self) -> None:
        super().__init__(None)
        self.cpu = [cpu_seconds(os.getpid())]

    def say(self, text: str) -> None:
        if text.startswith(CATALOGUE) and "parts done" not in text:
            self.cpu.append(cpu_seconds(os.getpid()))


def warm_up(spark: SparkSession, survey: Path, out: Path) -> None:
    """Make a small catalogue, so that the session has paid for starting."""
    pipeline(spark, load(spectra=[str(survey / "spectra")], out=str(out), quasars=[str(survey / "quasars.fits")]), Progress(None)).run()


def run_once(survey: Path, out: Path, cores: int, small: Path | None) -> dict[str, dict[str, float]]:
    """One run in this process, after one over a small survey where there is one; stage → seconds, CPU seconds."""
    if cores < len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    settings = load(spectra=[str(survey / "spectra")], out=str(out), quasars=[str(survey / "quasars.fits")])
    with running_session(f"local[{cores}]") as spark:
        if small:
            warm_up(spark, small, out.with_name("warm"))
        watch = Stopwatch()
        summaries = pipeline(spark, settings, watch).run()
    return {
        summary.stage: {"seconds": summary.seconds, "cpu": after - before}
        for summary, before, after in zip(summaries, watch.cpu[:-1], watch.cpu[1:], strict=True)
    }


def measured(survey: Path, cores: int, small: Path | None) -> dict[str, object]:
    """One run in a process of its own, and its peak memory by kind of process, MiB."""
    peak: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=survey.parent) as folder:
        command = [sys.executable, __file__, "--one", str(survey), str(Path(folder) / "result"), "--cores", str(cores)]
        command += ["--survey", str(small)] if small else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watcher.start()
        said, _ = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"the run ended with status {process.returncode}")
    return {"stages": json.loads(said.splitlines()[-1]), "peak_mib": peak}


def _watch(pid: int, peak: dict[str, float], done: threading.Event) -> None:
    while not done.wait(3.0):  # each look at a process that holds gigabytes takes some hundredths of a second of a processor
        now: dict[str, float] = {}
        for one in descendants(pid):
            kind = kind_of(one, pid)
            now[kind] = now.get(kind, 0.0) + resident_mib(one)
        now["all"] = sum(now.values())
        for kind, size in now.items():
            peak[kind] = max(peak.get(kind, 0.0), size)


def subset(survey: Path, n: int) -> Path:
    """A survey of the first n files, as hard links, beside the whole."""
    part = survey.with_name(f"{survey.name}-first-{n}")
    if not part.exists():
        files = sorted((survey / "spectra").rglob("*.fits"), key=lambda path: (path.name[-9:], path.name))[:n]
        for file in files:
            place = part / file.relative_to(survey)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
        quasars = Table.read(survey / "quasars.fits")
        names = {file.stem for file in files}
        chosen = [f"spec-{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}" in names for row in quasars]
        quasars[chosen].write(part / "quasars.fits")
    return part


def table(result: dict) -> str:
    n, lines = result["n"], []
    for name, stage in result["stages"].items():
        lines.append(
            f"  {name:<11} {stage['seconds']:7.1f} s  {stage['cpu']:7.1f} CPU s  {1e3 * stage['cpu'] / n:8.3f} CPU ms/spectrum "
            f"{n / stage['seconds']:8.0f} spectra/s"
        )
    wall, cpu = totals(result)
    peak = ", ".join(f"{kind} {size:.0f}" for kind, size in result["peak_mib"].items() if kind != "gone")
    lines.append(f"{n} spectra, {result['cores']} core(s): {wall:.1f} s, {cpu:.1f} CPU s, {n / wall:.0f} spectra/s; peak MiB: {peak}")
    return "\n".join(lines)


def totals(result: dict) -> tuple[float, float]:
    """Seconds and CPU seconds of all stages."""
    stages = result["stages"].values()
    return sum(stage["seconds"] for stage in stages), sum(stage["cpu"] for stage in stages)


def growth(results: list[dict]) -> Iterator[str]:
    """Linearity and memory between the smallest and the largest number of spectra of the bar, at the same number of cores."""
    compared = sorted((r for r in results if r["n"] >= _LINEAR[0] and r["cores"] == max(x["cores"] for x in results)), key=lambda r: r["n"])
    if len({r["n"] for r in compared}) < 2:
        return
    first, last = compared[0], compared[-1]
    for what, index in (("wall", 0), ("CPU", 1)):
        a, b = totals(first)[index] / first["n"], totals(last)[index] / last["n"]
        yield f"{what} time per spectrum, {last['n']} over {first['n']} spectra: {b / a:.3f}"
    for kind in first["peak_mib"]:
        if kind != "gone" and kind in last["peak_mib"]:
            yield f"peak memory, {kind}, {last['n']} over {first['n']} spectra: {last['peak_mib'][kind] / first['peak_mib'][kind]:.2f}"
    names, n = list(first["stages"]), np.array([r["n"] for r in compared], dtype=float)
    for name in names:
        slope, fixed = np.polyfit(n, [r["stages"][name]["cpu"] for r in compared], 1)
        yield f"  {name:<11} {fixed:6.1f} CPU s + {1e3 * slope:7.3f} CPU ms a spectrum"


def speedup(results: list[dict]) -> Iterator[str]:
    """The least seconds of each stage on one core over those on two, at the largest number of spectra that both have."""
    by_cores = {c: [r for r in results if r["cores"] == c] for c in (1, 2)}
    both = {r["n"] for r in by_cores[1]} & {r["n"] for r in by_cores[2]}
    if not both:
        return
    n = max(both)
    names = list(results[0]["stages"])
    least = {c: {name: min(r["stages"][name]["seconds"] for r in by_cores[c] if r["n"] == n) for name in names} for c in (1, 2)}
    for name, seconds in least[1].items():
        yield f"  {name:<11} {seconds:7.1f} s on one core, {least[2][name]:7.1f} s on two: {seconds / least[2][name]:.2f}"
    pair = [sum(least[c][name] for name in ("search", "infer")) for c in (1, 2)]
    yield f"  search + infer: {pair[0]:.1f} s on one core, {pair[1]:.1f} s on two: {pair[0] / pair[1]:.2f}"


def _one_pass(kind: str, files: list[Path]) -> Callable[[], object]:
    """The arithmetic of a stage, without Spark: a function that does it once, on 128 spectra in memory or that many files."""
    if kind == "ingest":
        return lambda: [open_spectrum(file) for file in files]
    settings, names = load(), [f"limit-{number}" for number in range(128)]
    mocks = make_mocks(names, Recipe(settings.line_species, (REALISTIC,)))
    if kind == "preprocess":
        return lambda: prepare(mocks.spectra, mocks.z_qso, settings)
    prepare_worker()
    searchable = Searchable.of(prepare(mocks.spectra, mocks.z_qso, settings), mocks.z_qso)
    detector = read_model("").load(settings.infer.batch_size)
    return lambda: detector.predict(propose(searchable, settings).images)


def _again_and_again(kind: str, files: list[Path], barrier: Barrier, seconds: Queue[float]) -> None:
    """Time passes for 3 seconds, four times over, beside others that do the same at the same time."""
    one_pass = _one_pass(kind, files)
    one_pass()
    for _ in range(4):
        barrier.wait(timeout=120)
        passes, started = 0, time.perf_counter()
        while (taken := time.perf_counter() - started) < 3.0:
            one_pass()
            passes += 1
        seconds.put(taken / passes)


def limits(survey: Path) -> Iterator[str]:
    """What a second processor is worth here: the speed-up of two processes that share nothing over one, without Spark, by kind of work."""
    files = sorted((survey / "spectra").rglob("*.fits"))[:128]
    context = multiprocessing.get_context("spawn")
    for kind in ("ingest", "preprocess", "search + infer"):
        median = {}
        for n in (1, 2):
            barrier, seconds = context.Barrier(n), context.Queue()
            processes = [context.Process(target=_again_and_again, args=(kind, files, barrier, seconds)) for _ in range(n)]
            for process in processes:
                process.start()
            median[n] = float(np.median([seconds.get(timeout=180) for _ in range(4 * n)]))
            for process in processes:
                process.join()
        yield f"  two processes that share nothing, beside one, {kind}: {2.0 * median[1] / median[2]:.2f}"


def draw(results: list[dict], path: Path) -> None:
    """CPU time by stage, and memory, against the number of spectra."""
    from matplotlib import pyplot as plt

    results = sorted((r for r in results if r["cores"] == max(x["cores"] for x in results)), key=lambda r: (r["n"], totals(r)[1]))
    by_n = {n: [r for r in results if r["n"] == n] for n in {r["n"] for r in results}}
    results = [by_n[n][len(by_n[n]) // 2] for n in sorted(by_n)]  # of several runs the one in the middle
    n = np.array([r["n"] for r in results])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = list(results[0]["stages"])
    cost = [[r["stages"][name]["cpu"] for r in results] for name in names]
    left.stackplot(n, cost, labels=names, colors=plt.get_cmap("viridis")(np.linspace(0.05, 0.95, len(names))))
    left.set(xlabel="spectra", ylabel="CPU time (s)", xlim=(0, None), ylim=(0, None))
    left.legend(frameon=False, fontsize=9, loc="upper left", reverse=True)
    for kind, marker in (("all", "o"), ("driver JVM", "s"), ("Python workers", "^"), ("driver Python", "v")):
        size = [r["peak_mib"].get(kind, np.nan) / 1024 for r in results]
        (line,) = right.plot(n, size, marker=marker)
        right.annotate(kind, (n[-1], size[-1]), (0, 7), textcoords="offset points", ha="right", color=line.get_color(), fontsize=9)
    right.set(xlabel="spectra", ylabel="peak memory (GiB)", xlim=(0, None), ylim=(0, None))
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="*", help="numbers of spectra")
    parser.add_argument("--cores", type=int, nargs="+", default=[2])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="spectra that the session works on before it is measured")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--survey", type=Path, help="folder of the simulated survey; made where it is not there")
    parser.add_argument("--results", type=Path, help="file to which every measurement is added, a line of JSON each")
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("RESULTS", "PNG"))
    parser.add_argument("--one", type=Path, nargs=2, metavar=("SURVEY", "OUT"), help=argparse.SUPPRESS)
    return parser


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure_all(options: argparse.Namespace, survey: Path) -> list[dict]:
    if not (survey / "quasars.fits").exists():
        simulate_survey(survey, max(options.n), options.seed)
    results = []
    for n in [n for _ in range(options.repeat) for n in sorted(options.n)]:
        for cores in options.cores:
            small = subset(survey, options.warm) if options.warm else None
            results.append({"n": n, "cores": cores, **measured(subset(survey, n), cores, small)})
            print(table(results[-1]), flush=True)
            if options.results:
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    return results


def main() -> None:
    options = _parser().parse_args()
    if options.one:
        print(json.dumps(run_once(*options.one, options.cores[0], options.survey)))
    elif options.draw:
        draw(_read(options.draw[0]), options.draw[1])
    else:
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before the first run")
        with tempfile.TemporaryDirectory() as folder:
            survey = options.survey or Path(folder) / "survey"
            results = measure_all(options, survey)
            print("\n".join([*growth(results), *speedup(results)]), flush=True)
            for line in limits(survey) if len(set(options.cores)) > 1 else ():
                print(line, flush=True)


if __name__ == "__main__":
    main()

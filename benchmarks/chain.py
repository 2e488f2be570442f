"""The whole chain on simulated spectra: spectra per second by stage, and peak memory of the driver and the Python workers.

    python benchmarks/chain.py 5000              # throughput
    python benchmarks/chain.py 2000 20000        # memory: the peak of the last over the peak of the first

Seconds are those of the stages, after the session has started. Memory is the resident size of all processes of the run, sampled from /proc:
the largest of the driver's JVM, of the driver's Python, and of the Python workers together.
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

from nalspark.mocks.survey import simulate_survey


def descendants(pid: int) -> list[int]:
    """A process and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def resident_mib(pid: int) -> float:
    """Proportional resident size: memory that forked workers share is counted once."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def kind_of(pid: int, root: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
    return "driver JVM" if name == "java" else "driver Python" if pid == root else "Python workers"


def run(survey: Path, out: Path, master: str) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Run `find`; its stage summaries and its peak memory by kind of process, MiB."""
    command = [sys.executable, "-m", "nalspark.cli", "find", str(survey / "spectra"), "--out", str(out), "--master", master]
    process = subprocess.Popen([*command, "--quasars", str(survey / "quasars.fits")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak: dict[str, float] = {}
    while process.poll() is None:
        now: dict[str, float] = {}
        for pid in descendants(process.pid):
            kind = kind_of(pid, process.pid)
            now[kind] = now.get(kind, 0.0) + resident_mib(pid)
        now["all"] = sum(now.values())
        for kind, size in now.items():
            peak[kind] = max(peak.get(kind, 0.0), size)
        time.sleep(1.0)
    if process.returncode:
        raise SystemExit(f"find ended with status {process.returncode}")
    return json.loads((out / "manifest.json").read_text())["runs"][-1], peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="+", help="number of simulated spectra; several are compared")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    peaks = []
    print(f"{os.cpu_count()} cores, {options.master}")
    for n in options.n:
        with tempfile.TemporaryDirectory() as folder:
            survey, out = Path(folder) / "survey", Path(folder) / "result"
            simulate_survey(survey, n, options.seed)
            stages, peak = run(survey, out, options.master)
        total = sum(stage["seconds"] for stage in stages.values())
        for name, stage in stages.items():
            print(f"  {name:<11} {stage['seconds']:7.1f} s   {n / stage['seconds']:8.0f} spectra/s")
        print(f"{n} spectra: {total:.1f} s, {n / total:.0f} spectra/s; peak MiB: " + ", ".join(f"{k} {v:.0f}" for k, v in peak.items()))
        peaks.append(peak)
    if len(peaks) > 1:
        ratios = {kind: peaks[-1][kind] / peaks[0][kind] for kind in peaks[0] if kind in peaks[-1] and kind != "gone"}
        print(f"peak memory of {options.n[-1]} over {options.n[0]}: " + ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in ratios.items()))


if __name__ == "__main__":
    main()

"""A real standalone cluster on the loopback: one master and two workers from the pip-installed pyspark, each a process known by its pid."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyspark
from runs import environment

#: Seconds within which a daemon must be up; it takes 5 on a quiet machine.
PATIENCE = 120
_CLASS = "org.apache.spark.deploy"


@dataclass
class Cluster:
    """What is running.

    Attributes
    ----------
    folder : Path
        Logs, and the working directories of the executors.
    port, page : int
        Of the master, and of its page.
    daemons : dict
        Name → process: ``master``, ``worker1``, ``worker2``.
    patience : float
        Seconds within which a daemon must be up.
    """

    folder: Path
    port: int
    page: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    patience: float = PATIENCE

    @property
    def master(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, name: str, what: str, *arguments: str) -> None:
        """Start one daemon in a process group of its own, so that its executors end with it."""
        command = [str(Path(pyspark.__file__).parent / "bin" / "spark-class"), f"{_CLASS}.{what}", *arguments]
        own = {"SPARK_NO_DAEMONIZE": "1", "SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_DIRS": str(self.folder / "scratch")}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(**own), cwd=self.folder, start_new_session=True
            )

    def wait_for(self, name: str, pattern: str) -> None:
        """Until a daemon's log has a line; a daemon that ends before says why."""
        end = time.monotonic() + self.patience
        while not re.search(pattern, self.log(name)):
            if self.daemons[name].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The cluster's {name} did not come up:\n{self.log(name)[-3000:]}")
            time.sleep(0.2)

    def executors(self, name: str) -> list[int]:
        """Process ids of the executors that a worker has started."""
        leader, found = self.daemons[name].pid, []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rsplit(")", 1)[1].split()
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[2]) == leader and b"CoarseGrainedExecutorBackend" in command:
                found.append(int(status.parent.name))
        return found

    def kill(self, name: str) -> None:
        """Kill a daemon and its executors at once, without a word."""
        process = self.daemons[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def stop(self) -> None:
        for process in self.daemons.values():
            if process.poll() is None:
                process.terminate()
        for name, process in self.daemons.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            self.kill(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started_cluster(folder: Path, workers: int = 2, patience: float = PATIENCE) -> Iterator[Cluster]:
    """A cluster with workers of 1 core and 1 GB; stopped at the end whatever happens."""
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder, _free_port(), _free_port(), patience=patience)
    try:
        cluster.start("master", "master.Master", "--host", "127.0.0.1", "--port", str(cluster.port), "--webui-port", str(cluster.page))
        cluster.wait_for("master", r"Starting Spark master at")
        for number in range(1, workers + 1):
            start_worker(cluster, f"worker{number}")
        for number in range(1, workers + 1):
            cluster.wait_for(f"worker{number}", "Successfully registered with master")
        yield cluster
    finally:
        cluster.stop()


def start_worker(cluster: Cluster, name: str) -> None:
    places = ("--work-dir", str(cluster.folder / name))
    cluster.start(
        name,
        "worker.Worker",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--webui-port",
        "0",
        "--cores",
        "1",
        "--memory",
        "1g",
        *places,
        cluster.master,
    )

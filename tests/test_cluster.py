"""The same catalogue from a real cluster that loses a worker half-way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, start_worker, started_cluster
from runs import COMMAND, QUICK, assert_same_catalogue, environment, make_survey, published, run, settings_of

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("clustered") / "survey", n=24)


@pytest.fixture(scope="module")
def local(spark: Any, survey: Path) -> Path:
    """The result of this process's local session."""
    run(spark, settings_of(survey, survey / "local"))
    return survey / "local"


def find(survey: Path, out: Path, cluster: Cluster, *overrides: str) -> list[str]:
    """Arguments of `nalspark find` on the cluster."""
    options = [word for override in (*QUICK, *overrides) for word in ("--set", override)]
    return [
        "find",
        str(survey / "parts"),
        "--quasars",
        str(survey / "quasars.fits"),
        "--out",
        str(out),
        "--master",
        cluster.master,
        *options,
    ]


def test_a_cluster_that_loses_a_worker_makes_the_catalogue_that_one_machine_makes(cluster: Cluster, survey: Path, local: Path) -> None:
    out = survey / "wounded"
    command = [*COMMAND, *find(survey, out, cluster, "pipeline.partitions=4")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        end = time.monotonic() + 120
        while not (cluster.executors("worker2") and list(out.glob("tables/spectra/*/_SUCCESS"))):
            assert running.poll() is None and time.monotonic() < end, "the run ended before a worker could be killed"
            time.sleep(0.05)
        cluster.kill("worker2")
        assert running.poll() is None
        start_worker(cluster, "worker2")
        _, said = running.communicate(timeout=250)
    finally:
        running.kill()
        running.wait(20)
    assert running.returncode == 0, said
    assert "Traceback" not in said
    assert_same_catalogue(out, local)
    assert len(published(local)["sightlines"]) == 24
    for name in ("worker1", "worker2"):
        assert "Asked to launch executor" in cluster.log(name), "this worker had nothing to do"

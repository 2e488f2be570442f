"""The same catalogue from a real cluster that loses a worker half-way, and through Spark Connect, as from this process's session."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cluster import start_worker, started_cluster
from runs import COMMAND, PATIENCE, QUICK, assert_same_catalogue, environment, make_survey, published, run, settings_of

pytestmark = pytest.mark.spark

#: Two tiny parts are not worth Spark's 200 partitions, nor compiled queries. What the lost worker held is asked for three times, by default
#: 5 s apart; and a task that would rather run on another executor waits for it.
CONF = """
spark.sql.shuffle.partitions 2
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.shuffle.io.retryWait 300ms
spark.locality.wait 0s
"""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of those who have set :data:`CONF` for their Spark."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "spark-defaults.conf").write_text(CONF)
    return environment(SPARK_CONF_DIR=str(folder))


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("elsewhere") / "survey", n=12, per_part=6)


@pytest.fixture(scope="module")
def local(spark: Any, survey: Path) -> Path:
    """The result of this process's local session."""
    run(spark, settings_of(survey, survey / "local"))
    assert len(published(survey / "local")["sightlines"]) == 12
    return survey / "local"


# ---- a cluster


def find(survey: Path, out: Path, master: str, *overrides: str) -> list[str]:
    """Arguments of `nalspark find` on the cluster."""
    places = [str(survey / "parts"), "--quasars", str(survey / "quasars.fits"), "--out", str(out), "--master", master]
    return ["find", *places, *(word for override in (*QUICK, *overrides) for word in ("--set", override))]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")
def test_a_cluster_that_loses_a_worker_makes_the_catalogue_that_one_machine_makes(
    survey: Path, local: Path, surroundings: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "wounded"
    with started_cluster(tmp_path / "cluster") as cluster:
        command = [*COMMAND, *find(survey, out, cluster.master, "pipeline.partitions=4")]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings)
        try:
            while not (cluster.executors("worker2") and list(out.glob("tables/spectra/*/_SUCCESS"))):
                assert running.poll() is None, "the run ended before a worker could be killed"
                time.sleep(0.05)
            cluster.kill("worker2")
            assert running.poll() is None
            start_worker(cluster, "worker2")
            _, said = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
            running.wait(20)
        assert running.returncode == 0, said
        assert "Traceback" not in said
        assert_same_catalogue(out, local)
        for name in ("worker1", "worker2"):
            assert "Asked to launch executor" in cluster.log(name), "this worker had nothing to do"


# ---- Spark Connect

NEEDED = ("grpc", "grpc_status", "google.rpc", "zstandard")

#: A process that has a classic session cannot have one through Spark Connect too. The server begins with the session, and ends with it.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runs import run, settings_of
from pyspark.errors import PySparkException
from nalspark.session import active_session, is_classic, running_session
with running_session() as spark:
    assert not is_classic(spark) and active_session() is spark
    run(spark, settings_of(Path(sys.argv[2]), Path(sys.argv[3])))
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    before = spark.conf.getAll
    with running_session() as given:  # as a notebook gives it
        assert given is spark and given.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.getAll == before and spark.range(3).count() == 3
assert active_session() is None
"""


def absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:
        return True


@pytest.mark.skipif(any(map(absent, NEEDED)), reason="Spark Connect needs grpcio, grpcio-status, googleapis-common-protos and zstandard")
def test_files_to_catalogue_through_spark_connect(survey: Path, local: Path, surroundings: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(survey), str(tmp_path / "connect")]
    there = surroundings | {"SPARK_REMOTE": "local[2]"}
    done = subprocess.run(command, capture_output=True, text=True, env=there, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_catalogue(local, tmp_path / "connect")

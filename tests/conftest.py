"""Shared fixtures. The Spark session is lazy: a test run that needs none starts no JVM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# As the workers of a run have it, before numpy and TensorFlow are loaded: with several threads their last bits are others.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")


#: The tests' queries are many and on few rows: to compile each of them costs more than to interpret it. The command line in a
#: process of its own, and what is submitted, compile as users' do, and must give the same catalogue.
_SHORT_QUERIES = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


#: The files that take longest: where several processes share the files out, none is left alone with one of these at the end.
_LONGEST = (
    "test_elsewhere.py",
    "test_pipeline.py",
    "test_docs.py",
    "test_several.py",
    "test_reprocess.py",
    "test_worth.py",
    "test_broken_survey.py",
    "test_jobs.py",
    "test_crossmatch.py",
    "test_stage.py",
)


#: Spark partitions, and rows of a batch within one.
_CUTS = [(1, 256), (3, 256), (7, 4)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; all others keep their order."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def spark() -> Iterator[object]:
    from nalspark.session import spark_session

    session = spark_session("local[2]", "nalspark-tests", _SHORT_QUERIES)
    yield session
    session.stop()


@pytest.fixture(params=_CUTS, ids=lambda cut: f"{cut[0]} partitions")
def cut(spark: Any, request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of partitions; batches are as short as the parameter says."""
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, str(request.param[1]))
    yield request.param[0]
    spark.conf.set(key, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real spectra and catalogues; the test is skipped where it is absent."""
    folder = Path(os.environ.get("NALSPARK_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "spectra").is_dir():
        pytest.skip(f"no real data in {folder}; set NALSPARK_DATA to the folder that has it")
    return folder


@pytest.fixture(scope="session")
def petastorm() -> object:
    """What training reads its examples with; the test is skipped where it is absent."""
    return pytest.importorskip("petastorm", reason="training needs petastorm: pip install 'nalspark[train]'")


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which the command line starts a session."""
    from nalspark import cli

    def refuse(*arguments: object) -> None:
        raise AssertionError("a Spark session was asked for")

    monkeypatch.setattr(cli, "running_session", refuse)

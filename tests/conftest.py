"""Shared fixtures. The Spark session is lazy: a test run that needs none starts no JVM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# As the workers of a run have it, before numpy and TensorFlow are loaded: with several threads their last bits are others.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")


#: The tests' queries are many and on few rows: to compile each of them costs more than to interpret it. Sessions that tests start in
#: processes of their own, and clusters, compile as users' do, and must give the same catalogue.
_SHORT_QUERIES = {
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


@pytest.fixture(scope="session")
def spark() -> Iterator[object]:
    from nalspark.session import spark_session

    session = spark_session("local[2]", "nalspark-tests", _SHORT_QUERIES)
    yield session
    session.stop()


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

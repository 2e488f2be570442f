"""The session that a user gives, the processes that are his, and the start of one."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from nalspark import session
from nalspark.errors import NalsparkError
from nalspark.session import active_session, describe_jobs, narrow_reads, running_session, short_tasks, spark_session

# ---- a given session


def settings(spark):
    """All that a session says of itself: what was set, and what SQL knows, set or not."""
    known = {row["key"]: row["value"] for row in spark.sql("SET -v").select("key", "value").collect()}
    chosen = {row["key"]: row["value"] for row in spark.sql("SET").collect()}
    return known, chosen, spark.sparkContext.getLocalProperty("spark.job.description")


def use(fail=False):
    """What a run does with a session: it sets what it needs, and may fail."""
    with running_session("local[7]") as spark, narrow_reads(spark), short_tasks(spark):
        describe_jobs(spark, "nalspark: a stage")
        assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
        assert spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == "256"
        assert spark.range(10).count() == 10
        if fail:
            raise RuntimeError("in the middle of it")


def in_a_thread():
    """The same from a thread that never saw the session."""
    failed = []

    def work():
        try:
            use()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


def failing():
    with pytest.raises(RuntimeError, match="in the middle of it"):
        use(fail=True)


@pytest.mark.spark
@pytest.mark.parametrize("run", [use, in_a_thread, failing])
def test_a_given_session_has_its_settings_back_and_lives(spark, run):
    own = {"spark.sql.session.timeZone": "Asia/Tokyo", "spark.sql.parquet.compression.codec": "gzip"}
    usual = {name: spark.conf.get(name) for name in own}
    try:
        for name, value in own.items():
            spark.conf.set(name, value)
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
        before = settings(spark)
        run()
        assert settings(spark) == before
        assert spark.range(3).count() == 3 and active_session() is not None
    finally:
        for name, value in usual.items():
            spark.conf.set(name, value)
        spark.conf.set(
            "spark.sql.execution.arrow.maxRecordsPerBatch", session.REQUIRED_CONF["spark.sql.execution.arrow.maxRecordsPerBatch"]
        )


@pytest.mark.spark
def test_what_a_platform_does_not_let_us_set_is_left(spark, monkeypatch):
    """Of a static setting Spark says that it cannot be modified, as serverless platforms say of most."""
    monkeypatch.setitem(session.REQUIRED_CONF, "spark.sql.warehouse.dir", "/nowhere")
    before = spark.conf.get("spark.sql.warehouse.dir")
    with running_session() as given:
        assert given.conf.get("spark.sql.warehouse.dir") == before


@pytest.mark.spark
def test_the_session_that_there_is_is_taken_as_it_is(spark):
    before = settings(spark)
    assert spark_session("local[7]") is spark
    assert settings(spark) == before


# ---- the user's process


#: Imports what a notebook imports, also the modules that Spark's functions travel with, and calls what workers call after every task.
NOTEBOOK = """
import gc, json, logging, os, sys, warnings
import numpy, pandas, scipy, pyarrow, pyspark, astropy.table, astropy.io.fits, matplotlib, sklearn, numba
from scipy import linalg, optimize, signal
import pyspark.sql, pyspark.sql.functions, pyarrow.parquet, pyarrow.csv
stderr = sys.stderr
def state():
    return {
        "environment": dict(os.environ),
        "gc": [gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()],
        "warnings": [repr(one) for one in warnings.filters],
        "numba": numba.config.CACHE_DIR,
        "log": [repr(one) for one in logging.getLogger().handlers] + [logging.getLogger().level],
        "pool": pyarrow.default_memory_pool().backend_name,
        "stderr": [sys.stderr is stderr, os.fstat(2).st_ino],
    }
before = state()
import nalspark, nalspark.session, nalspark.surroundings, nalspark.worker
from nalspark.worker import idle_cleanup, load_shared
load_shared()
idle_cleanup()
from nalspark.spectra.continuum import error_inflation
error_inflation(numpy.ones((1, 9)), numpy.ones((1, 9), bool), 3)
nalspark.surroundings.prepare(local=True)
print(json.dumps([before, state()]))
"""


def test_imports_and_searches_leave_the_users_process_as_it_is(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("NALSPARK_OWN_WORKER", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, env=environment | {"HOME": str(tmp_path)}, check=True
    )
    before, after = json.loads(done.stdout)
    assert after == before
    assert list((tmp_path / ".cache" / "nalspark").rglob("*.nbi")), "what is compiled is kept all the same, in a place of its own"


@pytest.mark.spark
def test_the_workers_of_our_own_session_are_our_own(spark):
    from nalspark.tables.arrow import map_batches

    def told(batches):
        import pyarrow as pa

        from nalspark.worker import is_own_process

        for batch in batches:
            yield pa.RecordBatch.from_arrays([batch.column(0), pa.array([is_own_process()] * batch.num_rows)], ["id", "own"])

    assert [row["own"] for row in map_batches(spark.range(4), told, "id long, own boolean").collect()] == [True] * 4
    assert "NALSPARK_OWN_WORKER" not in os.environ and "PYSPARK_PYTHON" not in os.environ


# ---- the start


def test_java_that_does_not_start_is_told_in_a_sentence(tmp_path, monkeypatch, capfd):
    """No trace of Java reaches the terminal."""
    trace = "Exception in thread main java.lang.UnsupportedOperationException: getSubject is not supported\n\tat Subject(Subject.java:1)"
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\n[ \"$1\" = -version ] && echo 'version \"17\"' >&2 && exit\necho '{trace}' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(session, "active_session", lambda: None)
    monkeypatch.setattr(session.SparkContext, "_gateway", None)
    with pytest.raises(NalsparkError, match="^Spark cannot be started here: getSubject is not supported. `nalspark doctor` tells"):
        spark_session()
    assert "\tat " not in capfd.readouterr().err


def test_a_spark_submit_that_has_ended_is_told_in_a_sentence(monkeypatch):
    """Its variables were left to this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", port)
    monkeypatch.setenv("PYSPARK_GATEWAY_SECRET", "x")
    monkeypatch.setattr(session, "active_session", lambda: None)
    monkeypatch.setattr(session.SparkContext, "_gateway", None)
    monkeypatch.setattr(session.SparkContext, "_active_spark_context", None)  # of the other tests
    monkeypatch.setattr(session.SparkSession, "_instantiatedSession", None)
    with pytest.raises(NalsparkError, match=f"^No session could be had from spark-submit .PYSPARK_GATEWAY_PORT {port}.: "):
        spark_session()


def test_two_masters_are_a_mistake(monkeypatch):
    monkeypatch.setenv("SPARK_REMOTE", "sc://far:15002")
    monkeypatch.setattr(session, "active_session", lambda: None)
    with pytest.raises(NalsparkError, match="SPARK_REMOTE is sc://far:15002, and --master asks for local"):
        spark_session("local[2]")


@pytest.mark.parametrize(
    "variable, ours", [("-Xmx512m", ["-XX:+UseParallelGC"]), ("-XX:+UseZGC", ["-Xms1g"]), ("-Dx=y", ["-XX:+UseParallelGC", "-Xms1g"])]
)
def test_options_of_java_that_a_user_has_chosen_stand(monkeypatch, variable, ours):
    """Java starts with neither two collectors nor a heap that begins larger than it may become."""
    monkeypatch.setenv("_JAVA_OPTIONS", variable)
    options = session._settings(local=True, conf={})["spark.driver.extraJavaOptions"].split()
    assert [option for option in options if option.startswith(("-XX:+Use", "-Xms"))] == ours

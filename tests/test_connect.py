"""The whole chain through Spark Connect: no SparkContext, no RDD, no broadcast, and the same catalogue."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from runs import assert_same_catalogue, environment, make_survey, run, settings_of

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


@pytest.mark.spark
@pytest.mark.skipif(any(map(absent, NEEDED)), reason="Spark Connect needs grpcio, grpcio-status, googleapis-common-protos and zstandard")
def test_files_to_catalogue_through_spark_connect(spark, tmp_path):
    survey = make_survey(tmp_path / "survey", 12, 6)
    command = [sys.executable, "-c", PROGRAM, str(__file__).rpartition("/")[0], str(survey), str(tmp_path / "connect")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(SPARK_REMOTE="local[2]"), timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run(spark, settings_of(survey, tmp_path / "classic"))
    assert_same_catalogue(tmp_path / "classic", tmp_path / "connect")

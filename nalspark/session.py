"""The Spark session: the one that a notebook or a cluster gives, one through Spark Connect, or a local one with whatever Java there is."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import lru_cache
from math import inf
from threading import Thread
from typing import Any

import pyspark
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException, PySparkRuntimeError, PythonException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nalspark.errors import NalsparkError
from nalspark.executors import awaited, coming_up
from nalspark.stop import tell
from nalspark.surroundings import JAVA_VARIABLES, JVM, check_remote, prepare, what_lacks
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
#: What Spark says where the process that ran a task's Python is gone.
_WORKER_DIED = "Python worker exited unexpectedly"
#: All cores, and four attempts for every task as on a cluster: a Python worker that the system kills costs one of them.
_LOCAL = "local[*,4]"
_COLLECTOR, _HEAP = "-XX:+UseParallelGC", "-Xms1g"
#: Options of a user beside which Java refuses to start with ours.
_INSTEAD = {r"-XX:\+Use\w+GC\b": _COLLECTOR, r"-Xm[sx]": _HEAP}
LOCAL_CONF = {
    # Local runs are short and their work is numpy: the JVM's second compiler costs more than it saves.
    # Collecting garbage stops all tasks: a tenth of a search, where only one of the cores does it.
    # A heap that begins large is not collected again and again while it grows.
    # With one compiler Java keeps only 48 MB for compiled code, which Spark fills within minutes: from then on nothing is compiled.
    "spark.driver.extraJavaOptions": f"-XX:TieredStopAtLevel=1 {_COLLECTOR} {_HEAP} -XX:MetaspaceSize=256m "
    "-XX:ReservedCodeCacheSize=256m "
    f"-Dlog4j2.configurationFile=file:{JVM / 'log4j2.properties'}",
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


@contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables for what is started inside: Java, and what it starts, keep them; this process has its own back."""
    usual = {name: os.environ.get(name) for name in variables}
    _set_variables(variables)
    try:
        yield
    finally:
        _set_variables(usual)


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def active_session() -> SparkSession | None:
    """Give the session that a notebook or a cluster has, also to a thread that did not start it; None where there is none."""
    try:
        session = SparkSession.active()
    except PySparkRuntimeError:
        if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
            return None
        session = SparkSession.builder.getOrCreate()  # its clusters have one before any Python asks, and end where it is stopped
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
        Where the machine lacks what a session needs, or a variable or a server is in the way.
    """
    active = active_session()
    if active is not None:
        return active
    remote = _remote_of(master)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    local = (remote or master or "local").startswith("local") and not submitted
    settings = {"spark.app.name": name, **_settings(local=local, conf=conf or {})}
    joins = submitted or (remote and not local)
    with coming_up(None if submitted else master) if not (local or remote) else nullcontext():
        session = _joined(settings, remote, master) if joins else _started(settings, remote, master or _LOCAL, local=local)
    if local and "spark.sql.shuffle.partitions" not in (conf or {}):
        session.conf.set("spark.sql.shuffle.partitions", str(max(2, parallelism(session))))
    if is_classic(session):
        session.sparkContext.setLogLevel("ERROR")
    return session


def _remote_of(master: str | None) -> str | None:
    """Give the Spark Connect server that is asked for, and answers; None where none is."""
    remote = master if master and master.startswith("sc://") else os.environ.get("SPARK_REMOTE")
    if remote and master not in (None, remote):
        raise NalsparkError(f"SPARK_REMOTE is {remote}, and --master asks for {master}: unset the one, or leave out the other.")
    check_remote(remote)
    return remote


def _joined(settings: dict[str, str], remote: str | None, master: str | None) -> SparkSession:
    """Give a session on what runs already: a server of Spark Connect, or the Java of spark-submit."""
    if remote:  # it has its own choice in the rest
        settings = {key: value for key, value in settings.items() if key.startswith(("spark.sql.", "spark.app."))}
    try:
        return _session_of(settings, remote, master)
    except _NO_START as error:
        there = f"Spark Connect at {remote}" if remote else f"spark-submit (PYSPARK_GATEWAY_PORT {os.environ['PYSPARK_GATEWAY_PORT']})"
        raise NalsparkError(f"No session could be had from {there}: {spark_says(error).rstrip('.')}.") from None


def _session_of(settings: Mapping[str, str], remote: str | None, master: str | None) -> SparkSession:
    """Give the session of a builder, where Java or a server runs."""
    builder = SparkSession.builder.config(map=dict(settings))
    if remote:
        builder = builder.remote(remote)
    elif master:
        builder = builder.master(master)
    try:
        with warnings.catch_warnings():
            if remote:  # a server that runs already keeps its own choice of what only the start of one can set
                warnings.filterwarnings("ignore", "Failed to set spark", UserWarning)
            return builder.getOrCreate()
    except ImportError as error:
        why = str(error).splitlines()[0]
        raise NalsparkError(f"Spark Connect needs more libraries: pip install 'pyspark[connect]'. ({why})") from None


def _started(settings: dict[str, str], remote: str | None, master: str, *, local: bool) -> SparkSession:
    """Start Java in prepared surroundings, and a session in it; of what Java says meanwhile only the reason is told why it cannot."""
    given = prepare(local=local)
    for note in given.notes:
        _LOG.warning("%s", note)
    with _environment(given.variables | {"SPARK_REMOTE": None}), _Heard() as heard:  # SparkSubmit takes a master or a remote
        try:
            if SparkContext._gateway is None:
                conf = SparkConf(loadDefaults=False).setAll([*settings.items(), ("spark.master", remote or master)])
                SparkContext._gateway = launch_gateway(conf, {"stderr": heard.into})
                SparkContext._jvm = SparkContext._gateway.jvm
            if given.user:
                users = SparkContext._jvm.org.apache.hadoop.security.UserGroupInformation  # type: ignore[union-attr]
                users.setLoginUser(users.createRemoteUser(given.user))
            return _session_of(settings, remote, None if remote else master)
        except _NO_START as error:
            heard.close()
            if not local and isinstance(error, Py4JJavaError):  # a cluster's master, and not this machine, is in the way
                raise
            why = spark_says(error) if isinstance(error, Py4JJavaError) else heard.reason() or spark_says(error)
            raise NalsparkError(f"Spark cannot be started here: {why.rstrip('.')}. `nalspark doctor` tells what it was given.") from None


class _Heard:
    """What Java and Spark's scripts write on the error stream: kept while a session is started, and passed on afterwards."""

    def __enter__(self) -> _Heard:
        outlet, self.into = os.pipe()
        self._keeps, self._kept = True, b""
        self._thread = Thread(target=self._listen, args=(outlet,), daemon=True)
        self._thread.start()
        return self

    def _listen(self, outlet: int) -> None:
        with open(outlet, "rb") as said:
            for line in said:
                if self._keeps:
                    self._kept += line
                else:
                    with suppress(OSError):  # a host may have no error stream
                        os.write(2, line)

    def reason(self) -> str:
        """Give the line that tells why Java did not start, at its end; empty where there is none."""
        self._thread.join(1.0)  # ends when Java does
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip() and not line.startswith("\tat ")]
        telling = [line for line in lines if re.search("error|exception|not set|no such|denied", line, re.IGNORECASE)]
        return re.sub(r"^.*(Error|Exception)\b:? ", "", (telling or lines[-1:] or [""])[0])

    def close(self) -> None:
        """Leave the pipe to Java."""
        if self.into >= 0:
            os.close(self.into)
            self.into = -1

    def __exit__(self, *_: object) -> None:
        self._keeps = False
        self.close()


def _settings(*, local: bool, conf: Mapping[str, str]) -> dict[str, str]:
    """What a session that nalspark starts is given; `conf` comes last."""
    chosen = {**REQUIRED_CONF, **OWN_CONF, **(LOCAL_CONF if local else {}), **conf}
    theirs = " ".join(os.environ.get(name, "") for name in JAVA_VARIABLES)
    for pattern, ours in _INSTEAD.items():
        if local and re.search(pattern, theirs):
            chosen["spark.driver.extraJavaOptions"] = chosen["spark.driver.extraJavaOptions"].replace(ours, "")
    return chosen


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


#: What ends the start of a session.
_NO_START = (PySparkException, Py4JError, OSError)
#: What Spark raises where it cannot do something; the second only without Spark Connect.
SPARK_ERRORS = (PySparkException, Py4JJavaError)


def spark_says(error: BaseException) -> str:
    """Give the first line of what an error of :data:`SPARK_ERRORS` says."""
    java = getattr(error, "java_exception", None)
    return (str((java.getMessage() or java.toString()) if java is not None else error).splitlines() or [type(error).__name__])[0]


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
        lacks = told[1].strip() if told else what_lacks(error)
        if not lacks:
            raise
        raise NalsparkError(lacks) from None
    except (Py4JNetworkError, ConnectionError):
        raise NalsparkError(
            "Spark's Java process has ended in the middle of the work: it was killed, or most likely the machine has too little memory. "
            "What was finished is kept: run again; it goes on from there."
        ) from None
    except Exception as error:
        lacks = what_lacks(error) if isinstance(error, SPARK_ERRORS) else ""
        if lacks:
            raise NalsparkError(lacks) from None
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


def load_ahead(spark: SparkSession) -> None:
    """Have a local session that nalspark started begin its workers while Java is busy with itself; returns at once.

    For the first seconds of a session one thread of Java plans and loads, and all cores but one are idle. A worker that is there with its
    libraries answers the first task seconds earlier. On Linux the workers are forked with them (:mod:`nalspark.daemon`); elsewhere each
    loads them. Nothing depends on it: a worker that was not reached loads what it needs later.
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
            context.parallelize(range(cores), cores).foreachPartition(load)

    pyspark.InheritableThread(target=begin, daemon=True).start()  # which closes its connection to Java when it ends


#: Rows of a partition: fewer are not worth a task of their own, and to order them one partition need not be looked through; more take
#: long to sort.
_FEWEST_ROWS, _MOST_ROWS = 2_000, 50_000


def shuffle_partitions(cores: int, rows: int) -> int:
    """Choose the partitions of a shuffle: as many as cores, unless the rows are few or very many."""
    return max(min(cores, 1 + rows // _FEWEST_ROWS), rows // _MOST_ROWS)


def shuffles(spark: SparkSession, rows: int, partitions: int = 0) -> AbstractContextManager[None]:
    """Set the number of partitions of a shuffle of so many rows inside the block; one that the user chose, of us or of Spark, stays."""
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

"""What a Python worker is spared between its tasks, and what it loads before them."""

import gc
import importlib
import os
import platform
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from nalspark.session import LOCAL_CONF, load_ahead
from nalspark.tables.arrow import map_batches
from nalspark.worker import SHARED, idle_cleanup, load


@pytest.fixture
def own_process(monkeypatch):
    """This process stands for a worker of nalspark's own."""
    monkeypatch.setattr("nalspark.worker._own_process", True)


def test_what_came_with_an_import_is_set_aside_once(tmp_path, monkeypatch, own_process):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "with_lists.py").write_text("lists = [[] for _ in range(1000)]")
    idle_cleanup()
    try:
        before = gc.get_freeze_count()
        mine = [[] for _ in range(1000)]
        idle_cleanup()
        assert gc.get_freeze_count() <= before, "what a task makes is garbage one day"
        import with_lists

        idle_cleanup()
        assert gc.get_freeze_count() >= before + len(with_lists.lists)
        del mine
    finally:
        gc.unfreeze()


#: Eight arrays of 3 MB, and as many of Arrow, made and forgotten again and again: pages that the system hands out meanwhile.
PAGES = """
import resource
import numpy as np, pyarrow as pa
def batch():
    arrays = [np.ones(3 << 17) for _ in range(8)]
    return [pa.concat_arrays([pa.array(array[:1000]), pa.array(array)]) for array in arrays]
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_the_memory_of_one_batch_serves_the_next():
    allocators = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "ARROW_DEFAULT_MEMORY_POOL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(allocators)}
    of_workers = {name.removeprefix("spark.executorEnv."): value for name, value in LOCAL_CONF.items() if "Env." in name}

    def pages(**more):
        command = [sys.executable, "-c", PAGES]
        return int(subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True).stdout)

    given_back = pages()
    if not given_back:
        pytest.skip("this system does not count pages")
    assert pages(**of_workers) < 0.05 * given_back


@pytest.mark.spark
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_workers_keep_their_memory(spark):
    def pools(batches):
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"pool": [pa.default_memory_pool().backend_name]})

    frame = map_batches(spark.range(4, numPartitions=2), pools, "pool string")
    frame.collect()
    assert {row["pool"] for row in frame.collect()} == {"system"}


def known_in_workers(spark, modules):
    """Whether the worker of each of four tasks has loaded all of some modules."""

    def known(batches):
        for batch in batches:
            has = all(module in sys.modules for module in modules)
            yield pa.RecordBatch.from_arrays([batch.column(0), pa.array([has] * batch.num_rows)], ["id", "known"])

    return [row["known"] for row in map_batches(spark.range(0, 4, 1, 4), known, "id long, known boolean").collect()]


def test_the_workers_of_frames_load_ahead(spark, monkeypatch):
    """A module that nothing else here imports; if Spark told these workers from those of an RDD, frames would never see it."""

    def loaded(numbers):
        load(numbers)
        importlib.import_module("tabnanny")

    monkeypatch.setattr("nalspark.session.load", loaded)
    assert not any(known_in_workers(spark, ["tabnanny"]))
    for _ in range(100):  # one round reaches as many workers as there are cores: there may be more, and a slow machine may miss some
        load_ahead(spark)
        if all(known_in_workers(spark, ["tabnanny"])):
            return
    pytest.fail("the workers of frames never had what was loaded ahead")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked with their libraries on Linux only")
def test_a_worker_is_born_with_the_libraries_of_a_search(spark):
    """Also those that take the place of killed ones."""

    def die(batches):
        os.kill(os.getpid(), signal.SIGKILL)
        yield from batches

    for _ in range(3):
        with pytest.raises(Exception, match="worker exited unexpectedly"):
            map_batches(spark.range(0, 1, 1, 1), die, "id long").collect()
        assert all(known_in_workers(spark, SHARED))


def test_a_library_that_fails_or_prints_while_it_is_loaded_ends_no_session(tmp_path):
    """The daemon says on which port it listens, nothing before, and ends with its input, as Spark has it do."""
    (tmp_path / "astropy_healpix.py").write_text("import os; os.write(1, b'hello'); print('hello'); raise ImportError")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "nalspark.daemon", "pyspark.worker"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=120, env=environment)
    assert len(done.stdout) == 4 and 1024 < int.from_bytes(done.stdout, "big") < 65536
    assert done.stderr.count(b"hello") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_forked_has_no_threads_that_a_fork_would_lose():
    """But jemalloc's, which knows of forks."""
    code = "from glob import glob; from nalspark.worker import load_shared; load_shared(); "
    code += "print(*[open(name).read() for name in glob('/proc/self/task/*/comm')])"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=True)
    assert len(said.stdout.split()) <= 2 and set(said.stdout.split()[1:]) <= {"jemalloc_bg_thd"}, said.stdout

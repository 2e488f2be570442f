"""Work that a Python worker of Spark repeats for every task and needs to do only once, and work that it can do in advance.

Allocator, garbage collector, importer and environment belong to whoever started the process. They are changed only where that was nalspark:
in the workers of its own sessions, which know it by an environment variable, and in the process of its command line, which says so.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from threading import Thread
from zipimport import zipimporter

#: Environment variable of the workers of sessions that nalspark started.
OURS = "NALSPARK_OWN_WORKER"
_own_process = OURS in os.environ

#: Modules that this process had when its objects were last frozen.
_known = 0

#: glibc's numbers for two thresholds, and what they are set to, in bytes: up to which free memory at the end of the heap is kept, and up to
#: which arrays come from the heap (the most that it takes).
_M_TRIM_THRESHOLD, _TRIM = -1, 128 * 2**20
_M_MMAP_THRESHOLD, _MMAP = -3, 32 * 2**20


def own_process() -> None:
    """Say that this process is nalspark's own."""
    global _own_process
    _own_process = True


def is_own_process() -> bool:
    """Tell whether nalspark started this process: else nothing in it may be changed."""
    return _own_process


def keep_memory() -> None:
    """Have this process keep the memory of one batch for the next.

    glibc, and Arrow's own allocator, give what is free back to the system, which hands it out again, and clears it, page by page: ten
    pages for every spectrum in a search, and with them a twentieth of the CPU time of preprocess and search. With other C libraries
    nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP)
    mallopt(_M_TRIM_THRESHOLD, _TRIM)
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        # The daemon imports this module, and must not print: no library is loaded with it.
        import pyarrow as pa

        pa.set_memory_pool(pa.system_memory_pool())


def idle_cleanup() -> None:
    """Spare a worker of nalspark's own, at the end of a task, what Spark would do before and after every further one.

    Before every task Spark (to 4.1; SPARK-54744) has Python forget which modules its import paths hold. Python then reads the lists of all
    archives anew, of Spark's ``pyspark.zip`` and its jar too: at once, in 0.06 s, or (from Python 3.12 on) when it next looks for a module.
    Archives do not change under a running worker, so their finders keep the lists. After a task Spark looks through all objects for
    garbage: 0.05 s for the libraries of a search, 0.25 s with TensorFlow. What came with an import stays as long as the process and is
    frozen. On tables of a few thousand spectra both were half of what a worker did. After its first task a worker also begins to keep its
    memory (:func:`keep_memory`).
    """
    global _known
    if not _own_process:
        return
    if not _known:
        keep_memory()
    for finder in list(sys.path_importer_cache.values()):
        if isinstance(finder, zipimporter):
            vars(finder)["invalidate_caches"] = _nothing
    if len(sys.modules) != _known:
        _known = len(sys.modules)
        gc.freeze()


def _nothing() -> None:
    """Stands in for what need not be done."""


#: What tasks import, numba and pandas with it, and scikit-learn, which keras does; keras itself is left to the workers that score.
SHARED = (
    "nalspark.surveys.stages",
    "nalspark.surveys.crossmatch.stages",
    "nalspark.absorption.stages",
    "nalspark.pipeline.publish",
    "sklearn",
)
#: Seconds that a worker is held at least: its neighbour's task must not come to it too.
_HELD = 0.2


def load_shared() -> None:
    """Have :data:`SHARED` in this process; a task that needs what cannot be loaded tells what is wrong."""
    for module in SHARED:
        with suppress(Exception):
            import_module(module)


def load(_: Iterator[int], aside: Callable[[], object] | None) -> None:
    """Do what :func:`nalspark.session.load_ahead` has every worker do."""
    until = time.monotonic() + _HELD
    load_shared()
    if aside is not None:
        Thread(target=_tried, args=(aside,), daemon=True).start()
    time.sleep(max(0.0, until - time.monotonic()))


def _tried(function: Callable[[], object]) -> None:
    with suppress(Exception):  # whoever needs it tells what is wrong
        function()

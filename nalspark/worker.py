"""Work that a Python worker of Spark repeats for every task and needs to do only once, and work that it can do in advance.

Garbage collector and environment belong to whoever started the process. They are changed only where that was nalspark:
in the workers of its own sessions, which know it by an environment variable, and in the process of its command line, which says so.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

#: Environment variable of the workers of sessions that nalspark started.
OURS = "NALSPARK_OWN_WORKER"
_own_process = OURS in os.environ

#: Modules that this process had when its objects were last frozen.
_known = 0


def own_process() -> None:
    """Say that this process is nalspark's own."""
    global _own_process
    _own_process = True


def is_own_process() -> bool:
    """Tell whether nalspark started this process: else nothing in it may be changed."""
    return _own_process


def idle_cleanup() -> None:
    """Spare a worker of nalspark's own, at the end of a task, what Python would do after every further one.

    After a task Spark looks through all objects for garbage: 0.05 s for the libraries of a search, 0.25 s with TensorFlow. What came with
    an import stays as long as the process and is frozen.
    """
    global _known
    if _own_process and len(sys.modules) != _known:
        _known = len(sys.modules)
        gc.freeze()


#: What tasks import, numba and pandas with it.
SHARED = (
    "nalspark.surveys.stages",
    "nalspark.surveys.crossmatch.stages",
    "nalspark.absorption.stages",
    "nalspark.learning.inference",
)
#: Seconds that a worker is held at least: its neighbour's task must not come to it too.
_HELD = 0.2


def load_shared() -> None:
    """Have :data:`SHARED` in this process; a task that needs what cannot be loaded tells what is wrong."""
    for module in SHARED:
        with suppress(Exception):
            import_module(module)


def load(_: Iterable[int]) -> None:
    """Do what :func:`nalspark.session.load_ahead` has every worker do."""
    until = time.monotonic() + _HELD
    load_shared()
    time.sleep(max(0.0, until - time.monotonic()))

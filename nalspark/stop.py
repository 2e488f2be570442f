"""A signal ends the process of a command, whatever it is doing: with a sentence, its own status, and nothing left of what it started."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_SENTENCE = "nalspark: stopped. What was finished is kept: run the same command again to go on."
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that Java has to remove its temporary files and to take leave of a cluster, before it is killed.
_GRACE_S = 4.0
#: Seconds for whoever wants to know; he may wait for a thread that is waiting itself.
_TELL_S = 0.5
#: Linux: orphans among its descendants become this process's children.
_PR_SET_CHILD_SUBREAPER = 36

_told: list[Callable[[str], None]] = []


@contextmanager
def tell(function: Callable[[str], None]) -> Iterator[None]:
    """Have a function called with the name of the signal that ends this process, while the block runs."""
    _told.append(function)
    try:
        yield
    finally:
        _told.remove(function)


def stoppable(work: Callable[[], int]) -> int:
    """Do the work of a command so that SIGINT (Ctrl-C), SIGTERM and SIGHUP end the process at any moment, with status 128 + signal.

    Everything on disk survives a process that is killed; so nothing has to be unwound, and no library between is asked to. The work has a
    thread of its own: Python handles signals on the main one, which is always free here; and Spark sets its own handler of Ctrl-C, which
    asks Java something in the middle of another question, only there. An ignored SIGHUP stays so (``nohup``), not an ignored SIGINT, which
    a shell gives to what it starts with ``&``. A host that runs this in its own process has its own way to end it.
    """
    if threading.current_thread() is not threading.main_thread() or "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return work()
    usual = {number: signal.signal(number, _stop) for number in _SIGNALS}
    if usual[signal.SIGHUP] == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = os.getppid()
    try:
        with ThreadPoolExecutor(1, "nalspark") as thread:
            done = thread.submit(work)
            while not wait([done], timeout=1).done:
                # What was submitted is the child of Spark's Java process, which may be ended without a word to it.
                if "PYSPARK_GATEWAY_PORT" in os.environ and os.getppid() != parent:
                    _stop(signal.SIGTERM, None)
            return done.result()
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    for signal_number in _SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)  # the second one cuts nothing short
    for function in _told:
        telling = threading.Thread(target=_try, args=(function, signal.Signals(number).name), daemon=True)
        telling.start()
        telling.join(_TELL_S)
    with suppress(OSError, ValueError):  # nobody listens any more
        sys.stdout.flush()
        print(_SENTENCE, file=sys.stderr, flush=True)
    with suppress(OSError):
        for stream in (1, 2):  # that the work fails from here on is no news
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        _end_descendants()
    os._exit(128 + number)


def _try(function: Callable[[str], None], name: str) -> None:
    with suppress(Exception):
        function(name)


def _end_descendants() -> None:
    """End the processes that this one started, and theirs; elsewhere than on Linux Java ends by itself when its input is closed."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked, until = set[int](), time.monotonic() + _GRACE_S
    while below := _descendants():
        late = time.monotonic() > until
        # Java itself ends its Python workers: were they ended first, it would report them as lost.
        for pid in below if late else below.keys() - asked:
            if late or below[pid] == os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _descendants() -> dict[int, int]:
    """Process → its parent, of all that are below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: parents[pid] for pid in below - {os.getpid()}}

"""A cluster that does not answer, and executors that do not come: said within seconds, and given up after a while."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from py4j.protocol import Py4JError

from nalspark.errors import NalsparkError

if TYPE_CHECKING:
    from pyspark import SparkContext

_LOG = logging.getLogger("nalspark")
#: Seconds of silence after which it is said; executors of a standalone cluster come within five.
_SILENT_S = 10.0
_LOOK_S = 1.0
#: Seconds for one answer of a master.
_ANSWER_S = 5.0


@contextmanager
def coming_up(master: str | None) -> Iterator[None]:
    """Say what is wrong where a session at a cluster does not start, and soon that it takes long.

    Parameters
    ----------
    master : str or None
        As it was asked for; None where only spark-submit knows it.

    Raises
    ------
    NalsparkError
        Where nothing listens at the master's address, or Spark gives up.
    """
    _check_address(master or "")
    where = master or "the master that spark-submit was given"
    timer = threading.Timer(
        _SILENT_S, _LOG.warning, [f"After {_SILENT_S:.0f} s there is no answer from {where} yet. Spark tries for about a minute."]
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    except Py4JError as error:
        java = getattr(error, "java_exception", None)
        why = str(java.getMessage() if java is not None else error).splitlines()[0]
        raise NalsparkError(
            f"Spark did not start at {where}: {why} Is that the address of a master, 7077 by default, and not of its page?"
        ) from None
    finally:
        timer.cancel()


def _check_address(master: str) -> None:
    """Refuse a standalone master, or several of which one is enough, at whose address nothing listens: Spark tries for a minute."""
    if not master.startswith("spark://"):
        return
    why = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
                return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
    raise NalsparkError(
        f"No Spark master answers at {master}: {why}. Its page shows its address, spark://HOST:7077 by default; is it running?"
    )


@contextmanager
def awaited(context: SparkContext, patience_s: float) -> Iterator[None]:
    """Say soon that work waits because there is no executor, what was asked for and what there is; end the work after a while.

    Parameters
    ----------
    context : SparkContext
    patience_s : float
        Seconds without any executor after which all jobs are cancelled; infinite in a session of others.

    Raises
    ------
    NalsparkError
        Where none came.
    """
    if str(context.master).startswith("local"):
        yield
        return
    watch = _Watch(context, patience_s)
    watch.start()
    try:
        yield
    except Exception:
        if watch.gave_up:
            raise NalsparkError(watch.gave_up) from None
        raise
    finally:
        watch.ended.set()


class _Watch(threading.Thread):
    """Looks every second whether work waits for executors."""

    def __init__(self, context: SparkContext, patience_s: float) -> None:
        super().__init__(name="nalspark executors", daemon=True)
        self.context, self.patience_s = context, patience_s
        self.ended, self.gave_up = threading.Event(), ""

    def run(self) -> None:
        began, said = None, False
        with suppress(Exception):  # the session is gone: whoever ended it reports why
            while not self.ended.wait(_LOOK_S):
                if not self._waits():
                    began, said = None, False
                    continue
                began = began or time.monotonic()
                waited = time.monotonic() - began
                if waited >= self.patience_s:
                    self.gave_up = f"Given up: {self._silence(waited)}"
                    self.context.cancelAllJobs()
                    return
                if waited >= _SILENT_S and not said:
                    _LOG.warning("%s It goes on when one comes.", self._silence(waited))
                    said = True

    def _waits(self) -> bool:
        """Whether there is a job and nobody to do it; executors that are only asked for when there is work may come and go."""
        there = self.context._jsc.sc().getExecutorMemoryStatus().size() - 1  # type: ignore[attr-defined]  # the driver is one of them
        return not there and bool(self.context.statusTracker().getActiveJobsIds())

    def _silence(self, waited: float) -> str:
        conf = self.context.getConf()
        cores, memory = conf.get("spark.executor.cores", "all"), conf.get("spark.executor.memory", "1g")
        gpus = conf.get("spark.executor.resource.gpu.amount", "0")
        asked = f"{cores} cores (spark.executor.cores) and {memory} (spark.executor.memory)" + (f", {gpus} GPUs" if gpus != "0" else "")
        driver = f"{conf.get('spark.driver.host')}:{conf.get('spark.driver.port')}"
        return (
            f"No executor has come in {waited:.0f} s. Each was asked for with {asked}; {_there(self.context)}. "
            f"Ask for less, wait for what others hold, or see whether the workers reach the driver at {driver}."
        )


def _there(context: SparkContext) -> str:
    """What a standalone master has, as its own page tells; other cluster managers have pages of their own."""
    try:
        workers = [worker for worker in _workers(str(context.master)) if worker["state"] == "ALIVE"]
    except Exception:  # not standalone, or the page is closed to us
        return f"what there is, the page of {context.master} shows"
    if not workers:
        return f"{context.master} has no worker"
    sizes = Counter(
        f"{w['cores'] - w['coresused']} of {w['cores']} cores and {w['memory'] - w['memoryused']} of {w['memory']} MB free" for w in workers
    )
    return f"{context.master} has " + ", ".join(f"{n} worker{'s each' if n > 1 else ''} with {size}" for size, n in sizes.items())


def _workers(master: str) -> list[dict[str, Any]]:
    """The workers of a standalone master, from its page: where that is cannot be asked, it is 8080 or what Spark's own variable says."""
    host, _, port = master.removeprefix("spark://").partition(",")[0].rpartition(":")
    with urlopen(f"http://{host}:{os.environ.get('SPARK_MASTER_WEBUI_PORT', '8080')}/json/", timeout=_ANSWER_S) as page:
        told = json.load(page)
    if told["url"].rpartition(":")[2] != port:
        raise ValueError("the page of another master")
    return list(told["workers"])

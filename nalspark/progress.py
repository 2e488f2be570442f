"""What a run tells while it works: lines for a person, on a terminal the tasks that are done, and for machines a log of JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from pyspark import SparkContext
from pyspark.sql import SparkSession

from nalspark.session import is_classic


def now() -> str:
    """The present time, UTC, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """``41 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Pace:
    """How fast a stage goes and how long it will still take.

    Parameters
    ----------
    total : int
        Rows to work on; 0 where not known.
    clock : callable
        Seconds, from any start.
    """

    def __init__(self, total: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self._clock = total, 0.0, clock
        self._started = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def text(self, more: float = 0.0) -> str:
        """``, 350/s, 12 min left``; empty while there is nothing to tell. `more` rows are done beyond those counted."""
        done, seconds = min(self.done + more, self.total), self.seconds
        if done <= 0 or seconds <= 0:
            return ""
        left = seconds * (self.total - done) / done
        return f", {done / seconds:.0f}/s" + (f", {duration(left)} left" if left > 0 else "")


class Progress:
    """Writes lines to a stream, and what happened to a log; quiet where there is neither.

    Parameters
    ----------
    stream : text stream or None
    log : text stream or None
        Gets one JSON object a line: ``time``, ``event``, and what belongs to the event.
    """

    def __init__(self, stream: TextIO | None = sys.stderr, log: TextIO | None = None) -> None:
        self._stream, self._log = stream, log
        self._live = bool(stream and stream.isatty())
        self.pace = Pace()
        self._wave = 0

    def say(self, text: str) -> None:
        if self._stream:
            clear = "\r\x1b[K" if self._live else ""
            print(f"{clear}{text}", file=self._stream, flush=True)
        self.note("message", text=text.strip())

    def note(self, event: str, **what: Any) -> None:
        """Write an event to the log."""
        if self._log:
            print(json.dumps({"time": now(), "event": event, **what}, default=str), file=self._log, flush=True)

    def expect(self, rows: int) -> None:
        """A stage begins that has so many rows to work on."""
        self.pace, self._wave = Pace(rows), 0

    def begin(self, rows: int) -> None:
        """A wave of so many rows begins."""
        self._wave = rows

    def advance(self) -> None:
        """The wave is done."""
        self.pace.done += self._wave
        self._wave = 0

    @contextmanager
    def watch(self, spark: SparkSession, what: str) -> Iterator[None]:
        """Show how many Spark tasks of the running stages are done, until the block ends; only on a terminal."""
        if not self._live or not is_classic(spark):
            yield
            return
        done = threading.Event()
        watcher = threading.Thread(target=self._poll, args=(spark.sparkContext, what, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _poll(self, context: SparkContext, what: str, done: threading.Event) -> None:
        tracker, started = context.statusTracker(), time.monotonic()
        while not done.wait(0.5):
            infos = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info is not None]
            tasks, finished = sum(info.numTasks for info in infos), sum(info.numCompletedTasks for info in infos)
            pace = self.pace.text(self._wave * finished / max(tasks, 1))
            line = f"{what}: {finished}/{tasks} tasks, {time.monotonic() - started:.0f} s{pace}"
            print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
        print("\r\x1b[K", end="", file=self._stream, flush=True)

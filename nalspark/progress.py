"""What a run tells while it works: one line a stage, and on a terminal the tasks that are done."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pyspark import SparkContext


class Progress:
    """Writes lines to a stream; quiet if there is none.

    Parameters
    ----------
    stream : text stream or None
    """

    def __init__(self, stream: TextIO | None = sys.stderr) -> None:
        self._stream = stream
        self._live = bool(stream and stream.isatty())

    def say(self, text: str) -> None:
        if self._stream:
            clear = "\r\x1b[K" if self._live else ""
            print(f"{clear}{text}", file=self._stream, flush=True)

    @contextmanager
    def watch(self, context: SparkContext, what: str) -> Iterator[None]:
        """Show how many Spark tasks of the running stages are done, until the block ends; only on a terminal."""
        if not self._live:
            yield
            return
        done = threading.Event()
        watcher = threading.Thread(target=self._poll, args=(context, what, done), daemon=True)
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
            print(f"\r\x1b[K{what}: {finished}/{tasks} tasks, {time.monotonic() - started:.0f} s", end="", file=self._stream, flush=True)
        print("\r\x1b[K", end="", file=self._stream, flush=True)

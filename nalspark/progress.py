"""What a run tells while it works: lines for a person, a bar on a terminal, JSON lines for machines, and the logger ``nalspark``."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from rich.progress import Progress as RichProgress

#: What a run tells goes here too; whoever embeds nalspark decides who hears it.
logger = logging.getLogger("nalspark")
#: Seconds between two looks at what is done, for a bar and for a line in a file.
_EVERY_S, _LINE_S = 0.5, 60.0


def now() -> str:
    """Give the present time, UTC, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Write a time in words: ``41 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Pace:
    """How fast a stage goes and how long it will still take; `total` rows are to be worked on, 0 where not known."""

    def __init__(self, total: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self._clock = total, 0.0, clock
        self._started = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def text(self, more: float = 0.0) -> str:
        """Write ``, 350/s, 12 min left``; empty while there is nothing to tell. `more` rows are done beyond those counted."""
        done, seconds = min(self.done + more, self.total), self.seconds
        if done <= 0 or seconds <= 0:
            return ""
        left = seconds * (self.total - done) / done
        return f", {done / seconds:.0f}/s" + (f", {duration(left)} left" if left > 0 else "")


class Progress:
    """Tell a person by lines on a stream, machines by a log of events, and a host by the logger ``nalspark``.

    The logger gets every line at level INFO, and every other event at level DEBUG, as ``record.event``. No handler is set here: a host
    captures it with its own, and without one only warnings are shown, as Python does it.

    Parameters
    ----------
    stream : text stream or None
        On a terminal it shows a bar as well while a stage works.
    log : text stream or None
        Gets one JSON object a line: ``time``, ``event``, and what belongs to the event.
    """

    def __init__(self, stream: TextIO | None = sys.stderr, log: TextIO | None = None) -> None:
        self._stream, self._log = stream, log
        self._live = bool(stream and stream.isatty())
        self._bar: RichProgress | None = None
        self.expect(0)

    def say(self, text: str) -> None:
        """Tell a person a line."""
        self.show(text)
        self.note("message", text=text.strip())

    def show(self, text: str) -> None:
        """Write a line to the stream, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        elif self._stream:
            print(text, file=self._stream, flush=True)

    def note(self, event: str, **what: Any) -> None:
        """Write an event to the log."""
        if self._log:
            print(json.dumps({"time": now(), "event": event, **what}, default=str), file=self._log, flush=True)
        level = logging.INFO if event == "message" else logging.DEBUG
        logger.log(level, "%s", what.get("text", event), extra={"event": {"event": event, **what}})

    def stop(self, why: str) -> None:
        """Take the bar away and write to the log that the run was stopped; from now on nothing is told."""
        if self._bar:
            self._bar.stop()
        self.note("run_failed", kind=why, text="stopped")
        self._stream = self._log = self._bar = None

    def expect(self, rows: int, unit: str = "spectra") -> None:
        """Begin a stage that has so many spectra, or other rows, to work on."""
        self.pace, self._wave, self._unit = Pace(rows), 0, unit

    def begin(self, rows: int) -> None:
        """Begin a wave of so many rows."""
        self._wave = rows

    def advance(self) -> None:
        """End the wave."""
        self.pace.done += self._wave
        self._wave = 0

    @contextmanager
    def watch(self, spark: SparkSession, what: str) -> Iterator[None]:
        """Show how many rows are done until the block ends: by a bar on a terminal, elsewhere by a line now and then.

        Parameters
        ----------
        spark : SparkSession
            The share of a wave's tasks that are done counts as that share of its rows. Through Spark Connect, which does not tell of
            tasks, rows are done wave by wave.
        what : str
            Name of the stage.
        """
        self.expect(0)  # a stage that does not say how much it has to do shows no pace of the one before
        if not self._stream:
            yield
            return
        ended = threading.Event()
        with _bar(self._stream) if self._live else nullcontext() as self._bar:
            watcher = threading.Thread(target=self._follow, args=(self._bar, what, spark, ended), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                ended.set()
                watcher.join()
                self._bar = None

    def _follow(self, bar: RichProgress | None, what: str, spark: SparkSession, ended: threading.Event) -> None:
        task = bar.add_task(what, total=None, pace="") if bar else None
        with suppress(Exception):  # the session is gone: whoever ended it reports why
            while not ended.wait(_EVERY_S if bar else _LINE_S):
                more = self._wave * _share_of_tasks(spark)
                done = min(self.pace.done + more, self.pace.total)
                text = f"{done:,.0f} of {self.pace.total:,} {self._unit}{self.pace.text(more)}" if self.pace.total else ""
                if bar and task is not None:
                    bar.update(task, completed=done, total=self.pace.total or None, pace=text)
                else:
                    self.say(f"{what:<11} {text or 'at work'}")


class ProgressHandler(logging.Handler):
    """Show the warnings and errors of the logger ``nalspark``, with their tracebacks, where the lines of a run go and in its log.

    The command line sets it; a host that has handlers of its own does not need it.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.progress.show(text)
        self.progress.note(record.levelname.lower(), text=text)


def _bar(stream: TextIO | None) -> RichProgress:
    """A line that is drawn anew on the terminal `stream`, and leaves no trace."""
    # Loaded for a terminal only: a fifth of a second.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = TextColumn("{task.description:<11}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[pace]}", markup=False)
    # What a host has set as its output stays in its place.
    console = Console(file=stream)
    return RichProgress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)


def _share_of_tasks(spark: SparkSession) -> float:
    """Give the share of the tasks of the running Spark stages that is done, 0 … 1; 0 through Spark Connect, which does not tell."""
    from nalspark.session import is_classic

    if not is_classic(spark):
        return 0.0
    tracker = spark.sparkContext.statusTracker()
    infos = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info is not None]
    return sum(info.numCompletedTasks for info in infos) / max(sum(info.numTasks for info in infos), 1)

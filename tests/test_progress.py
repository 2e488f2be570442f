"""What a run tells, the pace of a stage, and what counts as a change; without Spark."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from nalspark import progress as module
from nalspark.pipeline.status import size
from nalspark.progress import Pace, Progress, ProgressHandler, duration, logger
from nalspark.tables.changes import value_changes


@pytest.mark.parametrize("seconds, text", [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3000, "50 min"), (12_000, "3 h 20 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rate_and_time_left_follow_from_what_is_done() -> None:
    times = iter([100.0, 110.0, 120.0, 130.0])
    pace = Pace(1000, clock=lambda: next(times))
    assert pace.text() == "", "nothing is done yet"
    pace.done = 200
    assert pace.text() == ", 10/s, 80 s left"
    assert pace.text(more=9999) == ", 33/s", "no more than all"


@pytest.mark.parametrize("n_bytes, text", [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (7.5e9, "7.5 GB"), (3e15, "3000.0 TB")])
def test_sizes(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text


def test_changes_are_named_by_their_dotted_key() -> None:
    before = {"search": {"min": 3.8, "max": 1}, "out": "a", "gone": True}
    assert value_changes(before, {"search": {"min": 4.5, "max": 1}, "out": "a", "new": []}) == [
        "gone: True -> none",
        "new: none -> []",
        "search.min: 3.8 -> 4.5",
    ]
    assert value_changes(before, before) == []


# ---- who hears what


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class TasksDone:
    """A session whose one running Spark stage has done three of four tasks, or of which none tells of tasks."""

    def __init__(self, classic: bool) -> None:
        info = SimpleNamespace(numTasks=4, numCompletedTasks=3)
        tracker = SimpleNamespace(getActiveStageIds=lambda: [7, 8], getStageInfo=lambda stage: info if stage == 7 else None)
        if classic:
            self.sparkContext = SimpleNamespace(statusTracker=lambda: tracker)


def test_lines_events_and_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    said, log = io.StringIO(), io.StringIO()
    progress = Progress(said, log)
    with caplog.at_level(logging.DEBUG, logger="nalspark"):
        progress.say("ingest      3 of 3 parts: 24 rows, 1 rejected")
        progress.note("stage_done", rows=24)
    assert said.getvalue() == "ingest      3 of 3 parts: 24 rows, 1 rejected\n"
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [event.pop("time")[:2] for event in events] == ["20", "20"]
    assert events == [
        {"event": "message", "text": "ingest      3 of 3 parts: 24 rows, 1 rejected"},
        {"event": "stage_done", "rows": 24},
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG"]
    assert [record.event for record in caplog.records] == events
    assert caplog.records[0].message == "ingest      3 of 3 parts: 24 rows, 1 rejected"


def test_nothing_is_set_in_the_users_process() -> None:
    """Neither a handler nor a level: who does not listen hears nothing, and where nobody is told nothing is written."""
    program = (
        "import logging, sys; from nalspark.progress import Progress; progress = Progress(None); progress.say('a line')\n"
        "with progress.watch(None, 'measure'): progress.say('another')\n"
        "names = [None, 'nalspark']\n"
        "print([logging.getLogger(name).handlers for name in names], logging.getLogger('nalspark').level, 'rich' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("[[], []] 0 False\n", "")


def test_warnings_and_errors_are_told_with_their_tracebacks() -> None:
    said, log = io.StringIO(), io.StringIO()
    handler = ProgressHandler(Progress(said, log))
    logger.addHandler(handler)
    try:
        logger.info("not this")
        try:
            raise TypeError("a fault of ours")
        except TypeError:
            logger.exception("internal error in %s", "ingest")
    finally:
        logger.removeHandler(handler)
    assert said.getvalue().startswith("internal error in ingest\nTraceback (most recent call last):")
    assert said.getvalue().endswith("TypeError: a fault of ours\n")
    (event,) = map(json.loads, log.getvalue().splitlines())
    assert event["event"] == "error" and event["text"] + "\n" == said.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    return Terminal()


def wait_for(terminal: Terminal, pattern: str) -> str:
    """What is on the terminal without its colours, once it shows `pattern`."""
    until = time.monotonic() + 20
    while True:
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
        if re.search(pattern, text) or time.monotonic() > until:
            return text
        time.sleep(0.01)


@pytest.mark.parametrize("classic, first, second", [(True, "750", "1,750"), (False, "0", "1,000")])
def test_a_terminal_shows_a_bar_of_spectra(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, classic: bool, first: str, second: str
) -> None:
    monkeypatch.setattr("nalspark.session.is_classic", lambda _: classic)
    progress, spark = Progress(terminal), TasksDone(classic)
    line = "measure     1 of 4 parts done, 1000 rows, with a line that is [longer] than the terminal is wide: " + "x" * 140
    with progress.watch(spark, "measure"):  # type: ignore[arg-type]
        progress.expect(4000)
        progress.begin(1000)
        assert re.search(rf"measure .*\D{first} of 4,000 spectra", wait_for(terminal, rf"\D{first} of 4,000 spectra"))
        progress.advance()
        progress.say(line)
        progress.begin(1000)
        assert re.search(rf"\D{second} of 4,000 spectra, \d+/s", wait_for(terminal, rf"\D{second} of 4,000 spectra, \d+/s"))
    assert line + "\n" in wait_for(terminal, "x" * 140), "lines stay as they are, above the bar"
    progress.say("after")
    assert terminal.getvalue().endswith("after\n")


def test_a_file_gets_lines_only_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nalspark.session.is_classic", lambda _: True)
    monkeypatch.setattr(module, "_LINE_S", 0.2)
    said = Terminal()
    progress = Progress(said)
    progress._live = False
    with progress.watch(TasksDone(True), "publish"):  # type: ignore[arg-type]
        progress.say("publish     begins")
        assert "publish     at work\n" in wait_for(said, "at work\n"), "nobody is left alone for long"
        progress.expect(4000)
        progress.begin(1000)
        assert re.search(r"^publish     750 of 4,000 spectra, \d+/s, \d+ s left$", wait_for(said, "750 of"), re.MULTILINE)
        progress.stop("SIGTERM")
        progress.say("publish     never")
    assert said.getvalue().startswith("publish     begins\n") and "never" not in said.getvalue() and "\x1b" not in said.getvalue()


def test_a_session_that_is_gone_ends_the_bar_without_a_word(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def gone(_: Any) -> float:
        raise ConnectionRefusedError("the session is gone")

    monkeypatch.setattr(module, "_share_of_tasks", gone)
    with pytest.raises(RuntimeError, match="what ended it"), Progress(terminal).watch(None, "infer"):  # type: ignore[arg-type]
        time.sleep(0.05)
        raise RuntimeError("what ended it")
    assert "gone" not in terminal.getvalue() + "".join(capfd.readouterr())

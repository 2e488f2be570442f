"""The pace of a stage, and what counts as a change; without Spark."""

from __future__ import annotations

import pytest

from nalspark.pipeline.status import size
from nalspark.progress import Pace, duration
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

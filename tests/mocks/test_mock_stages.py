"""Artificial spectra as Spark tasks: which names, and that a task, and so a file, is the same on any number of cores."""

from __future__ import annotations

from typing import Any

import pytest

from nalspark.mocks.stages import example_parts, mock_names
from nalspark.settings import load


@pytest.mark.spark
def test_tasks_follow_from_the_settings_alone(spark: Any) -> None:
    settings = load(overrides=["simulate.n=1500", "simulate.n_realistic=100", "simulate.spectra_per_part=700"])
    parts = example_parts(settings)
    assert parts == ["train-00000", "train-00001", "validation-00000", "calibration-00000", "test-00000"]
    names = mock_names(spark, parts, settings)
    tasks = [[tuple(row) for row in rows] for rows in names.rdd.glom().collect()]
    cut = [("train", 0, 500), ("train", 500, 700), ("train", 700, 1200), ("validation", 0, 300), ("calibration", 0, 50), ("test", 0, 50)]
    assert tasks == [
        [(f"{split}-{number}", f"{split}-{number // 700:05d}", split) for number in range(first, stop)] for split, first, stop in cut
    ]

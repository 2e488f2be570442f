"""The appendix network's examples: shown as often as the slides say, and never the same twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nalspark.emission.inject import parametric_frame


@pytest.fixture(scope="module")
def lae():
    spec = importlib.util.spec_from_file_location("lae", Path(__file__).parents[2] / "benchmarks" / "lae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_source_is_shown_in_ways_that_differ_and_its_line_stays_near_the_middle(lae):
    images = np.random.default_rng(0).normal(size=(2, 5, 9, 32)).astype(np.float32)
    images[:, :, 4, 16] = 50.0
    shown = lae.variants(images, 12)
    np.testing.assert_array_equal(shown[0], images)
    assert len({variant.tobytes() for variant in shown}) == 12
    row, column = np.nonzero(shown[:, 0, 0] == 50.0)[1:]
    assert set(row) == {4} and set(column) <= {15, 16, 17}


def test_the_slides_numbers(lae):
    assert sum(lae.UNIQUE[value] * lae.SHOWN[value] for value in lae.UNIQUE) == 16_205


def test_examples_have_the_class_asked_for(lae):
    frame = parametric_frame(60, 200)
    faint, bright = (lae.examples_of_class(value, 60, frame, "judge")[:, 0, 4, 14:19].mean() for value in (3, 5))
    assert bright > 1.3 * faint
    with pytest.raises(ValueError, match="class 7 is none of"):
        lae.examples_of_class(7, 5, frame, "judge")

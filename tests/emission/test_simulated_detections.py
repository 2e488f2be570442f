"""Simulated detections: the classes of the slides, the signal asked for, nothing that depends on an order."""

from __future__ import annotations

import numpy as np
import pytest

from nalspark.emission.cutouts import ROWS, CutoutFlag
from nalspark.emission.inject import ALL_CLASSES, CLASS_COUNTS, DETECTED_SNR, LEARNED_CLASSES, draw_classes, parametric_frame, simulate


@pytest.fixture(scope="module")
def simulated():
    return simulate([f"d{k}" for k in range(1500)], parametric_frame(90, 300), "judge")


def test_classes_are_as_frequent_as_in_the_slides():
    uniform = (np.arange(100_000) + 0.5) / 100_000
    classes = draw_classes(uniform, ALL_CLASSES)
    total = sum(CLASS_COUNTS.values())
    for value, count in CLASS_COUNTS.items():
        assert (classes == value).mean() == pytest.approx(count / total, abs=1e-4)
    assert (classes < 3).mean() == pytest.approx(0.461, abs=0.001)
    learned = draw_classes(uniform, LEARNED_CLASSES)
    assert set(learned) == set(LEARNED_CLASSES) and (learned >= 3).mean() == pytest.approx(0.5, abs=1e-3)


def test_a_real_lines_signal_is_its_classes(simulated):
    """Measured in the noise, with a filter that is not quite the line's: within its scatter."""
    snr = simulated.snr
    for value, (low, high) in {3: (4.0, 7.0), 4: (4.4, 8.0)}.items():
        assert low <= np.median(snr[simulated.classes == value]) <= high
    assert np.median(snr[simulated.classes == 5]) > np.median(snr[simulated.classes == 4]) + 1


def test_what_the_search_would_not_list_is_drawn_again(simulated):
    assert (simulated.snr >= DETECTED_SNR).mean() > 0.97


def test_every_kind_is_there_and_looks_as_it_should(simulated):
    kinds, images = simulated.kinds, simulated.images
    assert {"line", "bad amplifier", "bad pixel", "cosmic ray", "sky residual", "continuum edge", "noise peak"} == set(kinds)
    outside = images[:, 1, [0, 1, 7, 8], 13:20].mean(axis=(1, 2))
    assert outside[kinds == "sky residual"].mean() > 5 * abs(outside[kinds == "line"].mean())
    own = images[:, 1:, ROWS // 2, 15:18].mean(axis=2)
    share = own[:, 1] / own[:, 0]  # of the second fiber: a source is in several, a hot pixel in one
    assert np.median(share[kinds == "line"]) > 0.4 > np.median(share[kinds == "bad pixel"])
    assert images[kinds == "bad amplifier"].std() > 1.5 * images[kinds == "noise peak"].std()


def test_dead_rows_are_flagged(simulated):
    dead = (simulated.flags & CutoutFlag.DEAD_PIXELS) > 0
    assert 0.01 < dead.mean() < 0.06


def test_a_detection_depends_on_its_name_alone(simulated):
    again = simulate(["d7", "d3", "d1200"], parametric_frame(90, 300), "judge")
    for row, name in enumerate((7, 3, 1200)):
        np.testing.assert_array_equal(again.images[row], simulated.images[name])
        assert again.kinds[row] == simulated.kinds[name]
    other = simulate(["d7"], parametric_frame(90, 300), "judge", seed=2)
    assert not np.array_equal(other.images[0], simulated.images[7])


def test_no_fiber_lends_its_noise_to_two_splits():
    frame = np.repeat(np.arange(90, dtype=np.float32)[:, None] + 100.0, 300, axis=1)
    seen = {}
    for block in ("learn", "choose", "judge"):
        fibers = simulate([f"{block}{k}" for k in range(200)], frame, block).fiber
        seen[block] = (fibers.min() - ROWS // 2, fibers.max() + ROWS // 2)
    assert seen["learn"][1] < seen["choose"][0] and seen["choose"][1] < seen["judge"][0]

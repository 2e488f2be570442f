"""Cut-outs: the right pixels, edges and dead fibers, and the order of the fibers."""

from __future__ import annotations

import numpy as np
import pytest

from nalspark.emission import stages
from nalspark.emission.cutouts import (
    COLUMNS,
    ROWS,
    CutoutFlag,
    assemble,
    brightest_fibers,
    cut,
    faults,
    fiber_positions,
    line_profile,
    standardize,
)


def ramp(fibers=30, pixels=100):
    """A frame whose values tell their place."""
    return (1000.0 * np.arange(fibers)[:, None] + np.arange(pixels)).astype(np.float32)


def test_a_window_has_its_fiber_and_wavelength_in_the_middle():
    windows, flags = cut(ramp(), np.array([[10, 11, 12, 13]]), np.array([50]))
    assert windows.shape == (1, 4, ROWS, COLUMNS) and flags[0] == 0
    np.testing.assert_array_equal(windows[0, :, ROWS // 2, COLUMNS // 2], [10050, 11050, 12050, 13050])
    assert windows[0, 0, 0, 0] == 6034 and windows[0, 0, -1, -1] == 14065


@pytest.mark.parametrize(
    ("fiber", "column", "flag", "valid_rows", "valid_columns"),
    [
        (0, 50, CutoutFlag.EDGE_OF_FIBERS, slice(4, 9), slice(0, 32)),
        (29, 50, CutoutFlag.EDGE_OF_FIBERS, slice(0, 5), slice(0, 32)),
        (15, 0, CutoutFlag.EDGE_OF_WAVELENGTHS, slice(0, 9), slice(16, 32)),
        (15, 99, CutoutFlag.EDGE_OF_WAVELENGTHS, slice(0, 9), slice(0, 17)),
    ],
)
def test_at_an_edge_the_window_is_what_there_is_and_flagged(fiber, column, flag, valid_rows, valid_columns):
    windows, flags = cut(ramp(), np.full((1, 4), fiber), np.array([column]))
    valid = np.isfinite(windows[0, 0])
    expected = np.zeros_like(valid)
    expected[valid_rows, valid_columns] = True
    np.testing.assert_array_equal(valid, expected)
    assert flags[0] == flag
    images = assemble(windows, flags).images
    assert np.isfinite(images).all() and (images[0, :, ~expected] == 0).all()


def test_dead_pixels_inside_a_frame_are_told_from_its_edge():
    frame = ramp()
    frame[3, 50] = np.nan
    flags = cut(frame, np.array([[0] * 4, [3] * 4, [15] * 4]), np.array([50, 50, 50]))[1]
    assert (flags & CutoutFlag.DEAD_PIXELS > 0).tolist() == [True, True, False]
    assert (flags & CutoutFlag.EDGE_OF_FIBERS > 0).tolist() == [True, True, False]


def noise_with_line(height, seed=0):
    fibers = np.random.default_rng(seed).normal(size=(1, 4, ROWS, COLUMNS))
    fibers[0, :, ROWS // 2] += np.array(height)[:, None] * line_profile(5.6)[0]
    return fibers


def test_fibers_are_in_order_of_their_signal_and_the_sum_sees_the_line_best():
    cutouts = assemble(noise_with_line([1.0, 6.0, 3.0, 0.0]))
    middle = cutouts.images[0, :, ROWS // 2]
    profile = line_profile(5.6)[0]
    signal = middle @ profile / np.sqrt((profile**2).sum())
    assert signal[1] > signal[2] > signal[3] and signal[0] > signal[1]
    assert cutouts.snr[0] == pytest.approx(signal[0], rel=1e-5) and cutouts.flags[0] == 0


def test_the_noise_of_the_weighted_sum_has_the_width_of_the_fibers():
    fibers = np.random.default_rng(1).normal(size=(400, 4, ROWS, COLUMNS))
    images = assemble(fibers).images
    assert images[:, 0, :3].std() == pytest.approx(1.0, abs=0.02)


def test_dead_pixels_and_dead_fibers_are_zero_and_flagged():
    fibers = noise_with_line([6.0, 3.0, 2.0, 1.0])
    fibers[0, 0, 4, 16] = np.nan
    assert assemble(fibers).flags[0] == CutoutFlag.DEAD_PIXELS | CutoutFlag.DEAD_CENTRE
    fibers = noise_with_line([6.0, 3.0, 2.0, 1.0])
    fibers[0, 2] = np.nan
    gone = assemble(fibers)
    assert gone.flags[0] == CutoutFlag.DEAD_PIXELS | CutoutFlag.FEW_FIBERS
    assert (gone.images[0, 1:] == 0).all(axis=(1, 2)).sum() == 1 and gone.snr[0] > 5


def test_the_brightest_neighbours_of_a_fiber_are_its_own():
    frame = np.random.default_rng(3).normal(size=(224, 200)).astype(np.float32) * 0.1
    place = fiber_positions(224)
    near = np.flatnonzero((np.hypot(*(place - place[100]).T) < 2.6) & (np.arange(224) != 100))
    assert len(near) == 6
    lit = near[[0, 2, 5]]
    for height, fiber in zip((9.0, 8.0, 7.0), lit, strict=True):
        frame[fiber, 84:117] += height * np.exp(-0.5 * ((np.arange(84, 117) - 100) / 1.2) ** 2)
    assert brightest_fibers(frame, np.array([100]), np.array([100]))[0].tolist() == [100, *lit]
    corner = brightest_fibers(frame, np.array([0]), np.array([100]))[0]
    assert corner[0] == 0 and len(set(corner)) == 4


def test_ready_cutouts_come_into_our_unit():
    images = 37.0 * np.random.default_rng(4).normal(size=(2, 4, ROWS, COLUMNS))
    assert standardize(images).std() == pytest.approx(1.0, abs=0.05)


def test_broken_cutouts_have_a_reason():
    images = np.ones((5, 4, ROWS, COLUMNS))
    images[1, 2, 3, 4], images[2] = np.nan, 0.0
    found = faults(images, np.array([5.0, 0.0, 1.0, 6.0, np.nan]))
    assert [fault and fault[0] for fault in found] == [None, "not_finite", "no_data", "class_out_of_range", None]
    assert "from -2 to 5" in found[3][1]


def test_a_fault_of_our_own_in_a_frame_is_the_reason_of_its_detections(monkeypatch):
    def broken(path):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(stages, "significance_frame", broken)
    places = {"detection_id": ["a", "b"], "part": ["found"] * 2, "frame": ["x.fits"] * 2, "fiber": [1.0, 2.0], "wavelength": [4000.0] * 2}
    columns = {name: np.array(values, dtype=None if name in ("fiber", "wavelength") else object) for name, values in places.items()}
    rows = stages.cut_columns({**columns, "class": np.full(2, np.nan)}, {"x.fits": "/data/x.fits"})
    assert list(rows["reason"]) == ["internal_error"] * 2 and all("ZeroDivisionError" in detail for detail in rows["detail"])

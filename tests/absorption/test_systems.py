"""What one system is, and what lies in the path: by closed form, and by the slow way of saying the same."""

import numpy as np
import pytest

from nalspark.absorption.systems import count_in_path, in_path, match_radius, same_system, separation_pixels, system_names
from nalspark.lines import MG_II
from nalspark.spectra.grid import LATTICE


def test_the_radius_grows_with_the_width():
    assert match_radius([0.0, 1.0, 2.0, 5.0, np.nan]).tolist() == [4.0, 4.0, 4.5, 6.0, 4.0]


def test_the_separation_is_that_of_any_line_on_the_lattice():
    z, other = 1.0, 1.0017
    for line in MG_II.transitions:
        places = LATTICE.pixel(line.wavelength * (1 + np.array([z, other])))
        assert separation_pixels(z, other) == pytest.approx(places[1] - places[0], abs=1e-9)
    assert separation_pixels(other, z) == separation_pixels(z, other)


def test_one_system_within_four_pixels():
    z = 1.0
    near, far = (10 ** (pixels * 1e-4) * (1 + z) - 1 for pixels in (3.99, 4.01))
    assert near - z == pytest.approx(0.0018, abs=5e-5)
    assert same_system(z, [near, far], np.nan).tolist() == [True, False]
    assert same_system(z, far, 1.1) and not same_system(z, far, 1.0)
    # Half a thousandth of redshift is 1.09 pixels at z = 1.
    assert same_system(z, 10 ** (5.08e-4) * 2 - 1, 1.0, rounding=0.001) and not same_system(z, 10 ** (5.1e-4) * 2 - 1, 1.0, rounding=0.001)


def test_ends_are_in_the_path_and_gaps_are_not():
    start, stop = [0.4, 1.0], [0.8, 1.5]
    assert in_path([0.39, 0.4, 0.8, 0.9, 1.0, 1.6], start, stop).tolist() == [False, True, True, False, True, False]
    assert in_path(0.5, start, stop) and not in_path(0.5, [], [])
    # Each redshift with an interval of its own.
    assert in_path(np.array([0.5, 0.5]), np.array([[0.4], [0.6]]), np.array([[0.8], [0.9]])).tolist() == [True, False]


def test_counts_are_the_sum_over_spectra():
    rng = np.random.default_rng(1)
    z, start = np.round(np.linspace(0.0, 2.0, 41), 2), np.round(rng.uniform(0.0, 2.0, 200), 1)
    stop = start + np.round(rng.uniform(0.0, 0.5, 200), 1)
    expected = sum(in_path(z, [a], [b]).astype(int) for a, b in zip(start, stop, strict=True))
    assert count_in_path(z, start, stop).tolist() == expected.tolist()
    assert count_in_path(z, [], []).tolist() == [0] * 41


def test_absorbers_of_one_object_at_one_redshift_share_a_name() -> None:
    objects = np.array(["B", "A", "A", "B", "A", "A"], dtype=object)
    z = np.array([1.0, 1.2, 0.5, 1.0, 1.2011, 1.25])
    names = system_names(objects, z, np.full(6, 0.8))
    assert names.tolist() == ["B-z1.0000", "A-z1.2000", "A-z0.5000", "B-z1.0000", "A-z1.2000", "A-z1.2500"]
    order = np.random.default_rng(1).permutation(6)
    assert system_names(objects[order], z[order], np.full(6, 0.8)).tolist() == names[order].tolist()
    # The wider one says how far a system reaches; a chain may be longer than its links.
    away = 10 ** (5.5e-4) * 2.0 - 1
    assert len(set(system_names(["A", "A"], [1.0, away], [0.5, 0.5]))) == 2
    assert len(set(system_names(["A", "A"], [1.0, away], [0.5, 5.0]))) == 1
    assert len(set(system_names(["A"] * 3, [1.0, 10**3.5e-4 * 2 - 1, 10**7e-4 * 2 - 1], np.ones(3)))) == 1
    assert len(system_names([], [], [])) == 0

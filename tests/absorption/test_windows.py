"""Where the doublet can be seen: window, masks, redshift path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.absorption.windows import interval_around, observed_mask, redshift_path, search_window, searchable
from nalspark.lines import C_IV, MG_II
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE, WavelengthGrid

SMALL = WavelengthGrid(first=36000, n_pixels=60)


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
@pytest.mark.parametrize("z", [0.4, 1.0, 2.2, 3.9])
def test_window_ends(species, z):
    window = search_window(LATTICE, species, np.array([z]), 0.02)[0]
    blue, red = species.window_rest[0] * (1 + z + 0.02), species.window_rest[1] * (1 + z)
    np.testing.assert_array_equal(window, [blue < wavelength < red for wavelength in LATTICE.wavelength])


def test_window_of_the_paper():
    """Rest 1550-2800 Å: at z_qso = 1 the doublet is searched from 3800 Å (3100 Å is off the grid) to 5600 Å: z_abs = 0.359 to 1.003."""
    window = search_window(LATTICE, MG_II, np.array([1.0]), 0.02)
    _, stop, _ = redshift_path(LATTICE, MG_II, window)
    assert window[0, 0] and stop[0][0] == pytest.approx(2800 * 2 / 2796.3543 - 1, abs=3e-4)
    assert not search_window(LATTICE, MG_II, np.array([0.2, 6.0]), 0.02).any()


def test_observed_mask_marks_sky_and_milky_way():
    mask = observed_mask(LATTICE)
    flags = {wavelength: mask[int(np.rint(LATTICE.pixel(wavelength)))] for wavelength in (5577, 6300, 3934.8, 3969.6, 5891.6, 5897.6, 5000)}
    assert flags[5577] == flags[6300] == PixelFlag.SKY_LINE
    assert flags[3934.8] == flags[3969.6] == flags[5891.6] == flags[5897.6] == PixelFlag.GALACTIC
    assert flags[5000] == 0
    # 20 and 10 Å of sky are 15.6 and 6.9 pixels; 12, 12 and 18 Å of the Milky Way 13.2, 13.1 and 13.2: no more of the spectrum is lost.
    assert (mask > 0).sum() == pytest.approx(62, abs=5)


def test_searchable_needs_both_lines():
    good = np.ones((1, 60), bool)
    window = np.ones((1, 60), bool)
    usable = searchable(window, good, 11)[0]
    # One of five pixels may be missing, so pixel 1 is searchable and pixel 0 is not; the second line is eleven pixels on.
    assert np.flatnonzero(usable).tolist() == list(range(1, 60 - 11 - 1))


def test_one_bad_pixel_in_five_is_bridged_two_are_not():
    window = np.ones((1, 60), bool)
    good = window.copy()
    good[0, 30] = False
    assert searchable(window, good, 11)[0, 5:45].all()
    good[0, 31] = False
    unusable = set(range(29, 33))  # pixels whose five hold both
    expected = unusable | {pixel - 11 for pixel in unusable}
    assert set(np.flatnonzero(~searchable(window, good, 11)[0, :47])[1:]) == expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), min_size=60, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60), st.integers(7, 15))
def test_searchable_by_brute_force(window, good, offset):
    window, good = np.array([window]), np.array([good])
    found = searchable(window, good, offset)[0]
    for pixel in range(60):
        teeth = [[0 <= q < 60 and good[0, q] for q in range(centre - 2, centre + 3)] for centre in (pixel, pixel + offset)]
        assert found[pixel] == (window[0, pixel] and all(sum(tooth) >= 4 for tooth in teeth))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.booleans(), min_size=60, max_size=60), min_size=1, max_size=3))
def test_redshift_path_by_brute_force(searched):
    """The path is the sum of the pixels' widths in redshift, and a redshift lies in an interval exactly where its pixel was searched."""
    searched = np.array(searched)
    start, stop, delta = redshift_path(SMALL, MG_II, searched)
    edges = [10 ** ((SMALL.first + k - 0.5) * SMALL.step) / 2796.3543 - 1 for k in range(61)]
    for row, pixels in enumerate(searched):
        assert delta[row] == pytest.approx(sum(edges[k + 1] - edges[k] for k in np.flatnonzero(pixels)), abs=1e-12)
        assert delta[row] == pytest.approx((stop[row] - start[row]).sum(), abs=1e-15)
        centres = SMALL.wavelength / 2796.3543 - 1
        inside = ((start[row][:, None] < centres) & (centres < stop[row][:, None])).sum(axis=0)
        np.testing.assert_array_equal(inside, pixels.astype(int))
        assert (start[row][1:] > stop[row][:-1]).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.booleans(), min_size=60, max_size=60), min_size=1, max_size=3))
def test_each_searched_pixel_lies_in_one_interval_of_the_path(searched):
    searched = np.array(searched)
    row, pixel = np.nonzero(searched)
    start, stop, _ = redshift_path(SMALL, MG_II, searched)
    first, last = interval_around(SMALL, MG_II, searched, row, pixel)
    z = SMALL.wavelength / 2796.3543 - 1
    for k in range(len(row)):
        (which,) = np.flatnonzero((start[row[k]] < z[pixel[k]]) & (z[pixel[k]] < stop[row[k]]))
        assert (first[k], last[k]) == (start[row[k]][which], stop[row[k]][which])


def test_no_path_is_an_empty_list():
    start, stop, delta = redshift_path(SMALL, MG_II, np.zeros((1, 60), bool))
    assert len(start[0]) == len(stop[0]) == 0 and delta[0] == 0.0

"""Where the doublet can be seen: window, redshift path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.absorption.windows import interval_around, redshift_path, search_window, searchable, zhao_window
from nalspark.lines import C_IV, MG_II, SPEED_OF_LIGHT_KMS
from nalspark.settings import Preprocess
from nalspark.spectra.grid import LATTICE, ZHAO_GRID, WavelengthGrid

SMALL = WavelengthGrid(first=36000, n_pixels=60)


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
@pytest.mark.parametrize("z", [0.4, 1.0, 2.2, 3.9])
def test_window_ends(species, z):
    """From the species' own blue end, for z_qso + 0.02, to a line that falls in with 3000 km/s."""
    window = search_window(LATTICE, species, np.array([z]), Preprocess())[0]
    blue, red = species.window_rest[0] * (1 + z + 0.02), species.primary.wavelength * (1 + z) * (1 + 3000 / SPEED_OF_LIGHT_KMS)
    np.testing.assert_array_equal(window, [blue < wavelength < red for wavelength in LATTICE.wavelength])


@pytest.mark.parametrize("beyond", [0.0, 3000.0, 10_000.0])
def test_the_red_end_is_a_velocity_beyond_the_quasar(beyond):
    """c (z_abs - z_qso) / (1 + z_qso) of the last searched pixel is the setting, to a pixel of 69 km/s."""
    z = np.array([0.9, 1.6])
    window = search_window(LATTICE, MG_II, z, Preprocess(window_beyond_kms=beyond))
    for row in range(2):
        z_last = LATTICE.wavelength[np.flatnonzero(window[row])[-1]] / MG_II.primary.wavelength - 1
        assert SPEED_OF_LIGHT_KMS * (z_last - z[row]) / (1 + z[row]) == pytest.approx(beyond, abs=70)


def test_the_blue_end_can_be_set():
    """1216 Å in the quasar's rest frame: nothing else of the window changes."""
    z = np.array([2.2])
    own, wide = (search_window(LATTICE, MG_II, z, Preprocess(window_rest_blue=blue))[0] for blue in (0.0, 1216.0))
    added = LATTICE.wavelength[wide & ~own]
    assert added[0] == pytest.approx(1216 * 3.22, rel=2.3e-4) and added[-1] == pytest.approx(1550 * 3.22, rel=2.3e-4)
    assert not (own & ~wide).any() and len(added) == pytest.approx(np.log10(1550 / 1216) / 1e-4, abs=1)


def test_what_surveys_record_and_no_more_is_searched():
    """At z_qso = 1 from 3560 Å on (3100 Å is off the lattice); not at all where no part of the window is recorded."""
    assert search_window(LATTICE, MG_II, np.array([1.0]), Preprocess())[0, 0]
    assert not search_window(LATTICE, MG_II, np.array([0.2, 6.0]), Preprocess()).any()


@pytest.mark.parametrize("settings", [Preprocess(), Preprocess(window_rest_blue=1216, window_beyond_kms=0)], ids=["usual", "other window"])
def test_window_of_the_paper(settings):
    """Rest 1550-2800 Å, whatever is searched: at z_qso = 1 the network sees 3800 Å (3100 Å is off its grid) to 5600 Å."""
    window = zhao_window(ZHAO_GRID, MG_II, np.array([1.0]), settings)
    _, stop, _ = redshift_path(ZHAO_GRID, MG_II, window)
    assert window[0, 0] and stop[0][0] == pytest.approx(2800 * 2 / 2796.3543 - 1, abs=3e-4)
    assert not zhao_window(ZHAO_GRID, MG_II, np.array([0.2, 6.0]), settings).any()


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

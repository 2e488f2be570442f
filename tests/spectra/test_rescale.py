"""The clean-region rescaling at its borders, and what it falls back to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.rescale import clean_region, masked_median, rescale_factor

JUST_ABOVE = 1e-9


def make_spectra(n, flux=2.0):
    shape = (n, LATTICE.n_pixels)
    return Spectra(np.full(shape, flux, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.uint8), LATTICE)


@pytest.mark.parametrize(
    "z, blue, red",
    [
        # Zhao et al. 2019, §2.1: the border belongs to the lower range.
        (0.3, 4150, 4250),
        (1.0, 4150, 4250),
        (1.0 + JUST_ABOVE, 3020 * 2, 3100 * 2),
        (1.8, 3020 * 2.8, 3100 * 2.8),
        (1.8 + JUST_ABOVE, 2150 * 2.8, 2250 * 2.8),
        (2.8, 2150 * 3.8, 2250 * 3.8),
        (2.8 + JUST_ABOVE, 1420 * 3.8, 1500 * 3.8),
        (4.8, 1420 * 5.8, 1500 * 5.8),
        (0.0, 4150, 4250),
    ],
)
def test_regions_of_the_paper(z, blue, red):
    found = clean_region(np.array([z]))
    assert found[0][0] == pytest.approx(blue, rel=1e-7) and found[1][0] == pytest.approx(red, rel=1e-7)


@pytest.mark.parametrize("z", [0.5, 1.0, 1.001, 1.8, 1.81, 2.8, 2.81, 4.8])
def test_the_factor_is_the_median_of_that_region_alone(z):
    spectra = make_spectra(1)
    blue, red = clean_region(np.array([z]))
    inside = (LATTICE.wavelength >= blue[0]) & (LATTICE.wavelength <= red[0])
    assert inside.sum() > 50  # the region lies on the grid at every redshift of the paper
    spectra.flux[0, inside] = np.linspace(5, 9, inside.sum())
    assert rescale_factor(spectra, np.array([z]))[0] == pytest.approx(7.0, rel=1e-5)


def test_masked_pixels_do_not_count():
    spectra = make_spectra(1)
    inside = np.flatnonzero((LATTICE.wavelength >= 4150) & (LATTICE.wavelength <= 4250))
    spectra.flux[0, inside[::3]] = 1e6
    spectra.mask[0, inside[::3]] = PixelFlag.ABSURD
    spectra.flux[0, inside[1::3]] = np.nan
    spectra.ivar[0, inside[1::3]] = 0.0
    assert rescale_factor(spectra, np.array([0.7]))[0] == 2.0


def test_fallback_to_the_whole_spectrum():
    spectra = make_spectra(3)
    inside = (LATTICE.wavelength >= 4150) & (LATTICE.wavelength <= 4250)
    spectra.mask[0, inside] = PixelFlag.NO_DATA  # not covered
    spectra.flux[1, inside] = -1.0  # covered, but below zero
    spectra.flux[2, inside] = 0.0
    np.testing.assert_array_equal(rescale_factor(spectra, np.full(3, 0.7)), 2.0)
    # Beyond z = 5.5 the last region has left the grid.
    assert rescale_factor(make_spectra(1), np.array([6.0]))[0] == 2.0


def test_nan_where_nothing_is_positive():
    spectra = make_spectra(3, flux=-1.0)
    spectra.mask[1] = PixelFlag.NO_DATA
    spectra.flux[2] = 0.0
    assert np.isnan(rescale_factor(spectra, np.full(3, 0.7))).all()


def test_masked_median_of_nothing_is_nan():
    values = np.array([[3.0, 1.0, 2.0, np.nan], [1.0, 2.0, 3.0, 4.0]])
    found = masked_median(values, np.array([[True, True, True, False], [False] * 4]))
    np.testing.assert_array_equal(found, [2.0, np.nan])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    hnp.arrays(np.float64, (3, 7), elements=st.floats(-1e3, 1e3)),
    hnp.arrays(bool, (3, 7)),
)
def test_masked_median_is_numpys_on_what_is_left(values, use):
    for row, found in enumerate(masked_median(values, use)):
        left = values[row, use[row]]
        assert np.isnan(found) if not len(left) else found == pytest.approx(np.median(left))

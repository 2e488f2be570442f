"""The lattice: wavelengths, pixels, fingerprints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE, ZHAO_GRID, WavelengthGrid, lattice_pixels


def test_the_lattice_holds_what_surveys_record():
    """3560-10400 Å, to within a pixel; both ends of BOSS (3600-10400 Å) and of SDSS (3800-9200 Å) are inside."""
    wavelength = LATTICE.wavelength
    assert wavelength.shape == (4656,) and wavelength.dtype == np.float64
    assert wavelength[0] == pytest.approx(3560, rel=2.3e-4) and wavelength[-1] == pytest.approx(10400, rel=2.3e-4)
    np.testing.assert_allclose(np.diff(np.log10(wavelength)), 1e-4, rtol=1e-9)


def test_the_papers_grid_is_a_crop_of_the_lattice():
    wavelength = ZHAO_GRID.wavelength
    assert wavelength.shape == (3841,)
    first = ZHAO_GRID.first - LATTICE.first
    np.testing.assert_array_equal(wavelength, LATTICE.wavelength[first : first + 3841])
    # 3800-9200 Å (Zhao et al. 2019), to within a pixel: 2.3e-4 of the wavelength.
    assert wavelength[0] == pytest.approx(3800, rel=2.3e-4) and wavelength[-1] == pytest.approx(9200, rel=2.3e-4)
    np.testing.assert_allclose(np.diff(np.log10(wavelength)), 1e-4, rtol=1e-9)


def test_a_pixel_is_69_km_s():
    assert LATTICE.pixel_kms == pytest.approx(69.03, abs=0.005)
    assert WavelengthGrid(35798, 10, 2e-4).pixel_kms == pytest.approx(2 * LATTICE.pixel_kms)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-5000, 9000))
def test_pixel_and_wavelength_are_inverse(pixel):
    assert LATTICE.pixel(LATTICE.wavelength_at(pixel)) == pytest.approx(pixel, abs=1e-7)


def test_pixel_0_is_a_centre():
    assert LATTICE.pixel(LATTICE.wavelength[0]) == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(LATTICE.pixel(LATTICE.wavelength), np.arange(4656), atol=1e-7)
    np.testing.assert_allclose(LATTICE.wavelength_at(np.arange(4656)), LATTICE.wavelength, rtol=1e-14)


def test_fingerprint_tells_grids_apart():
    grids = [LATTICE, ZHAO_GRID, WavelengthGrid(35799, 3841), WavelengthGrid(35798, 3840), WavelengthGrid(35798, 3841, 2e-4)]
    assert len({grid.fingerprint for grid in grids}) == 5
    assert WavelengthGrid(35798, 3841).fingerprint == ZHAO_GRID.fingerprint


# ---- pixels of a file on the lattice


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 199), max_size=60), st.integers(33000, 44000), st.floats(-1.9e-6, 1.9e-6))
def test_lattice_pixels_are_indices_with_jumps_where_rows_are_missing(missing, first, jitter):
    """Rows of the lattice, within a fiftieth of a pixel, come back as what they are; half a pixel off none does."""
    expected = first + np.array(sorted(set(range(200)) - missing))
    np.testing.assert_array_equal(lattice_pixels(expected * 1e-4 + jitter), expected)
    assert lattice_pixels(expected * 1e-4 + 0.5e-4) is None


@pytest.mark.parametrize("loglam", [[3.6, 3.6001, 3.6001], [3.6001, 3.6], [3.6, np.nan], [3.6, np.inf], [3.6, 3.60013], [1e300]], ids=str)
def test_what_does_not_ascend_on_the_lattice_has_no_indices(loglam):
    assert lattice_pixels(np.array(loglam)) is None


def test_wider_pixels_are_no_gaps():
    """Of 2e-4 dex, every one on the lattice: none is missing between them."""
    assert lattice_pixels((36000 + 2 * np.arange(300)) * 1e-4) is None


# ---- batches


def test_a_batch_refuses_arrays_of_another_shape():
    flux = np.ones((2, 5), np.float32)
    grid = WavelengthGrid(35798, 5)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 4\), expected \(n spectra, p pixels\) = \(2, 5\)"):
        Spectra(flux, flux, np.zeros((2, 4), np.uint8), grid)
    with pytest.raises(ValueError, match="flux has shape"):
        Spectra(flux, flux, np.zeros((2, 5), np.uint8), WavelengthGrid(35798, 6))


def test_good_pixels_have_weight_and_no_flag():
    flux, ivar = np.ones((1, 4), np.float32), np.array([[1.0, 0.0, 1.0, 1.0]], np.float32)
    mask = np.array([[0, 0, PixelFlag.NO_DATA, PixelFlag.ABSURD | PixelFlag.FOREST]], np.uint8)
    assert Spectra(flux, ivar, mask, WavelengthGrid(35798, 4)).good.tolist() == [[True, False, False, False]]


def test_flags_are_distinct_bits_of_one_byte():
    values = [int(flag) for flag in PixelFlag]
    assert all(value & (value - 1) == 0 and 0 < value < 256 for value in values) and len(set(values)) == len(values)


def with_resolution(resolution):
    """Flat spectra, one for each row of `resolution` (n, 48)."""
    shape = (len(resolution), LATTICE.n_pixels)
    return Spectra(np.ones(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.uint8), LATTICE, resolution)


def test_resolution_is_kept_at_places_that_span_the_lattice():
    places = LATTICE.resolution_pixels
    assert len(places) == 48 and places[0] == LATTICE.first and places[-1] >= LATTICE.first + LATTICE.n_pixels - 1
    assert (np.diff(places) == 100).all()


def test_resolution_at_a_pixel_is_on_the_straight_line_between_its_places():
    """0.8 + pixel/10000, kept at every 100th pixel, is itself everywhere; row 1 knows none."""
    line = 0.8 + np.arange(0, 4800, 100) / 10_000
    spectra = with_resolution(np.array([line, np.full(48, np.nan)], np.float32))
    pixel = np.array([0, 1, 99, 100, 2345, LATTICE.n_pixels - 1])
    np.testing.assert_allclose(spectra.resolution_at(np.zeros(6, int), pixel), 0.8 + pixel / 10_000, rtol=1e-6)
    assert np.isnan(spectra.resolution_at(np.ones(6, int), pixel)).all()
    plain = Spectra(spectra.flux, spectra.ivar, spectra.mask, LATTICE)
    assert np.isnan(plain.resolution_at(np.zeros(6, int), pixel)).all()


@pytest.mark.parametrize("which", [np.array([False, True, True]), np.array([2, 0])], ids=["mask", "numbers"])
def test_spectra_are_taken_with_their_resolution(which):
    numbers = np.arange(3)[which]
    spectra = with_resolution(np.tile(np.arange(3, dtype=np.float32)[:, None], 48))
    taken = spectra.take(which)
    assert taken.resolution[:, 0].tolist() == numbers.tolist() and len(taken.flux) == len(numbers)
    assert Spectra(spectra.flux, spectra.ivar, spectra.mask, LATTICE).take(which).resolution is None

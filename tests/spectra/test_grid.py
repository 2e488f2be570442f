"""The lattice: wavelengths, pixels, fingerprints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE, WavelengthGrid


def test_the_papers_grid():
    wavelength = LATTICE.wavelength
    assert wavelength.shape == (3841,) and wavelength.dtype == np.float64
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
    np.testing.assert_allclose(LATTICE.pixel(LATTICE.wavelength), np.arange(3841), atol=1e-7)
    np.testing.assert_allclose(LATTICE.wavelength_at(np.arange(3841)), LATTICE.wavelength, rtol=1e-14)


def test_fingerprint_tells_grids_apart():
    grids = [LATTICE, WavelengthGrid(35799, 3841), WavelengthGrid(35798, 3840), WavelengthGrid(35798, 3841, 2e-4)]
    assert len({grid.fingerprint for grid in grids}) == 4
    assert WavelengthGrid(35798, 3841).fingerprint == LATTICE.fingerprint


def test_a_batch_refuses_arrays_of_another_shape():
    flux = np.ones((2, 5), np.float32)
    grid = WavelengthGrid(35798, 5)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 4\), expected \(n spectra, p pixels\) = \(2, 5\)"):
        Spectra(flux, flux, np.zeros((2, 4), np.uint8), grid)
    with pytest.raises(ValueError, match="flux has shape"):
        Spectra(flux, flux, np.zeros((2, 5), np.uint8), WavelengthGrid(35798, 6))


def test_good_pixels_have_weight_and_no_flag():
    flux, ivar = np.ones((1, 4), np.float32), np.array([[1.0, 0.0, 1.0, 1.0]], np.float32)
    mask = np.array([[0, 0, PixelFlag.SKY_LINE, PixelFlag.GALACTIC | PixelFlag.FOREST]], np.uint8)
    assert Spectra(flux, ivar, mask, WavelengthGrid(35798, 4)).good.tolist() == [[True, False, False, False]]


def test_flags_are_distinct_bits_of_one_byte():
    values = [int(flag) for flag in PixelFlag]
    assert all(value & (value - 1) == 0 and 0 < value < 256 for value in values) and len(set(values)) == len(values)

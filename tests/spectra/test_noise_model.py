"""Where spectra scatter more than their errors say: data in the package, on any part of the lattice."""

import numpy as np
import pytest

from nalspark.spectra.grid import LATTICE, WavelengthGrid
from nalspark.spectra.noise_model import noise_factor


def around(wavelength, reach=2):
    """Pixels at most `reach` from a wavelength in Å."""
    centre = int(np.rint(LATTICE.pixel(wavelength)))
    return slice(centre - reach, centre + reach + 1)


def test_without_a_model_errors_are_believed():
    np.testing.assert_array_equal(noise_factor("none", LATTICE), np.ones(LATTICE.n_pixels))


def test_sky_lines_scatter_more_and_the_rest_does_not():
    """O I 5578.9 Å (vacuum), the brightest line of the night sky; quiet stretches beside it; no error is made smaller."""
    factor = noise_factor("sdss", LATTICE)
    assert factor.shape == (LATTICE.n_pixels,) and (factor >= 1.0).all() and factor.max() < 10.0
    assert factor[around(5578.9)].max() >= 1.1
    quiet = factor[(LATTICE.wavelength > 4800) & (LATTICE.wavelength < 5400)]
    assert (quiet == 1.0).mean() > 0.9 and quiet.mean() < 1.02


@pytest.mark.parametrize("grid", [WavelengthGrid(37000, 900), WavelengthGrid(35000, 700), WavelengthGrid(20000, 50)])
def test_a_pixel_has_its_factor_on_every_grid(grid):
    whole = dict(zip(range(LATTICE.first, LATTICE.first + LATTICE.n_pixels), noise_factor("sdss", LATTICE), strict=True))
    expected = [whole.get(pixel, 1.0) for pixel in range(grid.first, grid.first + grid.n_pixels)]
    np.testing.assert_array_equal(noise_factor("sdss", grid), expected)


def test_the_factors_are_nobodys_to_change():
    """One array serves all batches of a process."""
    for model in ("none", "sdss"):
        with pytest.raises(ValueError, match="read-only"):
            noise_factor(model, LATTICE)[0] = 2.0

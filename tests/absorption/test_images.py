"""Candidate images: every line of an absorber lies in the middle of its row, at any redshift."""

import numpy as np
import pytest
from make_spectra import OFFSET, STEP, lines_at

from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, cut_images
from nalspark.lines import C_IV, C_IV_1548, FE_II_2600, MG_II, MG_II_2796, SI_IV_1393
from nalspark.spectra.grid import LATTICE

GEOMETRY = ImageGeometry.of(MG_II, STEP)


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
@pytest.mark.parametrize("z", [0.75, 1.2, 1.8, 2.6])
def test_every_row_centres_its_line_at_any_redshift(species, z):
    geometry = ImageGeometry.of(species, STEP)
    centres = [LATTICE.pixel(line.wavelength * (1 + z)) for line in species.transitions]
    pixel = int(np.rint(LATTICE.pixel(species.primary.wavelength * (1 + z))))
    for row, centre in enumerate(centres):
        if not HALF_WIDTH + 1 < centre < LATTICE.n_pixels - HALF_WIDTH - 1:
            continue
        spectrum = lines_at((centre, 1.0, 1.0))[None].astype(np.float32)  # this line alone
        image = cut_images(spectrum, np.array([0]), np.array([pixel]), geometry)[0, row]
        profile = np.average(np.arange(-HALF_WIDTH, HALF_WIDTH + 1), weights=image)
        # The candidate's pixel is rounded and so is the offset: half a pixel each at most.
        assert abs(profile) <= 1.0
        assert profile == pytest.approx(geometry.fractions[row] + LATTICE.pixel(species.primary.wavelength * (1 + z)) - pixel, abs=1e-3)


def test_geometry():
    assert GEOMETRY.shape == (8, 49)
    assert GEOMETRY.offsets[GEOMETRY.primary] == 0 and GEOMETRY.fractions[GEOMETRY.primary] == 0.0
    assert GEOMETRY.offsets[GEOMETRY.secondary] == 11 and GEOMETRY.fractions[GEOMETRY.secondary] == pytest.approx(OFFSET - 11)
    assert (np.abs(GEOMETRY.fractions) <= 0.5).all()
    assert (np.diff(GEOMETRY.offsets) > 0).all()  # rows by wavelength


def test_image_by_brute_force_and_zero_beyond_the_ends():
    """Candidates near both ends, and where rows fall off the grid altogether: 0 there, never the other end of the spectrum."""
    values = np.random.default_rng(1).uniform(1, 2, (3, 900)).astype(np.float32)
    row, pixel = np.array([2, 0, 1, 0]), np.array([3, 880, 450, 899])
    images = cut_images(values, row, pixel, GEOMETRY)
    assert images.shape == (4, 8, 49) and images.dtype == np.float32
    for k in range(4):
        for t in range(8):
            for c in range(49):
                at = pixel[k] + GEOMETRY.offsets[t] + c - 24
                assert images[k, t, c] == (values[row[k], at] if 0 <= at < 900 else 0.0)
    assert (images[0] == 0).mean() > 0.6 and (images[2] > 0).mean() > 0.2


def test_no_candidates_no_images():
    none = np.zeros(0, dtype=np.int64)
    assert cut_images(np.ones((2, 100), np.float32), none, none, GEOMETRY).shape == (0, 8, 49)


@pytest.mark.parametrize("taken, telling", [(SI_IV_1393, C_IV_1548), (MG_II_2796, FE_II_2600)], ids=str)
def test_the_rows_behind_those_of_the_species_show_what_speaks_for_another_ion(taken, telling):
    geometry, z = ImageGeometry.of(C_IV, STEP), 1500.0 * 3.5 / taken.wavelength - 1.0
    own = len(C_IV.transitions)
    assert geometry.shape[0] == own + len(C_IV.alternatives)
    pixel, there = (LATTICE.pixel(line.wavelength * (1 + z)) for line in (taken, telling))
    spectrum = lines_at((there, 1.0, 1.5))[None].astype(np.float32)
    image = cut_images(spectrum, np.array([0]), np.array([int(np.rint(pixel))]), geometry)[0]
    row = own + C_IV.alternatives.index((taken, telling))
    assert abs(np.average(np.arange(-HALF_WIDTH, HALF_WIDTH + 1), weights=image[row])) <= 1.0
    assert image[:own].sum() == 0.0

"""σ_W of a sightline: closed forms, bins, and the same as a least-squares fit at every pixel."""

import numpy as np
import pytest

from nalspark.absorption.sensitivity import BIN_PIXELS, REFERENCE_PIXELS, Sensitivity, bin_edges, bin_of, flat_bins, measure_sensitivity
from nalspark.lines import C_IV, MG_II
from nalspark.spectra.grid import LATTICE

GAP = round(MG_II.offset_pixels(MG_II.secondary, LATTICE.step))
#: rest Å of a line of unit depth and of the reference width.
UNIT = REFERENCE_PIXELS * np.sqrt(2 * np.pi) * np.log(10) * LATTICE.step


def sensitivity(weight, searched):
    weight = np.atleast_2d(np.asarray(weight, np.float32))
    return measure_sensitivity(weight, np.atleast_2d(searched), MG_II, LATTICE)


def bin_of_pixel(found: Sensitivity, pixel: int) -> int:
    return (LATTICE.first + pixel) // BIN_PIXELS - found.first_bin


def test_with_equal_errors_it_is_the_closed_form_of_a_gaussian_line() -> None:
    snr, searched = 20.0, np.zeros(LATTICE.n_pixels, bool)
    searched[1000:3000] = True
    found = sensitivity(np.full(LATTICE.n_pixels, snr**2), searched)
    middle = found.sigma_ew[0, bin_of_pixel(found, 2000)]
    # The second line, at the longer wavelength, is the worse one; Σ g² = √π s.
    assert middle == pytest.approx(UNIT * MG_II.secondary.wavelength / snr / np.sqrt(np.sqrt(np.pi) * REFERENCE_PIXELS), rel=2e-4)
    assert found.n_searched.sum() == 2000
    assert np.isnan(found.sigma_ew[found.n_searched == 0]).all() and np.isfinite(found.sigma_ew[found.n_searched > 0]).all()


def test_it_is_the_error_of_a_least_squares_fit_of_the_worse_line() -> None:
    rng = np.random.default_rng(5)
    weight = rng.uniform(0, 400, LATTICE.n_pixels) * (rng.random(LATTICE.n_pixels) > 0.1)
    searched = np.zeros(LATTICE.n_pixels, bool)
    searched[500:700] = True
    found = sensitivity(weight, searched)
    x = np.arange(LATTICE.n_pixels)
    for k in {bin_of_pixel(found, pixel) for pixel in (500, 560, 699)}:
        pixels = np.flatnonzero(searched & ((LATTICE.first + x) // BIN_PIXELS - found.first_bin == k))
        errors = []
        for pixel in pixels:
            both = []
            for line, centre in ((MG_II.primary, pixel), (MG_II.secondary, pixel + GAP)):
                profile = np.exp(-0.5 * ((x - centre) / REFERENCE_PIXELS) ** 2)
                both.append(UNIT * line.wavelength / np.sqrt(np.sum(weight * profile**2)))
            errors.append(max(both))
        assert found.n_searched[0, k] == len(pixels)
        assert found.sigma_ew[0, k] == pytest.approx(1 / np.mean(1 / np.array(errors)), rel=2e-3)


def test_a_place_without_data_on_the_second_line_cannot_be_seen_there() -> None:
    weight, searched = np.full(LATTICE.n_pixels, 100.0), np.ones(LATTICE.n_pixels, bool)
    weight[2000 + GAP - 20 : 2000 + GAP + 21] = 0.0
    found = sensitivity(weight, searched)
    assert np.isinf(found.sigma_ew[0, bin_of_pixel(found, 2000)])


def test_spectra_do_not_know_each_other_and_bins_are_those_of_the_lattice() -> None:
    rng = np.random.default_rng(1)
    weight, searched = rng.uniform(1, 9, (3, LATTICE.n_pixels)), np.zeros((3, LATTICE.n_pixels), bool)
    searched[0, 100:200], searched[2, 3000:4000] = True, True
    together = sensitivity(weight, searched)
    for row in range(3):
        alone = sensitivity(weight[row], searched[row])
        np.testing.assert_array_equal(alone.sigma_ew[0], together.sigma_ew[row])
    cells = together.cells()
    assert [len(cell) for cell in cells["n_searched"]][1] == 0
    assert cells["n_searched"][0].sum() == 100 and cells["n_searched"][0][0] > 0 and cells["n_searched"][0][-1] > 0
    first = np.flatnonzero(searched[0])[0]
    assert cells["first_bin"][0] == (LATTICE.first + first) // BIN_PIXELS
    z = LATTICE.wavelength[first] / MG_II.primary.wavelength - 1
    assert bin_edges(MG_II, cells["first_bin"][0]) <= z < bin_edges(MG_II, cells["first_bin"][0] + 1)
    assert together.at(np.array([0]), np.array([first]), LATTICE)[0] == cells["sigma_ew"][0][0]


def test_bins_of_a_batch_lie_one_after_the_other() -> None:
    columns = {
        "first_bin": np.array([3300, 3310, 3320]),
        "sigma_ew": [np.array([0.1, np.nan, 0.3], "f2"), np.zeros(0, "f2"), np.array([0.5], "f2")],
        "n_searched": [np.array([11, 0, 2], "u1"), np.zeros(0, "u1"), np.array([5], "u1")],
    }
    row, bins, sigma, searched = flat_bins(columns)
    assert row.tolist() == [0, 0, 2] and bins.tolist() == [3300, 3302, 3320]
    np.testing.assert_allclose(sigma, [0.1, 0.3, 0.5], rtol=1e-3)
    np.testing.assert_allclose(searched, [1, 2 / 11, 5 / 11])
    assert [len(part) for part in flat_bins({name: values[:0] for name, values in columns.items()})] == [0, 0, 0, 0]


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
def test_bins_and_redshifts_are_inverse_to_each_other(species) -> None:
    bins = np.arange(3230, 3640)
    edges = bin_edges(species, np.append(bins, bins[-1] + 1))
    np.testing.assert_array_equal(bin_of(species, 0.5 * (edges[:-1] + edges[1:])), bins)
    np.testing.assert_array_equal(bin_of(species, edges[:-1] + 1e-9), bins)
    np.testing.assert_allclose(np.diff(edges) / (1 + edges[:-1]), 10 ** (BIN_PIXELS * LATTICE.step) - 1)

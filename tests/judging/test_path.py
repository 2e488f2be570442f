"""The summed path: against loops over every pixel, closed forms, and whatever the order of the sightlines."""

from __future__ import annotations

import numpy as np
import pytest
from make_rates import make_sensitivity

from nalspark.absorption.measure import velocity_from_quasar
from nalspark.absorption.sensitivity import BIN_PIXELS, bin_edges
from nalspark.judging.path import (
    G_EW,
    Bins,
    Regions,
    absorption_distance,
    cells_of,
    find_regions,
    healpix_cells,
    in_memory,
    measure_path,
    redshift_at,
)
from nalspark.judging.statistics import no_correction
from nalspark.lines import MG_II
from nalspark.settings import Statistics

SETTINGS = Statistics(z_bins=(0.5, 0.8, 1.1, 2.0))
BINS = Bins.of(SETTINGS)
ONE = Regions(1, np.arange(-1, 12), np.zeros(13, np.int64))


def loop(sensitivity, ew, z_low, z_high, velocity=5000.0):
    """ΔZ and ΔX of places with W ≥ 5 σ_W, sightline by sightline and bin by bin."""
    total_z = total_x = 0.0
    for row in np.flatnonzero(sensitivity["primary"]):
        limit = redshift_at(sensitivity["z_qso"][row], velocity)
        for i, sigma in enumerate(sensitivity["sigma_ew"][row]):
            number = sensitivity["first_bin"][row] + i
            low, high = bin_edges(MG_II, number), bin_edges(MG_II, number + 1)
            if ew >= 5.0 * float(sigma):
                width = max(min(high, limit, z_high) - max(low, z_low), 0.0) * sensitivity["n_searched"][row][i] / BIN_PIXELS
                total_z += width
                total_x += width * (1 + 0.5 * (low + high)) ** 2 / np.sqrt(0.3 * (1 + 0.5 * (low + high)) ** 3 + 0.7)
    return total_z, total_x


@pytest.mark.parametrize("ew", [0.3, 0.6, 2.0])
def test_the_path_is_that_of_a_loop(ew):
    sensitivity = make_sensitivity(12, epochs=0.3)
    path = measure_path(in_memory(sensitivity), MG_II, BINS, ONE, 5000.0)
    for number, ends in enumerate(zip(BINS.z[:-1], BINS.z[1:], strict=True)):
        expected = loop(sensitivity, ew, *ends)
        np.testing.assert_allclose(path.at(path.delta_z, ew)[0, number], expected[0], rtol=1e-9)
        np.testing.assert_allclose(path.at(path.delta_x, ew)[0, number], expected[1], rtol=1e-9)
    assert path.n_sightlines == 12


def test_all_searched_path_is_in_the_histogram_however_noisy():
    sensitivity = make_sensitivity(8)
    path = measure_path(in_memory(sensitivity), MG_II, BINS, ONE, 5000.0)
    assert path.delta_z.sum() == pytest.approx(loop(sensitivity, np.inf, 0.5, 2.0)[0], rel=1e-9)
    noisy = sensitivity | {"sigma_ew": np.array([np.full(len(cell), 60.0) for cell in sensitivity["sigma_ew"]], dtype=object)}
    beyond = measure_path(in_memory(noisy), MG_II, BINS, ONE, 5000.0)
    assert beyond.delta_z.sum() > 0 and not beyond.delta_z[..., :-1].any() and not beyond.folded(no_correction).any()


def test_g_counts_sightlines():
    """Equal sightlines that see W everywhere from 0.5 σ-limits on."""
    n = 7
    sensitivity = {
        "primary": np.ones(n, bool), "ra": np.zeros(n), "dec": np.zeros(n), "z_qso": np.full(n, 3.0), "first_bin": np.full(n, 3300),
        "sigma_ew": [np.full(40, 0.1)] * n, "n_searched": [np.full(40, 11)] * n,
    }  # fmt: skip
    path = measure_path(in_memory(sensitivity), MG_II, BINS, ONE, 5000.0)
    np.testing.assert_allclose(path.sightlines_at(0.7)[3300:3340], n)
    assert path.sightlines_at(0.4).sum() == 0 and path.sightlines_at(0.7)[:3300].sum() == 0
    assert path.sightlines_at(1e3)[3310] == pytest.approx(n) and G_EW[-1] > 9


def test_absorption_distance_has_its_closed_forms():
    z = np.linspace(0.0, 4.0, 9)
    np.testing.assert_allclose(absorption_distance(z, 1.0), np.sqrt(1 + z), rtol=1e-12)  # Einstein-de Sitter
    np.testing.assert_allclose(absorption_distance(z, 0.0), (1 + z) ** 2, rtol=1e-12)  # de Sitter


def test_the_redshift_at_a_velocity_is_the_inverse_of_the_velocity():
    z_qso = np.array([0.5, 1.7, 3.0])
    for velocity in (-3000.0, 0.0, 5000.0, 60_000.0):
        np.testing.assert_allclose(velocity_from_quasar(redshift_at(z_qso, velocity), z_qso), velocity, atol=1e-6)


def test_a_bin_across_the_velocity_limit_counts_in_part_and_what_lies_behind_not_at_all():
    sensitivity = make_sensitivity(1, epochs=0.0)
    cells = cells_of(sensitivity, MG_II, 5000.0)
    limit = redshift_at(sensitivity["z_qso"][0], 5000.0)
    assert cells.z_high.max() == pytest.approx(limit) and cells.z_low.max() < limit
    behind = cells_of(sensitivity, MG_II, -3000.0)
    assert behind.path.sum() > cells.path.sum() and behind.z_high.max() > sensitivity["z_qso"][0]


def test_the_path_does_not_depend_on_batches_nor_on_order():
    sensitivity = make_sensitivity(40)
    order = np.random.default_rng(1).permutation(len(sensitivity["ra"]))
    shuffled = {name: values[order] for name, values in sensitivity.items()}

    def batches(names):
        for start in range(0, len(order), 7):
            yield {name: shuffled[name][start : start + 7] for name in names}

    regions = find_regions(in_memory(sensitivity), 4, 5)
    again = find_regions(batches, 4, 5)
    assert all(np.array_equal(a, b) for a, b in zip(regions, again, strict=True)) and 2 < regions.n <= 5
    one, other = (measure_path(source, MG_II, BINS, regions, 5000.0) for source in (in_memory(sensitivity), batches))
    np.testing.assert_allclose(one.delta_z, other.delta_z, atol=1e-12)
    np.testing.assert_allclose(one.g, other.g, atol=1e-9)


def test_regions_have_about_as_many_sightlines_each():
    sensitivity = make_sensitivity(3000, epochs=0.0)
    regions = find_regions(in_memory(sensitivity), 32, 30)
    counts = np.bincount(regions.of(sensitivity["ra"], sensitivity["dec"]))
    assert regions.n == len(counts) == 30 and counts.min() > 85 and counts.max() < 115


def test_sightlines_without_a_position_are_a_cell_of_their_own():
    assert healpix_cells([np.nan, 10.0, 0.0], [0.0, 91.0, 0.0], 1).tolist() == [-1, -1, 4]
    table = {"ra": np.array([np.nan, 5.0, 200.0]), "dec": np.array([np.nan, 5.0, 5.0]), "primary": np.ones(3, bool)}
    regions = find_regions(in_memory(table), 8, 30)
    assert regions.n == 3 and regions.of([200.0, np.nan], [5.0, np.nan]).tolist() == [2, 0]


def test_no_sightline_at_all():
    empty = {name: values[:0] for name, values in make_sensitivity(1).items()}
    regions = find_regions(in_memory(empty), 8, 30)
    path = measure_path(in_memory(empty), MG_II, BINS, regions, 5000.0)
    assert regions.n == 1 and not path.delta_z.any() and regions.of([1.0], [2.0]).tolist() == [0]

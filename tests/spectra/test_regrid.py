"""Onto the grid: exact on the lattice, conserving off it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE, WavelengthGrid
from nalspark.spectra.regrid import fill_gaps, place_on_grid, resample, sample_resolution

GRID = WavelengthGrid(first=36000, n_pixels=400)
#: log10 of the edges of the grid's pixels.
EDGES = (GRID.first + np.arange(GRID.n_pixels + 1) - 0.5) * GRID.step


def lattice(first, n):
    return (first + np.arange(n)) * 1e-4


def arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 0.1, n).astype(np.float32), rng.uniform(50, 150, n).astype(np.float32), np.zeros(n, np.uint8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(-900, 900), st.integers(1, 800))
def test_on_the_lattice_it_is_padding_and_cropping(shift, length):
    """Pixel by pixel: what lies on the grid is the same to the last bit, all else is NO_DATA."""
    flux, ivar, mask = arrays(length)
    mask[::7] = PixelFlag.ABSURD
    result = place_on_grid([flux], [ivar], [mask], [GRID.first + shift], GRID)
    for pixel in range(GRID.n_pixels):
        source = pixel - shift
        expected = (flux[source], ivar[source], mask[source]) if 0 <= source < length else (0.0, 0.0, PixelFlag.NO_DATA)
        assert (result.flux[0, pixel], result.ivar[0, pixel], result.mask[0, pixel]) == expected


def test_rows_of_any_length_and_origin_together():
    rows = [arrays(n, n) for n in (5, 400, 1000)]
    origin = [GRID.first + 10, GRID.first, lattice(GRID.first - 300, 1000) + 0.3e-4]
    together = place_on_grid(*zip(*rows, strict=True), origin, GRID)
    for k, row in enumerate(rows):
        alone = place_on_grid(*([values] for values in row), [origin[k]], GRID)
        np.testing.assert_array_equal(together.flux[k], alone.flux[0])
        np.testing.assert_array_equal(together.ivar[k], alone.ivar[0])
        np.testing.assert_array_equal(together.mask[k], alone.mask[0])
    assert together.flux.dtype == together.ivar.dtype == np.float32 and together.mask.dtype == np.uint8


def test_no_spectra_are_no_spectra():
    assert place_on_grid([], [], [], [], GRID).flux.shape == (0, 400)


def test_resampling_onto_its_own_pixels_changes_nothing():
    flux, ivar, mask = arrays(400)
    new = resample(flux, ivar, mask, lattice(GRID.first, 400), GRID)
    np.testing.assert_allclose(new[0], flux, rtol=1e-6)
    np.testing.assert_allclose(new[1], ivar, rtol=1e-5)
    assert not new[2].any()


def test_half_a_pixel_off_is_the_mean_of_two_neighbours():
    flux, ivar, mask = arrays(402)
    new_flux, new_ivar, bits, _ = resample(flux, ivar, mask, lattice(GRID.first - 1, 402) + 0.5e-4, GRID)
    np.testing.assert_allclose(new_flux, 0.5 * (flux[:-2] + flux[1:-1]), rtol=1e-4)  # in Å the redder half is wider, by a part in 4000
    # The variance keeps the power that correlation with the neighbours hides: the mean of the two, not a quarter of their sum.
    np.testing.assert_allclose(1 / new_ivar, 0.5 * (1 / ivar[:-2] + 1 / ivar[1:-1]), rtol=3e-4)
    assert not bits.any()


@pytest.mark.parametrize("old", [
    lattice(GRID.first - 50, 500) + 0.37e-4,  # off by a fraction
    np.log10(np.arange(10**3.59, 10**3.65, 0.8)),  # linear in wavelength
    np.log10(np.arange(10**3.59, 10**3.65, 0.13)),  # much finer
    np.log10(np.arange(10**3.59, 10**3.65, 3.1)),  # coarser
], ids=["shifted", "linear", "finer", "coarser"])  # fmt: skip
def test_flux_is_conserved(old):
    """∫ flux dλ over the whole grid is that of the old step function over the same range."""
    flux, ivar, mask = arrays(len(old))
    new, _, bits, _ = resample(flux, ivar, mask, old, GRID)
    assert not bits.any()
    middle = 0.5 * (old[1:] + old[:-1])
    edges = 10 ** np.concatenate([[2 * old[0] - middle[0]], middle, [2 * old[-1] - middle[-1]]])
    overlap = np.clip(np.minimum(edges[1:], 10 ** EDGES[-1]) - np.maximum(edges[:-1], 10 ** EDGES[0]), 0, None)
    assert (new.astype(float) * np.diff(10**EDGES)).sum() == pytest.approx((flux * overlap).sum(), rel=1e-6)


@pytest.mark.parametrize("spacing", ["half", 0.2, 0.8])
@pytest.mark.parametrize("region", [slice(100, 1000), slice(2900, 3700)], ids=["blue", "red"])
def test_errors_hold_in_sums_over_lines(spacing, region):
    """Monte Carlo: the error of a mean over 20 pixels, from the variances alone, is the scatter of such means.

    Single pixels scatter less than their errors say, because neighbours share old pixels, by as much as is told: the errors must be right
    for what is measured, which is lines of several pixels. 60 spectra of 40 boxes give the scatter to 1/√(2·2400) = 1.5 %; 5 % allows for
    boxes that share pixels at their ends.
    """
    old = lattice(LATTICE.first - 5, 4666) + 0.5e-4 if spacing == "half" else np.log10(np.arange(3550, 10410, spacing))
    sigma = 0.1 * (1 + 0.3 * np.sin(np.arange(len(old)) / 300))
    rng = np.random.default_rng(5)
    pixels, boxes = [], []
    sampled = np.arange(region.start, region.stop) / 100
    for _ in range(60):
        flux = (1 + sigma * rng.standard_normal(len(old))).astype(np.float32)
        new, ivar, bits, scatter = resample(flux, (sigma**-2).astype(np.float32), np.zeros(len(old), np.uint8), old, LATTICE)
        assert not bits.any()
        deviation, variance = (new[region] - 1).astype(float), 1 / ivar[region].astype(float)
        pixels.append(deviation / np.sqrt(variance) / np.interp(sampled, np.arange(len(scatter)), scatter))
        boxes.append(deviation.reshape(-1, 20).sum(axis=1) / np.sqrt(variance.reshape(-1, 20).sum(axis=1)))
    assert np.std(boxes) == pytest.approx(1.0, abs=0.05)
    assert np.std(pixels) == pytest.approx(1.0, abs=0.02)  # 1/√2 of it where every pixel is the mean of two: known beforehand


def test_a_masked_pixel_spoils_what_it_covers_and_no_more():
    flux, ivar, mask = arrays(402)
    flux[200], mask[200] = 1e6, PixelFlag.ABSURD
    flux[300], ivar[300] = np.nan, 0.0
    # Old pixel k lies a quarter of a pixel redwards of grid pixel k - 1: three quarters of it there, one quarter in the next.
    new_flux, new_ivar, bits, _ = resample(flux, ivar, mask, lattice(GRID.first - 1, 402) + 0.25e-4, GRID)
    assert np.flatnonzero(bits).tolist() == [199, 299]
    assert (new_flux[bits != 0] == 0).all() and (new_ivar[bits != 0] == 0).all()
    # The neighbours lost a quarter of themselves; what is left of them is the good pixel alone.
    assert new_flux[200] == pytest.approx(flux[201], rel=1e-6) and np.isfinite(new_flux).all()
    assert new_ivar[200] == pytest.approx(0.75 * ivar[201], rel=3e-4)


def test_what_the_spectrum_does_not_cover_has_no_data():
    flux, ivar, mask = arrays(100)
    _, new_ivar, bits, _ = resample(flux, ivar, mask, lattice(GRID.first + 50, 100) + 0.2e-4, GRID)
    covered = np.flatnonzero(bits == 0)
    assert covered[0] == 50 and covered[-1] == 149 and len(covered) == 100
    assert ((bits == PixelFlag.NO_DATA) == (new_ivar == 0)).all()
    nothing = resample(flux, ivar, mask, lattice(GRID.first + 5000, 100), GRID)
    assert (nothing[2] == PixelFlag.NO_DATA).all() and not nothing[0].any()


def test_a_fully_masked_spectrum_has_no_data():
    flux, ivar, mask = arrays(400)
    result = resample(flux, np.zeros_like(ivar), mask, lattice(GRID.first, 400) + 0.5e-4, GRID)
    assert (result[2] == PixelFlag.NO_DATA).all() and not result[1].any()


def test_a_pixel_alone_has_no_width():
    flux, ivar, mask = arrays(400)
    ivar[np.arange(400) != 200] = 0.0
    result = resample(flux, ivar, mask, lattice(GRID.first, 400) + 0.2e-4, GRID)
    assert (result[2] == PixelFlag.NO_DATA).all() and not result[0].any() and not result[1].any()


# ---- rows that are missing


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 399), min_size=100, max_size=399), st.sampled_from(["shifted", "linear", "finer", "coarser"]))
def test_a_row_cut_out_is_a_row_without_weight(kept, spacing):
    """Off the lattice, to the last bit: how a file says that a pixel has no data makes no difference."""
    steps = {"linear": 0.8, "finer": 0.3, "coarser": 2.5}
    old = lattice(GRID.first, 400) + 0.3e-4 if spacing == "shifted" else np.log10(10**3.6 + steps[spacing] * np.arange(400))
    flux, ivar, mask = arrays(400)
    rows = np.array(sorted(kept))
    without = np.where(np.isin(np.arange(400), rows), ivar, np.float32(0))
    cut = resample(flux[rows], ivar[rows], mask[rows], old[rows], GRID)
    for one, other in zip(cut, resample(flux, without, mask, old, GRID), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spacing", ["shifted", "linear"])
def test_pixels_are_not_stretched_over_a_gap(spacing):
    """40 rows are missing: the grid pixels there have no data, to within one, and what lies beside them is as it was."""
    old = lattice(GRID.first - 1, 402) + 0.5e-4 if spacing == "shifted" else np.log10(10**3.599 + 0.9166 * np.arange(402))
    flux, ivar, mask = arrays(402)
    there = (np.arange(402) < 180) | (np.arange(402) >= 220)
    whole, cut = resample(flux, ivar, mask, old, GRID), resample(flux[there], ivar[there], mask[there], old[there], GRID)
    bad = np.flatnonzero((cut[2] != 0) & (whole[2] == 0))
    missing = 0.5 * (old[219] + old[220] - old[179] - old[180]) / GRID.step
    assert abs(len(bad) - missing) <= 1 and (np.diff(bad) == 1).all()
    far = (np.arange(400) < bad[0] - 1) | (np.arange(400) > bad[-1] + 1)
    for one, other in zip(cut[:2], whole[:2], strict=True):
        np.testing.assert_allclose(one[far], other[far], rtol=1e-3)  # the usual step of 11 is not quite that of the next
    assert (cut[1][bad] == 0).all()


def test_gaps_are_filled_with_nothing():
    pixels, flux = np.array([7, 8, 11, 12]), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    filled, bits = fill_gaps(pixels, flux, np.ones(4, bool))
    assert filled.tolist() == [1, 2, 0, 0, 3, 4] and filled.dtype == np.float32
    assert bits.tolist() == [True, True, False, False, True, True]
    assert fill_gaps(pixels[:2], flux[:2])[0].tolist() == [1, 2]


# ---- resolution


def test_resolution_is_sampled_at_its_places():
    """A straight line in pixels is itself inside the spectrum, and stays at its ends beyond."""
    pixel = np.arange(500, 3500)
    sampled = sample_resolution(0.9 + pixel / 1e4, (LATTICE.first + pixel) * 1e-4, LATTICE)
    expected = 0.9 + np.clip(np.arange(0, 4800, 100), 500, 3499) / 1e4
    assert sampled.dtype == np.float32
    np.testing.assert_allclose(sampled, expected, rtol=1e-5)


@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf, -1.0, 0.1, 40.0])
def test_a_resolution_that_no_spectrograph_has_says_nothing(nothing):
    loglam = lattice(LATTICE.first, 3000)
    assert np.isnan(sample_resolution(np.full(3000, nothing), loglam, LATTICE)).all()
    mixed = np.where(np.arange(3000) % 3 == 0, nothing, 1.1)
    np.testing.assert_allclose(sample_resolution(mixed, loglam, LATTICE), 1.1, rtol=1e-6)


def test_spectra_on_the_grid_keep_the_resolution_that_they_have():
    rows = [arrays(400, k) for k in range(2)]
    known = np.linspace(0.8, 1.2, len(GRID.resolution_pixels), dtype=np.float32)
    placed = place_on_grid(*zip(*rows, strict=True), [GRID.first] * 2, GRID, resolution=[known, None])
    np.testing.assert_array_equal(placed.resolution[0], known)
    assert np.isnan(placed.resolution[1]).all()
    both = np.stack([known, 2 * known])  # as columns of a table come
    np.testing.assert_array_equal(place_on_grid(*zip(*rows, strict=True), [GRID.first] * 2, GRID, resolution=both).resolution, both)
    assert np.isnan(place_on_grid(*zip(*rows, strict=True), [GRID.first] * 2, GRID).resolution).all()


@pytest.mark.parametrize("odd", [1e-30, 1e-18, 1e-10, 1e10, 1e30])
def test_a_pixel_with_an_odd_weight_or_flux_spoils_no_other(odd):
    old = np.log10(3600 + 0.8 * np.arange(7781))
    flux, ivar = np.ones(7781), np.ones(7781)
    usual = resample(flux, ivar, np.zeros(7781, np.uint8), old, LATTICE)
    for values in (flux, ivar):
        values[1000] = odd
        found = resample(flux, ivar, np.zeros(7781, np.uint8), old, LATTICE)
        values[1000] = 1.0
        far = np.abs(LATTICE.wavelength - 3600 - 0.8 * 1000) > 3
        for one, other in zip(found[:3], usual[:3], strict=True):
            np.testing.assert_array_equal(one[far], other[far])
        assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()

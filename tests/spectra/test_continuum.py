"""The continuum: the smoother against linear algebra, then quasars whose continuum is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.lines import MG_II
from nalspark.settings import Preprocess
from nalspark.spectra import continuum
from nalspark.spectra.continuum import error_inflation, fit_continuum
from nalspark.spectra.grid import LATTICE

X = np.arange(LATTICE.n_pixels)
OFFSET = MG_II.offset_pixels(MG_II.secondary, LATTICE.step)
DEFAULTS = Preprocess()


def continuum_of(flux, sigma, good=None):
    """The continuum with the default settings; sigma a number or an array that broadcasts with flux."""
    good = np.ones(flux.shape, bool) if good is None else good
    ivar = np.where(good, np.broadcast_to(np.asarray(sigma, dtype=float) ** -2, flux.shape), 0.0)
    return fit_continuum(
        flux.astype(np.float32), ivar.astype(np.float32), good, scale=DEFAULTS.continuum_scale_pixels,
        iterations=DEFAULTS.continuum_iterations, significance=DEFAULTS.clip_significance,
    )  # fmt: skip


def quasar(z_qso):
    """Power law with broad C IV, C III] and a two-component Mg II."""
    rest = LATTICE.wavelength / (1 + z_qso)
    flux = (rest / 2500) ** -1.5
    for centre, height, sigma in ((1549, 0.8, 18), (1908, 0.4, 22), (2799, 0.5, 35), (2799, 0.3, 12)):
        flux = flux + height * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    return flux


def absorbed(centre, depth, sigma=1.8, ratio=1.4):
    """Fraction of the light that a doublet takes away, shape (p,)."""
    return sum(a * np.exp(-0.5 * ((X - x) / sigma) ** 2) for x, a in ((centre, depth), (centre + OFFSET, depth / ratio)))


def whittaker(values, weights, scale):
    """The rows of `values` (n, p), smoothed."""
    smooth, work = np.empty_like(values), np.empty((values.shape[1], 3))
    for row in range(len(values)):
        continuum._solve(values[row], weights[row], float(scale) ** 4, smooth[row], work)
    return smooth


def clip_outliers(deviation, good, significance):
    """Pixels of narrow deficits and of narrow excesses, (n, p) each, of deviations in σ."""
    n, n_pixels = deviation.shape
    marks, limits, sums = np.empty((n, 2, n_pixels), bool), np.empty((3, n_pixels)), np.empty(n_pixels + 2 * continuum._REACH + 1)
    for row in range(n):
        continuum._outlier_limits(good[row], float(significance), limits, sums)
        continuum._mark_outliers(np.where(good[row], deviation[row], 0.0), limits, marks[row], sums)
    return marks[:, 0], marks[:, 1]


def dense_whittaker(values, weights, scale):
    """The minimum of Σ w (v - u)² + scale⁴ Σ (second difference of u)², by its normal equations as one dense matrix."""
    difference = np.diff(np.eye(len(values)), 2, axis=0)
    return np.linalg.solve(np.diag(weights) + scale**4 * difference.T @ difference, weights * values)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(4, 40), st.floats(0.3, 6.0))
def test_whittaker_is_the_minimum_that_it_claims(seed, n_pixels, scale):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, n_pixels))
    weights = rng.uniform(0.1, 2, (3, n_pixels)) * (rng.random((3, n_pixels)) > 0.3)
    weights[:, [0, -1]] = 1.0  # at least two weights, as documented
    smooth = whittaker(values, weights, scale)
    for row in range(3):
        # Condition number up to scale⁴ n⁴ ~ 1e9 of 1e-16: seven digits are left.
        np.testing.assert_allclose(smooth[row], dense_whittaker(values[row], weights[row], scale), atol=1e-6)


@pytest.mark.parametrize("scale", [2.0, 15.0, 100.0])
def test_straight_lines_pass_unchanged_and_gaps_are_bridged_by_them(scale):
    """Closed form: a straight line has no second difference, so it is the minimum whatever the weights are."""
    line = 3.0 - 0.002 * X[None, :]
    weights = np.ones_like(line)
    weights[:, 500:900] = 0.0
    weights[:, ::5] = 7.0 * (weights[:, ::5] > 0)
    values = np.where(weights > 0, line, 1e3)  # what lies in the gap is not looked at
    np.testing.assert_allclose(whittaker(values, weights, scale), line, atol=1e-5)


@pytest.mark.parametrize("scale, period", [(5.0, 40.0), (15.0, 200.0), (15.0, 60.0)])
def test_waves_are_damped_as_the_closed_form_says(scale, period):
    """Far from the ends a wave of frequency ω is multiplied with 1 / (1 + scale⁴ (2 - 2 cos ω)²)."""
    omega = 2 * np.pi / period
    wave = np.cos(omega * X)[None, :]
    smooth = whittaker(wave, np.ones_like(wave), scale)
    inner = slice(1000, 2800)
    factor = 1 / (1 + scale**4 * (2 - 2 * np.cos(omega)) ** 2)
    np.testing.assert_allclose(smooth[:, inner], factor * wave[:, inner], atol=1e-6)


@pytest.mark.parametrize("snr, typical, worst", [(3, 0.06, 0.35), (10, 0.025, 0.12), (30, 0.012, 0.05)])
def test_a_quasar_with_emission_lines_is_recovered(snr, typical, worst):
    """Typical and worst relative error of the continuum, over emission lines too.

    With the smoothing length of 15 pixels at S/N 10 about 25 pixels are averaged: the noise alone leaves 1/(snr √25) = 2 % at S/N 10.
    """
    true = np.array([quasar(z) for z in (0.8, 1.4, 1.9, 2.4)])
    sigma = true / snr
    noise = sigma * np.random.default_rng(1).standard_normal(true.shape)
    error = (continuum_of(true + noise, sigma) / true - 1)[:, 30:-30]
    assert error.std() < typical and np.abs(error).max() < worst
    assert abs(error.mean()) < 0.2 * typical


def test_broad_emission_is_followed_not_cut():
    """The Mg II emission line's peak, 30 Å wide: the continuum reaches it to 2 % at S/N 20."""
    true = np.tile(quasar(1.2), (10, 1))
    sigma = true / 20
    flux = true + sigma * np.random.default_rng(2).standard_normal(true.shape)
    peak = int(LATTICE.pixel(2799 * 2.2))
    around = slice(peak - 5, peak + 6)
    assert continuum_of(flux, sigma)[:, around].mean() == pytest.approx(true[0, around].mean(), rel=0.02)


def width_bias(depth, sigma_pixels, snr):
    """Σ(1 - F/C) over the doublets relative to the truth, by the difference that an absorber makes to its own continuum."""
    n = 40
    rng = np.random.default_rng(3)
    centre = rng.uniform(500, 2600, n)
    true = np.tile(quasar(1.6), (n, 1))
    sigma = true / snr
    noise = sigma * rng.standard_normal(true.shape)
    taken = np.array([absorbed(x, depth, sigma_pixels) for x in centre])
    continuum = continuum_of(true * (1 - taken) + noise, sigma)
    lines = (np.abs(X - centre[:, None]) < 3 * sigma_pixels) | (np.abs(X - centre[:, None] - OFFSET) < 3 * sigma_pixels)
    seen = np.where(lines, 1 - true * (1 - taken) / continuum, 0.0)
    return seen.sum() / np.where(lines, taken, 0.0).sum() - 1


@pytest.mark.parametrize("depth, sigma_pixels, snr", [(0.5, 1.8, 10), (0.9, 1.8, 10), (0.9, 3.0, 10), (0.9, 1.8, 5)])
def test_absorbers_are_not_eaten(depth, sigma_pixels, snr):
    """At the S/N of a typical quasar the continuum takes at most a fifth of a strong doublet's raw equivalent width.

    The doublet fit has a level of its own and gains most of that back: see tests/absorption/test_measure.py.
    """
    assert -0.20 < width_bias(depth, sigma_pixels, snr) < 0.03


@pytest.mark.parametrize("depth, sigma_pixels, snr", [(0.5, 1.8, 10), (0.9, 3.0, 10), (0.5, 1.8, 30), (0.9, 3.0, 30)])
def test_absorbers_take_nothing_off_the_continuum(depth, sigma_pixels, snr):
    """What is set aside leaves no trace: the raw equivalent width is right to 12 %, at high S/N as well.

    More would be gained by setting aside the wings of every line, but round a faint one that chooses pixels by their noise, and takes the
    equivalent widths of all absorbers up. What is left is the wings', and the level of the doublet fit takes most of it.
    """
    assert abs(width_bias(depth, sigma_pixels, snr)) < 0.12


def test_gaps_do_no_harm():
    """Masked stretches, even with absurd values in them, are bridged; the rest is as without them."""
    true = quasar(1.4)[None, :]
    sigma = true / 15
    flux = true + sigma * np.random.default_rng(4).standard_normal(true.shape)
    good = np.ones(flux.shape, bool)
    good[0, 1500:1560] = good[0, :200] = good[0, -150:] = False
    broken = np.where(good, flux, np.nan)
    continuum = continuum_of(broken, sigma, good)
    assert np.isfinite(continuum).all()
    assert continuum[0, 1500:1560] == pytest.approx(true[0, 1500:1560], rel=0.04)  # 60 pixels, one smoothing length at most each side
    far = good[0] & (np.abs(X - 1530) > 200) & (X > 400) & (X[::-1] > 350)
    change = np.abs(continuum[0, far] / continuum_of(flux, sigma)[0, far] - 1)
    # Where the rounds end one sooner or later, a pixel at the limit of what is clipped moves its surroundings by a fraction of the noise.
    assert np.percentile(change, 99) < 0.01 and change.max() < 0.02


def test_two_good_pixels_are_enough():
    good = np.zeros((1, LATTICE.n_pixels), bool)
    good[0, [100, 3000]] = True
    assert np.isfinite(continuum_of(np.ones(good.shape), 0.1, good)).all()


def make_varied_batch(n=9):
    """Rows at different levels that need different numbers of rounds: S/N from 1 to 40, absorbers, gaps and cosmic rays in some."""
    rng = np.random.default_rng(6)
    snr = np.geomspace(1, 40, n)[:, None]
    true = np.array([quasar(z) for z in np.linspace(0.6, 2.4, n)])
    sigma = true / snr
    flux = true + sigma * rng.standard_normal(true.shape)
    for row in range(0, n, 2):
        flux[row] -= true[row] * absorbed(600 + 200 * row, 0.8, 2.5)
        flux[row, 2000 + row] += 50 * sigma[row, 0]
    unit = np.geomspace(1e-2, 1e3, n)[:, None]  # and in very different units
    good = rng.random(flux.shape) > 0.03
    return unit * flux, unit * sigma, good


def test_a_row_does_not_depend_on_the_others():
    """To the last bit, alone, in any company, in any order: Spark chooses the batches."""
    flux, sigma, good = make_varied_batch()
    together = continuum_of(flux, sigma, good)
    for row in range(len(flux)):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(continuum_of(flux[one], sigma[one], good[one])[0], together[row])
    order = np.array([4, 0, 8, 4, 2])
    np.testing.assert_array_equal(continuum_of(flux[order], sigma[order], good[order]), together[order])


def test_the_continuum_scales_with_the_flux():
    flux, sigma, good = make_varied_batch(3)
    np.testing.assert_allclose(continuum_of(1024 * flux, 1024 * sigma, good), 1024 * continuum_of(flux, sigma, good), rtol=1e-6)


# ---- what stands out


def test_narrow_features_stand_out_and_broad_ones_do_not():
    deviation = np.zeros((1, 500))
    deviation[0, 100:104] = -6.0  # an absorption line
    deviation[0, 200:202] = 6.0  # a cosmic ray
    deviation[0, 300:400] = -6.0  # a hundred pixels: the quasar's own
    deviation[0, 450] = -6.0  # masked
    good = np.ones((1, 500), bool)
    good[0, 450] = False
    deficit, excess = clip_outliers(deviation, good, 3.0)
    assert deficit[0, 100:104].all() and excess[0, 199:203].all()  # the cosmic ray with one pixel of margin
    assert not deficit[0, 290:410].any()
    assert not deficit[0, 440:460].any()
    assert not (deficit & excess).any()
    assert deficit.sum() == 4 and excess.sum() == 4


def test_the_wings_of_a_deep_line_are_set_aside_with_it():
    deviation = np.zeros((1, 500))
    deviation[0, 100:104] = -40.0
    deficit, _ = clip_outliers(deviation, np.ones((1, 500), bool), 3.0)
    assert deficit[0, 97:107].all() and not deficit[0, :85].any() and not deficit[0, 120:].any()


def test_a_shallow_line_clip_outliers_of_its_average():
    """Eleven pixels at 1.2 σ are 1.2 √11 = 4 σ together, though none is at 3."""
    deviation = np.zeros((1, 200))
    deviation[0, 90:101] = -1.2
    deficit, _ = clip_outliers(deviation, np.ones((1, 200), bool), 3.0)
    assert deficit[0, 90:101].all()
    assert not clip_outliers(deviation * 0.6, np.ones((1, 200), bool), 3.0)[0].any()  # 2.4 σ


# ---- error inflation


def expected_inflation(true, window):
    """Half of the window's residuals are above the continuum, their mean in units of √(2/π) is σ; thirty of unit size are added."""
    n = window / 2
    return (true * n + 30) / (n + 30)


@pytest.mark.parametrize("window", [101, 201, 1001])
@pytest.mark.parametrize("scatter", [1.0, 2.0])
def test_inflation_is_the_scatter_of_the_residuals(window, scatter):
    """1 for honest errors; nearly 2 for errors half as large as they should be: the prior of thirty pulls 2 down to 1.77 at 201 pixels."""
    noise = scatter * np.random.default_rng(7).standard_normal((60, 3841))
    inner = error_inflation(noise, np.ones(noise.shape, bool), window)[:, window:-window]
    # At scatter 2 one residual in 370 is beyond the cap of 6: 0.1 % of the mean.
    assert inner.mean() == pytest.approx(expected_inflation(scatter, window), rel=0.015)
    if window == 1001:
        assert inner.mean() == pytest.approx(scatter, rel=0.05)


def test_errors_are_never_reduced_by_more_than_15_percent():
    quiet = 0.2 * np.random.default_rng(8).standard_normal((5, 3841))
    assert error_inflation(quiet, np.ones(quiet.shape, bool), 201).min() == pytest.approx(0.85)


def test_absorption_does_not_inflate():
    """A trough of thirty pixels at -15 σ would give 3 if it counted; as it is, only the number of residuals above changes."""
    noise = np.random.default_rng(9).standard_normal((20, 3841))
    good = np.ones(noise.shape, bool)
    deep = noise.copy()
    deep[:, 1000:1030] = -15.0
    ratio = error_inflation(deep, good, 201) / error_inflation(noise, good, 201)
    assert np.abs(ratio - 1).max() < 0.1


def test_one_cosmic_ray_counts_as_six_sigma():
    quiet = np.zeros((1, 1001))
    quiet[0, 500] = 1e6
    found = error_inflation(quiet, np.ones(quiet.shape, bool), 201)[0]
    assert found[500] == pytest.approx((6 / np.sqrt(2 / np.pi) + 30) / 31)
    assert (found[:399] == 0.85).sum() == 0 and (found[:399] == 1.0).all()  # beyond the window: the prior alone


def test_inflation_ignores_masked_pixels_and_is_local():
    noise = np.random.default_rng(10).standard_normal((1, 2001))
    noise[0, 1200:1800] *= 3
    good = np.ones(noise.shape, bool)
    found = error_inflation(noise, good, 201)[0]
    assert found[300:1000].mean() == pytest.approx(1.0, abs=0.1) and found[1350:1650].mean() > 2.2
    good[0, 1200:1800] = False
    assert (error_inflation(noise, good, 201)[0, 1350:1650] == 1.0).all()


@pytest.mark.parametrize("window", [51, 52, 200, 201])
def test_any_window_that_the_settings_allow(window):
    deviation = np.random.default_rng(11).standard_normal((2, 800))
    assert error_inflation(deviation, np.ones(deviation.shape, bool), window).shape == deviation.shape


def test_beyond_what_is_covered_the_continuum_stays_as_it_ends():
    """A spectrum that begins late and ends early: what it has is fitted as if there were no more pixels, bit for bit."""
    true = quasar(1.4)[None, :]
    flux = true + true / 15 * np.random.default_rng(10).standard_normal(true.shape)
    good = np.zeros(flux.shape, bool)
    good[0, 300:3900] = True
    continuum, alone = continuum_of(flux, true / 15, good)[0], continuum_of(flux[:, 300:3900], true[:, 300:3900] / 15)[0]
    np.testing.assert_array_equal(continuum[300:3900], alone)
    assert (continuum[:300] == alone[0]).all() and (continuum[3900:] == alone[-1]).all()

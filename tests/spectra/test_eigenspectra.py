"""Eigenspectra of quasars that are sums of known curves: found again in spite of gaps, and drawn from as they were."""

from dataclasses import replace

import numpy as np
import pytest

from nalspark.errors import NalsparkError
from nalspark.spectra.eigenspectra import DrawnQuasars, align, bridge_gaps, fit_eigenspectra, reconstruction_errors, shift_pixels
from nalspark.spectra.grid import LATTICE, WavelengthGrid

GRID = WavelengthGrid(first=36000, n_pixels=400)
Z_RANGE = (1.0, 1.02)
MIDDLE = 1.01
AMPLITUDES = np.array([2.0, 1.0, 0.5])


def curves(rest):
    """A mean with an emission line, and three orthogonal shapes; rest wavelengths in Å."""
    x = np.log10(rest / 2050.0) * 100.0
    mean = 10.0 + 3.0 * np.exp(-0.5 * (x / 0.15) ** 2)
    return mean, np.stack([np.ones_like(x), np.sin(2.0 * x), np.cos(3.5 * x)])


def make_quasars(n, seed=1, error=0.02):
    """Flux, inverse variance with gaps, redshift, true flux and coefficients."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(*Z_RANGE, n)
    true_c = AMPLITUDES * rng.standard_normal((n, 3))
    true = np.empty((n, GRID.n_pixels))
    for row in range(n):
        mean, shapes = curves(GRID.wavelength / (1 + MIDDLE) / 10 ** (shift_pixels(z[row], *Z_RANGE) * GRID.step))
        true[row] = mean + true_c[row] @ shapes
    ivar = np.full(true.shape, error**-2)
    ivar[rng.random(true.shape) < 0.1] = 0.0
    for row, start in enumerate(rng.integers(0, GRID.n_pixels, n)):
        ivar[row, start : start + 60] = 0.0
    flux = true + error * rng.standard_normal(true.shape)
    flux[ivar == 0] = 1e4  # what is masked may hold anything
    return flux.astype(np.float32), ivar.astype(np.float32), z, true.astype(np.float32), true_c


@pytest.fixture(scope="module")
def quasars():
    return make_quasars(300)


@pytest.fixture(scope="module")
def model(quasars):
    flux, ivar, z, *_ = quasars
    return fit_eigenspectra(flux, ivar, z, Z_RANGE, components=3, rounds=30, held_out=np.arange(300) % 10 == 0, grid=GRID)


def test_a_low_rank_set_is_recovered_through_gaps(quasars, model):
    flux, ivar, z, true, _ = quasars
    learned = np.isfinite(model.scatter)
    rest = 10 ** ((model.first_pixel + np.arange(len(model.mean))) * GRID.step) / (1 + MIDDLE)
    mean, shapes = curves(rest)
    basis = np.linalg.qr(shapes[:, learned].T)[0]
    overlap = np.linalg.svd(model.components[:, learned] @ basis, compute_uv=False)
    assert overlap.min() > 0.9999  # the same three-dimensional space
    aligned, _ = align(true, z, Z_RANGE, GRID)
    weight, _ = align(ivar, z, Z_RANGE, GRID)
    inside, _ = align(np.ones_like(ivar), z, Z_RANGE, GRID)
    missed = model.reconstruct(model.project(align(flux, z, Z_RANGE, GRID)[0], weight)) - aligned
    gaps = (weight == 0) & (inside > 0) & learned
    assert gaps.sum() > 10_000
    assert np.abs(missed[gaps]).mean() < 0.02  # the error of a pixel
    assert model.mean[learned] == pytest.approx(mean[learned], abs=4 * 2.3 / np.sqrt(270))


def test_held_out_error_decreases_with_components_to_the_noise(quasars):
    flux, ivar, z, *_ = quasars
    held = np.arange(300) % 4 == 0
    models = [fit_eigenspectra(flux, ivar, z, Z_RANGE, components=k, held_out=held, grid=GRID) for k in (1, 2, 3)]
    errors = [one.reconstruction_error for one in models]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] == pytest.approx(0.02 / 10.5, rel=0.2)
    assert (models[0].n_quasars, models[0].n_held_out) == (225, 75)


def test_nothing_is_learned_from_what_is_held_out(quasars):
    flux, ivar, z, *_ = quasars
    held = np.arange(300) % 4 == 0
    other = flux.copy()
    other[held] *= 1.3
    ours, theirs = (fit_eigenspectra(values, ivar, z, Z_RANGE, components=3, held_out=held, grid=GRID) for values in (flux, other))
    np.testing.assert_array_equal(ours.components, theirs.components)
    assert ours.reconstruction_error != theirs.reconstruction_error


def test_draws_have_mean_and_scatter_of_the_learned_quasars(model):
    rng = np.random.default_rng(5)
    draws = np.array([model.draw(rng, MIDDLE, GRID) for _ in range(3000)])
    own = model.reconstruct(model.coefficients)[:, model.pixels(MIDDLE, GRID)]
    assert (draws > 0).all() and draws.shape == (3000, GRID.n_pixels)
    assert np.abs(draws.mean(axis=0) - own.mean(axis=0)).max() < 4 * own.std(axis=0).max() / np.sqrt(3000)
    np.testing.assert_allclose(draws.std(axis=0), own.std(axis=0), rtol=0.07)
    assert len(np.unique(draws[:, 0])) == 3000  # no quasar is merely repeated


@pytest.mark.parametrize("z_qso", [1.0, 1.006, 1.02])
def test_emission_lines_of_draws_stand_where_the_redshift_puts_them(model, z_qso):
    rng = np.random.default_rng(5)
    mean = np.mean([model.draw(rng, z_qso, GRID) for _ in range(200)], axis=0)
    inside = slice(30, 370)
    assert GRID.wavelength[inside][mean[inside].argmax()] == pytest.approx(2050.0 * (1 + z_qso), rel=4e-4)


def test_draws_stay_positive():
    flux, ivar, z, *_ = make_quasars(50)
    faint = fit_eigenspectra(flux - 9.0, ivar, z, Z_RANGE, components=3, grid=GRID)
    rng = np.random.default_rng(2)
    assert min(faint.draw(rng, MIDDLE, GRID).min() for _ in range(300)) > 0


def test_never_more_components_than_one_less_than_the_quasars():
    flux, ivar, z, *_ = make_quasars(6)
    few = fit_eigenspectra(flux, ivar, z, Z_RANGE, components=20, grid=GRID)
    assert few.components.shape[0] == 5 and few.n_quasars == 6
    assert np.isnan(few.reconstruction_error)
    with pytest.raises(NalsparkError, match="at least 2"):
        fit_eigenspectra(flux, ivar, z, Z_RANGE, held_out=np.arange(6) > 0, grid=GRID)


def test_a_quasar_that_was_rescaled_wrongly_rules_nothing(quasars, model):
    flux, ivar, z, *_ = quasars
    wrong = flux.copy()
    wrong[7] *= 50.0
    other = fit_eigenspectra(wrong, ivar, z, Z_RANGE, components=3, rounds=30, held_out=np.arange(300) % 10 == 0, grid=GRID)
    assert other.n_quasars == model.n_quasars - 1
    np.testing.assert_allclose(other.variance, model.variance, rtol=0.05)


def test_projection_is_row_by_row_and_tends_to_the_mean(quasars, model):
    flux, ivar, z, *_ = quasars
    values, weight = align(flux, z, Z_RANGE, GRID)[0], align(ivar, z, Z_RANGE, GRID)[0]
    np.testing.assert_array_equal(model.project(values, weight)[3:5], model.project(values[3:5], weight[3:5]))
    assert (model.project(values[:2], np.zeros_like(weight[:2])) == 0).all()
    faint = model.project(values[:50], weight[:50] * 1e-9)
    assert np.abs(faint).max() < 0.1 * np.sqrt(model.variance[0])
    assert (reconstruction_errors(model, values[:5], weight[:5]) < 0.01).all()


def test_pixels_that_few_have_continue_their_neighbours():
    flux, ivar, z, *_ = make_quasars(100)
    ivar[:, 100:140] = 0.0
    at = shift_pixels(z, *Z_RANGE)
    for row in range(100):  # a stretch that no quasar has, in the frame of the bin
        ivar[row, 200 + at[row] : 220 + at[row]] = 0.0
    model = fit_eigenspectra(flux, ivar, z, Z_RANGE, components=3, grid=GRID)
    unlearned = np.flatnonzero(~np.isfinite(model.scatter))
    assert len(unlearned) >= 20
    assert np.abs(np.diff(model.mean)).max() < 0.7 and np.isfinite(model.components).all()


def test_short_gaps_are_bridged_and_long_ones_are_not():
    ivar = np.ones((3, 100), dtype=np.float32)
    ivar[0, 20:30], ivar[0, 30:] = 0.0, 3.0
    ivar[1, 20:60] = ivar[1, :5] = ivar[1, 95:] = 0.0
    ivar[2] = 0.0
    bridged = bridge_gaps(ivar)
    assert bridged[0, 24] == pytest.approx(1 + 2 * 5 / 11)
    assert (bridged[0] > 0).all()
    np.testing.assert_array_equal(bridged[1:], ivar[1:])


def test_artificial_quasars_come_from_the_nearest_bin(model):
    flat = replace(model, z_low=2.0, z_high=2.1, mean=np.ones_like(model.mean), variance=0 * model.variance, coefficients=np.zeros((1, 3)))
    quasars = DrawnQuasars((model, flat))
    rng = np.random.default_rng(1)
    for z_qso, is_flat in ((1.01, False), (1.4, False), (1.8, True), (2.05, True), (3.0, True)):
        flux = quasars(rng, z_qso)
        assert flux.shape == (LATTICE.n_pixels,) and (flux > 0).all()
        assert (np.ptp(flux) < 1e-6) == is_flat

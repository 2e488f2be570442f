"""The doublet fit: exact where there is no noise, its errors those of Monte Carlo where there is."""

import numpy as np
import pytest
from make_spectra import OFFSET, STEP, make_images
from scipy.optimize import least_squares

from nalspark.absorption.fit import EPSILON, FIRST, LEVEL, LOG_WIDTH, SECOND, SLOPE, WIDTH_BOUNDS, _model, doublet_pixels, fit_doublets
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry
from nalspark.lines import MG_II

GEOMETRY = ImageGeometry.of(MG_II, STEP)
#: Sub-pixel phases of the first line.
PHASES = np.linspace(-0.5, 0.5, 11)


def fit(images, width=1.8):
    residual, inverse_error = (np.asarray(image, dtype=float) for image in images)
    return fit_doublets(residual, inverse_error, np.full(len(residual), width), GEOMETRY, OFFSET)


@pytest.mark.parametrize("sigma", [1.0, 1.8, 3.5])
@pytest.mark.parametrize("first, second", [(0.5, 0.35), (0.9, 0.9), (0.08, 0.04)])
def test_noise_free_lines_are_recovered_at_any_phase(sigma, first, second):
    """Errors of 0.001, so that the broad priors weigh little: ln s = 0 is 0.8 σ of its prior off, which moves the faintest line by 2e-4."""
    result = fit(make_images(PHASES, sigma, first, second, error=1e-3))
    expected = np.stack([PHASES, *np.broadcast_to(np.array([[np.log(sigma)], [first], [second], [0.0], [0.0]]), (5, len(PHASES)))], axis=1)
    np.testing.assert_allclose(result.parameters, expected, atol=3e-4 if first < 0.1 else 1e-4)
    assert (result.chi2_reduced < 1e-3).all() and (result.coverage == 1.0).all()
    assert np.abs(result.split).max() < 1e-3 and result.contamination.max() < 0.1


@pytest.mark.parametrize("width", [1.2, 1.8, 2.7, 4.0, 6.0])
def test_the_filters_width_and_pixel_are_only_a_start(width):
    """Any filter of the bank, and a candidate's pixel three pixels off, lead to the same fit."""
    shifted = np.array([-3.0, 0.0, 3.0])
    result = fit(make_images(shifted, 1.6, 0.6, 0.4, error=0.01), width)
    np.testing.assert_allclose(result.parameters[:, EPSILON], shifted, atol=2e-3)
    np.testing.assert_allclose(np.exp(result.parameters[:, LOG_WIDTH]), 1.6, rtol=2e-3)


def test_a_tilted_continuum_is_taken_off():
    residual, inverse_error = make_images(PHASES, 1.8, 0.5, 0.3, error=1e-3)
    u = GEOMETRY.offsets[:, None] + np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    result = fit((residual + 0.03 + 0.002 * u, inverse_error))
    np.testing.assert_allclose(result.parameters[:, [FIRST, SECOND]], [[0.5, 0.3]] * len(PHASES), atol=2e-4)
    np.testing.assert_allclose(result.parameters[:, [LEVEL, SLOPE]], [[0.03, 0.002]] * len(PHASES), atol=2e-4)


@pytest.mark.parametrize("parameters", [[0.3, np.log(1.7), 0.6, 0.4, 0.02, 0.001], [-0.8, np.log(3.0), 0.2, 0.3, -0.01, -0.002]])
def test_derivatives_are_those_of_the_model(parameters):
    derivatives, unused, step = np.empty(6), np.empty(6), 1e-5 * np.eye(6)
    for u in np.arange(-24.0, 36.0):
        _model(u, np.array(parameters), OFFSET, derivatives)
        numerical = [(_model(u, parameters + s, OFFSET, unused) - _model(u, parameters - s, OFFSET, unused)) / 2e-5 for s in step]
        np.testing.assert_allclose(derivatives, numerical, atol=1e-8)


def judged(value, inverse_error, u):
    """Residuals of the objective, in σ, as a function of the parameters: those of the pixels, and the priors'."""

    def deviations(parameters):
        epsilon, log_width, first, second, level, slope = parameters
        lines = sum(a * np.exp(-0.5 * ((u - epsilon - x) / np.exp(log_width)) ** 2) for a, x in ((first, 0.0), (second, OFFSET)))
        return [*((value - lines - level - slope * u) * inverse_error), (log_width - np.log(1.6)) / 0.6, level / 0.15, slope / 0.01]

    return deviations


@pytest.mark.parametrize("low, high", [(0.3, 0.6), (0.6, 1.0)])
def test_it_is_the_optimum_that_scipy_finds(low, high):
    """Thirty clear doublets with masked pixels; the steps end before the optimum of some faint ones is reached to 1e-3 σ.

    The noise is 0.7 of what the errors say, so that no pixel is dropped as an outlier.
    """
    rng, n = np.random.default_rng(4), 30
    epsilon, sigma, first = rng.uniform(-1.5, 1.5, n), rng.uniform(1.2, 3.0, n), rng.uniform(low, high, n)
    second = first * rng.uniform(0.5, 1.0, n)
    residual, inverse_error = make_images(epsilon, sigma, first, second, noise=rng, masked=(-9, 3, 15))
    inverse_error = 0.7 * inverse_error * rng.uniform(0.7, 1.0, (n, 1, 1))
    result = fit((residual, inverse_error))
    (value, u), (inverse_error, _) = (doublet_pixels(image, GEOMETRY) for image in (residual, inverse_error))
    near = (u >= -21) & (u <= OFFSET + 21)
    for k in range(n):
        truth = [epsilon[k], np.log(sigma[k]), first[k], second[k], 0.0, 0.0]
        best = least_squares(judged(value[k, near], inverse_error[k, near], u[near]), truth, x_scale="jac", xtol=1e-12, ftol=1e-12)
        error = np.sqrt(np.diag(result.covariance[k]))
        assert np.abs((best.x - result.parameters[k]) / error).max() < 1e-3
        assert np.abs((np.linalg.inv(best.jac.T @ best.jac) - result.covariance[k]) / np.outer(error, error)).max() < 3e-3


def test_the_doublets_pixels_are_contiguous():
    """The first row, and of the second what lies beyond it: every pixel once, in order."""
    column = np.broadcast_to(GEOMETRY.offsets[:, None] + np.arange(-HALF_WIDTH, HALF_WIDTH + 1), (1, *GEOMETRY.shape))
    values, u = doublet_pixels(column, GEOMETRY)
    np.testing.assert_array_equal(values[0], u)
    np.testing.assert_array_equal(np.diff(u), 1.0)
    assert u[0] == -24 and u[-1] == 24 + 11


@pytest.mark.parametrize("sigma, first, second", [(1.3, 0.5, 0.35), (1.8, 0.5, 0.35), (2.8, 0.4, 0.3)])
def test_errors_are_the_scatter_of_the_parameters(sigma, first, second):
    """1500 fits at 15 to 20 σ per line: the scatter of a pull is known to 1.8 %, so 0.93 to 1.07 is four of its errors."""
    rng = np.random.default_rng(1)
    epsilon = rng.uniform(-0.5, 0.5, 1500)
    result = fit(make_images(epsilon, sigma, first, second, error=0.05, noise=rng))
    truth = np.zeros((1500, 6))
    truth[:, EPSILON], truth[:, LOG_WIDTH], truth[:, FIRST], truth[:, SECOND] = epsilon, np.log(sigma), first, second
    pull = (result.parameters - truth) / np.sqrt(np.einsum("mii->mi", result.covariance))
    # Not of the level and the slope: pixels that stand out are dropped, which is not in their covariance.
    assert pull[:, : SECOND + 1].std(axis=0) == pytest.approx(np.ones(4), abs=0.07)
    assert np.abs(pull[:, : SECOND + 1].mean(axis=0)).max() < 0.15
    # Covariances as well as variances: amplitudes and width are correlated, and the equivalent width rests on that.
    for a, b in ((LOG_WIDTH, FIRST), (FIRST, SECOND)):
        seen = np.corrcoef(result.parameters[:, a], result.parameters[:, b])[0, 1]
        said = np.median(result.covariance[:, a, b] / np.sqrt(result.covariance[:, a, a] * result.covariance[:, b, b]))
        assert seen == pytest.approx(said, abs=0.07)
    assert result.chi2_reduced.mean() == pytest.approx(1.0, abs=0.04)
    assert np.sqrt(np.mean((result.split / result.split_error) ** 2)) == pytest.approx(1.0, abs=0.1)
    # Three-pixel averages beside the lines: the largest of some 35 is at 1.7 σ, and hardly ever at 4.5.
    assert 1.3 < np.median(result.contamination) < 2.2 and np.percentile(result.contamination, 99.5) < 4.5


def test_coverage_is_that_of_the_worse_line():
    masked = fit(make_images(0.0, 1.5, 0.6, 0.4, masked=(10, 11)))
    assert masked.coverage[0] == pytest.approx(4 / 6, abs=0.1)  # two of the six pixels within 2 σ of 11.13
    assert fit(make_images(0.0, 1.5, 0.6, 0.4, masked=(20, 21))).coverage[0] == 1.0


def test_a_line_without_data_gives_finite_numbers():
    result = fit(make_images(0.0, 1.5, 0.6, 0.4, masked=range(5, 35)))
    assert result.coverage[0] == 0.0
    assert np.isfinite(result.parameters).all() and np.isfinite(result.covariance).all()
    nothing = fit(make_images(0.0, 1.5, 0.6, 0.4, masked=range(-790, 100)))
    assert np.isfinite(nothing.parameters).all() and np.isfinite(nothing.split).all()


@pytest.mark.parametrize("split", [-1.5, 1.5])
def test_a_wrong_split_is_measured(split):
    """One Newton step from the common fit, which lies between: half of the way is seen at once, so the split is right to a fifth."""
    result = fit(make_images(PHASES, 1.8, 0.5, 0.45, error=0.02, split=split))
    np.testing.assert_allclose(result.split, split, rtol=0.2)
    assert (np.abs(result.split / result.split_error) > 10).all()


def test_other_absorption_beside_the_lines_is_seen_and_does_not_disturb():
    alone = fit(make_images(PHASES, 1.8, 0.5, 0.35, error=0.02))
    beside = fit(make_images(PHASES, 1.8, 0.5, 0.35, error=0.02, extra=[(-14, 0.4, 1.8)]))
    assert (beside.contamination > 10).all() and (alone.contamination < 1).all()
    np.testing.assert_allclose(beside.parameters[:, FIRST], alone.parameters[:, FIRST], rtol=0.02)


def test_widths_stay_in_bounds():
    result = fit(make_images([0.0, 0.0], [0.3, 20.0], 0.5, 0.4, error=0.02))
    width = np.exp(result.parameters[:, LOG_WIDTH])
    assert width[0] == pytest.approx(WIDTH_BOUNDS[0]) and width[1] <= WIDTH_BOUNDS[1] * (1 + 1e-9)


def test_a_candidate_does_not_depend_on_the_others():
    """To the last bit: each is iterated until it has converged."""
    rng = np.random.default_rng(3)
    residual, inverse_error = make_images(
        rng.uniform(-2, 2, 20), rng.uniform(0.8, 5, 20), rng.uniform(0, 1, 20), rng.uniform(0, 1, 20), noise=rng
    )
    whole = fit((residual, inverse_error))
    for size in (1, 7):
        parts = [fit((residual[k : k + size], inverse_error[k : k + size])) for k in range(0, 20, size)]
        for name in ("parameters", "covariance", "chi2_reduced", "coverage", "contamination", "split", "split_error"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name), err_msg=name)

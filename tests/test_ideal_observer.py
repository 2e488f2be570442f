"""The benchmark's ideal observer: equal to the sum over all shapes and redshifts, calibrated, and better than the strongest peak."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.stats import rankdata

from nalspark.lines import MG_II
from nalspark.mocks import inject
from nalspark.spectra.grid import WavelengthGrid

PATH = Path(__file__).parents[1] / "benchmarks" / "ideal_observer.py"
GRID = WavelengthGrid(first=37000, n_pixels=420)
LONE = replace(MG_II, companions=())
POPULATION = inject.Population(counts=(0, 1), ew_min=0.3)
#: Signal-to-noise ratio of both lines of a "strong" absorber here: low, so that many spectra are undecided.
STRONG = 1.2


@pytest.fixture(scope="module")
def ideal():
    spec = importlib.util.spec_from_file_location("ideal_observer", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ideal_observer"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ideal_observer"]


def draw_templates(ideal, k):
    uniforms = inject.seeded_generator("templates").random((k, inject.uniforms_per_spectrum(LONE, POPULATION)))
    return ideal.make_templates(inject.draw(LONE, POPULATION, uniforms, (np.full(k, 0.9), np.full(k, 1.1))), LONE, GRID.step)


def draw_absorbers(ideal, weight, searched, names):
    generators = [inject.seeded_generator("absorber", name) for name in names]
    return ideal.draw_strong(LONE, POPULATION, GRID, weight, searched, generators=generators, strong=STRONG)


def make_problem(ideal, n, snr=(4.0, 4.0)):
    """Residual, weight, searched pixels, and which spectra have an absorber that is strong; signal-to-noise ratios log-uniform in `snr`."""
    rng = np.random.default_rng(4)
    level = snr[0] * (snr[1] / snr[0]) ** rng.random(n)
    weight = (level[:, None] ** 2 * rng.uniform(0.5, 1.5, GRID.n_pixels)).astype(np.float32)
    weight[:, 200:203] = 0.0
    searched = np.zeros((n, GRID.n_pixels), dtype=bool)
    searched[:, 60:180] = searched[:, 230:340] = True
    absorbers = draw_absorbers(ideal, weight, searched, range(n))
    label = np.arange(n) % 2 == 0
    absorbed = (1.0 - inject.transmission(absorbers, LONE, GRID, n)) * label[:, None]
    noise = rng.standard_normal(weight.shape) / np.sqrt(np.maximum(weight, 1e-30))
    residual = np.where(weight > 0, absorbed + noise, 0.0).astype(np.float32)
    return residual, weight, searched, label, absorbers


def auc(label, score):
    """Area under the curve from the ranks (Mann & Whitney 1947)."""
    positives = label.sum()
    return (rankdata(score)[label].sum() - positives * (positives + 1) / 2) / (positives * (~label).sum())


def each_template_everywhere(residual, weight, templates):
    """Gain and the three Σ w m² of every template (k) with its first line at every pixel (p) of one spectrum, without FFT."""
    pad = templates.absorbed.shape[1]
    r, w = (np.pad(np.asarray(values, dtype=float), pad) for values in (residual, weight))
    view = np.lib.stride_tricks.sliding_window_view
    start = pad - templates.origin
    rw, ww = (view(values, pad)[start : start + len(residual)] for values in (r * w, w))
    shapes = [shape.astype(float) for shape in (templates.absorbed, templates.primary, templates.secondary)]
    return shapes[0] @ rw.T, *(shape**2 @ ww.T for shape in shapes)


def highest_peak(residual, weight, searched, shapes, origin):
    """Highest matched-filter significance of some shapes in each spectrum."""
    pad, best = shapes.shape[1], np.zeros(len(residual))
    for shape in shapes:
        filters = shape[None, ::-1], shape[None, ::-1] ** 2
        signal, energy = (fftconvolve(v, f, axes=1) for v, f in zip((residual * weight, weight), filters, strict=True))
        window = slice(pad - 1 - origin, pad - 1 - origin + residual.shape[1])
        height = signal[:, window] / np.sqrt(np.maximum(energy[:, window], 1e-3))
        best = np.maximum(best, np.where(searched, height, 0.0).max(axis=1))
    return best


def test_the_ratio_is_the_mean_over_all_strong_shapes_and_redshifts(ideal):
    templates = draw_templates(ideal, 40)
    residual, weight, searched, *_ = make_problem(ideal, 6)
    found = ideal.ideal_log_ratio(residual, weight, searched, templates, GRID.step, strong=STRONG)
    unconditional = ideal.ideal_log_ratio(residual, weight, searched, templates, GRID.step, strong=STRONG, redrawn=False)
    for row in range(6):
        signal, energy, first, second = each_template_everywhere(residual[row], weight[row], templates)
        counts = searched[row] & (np.minimum(first, second) >= STRONG**2 * inject.FREE_WIDTH_VARIANCE)
        prior = np.where(counts, GRID.wavelength, 0.0)
        total = np.log((prior * np.exp(signal - energy / 2)).sum())
        assert found[row] == pytest.approx(total - np.log(prior.sum()), abs=2e-3)
        assert unconditional[row] == pytest.approx(total - np.log(40 * GRID.wavelength[searched[row]].sum()), abs=2e-3)


def test_no_strong_shape_means_no_absorber(ideal):
    residual, weight, searched, *_ = make_problem(ideal, 2)
    templates = draw_templates(ideal, 10)
    found = ideal.ideal_log_ratio(residual, weight * np.float32(1e-4), searched, templates, GRID.step)
    assert (found == -np.inf).all()
    assert (ideal.ideal_log_ratio(residual, weight, np.zeros_like(searched), templates, GRID.step) == -np.inf).all()


def test_it_is_calibrated_and_better_than_the_strongest_peak(ideal):
    templates = draw_templates(ideal, 150)
    residual, weight, searched, label, _ = make_problem(ideal, 500, (1.5, 8.0))
    ratio = ideal.ideal_log_ratio(residual, weight, searched, templates, GRID.step, strong=STRONG)
    p = 1.0 / (1.0 + np.exp(-ratio))
    order = np.argsort(p)
    for group in np.array_split(order, 4):
        expected, error = p[group].sum(), np.sqrt((p[group] * (1 - p[group])).sum())
        assert abs(label[group].sum() - expected) < 3.5 * error
    assert 0.7 < ((ratio > 0) == label).mean() < 0.95  # the problem is neither trivial nor hopeless
    peak = highest_peak(residual, weight, searched, templates.absorbed[:20], templates.origin)
    assert auc(label, ratio) > auc(label, peak) + 0.005


def test_drawn_absorbers_are_strong_searched_and_their_spectrum_s_own(ideal):
    _, weight, searched, _, absorbers = make_problem(ideal, 12)
    assert (absorbers.spectrum == np.arange(12)).all()
    assert (inject.line_snr(absorbers, LONE, GRID, weight) >= STRONG).all()
    pixel = np.rint(GRID.pixel(LONE.primary.wavelength * (1 + absorbers.z))).astype(int)
    assert searched[absorbers.spectrum, pixel].all()
    two = draw_absorbers(ideal, weight[[7, 3]], searched[[7, 3]], (7, 3))
    np.testing.assert_array_equal(two.z, absorbers.z[[7, 3]])


def test_templates_keep_shape_and_phase(ideal):
    """A template shifted by whole pixels is the absorber on the grid."""
    absorbers = inject.make_absorbers(MG_II, [1.0123], [1.0], inject.Clouds.single([60.0]))
    grid = WavelengthGrid(first=36000, n_pixels=2500)
    both = absorbers.take(np.array([0, 0]))
    templates = ideal.make_templates(both, MG_II, grid.step, (69.03, 90.0))
    assert templates.absorbed[1].max() < 0.95 * templates.absorbed[0].max()
    whole = 1.0 - inject.transmission(absorbers, MG_II, grid, 1)[0]
    start = int(np.rint(grid.pixel(MG_II.primary.wavelength * 2.0123))) - templates.origin
    np.testing.assert_allclose(templates.absorbed[0], whole[start : start + templates.absorbed.shape[1]], atol=1e-6)
    assert templates.absorbed.sum(axis=1) == pytest.approx(whole.sum(), rel=1e-5)

"""Balnicity against troughs whose indices are known in closed form, and against quasars with and without a trough."""

import numpy as np
import pytest

from nalspark.absorption.balnicity import AI, BI, ORIGIN, absorption_redshift, integrate, measure_balnicity, smoothed, velocity
from nalspark.absorption.chain import Searchable, prepare
from nalspark.absorption.unabsorbed import REST_RANGE, unabsorbed_continuum
from nalspark.lines import C_IV
from nalspark.mocks.inject import Population
from nalspark.mocks.quasars import quasar_flux
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.settings import load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE

Z = 2.3
#: Velocities (km/s) of the borders of pixels much finer than the lattice's, falling, and of their middles.
EDGES = np.arange(31_000.0, -1000.5, -10.0)
MIDDLES = 0.5 * (EDGES[1:] + EDGES[:-1])


def box(v, first, last, depth):
    """Flux over continuum of a trough of constant depth between two velocities."""
    return 1.0 - depth * ((v > first) & (v < last))


def indices(f, known=None):
    known = np.ones(len(f), bool) if known is None else known
    return tuple(integrate(f, known, EDGES, index)[0] for index in (BI, AI))


def spectra_of(flux, snr, seed=0, z=Z):
    """Spectra of one signal-to-noise ratio, with their noise."""
    flux = np.atleast_2d(flux)
    sigma = np.median(flux, axis=1)[:, None] / snr * np.ones(flux.shape)
    noise = np.stack([np.random.default_rng((seed, row)).standard_normal(LATTICE.n_pixels) for row in range(len(flux))])
    forest = np.where(LATTICE.wavelength < 1215.67 * (1 + z), 16, 0)
    mask = np.repeat(forest[None], len(flux), axis=0).astype(np.uint8)
    return Spectra((flux + sigma * noise).astype(np.float32), (sigma**-2).astype(np.float32), mask, LATTICE)


def quasars(n, z=Z, seed=0):
    return np.stack([quasar_flux(LATTICE, z, np.random.default_rng((seed, row))) for row in range(n)])


def outflow_velocity(z=Z):
    return velocity(LATTICE.wavelength / (1 + z))


@pytest.mark.parametrize("depth", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(("first", "last"), [(5000.0, 9000.0), (6000.0, 20_000.0), (3000.0, 25_000.0)])
def test_a_box_has_the_indices_of_the_formulas(first, last, depth):
    bi, ai = indices(box(MIDDLES, first, last, depth))
    assert bi == pytest.approx((last - first - 2000.0) * (1 - (1 - depth) / 0.9), rel=1e-9)
    assert ai == pytest.approx((last - first) * depth, rel=1e-9)


def test_balnicity_needs_2000_kms_and_absorption_1000():
    narrow, enough = (indices(box(MIDDLES, 8000.0, 8000.0 + width, 0.8)) for width in (1900.0, 2100.0))
    assert narrow[0] == 0 and enough[0] == pytest.approx(100 * (1 - 0.2 / 0.9))
    assert indices(box(MIDDLES, 8000.0, 8900.0, 0.8))[1] == 0 and narrow[1] == pytest.approx(1900 * 0.8)
    assert indices(box(MIDDLES, 8000.0, 12_000.0, 0.09)) == (0, 0)


def test_what_lies_outside_the_range_does_not_count():
    # Of 0 to 6000 km/s balnicity sees 3000 km/s, of which it counts the last thousand.
    bi, ai = indices(box(MIDDLES, -500.0, 6000.0, 1.0))
    assert bi == pytest.approx(1000.0) and ai == pytest.approx(6000.0)
    bi, ai = indices(box(MIDDLES, 22_500.0, 30_500.0, 1.0))
    assert bi == pytest.approx(500.0) and ai == pytest.approx(6500.0)
    _, _, troughs = integrate(box(MIDDLES, 22_500.0, 30_500.0, 1.0), np.ones(len(MIDDLES), bool), EDGES, AI)
    np.testing.assert_allclose(troughs, [[22_500.0, 29_000.0]])


def test_two_troughs_are_counted_apart_from_low_velocities():
    f = np.minimum(box(MIDDLES, 5000.0, 8000.0, 0.5), box(MIDDLES, 15_000.0, 20_000.0, 1.0))
    value, _, troughs = integrate(f, np.ones(len(f), bool), EDGES, BI)
    assert value == pytest.approx(1000 * (1 - 0.5 / 0.9) + 3000.0)
    np.testing.assert_allclose(troughs, [[5000.0, 8000.0], [15_000.0, 20_000.0]])


def test_a_range_that_is_not_covered_has_no_index():
    f, short, long = np.ones(len(MIDDLES)), np.abs(MIDDLES - 10_000.0) > 400.0, np.abs(MIDDLES - 10_000.0) > 600.0
    assert indices(f, short) == (0, 0)
    assert np.isnan(indices(f, long)).all()
    bi, ai = indices(f, MIDDLES < 27_000.0)
    assert bi == 0 and np.isnan(ai)


def test_smoothing_keeps_the_mean_and_bridges_what_is_unknown():
    f = np.arange(20.0)
    np.testing.assert_allclose(smoothed(f, np.ones(20, bool), 5)[2:-2], f[2:-2])
    known = (np.arange(20) < 5) | (np.arange(20) > 14)
    np.testing.assert_allclose(smoothed(np.where(known, 3.0, 99.0), known, 3), 3.0)


def test_velocities_and_redshifts_belong_together():
    v = np.array([0.0, 3000.0, 25_000.0])
    z = absorption_redshift(v, Z)
    np.testing.assert_allclose(velocity(ORIGIN * (1 + z) / (1 + Z)), v, atol=1e-6)


def test_a_trough_in_a_quasar_is_measured():
    quasar, v = quasars(8), outflow_velocity()
    measured = measure_balnicity(spectra_of(quasar * box(v, 7000.0, 13_000.0, 0.7), 30.0), np.full(8, Z))
    np.testing.assert_allclose(measured.bi, 4000 * (1 - 0.3 / 0.9), rtol=0.15)
    np.testing.assert_allclose(measured.ai, 6000 * 0.7, rtol=0.15)
    assert (measured.bi_err > 0).all() and (measured.bi_err < 0.1 * measured.bi).all()
    for ranges in measured.bi_troughs:
        np.testing.assert_allclose(ranges, [[7000.0, 13_000.0]], atol=300.0)


def test_errors_grow_with_the_noise():
    flux = quasars(4) * box(outflow_velocity(), 7000.0, 13_000.0, 0.7)
    quiet, loud = (measure_balnicity(spectra_of(flux, snr), np.full(4, Z)) for snr in (60.0, 15.0))
    assert (quiet.bi_err < loud.bi_err).all() and (quiet.ai_err < loud.ai_err).all()


def test_errors_are_the_scatter_over_noise():
    flux = np.repeat(quasars(1) * box(outflow_velocity(), 7000.0, 13_000.0, 0.7), 60, axis=0)
    measured = measure_balnicity(spectra_of(flux, 20.0), np.full(60, Z))
    for value, error in ((measured.bi, measured.bi_err), (measured.ai, measured.ai_err)):
        assert 0.5 < np.std(value) / np.median(error) < 2.0


def test_the_continuum_does_not_dip_into_a_trough():
    quasar, v = quasars(6), outflow_velocity()
    z = np.full(6, Z)
    fitted = unabsorbed_continuum(spectra_of(quasar * box(v, 6000.0, 18_000.0, 0.9), 30.0), z)
    inside = (velocity(fitted.wavelength) > 5000) & (velocity(fitted.wavelength) < 20_000)
    true = np.take_along_axis(quasar, fitted.pixel, axis=1)
    np.testing.assert_allclose(fitted.continuum[:, inside], true[:, inside], rtol=0.15)


def test_a_spectrum_without_c_iv_has_no_index():
    z = np.array([0.8, Z, 6.5])
    measured = measure_balnicity(spectra_of(quasars(3), 20.0, z=0.0), z)
    for value in (measured.bi, measured.bi_err, measured.ai, measured.ai_err):
        np.testing.assert_array_equal(np.isfinite(value), [False, True, False])
    assert [len(ranges) for ranges in measured.ai_troughs] == [0, 0, 0]
    blind = spectra_of(quasars(1), 20.0)
    blind.ivar[:] = 0.0
    assert np.isnan(measure_balnicity(blind, np.array([Z])).bi).all()
    assert REST_RANGE[0] > 1215.67


def test_the_result_does_not_depend_on_the_batch_or_the_unit():
    flux = quasars(7) * np.stack([box(outflow_velocity(), 5000.0, 5000.0 + 2000.0 * row, 0.6) for row in range(7)])
    spectra, z = spectra_of(flux, 8.0), Z + 0.01 * np.arange(7)
    together = measure_balnicity(spectra, z)
    for row in range(7):
        alone = measure_balnicity(spectra.take(np.array([row])), z[row : row + 1])
        for name in ("bi", "bi_err", "ai", "ai_err"):
            assert getattr(alone, name)[0] == getattr(together, name)[row]
        np.testing.assert_array_equal(alone.ai_troughs[0], together.ai_troughs[row])
    scaled = Spectra(spectra.flux * 8, spectra.ivar / 64, spectra.mask, LATTICE)
    np.testing.assert_allclose(measure_balnicity(scaled, z).bi, together.bi, rtol=1e-6)


def test_unabsorbed_quasars_have_no_balnicity():
    recipe = Recipe(C_IV, (Population(counts=(1.0, 0.0)),), seed=3, contaminated=0.0, snr_min=3.0)
    made = make_mocks([f"plain-{number}" for number in range(200)], recipe)
    found = Searchable.of(prepare(made.spectra, made.z_qso, load()), made.z_qso)
    measured = measure_balnicity(found.spectra, found.z_qso)
    covered = np.isfinite(measured.bi)
    assert covered.sum() > 80
    assert np.mean(measured.bi[covered] > 0) < 0.02
    assert np.mean(measured.ai[covered] > 3 * measured.ai_err[covered]) < 0.1

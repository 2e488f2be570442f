"""Which systems are strong, and what the fit at a given redshift says."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from make_spectra import UNIT_WIDTH, doublet, lines_at, make_spectra, quasar_continuum

from nalspark.judging.strength import error_factor, estimate_errors, is_strong, measure_at, passes
from nalspark.lines import MG_II
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE

PIXEL_KMS = LATTICE.pixel_kms


def make_truth(*rows, err):
    """Rows (ew_primary, ew_secondary)."""
    return pd.DataFrame(list(rows), columns=["ew_primary", "ew_secondary"]).assign(ew_primary_err=err, ew_secondary_err=err)


def test_what_is_strong():
    truth = make_truth((0.3, 0.3), (0.299, 0.3), (0.9, 0.29), (0.9, math.nan), (math.nan, 0.9), err=0.0999)
    assert is_strong(truth).tolist() == [True, False, False, False, False]
    assert not is_strong(truth.assign(ew_primary_err=math.nan)).any() and not is_strong(truth.assign(ew_secondary_err=0)).any()


def spectra_with(z, depth, sigma, snr=20.0, seed=None):
    """Quasars without noise but with errors, or with both, each with one Mg II doublet; and their continuum."""
    z = np.atleast_1d(z)
    pixel = LATTICE.pixel(MG_II.primary.wavelength * (1 + z))
    absorbed = np.array([lines_at(*doublet(p, depth, 1.5, sigma)) for p in pixel])
    noisy = make_spectra(np.full(len(z), 1.6), snr, absorbed=absorbed, seed=seed or 1)
    continuum = np.array([quasar_continuum(1.6)] * len(z))
    flux = noisy.flux if seed else (continuum * (1 - absorbed)).astype(np.float32)
    return Spectra(flux, noisy.ivar, noisy.mask, LATTICE), continuum.astype(np.float32)


def test_the_fit_at_a_given_redshift_measures_what_is_there():
    z = np.array([0.8, 1.0003, 1.2])
    measured = measure_at(*spectra_with(z, 0.4, 2.0), z, MG_II)
    for label, ratio in (("2796", 1.0), ("2803", 1.5)):
        np.testing.assert_allclose(measured[f"ew_{label}"], 0.4 / ratio * 2.0 * UNIT_WIDTH[label], rtol=0.02)
    np.testing.assert_allclose(measured["z_abs"], z, atol=1e-5)


def test_nothing_is_measured_as_nothing():
    z = np.linspace(0.7, 1.4, 30)
    measured = measure_at(*spectra_with(z, 0.0, 2.0, seed=5), z, MG_II)
    assert not passes(pd.DataFrame(measured), MG_II).any()
    beyond = measure_at(*spectra_with([1.0], 0.4, 2.0), np.array([9.0]), MG_II)
    assert not passes(pd.DataFrame(beyond), MG_II).any()


def test_a_measurement_does_not_depend_on_its_batch():
    z = np.array([0.8, 1.0, 1.2])
    spectra, continuum = spectra_with(z, 0.3, 2.0, seed=7)
    together = measure_at(spectra, continuum, z, MG_II)
    for row in range(3):
        one = Spectra(spectra.flux[[row]], spectra.ivar[[row]], spectra.mask[[row]], LATTICE)
        alone = measure_at(one, continuum[[row]], z[[row]], MG_II)
        assert all(alone[name][0] == together[name][row] or np.isnan(alone[name][0]) for name in together)


def test_the_estimate_is_the_sum_over_the_profile():
    snr, sigma_kms = 8.0, 120.0
    s = math.hypot(sigma_kms, 69.03) / PIXEL_KMS
    profile = np.exp(-0.5 * (np.arange(-40, 41) / s) ** 2)
    amplitude_error = 1 / (snr * math.sqrt((profile**2).sum()))
    first, second = estimate_errors([snr], [sigma_kms], MG_II, LATTICE, 69.03)
    assert first[0] == pytest.approx(UNIT_WIDTH["2796"] * s * amplitude_error, rel=1e-6)
    assert second[0] / first[0] == pytest.approx(MG_II.secondary.wavelength / MG_II.primary.wavelength)
    # An unknown width is a typical one.
    assert estimate_errors([8.0], [math.nan], MG_II, LATTICE, 69.03)[0] > 0


def test_the_estimate_is_near_the_fit_s_error_and_the_factor_brings_it_there():
    z, sigma = np.linspace(0.8, 1.3, 20), 1.8
    measured = measure_at(*spectra_with(z, 0.35, sigma, snr=15.0, seed=3), z, MG_II)
    sigma_kms = math.sqrt(sigma**2 - 1.0) * PIXEL_KMS
    estimate = estimate_errors(np.full(20, 15.0), np.full(20, sigma_kms), MG_II, LATTICE, 69.03)[0]
    ratio = np.median(measured["ew_2796_err"] / estimate)
    assert 1.0 < ratio < 1.5
    rows = pd.DataFrame({"snr": 15.0, "fwhm_kms": 2.354820 * sigma_kms, "ew_2796_err": measured["ew_2796_err"]})
    assert error_factor(rows, MG_II, LATTICE, 69.03) == pytest.approx(ratio, rel=1e-5)


def test_without_a_catalogue_the_estimate_stands():
    assert error_factor(pd.DataFrame({"snr": [], "fwhm_kms": [], "ew_2796_err": []}), MG_II, LATTICE, 69.03) == 1.0

"""The continuum across known lines, and pairs on the sky."""

from __future__ import annotations

import numpy as np
import pytest
from make_spectra import make_spectra, quasar_continuum

from nalspark.absorption import chain
from nalspark.absorption.normalize import continuum_across
from nalspark.judging.composites.widths import near_lines
from nalspark.lines import ALL_LINES, MG_I_2852
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.crossmatch import sky


def test_pixels_near_the_lines_of_a_redshift_are_marked():
    near = near_lines([0.5, 1.0], LATTICE, 300.0)
    velocity = 299_792.458 * np.log(LATTICE.wavelength / (MG_I_2852.wavelength * 1.5))
    around = np.abs(velocity) < 1500.0
    assert np.array_equal(near[0, around], (np.abs(velocity) <= 300.0)[around])
    inside = sum(LATTICE.wavelength[0] < 2.0 * wave < LATTICE.wavelength[-1] for wave in {line.wavelength for line in ALL_LINES})
    assert 8 * inside <= near[1].sum() <= 9 * inside + 2


def test_a_weak_line_that_is_known_does_not_pull_the_continuum_down():
    n, z_qso, z = 40, 1.9, 0.9
    pixel = np.arange(LATTICE.n_pixels) - LATTICE.pixel(MG_I_2852.wavelength * (1.0 + z))
    absorbed = np.tile(0.08 * np.exp(-0.5 * (pixel / 1.8) ** 2), (n, 1))
    spectra = make_spectra(np.full(n, z_qso), snr=30.0, absorbed=absorbed)
    ready = chain.prepare(spectra, np.full(n, z_qso), Settings())
    rows = np.arange(n)
    across = continuum_across(ready, rows, np.full(n, z_qso), near_lines(np.full(n, z), LATTICE), Settings().preprocess)
    true = quasar_continuum(z_qso) / ready.rescale[:, None]
    here = np.abs(pixel) < 4
    lost, kept = ((values / true - 1.0)[:, here].mean() for values in (ready.continuum, across))
    assert lost < -0.001 and abs(kept) < 0.5 * abs(lost)
    apart = continuum_across(ready, rows[7:8], np.full(1, z_qso), near_lines([z], LATTICE), Settings().preprocess)
    assert np.array_equal(apart[0], across[7])  # of the others nothing depends


def test_all_pairs_within_a_radius_are_found_over_the_seam_and_at_the_pole():
    left = np.array([0.0, 180.0, 10.0]), np.array([0.0, 89.9999, -30.0])
    right = np.array([359.999, 0.001, 0.0, 0.0, 10.0]), np.array([0.0, 0.0, 89.9999, -0.002, -30.5])
    first, second, separation = sky.pairs(left, right, 4.0)
    assert list(zip(first, second, strict=True)) == [(0, 0), (0, 1), (1, 2)]
    np.testing.assert_allclose(separation, [3.6, 3.6, 0.72], rtol=1e-6)
    empty = np.empty(0), np.empty(0)
    assert all(len(values) == 0 for values in sky.pairs(empty, right, 4.0))
    assert [len(values) for values in sky.pairs(left, right, 0.1)] == [0, 0, 0]


@pytest.mark.parametrize("snr", [3.0, 30.0])
def test_the_continuum_across_lines_stays_right_where_there_is_none(snr):
    ready = chain.prepare(make_spectra(np.full(20, 1.9), snr=snr), np.full(20, 1.9), Settings())
    across = continuum_across(ready, np.arange(20), np.full(20, 1.9), near_lines(np.full(20, 0.9), LATTICE), Settings().preprocess)
    ratio = (across / ready.continuum)[:, ready.spectra.good[0]]
    assert abs(ratio.mean() - 1.0) < 0.003

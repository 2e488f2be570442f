"""The parametric quasar is positive and has its lines; the noise is what it claims to be."""

import numpy as np
import pytest

from nalspark.mocks import quasars
from nalspark.mocks.inject import seeded_generator


@pytest.mark.parametrize("z", [0.3, 1.0, 2.2, 3.5])
@pytest.mark.parametrize("spectrograph", [quasars.SDSS, quasars.BOSS])
def test_flux_is_finite_and_positive(z, spectrograph):
    for number in range(10):
        flux = quasars.quasar_flux(spectrograph.grid, z, seeded_generator(number, "flux"))
        assert flux.shape == (spectrograph.grid.n_pixels,)
        assert np.isfinite(flux).all() and (flux > 0).all()
        assert np.median(flux) == pytest.approx(1.0)


def test_broad_lines_stand_where_they_should():
    mean = np.mean([quasars.quasar_flux(quasars.BOSS.grid, 1.5, seeded_generator(n)) for n in range(20)], axis=0)
    wave = quasars.BOSS.grid.wavelength / 2.5
    for line, side in ((1547, 1490), (1906, 1800), (2799, 2700)):
        assert mean[np.abs(wave - line) < 5].mean() > 1.15 * mean[np.abs(wave - side) < 5].mean()


def test_forest_absorbs_below_lyman_alpha():
    ratio = []
    for n in range(20):
        flux = quasars.quasar_flux(quasars.BOSS.grid, 3.0, seeded_generator(n))
        wave = quasars.BOSS.grid.wavelength / 4.0
        ratio.append(flux[(wave > 1100) & (wave < 1180)].mean() / flux[(wave > 1420) & (wave < 1480)].mean())
    assert 0.4 < np.mean(ratio) < 1.2  # the power law alone would give 1.45


@pytest.mark.parametrize("spectrograph", [quasars.SDSS, quasars.BOSS])
def test_noise_has_the_sigma_it_was_drawn_with(spectrograph):
    true = np.full(spectrograph.grid.n_pixels, quasars.flux_for_snr(8.0, spectrograph))
    seen = [quasars.observe(true, spectrograph, spectrograph.grid, seeded_generator(n)) for n in range(20)]
    pull = np.concatenate([((o.flux - true) / o.sigma)[o.ivar > 0] for o in seen])
    assert pull.mean() == pytest.approx(0.0, abs=0.02)
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert np.median([np.median(o.flux * np.sqrt(o.ivar)) for o in seen]) == pytest.approx(8.0, rel=0.1)


def test_errors_are_underrated_on_airglow_only():
    grid = quasars.BOSS.grid
    seen = quasars.observe(np.ones(grid.n_pixels), quasars.BOSS, grid, seeded_generator(3))
    used = seen.ivar > 0
    scale = (seen.sigma * np.sqrt(seen.ivar))[used]
    blue = grid.wavelength[used] < 7200
    np.testing.assert_allclose(scale[blue], 1.0, rtol=1e-5)
    assert 1.0 < scale[~blue].max() <= 1.6 + 1e-5


def test_sky_lines_are_flagged_and_noisy():
    grid = quasars.BOSS.grid
    seen = quasars.observe(np.ones(grid.n_pixels), quasars.BOSS, grid, seeded_generator(1))
    bright = (seen.and_mask >> quasars.BRIGHT_SKY_BIT) & 1 == 1
    assert 0.05 < bright[grid.wavelength > 7200].mean() < 0.35
    assert bright[grid.wavelength < 7200].mean() < 0.02
    assert 0 < (seen.ivar == 0).sum() < 30
    pixel = int(np.rint(grid.pixel(5578.9)))
    assert seen.sigma[pixel] > 5 * seen.sigma[pixel + 20]


def test_draws_stay_in_range():
    z = np.array([quasars.draw_redshift(seeded_generator(n, "z")) for n in range(2000)])
    snr = np.array([quasars.draw_snr(seeded_generator(n, "snr")) for n in range(2000)])
    assert z.min() >= 0.3 and z.max() <= 3.5 and 1.5 < np.median(z) < 2.3
    assert np.percentile(snr, [5, 50, 95]) == pytest.approx([2.5, 8.0, 25.3], rel=0.15)

"""Injected absorbers against closed forms: thin and saturated limits, conserved equivalent width, the population's own distributions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from nalspark.lines import C_IV, FE_II_2600, MG_II, MG_II_2796, SPEED_OF_LIGHT_KMS
from nalspark.mocks.inject import (
    LOG_UNIFORM,
    Clouds,
    Population,
    draw,
    equivalent_width,
    make_absorbers,
    redshift_limits,
    seeded_generator,
    solve_tau,
    transmission,
    uniforms_per_spectrum,
)
from nalspark.spectra.grid import LATTICE

ONE_EACH = Population(counts=(0.0, 1.0))


def draw_one_each(n, population=ONE_EACH, species=MG_II, seed=1):
    uniforms = np.random.default_rng(seed).random((n, uniforms_per_spectrum(species, population)))
    return draw(species, population, uniforms, (np.full(n, 0.6), np.full(n, 1.6)))


def pixel_widths(absorbers, species=MG_II, **options):
    """Σ (1 - T) Δλ / (1 + z) over each line of the doublet, split half-way between them."""
    absorbed = 1 - transmission(absorbers, species, LATTICE, len(absorbers), **options)
    edges = LATTICE.wavelength_at(np.arange(-0.5, LATTICE.n_pixels))
    middle = 0.5 * (species.primary.wavelength + species.secondary.wavelength) * (1 + absorbers.z)[:, None]
    element = absorbed * np.diff(edges) / (1 + absorbers.z)[:, None]
    blue = LATTICE.wavelength < middle
    return (element * blue).sum(axis=1), (element * ~blue).sum(axis=1)


def test_thin_limit_of_the_curve_of_growth():
    thin = make_absorbers(MG_II, 1.0, 1e-3, Clouds.single([20.0]))
    assert thin.ew_primary / thin.ew_secondary == pytest.approx(MG_II.optically_thin_ratio, rel=2e-3)
    # W = √π b τ₀ λ / c where thin (Spitzer 1978, eq. 3-50)
    linear = np.sqrt(np.pi) * 20.0 / SPEED_OF_LIGHT_KMS * thin.tau[0, 0] * MG_II_2796.wavelength
    assert thin.ew_primary[0] == pytest.approx(linear, rel=5e-3)


def test_saturated_doublet_has_equal_lines():
    saturated = make_absorbers(MG_II, 1.0, 1.8, Clouds.single([30.0]))
    assert saturated.tau[0, 0] > 1e3
    assert 1.0 < saturated.ew_primary[0] / saturated.ew_secondary[0] < 1.06


@pytest.mark.parametrize("tau", [0.1, 3.0, 100.0, 1e4])
@pytest.mark.parametrize("b", [15.0, 60.0])
def test_equivalent_width_is_the_integral(tau, b):
    def integrand(v):
        return -np.expm1(-tau * np.exp(-((v / b) ** 2))) * np.exp(v / SPEED_OF_LIGHT_KMS)

    exact = quad(integrand, -8 * b, 8 * b, points=[-3 * b, 0, 3 * b], limit=400)[0] * MG_II_2796.wavelength / SPEED_OF_LIGHT_KMS
    assert equivalent_width(MG_II_2796, *np.array([[[tau]], [[b]], [[0.0]]]))[0] == pytest.approx(exact, rel=1e-5)


def test_solver_inverts_the_equivalent_width():
    rng = np.random.default_rng(2)
    clouds = Clouds(rng.uniform(15, 60, (200, 3)), rng.normal(0, 80, (200, 3)), rng.uniform(0.1, 1, (200, 3)))
    tau = 10 ** rng.uniform(-2, 3, 200)
    ew = equivalent_width(MG_II_2796, tau[:, None] * clouds.weight, clouds.b_kms, clouds.velocity_kms)
    np.testing.assert_allclose(solve_tau(MG_II_2796, ew, clouds), tau, rtol=1e-6)


def test_impossible_width_is_refused():
    with pytest.raises(ValueError, match="too narrow"):
        make_absorbers(MG_II, 1.0, 8.0, Clouds.single([15.0]))


@pytest.mark.parametrize("sigma", [0.0, 69.03, 120.0])
def test_pixels_hold_the_true_equivalent_width_at_any_phase(sigma):
    """The instrument and the pixels conserve W, wherever in a pixel the line falls."""
    z = 0.7 * 10 ** (np.arange(40) * 0.13e-4) + np.linspace(0, 1.0, 40)
    clouds = Clouds(np.full((40, 2), 18.0), np.tile([-45.0, 30.0], (40, 1)), np.tile([1.0, 0.6], (40, 1)))
    absorbers = make_absorbers(MG_II, z, np.linspace(0.05, 1.4, 40), clouds)
    primary, secondary = pixel_widths(absorbers, instrument_sigma_kms=sigma)
    np.testing.assert_allclose(primary, absorbers.ew_primary, rtol=5e-3 if sigma < 100 else 2e-2)
    np.testing.assert_allclose(primary + secondary, absorbers.ew_primary + absorbers.ew_secondary, rtol=1e-3)


def test_population_keeps_its_truth_in_pixels():
    alone = draw_one_each(150, Population(counts=(0.0, 1.0), ew_max=3.0))
    in_doublet = [line.ion == MG_II.primary.ion for line in MG_II.transitions]
    bare = replace(alone, relative_tau=np.where(in_doublet, alone.relative_tau, 0.0))
    primary, secondary = pixel_widths(bare)
    np.testing.assert_allclose(primary + secondary, bare.ew_primary + bare.ew_secondary, rtol=5e-3, atol=1e-4)


def test_redshift_is_the_centroid_of_the_first_line():
    clouds = Clouds(np.array([[20.0, 30.0]]), np.array([[-90.0, 50.0]]), np.ones((1, 2)))
    absorbed = 1 - transmission(make_absorbers(MG_II, 1.0, 0.8, clouds), MG_II, LATTICE, 1)[0]
    near = np.abs(LATTICE.wavelength / 2 / MG_II_2796.wavelength - 1) < 1.28e-3
    centroid = (absorbed * LATTICE.wavelength)[near].sum() / absorbed[near].sum()
    assert centroid / MG_II_2796.wavelength - 1 == pytest.approx(1.0, abs=2e-5)


def test_lines_outside_the_grid_do_no_harm():
    absorbers = make_absorbers(MG_II, [0.2, 0.3589, 2.2885, 5.0], [1.0] * 4, Clouds.single([40.0] * 4))
    seen = transmission(absorbers, MG_II, LATTICE, 4)
    assert np.isfinite(seen).all() and (seen[[0, 3]] == 1).all()
    assert seen[1].min() < 0.9 and seen[2].min() < 0.9


def test_result_does_not_depend_on_the_batch():
    """To the last bit: this is what makes a survey the same however it is cut up."""
    population = Population(counts=(0.0, 0.4, 0.3, 0.3))
    uniforms = np.random.default_rng(4).random((30, uniforms_per_spectrum(MG_II, population)))
    together = draw(MG_II, population, uniforms, (np.full(30, 0.6), np.full(30, 1.6)))
    whole = transmission(together, MG_II, LATTICE, 30)
    for row in (0, 7, 29):
        alone = draw(MG_II, population, uniforms[row : row + 1], (np.array([0.6]), np.array([1.6])))
        np.testing.assert_array_equal(alone.ew_primary, together.ew_primary[together.spectrum == row])
        np.testing.assert_array_equal(transmission(alone, MG_II, LATTICE, 1)[0], whole[row])


def test_exponential_widths_follow_nestor():
    ew = draw_one_each(6000).ew_primary
    assert ew.min() >= 0.3 and ew.max() <= 6.0
    for low, high in ((0.3, 0.6), (0.6, 1.0), (1.0, 2.0)):
        expected = (np.exp(-low / 0.702) - np.exp(-high / 0.702)) / (np.exp(-0.3 / 0.702) - np.exp(-6 / 0.702))
        assert np.mean((ew >= low) & (ew < high)) == pytest.approx(expected, abs=0.025)


def test_log_uniform_widths():
    absorbers = draw_one_each(2000, LOG_UNIFORM)
    ew = absorbers.ew_primary[np.unique(absorbers.spectrum, return_index=True)[1]]
    assert np.percentile(np.log(ew), [25, 50, 75]) == pytest.approx(np.log(0.2) + np.log(25) * np.array([0.25, 0.5, 0.75]), abs=0.12)


def test_population_resembles_what_surveys_measure():
    """SCIENCE: FWHM 1.3-3.4 Å with median 2.2, doublet ratio 1.0-1.5 with median 1.18, Fe II 2600 half of Mg II 2796 above 1 Å."""
    absorbers = draw_one_each(3000)
    strong = absorbers.ew_primary > 1
    fwhm = 2.3548 * np.hypot(absorbers.sigma_kms, 69.03) * MG_II_2796.wavelength / SPEED_OF_LIGHT_KMS
    low, median, high = np.percentile(fwhm[strong], [5, 50, 95])
    assert 1.52 < low < 1.9 and 1.9 < median < 2.4 and 3.0 < high < 4.2
    ratio = absorbers.ew_primary / absorbers.ew_secondary
    assert ratio.min() > 1.0 and ratio.max() < MG_II.optically_thin_ratio and 1.1 < np.median(ratio[strong]) < 1.35
    fe = absorbers.relative_tau[:, MG_II.transitions.index(FE_II_2600)][:, None]
    width = equivalent_width(FE_II_2600, absorbers.tau * fe, absorbers.b_kms, absorbers.velocity_kms)
    assert np.median((width / absorbers.ew_primary)[strong]) == pytest.approx(0.5, abs=0.1)


def test_counts_and_empty_windows():
    population = Population(counts=(0.25, 0.25, 0.5))
    uniforms = np.random.default_rng(5).random((4000, uniforms_per_spectrum(MG_II, population)))
    high = np.where(np.arange(4000) % 2, 1.5, 0.6)
    absorbers = draw(MG_II, population, uniforms, (np.full(4000, 0.6), high))
    per_spectrum = np.bincount(absorbers.spectrum, minlength=4000)
    assert per_spectrum[::2].max() == 0
    np.testing.assert_allclose(np.bincount(per_spectrum[1::2]) / 2000, population.counts, atol=0.04)
    assert len(draw(MG_II, population, uniforms[:0], (np.empty(0), np.empty(0)))) == 0


def test_redshift_limits_stay_in_window_and_spectrum():
    z_qso = np.array([0.3, 0.9, 2.0, 4.5])
    low, high = redshift_limits(MG_II, z_qso, (3800.0, 9200.0), Population())
    assert low[0] == high[0]
    assert (high <= np.maximum(low, z_qso - 0.04)).all()
    assert low[2] == pytest.approx(1550 * 3.02 / MG_II_2796.wavelength - 1)
    assert (1 + high[3]) * MG_II.secondary.wavelength < 9200


def test_a_negative_margin_reaches_beyond_the_quasar():
    low, high = redshift_limits(MG_II, np.array([1.6, 2.6]), (3560.0, 10400.0), Population(red_margin_z=-0.015))
    assert high == pytest.approx([1.615, 2.615]) and (low < high).all()
    # Where the spectrum ends before, its end is the limit: the second line stays inside.
    _, high = redshift_limits(MG_II, np.array([2.6]), (3560.0, 9200.0), Population(red_margin_z=-0.015))
    assert (1 + high[0]) * MG_II.secondary.wavelength == pytest.approx(9200 / 1.002)


def test_another_species_needs_no_code():
    absorbers = draw_one_each(20, species=C_IV)
    seen = transmission(absorbers, C_IV, LATTICE, 20)
    visible = (1 + absorbers.z) * C_IV.primary.wavelength > 3850
    assert visible.any() and (seen[visible].min(axis=1) < 0.95).all()


def test_generator_depends_on_the_key_alone():
    first = seeded_generator(1, 4000, 55500, 7).random(3)
    np.testing.assert_array_equal(first, seeded_generator(1, 4000, 55500, 7).random(3))
    assert not np.array_equal(first, seeded_generator(2, 4000, 55500, 7).random(3))


def test_population_refuses_nonsense():
    with pytest.raises(ValueError, match="probabilities"):
        Population(counts=(0.5, 0.2))
    with pytest.raises(ValueError, match="ew_min"):
        Population(ew_min=2.0, ew_max=1.0)


def test_clustered_absorbers_lie_near_their_neighbour_and_are_as_many():
    three, n = Population(counts=(0.0, 0.0, 0.0, 1.0)), 2000
    for species, part in ((C_IV, C_IV.clustered), (replace(C_IV, clustered=0.0), 0.0)):
        absorbers = draw_one_each(n, three, species)
        assert len(absorbers) == 3 * n and absorbers.z.min() >= 0.6 and absorbers.z.max() <= 1.6
        speed = SPEED_OF_LIGHT_KMS * np.diff(np.log1p(absorbers.z.reshape(n, 3)), axis=1)
        near = np.abs(speed) < 2000.0
        by_chance = 2 * 2000.0 * 2.1 / SPEED_OF_LIGHT_KMS  # about, at redshift 1.1 in an interval of 1
        assert near.mean() == pytest.approx(part + (1 - part) * by_chance, abs=0.02)
        assert not part or (np.abs(speed[near]) > 399.0).mean() > 0.97

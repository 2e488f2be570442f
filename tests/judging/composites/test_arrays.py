"""Composites by closed forms: what is known of the spectra must come out of the stack."""

from __future__ import annotations

import numpy as np
import pytest

from nalspark.judging.composites.arrays import (
    REPLICATES,
    REST,
    Sums,
    add_spectra,
    dust_wavelength,
    mean_flux,
    median_flux,
    object_weights,
    scatter_flux,
    spread,
    to_rest,
)
from nalspark.judging.composites.dust import fit_reddening, smc_law, transmission
from nalspark.judging.composites.tables import stack_arrays
from nalspark.judging.composites.widths import equivalent_widths, lines_of
from nalspark.lines import ALL_LINES, FE_II_2600, MG_I_2852, MG_II_2796, MG_II_2803
from nalspark.spectra.grid import LATTICE

P = LATTICE.n_pixels


def absorbed(z, lines, sigma_pixels=2.0, grid=LATTICE):
    """Normalised flux with Gaussian lines, {transition: rest equivalent width in Å}, at redshifts z (m,); shape (m, p)."""
    pixel = np.arange(grid.n_pixels)
    flux = np.ones((len(z), grid.n_pixels))
    for line, width in lines.items():
        centre = grid.pixel(line.wavelength * (1.0 + np.asarray(z)))[:, None]
        depth = width / (line.wavelength * np.log(10.0) * grid.step * sigma_pixels * np.sqrt(2.0 * np.pi))
        flux -= depth * np.exp(-0.5 * ((pixel - centre) / sigma_pixels) ** 2)
    return flux


def stacked(flux, z, objects=None, good=None):
    """Sums of spectra whose continuum is 1."""
    sums, shape = Sums(), np.shape(flux)
    light = flux, np.ones(shape), np.ones(shape, bool) if good is None else good
    add_spectra(sums, light, z, list(map(str, range(len(z)))) if objects is None else objects)
    return sums


def width_of(spectrum, line):
    lines = lines_of(REST)
    return equivalent_widths(np.atleast_2d(spectrum), REST, lines)[0, lines.index(line)]


# ---- the shift


def test_whole_pixels_shift_a_spectrum_exactly():
    values = np.arange(2.0 * P).reshape(2, P)
    rest, covered = to_rest(values, 10.0 ** (np.array([3000, 4321]) * LATTICE.step) - 1.0)
    for row, shift in enumerate((3000, 4321)):
        k = np.flatnonzero(covered[row])
        assert np.array_equal(rest[row, k], values[row, k + REST.first - LATTICE.first + shift])
        assert len(k) == min(P, REST.first + REST.n_pixels + shift - LATTICE.first) - max(0, REST.first + shift - LATTICE.first)


def test_the_nearest_pixel_conserves_widths_and_broadens_half_as_much_as_interpolation():
    z = np.linspace(0.8, 1.2, 400)
    flux = absorbed(z, {MG_I_2852: 0.4}, sigma_pixels=1.5)
    nearest = mean_flux(stacked(flux, z))[0]
    place = REST.first - LATTICE.first + np.arange(REST.n_pixels) + np.log10(1.0 + z)[:, None] / LATTICE.step
    linear = np.mean([np.interp(at, np.arange(P), row, left=np.nan, right=np.nan) for at, row in zip(place, flux, strict=True)], axis=0)
    pixel = np.arange(REST.n_pixels) - REST.pixel(MG_I_2852.wavelength)
    near = np.abs(pixel) < 12
    added = {}
    for name, mean in (("nearest", nearest), ("linear", linear)):
        assert width_of(mean, MG_I_2852) == pytest.approx(0.4, rel=2e-3)
        light = 1.0 - mean[near]
        added[name] = (light * pixel[near] ** 2).sum() / light.sum() - 1.5**2
    assert added["nearest"] == pytest.approx(1 / 12, abs=0.01)
    assert added["linear"] == pytest.approx(1 / 6, abs=0.01)


# ---- means, medians, errors


def test_equal_spectra_without_noise_give_themselves():
    z = np.full(5, 10.0 ** (3000 * LATTICE.step) - 1.0)
    flux = absorbed(z, {MG_II_2796: 1.2, MG_II_2803: 0.9, FE_II_2600: 0.7})
    sums = stacked(flux, z)
    mean, samples = mean_flux(sums)
    rest, covered = to_rest(flux, z)
    here = covered[0]
    assert np.array_equal(np.isfinite(mean), here)
    np.testing.assert_allclose(mean[here], rest[0, here], atol=2.0**-20)
    np.testing.assert_allclose(median_flux(sums, 5)[0][here], rest[0, here], atol=0.005001)
    assert np.nanmax(spread(samples)) < 1e-6 and np.nanmax(scatter_flux(sums)) < 2e-3


def test_mean_and_median_of_known_values():
    z, levels = np.full(5, 1.0), np.array([0.2, 0.9, 1.0, 1.1, 4.0])
    sums = stacked(np.repeat(levels[:, None], P, axis=1), z)
    here = sums["count"][0] == 5
    np.testing.assert_allclose(mean_flux(sums)[0][here], levels.mean(), atol=1e-6)
    np.testing.assert_allclose(median_flux(sums, 5)[0][here], 1.0, atol=0.005001)
    np.testing.assert_allclose(scatter_flux(sums)[here], levels.std(), atol=1e-5)


def test_masked_pixels_and_absurd_fluxes_do_not_count():
    z, flux, good = np.full(3, 1.0), np.ones((3, P)), np.ones((3, P), bool)
    flux[1], good[1] = 9.0, False
    flux[2] = 1e4
    sums = stacked(flux, z, good=good)
    assert sums["count"].max() == 1 and np.nanmax(np.abs(mean_flux(sums)[0] - 1.0)) < 1e-6


def test_errors_are_those_of_independent_quasars():
    rng, n, epochs = np.random.default_rng(2), 150, 3
    z = np.full(n * epochs, 1.0)
    own = 0.1 * rng.standard_normal((n, P))  # the same in all spectra of a quasar
    names = np.repeat(np.arange(n).astype(str), epochs)
    sums = stacked(1.0 + np.repeat(own, epochs, axis=0), z, list(names))
    here = sums["count"][0] > 0
    error = spread(mean_flux(sums)[1])[here]
    assert np.mean(error) == pytest.approx(0.1 / np.sqrt(n), rel=0.05)
    # Of a normal distribution the median's error is √(π/2) times the mean's.
    assert np.mean(median_flux(sums, n)[1][here]) == pytest.approx(0.1 * np.sqrt(np.pi / 2 / n), rel=0.07)
    deviation = np.std(mean_flux(sums)[0][here] - 1.0)
    assert np.mean(error) == pytest.approx(deviation, rel=0.05)


def test_the_weights_of_an_object_are_its_own_and_poisson():
    weights = object_weights([f"J{i}" for i in range(4000)], 1)
    assert weights.shape == (4000, REPLICATES)
    assert np.array_equal(object_weights(["J17", "J3", "J17"], 1), weights[[17, 3, 17]])
    assert not np.array_equal(object_weights(["J17"], 2), weights[[17]])
    assert weights.mean() == pytest.approx(1.0, abs=0.01) and weights.var() == pytest.approx(1.0, abs=0.02)


def test_order_and_pieces_change_nothing():
    rng = np.random.default_rng(5)
    z, names = rng.uniform(0.5, 2.0, 300), rng.integers(0, 40, 300).astype(str)
    flux = (1.0 + 0.3 * rng.standard_normal((300, P))).astype(np.float32)
    continuum = np.exp(0.2 * rng.standard_normal((300, 1))) * np.ones((1, P))
    good = rng.random((300, P)) < 0.9
    whole, parts = Sums(), Sums()
    add_spectra(whole, (flux, continuum, good), z, list(names))
    order = rng.permutation(300)
    for rows in np.array_split(order, 7):
        part = Sums()
        add_spectra(part, (flux[rows], continuum[rows], good[rows]), z[rows], list(names[rows]))
        parts += Sums.of_pieces(dict(part.pieces()))
    assert all(np.array_equal(values, parts[name]) for name, values in whole.values.items())
    assert whole.n_spectra == 300


# ---- lines


def test_blended_doublets_and_single_lines_keep_their_widths():
    widths = {MG_II_2796: 1.2, MG_II_2803: 0.9, FE_II_2600: 0.7, MG_I_2852: 0.3}
    spectrum = absorbed(np.zeros(1), widths, sigma_pixels=2.2, grid=REST)
    for line, width in widths.items():
        assert width_of(spectrum, line) == pytest.approx(width, rel=0.02), str(line)


def test_a_slope_that_the_normalisation_left_plays_no_part_and_lacking_pixels_give_nothing():
    spectrum = absorbed(np.zeros(1), {MG_I_2852: 0.3}, grid=REST) * (0.97 + 1e-5 * np.arange(REST.n_pixels))
    assert width_of(spectrum, MG_I_2852) == pytest.approx(0.3, rel=0.01)
    spectrum[0, round(float(REST.pixel(MG_I_2852.wavelength)))] = np.nan
    assert np.isnan(width_of(spectrum, MG_I_2852))


def test_the_line_list_has_every_known_line_once():
    lines = lines_of(REST)
    assert len(lines) == len(set(ALL_LINES)) and [line.wavelength for line in lines] == sorted({line.wavelength for line in ALL_LINES})


# ---- dust


def test_the_law_is_that_of_gordon_2003():
    # A(λ)/A(V) of their Table 4, which the curve follows within its own scatter.
    wave = 1e4 / np.array([1.818, 2.273, 3.375, 4.375, 5.375, 6.375, 7.375, 8.375])
    table = np.array([1.0, 1.374, 2.0, 2.947, 3.637, 4.472, 5.575, 6.436])
    np.testing.assert_allclose(smc_law(wave) / 2.74, table, rtol=0.06)
    blue, visual = smc_law([4400.0, 5500.0])
    assert blue - visual == pytest.approx(1.0, abs=0.03)  # E(B-V) of itself
    assert np.isnan(smc_law([900.0, 4e4])).all()


def test_the_law_is_that_of_dust_extinction():
    averages = pytest.importorskip("dust_extinction.averages", reason="dust_extinction is not installed")
    from astropy import units as u

    wave = np.geomspace(1001.0, 33_000.0, 500)
    np.testing.assert_allclose(smc_law(wave), 2.74 * averages.G03_SMCBar()(wave * u.AA), rtol=1e-9)


def test_reddening_is_fitted_exactly_whatever_each_spectrum_has():
    rng = np.random.default_rng(1)
    law = smc_law(np.geomspace(1300.0, 6000.0, 80))
    difference = -0.4 * np.log(10.0) * 0.07 * (law - 3.0)
    weight = rng.integers(0, 5, 80).astype(float)
    assert fit_reddening(difference, law - 3.0, weight) == pytest.approx(0.07, rel=1e-12)
    assert np.isnan(fit_reddening(difference, law, np.zeros(80)))


def test_dust_of_power_laws_is_recovered_at_any_brightness_and_coverage():
    rng, ebv = np.random.default_rng(4), 0.08
    z = rng.uniform(0.5, 1.8, 60)
    wave = LATTICE.wavelength / 4000.0
    control = (wave ** rng.normal(-1.5, 1e-9, (60, 1))) * np.exp(rng.normal(0.0, 0.3, (60, 1)))
    dusty = wave**-1.5 * transmission(smc_law(LATTICE.wavelength / (1.0 + z[:, None])), ebv) * np.exp(rng.normal(0.0, 0.3, (60, 1)))
    good = LATTICE.wavelength > rng.uniform(3600.0, 5000.0, (60, 1))
    stack = stack_arrays((dusty, dusty, good), z, controls=(control, control, good))
    assert stack.facts["ebv"] == pytest.approx(ebv, abs=3e-4)
    assert stack.facts["n_controls"] == stack.facts["n_matched"] == 60
    np.testing.assert_allclose(stack.ratio["ratio"], stack.ratio["model"], rtol=5e-3)


def test_without_dust_there_is_none_and_every_absorber_has_all_its_controls():
    z, flux = np.linspace(0.6, 1.4, 8), np.ones((8, P))
    stack = stack_arrays((flux, flux, flux > 0), z, controls=(np.tile(flux, (2, 1)),) * 2 + (np.ones((16, P), bool),))
    assert stack.facts["ebv"] == pytest.approx(0.0, abs=1e-9) and stack.facts["n_controls"] == 16


def test_bins_of_dust_lie_on_the_rest_frame_grid():
    wave = dust_wavelength()
    assert wave[0] == pytest.approx(REST.wavelength[:20].prod() ** (1 / 20)) and len(wave) == 367


# ---- the tables


def test_the_tables_have_units_counts_and_the_lines():
    z = np.linspace(0.7, 1.1, 40)
    flux = absorbed(z, {MG_II_2796: 1.0, MG_II_2803: 0.8})
    stack = stack_arrays((flux, np.ones_like(flux), np.ones(flux.shape, bool)), z, [f"q{i % 20}" for i in range(40)])
    assert stack.ratio is None and stack.facts == {"n_spectra": 40, "n_objects": 20}
    assert str(stack.composite["wavelength"].unit) == "Angstrom" and stack.composite["n"].max() == 40
    row = stack.lines[list(stack.lines["line"]).index("Mg II 2796")]
    assert row["ew"].to_value("Angstrom") == pytest.approx(1.0, rel=0.02) and row["n"] == 40


@pytest.mark.parametrize("shape", [(2, P), (3, P - 1)])
def test_shapes_that_do_not_fit_are_refused(shape):
    flux = np.ones(shape)
    with pytest.raises(ValueError, match="expected"):
        stack_arrays((flux, flux, flux > 0), np.ones(3))
    with pytest.raises(ValueError, match="no spectrum"):
        stack_arrays((flux[:0], flux[:0], flux[:0] > 0), [])

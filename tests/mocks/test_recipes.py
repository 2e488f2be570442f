"""Artificial spectra and the examples made of them: reproducible, with the truth they claim."""

import numpy as np
import pytest

from nalspark.incidence import ZHU_MENARD_2013, frequency_law
from nalspark.lines import C_IV, MG_II, SPECIES, with_all_lines
from nalspark.mocks import inject
from nalspark.mocks.examples import candidate_examples, draws, label_candidates, spectrum_examples, strong
from nalspark.mocks.interlopers import KINDS, OTHER_SPECIES, make_interlopers
from nalspark.mocks.quasars import BOSS, SDSS
from nalspark.mocks.recipes import INSTRUMENT_SIGMAS, Recipe, SkyNoise, make_mocks
from nalspark.mocks.stages import _overrepresentation, recipes
from nalspark.settings import load
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE, ZHAO_GRID

SETTINGS = load()
LEARN = recipes(SETTINGS)["train"]
NAMES = [f"mock-{number}" for number in range(24)]


@pytest.fixture(scope="module")
def mocks():
    return make_mocks(NAMES, LEARN)


def test_a_spectrum_is_a_function_of_its_name(mocks):
    again = make_mocks(NAMES[7:12], LEARN)
    assert np.array_equal(mocks.spectra.flux[7:12], again.spectra.flux)
    assert np.array_equal(mocks.z_abs[(mocks.row >= 7) & (mocks.row < 12)], again.z_abs)
    other = make_mocks(NAMES[7:12], Recipe(MG_II, LEARN.populations, seed=2))
    assert not np.array_equal(again.spectra.flux, other.spectra.flux)


def test_flux_is_expected_times_transmission_plus_noise(mocks):
    """Where nothing absorbs, (flux - expected) / σ scatters like a standard normal."""
    clear = mocks.spectra.ivar > 0
    for row, z in zip(mocks.row, mocks.z_abs, strict=True):
        for line in MG_II.transitions:
            centre = int(LATTICE.pixel(line.wavelength * (1 + z)))
            clear[row, max(centre - 60, 0) : max(centre + 60, 0)] = False
    quiet = [row for row in range(len(NAMES)) if mocks.kind[row] != "sky"]
    pull = ((mocks.spectra.flux - mocks.expected) / mocks.sigma)[quiet][clear[quiet]]
    assert abs(np.median(pull)) < 0.02
    assert 0.95 < np.percentile(np.abs(pull), 68.27) < 1.05


def test_nothing_is_recorded_beyond_a_spectrographs_ends(mocks):
    """SDSS ends at 9200 Å, BOSS at 10400 Å: each spectrum is one of the two, and beyond its end it has no data at all."""
    ends = [grid.wavelength_at(grid.n_pixels - 1) for grid in (SDSS.grid, BOSS.grid)]
    assert ends == pytest.approx([9200, 10400], rel=0.01)
    last = np.array([LATTICE.wavelength[np.flatnonzero(row > 0)[-1]] for row in mocks.spectra.ivar])
    by_end = [np.abs(last / end - 1) < 0.005 for end in ends]
    assert (by_end[0] ^ by_end[1]).all() and by_end[0].any() and by_end[1].any()
    beyond = mocks.spectra.ivar == 0
    assert (mocks.spectra.flux[beyond] == 0).all() and (mocks.spectra.mask[beyond] == PixelFlag.NO_DATA).all()
    assert (mocks.spectra.mask[~beyond] == 0).all()


def test_a_line_that_is_not_recorded_has_no_signal(mocks):
    centre = np.rint(LATTICE.pixel(MG_II.primary.wavelength * (1 + mocks.z_abs))).astype(int)
    around = np.clip(centre[:, None] + np.arange(-25, 26), 0, LATTICE.n_pixels - 1)
    unseen = (mocks.spectra.ivar[mocks.row[:, None], around] == 0).all(axis=1)
    assert (mocks.line_snr[unseen, 0] == 0).all() and (mocks.line_snr[~unseen, 0] > 0).any()


def test_every_spectrum_says_its_resolution(mocks):
    known = mocks.spectra.resolution
    assert known.shape == (len(NAMES), len(LATTICE.resolution_pixels)) and (np.ptp(known, axis=1) == 0).all()
    is_one = np.isclose(known[:, :1] * LATTICE.pixel_kms, np.array(INSTRUMENT_SIGMAS), rtol=1e-5)
    assert (is_one.sum(axis=1) == 1).all() and is_one.any(axis=0).sum() > 1


def test_absorbers_lie_where_the_species_is_searched():
    """To a little beyond the quasar, and no farther than is searched; with a wider window, bluewards of C IV as well."""
    names = [f"window-{number}" for number in range(60)]
    usual = make_mocks(names, LEARN)
    velocity = 299792.458 * (usual.z_abs - usual.z_qso[usual.row]) / (1 + usual.z_qso[usual.row])
    assert all(population.red_margin_z < 0 for population in LEARN.populations) and velocity.max() < 3000
    wide = make_mocks(names, recipes(load(None, ["preprocess.window_rest_blue=1216"]))["train"])
    rest = [MG_II.primary.wavelength * (1 + made.z_abs) / (1 + made.z_qso[made.row]) for made in (usual, wide)]
    assert rest[0].min() > 1550 and 1216 < rest[1].min() < 1450


def test_line_snr_is_the_width_over_the_error_of_a_fit():
    """A weak Gaussian line of amplitude a and width s: variance of W is 2π · 1.5 s / (√π w) for pixels of inverse variance w."""
    absorber = inject.make_absorbers(MG_II, [1.0], [0.02], inject.Clouds.single([120.0]))
    weight = np.full((1, LATTICE.n_pixels), 400.0)
    snr = inject.line_snr(absorber, MG_II, LATTICE, weight)
    sigma = np.sqrt((120.0 / np.sqrt(2)) ** 2 + 69.03**2 + 69.03**2 / 12) / LATTICE.pixel_kms
    amplitude = absorber.ew_primary / (np.sqrt(2 * np.pi) * sigma * 2796.3543 * np.log(10) * 1e-4)
    assert snr[0, 0] == pytest.approx(amplitude[0] * np.sqrt(400.0 * sigma * np.sqrt(np.pi) / 1.5), rel=0.01)
    assert snr[0, 0] / snr[0, 1] == pytest.approx(absorber.ew_primary[0] / absorber.ew_secondary[0] * 2803.5315 / 2796.3543, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_every_interloper_leaves_a_mark_where_it_says(kind):
    window = np.zeros((5, LATTICE.n_pixels), dtype=bool)
    window[:, 1000:3000] = True
    rngs = [inject.seeded_generator(kind, row) for row in range(5)]
    made = make_interlopers([kind] * 4 + [""], rngs, window, C_IV if kind == "MgII" else MG_II, LATTICE)
    assert np.isnan(made.pixel[4]) and (made.transmission[4] == 1).all() and not made.residual[4].any()
    assert ((made.pixel[:4] >= 1000) & (made.pixel[:4] < 3000)).all()
    changed = (made.transmission < 0.97) | (np.abs(made.residual) > 1.0)
    assert changed[:4].any(axis=1).all()
    if kind in OTHER_SPECIES:
        species = OTHER_SPECIES[kind]
        for row in range(4):
            second = made.pixel[row] + species.offset_pixels(species.secondary, 1e-4)
            for centre in (made.pixel[row], second):
                assert made.transmission[row, round(centre) - 2 : round(centre) + 3].min() < 0.97
    if kind == "pair":
        offset = MG_II.offset_pixels(MG_II.secondary, 1e-4)
        for row in range(4):
            dips = np.flatnonzero(changed[row])
            assert dips.max() - dips.min() > 4
            assert made.transmission[row, int(made.pixel[row] + offset + 0.5)] > made.transmission[row].min()


def test_a_host_has_the_lines_of_stars():
    """Ca II K and H, Mg b and Na D of one redshift, within 0.8: for every star or galaxy there is one at which all of them absorb."""
    rngs = [inject.seeded_generator("host", row) for row in range(30)]
    made = make_interlopers(["host"] * 30, rngs, np.ones((30, LATTICE.n_pixels), bool), MG_II, LATTICE)
    lines = np.array([3934.8, 3969.6, 5168.8, 5174.1, 5185.0, 5893.6])  # vacuum
    shift = np.arange(-8, round(np.log10(1.8) / LATTICE.step))
    pixel = np.rint(LATTICE.pixel(lines)).astype(int)[None] + shift[:, None]
    inside = (pixel < LATTICE.n_pixels).all(axis=1)
    weakest = (1 - made.transmission[:, pixel[inside]]).min(axis=2)
    best = shift[inside][weakest.argmax(axis=1)]
    assert np.median(weakest.max(axis=1)) > 0.05
    assert 8 <= (np.abs(best) <= 8).sum() <= 22  # one in two is a star
    # Laid upon each other at these redshifts they are a galaxy of old stars: the Mg b lines, between two stretches without strong lines.
    stacked = {}
    for wave in (5100.0, 5168.8, 5174.1, 5185.0, 5230.0):
        stacked[wave] = np.mean([1 - made.transmission[row, round(LATTICE.pixel(wave)) + move] for row, move in enumerate(best)])
    assert min(stacked[5168.8], stacked[5174.1], stacked[5185.0]) > 2 * max(stacked[5100.0], stacked[5230.0], 0.01)
    assert (made.transmission > 1.05).any(axis=1).sum() >= 3  # galaxies that form stars have emission lines


def test_labels_follow_the_distance(mocks):
    row = np.array([mocks.row[0]] * 4)
    centre = LATTICE.pixel(2796.3543 * (1 + mocks.z_abs[0]))
    pixel = np.round(centre + np.array([0.0, 2.0, 6.5, 400.0])).astype(int)
    label, number = label_candidates(mocks, row, pixel, SETTINGS)
    assert label[0] == 1 and np.isnan(label[2]) and number[0] == 0


def test_candidate_examples_and_their_batches():
    together = candidate_examples(NAMES[:6], LEARN, SETTINGS)
    apart = [candidate_examples(NAMES[:2], LEARN, SETTINGS), candidate_examples(NAMES[2:6], LEARN, SETTINGS)]
    for name, values in together.items():
        assert len(values) == len(together["label"])
        assert np.array_equal(values, np.concatenate([part[name] for part in apart]), equal_nan=values.dtype.kind == "f"), name
    assert set(together["quasar_id"]) <= set(NAMES[:6]) and set(np.unique(together["label"])) <= {0.0, 1.0}
    positive = together["label"] == 1
    assert positive.any() and np.isfinite(together["z_abs"][positive]).all()


def test_whole_spectra_are_labelled_by_strong_absorbers(mocks):
    made = spectrum_examples(NAMES, LEARN, SETTINGS)
    strong_rows = {NAMES[row] for row in mocks.row[strong(mocks)]}
    assert {name for name, label in zip(made["example_id"], made["label"], strict=True) if label == 1} <= strong_rows
    assert made["flux"].shape == (len(made["label"]), ZHAO_GRID.n_pixels) and np.isfinite(made["flux"]).all()
    assert ((made["flux"] == 0).mean(axis=1) > 0.05).all()  # outside the window there is nothing


def test_draws_are_uniform_and_fixed():
    values = draws([f"e{number}" for number in range(4000)])
    assert values[:10].tolist() == draws([f"e{number}" for number in range(10)]).tolist()
    assert abs(values.mean() - 0.5) < 0.02 and values.min() >= 0 and values.max() < 1


def test_real_sky_residuals_are_the_noise():
    residual = np.full((1, LATTICE.n_pixels), 0.5, dtype=np.float32)
    sky = SkyNoise(residual, np.full_like(residual, 16.0), np.zeros(residual.shape, dtype=np.uint8))
    made = make_mocks(NAMES[:8], Recipe(MG_II, LEARN.populations, contaminated=0.0, sky=sky))
    absorbed = np.unique(made.row)
    for row in set(range(8)) - set(absorbed):
        assert abs(np.median(made.spectra.flux[row] - made.expected[row])) == pytest.approx(0.5, abs=0.1)


def test_zhu_and_menard_numbers():
    """dN/dz at z = 1 above 0.6, 1 and 2 Å: 0.473, 0.260, 0.058 (computed from the published fit)."""
    assert ZHU_MENARD_2013.rate(1.0, 0.6) == pytest.approx(0.473, abs=0.001)
    assert ZHU_MENARD_2013.rate(1.0, 1.0) == pytest.approx(0.260, abs=0.001)
    assert ZHU_MENARD_2013.rate(1.0, 2.0) == pytest.approx(0.058, abs=0.001)


def test_drawn_absorbers_have_the_incidence_and_the_widths():
    population = inject.Population(counts=(0.0,) * 6 + (1.0,), ew_law="published", incidence=1.0, ew_min=0.6)
    uniforms = np.random.default_rng(5).random((4000, inject.uniforms_per_spectrum(MG_II, population)))
    drawn = inject.draw(MG_II, population, uniforms, (np.full(4000, 0.95), np.full(4000, 1.05)))
    assert len(drawn) / 4000 == pytest.approx(0.0473, rel=0.15)
    assert (drawn.ew_primary > 1.0).mean() == pytest.approx(0.260 / 0.473, abs=0.08)


@pytest.mark.parametrize("species", SPECIES.values(), ids=lambda species: species.name)
def test_absorbers_of_every_species_are_as_frequent_as_its_law(species):
    population = inject.Population(counts=(0.0,) * 6 + (1.0,), ew_law="published", incidence=_overrepresentation(species), ew_min=0.15)
    uniforms = np.random.default_rng(5).random((4000, inject.uniforms_per_spectrum(species, population)))
    drawn = inject.draw(species, population, uniforms, (np.full(4000, 0.9), np.full(4000, 1.1)))
    expected = 0.2 * float(frequency_law(species).rate(1.0, 0.15)) * _overrepresentation(species)
    assert len(drawn) / 4000 == pytest.approx(expected, rel=0.12) and expected >= 0.08 - 1e-9
    assert (_overrepresentation(species) > 1) == (species.name in ("AlIII", "CaII", "NaI"))


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
def test_a_part_of_the_absorbers_shows_no_other_ion(species):
    system, population = with_all_lines(species), inject.Population(counts=(0.0, 1.0), ew_law="log-uniform")
    uniforms = np.random.default_rng(7).random((2000, inject.uniforms_per_spectrum(system, population)))
    drawn = inject.draw(system, population, uniforms, (np.full(2000, 1.9), np.full(2000, 2.1)))
    own = np.array([line.ion == species.primary.ion for line in system.transitions])
    assert (drawn.relative_tau[:, own] > 0).all()
    assert (drawn.relative_tau[:, ~own] == 0).all(axis=1).mean() == pytest.approx(species.bare, abs=0.03)


def test_the_papers_recipe_has_its_line_width():
    uniforms = np.random.default_rng(6).random((3000, inject.uniforms_per_spectrum(MG_II, inject.ZHAO_2019)))
    drawn = inject.draw(MG_II, inject.ZHAO_2019, uniforms, (np.full(3000, 0.8), np.full(3000, 1.6)))
    assert len(drawn) / 3000 == pytest.approx(0.5, abs=0.03)
    observed = 2.3548 * np.sqrt(drawn.sigma_kms**2 + 69.03**2) / 299792.458 * 2796.35
    assert 1.6 < np.median(observed) < 2.4  # saturation widens the strong ones
    assert ((drawn.tau > 0).sum(axis=1) == 1).all()


def test_an_empirical_population_keeps_its_sample():
    population = inject.Population(counts=(0.0, 1.0), ew_law="empirical", ew_sample=(0.5, 0.7, 1.1, 2.0))
    uniforms = np.random.default_rng(7).random((500, inject.uniforms_per_spectrum(MG_II, population)))
    drawn = inject.draw(MG_II, population, uniforms, (np.full(500, 0.8), np.full(500, 1.6)))
    assert drawn.ew_primary.min() == pytest.approx(0.5, abs=0.01) and drawn.ew_primary.max() <= 2.01
    with pytest.raises(ValueError, match="sample"):
        inject.Population(ew_law="empirical")

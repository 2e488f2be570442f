"""Column densities against clouds of known column density: linear, apparent optical depth, errors, saturation."""

import numpy as np
import pytest
from make_spectra import OFFSET, STEP, UNIT_WIDTH, make_images

from nalspark.absorption.column_density import Profile, integrate_optical_depth, is_saturated
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, core_is_covered, cut_images
from nalspark.absorption.measure import measure_candidates
from nalspark.lines import C_IV, FE_II_2600, MG_II, SPEED_OF_LIGHT_KMS
from nalspark.mocks.inject import Clouds, equivalent_width, make_absorbers, transmission
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE
from nalspark.tables.schemas import absorbers_table

LABELS = [line.label for line in MG_II.transitions]
LINES = {line.label: line for line in MG_II.transitions}
#: Redshifts at which all lines lie on the lattice.
Z = {MG_II: 0.9, C_IV: 2.0}
#: log10 N of the companions over that of Mg II, for all their ions alike.
RELATIVE = -0.3


def column_of(line, tau, b):
    """log10 N of clouds of central optical depth τ₀ in a line: τ₀ = 1.497e-15 N f λ / b (Spitzer 1978, eq. 3-48)."""
    return np.log10(tau * b / (1.497e-15 * line.strength * line.wavelength))


def clouds(tau, b, *, species=MG_II, companions=True, z=0.9):
    """Single clouds, at all phases of the pixel, all lines of the species with them; and log10 N of the doublet's ion."""
    tau, b = np.broadcast_arrays(np.atleast_1d(np.asarray(tau, dtype=float)), np.asarray(b, dtype=float))
    first, shape = species.primary, Clouds.single(b)
    relative = [
        (1.0 if line.ion == first.ion else companions * 10**RELATIVE)
        * line.strength
        * line.wavelength
        / (first.strength * first.wavelength)
        for line in species.transitions
    ]
    ew = equivalent_width(first, tau[:, None], shape.b_kms, shape.velocity_kms)
    phases = 1e-4 * np.log(10) * (1 + z) * np.linspace(-0.5, 0.5, len(tau))
    made = make_absorbers(species, z + phases, ew, shape, relative_tau=np.tile(relative, (len(tau), 1)))
    return made, column_of(first, tau, b)


def images_of(absorbers, *, species=MG_II, snr=1e4, noise=None):
    """Their candidate images, and where they are."""
    n = len(absorbers)
    residual = 1 - transmission(absorbers, species, LATTICE, n)
    if noise is not None:
        residual += noise.standard_normal(residual.shape) / snr
    pixel = np.rint(LATTICE.pixel(species.primary.wavelength * (1 + absorbers.z))).astype(int)
    image = cut_images(residual.astype(np.float32), np.arange(n), pixel, ImageGeometry.of(species, STEP))
    return image, np.full(image.shape, snr, np.float32), pixel


def measure(residual, inverse_error, pixel=1500, species=MG_II):
    n = len(residual)
    where = {"pixel": np.broadcast_to(pixel, n), "width_pixels": np.full(n, 1.6)}
    return measure_candidates(residual, inverse_error, where, species, LATTICE)


def measured(tau, b, **how):
    absorbers, true = clouds(tau, b)
    return measure(*images_of(absorbers, **how)), true


def profile_of(n, **values):
    """A profile of a line at the middle, one pixel wide, with nothing else."""
    usual = {"centre": np.zeros(n), "width": np.ones(n), "depth": np.full(n, 0.3), "level_error": np.zeros(n)}
    columns = 2 * HALF_WIDTH + 1
    return Profile(**{**usual, "level": np.zeros((n, columns)), **values})


# ---- closed forms


@pytest.mark.parametrize("species", [MG_II, C_IV], ids=lambda species: species.name)
@pytest.mark.parametrize("b", [15.0, 40.0, 90.0])
def test_thin_lines_have_the_column_density_put_in(species, b):
    """τ₀ = 0.02 in the strongest line: what is missing is 0.35 τ₀, 0.003 dex; both ways, in every line that is seen."""
    absorbers, true = clouds(np.full(11, 0.02), b, species=species, z=Z[species])
    found = measure(*images_of(absorbers, species=species), species=species)
    for line in (species.primary, species.secondary):
        for way in ("", "linear_"):
            np.testing.assert_allclose(found[f"log_n_{way}{line.label}"], true, atol=0.02)
    np.testing.assert_allclose(found["log_n"], true, atol=0.02)
    assert not found["saturated"].any()


def test_companions_have_the_column_density_put_in():
    """Each by its own f λ: Fe II lines agree though their strengths differ by ten. The strongest, Mg I, has τ₀ = 0.08."""
    found, true = measured(np.full(11, 0.05), 40.0)
    for line in MG_II.companions:
        for way in ("", "linear_"):
            np.testing.assert_allclose(found[f"log_n_{way}{line.label}"], true + RELATIVE, atol=0.03, err_msg=line.label)


def test_the_linear_relation_is_that_of_the_books():
    """N = 1.13e20 W / (f λ²), of the catalogue's own W."""
    found, _ = measured([0.1, 1.0, 10.0], 30.0)
    for label, line in LINES.items():
        expected = np.log10(1.13e20 * found[f"ew_{label}"] / (line.strength * line.wavelength**2))
        np.testing.assert_allclose(found[f"log_n_linear_{label}"], expected, atol=5e-4)


@pytest.mark.parametrize("depth, sampling", [(0.1, 1e-3), (0.5, 2e-3), (0.8, 3e-3), (0.95, 1.2e-2)])
def test_optical_depth_of_a_gaussian_is_its_series(depth, sampling):
    """∫ -ln(1 - A g) du = s √(2π) Σ A^k / k^1.5, since g^k is a Gaussian of width s / √k; one sample a pixel misses some of a peak."""
    k = np.arange(1, 2000)
    width, phases = 1.6, np.linspace(-0.5, 0.5, 11)
    u = np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    residual = depth * np.exp(-0.5 * ((u - phases[:, None]) / width) ** 2)
    profile = profile_of(11, centre=phases, width=np.full(11, width), depth=np.full(11, depth))
    found = integrate_optical_depth(residual, np.full(residual.shape, 1e6), profile, 20.0)
    np.testing.assert_allclose(found.total, width * np.sqrt(2 * np.pi) * (depth**k / k**1.5).sum(), rtol=sampling)
    assert (found.dark == 0).all()


@pytest.mark.parametrize("depth", [0.1, 0.5, 0.9])
def test_an_error_of_the_level_is_that_of_what_all_pixels_are_divided_by(depth):
    error, exact = 1e-3, np.full((1, 2 * HALF_WIDTH + 1), 1e6)
    residual = depth * np.exp(-0.5 * (np.arange(-HALF_WIDTH, HALF_WIDTH + 1) / 2.0) ** 2)[None]

    def total(level):
        nothing = np.zeros(1)
        profile = Profile(
            centre=nothing, width=nothing + 2.0, depth=nothing + depth, level=residual * 0 + level, level_error=nothing + error
        )
        return integrate_optical_depth(residual, exact, profile, 24.0)

    change = (total(error).total - total(-error).total) / 2
    assert total(0.0).error[0] == pytest.approx(abs(change[0]), rel=0.02)


def test_resolved_lines_need_no_linear_part():
    """b = 150 km/s and τ₀ = 1: the linear value lacks 0.14 dex (0.07 in the weaker line), apparent optical depth hardly anything."""
    found, true = measured(np.full(11, 1.0), 150.0)
    assert (found["log_n_linear_2796"] - true < -0.12).all() and (found["log_n_linear_2803"] - true < -0.04).all()
    for name in ("log_n_2796", "log_n_2803", "log_n"):
        assert (np.abs(found[name] - true) < 0.03).all(), name
    assert not found["saturated"].any()


# ---- saturation


@pytest.mark.parametrize("b", [15.0, 30.0, 60.0, 100.0])
def test_flag_says_whether_the_stronger_line_falls_short_by_a_tenth_of_a_dex(b):
    """Without noise, whatever the resolution; between 0.07 and 0.12 dex either answer will do. Unsaturated: log_n within 0.06 dex."""
    absorbers, true = clouds(np.geomspace(0.1, 30.0, 60), b, companions=False)
    found = measure(*images_of(absorbers))
    short = true - found["log_n_2796"]
    assert found["saturated"][short > 0.12].all() and not found["saturated"][short < 0.07].any()
    assert (short > 0.12).sum() > 10 and (short < 0.07).sum() > 10
    assert (np.abs(found["log_n"] - true)[~found["saturated"]] < 0.06).all()


def test_saturated_column_densities_are_lower_limits():
    """All ways, all lines of the ion; the weaker line is nearer to the truth, and gives the ion's."""
    found, true = measured(np.geomspace(2.0, 100.0, 20), np.tile([12.0, 25.0, 45.0, 70.0], 5))
    assert found["saturated"].all()
    for label in ("2796", "2803"):
        assert (found[f"log_n_linear_{label}"] < found[f"log_n_{label}"]).all() and (found[f"log_n_{label}"] < true).all()
    assert (found["log_n_2803"] > found["log_n_2796"]).all()
    np.testing.assert_array_equal(found["log_n"], found["log_n_2803"])


@pytest.mark.parametrize("snr", [10, 20, 50])
def test_saturated_clouds_are_flagged_whatever_the_noise(snr):
    """At least 95 % of 1200 single clouds of τ₀ > 1.35, all beyond the limit, that show the stronger line at 3.5 standard errors."""
    rng = np.random.default_rng(snr)
    absorbers, _ = clouds(np.exp(rng.uniform(np.log(1.35), np.log(30.0), 1200)), rng.uniform(10.0, 60.0, 1200), companions=False)
    found = measure(*images_of(absorbers, snr=snr, noise=rng))
    counted = found["snr_2796"] > 3.5
    assert counted.sum() > 800 and found["saturated"][counted].mean() >= 0.95


def test_unsaturated_clouds_come_back_within_their_noise():
    """Clouds of τ₀ < 0.7 at S/N 50: no bias of 0.05 dex, pulls of one, and not flagged where the lines are measured to a few per cent."""
    rng = np.random.default_rng(3)
    absorbers, true = clouds(rng.uniform(0.3, 0.7, 600), rng.uniform(30.0, 60.0, 600), companions=False)
    found = measure(*images_of(absorbers, snr=50, noise=rng))
    assert abs(np.median(found["log_n"] - true)) < 0.05
    for label in ("2796", "2803"):
        missing = np.median(found[f"log_n_{label}"] - true)  # the part hidden by the instrument
        pull = (found[f"log_n_{label}"] - true - missing) / found[f"log_n_{label}_err"]
        assert -0.07 < missing < 0 and np.percentile(pull, [16, 84]) == pytest.approx([-1.0, 1.0], abs=0.2)
    clear = measure(*images_of(absorbers, snr=400, noise=rng))
    assert clear["saturated"].mean() < 0.3


def test_noise_does_not_make_thin_lines_deeper():
    """ln(1/F) of noisy pixels is too large in the mean by e²/2F²; at S/N 10 that would be a fifth of the weaker line here."""
    rng = np.random.default_rng(4)
    n, u = 4000, np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    line = 0.1 * np.exp(-0.5 * (u / 1.4) ** 2)
    residual = line + 0.1 * rng.standard_normal((n, len(u)))
    profile = profile_of(n, width=np.full(n, 1.4), depth=np.full(n, 0.1))
    found = integrate_optical_depth(residual, np.full(residual.shape, 10.0), profile, 20.0)
    exact = integrate_optical_depth(
        line[None], np.full((1, len(u)), 1e6), profile_of(1, width=np.full(1, 1.4), depth=np.full(1, 0.1)), 20.0
    )
    spread = found.total.std()
    assert found.total.mean() == pytest.approx(exact.total[0], abs=4 * spread / np.sqrt(n))
    assert np.median(found.error) == pytest.approx(spread, rel=0.05)


def test_rule_of_the_two_lines():
    """Not saturated is only what is shown: the stronger line has more than 0.891 of the weaker one's N by one standard error."""
    zero, none = np.zeros(1, int), np.zeros(1)

    def saturated(first, second, error=none, dark=(0, 0)):
        return bool(is_saturated((np.array([first]), error, zero + dark[0]), (np.array([second]), error, zero + dark[1]))[0])

    assert not saturated(1.0, 1.0) and not saturated(1.0, 1.11) and saturated(1.0, 1.13) and not saturated(1.0, 0.5)
    assert not saturated(1.0, 1.0, np.array([0.08])) and saturated(1.0, 1.0, np.array([0.09]))
    assert not saturated(1.0, 1.0, dark=(1, 1)) and saturated(1.0, 1.0, dark=(2, 0)) and saturated(1.0, 1.0, dark=(0, 2))
    assert saturated(np.nan, 1.0) and saturated(1.0, np.nan)


def test_black_lines_are_saturated_and_finite():
    """Two lines of one depth over many pixels at zero flux, wide enough to be resolved."""
    found, true = measured([60.0, 300.0], 150.0, snr=50)
    assert found["saturated"].all()
    for label in ("2796", "2803"):
        assert np.isfinite(found[f"log_n_{label}"]).all() and (found[f"log_n_{label}"] < true).all()


# ---- nulls and invariances


def test_lines_that_are_not_covered_are_null():
    at = round(MG_II.offset_pixels(FE_II_2600, STEP))
    iron = measure(*make_images(0.0, 1.8, 0.3, 0.2, companions={"2600": 0.2}, masked=range(at - 2, at + 3)))
    second = measure(*make_images(0.0, 1.8, 0.3, 0.2, masked=range(round(OFFSET) - 2, round(OFFSET) + 3)))
    for found, gone, there in ((iron, "2600", "2803"), (second, "2803", "2796")):
        for name in (f"log_n_{gone}", f"log_n_{gone}_err", f"log_n_linear_{gone}"):
            assert np.isnan(found[name][0]), name
        assert np.isfinite([found[f"log_n_{there}"][0], found["log_n"][0], found["log_n_err"][0]]).all()
    # With one line nothing is shown; the ion's column density is the other line's.
    assert second["saturated"][0] and second["log_n"][0] == pytest.approx(second["log_n_2796"][0])


def test_where_nothing_is_absorbed_there_is_no_logarithm():
    found = measure(*make_images(0.0, 1.8, -0.3, -0.2, companions={"2600": -0.2}))
    for label in ("2796", "2803", "2600"):
        assert np.isnan([found[f"log_n_{label}"][0], found[f"log_n_{label}_err"][0], found[f"log_n_linear_{label}"][0]]).all()
    assert np.isnan([found["log_n"][0], found["log_n_err"][0]]).all()
    empty = measure(*make_images(0.0, 1.8, 0.0, 0.0, masked=range(-790, 111)))
    assert all(np.isnan(empty[f"log_n_{label}"][0]) for label in LABELS) and np.isnan(empty["log_n"][0])


def test_a_masked_pixel_is_filled_from_the_model():
    whole, masked = (measure(*make_images(np.linspace(-0.5, 0.5, 11), 1.8, 0.4, 0.25, masked=pixels)) for pixels in ((), (2,)))
    np.testing.assert_allclose(masked["log_n_2796"], whole["log_n_2796"], atol=2e-3)


def test_a_wrong_continuum_is_taken_off():
    """A continuum 6 % too high in all lines: the free level of each line finds it, and F is taken against what is left."""
    absorbers, _ = clouds(np.full(11, 0.8), 60.0)
    residual, inverse, pixel = images_of(absorbers, snr=100)
    right, wrong = (measure(image.astype(np.float32), inverse, pixel) for image in (residual, 1 - 0.94 * (1 - residual)))
    for label in LABELS:
        np.testing.assert_allclose(wrong[f"log_n_{label}"], right[f"log_n_{label}"], atol=0.02, err_msg=label)


def test_wide_lines_are_cut_in_the_middle_of_the_doublet():
    """σ = 3 pixels reaches 9, the middle of the doublet is at 5.6: what lies beyond is the model's, and the other line is taken off."""
    found = measure(*make_images(np.linspace(-0.5, 0.5, 11), 3.0, 0.4, 0.25, error=2e-3))
    k = np.arange(1, 200)
    for label, depth in (("2796", 0.4), ("2803", 0.25)):
        line = LINES[label]
        speed = 3.0 * np.sqrt(2 * np.pi) * (depth**k / k**1.5).sum() * LATTICE.pixel_kms
        np.testing.assert_allclose(found[f"log_n_{label}"], np.log10(3.768e14 / (line.strength * line.wavelength) * speed), atol=0.02)


def test_numbers_do_not_depend_on_redshift_or_on_the_batch():
    images = make_images(np.linspace(-0.5, 0.5, 7), 1.8, 0.4, 0.25, noise=np.random.default_rng(5))
    near, far = measure(*images, pixel=1000), measure(*images, pixel=2500)
    names = [name for name in near if name.startswith("log_n")] + ["saturated"]
    for name in names:
        np.testing.assert_array_equal(near[name], far[name], err_msg=name)
        one = measure(*(image[3:4] for image in images), pixel=1000)
        np.testing.assert_array_equal(one[name], near[name][3:4], err_msg=name)


def test_the_table_has_all_that_is_measured():
    found = measure(*make_images(0.0, 1.8, 0.4, 0.25))
    declared = {column.name: column for column in absorbers_table(load().line_species).columns if "log_n" in column.name}
    assert set(declared) == {name for name in found if "log_n" in name} and len(declared) == 2 + 3 * len(LABELS)
    assert found["saturated"].dtype == bool


def test_errors_are_of_the_equivalent_width_where_thin():
    """Of a weak line both say the same: a box of three σ and a fit of known width differ by less than two."""
    found = measure(*make_images(0.0, 1.4, 0.1, 0.05, error=0.005))
    speed = 0.1 * 1.4 * UNIT_WIDTH["2796"] / LINES["2796"].wavelength * SPEED_OF_LIGHT_KMS
    relative = found["ew_2796_err"][0] / found["ew_2796"][0] / np.log(10)
    assert speed == pytest.approx(found["ew_2796"][0] / LINES["2796"].wavelength * SPEED_OF_LIGHT_KMS, rel=1e-3)
    assert 0.6 < found["log_n_2796_err"][0] / relative < 1.7


def test_core_is_covered_by_seven_tenths():
    distance = np.arange(-5.0, 6.0)[None]
    inverse = np.ones((1, 11))
    assert core_is_covered(distance, np.full((1, 1), 2.0), inverse).all()
    for masked, covered in ((2, True), (3, False)):  # of seven pixels
        some = replace_first(inverse, masked)
        assert core_is_covered(distance, np.full((1, 1), 2.0), some).tolist() == [covered]


def replace_first(inverse, masked):
    some = inverse.copy()
    some[:, 2 : 2 + masked] = 0.0
    return some

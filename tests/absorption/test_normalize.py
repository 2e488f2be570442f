"""Ready for the search: every reason for which a spectrum is not, masks, rescaling, honest errors, and no dependence on the batch."""

import numpy as np
import pytest
from make_spectra import doublet, lines_at, make_spectra, quasar_continuum

from nalspark.absorption.normalize import LYMAN_ALPHA, normalize, residuals, searched_pixels
from nalspark.lines import C_IV, MG_II
from nalspark.settings import Preprocess
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.noise_model import noise_factor

SETTINGS = Preprocess()


def ready(spectra, z_qso, settings=SETTINGS, species=MG_II):
    return normalize(spectra, np.asarray(z_qso, dtype=float), species, settings)


def one(z=1.6, snr=10, **changes):
    """One spectrum, with some of its arrays changed by functions of (values, wavelength)."""
    spectra = make_spectra([z], snr)
    arrays = {name: getattr(spectra, name).copy() for name in ("flux", "ivar", "mask")}
    for name, change in changes.items():
        arrays[name][0] = change(arrays[name][0], LATTICE.wavelength)
    return Spectra(**arrays, grid=LATTICE)


def test_a_good_spectrum_is_usable():
    result = ready(make_spectra([0.8, 1.6, 2.5], 10, scale=7.0), [0.8, 1.6, 2.5])
    assert result.reason.tolist() == [None] * 3 and result.detail.tolist() == [None] * 3
    # Errors are the scatter of the residuals to a few per cent, and the continuum is that of the quasar.
    assert result.snr == pytest.approx([10] * 3, rel=0.06)
    for row, z in enumerate((0.8, 1.6, 2.5)):
        true = 7.0 * quasar_continuum(z)
        inner = slice(50, -50)
        np.testing.assert_allclose(np.median(result.continuum[row, inner] * result.rescale[row] / true[inner]), 1.0, atol=0.01)
    assert result.redshift_path == pytest.approx([sum(b - a) for a, b in zip(result.z_start, result.z_stop, strict=True)])
    assert result.spectra.flux.dtype == result.spectra.ivar.dtype == result.continuum.dtype == np.float32


def test_everything_is_divided_by_the_clean_region():
    faint, bright = (ready(make_spectra([1.6], 10, scale=scale), [1.6]) for scale in (1.0, 64.0))
    assert bright.rescale[0] == pytest.approx(64 * faint.rescale[0], rel=1e-6)
    np.testing.assert_allclose(bright.spectra.flux, faint.spectra.flux, rtol=1e-5)
    np.testing.assert_allclose(bright.spectra.ivar, faint.spectra.ivar, rtol=1e-4)
    np.testing.assert_allclose(bright.continuum, faint.continuum, rtol=1e-5)
    clean = (LATTICE.wavelength > 3020 * 2.6) & (LATTICE.wavelength < 3100 * 2.6)
    assert np.median(faint.spectra.flux[0, clean]) == pytest.approx(1.0, abs=1e-6)


# ---- reasons

#: What makes a spectrum unusable: the reason, the quasar's redshift, the spectrum, and a piece of the sentence.
REASONS = [
    ("no_search_path", 0.2, one(0.2), "At z_qso = 0.2000 MgII can be searched at no wavelength between 3560 and 10399 Å."),
    ("no_search_path", 5.8, one(5.8), "can be searched at no wavelength"),
    ("too_few_good_pixels", 1.6, one(ivar=lambda v, w: np.where(w < 4100, v, 0)), "200 are needed"),
    (
        "too_few_good_pixels",
        1.6,
        one(mask=lambda v, w: np.where(w < 7500, PixelFlag.NO_DATA, 0)),
        "0 usable pixels in the search window",
    ),
    ("no_positive_flux", 1.6, one(flux=lambda v, w: -v), "The median flux is not positive"),
    ("low_snr", 1.6, one(snr=0.3), "0.5 is needed"),
    (
        "no_search_path",
        1.6,
        one(mask=lambda v, w: np.where(np.arange(len(v)) % 5 < 2, PixelFlag.NO_DATA, 0)),
        "No pixel of the search window",
    ),
]


@pytest.mark.parametrize(
    "reason, z, spectra, sentence", REASONS, ids=lambda value: value if isinstance(value, str) and " " not in value else ""
)
def test_every_reason_is_given_with_a_sentence(reason, z, spectra, sentence):
    result = ready(spectra, [z])
    assert result.reason[0] == reason and sentence in result.detail[0]
    assert np.isfinite(result.continuum).all()  # carried through, so that a batch stays one array
    if reason != "low_snr":
        assert result.redshift_path[0] == 0.0 and len(result.z_start[0]) == 0


def test_an_unusable_spectrum_does_not_hurt_its_neighbours():
    broken = [spectra for _, _, spectra, _ in REASONS]
    z = [z for _, z, _, _ in REASONS]
    good = one()
    together = Spectra(*(np.concatenate([getattr(s, name) for s in (*broken, good)]) for name in ("flux", "ivar", "mask")), LATTICE)
    result, alone = ready(together, [*z, 1.6]), ready(good, [1.6])
    assert result.reason.tolist() == [reason for reason, *_ in REASONS] + [None]
    np.testing.assert_array_equal(result.continuum[-1], alone.continuum[0])


def test_thresholds_are_the_settings():
    assert ready(one(snr=0.3), [1.6], Preprocess(min_snr=0.1)).reason[0] is None
    assert ready(one(), [1.6], Preprocess(min_good_pixels=3500)).reason[0] == "too_few_good_pixels"


# ---- masks


def test_the_forest_is_masked():
    z = 2.6
    result = ready(make_spectra([z], 10), [z])
    forest = (result.spectra.mask[0] & PixelFlag.FOREST) > 0
    np.testing.assert_array_equal(forest, LATTICE.wavelength < LYMAN_ALPHA * (1 + z))
    assert forest.sum() == pytest.approx(np.log10(LYMAN_ALPHA * (1 + z)) / 1e-4 - LATTICE.first, abs=1)
    assert not (ready(make_spectra([1.6], 10), [1.6]).spectra.mask & PixelFlag.FOREST).any()


def test_masks_are_added_to_the_surveys_own():
    spectra = one(mask=lambda v, w: np.where((w > 5000) & (w < 5010), PixelFlag.NO_DATA, 0))
    before = spectra.mask.copy()
    mask = ready(spectra, [1.6]).spectra.mask[0]
    assert (LATTICE.wavelength[0] > LYMAN_ALPHA * 2.6) and before.any()
    np.testing.assert_array_equal(mask, before[0])  # no wavelength is excluded because of what the sky does there
    np.testing.assert_array_equal(spectra.mask, before)  # the caller's array is left alone


def test_masked_pixels_are_not_searched():
    spectra = one(mask=lambda v, w: np.where((w > 5000) & (w < 5050), PixelFlag.NO_DATA, 0))
    result = ready(spectra, [1.6])
    searched = searched_pixels(result.spectra, result.continuum, np.array([1.6]), MG_II, SETTINGS)[0]
    z = LATTICE.wavelength / MG_II.primary.wavelength - 1
    inside = ((result.z_start[0][:, None] < z) & (z < result.z_stop[0][:, None])).any(axis=0)
    np.testing.assert_array_equal(inside, searched)  # the path that is published is the one that is searched
    assert not searched[(LATTICE.wavelength > 5000) & (LATTICE.wavelength < 5050)].any()
    second = LATTICE.wavelength * MG_II.secondary.wavelength / MG_II.primary.wavelength
    assert not searched[(second > 5001) & (second < 5049)].any()


def test_other_species_have_other_windows():
    mg, c = ready(make_spectra([2.4], 10), [2.4]), ready(make_spectra([2.4], 10), [2.4], species=C_IV)
    assert mg.z_start[0][0] > 0.8 and c.z_start[0][0] > 1.7
    assert mg.z_stop[0][-1] == pytest.approx(2.4340, abs=4e-4) == c.z_stop[0][-1]  # 3.4 · 3000 km/s / c beyond the quasar


# ---- errors


def test_understated_errors_are_inflated():
    """Errors half as large as they should be, over a third of the spectrum: there alone they grow, if only by a tenth.

    The prior of the inflation takes 10 % of the 2, and a continuum that believes the errors follows the noise and sets it aside.
    """
    region = (LATTICE.wavelength > 6000) & (LATTICE.wavelength < 7500)
    result = ready(one(ivar=lambda v, w: np.where(region, 4 * v, v)), [1.6])
    true_ivar = one().ivar[0] * result.rescale[0] ** 2
    factor = np.sqrt(true_ivar / result.spectra.ivar[0])  # final error over true error
    inner = (LATTICE.wavelength > 6300) & (LATTICE.wavelength < 7100)
    outer = (LATTICE.wavelength > 4200) & (LATTICE.wavelength < 5600)
    assert 0.54 < np.median(factor[inner]) < 1.0
    assert np.median(factor[outer]) == pytest.approx(1.0, abs=0.08)


def test_errors_are_never_reduced_much():
    result = ready(one(ivar=lambda v, w: v / 4), [1.6])  # errors twice too large
    before = one(ivar=lambda v, w: v / 4).ivar[0] * result.rescale[0] ** 2
    ratio = np.sqrt(before / result.spectra.ivar[0])
    assert ratio.min() >= 0.85 * (1 - 1e-5) and np.median(ratio) == pytest.approx(0.85, abs=0.02)


def test_a_strong_absorber_does_not_blind_its_surroundings():
    absorbed = lines_at(*doublet(1500, 0.95, 1.05, 3.0))[None]
    with_it, without = (ready(make_spectra([1.6], 10, absorbed=a), [1.6]) for a in (absorbed, None))
    near = slice(1400, 1600)
    ratio = with_it.spectra.ivar[0, near] / without.spectra.ivar[0, near]
    assert np.abs(ratio - 1).max() < 0.2


# ---- residuals


def test_residuals():
    flux, ivar = np.array([[1.0, 3.0, 2.0, 2.0, np.nan]], np.float32), np.array([[4.0, 4.0, 4.0, 0.0, 0.0]], np.float32)
    continuum, mask = np.array([[2.0, 2.0, -1.0, 2.0, 2.0]], np.float32), np.array([[0, 0, 0, 0, 0]], np.uint8)
    residual, weight = residuals(flux, ivar, continuum, mask)
    # 1 - F/C and C² ivar; nothing where the continuum is not positive or the pixel has no weight.
    np.testing.assert_array_equal(residual, [[0.5, -0.5, 0, 0, 0]])
    np.testing.assert_array_equal(weight, [[16, 16, 0, 0, 0]])
    mask[0, 0] = PixelFlag.ABSURD
    assert residuals(flux, ivar, continuum, mask)[1][0, 0] == 0.0


# ---- independence


def mixed_batch(n=64):
    """Quasars of every kind: S/N from 0.3 to 40, absorbers, gaps, spikes, negative and absent flux."""
    rng = np.random.default_rng(5)
    z = rng.uniform(0.3, 3.2, n)
    absorbed = np.array([lines_at(*doublet(rng.uniform(300, 3000), rng.uniform(0.1, 0.95), 1.3, rng.uniform(1, 4))) for _ in range(n)])
    spectra = make_spectra(z, np.geomspace(0.3, 40, n)[:, None], absorbed=absorbed, scale=3.0)
    spectra.ivar[rng.random(spectra.ivar.shape) < 0.02] = 0.0
    spectra.mask[rng.random(spectra.mask.shape) < 0.01] = PixelFlag.NO_DATA
    spectra.flux[5], spectra.ivar[6], spectra.flux[7, 100] = -1.0, 0.0, 1e6
    return spectra, z


def test_a_row_does_not_depend_on_the_batch():
    """To the last bit in batches of 1, 7 and 64: Spark chooses them."""
    spectra, z = mixed_batch()
    whole = ready(spectra, z)
    assert 3 < sum(reason is not None for reason in whole.reason) < 40
    for size in (1, 7):
        rows = [slice(k, k + size) for k in range(0, 64, size)]
        parts = [ready(Spectra(spectra.flux[row], spectra.ivar[row], spectra.mask[row], LATTICE), z[row]) for row in rows]
        for name in ("continuum", "rescale", "snr", "redshift_path", "reason", "detail"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name), err_msg=name)
        for name in ("flux", "ivar", "mask"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part.spectra, name) for part in parts]), getattr(whole.spectra, name), err_msg=name
            )
        for name in ("z_start", "z_stop"):
            for alone, together in zip([row for part in parts for row in getattr(part, name)], getattr(whole, name), strict=True):
                np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("factor", [1e6, 1e30])
@pytest.mark.parametrize("column", ["flux", "ivar"])
def test_one_absurd_pixel_is_masked_and_hides_nothing(column, factor):
    """A weight a million times the others' would be all that a filter in single precision sees."""
    clean = ready(one(), [1.6])
    broken = ready(one(**{column: lambda v, w: np.where(np.arange(len(w)) == 2000, v * factor, v)}), [1.6])
    assert broken.spectra.mask[0, 2000] & PixelFlag.ABSURD
    assert broken.spectra.ivar[0, 2000] == 0 and np.isfinite(broken.spectra.ivar).all() and np.isfinite(broken.continuum).all()
    far = np.abs(np.arange(clean.continuum.shape[1]) - 2000) > 150
    np.testing.assert_allclose(broken.continuum[0, far], clean.continuum[0, far], rtol=0.01)


# ---- the noise model


def test_claimed_errors_grow_by_the_models_factor():
    """With honest errors nothing but the factor is between the two: ivar is smaller by its square, flux and mask are as they were."""
    spectra, factor = one(), noise_factor("sdss", LATTICE)
    plain, inflated = (ready(spectra, [1.6], Preprocess(noise_model=name)) for name in ("none", "sdss"))
    np.testing.assert_array_equal(inflated.spectra.flux, plain.spectra.flux)
    np.testing.assert_array_equal(inflated.spectra.mask, plain.spectra.mask)
    ratio = np.sqrt(plain.spectra.ivar[0] / inflated.spectra.ivar[0]) / factor
    # What is measured in the spectrum itself follows: where errors were right, residuals over larger ones scatter less than 1.
    quiet = np.abs(np.convolve(factor, np.ones(201) / 201, "same") - 1) < 0.005
    assert quiet.sum() > 1000
    np.testing.assert_allclose(ratio[quiet], 1.0, atol=0.03)
    sky = np.abs(LATTICE.wavelength - 5578.9) < 2
    assert (np.sqrt(plain.spectra.ivar[0] / inflated.spectra.ivar[0])[sky] > 1.1).all()


def test_a_sky_line_is_searched_with_its_own_errors():
    """No path is lost to 5577 Å, and the pixels there are worth less than those beside them."""
    result = ready(one(), [1.6])
    z = 5578.9 / MG_II.primary.wavelength - 1
    assert any(start < z < stop for start, stop in zip(result.z_start[0], result.z_stop[0], strict=True))
    assert result.redshift_path[0] == pytest.approx(result.z_stop[0][-1] - result.z_start[0][0])  # one interval: no slivers

"""`nalspark.find`: the command line's rows for spectra in memory. Bad spectra have a reason, bad arguments a sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from make_spectra import find as chain_find
from make_spectra import lines_at, make_spectra, system
from matplotlib.figure import Figure
from runs import make_survey
from surveys.make_files import write_spec

import nalspark
from nalspark.absorption.chain import SPECTRUM_COLUMNS, Searchable, prepare, propose, scorer, spectrum_inputs
from nalspark.absorption.measure import AbsorberFlag, velocity_error
from nalspark.errors import ModelError, NalsparkError, SettingsError
from nalspark.learning.models import shipped_model
from nalspark.mocks.survey import simulate_survey
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE, ZHAO_GRID, lattice_pixels
from nalspark.surveys.arrays import given_spectra

WAVE = LATTICE.wavelength
N, Z = 6, 1.6
#: First lines at these pixels, twice of two absorbers; the last spectrum has none.
CENTRES = ([1500], [1200, 2100], [1500], [1700], [1400], [])


@pytest.fixture(scope="module")
def spectra():
    absorbed = np.array([lines_at(*(line for c in centres for line in system(c, 0.6)), (0, 0.0, 1.0)) for centres in CENTRES])
    return make_spectra([Z] * N, 15, absorbed=absorbed)


@pytest.fixture(scope="module")
def found(spectra):
    return nalspark.find(WAVE, spectra.flux, spectra.ivar, np.full(N, Z))


def assert_same(ours, theirs):
    """Two tables are equal to the last bit."""
    assert ours.colnames == theirs.colnames and len(ours) == len(theirs) > 0
    for name in ours.colnames:
        assert np.asarray(ours[name]).tobytes() == np.asarray(theirs[name]).tobytes() or list(ours[name]) == list(theirs[name]), name


# ---- what comes out


def test_the_rows_are_those_of_the_chain_with_units(spectra, found):
    measured, _ = chain_find(spectra, [Z] * N)
    absorbers = found.absorbers
    published = np.flatnonzero(measured["accepted"])
    order = published[np.lexsort((measured["z_abs"][published], measured["row"][published]))]
    assert len(absorbers) >= 5 and set(absorbers["spectrum"]) <= set(range(5))
    for name in ("z_abs", "ew_2796", "ew_2803_err", "score", "fwhm_kms", "velocity_kms"):
        assert np.array_equal(np.asarray(absorbers[name]), measured[name][order]), name
    assert absorbers["ew_2796"].unit == u.AA and absorbers["fwhm_kms"].unit == u.km / u.s
    assert absorbers["ew_2796"].info.description == "Rest equivalent width of Mg II 2796"
    assert absorbers.colnames[:4] == ["spectrum", "z_qso", "z_qso_err", "species"] and absorbers.colnames[-1] == "flags"
    assert not {"plate", "part", "ra", "absorber_id", "accepted"} & set(absorbers.colnames)
    assert len(found.candidates) == len(measured["accepted"]) and found.candidates.colnames[-1] == "accepted"
    known = np.array([LATTICE.wavelength_at(centre) / 2796.3543 - 1 for centre in CENTRES[1]])
    mine = np.asarray(absorbers["z_abs"][absorbers["spectrum"] == 1])
    assert np.abs(mine[:, None] - known).min(axis=0).max() < 3e-4


def test_the_path_and_the_reasons(found):
    settings = load()
    assert list(found.reason) == [None] * N and len(found) == N
    assert set(found.path["spectrum"]) == set(range(N)) and (found.path["z_stop"] > found.path["z_start"]).all()
    bluest = 1550 * (1 + Z + settings.preprocess.window_blue_z) / 2796.3543 - 1
    assert bluest - 1e-3 < found.path["z_start"].min() < bluest + 0.02 and found.path["z_stop"].max() == pytest.approx(Z + 0.026, abs=3e-4)
    assert repr(found) == f"<Found {len(found.absorbers)} MgII absorbers in 6 of 6 spectra>"


def test_the_error_of_the_redshift_goes_into_that_of_the_velocity(spectra, found):
    nothing = np.isnan(np.asarray(found.absorbers["velocity_err_kms"])) & np.isnan(found.absorbers["z_qso_err"])
    assert nothing.all()
    errors = np.array([1e-3, 2e-3, 0.0, -1.0, np.nan, 1e-3])
    rows = nalspark.find(WAVE, spectra.flux, spectra.ivar, Z, z_err=errors).absorbers
    own = np.where(errors > 0, errors, np.nan)[rows["spectrum"]]
    expected = velocity_error(np.asarray(rows["z_abs"]), np.asarray(rows["z_abs_err"]), Z, own)
    np.testing.assert_array_equal(np.asarray(rows["velocity_err_kms"]), expected)
    assert rows["velocity_err_kms"].unit == u.km / u.s and 0 < np.isfinite(expected).sum() < len(rows)


def test_a_spectrum_knows_the_error_of_its_own_redshift_only():
    spectrum = SimpleNamespace(wave=WAVE, flux=np.ones(len(WAVE)), ivar=np.ones(len(WAVE)), mask=None, z=1.6, z_err=1e-3)
    for known, expected in (({}, 1e-3), ({"z": 1.7}, np.nan), ({"z": 1.7, "z_err": 2e-3}, 2e-3), ({"z_err": 2e-3}, 2e-3)):
        args = known.get("z"), None
        for given, n in ((spectrum, 1), ([spectrum, spectrum], 2)):
            np.testing.assert_array_equal(given_spectra(given, None, None, *args, z_err=known.get("z_err")).z_err, [expected] * n)


def test_one_spectrum_alone_has_the_same_rows(spectra, found):
    alone = nalspark.find(WAVE, spectra.flux[1], spectra.ivar[1], Z)
    assert len(alone) == 1 and set(alone.absorbers["spectrum"]) == {0}
    names = found.absorbers.colnames[1:]
    assert_same(alone.absorbers[names], found.absorbers[found.absorbers["spectrum"] == 1][names])


def test_each_spectrum_may_have_its_own_wavelengths(spectra, found):
    own = nalspark.find(np.tile(WAVE, (N, 1)), spectra.flux, spectra.ivar, [Z] * N)
    assert_same(own.absorbers, found.absorbers)


@pytest.mark.parametrize("power", [-57, 40])
def test_the_unit_of_the_flux_does_not_matter(spectra, found, power):
    """Not even where float32 could not hold it: 2⁻⁵⁷ is near 1e-17, whose inverse variances are near 1e34 and more."""
    scale = 2.0**power
    other = nalspark.find(WAVE, spectra.flux * scale, spectra.ivar.astype(float) / scale**2, Z)
    assert_same(other.absorbers, found.absorbers)


def test_flux_in_cgs_units(spectra, found):
    unit = u.Unit("erg / (s cm2 Angstrom)")
    other = nalspark.find(WAVE / 10 * u.nm, spectra.flux * 1e-17 * unit, spectra.ivar.astype(float) * 1e34 / unit**2, Z)
    np.testing.assert_allclose(other.absorbers["z_abs"], found.absorbers["z_abs"], atol=1e-6)


def test_pixels_that_cannot_be_used_may_be_given_in_any_way(spectra):
    """Masked, without weight, or without a number: it is the same pixel that is not there."""
    flux, ivar = spectra.flux[0].copy(), spectra.ivar[0].copy()
    bad = np.zeros(len(flux), dtype=bool)
    bad[1490:1496] = bad[2000:2010] = True
    masked = nalspark.find(WAVE, flux, ivar, Z, mask=bad, score=False)
    bits = nalspark.find(WAVE, flux, ivar, Z, mask=bad * 4, score=False)
    weightless = nalspark.find(WAVE, flux, np.where(bad, 0.0, ivar), Z, score=False)
    nan = nalspark.find(WAVE, np.where(bad, np.nan, flux), ivar, Z, score=False)
    for other in (bits, weightless, nan):
        assert_same(other.candidates, masked.candidates)
    assert len(nalspark.find(WAVE, flux, ivar, Z, score=False).path) < len(masked.path)


def test_pixels_on_the_lattice_stay_and_others_are_rebinned(spectra, found):
    """Within 1e-6 of log10 λ, as float32 has it, they are on the lattice; half a pixel off they are not."""
    inside = slice(100, 3500)
    single = (10.0 ** np.log10(WAVE).astype(np.float32).astype(float))[inside]
    assert lattice_pixels(np.log10(single))[0] == LATTICE.first + 100
    cropped, near = (nalspark.find(w, spectra.flux[:, inside], spectra.ivar[:, inside], Z) for w in (WAVE[inside], single))
    assert_same(near.absorbers, cropped.absorbers)
    shifted = WAVE * 10**0.5e-4
    assert lattice_pixels(np.log10(shifted)) is None
    rebinned = nalspark.find(shifted, spectra.flux, spectra.ivar, Z).absorbers
    first = rebinned[rebinned["spectrum"] == 0]["z_abs"][0]
    assert first == pytest.approx((1 + found.absorbers["z_abs"][0]) * 10**0.5e-4 - 1, abs=1e-4)


def test_other_settings(spectra):
    high = nalspark.find(WAVE, spectra.flux, spectra.ivar, Z, settings={"infer.min_score": 0.999999, "infer.measure_score": 0.5})
    as_object = nalspark.find(WAVE, spectra.flux, spectra.ivar, Z, settings=load(None, ["infer.min_score=0.999999"]))
    assert (high.candidates["score"] >= 0.5).all()
    assert high.absorbers["z_abs"].tolist() == as_object.absorbers["z_abs"].tolist()


# ---- without the network


def test_without_scores_all_candidates_are_taken(spectra, found):
    plain = nalspark.find(WAVE, spectra.flux, spectra.ivar, Z, score=False)
    assert np.isnan(plain.absorbers["score"]).all() and len(plain.candidates) > len(found.candidates)
    assert len(plain.absorbers) == len(plain.candidates) and (plain.absorbers["flags"] & int(AbsorberFlag.WEAK)).any()
    places = {(row["spectrum"], row["z_abs"]) for row in plain.absorbers}
    assert {(row["spectrum"], row["z_abs"]) for row in found.absorbers} <= places


LIGHT = """
import json, sys
import nalspark
named = ("pyspark", "keras", "tensorflow", "numpy", "astropy")
at_first = [name for name in named if name in sys.modules]
import numpy as np
wave = 10 ** np.arange(3.58, 3.96, 1e-4)
found = nalspark.find(wave, np.ones(len(wave)), np.full(len(wave), 100.0), z=1.6, score=False)
rows, figure = len(found.absorbers), found.plot(0)
before = [name for name in named[:3] if name in sys.modules]
import nalspark.finder, nalspark.pipeline.door
nalspark.find, nalspark.run
print(json.dumps([at_first, rows, before, callable(nalspark.find), callable(nalspark.run), dir(nalspark)]))
"""


def test_nothing_heavy_is_loaded_that_is_not_needed():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    names = ["__version__", "export_result", "find", "open_result", "read_spectra", "read_spectrum", "run"]
    assert json.loads(done.stdout) == [[], 0, [], True, True, names]


# ---- bad spectra, bad arguments


def test_a_bad_spectrum_has_a_reason_and_the_others_their_rows(spectra, found):
    flux, ivar, z = spectra.flux.copy(), spectra.ivar.copy(), np.full(N, Z)
    flux[0], ivar[2], z[3], z[4] = np.nan, 0.0, np.nan, 12.0
    flux[5] *= -1
    mixed = nalspark.find(WAVE, flux, ivar, z)
    expected = ["too_few_good_pixels", None, "too_few_good_pixels", "bad_redshift", "bad_redshift", "no_positive_flux"]
    assert list(mixed.reason) == expected and set(mixed.path["spectrum"]) == {1}
    assert mixed.detail[1] is None and mixed.detail[4] == "The redshift is 12; expected 0.005 to 7.5."
    assert_same(mixed.absorbers, found.absorbers[found.absorbers["spectrum"] == 1])
    assert repr(mixed).endswith("absorbers in 1 of 6 spectra>")
    assert "not searched: bad_redshift" in [text.get_text() for text in mixed.plot(3).axes[0].texts][0]


def test_no_absorber_and_no_spectrum(spectra):
    none = nalspark.find(WAVE, spectra.flux[5], spectra.ivar[5] * 0, Z)
    assert len(none.absorbers) == len(none.candidates) == len(none.path) == 0
    assert none.absorbers["ew_2796"].unit == u.AA
    empty = nalspark.find(WAVE, spectra.flux[:0], spectra.ivar[:0], [], score=False)
    assert len(empty) == len(empty.absorbers) == len(empty.path) == len(empty.reason) == 0


GOOD = {"wave": WAVE, "flux": np.ones(len(WAVE)), "ivar": np.ones(len(WAVE)), "z": Z}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"z": None}, "z, the redshift of the quasar, is missing"),
        ({"z_err": [1.0, 2.0]}, r"z_err has shape \(2,\); expected one standard error of z for each of the 1 spectra"),
        ({"z": [1.0, 2.0]}, r"z has shape \(2,\); expected one redshift for each of the 1 spectra"),
        ({"ivar": None}, "Give wave, flux and ivar"),
        ({"ivar": np.ones(5)}, r"ivar has shape \(5,\); expected that of flux, \(4656,\)"),
        ({"mask": np.ones(5)}, r"mask has shape \(5,\)"),
        ({"wave": WAVE[1:]}, r"wave has shape \(4655,\); expected \(4656,\)"),
        ({"flux": np.ones((2, 2, 2)), "ivar": np.ones((2, 2, 2))}, r"flux has shape \(2, 2, 2\)"),
        ({"wave": WAVE[::-1]}, "Wavelengths must ascend; pixel 1 has"),
        ({"wave": np.where(WAVE > 5000, 5000.0, WAVE)}, "Wavelengths must ascend; pixel"),
        ({"wave": np.where(np.arange(4656) == 9, np.nan, WAVE)}, "Wavelengths must ascend; pixel 9 has nan"),
        ({"wave": WAVE / 10}, r"between 1000 and 30000 Å; found 356.* In nm\? Then multiply by 10\."),
        ({"wave": np.log10(WAVE)}, r"log10 of them\? Then give 10 \*\* wave\."),
        ({"wave": WAVE * u.kg}, "A quantity has a wrong unit"),
        ({"flux": np.ones(4656) * u.Jy, "ivar": np.ones(4656) * u.m}, "A quantity has a wrong unit"),
        ({"settings": {"search.min_significanse": 6}}, "'search.min_significanse' is not a setting. Did you mean"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_told_in_a_sentence(change, sentence):
    arguments = GOOD | change
    with pytest.raises(SettingsError, match=sentence):
        nalspark.find(**arguments, score=False)


def test_one_species_at_a_time():
    with pytest.raises(SettingsError, match="searches for one species at a time, and MgII, CIV are asked for"):
        nalspark.find(*GOOD.values(), settings={"species": ["MgII", "CIV"]})
    assert nalspark.find(*GOOD.values(), settings={"species": "CIV"}).settings.line_species.name == "CIV"


def test_a_model_of_another_species_is_refused():
    with pytest.raises(ModelError, match="was trained for MgII, not for CIV"):
        nalspark.find(*GOOD.values(), settings={"species": "CIV", "infer.model": str(shipped_model("MgII"))})
    with pytest.raises(SettingsError, match="There is no spectrum 1: 1 were given"):
        nalspark.find(*GOOD.values(), score=False).plot(1)


# ---- objects


def specutils_like(spectra, uncertainty, axis=WAVE * u.AA, **more):
    unit = u.Unit("1e-17 erg / (s cm2 Angstrom)")
    return SimpleNamespace(spectral_axis=axis, flux=spectra.flux[0] * unit, uncertainty=uncertainty, **more)


@pytest.mark.parametrize("kind", [InverseVariance, VarianceUncertainty, StdDevUncertainty])
def test_objects_with_a_spectral_axis(spectra, found, kind):
    power = {InverseVariance: 1.0, VarianceUncertainty: -1.0, StdDevUncertainty: -0.5}[kind]
    values = spectra.ivar[0].astype(float) ** power
    unit = u.Unit("1e-17 erg / (s cm2 Angstrom)") ** (-2.0 * power)
    ours = found.absorbers[found.absorbers["spectrum"] == 0]
    for one in (
        specutils_like(spectra, kind(values), redshift=Z),
        specutils_like(spectra, kind(values * unit), redshift=u.Quantity(Z), mask=None),
        specutils_like(spectra, kind(values), (WAVE * u.AA).to(u.nm), redshift=Z),
    ):
        np.testing.assert_allclose(nalspark.find(one).absorbers["ew_2796"], ours["ew_2796"], rtol=1e-5)


def test_frequencies_are_turned_round(spectra, found):
    one = specutils_like(spectra, InverseVariance(spectra.ivar[0][::-1]), (WAVE[::-1] * u.AA).to(u.THz, equivalencies=u.spectral()))
    one.flux, one.mask = one.flux[::-1], np.zeros(len(WAVE), dtype=bool)
    ours = found.absorbers[found.absorbers["spectrum"] == 0]
    np.testing.assert_allclose(nalspark.find(one, z=Z).absorbers["z_abs"], ours["z_abs"], atol=1e-8)


def test_objects_that_lack_something(spectra):
    inverse = InverseVariance(spectra.ivar[0])
    for spectrum, sentence in (
        (specutils_like(spectra, None), "uncertainty is NoneType; expected StdDevUncertainty"),
        (specutils_like(spectra, UnknownUncertainty(spectra.ivar[0])), "uncertainty is UnknownUncertainty"),
        (specutils_like(spectra, StdDevUncertainty(spectra.ivar[0] * u.m), redshift=Z), "A quantity has a wrong unit"),
        (specutils_like(spectra, inverse, redshift=0.0), "z, the redshift of the quasar, is missing"),
        (SimpleNamespace(flux=spectra.flux[0]), "has neither `wave` nor `spectral_axis`"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            nalspark.find(spectrum, score=False)
    with pytest.raises(SettingsError, match="give only z with it"):
        nalspark.find(specutils_like(spectra, inverse), spectra.flux[0], z=Z)


# ---- files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    simulate_survey(folder, 6, 4)
    return sorted((folder / "spectra").rglob("*.fits"))


def test_a_file_is_read_and_searched(files):
    spectrum = nalspark.read_spectrum(files[0])
    assert spectrum.wave.shape == spectrum.flux.shape == spectrum.ivar.shape == spectrum.mask.shape
    assert re.fullmatch(r"\d{4}-\d+-\d{4}", spectrum.name) and 0 < spectrum.z < 5
    by_arrays = nalspark.find(
        spectrum.wave, spectrum.flux, spectrum.ivar, spectrum.z, mask=spectrum.mask, z_err=spectrum.z_err, score=False
    )
    by_file = nalspark.find(spectrum, score=False)
    # The file says its resolution, which is in the widths and in what is remarked upon them.
    names = [name for name in by_file.candidates.colnames if name not in ("fwhm_kms", "fwhm_kms_err", "flags")]
    assert_same(by_file.candidates[names], by_arrays.candidates[names])
    assert spectrum.resolution is not None and (by_file.candidates["fwhm_kms"] != by_arrays.candidates["fwhm_kms"]).any()


@pytest.mark.parametrize("off", [0.0, 0.4e-4], ids=["lattice", "off it"])
def test_a_file_that_left_rows_out_is_searched_as_one_without_weight_there(spectra, tmp_path, off):
    """To the last bit, widths included: the resolution comes from the rows that both have. No gap is path."""
    rng = np.random.default_rng(3)
    there = np.ones(len(WAVE), bool)
    for length in (1, 3, 9, 40):
        start = rng.integers(600, 2500)
        there[start : start + length] = False
    there[1205:1210] = False
    columns = {
        "flux": spectra.flux[1], "ivar": spectra.ivar[1], "loglam": np.log10(WAVE) + off,
        "wdisp": 0.85 + np.arange(len(WAVE)) / 9000, "and_mask": rng.integers(0, 2**30, len(WAVE)),
    }  # fmt: skip
    cut = write_spec(tmp_path / "cut.fits", z=Z, **{name: values[there] for name, values in columns.items()})
    whole = write_spec(tmp_path / "whole.fits", z=Z, **columns | {"ivar": np.where(there, spectra.ivar[1], 0)})
    ours, theirs = (nalspark.find(nalspark.read_spectrum(path), score=False) for path in (cut, whole))
    assert_same(ours.candidates, theirs.candidates)
    assert_same(ours.path, theirs.path)
    gap = WAVE[1207] * 10**off / 2796.3543 - 1
    assert len(ours.path) > 1 and not ((ours.path["z_start"] < gap) & (gap < ours.path["z_stop"])).any()


def test_several_files_at_once(files):
    spectra = [nalspark.read_spectrum(file) for file in files]
    together = nalspark.find(spectra, score=False)
    alone = [nalspark.find(spectrum, score=False).candidates for spectrum in spectra]
    assert len(together) == 6
    assert together.candidates["z_abs"].tolist() == np.concatenate([np.asarray(rows["z_abs"]) for rows in alone]).tolist()
    elsewhere = nalspark.find(spectra, z=np.full(6, 1.3), score=False)
    assert set(elsewhere.candidates["z_qso"]) == {1.3}


def test_redshifts_of_a_list_of_spectra_are_checked(files):
    spectra = [nalspark.read_spectrum(file) for file in files[:3]]
    for z, sentence in (
        ([1.0, 2.0], r"z has shape \(2,\); expected one redshift for each of the 3 spectra"),
        ("high", "z must be numbers, one redshift for each of the 3 spectra; found 'high'"),
        (["1.0", "x", "2.0"], "z must be numbers"),
        ([[1.0], [1.0, 2.0]], "z must be numbers"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            nalspark.find(spectra, z=z, score=False)
    with pytest.raises(SettingsError, match="The list of spectra is empty"):
        nalspark.find([], z=[], score=False)


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path):
    with pytest.raises(NalsparkError, match="There is no file nowhere.fits"):
        nalspark.read_spectrum(tmp_path / "nowhere.fits")
    (tmp_path / "text.fits").write_text("no spectrum\n" * 300)
    with pytest.raises(NalsparkError, match=r"text\.fits"):
        nalspark.read_spectrum(tmp_path / "text.fits")


def test_the_example_of_the_readme_runs(files, tmp_path, monkeypatch, capsys):
    """With a file of the name that it says, in the folder in which it is run."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(block.strip().splitlines()) <= 6
    (tmp_path / re.search(r'"(spec-[^"]+\.fits)"', block)[1]).symlink_to(files[0])
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["found"].absorbers["ew_2796"].unit, u.UnitBase) and list(names["found"].reason) == [None]
    assert "z_abs" in capsys.readouterr().out
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".fits"] == [".png"]


# ---- the picture


def test_the_picture_has_the_spectrum_and_every_absorber(found):
    figure = found.plot(1)
    n = int((found.absorbers["spectrum"] == 1).sum())
    assert isinstance(figure, Figure) and len(figure.axes) == 1 + n >= 3
    assert figure.axes[0].get_xlabel().startswith("observed wavelength") and len(figure.axes[0].lines) >= 3 + 8 * n
    titles = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "spectrum 1     z = 1.6000" in titles and sum(title.startswith("absorber ") for title in titles) == n
    assert len(found.plot(-1).axes) == 1


# ---- the network's side of the chain


def test_all_candidates_of_a_spectrum_have_the_score_of_a_whole_spectrum_network(spectra):
    settings, z = load(), np.full(N, Z)
    ready = prepare(spectra, z, settings)
    ready.reason[2] = "some"
    searchable = Searchable.of(ready, z)
    candidates = propose(searchable, settings)
    inputs = spectrum_inputs(searchable.spectra, searchable.z_qso, settings)
    crop = slice(ZHAO_GRID.first - LATTICE.first, ZHAO_GRID.first - LATTICE.first + ZHAO_GRID.n_pixels)
    seen = (ZHAO_GRID.wavelength > 1550 * (1 + Z + 0.02)) & (ZHAO_GRID.wavelength < 2800 * (1 + Z))
    np.testing.assert_array_equal(inputs, np.where(seen, searchable.spectra.flux[:, crop] - 1, 0).astype(np.float32))
    score = scorer(lambda examples: examples[..., 0].sum(axis=1), SPECTRUM_COLUMNS, settings)(searchable, candidates)
    sums = dict(zip(searchable.row.tolist(), inputs.sum(axis=1), strict=True))
    assert 2 not in candidates.row and len(set(candidates.row)) > 3
    assert score.tolist() == [sums[row] for row in candidates.row.tolist()]
    assert candidates.names("abcdef")[0] == f"{'abcdef'[candidates.row[0]]}-{LATTICE.first + candidates.pixel[0]}"


# ---- a run


@pytest.mark.spark
def test_a_run_file_from_python_gives_the_rows_of_find(spark, tmp_path):
    """Bit for bit, paths included; and the session that was there is there afterwards."""
    survey = make_survey(tmp_path / "survey")
    path = tmp_path / "RUN.toml"
    path.write_text(f"spectra = ['{survey / 'parts'}']\nquasars = ['{survey / 'quasars.fits'}']\n[publish]\ngallery = 4\n")
    result = nalspark.run(path, out=str(tmp_path / "out"), **{"publish.gallery": 0})
    sightlines = result.sightlines[np.argsort(result.sightlines["spectrum_id"])]
    read = [nalspark.read_spectrum(path) for path in sightlines["path"]]
    known = {"z": np.asarray(sightlines["z_qso"]), "z_err": np.asarray(sightlines["z_qso_err"])}
    found = nalspark.find(read, **known, settings=result.settings)
    ours, theirs = found.absorbers, result.absorbers
    assert len(ours) > 5 and list(sightlines["spectrum_id"][ours["spectrum"]]) == list(theirs["spectrum_id"])
    assert_same(ours[ours.colnames[1:]], theirs[ours.colnames[1:]])
    for name in ("z_start", "z_stop"):
        assert np.array_equal(found.path[name], np.concatenate(list(sightlines[name])))
    assert spark.range(3).count() == 3
    assert os.path.samefile(result.root, tmp_path / "out")
    with pytest.raises(NalsparkError, match="No output directory is given"):
        nalspark.run(path)

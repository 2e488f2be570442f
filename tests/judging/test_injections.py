"""Absorbers put into spectra and found again, and decoys: closed forms on spectra whose content is known."""

import numpy as np
import pytest
from make_spectra import detector, doublet, lines_at, make_spectra, system

from nalspark.absorption import chain
from nalspark.absorption.chain import Searchable, scorer
from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.judging import decoys
from nalspark.judging.injections import Sightlines, draw_absorbers, find_again, in_path_at, inject_and_find, put_in
from nalspark.lines import ALL_LINES, MG_II, SPECIES
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE

Z_QSO = np.array([1.6, 1.9, 2.1, 1.4])


def sightlines(snr=25.0, known=None, names=("a", "b", "c", "d"), **how):
    spectra = make_spectra(Z_QSO[: len(names)], snr, **how)
    ready = chain.prepare(spectra, Z_QSO[: len(names)], load())
    own = known or [np.zeros(0)] * len(names)
    return Sightlines(list(names), spectra, Z_QSO[: len(names)], ready.z_start, ready.z_stop, own)


def score(settings):
    return scorer(detector().predict, detector().card.inputs, settings)


def test_redshifts_are_drawn_uniformly_from_the_path() -> None:
    start, stop = np.array([0.5, 1.0, 2.0]), np.array([0.6, 1.3, 2.6])
    assert [round(in_path_at(start, stop, part), 12) for part in (0.0, 0.05, 0.1, 0.25, 0.4, 0.7)] == [0.5, 0.55, 1.0, 1.15, 2.0, 2.3]
    assert in_path_at(start, stop, np.nextafter(1.0, 0.0)) == pytest.approx(2.6)
    drawn = [in_path_at(start, stop, part) for part in np.random.default_rng(1).random(2000)]
    assert np.mean([1.0 <= z <= 1.3 for z in drawn]) == pytest.approx(0.3, abs=0.03)


def test_what_is_drawn_depends_on_the_name_alone() -> None:
    settings = load()
    whole, some = sightlines(), sightlines(names=("a", "b"))
    left, right = draw_absorbers(whole, 0, settings), draw_absorbers(some, 0, settings)
    np.testing.assert_array_equal(left.ew_primary[:2], right.ew_primary)
    assert not np.any(left.ew_primary == draw_absorbers(whole, 1, settings).ew_primary)
    for z, start, stop in zip(left.z, whole.z_start, whole.z_stop, strict=True):
        assert np.any((start <= z) & (z <= stop))


def test_light_is_taken_away_and_with_it_the_quasars_own_noise() -> None:
    settings, n = load(None, ["completeness.ew_min=2.0"]), 400
    given = make_spectra(np.full(n, 1.6), 10.0)
    quiet = make_spectra(np.full(n, 1.6), 1e6)
    path = [np.array([1.0])] * n, [np.array([1.0001])] * n
    both = [Sightlines([str(k) for k in range(n)], spectra, np.full(n, 1.6), *path, [np.zeros(0)] * n) for spectra in (given, quiet)]
    absorbers = draw_absorbers(both[0], 0, settings)
    noisy, exact = (put_in(one, absorbers, 0, settings) for one in both)
    left, dark = exact.flux / np.maximum(quiet.flux, 1e-6), exact.flux < 0.7 * quiet.flux
    # At S/N 10 its photons make 10 / (10 + 15) of the variance, and as many of them are gone as light.
    np.testing.assert_allclose((given.ivar / noisy.ivar)[dark], (1 - 0.4 * (1 - left))[dark], atol=0.02)
    assert dark.sum() > 2000
    assert np.std((noisy.flux - exact.flux)[dark] * np.sqrt(noisy.ivar[dark])) == pytest.approx(1.0, abs=0.05)
    untouched = exact.flux[0] == quiet.flux[0]
    assert 0.5 < untouched.mean() < 1.0
    np.testing.assert_allclose(noisy.flux[0][untouched], given.flux[0][untouched], rtol=1e-4)
    np.testing.assert_allclose(noisy.ivar[0][untouched], given.ivar[0][untouched], rtol=1e-4)
    # What is missing is the equivalent width.
    centre = int(round(LATTICE.pixel(MG_II.primary.wavelength * (1 + absorbers.z[0]))))
    line = slice(centre - 60, centre + 6)
    missing = np.sum((1 - exact.flux[:, line] / quiet.flux[:, line]), axis=1) * np.log(10) * LATTICE.step * MG_II.primary.wavelength
    narrow = absorbers.sigma_kms < 90
    np.testing.assert_allclose(missing[narrow], absorbers.ew_primary[narrow], rtol=0.15)


def test_strong_absorbers_are_found_in_good_spectra_and_weak_ones_in_bad_ones_are_not() -> None:
    strong = load(None, ["completeness.ew_min=1.5", "completeness.ew_max=2.5", "completeness.per_sightline=4"])
    weak = load(None, ["completeness.ew_min=0.1", "completeness.ew_max=0.12", "completeness.per_sightline=4"])
    good, bad = inject_and_find(sightlines(30.0), score(strong), strong), inject_and_find(sightlines(4.0), score(weak), weak)
    assert len(good["found"]) == 16 and good["found"].sum() >= 15
    assert not bad["found"].any()
    found = good["found"]
    assert (good["score"][found] >= strong.infer.min_score).all()
    np.testing.assert_allclose(good["z_found"][found], good["z_abs"][found], atol=3e-3)
    ratio = good["ew_found"][found] / good["ew_primary"][found]  # clouds that stand apart are measured alone
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1) and np.mean(np.abs(ratio - 1) < 0.3) > 0.9
    assert np.isfinite(good["sigma_ew"]).all() and (good["ew_primary"] / good["sigma_ew"] > 10).all()


def test_the_batch_does_not_matter() -> None:
    settings = load(None, ["completeness.ew_min=0.5"])
    whole = inject_and_find(sightlines(), score(settings), settings)
    three = sightlines()
    for row in range(4):
        one = slice(row, row + 1)
        alone = Sightlines(
            three.names[one],
            three.spectra.take(np.arange(row, row + 1)),
            Z_QSO[one],
            three.z_start[one],
            three.z_stop[one],
            three.known[one],
        )
        result = inject_and_find(alone, score(settings), settings)
        for name, values in result.items():
            if name != "row":
                np.testing.assert_array_equal(values, whole[name][whole["row"] == row], err_msg=name)


def test_what_falls_on_an_absorber_of_the_spectrum_says_nothing() -> None:
    settings = load()
    plain = sightlines()
    z = draw_absorbers(plain, 0, settings).z
    known = [np.array([0.5, z[0]]), np.array([z[1] + 0.1]), np.zeros(0), np.array([z[3] + 0.002])]
    found = inject_and_find(sightlines(known=known), score(settings), settings)
    assert found["blended"].tolist() == [True, False, False, True]


def test_a_spectrum_that_cannot_be_searched_any_more_is_left_out() -> None:
    settings, given = load(), sightlines()
    absorbers = draw_absorbers(given, 0, settings)
    given.spectra.ivar[1] = 0.0
    columns = find_again(given.spectra, Z_QSO, absorbers, score(settings), settings)
    assert np.isnan(columns["sigma_ew"]).tolist() == [False, True, False, False]
    assert len(inject_and_find(given, score(settings), settings)["found"]) == 3


# ---- decoys

CENTRE = 2100


def looked_at(absorbed, known=None, snr=25.0, **overrides):
    z, settings = np.array([1.6]), load(**overrides)
    searchable = Searchable.of(chain.prepare(make_spectra(z, snr, absorbed=absorbed[None]), z, settings), z)
    light = chain.light_of(searchable, settings)
    return decoys.find_decoys(searchable, light, known or [np.zeros(0)], score(settings), settings)


def test_a_pair_of_a_wrong_separation_is_found_there_and_at_no_other() -> None:
    for extra in decoys.extra_pixels(MG_II, LATTICE.step):
        offset = MG_II.offset_pixels(MG_II.secondary, LATTICE.step) + extra
        absorbed = lines_at(*doublet(CENTRE, 0.5, ratio=1.3, sigma=1.6, offset=offset))
        found = looked_at(absorbed)
        there = np.abs(found["z_abs"] - (LATTICE.wavelength[CENTRE] / MG_II.primary.wavelength - 1)) < 1e-3
        best = found["score"][there].argmax()
        assert found["accepted"][there][best]
        assert found["separation_kms"][there][best] == pytest.approx(offset * LATTICE.pixel_kms)
        width = np.log(10) * LATTICE.step * MG_II.primary.wavelength * np.sqrt(2 * np.pi) * 0.5 * 1.6
        assert found["ew_primary"][there][best] == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize("species", SPECIES.values(), ids=lambda species: species.name)
def test_decoys_have_the_separation_of_no_two_known_lines(species) -> None:
    own = species.offset_pixels(species.secondary, LATTICE.step)
    separations = own + np.array(decoys.extra_pixels(species, LATTICE.step))
    assert len(separations) == decoys.N_SEPARATIONS and (np.diff(separations) >= 6).all() and separations.min() > own + 10
    places = np.log10([line.wavelength for line in ALL_LINES]) / LATTICE.step
    assert np.abs(np.abs(places[:, None] - places)[..., None] - separations).min() > 2


def test_the_lines_of_a_known_absorber_are_no_decoys() -> None:
    absorbed = lines_at(*system(CENTRE, 0.6))
    z = LATTICE.wavelength[CENTRE] / MG_II.primary.wavelength - 1
    places = np.array([LATTICE.pixel(line.wavelength * (1 + z)) for line in MG_II.transitions])
    found = looked_at(absorbed, known=[np.array([z])])
    first = LATTICE.pixel(MG_II.primary.wavelength * (1 + found["z_abs"]))
    assert (np.abs(first[:, None] - places).min(axis=1, initial=np.inf) > 6).all()
    assert not found["accepted"].any()


def test_an_image_without_the_pixels_between_is_that_of_a_doublet() -> None:
    z, settings, extra = np.array([1.6]), load(), decoys.extra_pixels(MG_II, LATTICE.step)[0]
    offset = MG_II.offset_pixels(MG_II.secondary, LATTICE.step)
    searchable = Searchable.of(chain.prepare(make_spectra(z, 1e4), z, settings), z)
    light = chain.light_of(searchable, settings)
    true, wide = (lines_at(*doublet(CENTRE, 0.5, sigma=0.9, offset=offset + more)).astype(np.float32)[None] for more in (0, extra))
    candidates = chain.propose(searchable, settings, light._replace(residual=true, weight=np.full_like(true, 900.0)))
    candidates = candidates.take(np.abs(candidates.pixel - CENTRE) <= 1)
    spliced = decoys._spliced(candidates, searchable, light._replace(residual=wide, weight=np.full_like(wide, 900.0)), extra, MG_II)
    geometry = ImageGeometry.of(MG_II, LATTICE.step)
    for line in (geometry.primary, geometry.secondary):
        np.testing.assert_allclose(spliced.image_residual[:, line], candidates.image_residual[:, line], atol=1e-6)
    np.testing.assert_array_equal(candidates.image_residual, cut_images(true, candidates.row, candidates.pixel, geometry))

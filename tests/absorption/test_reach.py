"""What of a spectrum is searched: all that a survey recorded, to beyond the quasar, bluewards as far as asked for, and no gap."""

import numpy as np
import pytest
from make_spectra import lines_at, make_spectra, system

import nalspark
from nalspark.absorption.measure import AbsorberFlag
from nalspark.lines import MG_II, SPEED_OF_LIGHT_KMS
from nalspark.spectra.grid import LATTICE

WAVE = LATTICE.wavelength
REST = MG_II.primary.wavelength


def quasar_with(z_abs, z_qso, snr=20):
    """A quasar's spectrum on the whole lattice, with one absorber."""
    absorbed = lines_at(*system(LATTICE.pixel(REST * (1 + z_abs)), 0.7, 1.3))
    return make_spectra([z_qso], snr, absorbed=absorbed[None])


def searched(spectra, z_qso, recorded=(0.0, np.inf), **settings):
    """What :func:`nalspark.find` proposes between two wavelengths; no network's opinion is asked."""
    there = (recorded[0] <= WAVE) & (recorded[1] >= WAVE)
    return nalspark.find(WAVE[there], spectra.flux[0, there], spectra.ivar[0, there], z_qso, settings=settings, score=False)


def rows_at(found, z_abs):
    """The candidates within 100 km/s of a redshift."""
    z = np.asarray(found.candidates["z_abs"])
    return found.candidates[np.abs(z - z_abs) / (1 + z_abs) < 100 / SPEED_OF_LIGHT_KMS]


def is_path(found, z):
    return bool(((found.path["z_start"] < z) & (z < found.path["z_stop"])).any())


# ---- what surveys record


@pytest.mark.parametrize("wave, z_qso", [(3700.0, 0.7), (5577.0, 1.6), (5893.0, 1.6), (7605.0, 2.0), (9500.0, 2.6), (10_200.0, 2.9)])
def test_absorbers_are_found_wherever_boss_records(wave, z_qso):
    """3600 to 10400 Å: beyond the paper's range at both ends, on the sky's brightest line, on the Milky Way's Na I and in the A band."""
    z_abs = wave / REST - 1
    found = searched(quasar_with(z_abs, z_qso), z_qso, (3600.0, 10_400.0))
    assert len(rows_at(found, z_abs)) == 1 and is_path(found, z_abs)
    assert bool(rows_at(found, z_abs)["flags"][0] & int(AbsorberFlag.OFF_PATH)) is False


def test_where_a_spectrum_ends_its_path_ends():
    """SDSS records to 9200 Å: at 9500 Å nothing is there to be found, and no redshift counts whose second line lies beyond the end."""
    z_abs = 9500.0 / REST - 1
    found = searched(quasar_with(z_abs, 2.6), 2.6, (3800.0, 9200.0))
    last = 9200.0 / MG_II.secondary.wavelength - 1
    assert not len(rows_at(found, z_abs)) and not is_path(found, z_abs)
    assert last - 0.002 < found.path["z_stop"].max() <= last


def test_a_spectrum_that_is_recorded_whole_has_one_interval():
    """No band of the sky or of the Milky Way is left out."""
    found = searched(quasar_with(1.0, 1.6), 1.6)
    assert len(found.path) == 1
    assert found.path["z_start"][0] == pytest.approx(1550 * 2.62 / REST - 1, abs=3e-4)
    assert found.path["z_stop"][0] == pytest.approx(1.6 + 2.6 * 3000 / SPEED_OF_LIGHT_KMS, abs=3e-4)


@pytest.mark.parametrize("line, z_qso", [(3934.77, 1.0), (5891.58, 1.6)])
def test_the_milky_ways_lines_are_remarked_upon(line, z_qso):
    z_abs = line / REST - 1
    (row,) = rows_at(searched(quasar_with(z_abs, z_qso), z_qso), z_abs)
    assert row["flags"] & int(AbsorberFlag.GALACTIC)


# ---- at the quasar and beyond


@pytest.mark.parametrize("velocity, is_found", [(-1500.0, True), (1500.0, True), (2700.0, True), (4000.0, False)])
def test_absorbers_that_fall_in_are_found_to_3000_km_s(velocity, is_found):
    """Found and flagged from the quasar's redshift on; beyond the limit neither found nor path."""
    z_abs = 1.6 + 2.6 * velocity / SPEED_OF_LIGHT_KMS
    found = searched(quasar_with(z_abs, 1.6), 1.6)
    rows = rows_at(found, z_abs)
    assert len(rows) == is_found and is_path(found, z_abs) == is_found
    for row in rows:
        assert bool(row["flags"] & int(AbsorberFlag.BEYOND_QUASAR)) == (velocity > 0)
        assert row["flags"] & int(AbsorberFlag.NEAR_QUASAR)
        assert row["velocity_kms"].value == pytest.approx(-velocity, abs=60)


def test_how_far_beyond_the_quasar_is_a_setting():
    z_abs = [1.6 + 2.6 * velocity / SPEED_OF_LIGHT_KMS for velocity in (4000.0, 1500.0)]
    far, near = (quasar_with(z, 1.6) for z in z_abs)
    assert len(rows_at(searched(far, 1.6, **{"preprocess.window_beyond_kms": 5000.0}), z_abs[0])) == 1
    assert not len(rows_at(searched(near, 1.6, **{"preprocess.window_beyond_kms": 0.0}), z_abs[1]))


# ---- bluewards of C IV


def test_the_window_can_reach_bluewards():
    """At rest 1400 Å: not searched by itself, found and flagged with a window from Lyα on; all else is as it was."""
    z_qso, z_abs = 2.6, 1400 * 3.6 / REST - 1
    spectra = quasar_with(z_abs, z_qso)
    usual, wide = searched(spectra, z_qso), searched(spectra, z_qso, **{"preprocess.window_rest_blue": 1216.0})
    assert not len(rows_at(usual, z_abs)) and not is_path(usual, z_abs)
    (row,) = rows_at(wide, z_abs)
    assert row["flags"] & int(AbsorberFlag.BLUE_OF_WINDOW) and is_path(wide, z_abs)
    assert wide.path["z_start"].min() == pytest.approx(1216 * 3.62 / REST - 1, abs=5e-4)
    assert wide.path["z_stop"].max() == usual.path["z_stop"].max()
    own = np.asarray(usual.candidates["flags"]) & int(AbsorberFlag.BLUE_OF_WINDOW)
    assert not own.any()


def test_the_forest_stays_out_of_the_widest_window():
    """No continuum is seen bluewards of Lyα: nothing is searched there, whatever the setting."""
    found = searched(quasar_with(1.0, 2.6), 2.6, **{"preprocess.window_rest_blue": 900.0})
    assert found.path["z_start"].min() >= 1215.67 * 3.6 / REST - 1


# ---- gaps


@pytest.mark.parametrize("shift", [0.0, 0.5e-4, 0.23e-4], ids=["lattice", "half a pixel off", "a quarter off"])
@pytest.mark.parametrize("seed", [1, 2])
def test_rows_that_are_missing_are_pixels_without_weight(shift, seed):
    """Cut out, or there with inverse variance 0: path and candidates are the same to the last bit, and no gap is path."""
    rng = np.random.default_rng(seed)
    absorbed = np.array([lines_at(*system(x, 0.6)) for x in (1000, 1500, 2200)])
    spectra, z = make_spectra([1.6] * 3, 12, absorbed=absorbed), np.full(3, 1.6)
    there = np.ones(LATTICE.n_pixels, bool)
    for length in (1, 2, 3, 8, 20, 60):
        start = rng.integers(800, 2600)
        there[start : start + length] = False
    there[1496:1505] = False  # on the second spectrum's first line
    wave = WAVE * 10**shift
    cut = nalspark.find(wave[there], spectra.flux[:, there], spectra.ivar[:, there], z, score=False)
    empty = nalspark.find(wave, spectra.flux, np.where(there, spectra.ivar, 0), z, score=False)
    for ours, theirs in ((cut.candidates, empty.candidates), (cut.path, empty.path)):
        assert len(ours) == len(theirs) > 0
        for name in ours.colnames:
            assert np.asarray(ours[name]).tobytes() == np.asarray(theirs[name]).tobytes() or list(ours[name]) == list(theirs[name]), name
    assert not is_path(cut, wave[1500] / REST - 1)
    assert set(cut.candidates["spectrum"]) >= {0, 2}
    whole = nalspark.find(wave, spectra.flux, spectra.ivar, z, score=False)
    assert (whole.path["z_stop"] - whole.path["z_start"]).sum() > (cut.path["z_stop"] - cut.path["z_start"]).sum()


def test_pixels_of_twice_the_width_leave_no_gaps():
    """2e-4 dex, on every second pixel of the lattice: rebinned, the absorber is there and the path is one interval."""
    flux, ivar = quasar_with(1.0, 1.6).flux[0], quasar_with(1.0, 1.6).ivar[0]
    pairs = flux.reshape(-1, 2).mean(axis=1), 2 * ivar.reshape(-1, 2).mean(axis=1)
    found = nalspark.find(WAVE[::2], *pairs, 1.6, score=False)  # half a lattice pixel from the pairs' middles, on the lattice
    assert len(found.path) == 1 and len(rows_at(found, 1.0 * 10**-0.5e-4)) == 1

"""A simulated survey of DESI: files as DESI writes them, exact equivalent widths, noise as IVAR says, the same for the same target."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy_healpix import HEALPix

from nalspark.cli import main
from nalspark.errors import NalsparkError
from nalspark.lines import MG_II, MG_II_2796, MG_II_2803, with_all_lines
from nalspark.mocks import inject
from nalspark.mocks.layout import Job
from nalspark.mocks.survey import simulate_survey
from nalspark.mocks.surveys import desi
from nalspark.surveys.catalogs import open_catalog, read_rows
from nalspark.surveys.reader import open_spectra
from nalspark.surveys.spectrum import SKY_FIBER, RejectedSpectrum
from nalspark.tables.schemas import TRUTH

PER_FILE = 50
SYSTEM = with_all_lines(MG_II)
SLICES = dict(zip("BRZ", np.split(np.arange(len(desi.WAVELENGTH)), [2751, 2751 + 2326]), strict=True))


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return simulate_survey(tmp_path_factory.mktemp("desi"), 115, 11, like="desi", per_file=PER_FILE)


def coadds(out):
    return sorted((out / "spectra").rglob("*.fits"))


def pixels(out):
    """TARGETID → flux, ivar and mask of all arms, for every target of a survey."""
    result = {}
    for path in coadds(out):
        with fits.open(path) as hdus:
            images = [[hdus[f"{arm}_{kind}"].data for arm in "BRZ"] for kind in ("FLUX", "IVAR", "MASK")]
            values = np.stack([np.concatenate(arms, axis=1).astype(float) for arms in images], axis=1)
            result.update(zip(hdus["FIBERMAP"].data["TARGETID"].tolist(), values, strict=True))
    return result


def truth_of(out):
    return pq.read_table(out / "truth.parquet")


@pytest.fixture(scope="module")
def before_noise(survey):
    """The targets of the first file, and their spectra before noise."""
    job = Job(survey.out / "spectra", 11, inject.Population(), MG_II, per_file=PER_FILE)
    targets = desi.targets(job, 0, PER_FILE)
    return targets, desi.expected(job, targets)


def test_files_lie_where_desi_puts_them(survey):
    names = [path.relative_to(survey.out).as_posix() for path in coadds(survey.out)]
    assert names == [f"spectra/healpix/main/dark/91/{pixel}/coadd-main-dark-{pixel}.fits" for pixel in (9152, 9153, 9154)]
    rows = [len(fits.getdata(path, "FIBERMAP")) for path in coadds(survey.out)]
    assert rows == [50, 50, 20]  # 115 quasars and 5 others
    assert survey.n_spectra == 115 and survey.n_absorbers == truth_of(survey.out).num_rows > 30
    assert truth_of(survey.out).schema.equals(TRUTH.arrow_schema)


def test_astropy_finds_no_fault(survey):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in [*coadds(survey.out), survey.out / "quasars.fits"]:
            with fits.open(path) as hdus:
                hdus.verify("exception")
                assert all(hdu.data is not None for hdu in hdus[1:])


def test_a_file_is_made_like_a_real_one(survey):
    with fits.open(coadds(survey.out)[1]) as hdus:
        header = hdus[0].header
        assert (header["HPXPIXEL"], header["HPXNSIDE"], header["SURVEY"], header["PROGRAM"]) == (9153, 64, "main", "dark")
        for arm, first, n in (("B", 3600.0, 2751), ("R", 5760.0, 2326), ("Z", 7520.0, 2881)):
            assert np.allclose(hdus[f"{arm}_WAVELENGTH"].data, first + 0.8 * np.arange(n), rtol=0, atol=1e-9)
            found = {kind: (hdus[f"{arm}_{kind}"].data.dtype.str, hdus[f"{arm}_{kind}"].data.shape) for kind in ("FLUX", "IVAR", "MASK")}
            assert found == {"FLUX": (">f4", (50, n)), "IVAR": (">f4", (50, n)), "MASK": (">i4", (50, n))}
            assert hdus[f"{arm}_RESOLUTION"].data.shape == (50, 11, n)
            mask, ivar = hdus[f"{arm}_MASK"].data, hdus[f"{arm}_IVAR"].data
            assert ((mask != 0) == (ivar == 0)).all() and 0 < (mask != 0).mean() < 0.01
        table = hdus["FIBERMAP"].data
        grid = HEALPix(64, order="nested")
        assert (grid.lonlat_to_healpix(table["TARGET_RA"] * u.deg, table["TARGET_DEC"] * u.deg) == 9153).all()
        assert (hdus["SCORES"].data["TARGETID"] == table["TARGETID"]).all() and (hdus["SCORES"].data["TSNR2_LYA"] > 0).all()


def test_the_resolution_is_that_of_desi(survey):
    """Second moments of the columns: 53 to 57 km/s at the blue end, 22 to 25 at the red one; light is neither lost nor moved."""
    offset = np.arange(5, -6, -1)[:, None]
    with fits.open(coadds(survey.out)[0]) as hdus:
        for arm, column, low, high in (("B", 0, 53, 58), ("R", 1200, 27, 32), ("Z", -1, 22, 26)):
            matrix = hdus[f"{arm}_RESOLUTION"].data[3].astype(float)
            assert np.allclose(matrix.sum(axis=0), 1.0, atol=1e-6) and np.allclose((matrix * offset).sum(axis=0), 0.0, atol=1e-6)
            sigma = np.sqrt((matrix * offset**2).sum(axis=0))
            assert low < sigma[column] * 0.8 / hdus[f"{arm}_WAVELENGTH"].data[column] * 299792.458 < high
            assert ((sigma > 0.75) & (sigma < 1.0)).all()


def test_the_reader_reads_back_what_was_written(survey):
    known = {int(row["TARGETID"]): row for row in fits.getdata(survey.out / "quasars.fits", "QSO_CAT")}
    spectra = [one for path in coadds(survey.out) for one in open_spectra(path)]
    reasons = {one.reason for one in spectra if isinstance(one, RejectedSpectrum)}
    good = {one.native["targetid"]: one for one in spectra if not isinstance(one, RejectedSpectrum)}
    assert len(spectra) == 120 and reasons == {"unassigned_fiber", "bad_fiber"}
    assert len(known) == 115 and known.keys() < good.keys()
    assert any(int(float(target)) != target for target in known)
    for target, row in known.items():
        assert len(str(target)) == 18
        assert good[target].spectrum_id == f"main-dark-{row['HPXPIXEL']}-{target}"
        assert (good[target].ra, good[target].dec) == (row["TARGET_RA"], row["TARGET_DEC"])
    others = {one.object_class: one for target, one in good.items() if target not in known}
    assert others["SKY"].z_warning & SKY_FIBER and others["SKY"].native["targetid"] < 0
    assert {"SKY", "STAR", ""} == others.keys()


def test_catalogue_and_truth_say_the_same(survey):
    """The catalogue is one that nalspark knows; the redshift comes from it, by an identifier that no float64 holds."""
    known = {int(row["TARGETID"]): row for row in fits.getdata(survey.out / "quasars.fits", "QSO_CAT")}
    rows = pd.concat(map(pd.DataFrame, read_rows(open_catalog(survey.out / "quasars.fits", "quasars"))))
    assert dict(zip(rows["targetid"].tolist(), rows["z"], strict=True)) == {target: row["Z"] for target, row in known.items()}
    for row in truth_of(survey.out).to_pylist():
        assert row["z_qso"] == known[row["targetid"]]["Z"] and row["ra"] == known[row["targetid"]]["TARGET_RA"]
        assert row["spectrum_id"] == f"{row['survey']}-{row['program']}-{row['healpix']}-{row['targetid']}"
        assert row["z_abs"] < row["z_qso"] and row["plate"] is None


def test_noise_has_the_variance_that_ivar_says(survey, before_noise):
    targets, light = before_noise
    written = pixels(survey.out)
    deviations = []
    for row, target in enumerate(targets):
        flux, ivar, _ = written[target.targetid]
        good = ivar > 0
        assert np.allclose(ivar[good], light.error[row][good] ** -2.0, rtol=1e-6)
        deviations.append(np.where(good, (flux - light.flux[row]) * np.sqrt(ivar), np.nan))
    deviations = np.array(deviations)
    for arm in SLICES.values():
        count = np.isfinite(deviations[:, arm]).sum()
        assert np.nanvar(deviations[:, arm]) == pytest.approx(1.0, abs=5 * np.sqrt(2 / count))
        assert np.nanmean(deviations[:, arm]) == pytest.approx(0.0, abs=5 / np.sqrt(count))
        neighbours = np.nanmean(deviations[:, arm[1:]] * deviations[:, arm[:-1]])
        assert neighbours == pytest.approx(0.0, abs=5 / np.sqrt(count))


def widths(absorbers, line):
    """Rest equivalent widths of one line in the pixels of the arms, shape (k, 3); NaN where an arm does not have the whole line."""
    only = np.array([one == line for one in SYSTEM.transitions])
    alone = replace(absorbers, spectrum=np.arange(len(absorbers)), relative_tau=np.where(only, absorbers.relative_tau, 0.0))
    absorbed, centre = 1.0 - desi.transmission(alone, MG_II, len(alone)), line.wavelength * (1 + alone.z)
    result = np.full((len(alone), 3), np.nan)
    for column, arm in enumerate(SLICES.values()):
        inside = (centre > desi.WAVELENGTH[arm[0]] + 40) & (centre < desi.WAVELENGTH[arm[-1]] - 40)
        result[inside, column] = 0.8 * absorbed[inside][:, arm].sum(axis=1) / (1 + alone.z[inside])
    return result


def test_equivalent_widths_are_exact(before_noise):
    """Without noise the missing light is what truth says: of the survey's absorbers, and of narrow ones all over pixels and arms."""
    z = np.concatenate([np.linspace(0.31, 2.48, 120), 1.0 + 0.8 / 2796.35 * np.linspace(0, 1, 20)])
    rng = np.random.default_rng(5)
    narrow = inject.make_absorbers(SYSTEM, z, 10 ** rng.uniform(-1.7, -0.7, 140), inject.Clouds.single(rng.uniform(8, 40, 140)))
    for absorbers in (narrow, before_noise[1].absorbers):
        for line, true in ((MG_II_2796, absorbers.ew_primary), (MG_II_2803, absorbers.ew_secondary)):
            ratio = widths(absorbers, line) / true[:, None]
            assert np.isfinite(ratio).sum(axis=0).min() > 0
            assert np.nanmax(np.abs(ratio - 1)) < 1e-3


def test_lines_are_as_wide_as_the_spectrograph_makes_them():
    """A narrow line has its own variance, that of the line-spread function, and that of the pixel in which it is counted."""
    z = (np.array([3700.0, 6600.3, 9100.1]) / MG_II_2796.wavelength) - 1
    absorbers = inject.make_absorbers(SYSTEM, z, np.full(3, 0.01), inject.Clouds.single(np.full(3, 15.0)))
    absorbed = 1.0 - desi.transmission(absorbers, MG_II, 3)
    for row, (arm, pixels_of) in enumerate(zip(desi.ARMS, SLICES.values(), strict=True)):
        near = pixels_of[np.abs(desi.WAVELENGTH[pixels_of] - MG_II_2796.wavelength * (1 + z[row])) < 4.8]
        weight, place = absorbed[row, near], desi.WAVELENGTH[near]
        mean = np.average(place, weights=weight)
        variance = np.average((place - mean) ** 2, weights=weight) / 0.8**2
        assert mean == pytest.approx(MG_II_2796.wavelength * (1 + z[row]), abs=1e-3)
        thermal = (15.0 / np.sqrt(2) / 299792.458 * mean / 0.8) ** 2
        assert variance == pytest.approx(arm.sigma_pixels(mean) ** 2 + 1 / 12 + thermal, rel=0.01)


def test_same_target_same_pixels_whatever_n_and_workers(survey, tmp_path):
    everything = pixels(survey.out)
    few = pixels(simulate_survey(tmp_path / "few", 7, 11, like="desi", per_file=PER_FILE).out)
    workers = simulate_survey(tmp_path / "workers", 115, 11, like="desi", per_file=PER_FILE, workers=2).out
    assert len(few) == 8 and all((everything[target] == values).all() for target, values in few.items())
    assert [path.read_bytes() for path in coadds(workers)] == [path.read_bytes() for path in coadds(survey.out)]
    assert truth_of(workers).equals(truth_of(survey.out))
    other_files = pixels(simulate_survey(tmp_path / "files", 115, 11, like="desi", per_file=30).out)
    assert all((everything[target] == values).all() for target, values in other_files.items())


def test_another_seed_is_another_survey(survey, tmp_path):
    everything, other = pixels(survey.out), pixels(simulate_survey(tmp_path / "other", 3, 12, like="desi").out)
    assert other.keys() < everything.keys() and all((everything[target] != values).any() for target, values in other.items())


def test_a_survey_of_one_kind_replaces_that_of_another(tmp_path):
    simulate_survey(tmp_path / "s", 3, 1)
    simulate_survey(tmp_path / "s", 3, 1, like="desi")
    assert [path.name for path in coadds(tmp_path / "s")] == ["coadd-main-dark-9152.fits"]
    simulate_survey(tmp_path / "s", 3, 1)
    assert len(coadds(tmp_path / "s")) == 3 and all(path.name.startswith("spec-") for path in coadds(tmp_path / "s"))


def test_noise_is_taken_from_given_coadds(survey, tmp_path):
    """Coadds of the simulation serve as real ones: the new errors are theirs, but for how deep an exposure is."""
    (tmp_path / "real").mkdir()
    first = coadds(survey.out)[0]
    (tmp_path / "real" / first.name).write_bytes(first.read_bytes())
    (tmp_path / "real" / "coadd-broken.fits").write_bytes(b"SIMPLE  = nonsense")
    summary = simulate_survey(tmp_path / "s", 10, 5, like="desi", source=tmp_path / "real")
    assert (summary.n_sources, summary.skipped_sources) == (1, {"not_a_coadd": 1})
    sources = pd.read_csv(tmp_path / "s" / "sources.csv")
    assert len(sources) == 11 and set(sources["source"]) == {first.name}
    known = np.where(np.isfinite(desi.read_errors(first)), desi.read_errors(first), np.nan)
    for _, ivar, _ in pixels(tmp_path / "s").values():
        ratio = np.sqrt(np.where(ivar > 0, ivar, np.nan)) * known
        assert np.nanmin(np.nanstd(ratio, axis=1) / np.nanmean(ratio, axis=1)) < 1e-6


def test_refuses_what_cannot_be(tmp_path):
    with pytest.raises(NalsparkError, match="like 'keck' cannot be simulated; choose desi or sdss"):
        simulate_survey(tmp_path / "a", 1, 1, like="keck")
    with pytest.raises(NalsparkError, match="--per-file must be between 1 and"):
        simulate_survey(tmp_path / "a", 1, 1, like="desi", per_file=0)
    with pytest.raises(NalsparkError, match="leave --per-file out"):
        simulate_survey(tmp_path / "a", 1, 1, per_file=100)
    with pytest.raises(NalsparkError, match="must be between 1 and 47185"):
        simulate_survey(tmp_path / "a", 10**6, 1, like="desi", per_file=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NalsparkError, match="holds no DESI coadd"):
        simulate_survey(tmp_path / "a", 1, 1, like="desi", source=tmp_path / "empty")
    assert not (tmp_path / "a").exists()


def test_the_command_writes_such_a_survey(tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["simulate", "survey", "--like", "desi", "--n", "30", "--out", str(out), "--per-file", "20", "--seed", "4"]) == 0
    assert "30 spectra with" in capsys.readouterr().out
    assert [len(fits.getdata(path, "FIBERMAP")) for path in coadds(out)] == [20, 12]


@pytest.mark.data
def test_noise_is_taken_from_real_coadds(real_data, tmp_path):
    """Bad pixels of the real file are bad, and the errors have its sky lines and dichroics."""
    folder = tmp_path / "real"
    folder.mkdir()
    for path in (real_data / "spectra" / "desi").glob("coadd-*.fits"):
        (folder / path.name).symlink_to(path)
    summary = simulate_survey(tmp_path / "s", 12, 5, like="desi", source=folder)
    assert summary.n_sources == 4 and not summary.skipped_sources
    for _, ivar, _ in pixels(tmp_path / "s").values():
        plain, line = (np.median(ivar[np.abs(desi.WAVELENGTH - wave) < 3]) for wave in (8580.0, 8888.0))
        assert plain > 5 * line  # OH
        end = ivar[SLICES["R"]]
        assert np.median(end[:20]) < 0.1 * np.median(end)  # the dichroic
    assert all(isinstance(one, RejectedSpectrum) or one.ivar.max() > 0 for path in coadds(tmp_path / "s") for one in open_spectra(path))

"""A simulated survey: files as SDSS writes them, the same for the same identity however they are made."""

import csv
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from nalspark.errors import NalsparkError
from nalspark.lines import MG_II, MG_II_2796
from nalspark.mocks.survey import simulate_survey
from nalspark.mocks.surveys import sdss
from nalspark.tables.schemas import TRUTH


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("spec-*.fits"))}


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    out = tmp_path_factory.mktemp("survey")
    return simulate_survey(out, 60, 11)


def test_summary_agrees_with_the_files(survey):
    truth = pq.read_table(survey.out / "truth.parquet")
    assert truth.schema.equals(TRUTH.arrow_schema)
    assert survey.n_spectra == len(contents(survey.out)) == 60
    assert survey.n_absorbers == truth.num_rows > 10
    with fits.open(survey.out / "quasars.fits") as hdus:
        assert hdus[1].columns.names == ["PLATE", "MJD", "FIBERID", "RA", "DEC", "Z"]
        assert len(hdus[1].data) == 60


def test_astropy_finds_no_fault(survey):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(survey.out.rglob("*.fits")):
            with fits.open(path) as hdus:
                hdus.verify("exception")
                assert all(len(hdu.data) for hdu in hdus[1:])


def test_files_say_the_same_everywhere(survey):
    quasars = {(row["PLATE"], row["MJD"], row["FIBERID"]): row for row in fits.getdata(survey.out / "quasars.fits")}
    for path in sorted((survey.out / "spectra").rglob("*.fits")):
        with fits.open(path) as hdus:
            header, row, pixels = hdus[0].header, hdus[2].data[0], hdus[1].data
            known = quasars[row["PLATE"], row["MJD"], row["FIBERID"]]
            name = f"{row['PLATE']:04d}/spec-{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}.fits"
            assert path.as_posix().endswith(f"spectra/{name}")
            assert (header["PLATEID"], header["MJD"], header["FIBERID"]) == (row["PLATE"], row["MJD"], row["FIBERID"])
            assert header["PLUG_RA"] == row["PLUG_RA"] == known["RA"] and header["PLUG_DEC"] == row["PLUG_DEC"] == known["DEC"]
            assert row["CLASS"] == "QSO" and row["ZWARNING"] == 0
            assert hdus[1].name == "COADD" and [c.format for c in hdus[1].columns] == ["E", "E", "E", "J", "J", "E", "E", "E"]
            lattice = pixels["loglam"].astype(float) * 1e4
            assert np.abs(lattice - np.rint(lattice)).max() < 0.01 and (np.diff(np.rint(lattice)) == 1).all()
            assert np.isfinite(pixels["flux"]).all() and (pixels["ivar"] >= 0).all()


def test_pipeline_redshift_is_near_the_truth(tmp_path):
    out = simulate_survey(tmp_path / "s", 300, 3).out
    true = {(r["PLATE"], r["FIBERID"]): r["Z"] for r in fits.getdata(out / "quasars.fits")}
    rows = [fits.getdata(path, 2)[0] for path in sorted((out / "spectra").rglob("*.fits"))]
    off = np.array([abs(r["Z"] - true[r["PLATE"], r["FIBERID"]]) for r in rows])
    assert np.median(off) < 1e-3
    assert 0 <= (off > 0.01).sum() <= 12  # 1 % are wrong altogether


def test_absorbers_are_in_the_spectra_where_truth_says(survey):
    """Summed over strong absorbers, the missing light beside the model is the equivalent width."""
    missing, expected = 0.0, 0.0
    for row in pq.read_table(survey.out / "truth.parquet").to_pylist():
        pixels = fits.getdata(next(survey.out.rglob(f"spec-{row['spectrum_id']}.fits")), 1)
        rest = 10.0 ** pixels["loglam"].astype(float) / (1 + row["z_abs"])
        near = (rest > MG_II_2796.wavelength - 10) & (rest < MG_II.secondary.wavelength + 10)
        depth = (1 - pixels["flux"] / pixels["model"]) * rest * np.log(10) * 1e-4
        missing += depth[near & (pixels["ivar"] > 0)].sum()
        expected += row["ew_primary"] + row["ew_secondary"]
    assert missing == pytest.approx(expected, rel=0.25)


def test_same_identity_same_file_whatever_n_and_workers(survey, tmp_path, monkeypatch):
    few = contents(simulate_survey(tmp_path / "few", 7, 11).out)
    monkeypatch.setattr(sdss, "BLOCK", 20)
    workers = simulate_survey(tmp_path / "workers", 60, 11, workers=2)
    everything = contents(survey.out)
    assert few.items() <= everything.items()
    assert contents(workers.out) == everything
    assert pq.read_table(workers.out / "truth.parquet").equals(pq.read_table(survey.out / "truth.parquet"))


def test_another_seed_is_another_survey(survey, tmp_path):
    other = contents(simulate_survey(tmp_path / "other", 4, 12).out)
    assert all(contents(survey.out)[name] != data for name, data in other.items())


def test_replaces_only_a_simulated_survey(tmp_path):
    simulate_survey(tmp_path / "mine", 12, 1)
    kept = tmp_path / "mine" / "notes.txt"
    kept.write_text("mine")
    assert len(contents(simulate_survey(tmp_path / "mine", 3, 1).out)) == 3
    assert kept.read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.txt").write_text("precious")
    with pytest.raises(NalsparkError, match="not empty and is no simulated survey"):
        simulate_survey(tmp_path / "other", 3, 1)
    assert (tmp_path / "other" / "data.txt").read_text() == "precious"


def test_refuses_what_cannot_be(tmp_path):
    with pytest.raises(NalsparkError, match="must be between 1 and"):
        simulate_survey(tmp_path / "a", 0, 1)
    with pytest.raises(NalsparkError, match="workers"):
        simulate_survey(tmp_path / "a", 1, 1, workers=0)
    with pytest.raises(NalsparkError, match="There is no folder"):
        simulate_survey(tmp_path / "a", 1, 1, source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NalsparkError, match="holds no SDSS quasar spectrum"):
        simulate_survey(tmp_path / "a", 1, 1, source=tmp_path / "empty")
    with pytest.raises(NalsparkError, match="one in the other"):
        simulate_survey(tmp_path / "empty" / "a", 1, 1, source=tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(NalsparkError, match="must name a folder"):
        simulate_survey(tmp_path / "file", 1, 1)
    assert not (tmp_path / "a").exists()


def test_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sdss, "BLOCK", 4)
    told = []
    simulate_survey(tmp_path / "s", 10, 1, progress=lambda done, n: told.append((done, n)))
    assert told == [(4, 10), (8, 10), (10, 10)]


def check_made_from(out, folder):
    """Outside the injected lines a spectrum is its source, pixel for pixel; inside it is darker; ivar and masks are untouched."""
    with (out / "sources.csv").open() as table:
        sources = {row["spectrum_id"]: row["source"] for row in csv.DictReader(table)}
    truth = pq.read_table(out / "truth.parquet").to_pylist()
    assert len({row["spectrum_id"] for row in truth}) == len(sources)  # at least one each
    for name, source in sources.items():
        new = fits.getdata(next(out.rglob(f"spec-{name}.fits")), 1)
        with fits.open(next(folder.rglob(source))) as hdus:
            old, z = hdus[1].data, hdus[2].data["Z"][0]
            mine = [row for row in truth if row["spectrum_id"] == name]
            assert all(row["z_qso"] == pytest.approx(z) for row in mine)
            assert all(row["ra"] == pytest.approx(hdus[2].data["PLUG_RA"][0], abs=1e-6) for row in mine)
        np.testing.assert_array_equal(new["ivar"], old["ivar"])
        np.testing.assert_array_equal(new["and_mask"], old["and_mask"])
        assert (np.abs(new["flux"]) <= np.abs(old["flux"]) * (1 + 1e-6)).all()
        assert 0 < (new["flux"] != old["flux"]).sum() < 200 * 8 * len(mine)


def test_absorbers_are_put_into_given_spectra(survey, tmp_path):
    """Simulated files serve as sources here; a file that is none is skipped and counted."""
    folder = tmp_path / "real"
    folder.mkdir()
    redshift = {(row["PLATE"], row["FIBERID"]): row["Z"] for row in fits.getdata(survey.out / "quasars.fits")}
    for path in sorted((survey.out / "spectra").rglob("*.fits"))[:25]:
        plate, _, fiber = (int(piece) for piece in path.stem.split("-")[1:])
        if redshift[plate, fiber] > 0.6:
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "spec-broken.fits").write_bytes(b"SIMPLE  = nonsense")
    summary = simulate_survey(tmp_path / "s", 20, 5, source=folder)
    assert summary.skipped_sources == {"not_a_coadd_table": 1}
    assert summary.n_sources == len(list(folder.glob("spec-[14]*")))
    check_made_from(summary.out, folder)


@pytest.mark.data
def test_absorbers_are_put_into_real_spectra(real_data, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    for path in sorted((real_data / "spectra" / "qso").iterdir())[::9]:
        (folder / path.name).symlink_to(path)
    check_made_from(simulate_survey(tmp_path / "s", 20, 5, source=folder).out, folder)

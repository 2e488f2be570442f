"""The real files: all accounted for, the catalogued absorbers found, and nothing found where there is no quasar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import published, run

import nalspark
from nalspark.settings import load

pytestmark = [pytest.mark.spark, pytest.mark.data]


@pytest.fixture(scope="module")
def index(real_data: Path) -> pd.DataFrame:
    return pd.read_csv(real_data / "spectra" / "index.csv")


@pytest.fixture(scope="module")
def catalogue(spark: Any, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """`find` on everything, with the redshifts that the files have."""
    out = tmp_path_factory.mktemp("real") / "out"
    run(spark, load(spectra=[str(real_data / "spectra")], out=str(out), overrides=["publish.gallery=0"]))
    return published(out)


def test_every_file_is_in_exactly_one_of_sightlines_and_rejections(
    real_data: Path, index: pd.DataFrame, catalogue: dict[str, pd.DataFrame]
) -> None:
    files = sorted(str(path) for path in (real_data / "spectra").rglob("*") if path.name.endswith((".fits", ".fit", ".fits.gz", ".fit.gz")))
    other = [file for file in files if Path(file).parent.name.startswith("desi")]
    assert len(files) == len(index) + len(other) and len(index) >= 322 and len(other) >= 7
    assert sorted({*catalogue["sightlines"]["path"], *catalogue["rejections"]["path"]}) == files


def test_targets_and_files_of_desi_are_accounted_for(real_data: Path, catalogue: dict[str, pd.DataFrame]) -> None:
    pytest.importorskip("nalspark.surveys.formats.desi")
    rejections = catalogue["rejections"].assign(name=lambda rows: rows["path"].map(lambda path: Path(path).name)).set_index("name")
    desi = rejections[rejections["path"].str.contains("/desi/")]
    assert set(desi["path"]) == {str(path) for path in (real_data / "spectra" / "desi").iterdir()} and len(desi) >= 16
    # No quasar catalogue is given here, and one file alone has its redshifts beside it: of a galaxy.
    assert {name.split("-")[0]: reason for name, reason in desi["reason"].items() if "-" in name} == {
        "coadd": "no_redshift", "redrock": "desi_redrock",
    }  # fmt: skip
    assert set(desi["reason"]) <= {"not_a_quasar", "no_redshift", "desi_redrock", "not_a_spectrum"}


def test_no_sky_fiber_star_or_galaxy_is_searched_as_a_quasar(catalogue: dict[str, pd.DataFrame]) -> None:
    searched = catalogue["sightlines"]["path"].map(lambda path: Path(path).parent.name)
    assert not set(searched) & {"sky", "star", "galaxy", "desi"}, searched.value_counts().to_dict()
    assert (searched == "qso").sum() >= 150  # of 250; the others show no part of the search window


def test_catalogued_absorbers_that_can_be_seen_are_found(real_data: Path, catalogue: dict[str, pd.DataFrame]) -> None:
    known = pd.read_csv(real_data / "spectra" / "known_mgii_absorbers.csv")
    known = known[known["seen_2796_3sig"] == 1]
    sightlines = catalogue["sightlines"].assign(name=lambda rows: rows["path"].map(lambda path: Path(path).name)).set_index("name")
    absorbers = catalogue["absorbers"].groupby("spectrum_id")["z_abs"].apply(np.array)
    missed, in_path = [], 0
    for name, z_abs in zip(known["name"], known["zabs"], strict=True):
        if name not in sightlines.index:
            continue
        sightline = sightlines.loc[name]
        if not any(low <= z_abs <= high for low, high in zip(sightline["z_start"], sightline["z_stop"], strict=True)):
            continue
        in_path += 1
        if not (np.abs(absorbers.get(sightline["spectrum_id"], np.array([])) - z_abs) <= 0.002).any():
            missed.append((name, z_abs))
    assert in_path >= 10
    assert not missed, f"{len(missed)} of {in_path} missed"


def test_find_gives_the_rows_of_the_command_line(catalogue: dict[str, pd.DataFrame]) -> None:
    """All real quasars as arrays, with the redshifts that the command line has: bit for bit, the searched path included."""
    sightlines, absorbers = catalogue["sightlines"], catalogue["absorbers"].sort_values(["spectrum_id", "z_abs"])
    spectra = [nalspark.read_spectrum(*named) for named in zip(sightlines["path"], sightlines["spectrum_id"], strict=True)]
    arrays = nalspark.find(spectra, z=sightlines["z_qso"].to_numpy(), z_err=sightlines["z_qso_err"].to_numpy())
    ours = arrays.absorbers.to_pandas()
    assert sightlines["spectrum_id"].to_numpy()[ours["spectrum"]].tolist() == absorbers["spectrum_id"].tolist()
    names = [name for name in ours if name != "spectrum"]
    pd.testing.assert_frame_equal(ours[names], absorbers[names].reset_index(drop=True), check_exact=True, check_dtype=False)
    for name in ("z_start", "z_stop"):
        assert arrays.path[name].tolist() == np.concatenate(sightlines[name].to_list()).tolist()


def test_where_there_is_no_quasar_hardly_anything_is_found(spark: Any, real_data: Path, index: pd.DataFrame, tmp_path: Path) -> None:
    """Sky, stars and galaxies whose redshifts a forged quasar catalogue gives: whatever is found in them is false."""
    others = index[index["dir"].isin(["spectra/sky", "spectra/star", "spectra/galaxy"])]
    assert len(others) == 72
    forged = others[["plate", "mjd", "fiber", "ra", "dec"]].assign(z=np.random.default_rng(72).uniform(1.0, 2.5, len(others)))
    forged.to_csv(tmp_path / "forged.csv", index=False)
    folders = [str(real_data / "spectra" / name) for name in ("sky", "star", "galaxy")]
    settings = load(spectra=folders, quasars=[str(tmp_path / "forged.csv")], out=str(tmp_path / "out"), overrides=["publish.gallery=0"])
    run(spark, settings)
    tables = published(tmp_path / "out")
    assert len(tables["sightlines"]) + len(tables["rejections"]) == 72
    assert len(tables["sightlines"]) >= 25 and (tables["sightlines"]["z_source"] == "forged.csv").all()
    found = tables["absorbers"]
    assert len(found) <= 8, found[["absorber_id", "z_abs", "significance", "flags"]].to_string()
    clean = found[found["flags"] == 0]  # what a user keeps who wants a clean sample
    assert len(clean) <= 1, clean[["absorber_id", "z_abs", "significance"]].to_string()

"""A whole run on a simulated DESI survey: every target accounted for, the same at 1, 3 and 7 partitions, one damaged file among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from runs import assert_same_catalogue, published, run

from nalspark.mocks.survey import simulate_survey
from nalspark.settings import load

pytest.importorskip("nalspark.surveys.formats.desi")
pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 quasars in files of 26 targets; the last file is cut in the middle of the last arm."""
    folder = tmp_path_factory.mktemp("desi")
    simulate_survey(folder, 60, 5, like="desi", per_file=26, workers=1)
    last = sorted((folder / "spectra").rglob("coadd-*.fits"))[-1]
    last.write_bytes(last.read_bytes()[: int(last.stat().st_size * 0.63)])
    return folder


def find(spark: Any, survey: Path, out: Path, partitions: int) -> Path:
    settings = load(
        spectra=[str(survey / "spectra")], quasars=[str(survey / "quasars.fits")], out=str(out),
        overrides=["publish.gallery=2", f"pipeline.partitions={partitions}"],
    )  # fmt: skip
    run(spark, settings)
    return out


@pytest.fixture(scope="module")
def result(spark: Any, survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find(spark, survey, tmp_path_factory.mktemp("out") / "r", 3)


def test_every_target_is_in_one_of_two_tables(survey: Path, result: Path) -> None:
    tables = published(result)
    quasars = set(Table.read(survey / "quasars.fits")["TARGETID"].tolist())
    sightlines, rejections = tables["sightlines"], tables["rejections"]
    named = pd.concat([sightlines["spectrum_id"], rejections["spectrum_id"]])
    assert named.is_unique and named.notna().all() and len(named) >= 62
    assert set(sightlines["targetid"]) <= quasars and (sightlines["z_match"] == "id").all()
    lost = {int(name.rpartition("-")[2]) for name in rejections["spectrum_id"][rejections["reason"] == "truncated"]}
    rejected = {int(name.rpartition("-")[2]) for name in rejections["spectrum_id"]}
    assert lost and quasars == set(sightlines["targetid"]) | (quasars & rejected)
    assert {"sky_fiber", "truncated"} <= set(rejections["reason"]) and "internal_error" not in set(rejections["reason"])
    assert (sightlines["format"] == "desi_coadd").all() and sightlines["plate"].isna().all() and sightlines["healpix"].notna().all()


def test_absorbers_put_in_are_found(survey: Path, result: Path) -> None:
    tables, truth = published(result), pd.read_parquet(survey / "truth.parquet")
    searched = truth[truth["spectrum_id"].isin(tables["sightlines"]["spectrum_id"])]
    both = searched.merge(tables["absorbers"], on="spectrum_id", suffixes=("_true", ""))
    found = both[np.abs(both["z_abs"] - both["z_abs_true"]) < 0.002]
    assert len(found) >= 10
    assert len(tables["absorbers"]) - len(found) <= 3
    assert (found["targetid"].astype("int64").astype(str) == found["spectrum_id"].str.rpartition("-")[2]).all()


@pytest.mark.parametrize("partitions", [1, 7])
def test_the_same_at_any_partitioning(spark: Any, survey: Path, result: Path, tmp_path: Path, partitions: int) -> None:
    assert_same_catalogue(result, find(spark, survey, tmp_path / "again", partitions))

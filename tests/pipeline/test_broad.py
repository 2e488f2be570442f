"""Broad absorption of the quasars, on the engine: measured on demand, published with the catalogue, the same in any partitions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import assert_same_catalogue, make_survey, published, run, settings_of

import nalspark
from nalspark.absorption.balnicity import measure_balnicity
from nalspark.absorption.chain import Searchable, prepare
from nalspark.pipeline.catalogue import CATALOGUE, WITH_BALNICITY
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.arrays import given_spectra

pytestmark = pytest.mark.spark
INDICES = ["bi_civ", "bi_civ_err", "ai_civ", "ai_civ_err"]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("broad") / "survey")


@pytest.fixture(scope="module")
def finished(spark: Any, survey: Path) -> Path:
    out = survey.parent / "finished"
    done = run(spark, settings_of(survey, out, "pipeline.partitions=3"), *WITH_BALNICITY)
    assert tuple(done) == WITH_BALNICITY and all(done.values())
    return out


def test_the_sightlines_have_what_the_arrays_have(finished: Path, survey: Path) -> None:
    rows = published(finished)["sightlines"].set_index("spectrum_id")
    covered = rows[rows["ai_civ"].notna()]
    assert 3 <= len(covered) < len(rows) and (rows["bi_civ_err"].notna() == rows["bi_civ"].notna()).all()
    spectra = [nalspark.read_spectrum(path) for path in covered["path"]]
    given = given_spectra(spectra, None, None, None, None)
    settings, z = nalspark.open_result(finished).settings, covered["z_qso"].to_numpy()
    measured = measure_balnicity(Searchable.of(prepare(given.on_grid(range(len(spectra)), LATTICE), z, settings), z).spectra, z)
    for name in INDICES:
        np.testing.assert_array_equal(covered[name], getattr(measured, name.replace("_civ", "")))


def test_absorbers_and_sensitivity_know_it_too(finished: Path) -> None:
    sightlines = published(finished)["sightlines"].set_index("spectrum_id")
    for name in ("absorbers", "sensitivity"):
        rows = pd.read_parquet(finished / f"{name}.parquet")
        np.testing.assert_array_equal(rows["bi_civ"], sightlines["bi_civ"].reindex(rows["spectrum_id"]))
    absorbers = published(finished)["absorbers"]
    known = sightlines["ai_civ"].reindex(absorbers["spectrum_id"]).notna().to_numpy()
    assert absorbers["in_trough"].notna().to_numpy().tolist() == known.tolist()
    for row in absorbers[known].itertuples():
        line, trough = 2796.3543 * (1 + row.z_abs), sightlines.loc[row.spectrum_id]
        inside = any(start <= line <= stop for start, stop in zip(trough["trough_start"], trough["trough_stop"], strict=True))
        assert row.in_trough == inside


@pytest.mark.parametrize("partitions", [1, 7])
def test_partitions_do_not_matter(spark: Any, survey: Path, finished: Path, tmp_path: Path, partitions: int) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "result"))
    cut = f"pipeline.partitions={partitions}", "pipeline.parts_per_wave=2"
    run(spark, settings_of(survey, out, *cut), *WITH_BALNICITY[-2:], force=True)
    assert_same_catalogue(out, finished)


def test_it_is_left_out_once_the_spectra_are_prepared_otherwise(spark: Any, survey: Path, finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "result"))
    assert not any(run(spark, settings_of(survey, out), *WITH_BALNICITY).values())
    run(spark, settings_of(survey, out, "preprocess.min_snr=0.6"), *CATALOGUE)
    assert published(out)["sightlines"]["bi_civ"].isna().all() and published(out)["absorbers"]["in_trough"].isna().all()

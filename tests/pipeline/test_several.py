"""Several species in one pass: a result for each, as if it were alone, and one table of all absorbers."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import assert_same_catalogue, make_survey, published, run, settings_of

import nalspark
from nalspark.absorption.systems import separation_pixels
from nalspark.cli import main
from nalspark.errors import SettingsError, StoreError
from nalspark.judging.statistics import result_statistics
from nalspark.pipeline.catalogue import CATALOGUE
from nalspark.pipeline.door import prepare_run
from nalspark.progress import Progress
from nalspark.settings import Settings

SPECIES = ("MgII", "CIV", "AlIII")
FIRST = ("MgII", "AlIII")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("several") / "survey")


def several(survey: Path, out: Path, *overrides: str, species: tuple[str, ...] = SPECIES) -> Settings:
    return settings_of(survey, out, *overrides).model_copy(update={"species": species})


def search(spark: Any, settings: Settings, **how: Any) -> dict[str, int]:
    """Parts made by each stage, all species together."""
    done: dict[str, int] = {}
    for summary in prepare_run(settings, CATALOGUE, **how)(spark, Progress(None)):
        done[summary.stage] = done.get(summary.stage, 0) + summary.parts_done
    return done


@pytest.fixture(scope="module")
def finished(spark: Any, survey: Path) -> Path:
    out = survey.parent / "finished"
    assert all(search(spark, several(survey, out, "pipeline.partitions=3")).values())
    return out


@pytest.mark.spark
@pytest.mark.parametrize("name", SPECIES)
def test_each_has_the_result_that_it_has_alone(spark: Any, survey: Path, finished: Path, tmp_path: Path, name: str) -> None:
    alone = tmp_path / "alone"
    run(spark, settings_of(survey, alone).model_copy(update={"species": (name,)}), *CATALOGUE)
    assert_same_catalogue(finished / name, alone)
    ours, theirs = (pd.read_parquet(place / "sensitivity.parquet") for place in (finished / name, alone))
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.spark
def test_one_table_has_the_absorbers_of_all_and_the_systems_they_make_up(finished: Path) -> None:
    rows, opened = published_absorbers(finished), nalspark.open_result(finished).absorbers
    assert len(opened) == len(rows) and opened["ew_1548"].unit == "Angstrom"
    for name in SPECIES:
        own = published(finished / name)["absorbers"].sort_values("absorber_id", ignore_index=True)
        mine = rows[rows["species"] == name].sort_values("absorber_id", ignore_index=True)
        shared = [column for column in own.columns if column not in ("object_id", "system_id")]
        pd.testing.assert_frame_equal(mine[shared], own[shared], check_dtype=False)
    for _, system in rows.groupby("system_id"):
        assert system["object_id"].nunique() == 1 and (system["n_ions"] == system["species"].nunique()).all()
        z = np.sort(system["z_abs"].to_numpy())
        assert (separation_pixels(z[1:], z[:-1]) < 8).all()
    assert rows["n_ions"].max() >= 2, "absorbers of Mg II are put in with C IV"


def published_absorbers(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "absorbers.parquet")


@pytest.mark.spark
def test_a_second_run_does_nothing_and_a_further_species_leaves_the_others_alone(spark: Any, survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    search(spark, several(survey, out, species=FIRST))
    assert not any(search(spark, several(survey, out, species=FIRST)).values())
    before = {name: (out / name / "absorbers.parquet").stat().st_mtime_ns for name in FIRST}
    done = search(spark, several(survey, out))
    assert done["ingest"] == done["crossmatch"] == 0 and done["search"] > 0 and done["publish"] == 1
    assert before == {name: (out / name / "absorbers.parquet").stat().st_mtime_ns for name in FIRST}
    assert "CIV" in set(published_absorbers(out)["species"])


@pytest.mark.spark
@pytest.mark.parametrize("partitions", [1, 7])
def test_partitions_and_waves_do_not_matter(spark: Any, survey: Path, finished: Path, tmp_path: Path, partitions: int) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "result"))
    search(spark, several(survey, out, f"pipeline.partitions={partitions}", "pipeline.parts_per_wave=2"), force=True)
    pd.testing.assert_frame_equal(published_absorbers(out), published_absorbers(finished), check_exact=True)
    for name in SPECIES:
        assert_same_catalogue(out / name, finished / name)


@pytest.mark.spark
def test_what_follows_works_on_the_result_of_one(finished: Path) -> None:
    tables = result_statistics(finished / "CIV", uncorrected=True)
    assert tables.species.name == "CIV" and tables.numbers["sightlines"] > 0
    with pytest.raises(SettingsError, match=f"MgII, CIV, AlIII are searched, each with a result of its own: name one of {finished}/MgII, "):
        result_statistics(finished)
    with pytest.raises(SettingsError, match="each with a result of its own"):
        _ = nalspark.open_result(finished).sightlines
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        assert main(["completeness", str(finished)]) == 2
    assert f"name one of {finished}/MgII, {finished}/CIV" in said.getvalue()
    told = io.StringIO()
    with redirect_stdout(told):
        assert main(["status", str(finished)]) == 0
    assert "cut short" not in told.getvalue()


def test_species_are_refused_before_spark_starts(tmp_path: Path, no_spark: None) -> None:
    (tmp_path / "spectra").mkdir()
    for names, sentence in ((["MgII", "MgII"], "name one twice"), (["MgII", "CIVV"], "Species 'CIVV' is not known")):
        said = io.StringIO()
        with redirect_stderr(said):
            assert main(["find", str(tmp_path / "spectra"), "--out", str(tmp_path / "out"), "--species", *names]) == 2
        assert sentence in said.getvalue()


@pytest.mark.spark
def test_a_folder_is_of_one_species_or_of_several(finished: Path, survey: Path) -> None:
    with pytest.raises(StoreError, match="holds results of several species, and MgII would be searched: give another --out"):
        prepare_run(settings_of(survey, finished), CATALOGUE)
    with pytest.raises(StoreError, match="holds the result of one species, and MgII, CIV, AlIII would be searched"):
        prepare_run(several(survey, finished / "CIV"), CATALOGUE)


@pytest.mark.spark
def test_an_absorber_catalogue_is_compared_with_its_own_species(spark: Any, survey: Path, finished: Path, tmp_path: Path) -> None:
    out, known = Path(shutil.copytree(finished, tmp_path / "result")), published(finished / "MgII")["absorbers"]
    names = ["plate", "mjd", "fiber", "z_abs", "ew_2796", "ew_2796_err", "ew_2803", "ew_2803_err"]
    known[names].to_csv(tmp_path / "known.csv", index=False)
    settings = several(survey, out).model_copy(update={"absorbers": (str(tmp_path / "known.csv"),)})
    done = search(spark, settings)
    assert done["search"] == done["infer"] == 0 and done["crossmatch"] > 0
    matches = {name: published(out / name)["sightlines"]["matches"] for name in SPECIES}
    assert matches["MgII"].notna().any() and matches["CIV"].isna().all() and matches["AlIII"].isna().all()
    assert not any(search(spark, settings).values())

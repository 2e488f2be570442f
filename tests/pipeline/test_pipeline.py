"""The whole chain: every file accounted for, nothing done twice, nothing depending on how the work is cut up, nothing lost in a crash."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table as AstropyTable
from pyspark.sql import functions as F
from runs import add_part, assert_same_catalogue, make_survey, published, run, settings_of, tree

from nalspark.absorption import stages as absorption
from nalspark.absorption.measure import AbsorberFlag, velocity_error
from nalspark.absorption.stages import measured_table
from nalspark.errors import NalsparkError, StoreError
from nalspark.judging.match import compare
from nalspark.lines import MG_II
from nalspark.pipeline import publish as publishing
from nalspark.pipeline.catalogue import CATALOGUE
from nalspark.session import narrow_reads, short_tasks
from nalspark.settings import Settings
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.manifest import read_manifest
from nalspark.tables.schemas import CANDIDATES, MATCHES, REJECTIONS, SCORES, SEARCHED, SIGHTLINES, TARGETS, absorbers_table
from nalspark.tables.store import Store

pytestmark = pytest.mark.spark

NOTHING = dict.fromkeys(CATALOGUE, 0)
AFTER_SEARCH = ("search", "infer", "measure")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("pipeline") / "survey")


@pytest.fixture(scope="module")
def finished(spark: Any, survey: Path) -> Path:
    """The result of one run over everything; tests that change it work on a copy."""
    out = survey.parent / "finished"
    assert all(run(spark, settings_of(survey, out, "pipeline.partitions=3")).values())
    return out


@pytest.fixture
def result(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished result."""
    return Path(shutil.copytree(finished, tmp_path / "result"))


def part_records(out: Path, table: str) -> dict[str, Any]:
    return read_manifest(out / "manifest.json").tables[table]


def keys_and_rows(records: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {part: (record.key, record.rows) for part, record in records.items()}


# ---- what comes out


def test_every_file_is_in_exactly_one_of_sightlines_and_rejections(survey: Path, finished: Path) -> None:
    tables = published(finished)
    files = sorted(str(path) for path in (survey / "parts").rglob("*") if path.is_file())
    assert len(files) == 41
    assert sorted([*tables["sightlines"]["path"], *tables["rejections"]["path"]]) == files
    rejected = tables["rejections"].set_index("path")
    assert rejected["reason"][str(survey / "parts" / "1001" / "spec-1001-52000-9999.fits")] == "not_fits"
    assert set(tables["absorbers"]["spectrum_id"]) <= set(tables["sightlines"]["spectrum_id"])
    counted = tables["absorbers"].groupby("spectrum_id").size().reindex(tables["sightlines"]["spectrum_id"], fill_value=0)
    assert tables["sightlines"]["n_absorbers"].tolist() == counted.tolist()


def test_the_files_on_disk_have_the_schemas_that_are_declared(spark: Any, survey: Path, finished: Path) -> None:
    settings = settings_of(survey, finished)
    kept = (SPECTRA_READ, TARGETS, MATCHES, SEARCHED, CANDIDATES, SCORES, measured_table(settings))
    places = {path: table for table in kept for part in part_records(finished, table.name).values() if (path := part.path)}
    places |= {"absorbers.parquet": absorbers_table(MG_II), "sightlines.parquet": SIGHTLINES, "rejections.parquet": REJECTIONS}
    assert {table.name for table in places.values()} >= {"spectra", "targets", "searched", "candidates", "scores", "measured"}
    for place, table in places.items():
        assert spark.read.parquet(str(finished / place)).schema.simpleString() == table.spark_schema.simpleString(), place


def test_the_manifest_counts_the_rows_that_are_there(spark: Any, survey: Path, finished: Path) -> None:
    manifest, settings = read_manifest(finished / "manifest.json"), settings_of(survey, finished)
    assert len(manifest.parts("spectra")) == 5
    for table in (SPECTRA_READ, TARGETS, SEARCHED, CANDIDATES, SCORES, measured_table(settings)):
        rows = Store(finished).read(spark, manifest, table)
        assert (
            sum(manifest.rows(table.name))
            == rows.count()
            == rows.select(table.columns[0].name).distinct().count() + (manifest.rows("spectra")[1] - 1 if table.name == "spectra" else 0)
        )


def test_the_catalogue_does_not_depend_on_the_partitions(spark: Any, survey: Path, finished: Path, tmp_path: Path) -> None:
    """Seven against the three of the finished result; one: where everything is made anew."""
    run(spark, settings_of(survey, tmp_path / "out", "pipeline.partitions=7", "pipeline.parts_per_wave=3"))
    assert_same_catalogue(tmp_path / "out", finished)


def test_files_are_shared_out_as_a_stage_needs_and_the_session_is_left_as_it_was(spark: Any, tmp_path: Path) -> None:
    spark.range(4000).repartition(40).write.parquet(str(tmp_path / "many"))

    def tasks() -> int:
        return int(spark.read.parquet(str(tmp_path / "many")).rdd.getNumPartitions())

    def settings() -> list[str | None]:
        return [spark.conf.get(f"spark.sql.files.{name}", None) for name in ("maxPartitionBytes", "minPartitionNum")]

    usual, before = tasks(), settings()
    with short_tasks(spark):
        assert tasks() > 2 * usual
    with narrow_reads(spark):
        assert tasks() < usual
    with pytest.raises(KeyError), short_tasks(spark):
        raise KeyError
    assert (tasks(), settings()) == (usual, before)


# ---- what is done again


def test_a_second_run_does_nothing(spark: Any, survey: Path, result: Path) -> None:
    before = tree(result)
    assert run(spark, settings_of(survey, result)) == NOTHING
    assert set(tree(result)) == set(before)
    after = tree(result)
    assert {name: after[name] for name in before if name != ".nalspark.lock"} == {
        name: before[name] for name in before if name != ".nalspark.lock"
    }


def test_how_the_work_is_cut_up_is_no_reason_to_do_it_again(spark: Any, survey: Path, result: Path) -> None:
    assert run(spark, settings_of(survey, result, "pipeline.partitions=5", "pipeline.parts_per_wave=1")) == NOTHING


def test_a_changed_threshold_redoes_its_stage_and_those_after_it(spark: Any, survey: Path, result: Path) -> None:
    spectra = {table: part_records(result, table) for table in ("spectra", "targets", "matches")}
    before = published(result)["absorbers"]
    done = run(spark, settings_of(survey, result, "search.min_significance=9"))
    assert done == NOTHING | {"search": 5, "infer": 5, "measure": 5, "publish": 1}
    assert {table: part_records(result, table) for table in spectra} == spectra
    after = published(result)["absorbers"]
    assert len(after) < len(before) and (after["significance"] >= 9).all()
    done = run(spark, settings_of(survey, result, "search.min_significance=9", "measure.min_snr_primary=8"))
    assert done == NOTHING | {"measure": 5, "publish": 1}
    weaker = published(result)["absorbers"]
    assert len(weaker) == len(after), "a flag takes no row away"
    is_weak = (weaker["snr_2796"] < 8) | (weaker["snr_2803"] < settings_of(survey, result).measure.min_snr_secondary)
    assert ((weaker["flags"] & int(AbsorberFlag.WEAK)) > 0).tolist() == is_weak.tolist() and 0 < is_weak.sum() < len(weaker)


def test_new_changed_and_removed_files_redo_their_part_only(spark: Any, survey: Path, finished: Path, tmp_path: Path) -> None:
    """Ten files come in a part of their own, one of them changes and an eleventh repeats another, then they go."""
    new = add_part(tmp_path / "more", 1009, 10, seed=8)
    both = [str(survey / "parts"), str(tmp_path / "more" / "parts")]
    out = Path(shutil.copytree(finished, tmp_path / "result"))
    records = {table: part_records(out, table) for table in ("spectra", "searched", "candidates", "measured")}

    assert run(spark, settings_of(survey, out, spectra=both)) == {
        "ingest": 1, "crossmatch": 1, "search": 1, "infer": 1, "measure": 1, "publish": 1,
    }  # fmt: skip
    for table, old in records.items():
        now = part_records(out, table)
        assert set(now) - set(old) == {"plate01009"}
        assert {part: now[part] for part in old} == old, table
    run(spark, settings_of(survey, tmp_path / "fresh", spectra=both))
    assert_same_catalogue(out, tmp_path / "fresh")

    shutil.copy(new / "spec-1009-52000-0005.fits", new / "spec-1009-52000-0900.fits")
    added = {table: part_records(out, table) for table in records}
    with fits.open(new / "spec-1009-52000-0000.fits", mode="update") as hdus:
        hdus[1].data["flux"] *= 2
    done = run(spark, settings_of(survey, out, spectra=both), *CATALOGUE[:-1])
    assert done == {"ingest": 1, "crossmatch": 1, "search": 1, "infer": 1, "measure": 1}
    for table, old in added.items():
        changed = [part for part, record in part_records(out, table).items() if record != old[part]]
        assert changed == ["plate01009"], table
    assert {part: record.rejected for part, record in part_records(out, "targets").items() if record.rejected} == {"plate01009": 1}

    done = run(spark, settings_of(survey, out), allow_removals=True)
    assert [done[stage] for stage in ("ingest", "search", "infer", "measure")] == [0] * 4
    assert {table: part_records(out, table) for table in records} == records
    assert_same_catalogue(out, finished)
    assert not list(out.glob("tables/*/*/in_part=plate01009"))


def test_a_spectrum_that_comes_twice_has_its_parts_matched_again_and_no_others(spark: Any, survey: Path, tmp_path: Path) -> None:
    """The copy of one of plate 1002, of which another one has a copy of one of 1003; the same of 1004 and 1005.

    Whether a copy is kept depends on the paths: those in folders `a-` come before the survey's, those in `z-` after them.
    """
    stages, names = ("ingest", "crossmatch"), ("targets", "matches")

    def copy(folder: str, source: str, name: str) -> str:
        place = survey.parent / folder
        place.mkdir(exist_ok=True)
        shutil.copy(survey / "parts" / source[5:9] / source, place / name)
        return str(place)

    def found(out: Path) -> tuple[Any, ...]:
        manifest = read_manifest(out / "manifest.json")
        keys = [{part: (record.key, record.rows, record.rejected) for part, record in manifest.parts(name).items()} for name in names]
        tables = [Store(out).read(spark, manifest, table).collect() for table in (TARGETS, MATCHES)]
        return keys, [sorted(rows, key=str) for rows in tables], manifest.catalogues

    spectra = [
        str(survey / "parts"),
        copy("a-old", "spec-1003-52000-0017.fits", "spec-1002-52000-0777.fits"),
        copy("z-old", "spec-1005-52000-0033.fits", "spec-1004-52000-0778.fits"),
    ]
    run(spark, settings_of(survey, tmp_path / "out", spectra=spectra), *stages)
    before = found(tmp_path / "out")
    more = [
        *spectra,
        copy("a-new", "spec-1002-52000-0011.fits", "spec-1009-52000-0003.fits"),
        copy("z-new", "spec-1004-52000-0027.fits", "spec-1008-52000-0004.fits"),
    ]
    assert run(spark, settings_of(survey, tmp_path / "out", spectra=more), *stages) == {"ingest": 2, "crossmatch": 6}
    run(spark, settings_of(survey, tmp_path / "fresh", spectra=more), *stages)
    after = found(tmp_path / "out")
    assert after == found(tmp_path / "fresh")
    rejected = {part for part, (_, _, rejected) in after[0][0].items() if rejected}
    assert rejected == {"plate01002", "plate01003"} | {"plate01004", "plate01008"}
    # They are gone again: the others are as they were.
    assert run(spark, settings_of(survey, tmp_path / "out", spectra=spectra), *stages) == {"ingest": 0, "crossmatch": 4}
    assert found(tmp_path / "out") == before


def test_everything_can_be_made_anew_in_one_partition(spark: Any, survey: Path, finished: Path, result: Path) -> None:
    one = settings_of(survey, result, "pipeline.partitions=1")
    assert run(spark, one, force=True) == {stage: 1 if stage == "publish" else 5 for stage in CATALOGUE}
    assert_same_catalogue(result, finished)
    assert run(spark, settings_of(survey, result)) == NOTHING


def test_a_part_that_is_gone_is_gone_also_when_stages_run_one_by_one(spark: Any, survey: Path, result: Path) -> None:
    fewer = settings_of(survey, result, spectra=[str(survey / "parts" / plate) for plate in ("1001", "1002", "1003", "1004")])
    assert run(spark, fewer, "ingest") == {"ingest": 0}
    assert sorted(part_records(result, "spectra")) == ["plate01001", "plate01002", "plate01003", "plate01004"]
    for stage in CATALOGUE[1:-1]:
        assert run(spark, fewer, stage) == {stage: 0}
    assert "plate01005" not in part_records(result, "measured")


def test_a_new_absorber_catalogue_changes_labels_but_no_spectrum_is_worked_on_again(spark: Any, survey: Path, result: Path) -> None:
    assert published(result)["sightlines"]["label"].isna().all()
    truth = pd.read_parquet(survey / "truth.parquet").rename(columns={"ew_primary": "ew_2796", "ew_secondary": "ew_2803"})
    columns = ["plate", "mjd", "fiber", "ra", "dec", "z_abs", "ew_2796", "ew_2803"]
    table = AstropyTable.from_pandas(truth[columns])
    table["ew_2796_err"] = table["ew_2803_err"] = 0.01
    table.write(result.parent / "known.fits")
    everywhere = "crossmatch.footprint={'known.fits' = 'everywhere'}"
    done = run(spark, settings_of(survey, result, everywhere, absorbers=[str(result.parent / "known.fits")]))
    assert done == NOTHING | {"crossmatch": 5, "publish": 1}
    sightlines = published(result)["sightlines"].set_index("spectrum_id")
    known = sightlines.index.isin(truth["spectrum_id"])
    assert 5 < known.sum() < len(known)
    assert (sightlines["label"][known] == 1).all()
    # Nearer than all the absorbers that it lists, the catalogue says nothing of a quasar.
    assert (sightlines["label"][~known].isna() == (sightlines["z_qso"][~known] < truth["z_abs"].min())).all()
    assert sightlines["matches"].notna().tolist() == known.tolist()
    first = sightlines[known].iloc[0]
    expected = sorted(truth["z_abs"][truth["spectrum_id"] == first.name])
    (match,) = json.loads(first["matches"])
    assert match["catalogue"] == "known.fits" and match["match"] == "id" and sorted(match["z_abs"]) == expected
    compared = compare(published(result)["absorbers"], pd.read_parquet(result / "sightlines.parquet"), truth)
    new = sightlines["label"].reindex(compared.spurious["spectrum_id"]).notna().sum()  # of spectra that the catalogue covers
    outcome = len(compared.in_common), len(compared.missed), new
    report = (result / "report.html").read_text()
    links = [rf'<a href="gallery.html#show={kind}\+0">{n}</a>' for kind, n in zip(("recovered", "missed", "new"), outcome, strict=True)]
    assert outcome[0] > 5 and all(re.search(link, report) for link in links)
    assert (result / "gallery.html").read_text().count('"known.fits"') == 1


def test_errors_of_redshifts_are_published_and_no_spectrum_is_worked_on_again(
    spark: Any, survey: Path, result: Path, tmp_path: Path
) -> None:
    """Of a catalogue that comes to state them, for some of its quasars; the same in any partitions."""
    before = published(result)
    assert before["absorbers"][["z_qso_err", "velocity_err_kms"]].isna().all(axis=None)  # the pipeline's are of other redshifts
    quasars = AstropyTable.read(survey / "quasars.fits")
    names = [f"{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}" for row in quasars]
    stated = pd.Series(np.linspace(1e-4, 3e-3, len(names)), names)
    stated.iloc[::4], stated.iloc[1::8] = -1.0, np.nan
    quasars["Z_ERR"] = stated.to_numpy()
    quasars.write(tmp_path / "quasars.fits")
    given: dict[str, Any] = {"quasars": [str(tmp_path / "quasars.fits")]}
    assert run(spark, settings_of(survey, result, **given)) == NOTHING | {"crossmatch": 5, "publish": 1}
    tables = published(result)
    for name in ("sightlines", "absorbers"):
        rows = tables[name]
        expected = stated.where(stated > 0).reindex(rows["spectrum_id"])
        np.testing.assert_array_equal(rows["z_qso_err"], expected)
        assert 0 < expected.isna().sum() < len(rows)
    absorbers = tables["absorbers"]
    errors = velocity_error(*(absorbers[name].to_numpy() for name in ("z_abs", "z_abs_err", "z_qso", "z_qso_err")))
    np.testing.assert_array_equal(absorbers["velocity_err_kms"], errors)
    same = [name for name in absorbers if name not in ("z_qso_err", "velocity_err_kms")]
    pd.testing.assert_frame_equal(absorbers[same], before["absorbers"][same], check_exact=True)
    for partitions in (1, 7):
        out = Path(shutil.copytree(result, tmp_path / str(partitions)))
        cut = settings_of(survey, out, f"pipeline.partitions={partitions}", "pipeline.parts_per_wave=2", **given)
        run(spark, cut, "crossmatch", "publish", force=True)
        assert_same_catalogue(out, result)


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(spark: Any, survey: Path, result: Path, tmp_path: Path) -> None:
    before = tree(result)
    plan = run(spark, settings_of(survey, result, "search.min_significance=9"), dry_run=True)
    assert plan == NOTHING | dict.fromkeys(AFTER_SEARCH, 5) | {"publish": 1}
    assert run(spark, settings_of(survey, result), dry_run=True) == NOTHING
    assert run(spark, settings_of(survey, result), dry_run=True, force=True) == dict.fromkeys(CATALOGUE, 5) | {"publish": 1}
    assert tree(result) == before
    plan = run(spark, settings_of(survey, tmp_path / "new"), dry_run=True)
    assert plan == dict.fromkeys(CATALOGUE, 5) | {"publish": 1}
    assert not (tmp_path / "new").exists()


def test_one_part_alone_can_be_worked_on(spark: Any, survey: Path, result: Path) -> None:
    settings = settings_of(survey, result, "search.min_significance=9")
    before = part_records(result, "candidates")
    assert run(spark, settings, "search", parts=["plate01003"]) == {"search": 1}
    after = part_records(result, "candidates")
    assert [part for part in before if after[part] != before[part]] == ["plate01003"]
    with pytest.raises(NalsparkError, match=r"no part 'plate0103'.*Did you mean 'plate01003'\?"):
        run(spark, settings, "search", parts=["plate0103"])


# ---- crashes and leftovers


def absorber_ids(result: Path) -> list[str]:
    return sorted(pd.read_parquet(result / "absorbers.parquet")["absorber_id"])


def test_a_crash_costs_one_wave(spark: Any, survey: Path, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(survey, result, "search.min_significance=9", "pipeline.parts_per_wave=1")
    before, search, calls = part_records(result, "candidates"), absorption.search, []

    def fail_in_the_third_wave(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return search(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(absorption, "search", fail_in_the_third_wave)
        with pytest.raises(RuntimeError, match="power cut"):
            run(spark, settings, "search")
    halfway = part_records(result, "candidates")
    finished_waves = [part for part in before if halfway[part] != before[part]]
    assert finished_waves == ["plate01001", "plate01002"]
    times = {part: tree(result / halfway[part].path) for part in finished_waves if halfway[part].path}
    assert run(spark, settings, *AFTER_SEARCH) == {"search": 3, "infer": 5, "measure": 5}
    assert {part: tree(result / halfway[part].path) for part in times} == times
    assert run(spark, settings, *AFTER_SEARCH) == dict.fromkeys(AFTER_SEARCH, 0)
    interrupted = part_records(result, "candidates")
    assert run(spark, settings_of(survey, result, "search.min_significance=9"), "search", force=True) == {"search": 5}
    assert keys_and_rows(part_records(result, "candidates")) == keys_and_rows(interrupted)


def test_a_publication_cut_short_is_not_taken_for_a_result(spark: Any, survey: Path, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is replaced before all are made; afterwards even a run with the old settings publishes again."""
    old, new = settings_of(survey, result), settings_of(survey, result, "search.min_significance=9")
    before = absorber_ids(result)

    def power_cut(*_: Any, **__: Any) -> int:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "write_fits", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(spark, new)
    assert absorber_ids(result) == before
    assert run(spark, old)["publish"] == 1
    assert absorber_ids(result) == before


def test_a_catalogue_that_would_not_add_up_is_not_published(spark: Any, survey: Path, result: Path) -> None:
    before = absorber_ids(result)
    store = Store(result)
    manifest = store.manifest()
    del manifest.tables["searched"][next(iter(manifest.tables["searched"]))]
    store.commit(manifest)
    with pytest.raises(StoreError, match="do not add up to the .* rows read: a stage was left out"):
        run(spark, settings_of(survey, result), "publish", force=True)
    manifest.tables["candidates"] = dict(list(manifest.tables["candidates"].items())[:1])
    store.commit(manifest)
    with pytest.raises(StoreError, match="has no spectrum or no candidate in the tables any more: a stage was left out"):
        run(spark, settings_of(survey, result, "publish.gallery=60"), "publish", force=True)
    assert absorber_ids(result) == before


def test_a_report_shows_the_strongest_and_the_most_doubtful(spark: Any, survey: Path, result: Path) -> None:
    assert run(spark, settings_of(survey, result, "publish.gallery=2"), "publish")["publish"] == 1
    report = (result / "report.html").read_text()
    assert (result / "gallery.html").exists() and '<a href="gallery.html">All systems</a>' in report
    assert report.count('<div class="card">') == 4
    assert '<section id="strongest">' in report and '<section id="doubtful">' in report


def test_a_catalogue_of_very_many_systems_has_no_gallery(spark: Any, survey: Path, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MOST_SYSTEMS", len(published(result)["absorbers"]) - 1)
    run(spark, settings_of(survey, result), "publish", force=True)
    assert not (result / "gallery.html").exists() and "gallery.html" not in read_manifest(result / "manifest.json").published
    assert "gallery.html" not in (result / "report.html").read_text()


def test_no_stage_builds_on_parts_that_are_out_of_date(spark: Any, survey: Path, result: Path) -> None:
    changed = settings_of(survey, result, "search.min_significance=9")
    with pytest.raises(
        NalsparkError, match=r"'measure' reads table 'candidates', of which 5 part\(s\) are out of date. Run stage 'search' first"
    ):
        run(spark, changed, "measure")
    assert run(spark, changed, *AFTER_SEARCH)["measure"] == 5
    more = settings_of(survey, result, absorbers=(str(survey / "nowhere.fits"),))
    with pytest.raises(NalsparkError, match="does not exist"):
        run(spark, more, "search")


def test_a_forced_run_that_crashes_leaves_the_old_result_whole(
    spark: Any, survey: Path, result: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, search = settings_of(survey, result), absorption.search

    def fail_on_the_executors(*arguments: Any) -> Any:
        return search(*arguments).withColumn("z_search", F.raise_error(F.lit("power cut")).cast("double"))

    with monkeypatch.context() as patched:
        patched.setattr(absorption, "search", fail_on_the_executors)
        with pytest.raises(Exception, match="power cut"):
            run(spark, settings, "search", force=True)
    assert run(spark, settings) == NOTHING
    run(spark, settings, "publish", force=True)
    assert_same_catalogue(result, finished)


def test_files_that_somebody_removed_are_missed_by_name_and_force_makes_the_named_stages_anew(
    spark: Any, survey: Path, result: Path, finished: Path
) -> None:
    settings = settings_of(survey, result)
    shutil.rmtree(result / part_records(result, "candidates")["plate01002"].path)
    with pytest.raises(StoreError, match=r"in_part=plate01002 is not there, but the manifest names it.*--force"):
        run(spark, settings, "measure", force=True)
    assert run(spark, settings, *AFTER_SEARCH, force=True) == dict.fromkeys(AFTER_SEARCH, 5)
    for table in ("candidates", "scores", "measured"):
        assert keys_and_rows(part_records(result, table)) == keys_and_rows(part_records(finished, table))
    assert run(spark, settings) == NOTHING


def test_what_an_interrupted_run_left_behind_goes_and_published_files_that_were_deleted_come_back(
    spark: Any, survey: Path, result: Path, finished: Path
) -> None:
    for table in ("spectra", "candidates"):
        leftover = result / "tables" / table / "0123456789abcdef"
        (leftover / "in_part=plate01001").mkdir(parents=True)
        (leftover / "in_part=plate01001" / "part-0.zstd.parquet").write_bytes(b"PAR1 half of a fi")
        (leftover / "_temporary" / "0").mkdir(parents=True)
    (result / ".absorbers.parquet.new").mkdir()
    assert run(spark, settings_of(survey, result)) == NOTHING
    (result / "absorbers.fits").unlink()
    assert run(spark, settings_of(survey, result)) == NOTHING | {"publish": 1}
    assert_same_catalogue(result, finished)
    assert not list(result.glob("tables/*/0123456789abcdef"))
    assert not (result / ".absorbers.parquet.new").exists()


# ---- refusals


def _hold(root: str, held: Any, enough: Any) -> None:
    with Store(root).lock():
        held.set()
        enough.wait(60)


def test_a_second_run_at_the_same_time_is_refused_and_told_by_whom(spark: Any, survey: Path, result: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, enough = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(str(result), held, enough))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(StoreError, match=rf"in use by process {other.pid} on {os.uname().nodename}"):
            run(spark, settings_of(survey, result))
    finally:
        enough.set()
        other.join(60)
    assert run(spark, settings_of(survey, result), "search") == {"search": 0}


def test_a_folder_with_something_else_in_it_is_refused(spark: Any, survey: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(StoreError, match="is not empty and holds no nalspark result"):
        run(spark, settings_of(survey, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "tables": {}}', '{"format": 1, "tables": {}, "x": 1}'])
def test_a_damaged_manifest_is_refused(spark: Any, survey: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="manifest.*Use another output directory"):
        run(spark, settings_of(survey, tmp_path))
    assert (tmp_path / "manifest.json").read_text() == content


def test_an_unknown_stage_is_refused_with_a_suggestion(spark: Any, survey: Path, tmp_path: Path) -> None:
    with pytest.raises(NalsparkError, match=r"no stage 'serch'.*Did you mean 'search'\?"):
        run(spark, settings_of(survey, tmp_path / "out"), "serch")


@pytest.mark.parametrize(
    "stage, first",
    [
        ("crossmatch", "Run stage 'ingest' first"),
        ("search", "Run stages 'ingest', 'crossmatch' first"),
        ("publish", "Run stages 'ingest', 'crossmatch', 'search', 'infer', 'measure' first"),
    ],
)
def test_a_stage_before_its_input_exists_says_what_to_run_first(spark: Any, survey: Path, tmp_path: Path, stage: str, first: str) -> None:
    with pytest.raises(NalsparkError, match=rf"'{stage}' reads table '\w+', which is not there yet. {first}"):
        run(spark, settings_of(survey, tmp_path / "out"), stage)


# ---- unusual surveys


def test_a_survey_without_a_single_usable_spectrum_gives_an_empty_catalogue(spark: Any, tmp_path: Path) -> None:
    folder = tmp_path / "survey" / "parts"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"spec-1001-52000-{number:04d}.fits").write_text("no spectrum\n" * 300)
    run(spark, settings_of(tmp_path / "survey", tmp_path / "out", quasars=[]))
    tables = published(tmp_path / "out")
    assert (len(tables["absorbers"]), len(tables["sightlines"]), len(tables["rejections"])) == (0, 0, 3)
    assert run(spark, settings_of(tmp_path / "survey", tmp_path / "out", quasars=[])) == NOTHING


def test_a_result_may_lie_in_a_folder_of_any_name(spark: Any, survey: Path, tmp_path: Path) -> None:
    name = "any name été [1] {a,b} 50% what? a*b back\\slash x=1 #"
    assert all(run(spark, settings_of(survey, tmp_path / name, spectra=[str(survey / "parts" / "1005")])).values())
    assert len(published(tmp_path / name)["sightlines"]) == 8
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_settings_of_the_last_run_are_recorded(survey: Path, finished: Path) -> None:
    recorded = read_manifest(finished / "manifest.json").settings
    assert Settings.model_validate(recorded) == settings_of(survey, finished, "pipeline.partitions=3")

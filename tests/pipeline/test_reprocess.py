"""What changed is said and only that is done; earlier catalogues are kept and compared; what is written while files and disks fail."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F
from runs import add_part, make_survey, published, run, settings_of

from nalspark.cli import main
from nalspark.errors import NalsparkError, StoreError
from nalspark.judging.diff import compare_catalogues, open_side
from nalspark.pipeline import absorbers
from nalspark.pipeline.catalogue import CATALOGUE, pipeline
from nalspark.pipeline.status import status
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import Measure
from nalspark.surveys import stages as surveys
from nalspark.tables.manifest import read_manifest
from nalspark.tables.store import Store
from nalspark.tables.versions import versions

pytestmark = pytest.mark.spark

NOTHING = dict.fromkeys(CATALOGUE, 0)


def reprocess(spark: Any, survey: Path, *overrides: str, **how: Any) -> tuple[str, dict[str, int]]:
    """What was said, and stage → parts made anew."""
    said = io.StringIO()
    engine = pipeline(spark, settings_of(survey, survey / "out", *overrides), Progress(said))
    done = {summary.stage: summary.parts_done for summary in engine.run(explain=True, **how)}
    return said.getvalue(), done


@contextmanager
def lists_written() -> Iterator[list[set[str]]]:
    """The parts of every list of files that is written."""
    lists, write_rows = list[set[str]](), Store.write_rows

    def seen(store: Store, frame: Any, *more: Any) -> Any:
        lists.append({row["part"] for row in frame.select("part").distinct().collect()})
        return write_rows(store, frame, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, "write_rows", seen)
        yield lists


@pytest.fixture(scope="module")
def begun(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A survey after its first run and another with nothing new."""
    survey = make_survey(tmp_path_factory.mktemp("reprocess") / "survey", n=16)
    with lists_written() as lists:
        return {"survey": survey, "first": reprocess(spark, survey), "again": reprocess(spark, survey), "lists": lists}


@pytest.fixture(scope="module")
def grown(spark: Any, begun: dict[str, Any]) -> dict[str, Any]:
    """Then with one file gone, one changed and six new ones."""
    survey: Path = begun["survey"]
    (survey / "parts" / "1002" / "spec-1002-52000-0014.fits").unlink()
    changed = survey / "parts" / "1002" / "spec-1002-52000-0015.fits"
    changed.write_bytes(changed.read_bytes() + bytes(2880))
    quasars = (survey / "quasars.fits").read_bytes()
    add_part(survey, 1003, n=6, seed=4)
    (survey / "quasars.fits").write_bytes(quasars)
    with lists_written() as lists:
        return {**begun, "plan": reprocess(spark, survey, dry_run=True), "files": reprocess(spark, survey), "later_lists": lists}


@pytest.fixture(scope="module")
def told(spark: Any, grown: dict[str, Any]) -> dict[str, Any]:
    """Then with another setting."""
    return {**grown, "strict": reprocess(spark, grown["survey"], "infer.min_score=0.999", "pipeline.versions_kept=2")}


def test_a_first_run_and_one_with_nothing_new_say_so(begun: dict[str, Any]) -> None:
    said, done = begun["first"]
    assert said.startswith("first run in ") and "ingest      2 of 2 parts to do" in said
    assert done["ingest"] == 2
    said, done = begun["again"]
    assert said.startswith("files       0 new, 0 changed, 0 removed, 17 as they were\n            no setting, model or catalogue changed\n")
    assert done == NOTHING


def test_new_changed_and_removed_files_are_counted_and_only_their_parts_are_done(grown: dict[str, Any]) -> None:
    for step in ("plan", "files"):
        said, done = grown[step]
        assert said.startswith("files       6 new, 1 changed, 1 removed, 15 as they were\n")
        assert "ingest      2 of 3 parts to do" in said
        assert done == dict.fromkeys(CATALOGUE, 2) | {"publish": 1}, "what a dry run foresees is what a run does"


def test_the_list_of_files_is_written_where_something_is_new(grown: dict[str, Any]) -> None:
    assert grown["lists"] == [{"plate01001", "plate01002"}], "nothing by the run with nothing new"
    assert grown["later_lists"] == [{"plate01002", "plate01003"}]


def test_a_changed_setting_is_named_with_both_values(told: dict[str, Any]) -> None:
    said, done = told["strict"]
    assert "changed     infer.min_score: 0.6 -> 0.999\n" in said
    assert done == NOTHING | {"measure": 3, "publish": 1}


def test_the_last_versions_are_kept_whole(told: dict[str, Any]) -> None:
    out = told["survey"] / "out"
    kept = versions(Store(out))
    assert list(kept) == [2, 3] and read_manifest(out / "manifest.json").publication == 3
    assert published(kept[3])["absorbers"].equals(published(out)["absorbers"])
    assert len(published(kept[2])["absorbers"]) > len(published(kept[3])["absorbers"])


def test_every_absorber_that_differs_is_listed_with_its_reason(spark: Any, told: dict[str, Any]) -> None:
    kept = versions(Store(told["survey"] / "out"))
    comparison = compare_catalogues(spark, open_side(kept[2]), open_side(told["survey"] / "out"))
    rows = [row.asDict() for row in comparison.changes.collect()]
    before, after = (set(published(folder)["absorbers"]["absorber_id"]) for folder in (kept[2], kept[3]))
    assert {row["absorber_id_before"] for row in rows} == before - after and after < before
    assert {(row["change"], row["reason"], row["absorber_id_after"]) for row in rows} == {("lost", "low_score", None)}
    assert all(0.6 <= row["score_before"] < 0.999 for row in rows)
    assert comparison.causes == ["infer.min_score: 0.6 -> 0.999"]
    assert f"{len(rows)} its score is too low now; for one " in comparison.text()
    back = compare_catalogues(spark, open_side(told["survey"] / "out"), open_side(kept[2]))
    assert {(row["change"], row["reason"]) for row in back.changes.collect()} == {("gained", "low_score")}


def test_the_run_summary_and_the_versions_are_told_without_spark(told: dict[str, Any], no_spark: None, capsys: Any) -> None:
    out = told["survey"] / "out"
    assert main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "nobody writes here now" in said and "published    version 3, " in said and "kept         version 2, " in said
    ingest = next(line.split() for line in said.splitlines() if line.startswith("ingest"))
    assert ingest[2:5] == ["2", "of", "3"] and ingest[5:8] == ["13", "13", "0"]  # 7 files are left of the second part, 6 are new
    with Store(out).lock():
        assert any(line.startswith("in use by process ") for line in status(str(out)))
    assert main(["status", str(out.parent)]) == 2 and "is no result of nalspark" in capsys.readouterr().err


def test_a_comparison_needs_two_whole_catalogues(told: dict[str, Any], tmp_path: Path, no_spark: None, capsys: Any) -> None:
    assert main(["diff", str(tmp_path)]) == 2 and "is no result of nalspark" in capsys.readouterr().err
    shutil.copytree(told["survey"] / "out", tmp_path / "out", ignore=shutil.ignore_patterns("versions", "tables"))
    assert main(["diff", str(tmp_path / "out")]) == 2 and "keeps only 0 version(s) of its catalogue" in capsys.readouterr().err
    assert main(["diff", str(told["survey"] / "out"), str(tmp_path)]) == 2 and "is no result of nalspark" in capsys.readouterr().err


# ---- what fails


def test_a_file_that_vanishes_while_it_is_read_is_read_when_it_is_back(
    spark: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey, out = told["survey"], tmp_path / "out"
    settings = settings_of(survey, out, spectra=[str(survey / "parts" / "1001")])
    victim, ingest = survey / "parts" / "1001" / "spec-1001-52000-0003.fits", surveys.ingest

    def vanish(files: Any) -> Any:
        victim.rename(tmp_path / "away")
        return ingest(files)

    with monkeypatch.context() as patched:
        patched.setattr(surveys, "ingest", vanish)
        assert run(spark, settings, "ingest") == {"ingest": 1}
    assert read_manifest(out / "manifest.json").rows("spectra") == (7, 2)
    assert run(spark, settings, "ingest") == {"ingest": 1}, "the key is that of the listing: without the file it is another"
    shutil.copy(tmp_path / "away", victim)  # with a new time
    assert run(spark, settings, "ingest") == {"ingest": 1}
    assert read_manifest(out / "manifest.json").rows("spectra") == (8, 1)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    spark: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the listing another spectrum's bytes take its place: they are what is read, and the next run sees the new time."""
    survey, out = told["survey"], tmp_path / "out"
    folder = tmp_path / "spectra"
    shutil.copytree(survey / "parts" / "1001", folder)
    settings = settings_of(survey, out, spectra=[str(folder)])
    victim, other, ingest = folder / "spec-1001-52000-0003.fits", folder / "spec-1001-52000-0004.fits", surveys.ingest

    def change(files: Any) -> Any:
        shutil.copy(other, victim)
        return ingest(files)

    def fibers() -> list[int]:
        rows = Store(out).read(spark, read_manifest(out / "manifest.json"), surveys.SPECTRA_READ).where("reason is null")
        return sorted(row["fiber"] for row in rows.where(F.col("path").endswith("0003.fits")).select("fiber").collect())

    original = victim.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(surveys, "ingest", change)
        assert run(spark, settings, "ingest") == {"ingest": 1}
    assert fibers() == [5], "what was there when it was read"
    assert run(spark, settings, "ingest") == {"ingest": 1}, "its time is not the listed one"
    assert run(spark, settings, "ingest") == {"ingest": 0}
    victim.write_bytes(original)
    assert run(spark, settings, "ingest") == {"ingest": 1} and fibers() == [4]


def test_what_the_manifest_names_is_kept_where_all_files_are_replaced_and_the_run_dies(
    spark: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey, out = told["survey"], tmp_path / "out"
    old, new = (settings_of(survey, out, spectra=[str(survey / "parts" / plate)]) for plate in ("1001", "1002"))
    assert run(spark, old, "ingest") == {"ingest": 1}

    def die(_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(surveys, "ingest", die)
        run(spark, new, "ingest", parts=["plate01002"])
    assert run(spark, old, "ingest") == {"ingest": 0}
    assert run(spark, new, "ingest", allow_removals=True) == {"ingest": 1}


@contextmanager
def away(*files: Path) -> Iterator[None]:
    """Some files are not there for a while."""
    hidden = [file.rename(file.with_name(f".{file.name}.away")) for file in files]
    try:
        yield
    finally:
        for file, place in zip(files, hidden, strict=True):
            place.rename(file)


def test_half_of_a_survey_is_not_taken_for_gone_unless_somebody_says_so(spark: Any, told: dict[str, Any], tmp_path: Path) -> None:
    """A dry run tells what the run would do, and that it is refused; with the word of the user, what is foreseen is done."""
    survey, out = told["survey"], shutil.copytree(told["survey"] / "out", tmp_path / "out")
    settings = settings_of(survey, out, "infer.min_score=0.999")
    files = sorted((survey / "parts" / "1001").glob("spec*")) + sorted((survey / "parts" / "1002").glob("spec*"))[:2]
    before = read_manifest(out / "manifest.json")
    wanted = dict.fromkeys(CATALOGUE, 1) | {"publish": 1}
    with away(*files):
        said = io.StringIO()
        with pytest.raises(
            NalsparkError, match=r"of the 22 spectrum files of the last run are gone, more than pipeline.removals_share = 0.2"
        ):
            pipeline(spark, settings, Progress(said)).run(dry_run=True, explain=True)
        assert said.getvalue().splitlines()[0] == f"files       0 new, 0 changed, {len(files)} removed, {22 - len(files)} as they were"
        assert "ingest      1 of 2 parts to do, 1 part to remove\n" in said.getvalue()
        assert said.getvalue().endswith("publish     1 of 1 parts to do\n")
        with pytest.raises(NalsparkError, match="give --allow-removals"):
            run(spark, settings)
        assert read_manifest(out / "manifest.json") == before
        assert run(spark, settings, dry_run=True, allow_removals=True) == wanted
        assert read_manifest(out / "manifest.json") == before
        assert run(spark, settings, allow_removals=True) == wanted
    assert run(spark, settings, dry_run=True) == dict.fromkeys(CATALOGUE, 2) | {"publish": 1}, "they are back: nothing is gone"


def test_a_folder_that_is_empty_of_a_sudden_does_not_empty_the_catalogue(spark: Any, told: dict[str, Any], tmp_path: Path) -> None:
    survey, out = told["survey"], shutil.copytree(told["survey"] / "out", tmp_path / "out")
    folders = tuple(sorted(str(folder) for folder in (survey / "parts").iterdir() if folder.is_dir()))
    settings = settings_of(survey, out, "infer.min_score=0.999").model_copy(update={"spectra": folders})
    run(spark, settings)
    before = read_manifest(out / "manifest.json").tables
    last, away = Path(folders[-1]), tmp_path / "unmounted"
    last.rename(away)
    last.mkdir()
    try:
        with pytest.raises(NalsparkError, match=f"'{last}' held spectra at the last run and holds none now: is it mounted"):
            run(spark, settings)
        assert read_manifest(out / "manifest.json").tables == before
        assert run(spark, settings, allow_removals=True)["publish"] == 1
    finally:
        last.rmdir()
        away.rename(last)


def test_a_crash_before_a_setting_was_used_leaves_the_old_one_in_the_manifest(
    spark: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(*_: Any) -> Any:
        raise RuntimeError("power cut")

    out = shutil.copytree(told["survey"] / "out", tmp_path / "out")
    settings = settings_of(told["survey"], out, "measure.min_snr_primary=9", "preprocess.min_snr=0.6")
    monkeypatch.setattr(absorbers.Infer, "compute", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        run(spark, settings)
    recorded = read_manifest(out / "manifest.json").settings
    assert (recorded["preprocess"]["min_snr"], recorded["measure"]["min_snr_primary"]) == (0.6, Measure().min_snr_primary)


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("UnsatisfiedLinkError: no snappyjava in java.library.path: /lib")],
    ids=["of tables", "of Java's temporary files"],
)
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    fault: Exception, spark: Any, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = told["survey"] / "out"
    before, write = (out / "manifest.json").read_bytes(), Store.write

    def full(store: Store, *arguments: Any) -> Any:
        write(store, *arguments)
        raise fault

    settings = settings_of(told["survey"], out, "infer.min_score=0.999", "search.min_significance=9")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", full)
        with pytest.raises(StoreError, match=r"There is no room left on the disk of .*make room and run again"):
            run(spark, settings)
    assert (out / "manifest.json").read_bytes() == before
    assert len(list(out.glob("tables/candidates/*/in_part=*"))) == 3, "what was half written is gone"


def test_a_python_worker_that_is_killed_is_a_sentence(spark: Any) -> None:
    def die(batches: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        yield from batches

    with pytest.raises(NalsparkError, match=r"A Python worker was killed.*run again; it goes on from there"), running_session():
        spark.range(1).mapInArrow(die, "id long").collect()


def test_the_log_has_an_event_a_line(spark: Any, told: dict[str, Any]) -> None:
    log = io.StringIO()
    settings = settings_of(told["survey"], told["survey"] / "out", "infer.min_score=0.999", "pipeline.parts_per_wave=2")
    pipeline(spark, settings, Progress(None, log)).run(["measure"], force=True)
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["stage_started", *["parts_done", "message"] * 2, "message", "stage_done"]
    assert events[1]["parts"] == 2 and events[1]["of"] == 3
    done = events[-1]
    assert (
        done["stage"] == "measure" and done["parts_done"] == 3 and done["spectra"] == 22 and done["bytes"] > 1000 < done["rows_in"] * 1000
    )

"""A stage of a few lines runs on the engine beside the others; what meets a fault of ours is tried again; inputs are opened once."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from runs import QUICK, make_survey, published, tree

from nalspark.absorption.stages import measured_table
from nalspark.cli import main
from nalspark.pipeline import inputs
from nalspark.pipeline.catalogue import CATALOGUE, stages_of
from nalspark.pipeline.engine import Engine
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress
from nalspark.settings import load
from nalspark.surveys import catalogs
from nalspark.surveys import stages as surveys
from nalspark.tables.manifest import read_manifest
from nalspark.tables.store import Store
from nalspark.tables.table import Column, Table

pytestmark = pytest.mark.spark

#: The file that the reader trips over.
VICTIM = "spec-1002-52000-0005.fits"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of four spectra, and a file that is none."""
    survey = make_survey(tmp_path_factory.mktemp("stage") / "survey", n=8, per_part=4)
    shutil.copy(survey / "quasars.fits", survey / "more.fits")
    return survey


def given(survey: Path) -> dict[str, Any]:
    return {"spectra": [str(survey / "parts")], "quasars": [str(survey / name) for name in ("quasars.fits", "more.fits")]}


def find(survey: Path, out: Path, *more: str) -> tuple[int, str]:
    """Exit status of the command line in this session, and what it said."""
    said = io.StringIO()
    with redirect_stderr(said):
        options = ["--quasars", *given(survey)["quasars"], "--set", *QUICK, *more]
        status = main(["find", *given(survey)["spectra"], "--out", str(out), *options])
    assert "Traceback" not in said.getvalue()
    return status, said.getvalue()


# ---- a fault of ours


def tripping(name: str) -> Callable[[Any], Any]:
    """What a worker reads files with where the reader has a fault that only the file `name` meets."""

    def read(batches: Any) -> Any:
        from nalspark.surveys import reader, stages

        whole = reader._read

        def trips(fits: Any) -> Any:
            return None + 1 if fits.path.endswith(name) else whole(fits)

        reader._read = trips
        try:
            yield from list(stages._read_batches(batches))
        finally:
            reader._read = whole

    return read


@contextmanager
def opened() -> Iterator[Counter[str]]:
    """How often each catalogue and model is opened, and each catalogue hashed."""
    counts = Counter[str]()

    def counted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(place: Any, *more: Any) -> Any:
            counts[f"{what} {Path(place).name}"] += 1
            return function(place, *more)

        return call

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inputs, "open_catalog", counted("open", inputs.open_catalog))
        patched.setattr(inputs, "read_model", counted("read", inputs.read_model))
        patched.setattr(catalogs, "_digest", counted("hash", catalogs._digest))
        yield counts


@pytest.fixture(scope="module")
def faulty(spark: Any, survey: Path) -> dict[str, Any]:
    """A run in which the reader has a fault."""
    out = survey / "out"
    with opened() as counts, pytest.MonkeyPatch.context() as patched:
        patched.setattr(surveys, "_read_batches", tripping(VICTIM))
        first = find(survey, out)
    return {"first": first, "with fault": published(out), "opened": counts, "out": out}


@pytest.fixture(scope="module")
def mended(survey: Path, faulty: dict[str, Any]) -> dict[str, Any]:
    """What is to be done then, and a run without the fault."""
    out = faulty["out"]
    return {**faulty, "plan": find(survey, out, "--dry-run"), "second": find(survey, out), "without": published(out)}


def test_a_fault_in_the_reader_costs_the_row_that_met_it_and_status_3(faulty: dict[str, Any]) -> None:
    status, said = faulty["first"]
    assert status == 3
    assert said.rstrip().splitlines()[-1].startswith("nalspark: Stage 'ingest' met 1 fault(s) of nalspark itself (reason internal_error)")
    assert "2 rejected (1 by a fault of nalspark itself: internal_error)" in said
    rejected = {Path(row.path).name: row for row in faulty["with fault"]["rejections"].itertuples()}
    assert {name: row.reason for name, row in rejected.items()} == {VICTIM: "internal_error", "spec-1001-52000-9999.fits": "not_fits"}
    detail = rejected[VICTIM].detail
    assert "TypeError" in detail and "trips: return None + 1" in detail and " < reader.py:" in detail, "the lines that led to it"


def test_all_other_rows_are_as_without_the_fault(mended: dict[str, Any]) -> None:
    sightlines = mended["without"]["sightlines"]
    (victim,) = sightlines["spectrum_id"][sightlines["path"].str.endswith(VICTIM)]
    for name in ("sightlines", "absorbers"):
        left, right = (mended[when][name] for when in ("with fault", "without"))
        spared = right[right["spectrum_id"] != victim]
        pd.testing.assert_frame_equal(left, spared.reset_index(drop=True), check_exact=True, obj=name)
    assert len(mended["with fault"]["sightlines"]) == 7 and len(mended["with fault"]["absorbers"]) > 0


def test_the_next_run_reads_that_part_again_and_ends_well(mended: dict[str, Any]) -> None:
    status, said = mended["plan"]
    assert status == 0 and "ingest      1 of 2 parts to do\n" in said and "crossmatch  1 of 2 parts to do\n" in said
    status, said = mended["second"]
    assert status == 0 and "internal_error" not in said
    done = read_manifest(mended["out"] / "manifest.json").runs[-1]
    assert {stage: done[stage]["parts_done"] for stage in ("ingest", "search", "measure", "publish")} == {
        "ingest": 1, "search": 1, "measure": 1, "publish": 1,
    }  # fmt: skip
    assert len(mended["without"]["sightlines"]) == 8 and mended["without"]["rejections"]["reason"].tolist() == ["not_fits"]


def test_each_input_is_opened_and_hashed_once(faulty: dict[str, Any]) -> None:
    assert faulty["opened"] == {
        "open quasars.fits": 1, "open more.fits": 1, "hash quasars.fits": 1, "hash more.fits": 1, "read ": 1,
    }  # fmt: skip


def test_where_nothing_can_be_read_the_status_is_3_each_time(spark: Any, survey: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "spec-1-1-1.fits").write_text("no spectrum\n" * 300)
    for name in ("quasars.fits", "more.fits"):
        shutil.copy(survey / name, tmp_path / name)
    for _ in range(2):
        status, said = find(tmp_path, tmp_path / "out")
        assert status == 3
        assert said.rstrip().splitlines()[-1].startswith("nalspark: Of the 1 rows of table 'spectra' none can be used: ")
    assert published(tmp_path / "out")["rejections"]["reason"].tolist() == ["not_fits"]


def test_a_result_of_the_first_edition_is_compared_with_one_of_today(mended: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """Its manifest kept the key of the publication apart, and knew of no faults and no contents."""
    old = Path(shutil.copytree(mended["out"], tmp_path / "old"))
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["keys"] = {"publish": manifest["tables"].pop("published")["all"]["key"]}
    for record in (record for parts in manifest["tables"].values() for record in parts.values()):
        del record["faults"], record["content"]
    manifest["settings"]["vet"] = {"examples": 9}
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert main(["diff", str(old), str(mended["out"])]) == 0
    assert capsys.readouterr().out == "changed     vet.examples: 9 -> none\nthe catalogues have the same absorbers\n"


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of a published table; Spark's checksums are not theirs any more."""
    for checksum in folder.glob(".*.crc"):
        checksum.unlink()
    for file in folder.glob("*.parquet"):
        pq.write_table(change(pq.read_table(file)), file)


def replace_column(folder: Path, name: str, make: Callable[[pa.ChunkedArray], Any]) -> None:
    rewrite(folder, lambda table: table.set_column(table.column_names.index(name), name, make(table[name])))


def diff(before: Path, after: Path, capsys: Any) -> str:
    assert main(["diff", str(before), str(after)]) == 0
    return str(capsys.readouterr().out)


def test_columns_that_an_earlier_version_did_not_have_change_no_absorber(mended: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    old = Path(shutil.copytree(mended["out"], tmp_path / "old"))
    later = ("field", "catalogid", "targetid", "survey", "program", "healpix", "tile", "continuum_flux", "depth_", "sigma_fit")
    rewrite(old / "absorbers.parquet", lambda table: table.select([name for name in table.column_names if not name.startswith(later)]))
    kept = [name for name in pq.read_table(old / "sightlines.parquet").column_names if name not in ("survey", "object_id")]
    names = ["survey" if name == "format" else name for name in kept]
    rewrite(old / "sightlines.parquet", lambda table: table.select(kept).rename_columns(names))
    equal = "no setting, model or catalogue differs\nthe catalogues have the same absorbers\n"
    assert diff(old, mended["out"], capsys) == diff(mended["out"], old, capsys) == equal
    replace_column(old / "absorbers.parquet", "flags", lambda flags: pc.add(flags, pa.scalar(2**20, pa.int32())))
    assert f"remeasured  {len(mended['without']['absorbers'])}\n" in diff(old, mended["out"], capsys)


def test_a_continuum_that_was_not_kept_is_no_change_and_another_one_is(mended: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    old = Path(shutil.copytree(mended["out"], tmp_path / "old"))
    for value, said in ((None, "the same absorbers"), (-1.0, "remeasured")):
        replace_column(old / "absorbers.parquet", "continuum_flux", lambda old, value=value: pa.array([value] * len(old), pa.float32()))
        assert said in diff(old, mended["out"], capsys)


# ---- a stage of a few lines


#: Its setting: one that no other stage of a catalogue has, since workers know the settings of nalspark only.
SETTING = "second_stage.neighbours"
COUNTED = Table(
    "counted",
    "One row per spectrum with a strong candidate.",
    (Column("spectrum_id", "string", "Spectrum"), Column("n", "long", "Strong candidates"), Column("part", "string", "Part")),
)


class Count(Stage):
    """Count the strong candidates of every spectrum."""

    name, table, reads, sections = "count", COUNTED, ("measured",), (SETTING,)

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        measured = run.usable(measured_table(run.settings), parts)
        strong = measured.where(F.col("significance") >= run.settings.second_stage.neighbours)
        return strong.groupBy("spectrum_id", "part").agg(F.count("*").alias("n")).select(*COUNTED.names)


class CountAnew(Count):
    revision = 2


STAGES = (*CATALOGUE[:-1], "count")
NOTHING = dict.fromkeys(STAGES, 0)


@pytest.fixture(scope="module")
def counted(spark: Any, survey: Path, mended: dict[str, Any]) -> dict[str, Any]:
    """What was made by run after run of the stages and one more."""
    out, told = mended["out"], dict[str, Any]()

    def work(what: str, *overrides: str, stage: Stage | None = None, spectra: str = "parts", **how: Any) -> None:
        given_now = {**given(survey), "spectra": [str(survey / spectra)], "out": str(out)}
        settings = load(None, [*QUICK, *overrides], **given_now)
        engine = Engine(spark, settings, Progress(None), (*stages_of(settings), stage or Count()), CATALOGUE)
        done = {summary.stage: summary.parts_done for summary in engine.run(STAGES, **how)}
        manifest = read_manifest(out / "manifest.json")
        rows = Store(out).read(spark, manifest, COUNTED).collect() if what in ("first", "setting", "fewer parts") else []
        told[what] = done, sorted(tuple(row) for row in rows), sorted(manifest.parts("counted"))

    usual, strict = f"{SETTING}=4", f"{SETTING}=12"
    work("first", usual)
    work("again", usual)
    before = tree(out)
    work("plan", strict, dry_run=True)
    assert tree(out) == before
    work("setting", strict)
    work("revision", strict, stage=CountAnew())
    work("read", strict, "measure.near_quasar_kms=3000", stage=CountAnew())
    work("fewer parts", strict, "measure.near_quasar_kms=3000", stage=CountAnew(), spectra="parts/1002", allow_removals=True)
    return told


def test_a_new_stage_makes_its_parts_once(counted: dict[str, Any], mended: dict[str, Any]) -> None:
    done, rows, parts = counted["first"]
    assert done == NOTHING | {"count": 2} and parts == ["plate01001", "plate01002"]
    assert {name for name, _, _ in rows} >= set(mended["without"]["absorbers"].query("significance >= 4")["spectrum_id"])
    assert counted["again"][0] == NOTHING


def test_its_own_setting_and_revision_redo_it_and_a_dry_run_tells_it(counted: dict[str, Any]) -> None:
    for what in ("plan", "setting", "revision"):
        assert counted[what][0] == NOTHING | {"count": 2}, what
    assert sum(n for _, n, _ in counted["setting"][1]) < sum(n for _, n, _ in counted["first"][1])


def test_it_follows_what_it_reads(counted: dict[str, Any]) -> None:
    assert counted["read"][0] == NOTHING | {"measure": 2, "count": 2}
    done, rows, parts = counted["fewer parts"]
    assert done == NOTHING and parts == ["plate01002"], "a part that is gone is gone"
    assert rows == [row for row in counted["setting"][1] if row[2] == "plate01002"]

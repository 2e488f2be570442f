"""What the engine promises, asked of its own dry run, without Spark.

Which setting redoes which stage; that the engine knows none by name; what becomes of faults, and of results of the first edition.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from astropy.table import Table as AstropyTable
from pyspark.sql import DataFrame
from surveys.make_files import write_spec

import nalspark.pipeline
from nalspark.cli import main
from nalspark.errors import INTERNAL_ERROR, IncompleteError, NalsparkError
from nalspark.learning.models import read_model
from nalspark.pipeline import inputs
from nalspark.pipeline.catalogue import ALL_STAGES, CATALOGUE, stages_of
from nalspark.pipeline.door import check_whole
from nalspark.pipeline.engine import Engine, StageSummary
from nalspark.pipeline.ingest import Ingest
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress
from nalspark.settings import Settings, known_keys, load
from nalspark.tables.manifest import Manifest, Part, digest, read_manifest, write_manifest
from nalspark.tables.store import Store
from nalspark.tables.table import Table

# ---- every setting, and the stages that it redoes


@dataclass(frozen=True)
class Row:
    """Another value of a setting, and the stages that it redoes by itself; those that read what these write follow.

    ``{files}`` stands for the folder of catalogues, models and sky fibers. `base` is what else is set, before and after. `why` is given
    where the answer is not plain.
    """

    value: Any
    redoes: tuple[str, ...] = ()
    why: str = ""
    base: tuple[tuple[str, Any], ...] = ()


def rows(section: str, *redoes: str, why: str = "", **values: Any) -> dict[str, tuple[Row, ...]]:
    """Settings of a section that redo the same."""
    return {f"{section}.{name}": (Row(value, redoes, why),) for name, value in values.items()}


_EMPIRICAL = (("simulate.population", "empirical"), ("simulate.catalogue", "{files}/absorbers.fits"))
_OF_SPECTRA = (("simulate.examples", "spectra"),)
_LISTED = (("crossmatch.footprint", {"absorbers.fits": "{files}/quasars.fits"}),)
_REAL = (("labels.source", "catalogues"),)
_ANY_SPECIES = "which spectra there are, and how far they are away, does not depend on what is searched"
_THROUGH_THE_SEARCH = "artificial spectra are searched like real ones"

PROMISE: dict[str, tuple[Row, ...]] = {
    "species": (
        Row("CIV", ("search", "infer", "measure", "balnicity", "publish", "simulate", "train"), _ANY_SPECIES, (("absorbers", []),)),
    ),
    "spectra": (Row(["/elsewhere"], ("ingest",), "a part's key has the paths of its files"),),
    "out": (Row("{files}/../moved", (), "a result can be moved"),),
    "quasars": (
        Row(["{files}/moved/quasars.fits"], (), "the same file in another place"),
        Row(["{files}/other/quasars.fits"], ("crossmatch",), "the same name, another content"),
        Row(["{files}/renamed.fits"], ("crossmatch",), "the results show the name"),
        Row([], ("crossmatch",)),
    ),
    "absorbers": (
        Row(["{files}/moved/absorbers.fits"], (), "the same file in another place"),
        Row(["{files}/other/absorbers.fits"], ("crossmatch",)),
        Row([], ("crossmatch",)),
    ),
    **rows(
        "fetch", why="spectra count as they lie there, however they came",
        base_url="http://localhost", workers=2, limit_rate_mb_s=1.0, timeout_s=9.0, file_timeout_s=9.0, retries=1, backoff_s=2.0,
        max_file_mb=9.0, surveys=["sv3"], programs=["bright"], beside=False,
    ),
    **rows("ingest", "ingest", plates_per_part=7),
    **rows("crossmatch", "crossmatch", match_radius_arcsec=2.0, label_significance=4.0, weak="negative", z_min=0.1, z_max=5.0),
    "crossmatch.footprint": (
        Row({"absorbers.fits": "everywhere"}, ("crossmatch",)),
        Row({"absorbers.fits": "{files}/moved/quasars.fits"}, (), "the same list in another place", _LISTED),
        Row({"absorbers.fits": "{files}/other/quasars.fits"}, ("crossmatch",), "", _LISTED),
    ),
    "labels.source": (Row("catalogues", ("label_examples",), "real examples take the place of artificial ones"),),
    "labels.people": (Row(["{files}/labels"], (), "artificial spectra are labelled by nobody"),),
    **{
        f"labels.{name}": (
            Row(value, (), "artificial spectra are labelled by nobody"),
            Row(value, ("label_examples",), "", (*_REAL, ("absorbers", ["{files}/absorbers.fits", "{files}/renamed_absorbers.fits"]))),
        )
        for name, value in {"agree": 2, "fold": 1, "share": 0.5, "seed": 2}.items()
    },
    **rows(
        "preprocess", "search", "balnicity", "simulate", why="artificial spectra are prepared like real ones",
        min_good_pixels=300, min_snr=1.0, continuum_scale_pixels=20.0, continuum_scale_between=40.0, continuum_iterations=4,
        clip_significance=4.0, noise_window_pixels=301, noise_model="none",
    ),
    **rows(
        "preprocess", "search", "balnicity", "simulate", why="the search takes its window anew",
        window_rest_blue=1216.0, window_beyond_kms=0.0,
    ),
    "preprocess.window_blue_z": (Row(0.03, ("search", "measure", "balnicity", "simulate"), "a flag says what lies bluewards of it"),),
    **rows(
        "search", "search", "simulate", why=_THROUGH_THE_SEARCH,
        widths_pixels=[2.0], min_snr_primary=2.0, min_snr_secondary=2.0, max_per_spectrum=5, min_separation_pixels=9.0,
    ),
    "search.min_significance": (
        Row(6.0, ("search", "simulate"), _THROUGH_THE_SEARCH),
        Row(6.0, ("search",), "examples that are whole spectra are not", _OF_SPECTRA),
    ),
    "infer.model": (
        Row("{files}/model", (), "the same model in another place"),
        Row("{files}/other/model", ("infer",)),
    ),
    "infer.batch_size": (Row(64, (), "never changes a score"),),
    **rows("infer", "measure", why="scores are kept whatever is believed of them", min_score=0.9, measure_score=0.1),
    **rows(
        "measure", "measure",
        min_snr_primary=3.0, min_snr_secondary=2.0, instrument_sigma_kms=50.0, max_fwhm_kms=200.0, crowding=5.0,
        near_quasar_kms=3000.0,
    ),
    **rows(
        "completeness", "inject", "publish", why="the catalogue is published with what it is worth",
        per_sightline=2, ew_min=0.2, ew_max=5.0, seed=2,
    ),
    **rows("publish", "publish", gallery=2),
    **rows(
        "simulate", "simulate",
        examples="spectra", n=8000, n_realistic=8000, population="zm13", contaminated=0.1, contaminated_realistic=0.1, families=1.0,
        continuum="eigenspectra", seed=2, spectra_per_part=2000,
    ),
    "simulate.catalogue": (
        Row("{files}/absorbers.fits", (), "no other population takes anything from it"),
        Row("{files}/moved/absorbers.fits", (), "the same file in another place", _EMPIRICAL),
        Row("{files}/other/absorbers.fits", ("simulate",), "", _EMPIRICAL),
    ),
    "simulate.sky": (
        Row("{files}/sky", ("simulate",)),
        Row("{files}/moved/sky", (), "the same fibers in another place", (("simulate.sky", "{files}/sky"),)),
        Row("{files}/other/sky", ("simulate",), "other fibers", (("simulate.sky", "{files}/sky"),)),
    ),
    **rows("eigenspectra", "eigenspectra", bin_width=0.3, components=10, max_quasars_per_bin=100, rounds=5),
    **rows(
        "train", "train",
        network="zhao2019", options={"dense": 32}, members=1, negatives_per_positive=2.0, epochs=5, batch_size=64, optimizer="sgd",
        learning_rate=0.01, schedule="constant", patience=2, mixed_precision=True, workers=2, seed=2, start_from="shipped",
    ),
    **rows(
        "second_stage", why="only the emission programme has one",
        keep_contamination=0.02, discard_contamination=0.9, features="image", neighbours=5, min_dist=0.2, max_examples=500, seed=2,
    ),
    **rows(
        "statistics", why="rates are counted from what is published",
        ew_limits=[0.5], ew_bins=[0.5, 1.0], z_bins=[0.5, 1.0], min_significance=4.0, min_velocity_kms=3000.0, fit_ew=[0.8, 4.0],
        om0=0.32, nside=16, regions=20, without_bals=True,
    ),
    **rows("pipeline", why="never changes a result", partitions=3, parts_per_wave=1, rows_per_wave=10, executor_wait_s=9),
    "pipeline.removals_share": (Row(0.5, (), "a run is refused, or does what it does"),),
    "pipeline.versions_kept": (Row(1, (), "versions are put away when the next is published"),),
}  # fmt: skip
CASES = [(key, row) for key, promised in PROMISE.items() for row in promised]


def write_inputs(folder: Path) -> Path:
    """Catalogues, a model and sky fibers; the same in ``moved``, of the same names in ``other``."""
    rng = np.random.default_rng(1)
    for place, shift in ((folder, 0.0), (folder / "other", 0.1)):
        place.mkdir(exist_ok=True)
        ids = {"plate": np.arange(1, 301), "mjd": np.full(300, 52000), "fiber": np.full(300, 1)}
        AstropyTable({**ids, "z": np.full(300, 1.5 + shift)}).write(place / "quasars.fits")
        widths = rng.uniform(0.5, 2.0, 300) + shift
        measured = {"ew_2796": widths, "ew_2796_err": widths / 9, "ew_2803": widths / 2, "ew_2803_err": widths / 9}
        AstropyTable({**ids, "z_abs": np.full(300, 1.0), **measured}).write(place / "absorbers.fits")
        shutil.copytree(Path(read_model().where), place / "model")
        (place / "sky").mkdir()
        write_spec(place / "sky" / "spec-1-1-1.fits", n_pixels=3800, fiber=1 + int(10 * shift))
    card = folder / "other" / "model" / "card.json"
    changed = json.loads(card.read_text())
    changed["calibration"]["slope"] *= 2
    card.write_text(json.dumps(changed))
    (folder / "moved").mkdir()
    for name in ("quasars.fits", "absorbers.fits"):
        shutil.copy(folder / name, folder / "moved" / name)
    shutil.copytree(folder / "sky", folder / "moved" / "sky")
    shutil.copy(folder / "quasars.fits", folder / "renamed.fits")
    shutil.copy(folder / "absorbers.fits", folder / "renamed_absorbers.fits")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "inputs"
    folder.mkdir()
    return write_inputs(folder)


@pytest.fixture(autouse=True)
def any_species(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is of one species, and refused for another: that is not what is asked here."""
    monkeypatch.setattr(inputs.PackedModel, "check", lambda *_: None)
    monkeypatch.setattr(inputs, "read_model", lambda folder, _: read_model(folder))


def settings_with(files: Path, out: Path, *values: tuple[str, Any]) -> Settings:
    usual = {"spectra": ["/data"], "out": str(out), "quasars": ["{files}/quasars.fits"], "absorbers": ["{files}/absorbers.fits"]}
    placed = json.loads(json.dumps({**usual, **dict(values)}).replace("{files}", str(files)))
    return load(None, (), **placed)


def stages_with(settings: Settings) -> tuple[Stage, ...]:
    """The stages, their files listed: two parts, whose digests follow from the paths, as Spark would give them."""
    stages = stages_of(settings)
    for stage in stages:
        if isinstance(stage, Ingest):
            stage.files._parts = {part: (3, 3, digest(settings.spectra, part)) for part in ("plate01001", "plate01002")}
    return stages


def bring_up(run: Run, stages: tuple[Stage, ...], content: Callable[[str], str]) -> set[str]:
    """Record of every part that it was made, in the stages' order; the stages that had to. A part's content follows from its key."""
    redone = set()
    for stage in stages:
        recorded = run.manifest.parts(stage.table.name)
        wanted = stage.wanted(run)
        if {part: record.key for part, record in recorded.items()} != wanted:
            redone.add(stage.name)
            for table in (stage.table, *stage.more):
                told = stage.content and table is stage.table
                made = {part: Part(key, "", 3, content=content(key) if told else "") for part, key in wanted.items()}
                run.manifest.tables[table.name] = made
    return redone


def finished(settings: Settings, content: Callable[[str], str] = str) -> Run:
    """A result in which all tables have parts."""
    run = Run(MagicMock(), settings, Progress(None))
    stages = stages_with(settings)
    assert {stage.name for stage in stages} | {"simulate", "label_examples"} == set(ALL_STAGES)
    assert bring_up(run, stages, content) == {stage.name for stage in stages}
    run.store.published("model").mkdir(parents=True)
    run.store.commit(run.manifest)
    return run


def downstream(stages: tuple[Stage, ...], redone: tuple[str, ...]) -> set[str]:
    """Stages, and those that read what they write, and so on."""
    found = set(redone)
    for stage in stages:
        written = {table.name for maker in stages if maker.name in found for table in (maker.table, *maker.more)}
        if written & set(stage.reads):
            found.add(stage.name)
    return found


def test_every_setting_is_in_the_table() -> None:
    assert list(PROMISE) and sorted(PROMISE) == sorted(known_keys())


@pytest.mark.parametrize("key, row", CASES, ids=[f"{key}-{number}" for number, (key, _) in enumerate(CASES)])
def test_a_setting_redoes_what_it_changes_and_what_reads_that_and_nothing_else(key: str, row: Row, files: Path, tmp_path: Path) -> None:
    run = finished(settings_with(files, tmp_path / "out", *row.base))
    changed = settings_with(files, tmp_path / "out", *row.base, (key, row.value))
    assert changed != run.settings, "a value that is no other says nothing"
    if key == "out":
        shutil.move(run.store.root, changed.out)
    stages = stages_with(changed)
    all_of_them = [stage.name for stage in stages]
    plan = Engine(MagicMock(), changed, Progress(None), stages, CATALOGUE).run(all_of_them, dry_run=True, allow_removals=True)
    assert {summary.stage for summary in plan if summary.parts_done} == downstream(stages, row.redoes), row.why
    assert bring_up(under(run, changed), stages, str) == downstream(stages, row.redoes)


def under(run: Run, settings: Settings) -> Run:
    """The same result under other settings."""
    later = Run(run.spark, settings, run.progress)
    later.manifest = run.manifest
    return later


def test_of_targets_that_came_out_as_they_were_no_spectrum_is_worked_on_again(files: Path, tmp_path: Path) -> None:
    run = finished(settings_with(files, tmp_path / "out"), content=lambda _: "as it was")
    changed = settings_with(files, tmp_path / "out", ("absorbers", []))
    assert bring_up(under(run, changed), stages_with(changed), lambda _: "as it was") == {"crossmatch", "publish"}


def test_what_stages_call_sections_are_settings(files: Path, tmp_path: Path) -> None:
    """A misspelt one would be in no key."""
    known = {*known_keys(), *Settings.model_fields}
    for stage in stages_of(settings_with(files, tmp_path / "out")):
        assert set(stage.sections) <= known, stage.name


# ---- the engine knows no stage

HOUSE = Path(nalspark.pipeline.__file__).parent
BLIND = ("engine", "stage", "run")


def stages_named(source: str) -> set[str]:
    """The stages that a source names: words of its strings but for docstrings, and its identifiers, classes of stages included."""
    tree = ast.parse(source)
    described = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body and isinstance(node.body[0], ast.Expr)
    }
    told = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    words = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in described | told:
            words |= set(re.findall(r"[a-z]+", node.value.lower()))
        names = (getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module"))
        words |= {word.lower() for name in names if isinstance(name, str) for word in re.findall(r"[A-Za-z]+", name)}
    return words & {*ALL_STAGES, "learneigenspectra"}


@pytest.mark.parametrize("module", BLIND)
def test_the_engine_names_no_stage(module: str) -> None:
    assert stages_named((HOUSE / f"{module}.py").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "line, named",
    [
        ('assert summary.stage != "publish"', "publish"),
        ('assert summary.stage in ("train", "other")', "train"),
        ("from nalspark.pipeline.ingest import Ingest", "ingest"),
        ("last = f'{summary}: run stage measure first'", "measure"),
        ("crossmatch = None", "crossmatch"),
        ("done = StageSummary(infer=1)", "infer"),
    ],
)
def test_an_engine_that_names_a_stage_is_found(line: str, named: str) -> None:
    source = (HOUSE / "engine.py").read_text(encoding="utf-8")
    assert stages_named(f"{source}\n\n{line}\n") == {named}


# ---- faults of our own


class Fixed(Stage):
    """A stage that is asked for one part."""

    def __init__(self, name: str, reads: tuple[str, ...], made: list[str]) -> None:
        self.name, self.table, self.reads, self.made = name, Table(f"of_{name}", "Rows.", ()), reads, made

    def wanted(self, run: Run) -> dict[str, str]:
        return {"a": run.key(self, "a")}

    def compute(self, run: Run, parts: list[str]) -> dict[str, dict[str, Part]]:
        self.made.append(self.name)
        return {self.table.name: {part: Part("", "", 1) for part in parts}}


def test_what_met_a_fault_is_worked_on_as_far_as_it_goes_and_made_again_by_the_next_run(tmp_path: Path) -> None:
    """Also where an inner stage met it, whose parts those after it check."""
    made = list[str]()
    stages = (Fixed("first", (), made), Fixed("inner", ("of_first",), made), Fixed("last", ("of_inner",), made))
    engine = Engine(MagicMock(), Settings(out=str(tmp_path / "out")), Progress(None), stages, ("first", "inner", "last"))
    engine.run()
    store = Store(tmp_path / "out")
    manifest = store.manifest()
    whole = manifest.parts("of_inner")["a"]
    manifest.parts("of_inner")["a"] = Part(digest(whole.key, INTERNAL_ERROR), "", 1, 1, faults=1)
    store.commit(manifest)
    made.clear()
    engine.run(["last"])
    assert made == ["last"], "it is not refused"
    engine.run()
    assert made == ["last", "inner", "last"]
    manifest = store.manifest()
    assert manifest.parts("of_inner")["a"] == whole
    manifest.parts("of_inner")["a"] = Part("of something else", "", 1)
    store.commit(manifest)
    with pytest.raises(NalsparkError, match="reads table 'of_inner', of which 1 part"):
        engine.run(["last"])


def test_what_met_a_fault_that_may_pass_is_made_again_and_another_such_fault_is_news_to_those_after_it(tmp_path: Path) -> None:
    """A disk that failed for one file, then for another: the result of the second run is not taken for that of the first."""
    made = list[str]()
    stages = (Fixed("first", (), made), Fixed("last", ("of_first",), made))
    engine = Engine(MagicMock(), Settings(out=str(tmp_path / "out")), Progress(None), stages, ("first", "last"))
    checksums = [7, 7, 9, 0]

    def write(frame: Any, table: Any, run: str, keys: dict[str, str]) -> dict[str, Part]:
        return {part: Part(key, "", 3, 1, passing=checksums.pop(0)) for part, key in keys.items()}

    engine._run.store.write = write  # type: ignore[method-assign]
    frame = MagicMock(spec=DataFrame)
    stages[0].compute = lambda run, parts: made.append("first") or frame  # type: ignore[method-assign]
    made_by_run = []
    for _ in range(5):
        made.clear()
        engine.run()
        made_by_run.append(list(made))
    assert made_by_run == [["first", "last"], ["first"], ["first", "last"], ["first", "last"], []]
    assert Store(tmp_path / "out").manifest().parts("of_first")["a"].passing == 0


def tables(**usable_and_rejected: tuple[int, int]) -> Manifest:
    counts = usable_and_rejected.items()
    return Manifest(tables={name: {"a": Part("", "", good + bad, bad)} for name, (good, bad) in counts}, version="0.1.0")


@pytest.mark.parametrize(
    "manifest, sentence",
    [
        (tables(spectra=(0, 4)), "Of the 4 rows of table 'spectra' none can be used: .*/rejections.parquet has the reason of each"),
        (tables(spectra=(4, 0), targets=(0, 4)), "Of the 4 rows of table 'targets' none can be used: "),
        (tables(spectra=(4, 1), targets=(3, 1), searched=(0, 3)), "Of the 3 rows of table 'searched' none can be used: "),
    ],
)
def test_a_result_without_a_searched_spectrum_is_no_good_one(manifest: Manifest, sentence: str, tmp_path: Path) -> None:
    """Also where this run had nothing to do: a job that runs every night does not turn good."""
    write_manifest(manifest, tmp_path / "manifest.json")
    with pytest.raises(IncompleteError, match=sentence) as caught:
        check_whole([StageSummary("any", 0, 1)], str(tmp_path))
    assert caught.value.exit_status == 3


def test_a_part_of_which_nothing_can_be_used_does_not_spoil_a_result(tmp_path: Path) -> None:
    """One broken file that came tonight is no fault of nalspark."""
    write_manifest(tables(spectra=(9, 1), targets=(8, 1), searched=(7, 1)), tmp_path / "manifest.json")
    check_whole([StageSummary("ingest", 1, 2, rows=0, rejected=1)], str(tmp_path))
    with pytest.raises(IncompleteError, match=r"Stage 'ingest' met 2 fault\(s\) of nalspark itself \(reason internal_error\)"):
        check_whole([StageSummary("ingest", 1, 2, rows=7, rejected=2, faults=2)], str(tmp_path))


# ---- results of the first edition


@pytest.fixture
def first_edition(files: Path, tmp_path: Path) -> Iterator[Path]:
    """A result as the first edition left it: its publication's key apart, records with fewer fields, settings of a stage that is gone."""
    run = finished(settings_with(files, tmp_path / "out"))
    for name, rows in (("absorbers.parquet", 5), ("sightlines.parquet", 9), ("rejections.parquet", 1), ("report.html", 1)):
        run.manifest.published[name] = rows
        run.store.published(name).mkdir()
    run.manifest.publication, run.manifest.published_on, run.manifest.version = 2, "2019-05-04T03:02:01Z", "0.1.0"
    write_manifest(run.manifest, run.store.manifest_path)
    tree = json.loads(run.store.manifest_path.read_text())
    tree["keys"] = {"publish": tree["tables"].pop("published")["all"]["key"], "vet": "0123456789abcdef"}
    tree["settings"] = {**settings_with(files, tmp_path / "out").model_dump(mode="json"), "vet": {"examples": 9}, "second_round": {}}
    tree["runs"] = [{"ingest": {"stage": "ingest", "parts_done": 2, "parts": 2, "rows": 9, "rejected": 1, "seconds": 2.0}}]
    for parts in tree["tables"].values():
        for record in parts.values():
            del record["faults"], record["content"]
    run.store.manifest_path.write_text(json.dumps(tree))
    yield run.store.root


def test_the_status_of_a_result_of_the_first_edition(first_edition: Path, no_spark: None, capsys: Any) -> None:
    assert main(["status", str(first_edition)]) == 0
    said = capsys.readouterr().out
    assert "published    version 2, 2019-05-04T03:02:01Z: 5 absorbers, 1 rejections, 9 sightlines\n" in said
    assert re.search(r"^ingest .* 2 of 2 +0 +9 +1 ", said, re.MULTILINE)


def test_a_comparison_with_a_result_of_the_first_edition(first_edition: Path, no_spark: None, capsys: Any) -> None:
    assert main(["diff", str(first_edition)]) == 2
    said = capsys.readouterr().err
    assert "keeps only 0 version(s) of its catalogue" in said and "Traceback" not in said


def test_what_is_new_in_a_result_of_the_first_edition_is_told(
    first_edition: Path, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The keys of targets were without their content then: what is told is told in sentences, and nothing is written."""
    monkeypatch.setattr(Ingest, "news", lambda self, run: [])
    before = first_edition.joinpath("manifest.json").read_bytes()
    changed = settings_with(files, first_edition, ("infer.min_score", 0.9))
    plan = Engine(MagicMock(), changed, Progress(sys.stderr), stages_with(changed), CATALOGUE).run(CATALOGUE, dry_run=True, explain=True)
    assert "changed     infer.min_score: 0.6 -> 0.9\n" in capsys.readouterr().err
    assert {summary.stage: summary.parts_done for summary in plan}["ingest"] == 0
    assert first_edition.joinpath("manifest.json").read_bytes() == before
    assert read_manifest(first_edition / "manifest.json").parts("published")["all"].rows == 5

"""Real examples as a stage: the same however they are cut up, no quasar on two sides, made again when a catalogue changes, trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table as AstropyTable
from runs import add_part, make_survey, run, settings_of

from nalspark.cli import main
from nalspark.errors import ModelError, NalsparkError
from nalspark.learning.models import Calibration, read_model, shipped_model, table_2
from nalspark.pipeline.catalogue import TAUGHT
from nalspark.pipeline.learning import Train
from nalspark.settings import Settings, load
from nalspark.surveys.crossmatch.stages import objects
from nalspark.tables.arrow import to_arrow
from nalspark.tables.schemas import CANDIDATES, MATCHES, SEARCHED, TARGETS, TRAINING, TRAINING_SPECTRA
from nalspark.tables.store import Store
from nalspark.teaching.labels import Reach, verdicts
from nalspark.teaching.stages import Rules, known_of_spectra, label_candidates

spark_test = pytest.mark.spark
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NOBODY = verdicts(pd.DataFrame(), "MgII", 2796.35)
BEFORE = TAUGHT[:-1]
NAME = "known.fits"


def write_catalogue(truth: pd.DataFrame, path: Path) -> Path:
    table = AstropyTable.from_pandas(truth[["plate", "mjd", "fiber", "ra", "dec", "z_abs"]])
    table["ew_2796"], table["ew_2803"] = truth["ew_primary"], truth["ew_secondary"]
    table["ew_2796_err"] = table["ew_2803_err"] = 0.1
    table.write(path, overwrite=True)
    return path


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty spectra, of which twenty are another epoch of one of the others; and a catalogue of half of the quasars."""
    folder = make_survey(tmp_path_factory.mktemp("taught") / "survey", n=40, per_part=20)
    truth = pd.read_parquet(folder / "truth.parquet")
    known = truth[truth["fiber"] % 2 == 0]
    add_part(folder, 1101, n=20, seed=3)  # the same quasars, on another plate
    assert len(known) > 8
    write_catalogue(known, folder / NAME)
    return folder


def taught(survey: Path, out: Path, *overrides: str, **values: Any) -> Settings:
    usual = ("labels.source=catalogues", f"crossmatch.footprint={{'{NAME}' = 'everywhere'}}", "labels.fold=1")
    return settings_of(survey, out, *usual, *overrides, **({"absorbers": [str(survey / NAME)]} | values))


@pytest.fixture(scope="module")
def finished(spark: Any, survey: Path) -> Path:
    out = survey.parent / "finished"
    assert all(run(spark, taught(survey, out), *BEFORE).values())
    return out


@pytest.fixture
def result(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "result"))


def rows_of(spark: Any, out: Path, table: Any) -> pd.DataFrame:
    store = Store(out)
    return to_arrow(store.read(spark, store.manifest(), table), table).to_pandas()


@spark_test
def test_examples_come_of_what_the_catalogue_says(spark: Any, survey: Path, finished: Path) -> None:
    examples = rows_of(spark, finished, TRAINING)
    candidates = rows_of(spark, finished, CANDIDATES).set_index("candidate_id")
    assert examples["example_id"].is_unique and set(examples["example_id"]) <= set(candidates.index)
    near = (examples["z_abs"] - candidates["z_search"][examples["example_id"]].to_numpy()).abs() < 3e-3
    positive = examples["label"] == 1
    assert positive.sum() > 5 and (~positive).sum() > 5
    assert near[positive].all() and not near[~positive].any()
    assert examples["draw"].between(0, 1, inclusive="left").all() and (examples["kind"] == "").all()


@spark_test
def test_no_quasar_is_on_two_sides_though_it_has_several_epochs(spark: Any, finished: Path) -> None:
    examples = rows_of(spark, finished, TRAINING)
    spectra = rows_of(spark, finished, CANDIDATES).set_index("candidate_id")["spectrum_id"]
    examples["spectrum_id"] = spectra[examples["example_id"]].to_numpy()
    assert (examples.groupby("quasar_id")["split"].nunique() == 1).all()
    assert (examples.groupby("quasar_id")["spectrum_id"].nunique() > 1).any(), "no epochs: the test says nothing"
    assert set(examples["split"]) == {"train", "validation", "test"}
    assert (examples["part"] == examples["split"] + "-00000").all()


@spark_test
def test_examples_are_the_same_however_they_are_cut_up(spark: Any, survey: Path, finished: Path, cut: int) -> None:
    store = Store(finished)
    manifest = store.manifest()
    targets, matches, searched, candidates = (
        store.read(spark, manifest, table).repartition(cut) for table in (TARGETS, MATCHES, SEARCHED, CANDIDATES)
    )
    targets, searched = (frame.where("reason IS NULL") for frame in (targets, searched))
    settings = taught(survey, finished)
    z = AstropyTable.read(survey / NAME)["z_abs"]
    rules = Rules({NAME: Reach(z.min(), z.max())}, settings)
    known = known_of_spectra(targets, matches, objects(searched, 1.0), NOBODY)
    made = to_arrow(label_candidates(candidates, searched, known, rules), TRAINING).sort_by("example_id")
    expected = to_arrow(store.read(spark, manifest, TRAINING), TRAINING).sort_by("example_id")
    assert made.num_rows == expected.num_rows > 20
    for name in TRAINING.names:
        assert repr(made[name].to_pylist()) == repr(expected[name].to_pylist()), name


@spark_test
def test_examples_are_made_again_when_the_catalogue_changes_and_only_then(spark: Any, survey: Path, result: Path) -> None:
    assert run(spark, taught(survey, result), *BEFORE) == dict.fromkeys(BEFORE, 0)
    before = rows_of(spark, result, TRAINING)
    truth = pd.read_parquet(survey / "truth.parquet")
    other = result.parent / "other"
    other.mkdir()
    path = write_catalogue(truth[truth["fiber"] % 2 == 1], other / NAME)
    done = run(spark, taught(survey, result, absorbers=[str(path)]), *BEFORE)
    assert done == {"ingest": 0, "crossmatch": 3, "search": 0, "label_examples": 3}
    after = rows_of(spark, result, TRAINING)
    assert set(after["example_id"][after["label"] == 1]) != set(before["example_id"][before["label"] == 1])
    assert run(spark, taught(survey, result, "labels.fold=2", absorbers=[str(path)]), *BEFORE)["label_examples"] == 3


@spark_test
def test_whole_spectra_are_labelled_too(spark: Any, survey: Path, result: Path) -> None:
    settings = taught(survey, result, "simulate.examples=spectra")
    assert run(spark, settings, *BEFORE)["label_examples"] == 3
    examples = rows_of(spark, result, TRAINING_SPECTRA.__class__("training", "", TRAINING_SPECTRA.columns))
    labels = rows_of(spark, result, TARGETS).set_index("spectrum_id")["label"]
    assert {len(flux) for flux in examples["flux"]} == {4 * 3841}
    told = labels[examples["example_id"]].to_numpy()
    # What the crossmatch says of the whole sightline holds where the network sees the absorber.
    assert (examples["label"][told == 0] == 0).all() and (examples["label"] == told).mean() > 0.8
    assert examples["label"].sum() > 3 and examples["z_abs"][examples["label"] == 1].notna().all()


def write_looks(folder: Path, *looks: tuple[str, str, str]) -> None:
    """A reviewer's journal: system, class, reason."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"label_id": f"{number:032x}", "programme": "absorption", "system": system, "spectrum_id": None, "species": "MgII", "z": None,
         "reviewer": "ann", "class": said, "reason": reason, "note": "", "blind": True, "look": 1,
         "time": f"2026-11-30T10:00:0{number}.000Z", "undoes": ""}
        for number, (system, said, reason) in enumerate(looks)
    ]  # fmt: skip
    (folder / "ann.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@spark_test
def test_people_overrule_the_catalogue_and_can_stand_alone(spark: Any, survey: Path, result: Path, tmp_path: Path) -> None:
    before = rows_of(spark, result, TRAINING).set_index("example_id")["label"]
    yes, no, third = before.index[before == 1][0], *before.index[before == 0][:2]
    looks = tmp_path / "labels"
    write_looks(looks, (yes, "not", "sky"), (no, "absorber", ""))
    run(spark, taught(survey, result, f"labels.people=['{looks}']"), *BEFORE)
    both = rows_of(spark, result, TRAINING).set_index("example_id")
    assert both["label"][yes] == 0 and both["label"][no] == 1 and both["kind"][yes] == "sky"
    assert (both["label"].drop([yes, no]) == before.drop([yes, no])).all()
    alone = (f"labels.people=['{looks}']", "labels.source=people", "crossmatch.footprint={}")
    run(spark, taught(survey, result, *alone, absorbers=[]), *BEFORE)
    assert rows_of(spark, result, TRAINING).set_index("example_id")["label"].to_dict() == {yes: 0.0, no: 1.0}
    assert run(spark, taught(survey, result, *alone, absorbers=[]), *BEFORE)["label_examples"] == 0
    write_looks(looks, (yes, "not", "sky"), (no, "absorber", ""), (third, "unsure", ""), (third, "absorber", ""))
    assert run(spark, taught(survey, result, *alone, absorbers=[]), *BEFORE)["label_examples"] == 3
    assert rows_of(spark, result, TRAINING).set_index("example_id")["label"].to_dict() == {yes: 0.0, no: 1.0, third: 1.0}


# ---- refused, before Spark starts


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *overrides: str) -> str:
    (tmp_path / "spectra").mkdir(exist_ok=True)
    file = tmp_path / "RUN.toml"
    file.write_text(f"out = '{tmp_path / 'out'}'\nspectra = ['{tmp_path / 'spectra'}']\n[labels]\nsource = 'catalogues'\n")
    assert main(["train", str(file), "--set", *overrides]) == 2
    return capsys.readouterr().err


def test_what_gives_no_labels_is_refused_in_a_sentence(tmp_path: Path, capsys: Any, no_spark: None, monkeypatch: Any) -> None:
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    assert "and the run has 0: name them in `absorbers`." in refused(capsys, tmp_path, "labels.seed=1")
    assert "Catalogue 'absent.fits' does not exist" in refused(capsys, tmp_path, "absorbers=['absent.fits']")
    assert "name them in labels.people" in refused(capsys, tmp_path, "labels.source=people")
    spectra = ("labels.source=people", "labels.people=['x']", "simulate.examples=spectra")
    assert "People label systems, not whole spectra" in refused(capsys, tmp_path, *spectra)
    assert "crossmatch.footprint names 'a.fits', which is none of" in refused(capsys, tmp_path, "crossmatch.footprint={'a.fits' = 'sky'}")


def test_a_model_that_does_not_fit_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    Train(load(None, ["train.start_from=shipped"]), ()).check()
    with pytest.raises(ModelError, match="reads image_residual, image_inverse_error of shape .*; expected flux of shape"):
        Train(load(None, ["train.start_from=shipped", "simulate.examples=spectra"]), ()).check()
    with pytest.raises(ModelError, match="There is no model in '/nowhere'"):
        Train(load(None, ["train.start_from=/nowhere"]), ()).check()
    with pytest.raises(ModelError, match="was trained for MgII, not for CIV"):
        Train(load(None, [f"train.start_from={shipped_model('MgII')}", "species=CIV"]), ()).check()


# ---- trained


@spark_test
def test_a_network_is_trained_on_them_from_nothing_and_from_a_model(
    petastorm: Any, spark: Any, survey: Path, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("train.members=1", "train.epochs=12", "train.batch_size=8", "train.learning_rate=5e-3")
    small += ("train.options={filters = [8, 12, 12], dense = 16, dropout = 0.0}",)
    assert run(spark, taught(survey, result, *small), *TAUGHT)["train"] == 1
    card = read_model(result / "model").card
    assert card.settings["labels"]["source"] == "catalogues" and "start_from" not in card.data
    assert card.calibration == Calibration() and card.data["calibration"] == "none", "a handful of labels tells no probability"
    counted = rows_of(spark, result, TRAINING).groupby("split").size().to_dict()
    assert card.data["examples"] == {**counted, "calibration": counted["validation"]}
    assert {"accuracy", "precision", "recall", "f1", "auc"} < card.metrics.keys()
    assert 0 < card.data["test"]["quasars"] <= counted["test"] and f"({card.data['test']['quasars']} quasars, " in table_2(card)
    # From the model that ships: at a rate of nearly nothing it stays what it was.
    still = ("train.start_from=shipped", "train.learning_rate=1e-12", "train.members=1", "train.epochs=1", "train.batch_size=8")
    assert run(spark, taught(survey, result, *still), *TAUGHT) == dict.fromkeys(BEFORE, 0) | {"train": 1}
    tuned, start = read_model(result / "model"), read_model(shipped_model("MgII"))
    assert tuned.card.calibration == start.card.calibration
    assert tuned.card.options == start.card.options and tuned.card.data["start_from"] == start.digest
    images = np.random.default_rng(1).normal(0, 1, (20, *start.card.example_shape)).astype(np.float32)
    np.testing.assert_allclose(tuned.load().logits(images), start.load().logits(images), atol=0.01)
    assert run(spark, taught(survey, result, *still), *TAUGHT)["train"] == 0


@spark_test
def test_labels_of_one_kind_only_are_told(petastorm: Any, spark: Any, survey: Path, result: Path) -> None:
    nothing_near = result.parent / NAME
    truth = pd.read_parquet(survey / "truth.parquet").assign(plate=7)
    write_catalogue(truth.assign(ra=1.0, dec=80.0), nothing_near)
    with pytest.raises(NalsparkError, match="are labelled 1, the others 0; a network learns from both"):
        run(spark, taught(survey, result, "train.epochs=1", absorbers=[str(nothing_near)]), *TAUGHT)

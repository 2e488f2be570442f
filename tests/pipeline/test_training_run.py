"""A model from nothing: artificial spectra, training, the catalogue it makes; nothing twice, nothing depending on how work is cut up."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from runs import make_survey, published, run, settings_of, tree

import nalspark
import nalspark.pipeline.learning
from nalspark.absorption import chain
from nalspark.absorption.chain import IMAGE_COLUMNS
from nalspark.cli import main
from nalspark.errors import NalsparkError
from nalspark.learning import build
from nalspark.learning.inference import decode_examples
from nalspark.learning.models import CARD, Calibration, read_model, shipped_model
from nalspark.mocks import stages as mocks
from nalspark.mocks.survey import simulate_survey
from nalspark.pipeline.catalogue import CATALOGUE, LEARNING
from nalspark.settings import Settings, load
from nalspark.spectra.grid import ZHAO_GRID
from nalspark.spectra.stages import eigenspectra_of
from nalspark.tables.arrow import to_arrow
from nalspark.tables.manifest import read_manifest
from nalspark.tables.schemas import CANDIDATES, EIGENSPECTRA, SCORES, TARGETS, TRAINING
from nalspark.tables.store import Store
from nalspark.tables.table import Table

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore::FutureWarning")]

#: As little as a model can be made from, and steps enough that it learns something.
TINY = """
[simulate]
n = 300
n_realistic = 200
spectra_per_part = 100
[train]
epochs = 1
members = 1
batch_size = 16
learning_rate = 3e-3
[train.options]
filters = [4, 8, 8]
dense = 8
"""
#: Split → artificial spectra: four to one, and one to one.
SPECTRA = {"train": 240, "validation": 60, "calibration": 100, "test": 100}
PARTS = ["calibration-00000", "test-00000", "train-00000", "train-00001", "train-00002", "validation-00000"]
NOTHING = dict.fromkeys(CATALOGUE, 0)


def run_file(folder: Path, *, out: str = "out", text: str = TINY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RUN.toml"
    path.write_text(f"out = '{folder / out}'\n{text}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(petastorm: Any, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of a finished `nalspark train`; tests that change its result work on a copy."""
    path = run_file(tmp_path_factory.mktemp("training"))
    assert main(["train", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def settings(trained: Path) -> Settings:
    return load(trained)


@pytest.fixture
def copied(trained: Path, settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a copy of the finished training."""
    shutil.copytree(settings.out, tmp_path / "out")
    return settings.model_copy(update={"out": str(tmp_path / "out")})


@pytest.fixture(scope="module")
def model(settings: Settings) -> Path:
    return Path(settings.out) / "model"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("searched") / "survey", n=16, per_part=16)


@pytest.fixture(scope="module")
def found(spark: Any, survey: Path) -> Path:
    """The catalogue that the model that ships with nalspark makes of the survey."""
    assert all(run(spark, settings_of(survey, survey / "found")).values())
    return survey / "found"


def rows_of(spark: Any, out: str | Path, table: Table, parts: list[str] | None = None) -> pa.Table:
    store = Store(out)
    return to_arrow(store.read(spark, store.manifest(), table, parts), table)


def changed_train(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update={"train": settings.train.model_copy(update=values)})


# ---- nalspark train


def test_a_model_comes_with_its_card_and_pictures(trained: Path, settings: Settings, model: Path) -> None:
    assert sorted(path.name for path in model.iterdir()) == ["card.json", "curves.png", "scores.png", "weights-0.npz"]
    for picture in model.glob("*.png"):
        Image.open(picture).verify()
    card = read_model(model).card
    assert (card.network, card.inputs, card.shape) == ("candidate_cnn", IMAGE_COLUMNS, (8, 49))
    assert (card.grid, card.species, len(card.members)) == (ZHAO_GRID.fingerprint, "MgII", 1)
    assert {"filters": [4, 8, 8], "dense": 8}.items() <= card.options.items() and card.settings["simulate"]["n"] == 300
    manifest = read_manifest(Path(settings.out) / "manifest.json")
    assert sorted(manifest.parts("training")) == PARTS
    rows = {split: sum(part.rows for name, part in manifest.parts("training").items() if name.startswith(split)) for split in SPECTRA}
    assert card.data["examples"] == rows and all(rows.values())
    assert 0 <= card.metrics["accuracy"] <= 1 and card.created


def test_the_command_says_what_it_does_and_a_second_time_does_nothing(
    trained: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: status for name, status in tree(Path(settings.out)).items() if name != ".nalspark.lock"}
    assert main(["train", str(trained)]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == ["simulate    up to date (6 parts)", "train       up to date (1 parts)"]
    assert f"--set infer.model={settings.out}/model" in said.out
    assert {name: status for name, status in tree(Path(settings.out)).items() if name != ".nalspark.lock"} == before


def test_a_dry_run_tells_what_would_be_done(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> list[str]:
        assert main(["train", str(trained), "--dry-run", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    done = ["simulate    up to date", "train       up to date"]
    assert told() == ["            no setting, model or catalogue changed", *done]
    assert told("--set", "publish.gallery=2", "quasars=['absent.fits']") == told(), "of stages that are not asked for"
    assert told("--set", "train.seed=2") == ["changed     train.seed: 1 -> 2", done[0], "train       1 of 1 parts to do"]
    assert told("--set", "simulate.seed=2")[1] == "simulate    6 of 6 parts to do"
    assert told("--force")[2].startswith("train       1 of 1 parts to do")
    assert told("--set", f"out={tmp_path / 'new'}") == [
        f"first run in {tmp_path / 'new'}",
        "simulate    6 of 6 parts to do",
        *told("--force")[2:],
    ]
    assert not (tmp_path / "new").exists()


def test_a_changed_training_simulates_nothing_anew(spark: Any, copied: Settings, model: Path) -> None:
    other = changed_train(copied, seed=2)
    assert run(spark, other, *LEARNING) == {"simulate": 0, "train": 1}
    assert read_model(f"{copied.out}/model").digest != read_model(model).digest
    assert run(spark, other, *LEARNING) == {"simulate": 0, "train": 0}


def test_the_same_training_gives_the_same_model(spark: Any, copied: Settings, model: Path) -> None:
    assert run(spark, copied, *LEARNING) == {"simulate": 0, "train": 0}
    shutil.rmtree(f"{copied.out}/model")
    assert run(spark, copied, *LEARNING) == {"simulate": 0, "train": 1}
    assert read_model(f"{copied.out}/model").digest == read_model(model).digest


def test_a_training_that_is_cut_short_is_not_taken_for_a_result(
    spark: Any, copied: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the new settings is there, its pictures are not: afterwards even the old settings train again."""

    def power_cut(*_: Any) -> Any:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(nalspark.pipeline.learning, "training_figures", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(spark, changed_train(copied, seed=2), "train")
    assert run(spark, copied, "train") == {"train": 1}
    assert read_model(f"{copied.out}/model").digest == read_model(model).digest


def test_other_examples_are_not_trained_on_before_they_are_made(spark: Any, copied: Settings) -> None:
    other = copied.model_copy(update={"search": copied.search.model_copy(update={"min_significance": 5.0})})
    with pytest.raises(NalsparkError, match=r"'train' reads table 'training', of which 6 part\(s\) are out of date. Run stage 'simulate'"):
        run(spark, other, "train")


# ---- the examples


def test_no_quasar_is_on_two_sides(spark: Any, settings: Settings) -> None:
    examples = rows_of(spark, settings.out, TRAINING).to_pandas()
    assert examples["example_id"].is_unique
    assert (examples.groupby("quasar_id")["split"].nunique() == 1).all()
    assert (examples["part"].str.rpartition("-")[0] == examples["split"]).all()
    quasars = examples.groupby("split")["quasar_id"].nunique()
    # Three of four spectra give a candidate, and none is made twice.
    assert all(0.6 * SPECTRA[split] < quasars[split] <= SPECTRA[split] for split in SPECTRA)
    assert set(examples["label"]) == {0.0, 1.0}
    assert examples["draw"].between(0, 1, inclusive="left").all() and examples["draw"].nunique() == len(examples)
    assert examples["ew_primary"][examples["label"] == 1].notna().all()


def test_examples_are_the_same_however_they_are_cut_up(spark: Any, settings: Settings, cut: int) -> None:
    """Example for example, to the last bit, of a part to learn from and of one to test with."""
    parts = ["train-00002", "test-00000"]
    names = mocks.mock_names(spark, parts, settings).repartition(cut)
    made = to_arrow(mocks.simulate(names, mocks.recipes(settings), settings), TRAINING).sort_by("example_id")
    expected = rows_of(spark, settings.out, TRAINING, parts).sort_by("example_id")
    assert made.num_rows == expected.num_rows > 200
    for name in TRAINING.names:
        assert repr(made[name].to_pylist()) == repr(expected[name].to_pylist()), name


# ---- what is made with a model


def test_find_uses_the_model_that_it_is_given_and_makes_only_what_comes_of_it(
    spark: Any, survey: Path, found: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(found, tmp_path / "out"))
    arguments = ["find", str(survey / "parts"), "--quasars", str(survey / "quasars.fits"), "--out", str(out)]
    assert main([*arguments, "--set", f"infer.model={model}", "publish.gallery=0", "ingest.plates_per_part=1"]) == 0
    told = capsys.readouterr()
    assert "searched spectra; 1 rejected." in told.out
    assert {line.split()[0] for line in told.err.splitlines() if " of 1 parts" in line} == {"infer", "measure", "publish"}
    candidates = rows_of(spark, out, CANDIDATES)
    packed = read_model(model)
    images = decode_examples([candidates[name].to_pylist() for name in packed.card.inputs], packed.card)
    expected = dict(zip(candidates["candidate_id"].to_pylist(), packed.load().predict(images).tolist(), strict=True))
    ours, theirs = ({row["candidate_id"]: row["score"] for row in rows_of(spark, place, SCORES).to_pylist()} for place in (out, found))
    assert ours == expected
    assert ours.keys() == theirs.keys() and all(ours[name] != theirs[name] for name in ours)
    scored = published(out)["absorbers"].set_index("absorber_id")["score"].to_dict()
    assert all(score == ours[name] >= 0.6 for name, score in scored.items())

    moved = shutil.copytree(model, tmp_path / "moved")
    done = run(spark, settings_of(survey, out, f"infer.model={moved}", "infer.min_score=0.9", "infer.batch_size=64"))
    assert done == NOTHING | {"measure": 1, "publish": 1}, "the same model in another place"
    assert (published(out)["absorbers"]["score"] >= 0.9).all()


def test_a_run_that_stops_before_infer_needs_no_model(spark: Any, survey: Path, found: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(found, tmp_path / "out"))
    assert run(spark, settings_of(survey, out, "infer.model=/nowhere"), "search") == {"search": 0}
    with pytest.raises(NalsparkError, match="There is no model in '/nowhere'"):
        run(spark, settings_of(survey, out, "infer.model=/nowhere"), "measure")


# ---- models and trainings that are refused, before Spark starts


def copy_of_model(folder: Path, **changes: Any) -> Path:
    shutil.copytree(shipped_model("MgII"), folder)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("nalspark: ") and captured.err.rstrip().endswith((".", "?"))
    return captured.err


def test_models_that_do_not_fit_are_refused_before_spark_starts(tmp_path: Path, capsys: Any, no_spark: None) -> None:
    (tmp_path / "spectra").mkdir()
    find = ("find", tmp_path / "spectra", "--out", tmp_path / "out", "--set")
    grid = copy_of_model(tmp_path / "grid", grid="0123456789ab")
    assert "was trained on the wavelength grid 0123456789ab" in refused(capsys, *find, f"infer.model={grid}")
    species = copy_of_model(tmp_path / "species", species="CIV")
    assert "was trained for CIV, not for MgII." in refused(capsys, *find, f"infer.model={species}")
    usual = f"infer.model={shipped_model('MgII')}"
    assert "was trained for MgII, not for CIV" in refused(capsys, *find, usual, "--species", "CIV")
    assert "There is no model in" in refused(capsys, *find, f"infer.model={tmp_path / 'spectra'}")
    shape = copy_of_model(tmp_path / "shape", shape=[8, 51])
    sentence = "of shape (8, 51); expected image_residual, image_inverse_error of shape (8, 49)"
    assert sentence in refused(capsys, *find, f"infer.model={shape}")
    damaged = copy_of_model(tmp_path / "damaged")
    (damaged / "weights-0.npz").write_bytes((damaged / "weights-0.npz").read_bytes()[:-1])
    assert "its SHA-256 differs" in refused(capsys, *find, f"infer.model={damaged}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("train.network=candidate_cmm", "Network 'candidate_cmm' is not known; .*Did you mean 'candidate_cnn'"),
        ("train.network=vgg", r"Network vgg reads examples of shape \(pixels, 1\), not \(8, 49, 2\)"),
        ("simulate.examples=spectra", r"Network candidate_cnn reads examples of shape \(transitions, columns, 2\), not \(3841, 1\)"),
        ("train.options.denze=3", "has no option 'denze'.*Did you mean 'dense'"),
        (
            "simulate.continuum=eigenspectra",
            "'simulate' reads table 'eigenspectra', which is not there yet. "
            "Run stages 'ingest', 'crossmatch', 'search', 'eigenspectra' first",
        ),
        ("simulate.examples=images", "'candidates' or 'spectra'"),
        ("simulate.population=empirical", "set simulate.catalogue"),
        ("out=''", "No output directory is given"),
    ],
)
def test_trainings_that_cannot_work_are_refused_before_spark_starts(
    override: str, sentence: str, tmp_path: Path, capsys: Any, no_spark: None
) -> None:
    assert re.search(sentence, refused(capsys, "train", run_file(tmp_path / "new"), "--set", override))
    assert not (tmp_path / "new" / "out").exists()


def test_training_without_petastorm_is_refused_before_spark_starts(
    tmp_path: Path, capsys: Any, no_spark: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "No module named 'petastorm'")
    assert "pip install 'nalspark[train]'" in refused(capsys, "train", run_file(tmp_path / "new"))
    assert not (tmp_path / "new" / "out").exists()


def test_a_folder_without_sky_fibers_is_refused(petastorm: Any, spark: Any, tmp_path: Path, capsys: Any) -> None:
    sky = f"simulate.sky={tmp_path}"
    assert "There is no usable sky-fiber spectrum" in refused(capsys, "train", run_file(tmp_path / "new"), "--set", sky)


# ---- whole spectra


def test_a_whole_spectrum_network_is_trained_and_used(
    petastorm: Any, spark: Any, survey: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether so short a training learns anything is chance, so it is calibrated in name only."""
    monkeypatch.setattr(build, "fit_calibration", lambda *_: Calibration())
    text = "[simulate]\nexamples = 'spectra'\nn = 100\nn_realistic = 100\nspectra_per_part = 100\n"
    text += "[train]\nnetwork = 'vgg'\nepochs = 1\nmembers = 1\nbatch_size = 20\n"
    text += "[train.options]\nfilters = [4, 4]\ndepths = [1, 1]\ndense = 4\n"
    settings = load(run_file(tmp_path / "whole", text=text))
    assert run(spark, settings, *LEARNING) == {"simulate": 4, "train": 1}
    assert run(spark, settings, *LEARNING) == {"simulate": 0, "train": 0}
    model = Path(settings.out) / "model"
    packed = read_model(model)
    assert (packed.card.inputs, packed.card.shape) == (("flux",), (ZHAO_GRID.n_pixels,))
    out = Path(shutil.copytree(found, tmp_path / "out"))
    assert run(spark, settings_of(survey, out, f"infer.model={model}")) == NOTHING | {"infer": 1, "measure": 1, "publish": 1}
    scores = rows_of(spark, out, SCORES).to_pandas()
    assert sorted(scores["candidate_id"]) == sorted(rows_of(spark, out, CANDIDATES)["candidate_id"].to_pylist())
    assert (scores.groupby("spectrum_id")["score"].nunique() == 1).all() and scores["score"].between(0, 1).all()
    assert scores["score"].nunique() > 3  # so little trained, all lie within a few steps of the rounding
    first = scores["spectrum_id"].iloc[0]
    target = rows_of(spark, out, TARGETS).to_pandas().set_index("spectrum_id").loc[first]
    read, z_qso = nalspark.read_spectrum(target["path"]), np.array([target["z_qso"]])
    columns = {name: [getattr(read, name)] for name in chain.PIXELS}
    seen = chain.spectrum_inputs(chain.prepare(chain.on_lattice(columns), z_qso, settings).spectra, z_qso, settings)
    assert packed.load().predict(seen[..., None])[0] == np.float32(scores["score"].iloc[0])


# ---- eigenspectra


@pytest.fixture(scope="module")
def learned(spark: Any, survey: Path, found: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a copy of the result in which the survey's eigenspectra are."""
    out = tmp_path_factory.mktemp("eigenspectra") / "out"
    bins = ("eigenspectra.bin_width=1", "eigenspectra.components=3", "eigenspectra.rounds=2")
    few = ("simulate.n=100", "simulate.n_realistic=100", "simulate.spectra_per_part=100", "simulate.continuum=eigenspectra")
    settings = settings_of(survey, out, *bins, *few)
    shutil.copytree(found, out)
    stages = ("ingest", "crossmatch", "search", "eigenspectra")
    assert run(spark, settings, *stages) == dict.fromkeys(stages, 0) | {"eigenspectra": 1}
    return settings


def test_eigenspectra_are_learned_once(spark: Any, learned: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    bins = eigenspectra_of(rows_of(spark, learned.out, EIGENSPECTRA))
    assert 1 <= len(bins) <= 3 and 8 <= sum(one.n_quasars + one.n_held_out for one in bins) <= 16
    assert run(spark, learned, "eigenspectra") == {"eigenspectra": 0}
    assert run(spark, learned, "eigenspectra", dry_run=True) == {"eigenspectra": 0}
    wider = learned.model_copy(update={"eigenspectra": learned.eigenspectra.model_copy(update={"bin_width": 2.0})})
    assert run(spark, wider, "eigenspectra", dry_run=True) == {"eigenspectra": 1}


def test_artificial_quasars_come_from_the_eigenspectra(spark: Any, learned: Settings, settings: Settings) -> None:
    assert run(spark, learned, "simulate") == {"simulate": 4}
    assert run(spark, learned, "simulate") == {"simulate": 0}
    ours = rows_of(spark, learned.out, TRAINING, ["test-00000"]).to_pandas()
    theirs = rows_of(spark, settings.out, TRAINING, ["test-00000"]).to_pandas()
    assert len(ours) > 30 and set(ours["quasar_id"]) & set(theirs["quasar_id"])
    # The same names, redshifts and absorbers, but other quasars: no image is the same.
    assert not set(ours["image_residual"]) & set(theirs["image_residual"])
    both = ours.drop_duplicates("quasar_id").merge(theirs.drop_duplicates("quasar_id"), on="quasar_id")
    assert (both["z_qso_x"] == both["z_qso_y"]).all()


def test_other_eigenspectra_are_a_reason_to_simulate_anew(spark: Any, learned: Settings) -> None:
    other = learned.model_copy(update={"eigenspectra": learned.eigenspectra.model_copy(update={"components": 2})})
    with pytest.raises(NalsparkError, match=r"'simulate' reads table 'eigenspectra', of which 1 part\(s\) are out of date"):
        run(spark, other, "simulate")


def test_too_few_quasars_to_learn_from(spark: Any, tmp_path: Path) -> None:
    simulate_survey(tmp_path / "survey", 1, 1)
    settings = load(spectra=[str(tmp_path / "survey" / "spectra")], out=str(tmp_path / "out"))
    with pytest.raises(NalsparkError, match="No bin of redshift has two quasars to learn eigenspectra from"):
        run(spark, settings, "ingest", "crossmatch", "search", "eigenspectra")

"""The whole selection on very little: trained, judged, run on detections, the same however the rows are cut up."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from nalspark.cli import main, settings_text
from nalspark.emission import stages
from nalspark.emission.frames import CUTOUT_SHAPE
from nalspark.emission.inputs import Inputs, read_selection
from nalspark.emission.pipeline import finding_stages, training_stages
from nalspark.emission.settings import EmissionSettings
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.pipeline.run import Run
from nalspark.progress import Progress
from nalspark.settings import load
from nalspark.tables.manifest import Part, read_manifest
from nalspark.tables.store import Store

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

HETDEX = Path(__file__).parents[2] / "conf" / "runs" / "hetdex_demo.toml"
TINY = """
[emission]
n_train = 400
n_reference = 500
n_held_out = 250
rows_per_part = 250
[second_stage]
keep_contamination = 0.02
discard_contamination = 0.98
[train]
network = "cutout_cnn"
members = 1
epochs = 2
batch_size = 32
learning_rate = 1e-2
[train.options]
filters = [6, 8]
"""


def run_file(folder):
    (folder / "RUN.toml").write_text(f"out = '{folder / 'out'}'\n{TINY}", encoding="utf-8")
    return folder / "RUN.toml"


@pytest.fixture
def no_session(monkeypatch):
    """Fails a test in which a command of the programme starts a session."""

    def refuse(*arguments):
        raise AssertionError("a Spark session was asked for")

    monkeypatch.setattr("nalspark.emission.cli.running_session", refuse)


@pytest.fixture(scope="module")
def trained(petastorm, spark, tmp_path_factory):
    """The run file of a finished training."""
    path = run_file(tmp_path_factory.mktemp("emission"))
    assert main(["emission", "train", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def out(trained):
    return trained.parent / "out"


def test_a_training_leaves_both_stages_their_pictures_and_the_table(out):
    selection = read_selection(out)
    assert selection.packed.card.network == "cutout_cnn" and "emission" in selection.packed.card.settings
    assert all((out / "second_stage" / name).is_file() for name in ("scores.png", "map.png"))
    text = (out / "second_stage" / "result.txt").read_text(encoding="utf-8")
    assert all(word in text for word in ("discard", "reclassify", "keep", "figure of merit", "network + UMAP + SVM", "slides"))
    rows = {table: sum(part.rows for part in parts.values()) for table, parts in read_manifest(out / "manifest.json").tables.items()}
    assert (rows["detections"], rows["classified"]) == (400 + 3 * 50 + 500 + 250, 250)


def test_a_second_training_does_nothing_anew(spark, trained, out, capsys):
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in ("manifest.json", ".nalspark.lock")]
    before = [path.stat().st_mtime_ns for path in files]
    capsys.readouterr()
    assert main(["emission", "train", str(trained)]) == 0
    said = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.err.splitlines()]
    parts = {"simulate": 8, "train": 1, "second_stage": 1, "classify": 1, "judge": 1}
    assert {f"{stage} up to date ({number} parts)" for stage, number in parts.items()} <= set(lines)
    assert "network + UMAP + SVM" in said.out and str(out / "second_stage" / "map.png") in said.out
    assert [path.stat().st_mtime_ns for path in files] == before


def test_what_changes_no_result_makes_nothing_anew(spark, trained, out, tmp_path, capsys):
    assert main(["emission", "train", str(trained), "--dry-run", "--set", "infer.batch_size=7", "pipeline.parts_per_wave=2"]) == 0
    assert capsys.readouterr().err.count("up to date") == 5
    for folder in ("model", "second_stage"):
        shutil.copytree(out / folder, tmp_path / folder)
    keys = []
    for model in (out, tmp_path):
        settings = load(trained, model=EmissionSettings, **{"emission.cutouts": ["x.fits"], "emission.model": str(model)})
        run = Run(spark, settings, Progress(None))
        run.manifest.parts("detections")["found"] = Part("key", "", 0)
        keys.append(finding_stages(settings)[1].wanted(run))
    assert keys[0] == keys[1] and list(keys[0]) == ["found"]


def test_a_selection_is_the_same_at_one_three_and_seven_partitions(spark, trained, out):
    settings, store, selection = load(trained, model=EmissionSettings), Store(out), read_selection(out)
    rows = store.read(spark, store.manifest(), DETECTIONS, ["held_out-00000"])
    found = []
    for partitions in (1, 3, 7):
        frame = stages.classify(rows.repartition(partitions), selection.packed, selection.second, settings)
        found.append(frame.toPandas().sort_values("detection_id", ignore_index=True))
    assert found[0]["svm_margin"].notna().sum() > 20 and list(found[0]) == CLASSIFIED.names
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0], check_exact=True)
    written = store.read(spark, store.manifest(), CLASSIFIED).toPandas().sort_values("detection_id", ignore_index=True)
    pd.testing.assert_frame_equal(written[CLASSIFIED.names], found[0], check_exact=True)
    names = {name: found[0][name].to_numpy()[:5] for name in ("detection_id", "part")}
    columns = stages.simulate_columns(names, Inputs(settings, out).frames, 1)
    np.testing.assert_array_equal(columns["snr"], found[0]["snr"].to_numpy()[:5])  # Spark made what numpy makes


def test_detections_and_cutouts_are_classified_or_have_a_reason(spark, trained, out, tmp_path, capsys):
    frame = np.random.default_rng(0).normal(100.0, 2.0, (30, 1054)).astype(np.float32)
    frame[12, 520:526] += 15.0
    header = fits.Header({"CRVAL1": 3500.0, "CDELT1": 1.9, "CRPIX1": 1.0})
    for name, values in (("a.fits", frame), ("e.a.fits", np.full_like(frame, 2.0)), ("lone.fits", frame)):
        fits.PrimaryHDU(values, header).writeto(tmp_path / name)
    places = [("a.fits", 12, 3500 + 1.9 * 522.5, 5), ("a.fits", 0, 3501.0, 0), ("a.fits", 99, 4000.0, 0), ("lone.fits", 5, 4000.0, 0)]
    places += [("other.fits", 5, 4000.0, 0), ("a.fits", 5, 4000.0, 8)]
    pd.DataFrame(places, columns=["frame", "fiber", "wavelength", "class"]).to_csv(tmp_path / "list.csv", index=False)
    cubes = np.random.default_rng(1).normal(size=(3, 5, *CUTOUT_SHAPE)).astype(np.float32)
    cubes[1, 2, 3, 4] = np.nan
    fits.PrimaryHDU(cubes).writeto(tmp_path / "cutouts.fits")
    given = {"frames": ["a.fits", "lone.fits"], "detections": ["list.csv"], "cutouts": ["cutouts.fits"]}
    values = {f"emission.{key}": [str(tmp_path / name) for name in names] for key, names in given.items()}
    shutil.copytree(out, tmp_path / "out")  # its own selection is the one to classify with
    where = [f"out={tmp_path / 'out'}"]
    capsys.readouterr()
    assert main(["emission", "run", str(trained), "--set", *where, *(f"{key}={names}" for key, names in values.items())]) == 0
    told = capsys.readouterr().out
    store = Store(tmp_path / "out")
    rows = store.read(spark, store.manifest(), DETECTIONS, ["found"]).toPandas().set_index("detection_id")
    assert rows["reason"].fillna("").to_dict() == {
        "list-0": "", "list-1": "", "list-2": "outside_frame", "list-3": "no_error_frame", "list-4": "frame_unknown",
        "list-5": "class_out_of_range", "cutouts-0": "", "cutouts-1": "not_finite", "cutouts-2": "",
    }  # fmt: skip
    assert rows["cutout_flags"]["list-1"] > 0 and rows["snr"]["list-0"] > 6
    assert "4 detections" in told and "5 rejected" in told and "1 no_error_frame" in told
    classified = store.read(spark, store.manifest(), CLASSIFIED, ["found"]).toPandas()
    assert len(classified) == 4 and classified["score"].notna().all()
    # What came of it is published as a catalogue is.
    with fits.open(tmp_path / "out" / "classified.fits", checksum=True) as hdus:
        assert list(hdus[1].columns.names) == CLASSIFIED.names
        assert sorted(hdus[1].data["detection_id"]) == sorted(classified["detection_id"])
        assert hdus[1].header["CUTOU0"] == "EDGE_OF_WAVELENGTHS"
    rejected = pd.read_parquet(tmp_path / "out" / "rejected_detections.parquet").set_index("detection_id")
    assert rejected["reason"].to_dict() == rows["reason"].dropna().to_dict() and rejected["detail"].notna().all()
    assert read_manifest(tmp_path / "out" / "manifest.json").published == {
        "classified.parquet": 4, "rejected_detections.parquet": 5, "classified.fits": 4,
    }  # fmt: skip
    assert (tmp_path / "out" / "versions" / "0001" / "classified.fits").is_file()
    assert str(tmp_path / "out" / "classified.fits") in told
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "version 1, " in (said := capsys.readouterr().out) and "4 classified, 5 rejected detections" in said
    before = (tmp_path / "out" / "classified.fits").stat().st_mtime_ns
    assert main(["emission", "run", str(trained), "--set", *where, *(f"{key}={names}" for key, names in values.items())]) == 0
    assert capsys.readouterr().err.count("up to date") == 3
    assert (tmp_path / "out" / "classified.fits").stat().st_mtime_ns == before
    # What was simulated lies in the same tables, and is left as it was; so is what was found by those who train.
    assert main(["emission", "train", str(trained), "--dry-run", "--set", *where]) == 0
    assert capsys.readouterr().err.count("up to date") == 5


def test_a_run_that_can_use_nothing_is_no_good_one(spark, trained, out, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("frame,fiber,wavelength\nnone.fits,5,4000.0\n", encoding="utf-8")
    chosen = [f"out={tmp_path / 'found'}", f"emission.model={out}", f"emission.detections=['{tmp_path / 'list.csv'}']"]
    assert main(["emission", "run", str(trained), "--set", *chosen]) == 3
    said = capsys.readouterr()
    assert "0 detections" in said.out and "1 frame_unknown" in said.out
    assert (
        "Of the 1 rows of table 'detections' none can be used" in said.err
        and "rejected_detections.parquet has the reason of each" in said.err
    )
    assert pd.read_parquet(tmp_path / "found" / "rejected_detections.parquet")["reason"].tolist() == ["frame_unknown"]


def refusal(arguments, capsys):
    """What a command that is refused says."""
    assert main(["emission", *arguments]) == 2
    return capsys.readouterr().err


def test_a_network_that_reads_no_cutouts_is_refused_before_anything_is_simulated(tmp_path, capsys, no_session):
    said = refusal(["train", str(run_file(tmp_path)), "--set", "train.network=candidate_cnn", "train.options={}"], capsys)
    assert "candidate_cnn reads examples of shape (transitions, columns, 2), not (9, 32, 5)" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, value, extra", [("feed._NO_PETASTORM", "absent", "train"), ("ensemble.find_spec", lambda name: None, "emission")]
)
def test_what_cannot_train_is_refused_before_anything_is_simulated(name, value, extra, tmp_path, monkeypatch, capsys, no_session):
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    monkeypatch.setattr(f"nalspark.learning.{name}", value)
    assert f"pip install 'nalspark[{extra}]'" in refusal(["train", str(run_file(tmp_path))], capsys)
    assert not (tmp_path / "out").exists()


def test_nothing_to_classify_and_no_selection_are_told(tmp_path, capsys, no_session):
    path = str(run_file(tmp_path))
    assert "nothing to classify" in refusal(["run", path], capsys)
    assert "There is no model" in refusal(["run", path, "--set", "emission.cutouts=['x.fits']", f"emission.model={tmp_path}"], capsys)
    assert "A frame of emission.frames cannot be used" in refusal(["train", path, "--set", "emission.frames=['x.fits']"], capsys)
    assert "No output directory is given" in refusal(["train", path, "--set", "out="], capsys)
    assert not (tmp_path / "out").exists()


def test_a_detection_is_made_again_when_its_causes_changed_and_only_then(tmp_path):
    def keys(*overrides):
        settings = load(run_file(tmp_path), overrides, EmissionSettings)
        return training_stages(settings)[0].wanted(Run(None, settings, Progress(None)))

    before = keys()
    assert len(before) == len(set(before)) == 8 and keys("infer.batch_size=7", "train.epochs=9") == before
    more = keys("emission.n_held_out=300")
    assert {part for part in more if more[part] != before.get(part)} == {"held_out-00001"}
    assert not set(keys("emission.seed=2").values()) & set(before.values())


def test_the_run_file_of_the_demonstration_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    monkeypatch.setattr("nalspark.learning.ensemble.find_spec", lambda name: name)
    settings = load(HETDEX, model=EmissionSettings)
    for stage in training_stages(settings):
        stage.check()
    assert list(Inputs(settings, settings.out).frames) == ["parametric"]


def test_its_settings_are_on_the_page():
    assert "| `emission.n_train` | `24000` |" in settings_text("emission")


def test_labels_are_compared_from_the_command_line(tmp_path, capsys, no_spark):
    (tmp_path / "labels.csv").write_text("detection_id,reviewer,class,time\na,ann,5,2020-01-01\na,bob,0,2020-01-01\nb,ann,0,2020-01-01\n")
    (tmp_path / "RUN.toml").write_text(f"[emission]\nlabels = '{tmp_path / 'labels.csv'}'\n")
    assert main(["emission", "labels", str(tmp_path / "RUN.toml")]) == 0
    assert "2 detections, 1 of them real to some and fake to others" in capsys.readouterr().out

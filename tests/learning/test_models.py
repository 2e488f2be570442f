"""A model on disk: what is written is read, what is damaged is refused in sentences, and a score does not depend on its batch."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from nalspark.errors import ModelError
from nalspark.learning import networks
from nalspark.learning.models import (
    CARD,
    STEP,
    Calibration,
    Detector,
    ModelCard,
    PackedModel,
    fit_calibration,
    read_model,
    save_model,
    table_2,
)

OPTIONS = {"filters": [4, 6, 8], "dense": 8}


def make_card(**changed):
    values = {"name": "test", "network": "candidate_cnn", "options": OPTIONS, "inputs": ("image_residual", "image_inverse_error"),
              "shape": (8, 49), "grid": "abcdef012345", "species": "MgII"}  # fmt: skip
    return ModelCard(**(values | changed))


def make_models(card, members=2):
    networks.keras.utils.set_random_seed(5)
    return [networks.build(card.network, card.example_shape, card.options) for _ in range(members)]


def make_examples(n, seed=0):
    rng = np.random.default_rng(seed)
    images = np.stack([rng.normal(0, 0.3, (n, 8, 49)), rng.uniform(0, 30, (n, 8, 49))], axis=-1)
    images[rng.random((n, 8, 49)) < 0.05] = 0.0
    return images.astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    card = make_card(calibration=Calibration(slope=0.7, intercept=-0.2))
    return card, make_models(card)


@pytest.fixture
def folder(trained, tmp_path):
    save_model(tmp_path / "model", *trained)
    return tmp_path / "model"


# ---- writing and reading


def test_what_is_read_is_what_was_written(trained, folder):
    card, models = trained
    packed = read_model(folder)
    assert packed.card == card.model_copy(update={"members": packed.card.members})
    assert len(packed.card.members) == 2 and sorted(path.name for path in folder.iterdir()) == [CARD, "weights-0.npz", "weights-1.npz"]
    examples = make_examples(40)
    expected = np.concatenate([networks.ops.convert_to_numpy(model(examples, training=False)) for model in models], axis=1)
    np.testing.assert_allclose(packed.load().logits(examples), expected, rtol=1e-4, atol=0.51 * STEP)


def test_the_same_model_is_the_same_bytes(trained, folder, tmp_path):
    again = save_model(tmp_path / "again", *trained)
    assert again.weights == read_model(folder).weights and again.digest == read_model(folder).digest
    assert (folder / CARD).read_bytes() == (tmp_path / "again" / CARD).read_bytes()


def test_the_digest_is_of_what_decides_a_score(trained, folder):
    packed = read_model(folder)

    def digest(**changed):
        return PackedModel(packed.card.model_copy(update=changed), packed.weights).digest

    assert digest() == digest(name="other", metrics={"auc": 1.0}, created="2026-11-22", grid="", species="CIV") == packed.digest
    changes = [{"members": packed.card.members[:1]}, {"calibration": Calibration(slope=2.0)}, {"options": OPTIONS | {"mask": False}}]
    assert len({digest(**change) for change in changes} | {packed.digest}) == 4


def test_a_model_is_replaced_whole_and_nothing_is_left_behind(trained, folder):
    card, models = trained
    save_model(folder, card.model_copy(update={"name": "newer"}), models[:1])
    assert read_model(folder).card.name == "newer"
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "weights-0.npz"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("interrupted", ["pathlib.Path.write_text", "os.replace"])
def test_an_interrupted_write_leaves_the_old_model(trained, folder, monkeypatch, interrupted):
    before, replace = read_model(folder), os.replace

    def fail(source, *given, **__):
        if ".new" not in str(source):  # the old model is moved away, and back
            return replace(source, *given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(interrupted, fail)
    with pytest.raises(ModelError, match="cannot be written: No space left on device"):
        save_model(folder, *trained)
    assert read_model(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_nothing_but_a_model_is_replaced(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="is there and is no model"):
        save_model(tmp_path, *trained)
    with pytest.raises(ModelError, match="is there and is no model"):
        save_model(tmp_path / "thesis.tex", *trained)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# ---- faults


def edit_card(folder, **changed):
    tree = json.loads((folder / CARD).read_text()) | changed
    (folder / CARD).write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


def rewrite_weights(folder, arrays, name="weights-0.npz"):
    """Weights that the card vouches for."""
    np.savez(folder / name, **{str(number): array for number, array in enumerate(arrays)})
    tree = json.loads((folder / CARD).read_text())
    tree["members"][0] = digest_of(folder / name)
    (folder / CARD).write_text(json.dumps(tree))


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda folder: (folder / CARD).unlink(), "There is no model in"),
        (lambda folder: (folder / CARD).write_text('{"format": 1,'), "not valid JSON"),
        (lambda folder: (folder / CARD).write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
        (lambda folder: (folder / CARD).write_text("[1, 2]"), "not the card of a model"),
        (lambda folder: edit_card(folder, format=2), "format 2, and this nalspark reads up to 1. Install a newer nalspark"),
        (lambda folder: edit_card(folder, format=9, new_field=1), "format 9"),
        (lambda folder: edit_card(folder, surprise=1), r"surprise: Extra inputs are not permitted"),
        (lambda folder: edit_card(folder, network=None), r"network: Field required"),
        (lambda folder: edit_card(folder, calibration={"slope": -1.0}), r"calibration.slope: Input should be greater than 0"),
        (lambda folder: edit_card(folder, members=[]), "names no weights"),
        (lambda folder: (folder / "weights-1.npz").unlink(), "weights-1.npz' cannot be read: No such file"),
        (lambda folder: (folder / "weights-1.npz").write_bytes(b"PK\x03\x04"), "weights-1.npz' is not the file that card.json was written"),
    ],
)
def test_a_damaged_model_is_not_read(folder, break_it, sentence):
    break_it(folder)
    with pytest.raises(ModelError, match=sentence) as caught:
        read_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda folder: edit_card(folder, network="alexnet"), "Network 'alexnet' is not known"),
        (lambda folder: edit_card(folder, options=OPTIONS | {"dense": 9}), "number 6 does not fit"),
        (lambda folder: edit_card(folder, inputs=["flux"]), "reads examples of shape"),
        (lambda folder: rewrite_weights(folder, [np.zeros(3, np.float32)]), "1 arrays where the network has 10; number 0 does not fit"),
        (lambda folder: rewrite_weights(folder, [np.array([{"a": 1}], dtype=object)]), "are not an npz of plain arrays"),
        (lambda folder: rewrite_weights(folder, changed_weights(folder, np.float64)), "array 0: expected finite float32.*found float64"),
        (lambda folder: rewrite_weights(folder, changed_weights(folder, np.float32, np.nan)), "array 0: expected finite"),
    ],
)
def test_weights_that_do_not_fit_are_not_used(folder, break_it, sentence):
    break_it(folder)
    with pytest.raises(ModelError, match=sentence) as caught:
        read_model(folder).load()
    assert "\n" not in str(caught.value)


def changed_weights(folder, dtype, value=None):
    with np.load(folder / "weights-0.npz") as archive:
        arrays = [archive[str(number)] for number in range(len(archive.files))]
    arrays[0] = arrays[0].astype(dtype)
    if value is not None:
        arrays[0][0, 0] = value
    return arrays


def test_garbage_that_the_card_vouches_for(folder):
    (folder / "weights-0.npz").write_bytes(b"not a zip")
    edit_card(folder, members=[digest_of(folder / "weights-0.npz")])
    with pytest.raises(ModelError, match="are not an npz of plain arrays"):
        read_model(folder).load()


def test_a_model_works_only_on_what_it_was_trained_for(folder):
    packed = read_model(folder)
    packed.check("abcdef012345", "MgII")
    with pytest.raises(ModelError, match="was trained for MgII, not for CIV"):
        packed.check("abcdef012345", "CIV")
    with pytest.raises(ModelError, match="was trained on the wavelength grid abcdef012345, and the spectra are on 000000000000"):
        packed.check("000000000000", "MgII")
    with pytest.raises(ModelError, match=r"reads examples of shape \(8, 49, 2\), not \(8, 48, 2\)"):
        packed.load().predict(np.zeros((3, 8, 48, 2)))


# ---- at work


@pytest.mark.parametrize("options", [OPTIONS, {}], ids=["small", "default"])
def test_a_score_does_not_depend_on_the_batch(options):
    """To the last bit: in whatever order and company the rows come, and however many go through at a time."""
    card = make_card(options=options)
    models = make_models(card)
    examples = make_examples(700)
    expected = Detector(card, models).predict(examples)
    assert len(np.unique(expected)) > 400
    rng = np.random.default_rng(1)
    for batch_size in (1, 16, 100, 256, 1024):
        detector = Detector(card, models, batch_size)
        order = rng.permutation(len(examples))
        np.testing.assert_array_equal(detector.predict(examples[order]), expected[order])
        cuts = np.sort(rng.integers(0, len(examples), 5))
        np.testing.assert_array_equal(np.concatenate([detector.predict(piece) for piece in np.split(examples, cuts)]), expected)


@pytest.mark.parametrize("network", ["zhao2019", "inception"])
def test_nor_does_a_spectrums(network):
    card = make_card(network=network, options={}, inputs=("flux",), shape=(3841,))
    detector = Detector(card, make_models(card, 1), 16)
    spectra = np.random.default_rng(0).normal(1, 0.2, (40, 3841, 1)).astype(np.float32)
    expected = detector.logits(spectra)
    order = np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(detector.logits(spectra[order]), expected[order])
    np.testing.assert_array_equal(np.concatenate([detector.logits(spectra[:7]), detector.logits(spectra[7:])]), expected)


def test_scores_are_calibrated_means_of_the_members_logits(trained):
    card, models = trained
    detector = Detector(card, models)
    examples = make_examples(50)
    logits = detector.logits(examples)
    scores = detector.predict(examples)
    assert logits.shape == (50, 2) and scores.shape == (50,) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-(0.7 * logits.astype(float).mean(axis=1) - 0.2))), rtol=1e-6)


def test_a_model_that_finds_little_says_so(trained):
    card, _ = trained
    assert card.model_copy(update={"metrics": {"recall": 0.9, "precision": 0.9, "auc": 0.3}}).doubt == ""
    assert card.model_copy(update={"metrics": {}}).doubt == "", "a card that does not say"
    nothing = card.model_copy(update={"metrics": {"recall": 0.0, "precision": None}})
    assert "only recall 0.00." in nothing.doubt and table_2(nothing) == "precision undefined, recall 0.000"
    poor = card.model_copy(update={"metrics": {"recall": 0.08, "precision": 0.6}}).doubt
    assert poor.startswith("on its own test it reached only recall 0.08 and precision 0.60.") and "train.epochs" in poor
    assert read_model().card.doubt == "", "the one that ships"


def test_what_scores_is_asked_for_where_it_is_not_installed(folder, monkeypatch):
    monkeypatch.setattr("nalspark.learning.models.find_spec", lambda name: None)
    for device in ("-1", "0"):  # with a GPU too: clusters set the variable themselves
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device)
        assert read_model(folder).load().predict(make_examples(3)).shape == (3,)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    edit_card(folder, network="zhao2019")
    with pytest.raises(ModelError, match=r"^zhao2019 needs TensorFlow, .*'nalspark\[standard\]'"):
        read_model(folder).load()


def test_extremes(trained):
    detector = Detector(*trained)
    assert detector.predict(np.zeros((0, 8, 49, 2))).shape == (0,)
    for value in (0.0, 1e6, -1e6):
        score = detector.predict(np.full((2, 8, 49, 2), value))
        assert np.isfinite(score).all() and ((score >= 0) & (score <= 1)).all()
    broken = make_examples(5)
    broken[1, 2, 3, 0], broken[3, 2, 3, 1] = np.nan, np.inf
    np.testing.assert_array_equal(np.isnan(detector.predict(broken)), [False, True, False, True, False])
    np.testing.assert_array_equal(Calibration().score([-1e4, 0.0, 1e4]), np.array([0, 0.5, 1], np.float32))


def test_moving_a_model_does_not_load_keras(folder):
    code = (
        "import sys; from nalspark.learning.models import read_model; import nalspark.learning.inference;"
        f"read_model({str(folder)!r}).check('abcdef012345', 'MgII'); sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_said_on_standard_error_in_processes_of_nalspark(folder):
    code = (
        "from nalspark.worker import own_process; own_process();"
        "from nalspark.learning.models import read_model; import numpy as np;"
        f"read_model({str(folder)!r}).load_features().logits(np.zeros((1, 8, 49, 2)))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert told.stderr == told.stdout == ""


# ---- calibration


def test_calibration_recovers_what_distorted_the_logits():
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 2, 40_000)
    label = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    found = fit_calibration((logit + 0.5) * 3.0, label)
    np.testing.assert_allclose([found.slope, found.intercept], [1 / 3, -0.5], rtol=0.05)
    np.testing.assert_allclose(found.score((logit + 0.5) * 3.0).mean(), label.mean(), atol=1e-3)


def test_calibration_of_separable_labels_is_finite():
    found = fit_calibration([-3.0, -2.0, 2.0, 3.0], [0, 0, 1, 1])
    assert 0 < found.slope < 10
    np.testing.assert_allclose(found.score(0.0), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    "logits, labels, sentence",
    [
        ([0.0, 1.0, np.nan], [0, 1, 1], "1 of 3 logits are not finite"),
        ([0.0, 1.0, 2.0], [1, 1, 1], "3 of 1 and 0 of 0"),
        ([0.0, 1.0, 2.0], [0, 1, np.nan], "labelled 0 and 1"),
        ([2.0, 1.0, 0.0], [0, 1, 1], "has learned nothing"),
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], "has learned nothing"),
    ],
)
def test_what_cannot_be_calibrated(logits, labels, sentence):
    with pytest.raises(ModelError, match=sentence):
        fit_calibration(logits, labels)

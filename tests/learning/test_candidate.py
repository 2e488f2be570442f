"""candidate_cnn in numpy: the logits of keras, row by row, for all options, in any company; and no keras where it is not needed."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from nalspark.absorption.chain import Searchable, prepare, propose
from nalspark.errors import ModelError
from nalspark.learning import candidate, inference, networks
from nalspark.learning.models import STEP, Detector, ModelCard, PackedModel, npz, read_model
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.mocks.stages import REALISTIC
from nalspark.settings import Settings

SMALL = {"filters": [4, 6, 8], "kernels": [5, 3, 3], "dense": 10}
#: Options, and (transitions, columns) of an image.
CASES = [
    ({}, (8, 49)),
    ({"mask": False}, (8, 49)),
    ({"shapes": 5}, (8, 49)),
    ({"filters": [32, 48, 64], "mask": False, "shapes": 192, "dropout": 0.1, "noise": 0.0}, (8, 49)),
    (SMALL, (5, 31)),
    (SMALL | {"shapes": 1, "dense": 3}, (2, 26)),
    ({"filters": [3, 3, 3], "kernels": [1, 1, 1], "dense": 8}, (1, 4)),
]


def images(n, shape=(8, 49), seed=0):
    """Noise of any size with lines in it, masked pixels, and images without a pixel that is not masked."""
    rng = np.random.default_rng(seed)
    inverse_error = np.exp(rng.uniform(0.0, 6.0, (n, 1, 1))) * rng.uniform(0.5, 1.0, (n, *shape))
    residual = rng.normal(size=(n, *shape)) / inverse_error + rng.uniform(0.0, 1.0, (n, 1, 1)) * (rng.random((n, *shape)) < 0.1)
    masked = rng.random((n, *shape)) < rng.choice([0.02, 0.5, 1.0], (n, 1, 1), p=[0.8, 0.15, 0.05])
    residual[masked] = inverse_error[masked] = 0.0
    return np.stack([residual, inverse_error], axis=-1).astype(np.float32)


def soiled(examples):
    """Any residual where pixels are masked."""
    anything = np.random.default_rng(0).choice(np.array([3.0, 1e30, np.nan, np.inf, -np.inf], np.float32), examples.shape[:-1])
    residual = np.where(examples[..., 1] > 0, examples[..., 0], anything)
    return np.stack([residual, examples[..., 1]], axis=-1)


def random_weights(shape, options, seed=0):
    """Of a size that keeps the logits near 1, levels too."""
    rng = np.random.default_rng(seed)
    shapes = candidate.weight_shapes((*shape, 2), options)
    return [rng.normal(0.0, 1.0 / np.sqrt(max(1, np.prod(each[:-1]))), each).astype(np.float32) for each in shapes]


def of_keras(examples, weights, options):
    """Logits of keras, not rounded."""
    model = networks.build("candidate_cnn", examples.shape[1:], options)
    model.set_weights(weights)
    return networks.ops.convert_to_numpy(model(examples, training=False))


def packed_model(options, shape=(8, 49), members=1):
    card = ModelCard(name="test", network="candidate_cnn", options=options, inputs=("image_residual", "image_inverse_error"),
                     shape=shape, grid="g", species="MgII")  # fmt: skip
    weights = tuple(npz({str(n): array for n, array in enumerate(random_weights(shape, options, seed))}) for seed in range(members))
    return PackedModel(card, weights)


@cache
def realistic():
    """Candidates of artificial spectra, as a search finds them."""
    settings, names = Settings(), [f"quasar-{number}" for number in range(128)]
    mocks = make_mocks(names, Recipe(settings.line_species, (REALISTIC,), seed=7, contaminated=0.1))
    return propose(Searchable.of(prepare(mocks.spectra, mocks.z_qso, settings), mocks.z_qso), settings).images.astype(np.float32)


# ---- the same as keras


@pytest.mark.parametrize("options, shape", CASES)
def test_logits_are_those_of_keras(options, shape):
    weights, examples = random_weights(shape, options), soiled(images(200, shape))
    expected = of_keras(examples, weights, options)
    found = candidate.Network(weights, options)(examples)
    assert found.shape == (200, 1) and found.dtype == np.float32 and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options, shape", CASES)
def test_weights_have_the_shapes_that_keras_gives_them(options, shape):
    built = networks.build("candidate_cnn", (*shape, 2), options)
    assert candidate.weight_shapes((*shape, 2), options) == [array.shape for array in built.get_weights()]


def test_the_model_that_ships_scores_candidates_as_with_keras():
    packed, examples = read_model(), realistic()
    assert len(examples) > 200
    plain, heavy = packed.load(), Detector(packed.card, packed._networks())
    expected = heavy._run(np.resize(examples, (256, 8, 49, 2)))
    found = np.concatenate([plain._run(batch) for batch in np.resize(examples, (4, 64, 8, 49, 2))])
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-4)
    steps = np.rint((plain.logits(examples) - heavy.logits(examples)) / STEP)
    assert np.abs(steps).max() <= 1 and np.count_nonzero(steps) <= 0.01 * len(steps)
    np.testing.assert_allclose(plain.predict(examples), heavy.predict(examples), rtol=0, atol=2e-3)


# ---- row by row


@pytest.mark.parametrize("options", [{}, {"shapes": 7, "mask": False}])
def test_a_score_does_not_depend_on_the_batch(options):
    """To the last bit: in whatever order and company the rows come, and however many are asked for at a time."""
    packed, examples = packed_model(options, members=2), images(700)
    expected = packed.load().logits(examples)
    assert expected.shape == (700, 2) and len(np.unique(expected)) > 100
    rng = np.random.default_rng(1)
    for batch_size in (1, 100, 256):
        detector, order = packed.load(batch_size), rng.permutation(len(examples))
        np.testing.assert_array_equal(detector.logits(examples[order]), expected[order])
        cuts = np.sort(rng.integers(0, len(examples), 5))
        np.testing.assert_array_equal(np.concatenate([detector.logits(piece) for piece in np.split(examples, cuts)]), expected)


def test_candidates_score_the_same_at_every_place_of_a_batch():
    detector, examples = read_model().load(), realistic()[:64]
    expected = detector.logits(examples)
    for place in range(1, 64):
        np.testing.assert_array_equal(detector.logits(np.roll(examples, place, axis=0)), np.roll(expected, place, axis=0))


def test_an_example_that_is_not_finite_has_no_score_and_spoils_no_other():
    detector, examples = packed_model({"shapes": 5}).load(), images(100)
    expected, broken = detector.logits(examples), examples.copy()
    broken[3, 1, 2, 0], broken[50, 0, 0, 1], broken[70] = np.nan, np.inf, np.nan
    rows = [3, 50, 70]
    found = detector.logits(broken)
    assert np.isnan(found[rows]).all()
    np.testing.assert_array_equal(np.delete(found, rows, axis=0), np.delete(expected, rows, axis=0))
    assert detector.logits(examples[:0]).shape == (0, 1)


def test_masked_pixels_do_not_matter():
    for options in ({"mask": False}, {"shapes": 5}):
        network, examples = candidate.Network(random_weights((8, 49), options), options), images(64)
        np.testing.assert_array_equal(network(soiled(examples)), network(examples))


def test_threads_may_share_a_network():
    detector, examples = packed_model({"shapes": 50}).load(), images(2000)
    expected = detector.logits(examples)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(detector.logits, [examples] * 8):
            np.testing.assert_array_equal(found, expected)


# ---- faults


@pytest.mark.parametrize(
    "shape, options, reason",
    [
        ((8, 49, 2), {"filter": 3}, "unexpected keyword argument 'filter'"),
        ((8, 49, 3), {}, r"it reads examples of shape \(transitions, columns, 2\)"),
        ((3841, 1), {}, "not enough values"),
        ((8, 9, 2), {}, "a layer would be empty"),
        ((8, 49, 2), {"filters": [3]}, "shorter"),
        ((8, 49, 2), {"dense": "many"}, "not supported"),
    ],
)
def test_what_cannot_be_is_a_sentence(shape, options, reason):
    with pytest.raises(ModelError, match=rf"^Network candidate_cnn cannot be built for shape \(.*{reason}") as caught:
        candidate.weight_shapes(shape, options)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused():
    packed = packed_model({})
    other = PackedModel(packed.card.model_copy(update={"options": {"shapes": 5}}), packed.weights, "here")
    with pytest.raises(
        ModelError, match="^The weights weights-0.npz of 'here' are 10 arrays where the network has 16; number 8 does not fit"
    ):
        other.load()


# ---- what computes


@pytest.mark.parametrize(
    "devices, keras",
    [(None, False), ("", False), ("-1", False), ("NoDevFiles", False), ("0", True), ("1,3", True), ("GPU-8f2e", True), ("MIG-1", True)],
)
def test_keras_computes_only_on_a_gpu_that_somebody_chose(monkeypatch, devices, keras):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert loaded_by_keras(monkeypatch) == keras


def loaded_by_keras(monkeypatch, load=PackedModel.load):
    """Whether keras builds the networks of a model that is put to work."""
    asked = []
    built = PackedModel._networks
    monkeypatch.setattr(PackedModel, "_networks", lambda packed: [asked.append(packed), *built(packed)][1:])
    load(packed_model(SMALL))
    return bool(asked)


@pytest.mark.parametrize("given", [None, ["0"]])
def test_in_a_task_the_gpu_that_spark_gave_it_counts(monkeypatch, given):
    class Task:
        def resources(self):
            return {} if given is None else {"gpu": type("Resource", (), {"addresses": given})}

    monkeypatch.setattr("nalspark.learning.inference.TaskContext.get", Task)
    monkeypatch.setattr(inference, "_AT_WORK", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = dict(inference.os.environ)
    assert loaded_by_keras(monkeypatch, lambda packed: inference.detector_at_work(packed, 256)) == (given is not None)
    assert dict(inference.os.environ) == before, "a worker that others share keeps its environment"


FIND = """
import sys, numpy as np, nalspark
wave = 10 ** np.arange(3.58, 3.96, 1e-4)
line = lambda rest, depth: 1 - depth * np.exp(-0.5 * ((wave / rest - 2.2) / 5e-4) ** 2)
found = nalspark.find(wave, line(2796.35, 0.8) * line(2803.53, 0.7), np.full(len(wave), 900.0), z=1.6)
assert np.isfinite(found.candidates["score"]).all() and len(found.candidates)
print([name for name in ("pyspark", "keras", "tensorflow") if name in sys.modules])
"""
SCORE = """
import sys, numpy as np, pandas as pd
from nalspark.learning.inference import _score_batches
from nalspark.learning.models import read_model
cells = pd.Series([np.ones((8, 49), "<f4").tobytes()] * 5)
(scores,) = _score_batches(iter([(cells, cells)]), read_model(), 256)
assert scores.notna().all()
print([name for name in ("keras", "tensorflow") if name in sys.modules])
"""


@pytest.mark.parametrize("code", [FIND, SCORE], ids=["find", "worker"])
def test_who_scores_on_processors_loads_neither_keras_nor_tensorflow(code):
    environment = {name: value for name, value in inference.os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout == "[]\n"

"""The networks: shapes, the pixel counts that the paper prints, cost, and logits that stay finite whatever the input."""

import math
from functools import cache

import numpy as np
import pytest

from nalspark.errors import ModelError
from nalspark.learning import networks
from nalspark.learning.candidate import MISFIT

NETWORKS, build, working_channels = networks.NETWORKS, networks.build, networks.working_channels

IMAGE, CUTOUT, SPECTRUM = (8, 49, 2), (9, 32, 5), (3841, 1)
#: (width: multiply-adds, weights) that each network may cost with its default options, for the shapes above.
COSTS = {"candidate_cnn": 0.6e6, "cutout_cnn": 1.6e6, "zhao2019": 120e6, "vgg": 60e6, "inception": 60e6, "resnet": 60e6}


def shape_of(name):
    return {"candidate_cnn": IMAGE, "cutout_cnn": CUTOUT}.get(name, SPECTRUM)


@cache
def by_default(name):
    """A network with its default options, built once for all tests that only read it."""
    return build(name, shape_of(name))


def numbers(tensor):
    return networks.ops.convert_to_numpy(tensor)


def multiply_adds(model):
    """Multiplications with a weight that one example costs, in convolutions and dense layers."""
    kinds = networks.layers.Conv1D | networks.layers.Conv2D | networks.layers.Dense
    return sum(math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in model.layers if isinstance(layer, kinds))


def lengths(model):
    """Pixels after each convolution and pooling, in order."""
    kinds = networks.layers.Conv1D | networks.layers.MaxPooling1D
    return [layer.output.shape[1] for layer in model.layers if isinstance(layer, kinds)]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_logit_per_example(name):
    model = by_default(name)
    logits = numbers(model(np.zeros((3, *shape_of(name)), np.float32)))
    assert logits.shape == (3, 1) and logits.dtype == np.float32
    assert model.name == name


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_is_what_is_documented(name):
    assert 0.3 * COSTS[name] < multiply_adds(by_default(name)) < COSTS[name]


def test_candidate_cnn_is_small():
    assert by_default("candidate_cnn").count_params() < 120_000


def test_cutout_cnn_is_smaller_still_and_knows_no_up_and_down_while_it_learns():
    assert 13_000 < by_default("cutout_cnn").count_params() < 17_000
    image = np.random.default_rng(0).normal(size=(1, *CUTOUT)).astype(np.float32)
    flipped = networks.Flipped()
    np.testing.assert_array_equal(numbers(flipped(image)), image)
    upset, back = image[:, ::-1], np.roll(image[:, :, ::-1], 1, axis=2)
    np.testing.assert_array_equal(back[:, :, 16], image[:, :, 16])  # the line stays in the middle
    known = {array.tobytes() for array in (image, upset, back, np.roll(upset[:, :, ::-1], 1, axis=2))}
    seen = {numbers(flipped(image, training=True)).tobytes() for _ in range(30)}
    assert seen == known


def test_zhao2019_has_the_papers_pixel_counts():
    model = by_default("zhao2019")
    assert lengths(model) == [766, 255, 251, 83, 81, 79, 77, 25]
    convolutions = [layer for layer in model.layers if isinstance(layer, networks.layers.Conv1D)]
    assert [layer.kernel.shape for layer in convolutions] == [(15, 1, 96), (5, 96, 256), (3, 256, 384), (3, 384, 384), (3, 384, 256)]


@pytest.mark.parametrize("width", [3, 5, 9, 15, 21])
def test_the_first_filter_can_be_scanned(width):
    model = build("zhao2019", SPECTRUM, {"first_filter": width})
    assert model.weights[0].shape == (width, 1, 96)
    assert lengths(model)[-1] in (25, 26)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [0.0, 1e6, -1e6])
def test_logits_are_finite_for_absurd_values(name, value):
    example = np.full((2, *shape_of(name)), value, np.float32)
    assert np.isfinite(numbers(by_default(name)(example))).all()


@pytest.mark.parametrize("options", [{"mask": False}, {"mask": True}, {"shapes": 5}])
def test_masked_pixels_do_not_matter(options):
    """Where the inverse error is 0 the residual may be anything, NaN and infinities included."""
    rng = np.random.default_rng(0)
    clean = np.stack([rng.normal(0, 0.3, (4, 8, 49)), rng.uniform(1, 30, (4, 8, 49))], axis=-1).astype(np.float32)
    clean[:, :, 20:25] = 0.0
    soiled = clean.copy()
    soiled[:, :, 20:25, 0] = np.array([1e30, np.nan, np.inf, -np.inf, 3.0])
    model = build("candidate_cnn", IMAGE, options)
    np.testing.assert_array_equal(numbers(model(soiled)), numbers(model(clean)))


def test_working_channels():
    residual, inverse_error = np.array([-3.0, -0.5, 0.0, 0.01, 1.0, 5.0, 1e6, 7.0]), np.array([1.0, 20.0, 5.0, 3.0, 40.0, 2.0, 1e6, 0.0])
    example = np.stack([residual, inverse_error], axis=-1).astype(np.float32)[None, None]
    clipped, compressed, good = np.moveaxis(numbers(working_channels(example, mask=True))[0, 0], -1, 0)
    np.testing.assert_allclose(clipped, [-1.0, -0.5, 0.0, 0.01, 1.0, 2.0, 2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(compressed, np.arcsinh([-3.0, -10.0, 0.0, 0.03, 40.0, 10.0, 1e4, 0.0]), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(good, [1, 1, 1, 1, 1, 1, 1, 0])
    assert working_channels(example, mask=False).shape[-1] == 2


def test_evidence_is_the_likelihood_ratio():
    """Against the logarithms of Gaussian densities, summed pixel by pixel, of three shapes with levels."""
    rng = np.random.default_rng(1)
    shapes, levels = rng.uniform(0.0, 0.4, (8, 49, 3)).astype(np.float32), np.array([0.3, -0.2, 0.0], np.float32)
    residual = (shapes[None, ..., 1] + rng.normal(0, 0.2, (2, 8, 49))).astype(np.float32)
    inverse_error = np.full((2, 8, 49), 5.0, np.float32)
    inverse_error[:, :, :10] = 0.0
    layer = networks.Evidence(3)
    layer.build((None, *IMAGE))
    layer.set_weights([shapes, levels])
    found = numbers(layer(np.stack([residual, inverse_error], axis=-1)))
    error = np.where(inverse_error > 0, np.sqrt(1 / 25.0 + MISFIT**2), np.inf)[..., None]
    gain = 0.5 * ((residual[..., None] / error) ** 2 - ((residual[..., None] - shapes) / error) ** 2)
    total = gain.sum(axis=(1, 2)) + levels
    evidence = np.log(np.exp(total).sum(axis=1))
    np.testing.assert_allclose(np.expm1(found[:, 1]), evidence, rtol=1e-3)
    np.testing.assert_allclose(found[:, 0], np.clip(evidence / 10.0, -3.0, 3.0), rtol=1e-3)
    by_row = (gain.sum(axis=2) * np.exp(total - evidence[:, None])[:, None]).sum(axis=2)
    left = ((residual / error[..., 0]) ** 2).sum(axis=2) - 2.0 * by_row
    np.testing.assert_allclose(np.sign(found[:, 2:10]) * np.expm1(np.abs(found[:, 2:10])), by_row, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(np.expm1(found[:, 10:18]), left, rtol=2e-3)
    np.testing.assert_allclose(found[:, 18:], 39 / 49)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_gives_the_same_network(name):
    pair = []
    for _ in range(2):
        networks.keras.utils.set_random_seed(7)
        pair.append(build(name, shape_of(name)).get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*pair, strict=True))
    assert any(array.std() > 0 for array in pair[0])


def test_options_change_the_network():
    small = build("candidate_cnn", (5, 31, 2), {"filters": [4, 6, 8], "kernels": [5, 3, 3], "dense": 10, "dropout": 0.5, "mask": True})
    assert [tuple(weight.shape) for weight in small.weights[::2]] == [(1, 5, 3, 4), (1, 3, 4, 6), (5, 3, 6, 8), (3 * 8, 10), (10, 1)]


def test_mixed_precision_ends_in_float32():
    networks.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        for name in ("candidate_cnn", "zhao2019"):
            model = build(name, shape_of(name))
            logits = model(np.full((2, *shape_of(name)), 1e6, np.float32))
            assert networks.keras.backend.standardize_dtype(logits.dtype) == "float32"
            assert np.isfinite(numbers(logits)).all()
    finally:
        networks.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    "name, shape, options, sentence",
    [
        (
            "candidate_cn",
            IMAGE,
            {},
            "Network 'candidate_cn' is not known; there are candidate_cnn, .*Did you mean 'candidate_cnn'",
        ),
        ("candidate_cnn", IMAGE, {"filter": 3}, "has no option 'filter'; it has filters, kernels.*Did you mean 'filters'"),
        ("candidate_cnn", IMAGE, {"example": 3}, "has no option 'example'"),
        ("candidate_cnn", SPECTRUM, {}, r"candidate_cnn reads examples of shape \(transitions, columns, 2\), not \(3841, 1\)"),
        ("zhao2019", IMAGE, {}, r"zhao2019 reads examples of shape \(pixels, 1\), not \(8, 49, 2\)"),
        ("candidate_cnn", (8, 9, 2), {}, r"candidate_cnn cannot be built for shape \(8, 9, 2\)"),
        ("candidate_cnn", IMAGE, {"filters": [3]}, "candidate_cnn cannot be built"),
        ("candidate_cnn", IMAGE, {"dense": "many"}, "candidate_cnn cannot be built"),
    ],
)
def test_faults_are_sentences(name, shape, options, sentence):
    with pytest.raises(ModelError, match=sentence):
        build(name, shape, options)

"""The networks, rebuilt from their name and options: nothing but weights is ever read from disk.

All are plain keras layers and ops, so that they run on the TensorFlow, JAX and PyTorch backends, and all end in one logit, kept in float32
under mixed precision. ``candidate_cnn`` sees the image of one candidate; the others see a whole spectrum.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nalspark.errors import ModelError, did_you_mean
from nalspark.learning.candidate import MISFIT, MOST_EVIDENCE, MOST_SIGNIFICANT, RESIDUAL_RANGE, Options, impossible
from nalspark.worker import is_own_process


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a process of our own from writing to standard error inside: TensorFlow's libraries write there, whatever their log level."""
    if not is_own_process():
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _quiet():
    import keras
    from keras import layers, ops

Tensor = Any

#: Rescaled flux beyond this is an artefact; it keeps the spectrum networks finite, in half precision too.
_MOST_FLUX = 100.0


def build(name: str, shape: Sequence[int], options: Mapping[str, Any] | None = None) -> keras.Model:
    """Build a network with fresh weights.

    Parameters
    ----------
    name : str
        One of :data:`NETWORKS`.
    shape : sequence of int
        Of one example: (t, c, 2) for ``candidate_cnn``, (rows, columns, planes) for ``cutout_cnn``, (p, 1) for the others.
    options : mapping, optional
        Keyword arguments of the network's function.

    Returns
    -------
    keras.Model
        (n, \\*shape) → logits of shape (n, 1), float32.

    Raises
    ------
    ModelError
        Where the name, an option or the shape does not exist.
    """
    if name not in NETWORKS:
        raise ModelError(f"Network '{name}' is not known; there are {', '.join(NETWORKS)}.{did_you_mean(name, NETWORKS)}")
    network, expected = NETWORKS[name]
    known = list(inspect.signature(network).parameters)[1:]
    for option in options or {}:
        if option not in known:
            raise ModelError(f"Network {name} has no option '{option}'; it has {', '.join(known)}.{did_you_mean(option, known)}")
    if len(shape) != len(expected) or expected[-1] not in (shape[-1], "planes"):
        raise ModelError(f"Network {name} reads examples of shape {_spelled(expected)}, not {_spelled(shape)}.")
    inputs = keras.Input(tuple(shape), name="example")
    try:
        features = network(inputs, **(options or {}))
    except (TypeError, ValueError) as error:
        raise impossible(name, shape, options or {}, error) from None
    return keras.Model(inputs, layers.Dense(1, dtype="float32", name="logit")(features), name=name)


def resolved_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give all options of a network, those that are left to their defaults too: what a card must say for good."""
    parameters = list(inspect.signature(NETWORKS[name][0]).parameters.values())[1:]
    chosen = {parameter.name: options.get(parameter.name, parameter.default) for parameter in parameters}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def _spelled(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


# ---- the image of a candidate


def working_channels(example: Tensor, mask: bool) -> Tensor:
    """Compute the channels that a network learns from: (n, t, c, 2) → (n, t, c, 2 or 3).

    The residual, clipped; the significance ``residual * inverse_error``, compressed by arcsinh: linear within the noise, a logarithm
    beyond; and, where asked for, 1 where there is data. Masked pixels (``inverse_error = 0``) are 0 in all.
    """
    residual, inverse_error = example[..., 0], example[..., 1]
    good = inverse_error > 0
    residual = ops.where(good, residual, 0.0)
    significance = ops.clip(residual * inverse_error, -MOST_SIGNIFICANT, MOST_SIGNIFICANT)
    size = ops.abs(significance)
    # arcsinh by a logarithm: on a CPU TensorFlow's own costs as much time as all the rest of the network.
    compressed = ops.sign(significance) * ops.log(size + ops.sqrt(size * size + 1.0))
    channels = [ops.clip(residual, *RESIDUAL_RANGE), compressed]
    return ops.stack([*channels, ops.cast(good, compressed.dtype)] if mask else channels, axis=-1)


class Observed(layers.Layer):
    """The image as another exposure might have shown it, while learning; unchanged afterwards.

    Noise of up to `most` times the errors is added, the errors grow with it, and the image moves by a pixel at most: no image is seen
    twice, and there is nothing in one to be remembered.
    """

    def __init__(self, most: float) -> None:
        super().__init__(dtype="float32")  # a significance of 1e4 has no square in half precision
        self.most, self.seeds = most, keras.random.SeedGenerator()

    def call(self, example: Tensor, training: bool = False) -> Tensor:
        if not training or not self.most:
            return example
        n = ops.shape(example)[0]
        moved = ops.stack([ops.roll(example, shift, axis=2) for shift in (-1, 0, 1)])
        which = ops.cast(keras.random.randint((n,), 0, 3, seed=self.seeds), "int32")
        choice = ops.cast(ops.arange(3)[:, None] == which[None], example.dtype)
        chosen = ops.sum(moved * choice[:, :, None, None, None], axis=0)
        residual, inverse_error = chosen[..., 0], chosen[..., 1]
        share = self.most * keras.random.uniform((n, 1, 1), seed=self.seeds)
        good = inverse_error > 0
        drawn = keras.random.normal(ops.shape(residual), seed=self.seeds)
        residual = residual + ops.where(good, share * drawn / ops.where(good, inverse_error, 1.0), 0.0)
        return ops.stack([residual, inverse_error / ops.sqrt(1.0 + share**2)], axis=-1)


class Evidence(layers.Layer):
    """How well learned shapes explain an image, line by line.

    With residual r and inverse variance w of a pixel, the logarithm of the likelihood ratio of a shape m to no absorption is
    ``G = Σ w (r m - m²/2)`` (Neyman & Pearson 1933): what a convolution, which sees bounded pixels, has to piece together. Given are
    ``log Σ exp(G + b)`` over the shapes; for each row the G of the shapes that explain the whole image, as probable as each is, and the χ²
    that they leave; and the part of the row's pixels that have data. Shapes m and levels b are learned.

    Parameters
    ----------
    shapes : int
        How many.
    """

    def __init__(self, shapes: int) -> None:
        super().__init__(dtype="float32")  # sums of squares have no place in half precision
        self.shapes = shapes

    def build(self, shape: Sequence[int | None]) -> None:
        self.shape_weights = self.add_weight((*shape[1:3], self.shapes), initializer=_first_shapes, name="shapes")
        self.levels = self.add_weight((self.shapes,), initializer="zeros", name="levels")

    def call(self, example: Tensor) -> Tensor:
        inverse_error = example[..., 1]
        good = inverse_error > 0
        residual = ops.clip(ops.where(good, example[..., 0], 0.0), *RESIDUAL_RANGE)
        variance_inverse = inverse_error * inverse_error
        weight = variance_inverse / (1.0 + variance_inverse * MISFIT**2)
        signal, power = (ops.transpose(values, (1, 0, 2)) for values in (residual * weight, weight))
        shapes = self.shape_weights
        gain = ops.matmul(signal, shapes) - 0.5 * ops.matmul(power, shapes * shapes)  # (t, n, shapes)
        total = ops.sum(gain, axis=0) + self.levels
        evidence = ops.logsumexp(total, axis=1, keepdims=True)
        gains = ops.transpose(ops.sum(gain * ops.exp(total - evidence)[None], axis=2))
        misfit = ops.sum(residual * residual * weight, axis=2) - 2.0 * gains
        present = ops.mean(ops.cast(good, "float32"), axis=2)
        bounded = ops.clip(0.1 * evidence, -MOST_EVIDENCE, MOST_EVIDENCE)
        return ops.concatenate([bounded, *(_logarithmic(values) for values in (evidence, gains, misfit)), present], axis=1)


def _logarithmic(values: Tensor) -> Tensor:
    return ops.sign(values) * ops.log(1.0 + ops.abs(values))


def _first_shapes(shape: Sequence[int], dtype: str | None = None) -> Tensor:
    """Shapes to begin with: one or two Gaussian lines near the middle, the same in all rows but for their depth; (t, c, shapes)."""
    rows, columns, n = shape
    rng, column = np.random.default_rng(0), np.arange(columns) - columns // 2
    centre, width = rng.normal(0.0, 1.2, (2, n, 1)), np.exp(rng.uniform(np.log(1.1), np.log(4.5), (2, n, 1)))
    depth = rng.uniform(0.3, 1.0, (2, n, 1)) * np.array([1.0, 0.5])[:, None, None] ** rng.integers(0, 9, (2, n, 1))
    profile = 1.0 - np.prod(1.0 - depth * np.exp(-0.5 * ((column - centre) / width) ** 2), axis=0)
    strength = np.exp(rng.uniform(np.log(0.1), np.log(2.0), n)) * rng.uniform(0.0, 1.0, (rows, n))
    lines = 1.0 - np.exp(-strength[:, None] * (profile / profile.max(axis=1, keepdims=True)).T)
    return ops.convert_to_tensor(lines.astype(np.float32))


def candidate_cnn(
    example: Tensor,
    filters: Sequence[int] = Options.filters,
    kernels: Sequence[int] = Options.kernels,
    dense: int = Options.dense,
    dropout: float = Options.dropout,
    mask: bool = Options.mask,
    noise: float = Options.noise,
    shapes: int = Options.shapes,
) -> Tensor:
    """Build profiles along each row, then all rows at once: 0.47 million multiply-adds for 8 transitions of 49 pixels.

    The first two convolutions look at one transition at a time, with the same weights for all; each is followed by a maximum over two
    pixels. The third spans all transitions: which profile stands in which row at the same velocity. Then a dense layer.

    Parameters
    ----------
    filters, kernels : three int
        Of the convolutions: number, and width in (pooled) pixels.
    dense : int
    dropout : float
        Fraction of the dense layer that is left out at each step of the training.
    mask : bool
        Whether "there is data" is a channel of its own.
    noise : float
        Noise that is added while learning: see :class:`Observed`.
    shapes : int
        Learned shapes whose :class:`Evidence` is weighed beside the profiles; 0 for none.
    """
    rows = example.shape[1]
    seen = Observed(noise)(example)
    h = working_channels(seen, mask)
    for number, width in list(zip(filters, kernels, strict=True))[:2]:
        h = layers.Conv2D(number, (1, width), activation="relu", kernel_initializer="he_normal")(h)
        h = layers.MaxPooling2D((1, 2))(h)
    h = layers.Conv2D(filters[2], (rows, kernels[2]), activation="relu", kernel_initializer="he_normal")(h)
    h = layers.Dropout(dropout)(_dense(dense)(layers.Flatten()(h)))
    if not shapes:
        return h
    evidence = _dense(dense // 2)(Evidence(shapes)(seen))
    return _dense(dense)(layers.Concatenate()([h, evidence]))


# ---- the cut-out of an emission line


class Flipped(layers.Layer):
    """The image, while learning, upside down or with its columns reversed about the middle one: for a line neither matters."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator()

    def call(self, example: Tensor, training: bool = False) -> Tensor:
        if not training:
            return example
        upset, reversed_ = (keras.random.uniform((ops.shape(example)[0], 1, 1, 1), seed=self.seeds) < 0.5 for _ in range(2))
        example = ops.where(upset, ops.flip(example, 1), example)
        # The middle of an even number of columns is the first of the right half: it stays in its place.
        return ops.where(reversed_, ops.roll(ops.flip(example, 2), 1, 2), example)


def cutout_cnn(example: Tensor, filters: Sequence[int] = (24, 32), kernels: Sequence[int] = (5, 5), dropout: float = 0.2) -> Tensor:
    """Build two convolutions and their means over the image: 16 thousand weights for five planes of 9 rows and 32 columns.

    Significances are compressed by a logarithm. Between the convolutions stands a maximum over 2 x 2 pixels. The features are each map's
    mean over all rows and columns, and a mean with weights that are learned: a detection is in the middle of its image, and what lies at
    the border is less often part of it.

    Parameters
    ----------
    filters : two int
    kernels : two int
        Columns of the filters; they are 3 rows tall.
    dropout : float
        Fraction of the features that is left out at each step of the training.
    """
    significance = ops.clip(Flipped()(example), -MOST_SIGNIFICANT, MOST_SIGNIFICANT)
    h = ops.sign(significance) * ops.log1p(ops.abs(significance))
    first, second = zip(filters, kernels, strict=True)
    h = layers.Conv2D(first[0], (3, first[1]), padding="same", activation="relu", kernel_initializer="he_normal")(h)
    h = layers.MaxPooling2D(2, padding="same")(h)
    h = layers.Conv2D(second[0], (3, second[1]), padding="same", activation="relu", kernel_initializer="he_normal")(h)
    weighted = layers.Flatten()(layers.DepthwiseConv2D(tuple(h.shape[1:3]), depthwise_initializer="glorot_normal")(h))
    return layers.Dropout(dropout)(layers.Concatenate()([layers.GlobalAveragePooling2D()(h), weighted]))


# ---- a whole spectrum


def zhao2019(example: Tensor, first_filter: int = 15, dense: int = 256, dropout: float = 0.5) -> Tensor:
    """Build the network of Zhao et al. (2019, §3.2): ten layers on 3841 pixels.

    conv 96 x 15, stride 5 → 766, pool 3 → 255; conv 256 x 5 → 251, pool 3 → 83; conv 384 x 3 → 81, 384 x 3 → 79, 256 x 3 → 77, pool 3 → 25;
    dense, dropout, dense. The paper prints the pixel counts 766 and 25, not the widths of the later filters: these are the ones that give
    them. Nor does it print the size of the dense layer.

    Parameters
    ----------
    first_filter : int
        Width of the first filter, pixels: the paper scans it, and finds 15 best.
    dense : int
    dropout : float
    """
    h = _bounded(example)
    h = layers.MaxPooling1D(3)(_conv(h, 96, first_filter, strides=5, padding="valid"))
    h = layers.MaxPooling1D(3)(_conv(h, 256, 5, padding="valid"))
    for number in (384, 384, 256):
        h = _conv(h, number, 3, padding="valid")
    h = layers.Flatten()(layers.MaxPooling1D(3)(h))
    return layers.Dropout(dropout)(_dense(dense)(h))


def vgg(
    example: Tensor,
    filters: Sequence[int] = (16, 32, 64, 64, 128),
    depths: Sequence[int] = (1, 1, 2, 2, 2),
    dense: int = 128,
    dropout: float = 0.5,
) -> Tensor:
    """Build VGG-11 (Simonyan & Zisserman 2014, configuration A) along one axis: 50 million multiply-adds for 3841 pixels.

    Five blocks of `depths` convolutions of width 3, each block closed by a maximum over two pixels: 3841 → 1920 → 960 → 480 → 240 → 120;
    two dense layers with dropout.
    """
    h = _bounded(example)
    for number, depth in zip(filters, depths, strict=True):
        for _ in range(depth):
            h = _conv(h, number, 3)
        h = layers.MaxPooling1D(2)(h)
    h = layers.Flatten()(h)
    for _ in range(2):
        h = layers.Dropout(dropout)(_dense(dense)(h))
    return h


def inception(example: Tensor, filters: Sequence[Sequence[int]] = ((64,), (128, 128), (256,)), dropout: float = 0.4) -> Tensor:
    """Build GoogLeNet (Szegedy et al. 2014; batch normalisation as in Ioffe & Szegedy 2015) along one axis: 35 million multiply-adds.

    conv 16 x 7 stride 2, pool 2 → 960; conv 32 x 3; modules of four branches (1; 1-3; 1-5; pool-1) whose outputs stand side by side, with a
    maximum over two pixels between groups: 960 → 480 → 240; mean over the pixels, dropout.
    """
    h = layers.MaxPooling1D(2)(_normalized(_bounded(example), 16, 7, strides=2))
    h = _normalized(h, 32, 3)
    for group, numbers in enumerate(filters):
        h = layers.MaxPooling1D(2)(h) if group else h
        for number in numbers:
            h = _inception_module(h, number)
    return layers.Dropout(dropout)(layers.GlobalAveragePooling1D()(h))


def _inception_module(h: Tensor, number: int) -> Tensor:
    """`number` features: a quarter of width 1, a half of width 3, an eighth of width 5, an eighth of pooled ones."""
    single = _normalized(h, number // 4, 1)
    triple = _normalized(_normalized(h, number // 4, 1), number // 2, 3)
    quintuple = _normalized(_normalized(h, number // 8, 1), number // 8, 5)
    pooled = _normalized(layers.MaxPooling1D(3, strides=1, padding="same")(h), number // 8, 1)
    return layers.Concatenate()([single, triple, quintuple, pooled])


def resnet(example: Tensor, filters: Sequence[int] = (16, 32, 64, 128), blocks: int = 2) -> Tensor:
    """Build ResNet-18 (He et al. 2015) along one axis, a quarter as wide: 40 million multiply-adds for 3841 pixels.

    conv 16 x 7 stride 2, pool 2 → 960; groups of `blocks` residual blocks of two convolutions of width 3, each group but the first at half
    the pixels: 960 → 480 → 240 → 120; mean over the pixels.
    """
    h = layers.MaxPooling1D(2)(_normalized(_bounded(example), filters[0], 7, strides=2))
    for group, number in enumerate(filters):
        for block in range(blocks):
            h = _residual_block(h, number, strides=2 if group and not block else 1)
    return layers.GlobalAveragePooling1D()(h)


def _residual_block(h: Tensor, number: int, strides: int) -> Tensor:
    inner = _normalized(_normalized(h, number, 3, strides=strides), number, 3, activation=None)
    if strides != 1 or h.shape[-1] != number:
        h = _normalized(h, number, 1, strides=strides, activation=None)
    return layers.Activation("relu")(layers.Add()([h, inner]))


def _dense(number: int) -> layers.Layer:
    return layers.Dense(number, activation="relu", kernel_initializer="he_normal")


def _bounded(example: Tensor) -> Tensor:
    return ops.clip(example, -_MOST_FLUX, _MOST_FLUX)


def _conv(h: Tensor, number: int, width: int, strides: int = 1, padding: str = "same") -> Tensor:
    return layers.Conv1D(number, width, strides=strides, padding=padding, activation="relu", kernel_initializer="he_normal")(h)


def _normalized(h: Tensor, number: int, width: int, strides: int = 1, activation: str | None = "relu") -> Tensor:
    """Convolution, batch normalisation, activation."""
    h = layers.Conv1D(number, width, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal")(h)
    h = layers.BatchNormalization()(h)
    return layers.Activation(activation)(h) if activation else h


#: Name → the function that makes the features before the logit, and the shape of an example it reads.
NETWORKS: dict[str, tuple[Callable[..., Tensor], tuple[str | int, ...]]] = {
    "candidate_cnn": (candidate_cnn, ("transitions", "columns", 2)),
    "cutout_cnn": (cutout_cnn, ("rows", "columns", "planes")),
    "zhao2019": (zhao2019, ("pixels", 1)),
    "vgg": (vgg, ("pixels", 1)),
    "inception": (inception, ("pixels", 1)),
    "resnet": (resnet, ("pixels", 1)),
}

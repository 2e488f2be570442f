"""``candidate_cnn`` on processors: what :mod:`nalspark.learning.networks` has keras compute, in numpy, which every worker has loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import local
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from nalspark.compiled import compiled
from nalspark.errors import ModelError

Floats = NDArray[np.float32]

NAME = "candidate_cnn"
#: A residual beyond these is an artefact: 1 is black, and noise may go past it.
RESIDUAL_RANGE = (-1.0, 2.0)
#: Significance per pixel beyond which nothing more is learned; its square is still exact enough in float32.
MOST_SIGNIFICANT = 1e4
#: An absorber lies this far from the nearest learned shape: part of the light. It bounds what a bright spectrum says for or against one.
MISFIT = 0.04
#: Evidence, in units of 10, beyond which nothing is uncertain.
MOST_EVIDENCE = 3.0
#: Images that go through together: fewer make short products, and of more the products do not stay in a core's cache.
ROWS = 64


@dataclass(frozen=True)
class Options:
    """Options of the network, with their defaults: see :func:`nalspark.learning.networks.candidate_cnn`."""

    filters: Sequence[int] = (12, 24, 48)
    kernels: Sequence[int] = (9, 5, 3)
    dense: int = 64
    dropout: float = 0.3
    mask: bool = True
    noise: float = 0.5
    shapes: int = 0


def weight_shapes(shape: Sequence[int], options: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Give the shapes of the weights, in the order of ``keras.Model.get_weights()``, for examples of `shape` (t, c, 2).

    Raises
    ------
    ModelError
        Where there is no such network.
    """
    try:
        chosen, (rows, width, planes) = Options(**options), shape
        if planes != 2:
            raise ValueError("it reads examples of shape (transitions, columns, 2)")
        found, channels = list[tuple[int, ...]](), 3 if chosen.mask else 2
        for height, pooled, number, kernel in zip((1, 1, rows), (2, 2, 1), chosen.filters, chosen.kernels, strict=True):
            found += [(height, kernel, channels, number), (number,)]
            width, channels = (width - kernel + 1) // pooled, number
        found += [(width * channels, chosen.dense), (chosen.dense,)]
        if chosen.shapes:
            half = chosen.dense // 2
            found += [(rows, shape[1], chosen.shapes), (chosen.shapes,), (2 + 3 * rows, half), (half,)]
            found += [(chosen.dense + half, chosen.dense), (chosen.dense,)]
        if min(map(min, found)) < 1:
            raise ValueError("a layer would be empty")
    except (TypeError, ValueError) as error:
        raise impossible(NAME, shape, options, error) from None
    return [*found, (chosen.dense, 1), (1,)]


def impossible(name: str, shape: Sequence[int], options: Mapping[str, Any], error: Exception) -> ModelError:
    """Say that a network cannot be built, and why."""
    reason = str(error).splitlines()[0]
    return ModelError(f"Network {name} cannot be built for shape {tuple(shape)} with options {dict(options)}: {reason}")


class Network:
    """The network at work.

    A convolution is a product of matrices, whose windows are not copied: of one column, the windows in all rows of all images are a matrix
    as they lie. The products of all columns lie one after the other. Several threads may use it.

    Parameters
    ----------
    weights : sequence of ndarray, with the shapes of :func:`weight_shapes`
    options : mapping
    """

    def __init__(self, weights: Sequence[Floats], options: Mapping[str, Any]) -> None:
        self._mask, pairs = Options(**options).mask, list(zip(weights[::2], weights[1::2], strict=True))
        # To the last convolution the rows of an image are channels: as (width, rows, channels) they lie in its windows.
        self._filters = [(kernel.swapaxes(0, 1).reshape(-1, len(level)), level) for kernel, level in pairs[:3]]
        self._dense, self._evidence, self._logit = pairs[3], pairs[4:-1], pairs[-1]
        if self._evidence:
            shapes, levels = self._evidence[0]
            self._evidence[0] = np.concatenate([shapes, -0.5 * shapes * shapes], axis=1), levels
        self._kept = local()

    def __call__(self, batch: Floats) -> Floats:
        """Compute logits, (n, t, c, 2) → (n, 1)."""
        n, rows, columns, _ = batch.shape
        with np.errstate(all="ignore"):  # an example that is not finite gets no score
            inverse_error = batch[..., 1]
            good = inverse_error > 0
            residual = np.where(good, batch[..., 0], np.float32(0))
            significance = np.clip(residual * inverse_error, -MOST_SIGNIFICANT, MOST_SIGNIFICANT)
            size = np.abs(significance)
            compressed = np.copysign(np.log(size + np.sqrt(size * size + np.float32(1))), significance)
            residual, present = np.clip(residual, *RESIDUAL_RANGE), good.astype(np.float32)
            channels = np.stack([residual, compressed, present] if self._mask else [residual, compressed], axis=-1)
            h = self._convolved(0, channels.reshape(n * rows, columns, -1), n * rows, 2)
            h = self._convolved(1, h, n, 2)
            h = self._convolved(2, h, n, 1)
            h = _dense(h.reshape(n, -1), *self._dense)
            if self._evidence:
                told = _dense(self._told(residual, inverse_error, present), *self._evidence[1])
                h = _dense(np.concatenate([h, told], axis=1), *self._evidence[2])
            kernel, level = self._logit
            return h @ kernel + level

    def _convolved(self, number: int, h: Floats, items: int, pooled: int) -> Floats:
        """Convolve along the columns, pool and rectify, (m, columns, channels) → (items, columns, m / items · filters)."""
        filters, level = self._filters[number]
        columns = (h.shape[1] - len(filters) // h.shape[2] + 1) // pooled
        product = self._memory(f"product {number}", columns * pooled, len(h), len(level))
        windows = as_strided(h, (len(product), len(h), len(filters)), (h.strides[1], h.strides[0], h.strides[2]), writeable=False)
        np.matmul(windows, filters, out=product)
        pairs = product.reshape(columns, pooled, items, -1)
        result = self._memory(f"result {number}", items, columns, pairs.shape[3])
        _settle(pairs, np.tile(level, len(h) // items), result)
        return result

    def _told(self, residual: Floats, inverse_error: Floats, present: Floats) -> Floats:
        """Compute what the learned shapes tell, (n, 2 + 3 t): see :class:`nalspark.learning.networks.Evidence`."""
        variance_inverse = inverse_error * inverse_error
        weight = variance_inverse / (np.float32(1) + variance_inverse * np.float32(MISFIT**2))
        shapes, levels = self._evidence[0]
        seen = np.concatenate([residual * weight, weight], axis=2).swapaxes(0, 1)
        gain = np.matmul(seen, shapes, out=self._memory("gain", *seen.shape[:2], len(levels)))  # (t, n, shapes)
        total = gain.sum(axis=0) + levels
        most = total.max(axis=1, keepdims=True)
        share = np.exp(total - most)
        whole = share.sum(axis=1, keepdims=True)
        evidence = most + np.log(whole)
        gain *= share / whole
        gains = gain.sum(axis=2).T
        misfit = np.einsum("ntc,ntc,ntc->nt", residual, residual, weight) - 2 * gains
        bounded = np.clip(np.float32(0.1) * evidence, -MOST_EVIDENCE, MOST_EVIDENCE)
        return np.concatenate([bounded, *map(_logarithmic, (evidence, gains, misfit)), present.mean(axis=2)], axis=1)

    def _memory(self, name: str, *shape: int) -> Floats:
        """Give this thread's array of that name, with whatever is in it: fresh memory would cost as much time as the sums."""
        kept = self._kept.__dict__
        if name not in kept or kept[name].shape != shape:
            kept[name] = np.empty(shape, np.float32)
        return kept[name]


@compiled
def _settle(pairs: Floats, level: Floats, result: Floats) -> None:
    """Pool, add the level and rectify, (columns, 1 or 2, n, channels) → (n, columns, channels)."""
    items, columns, channels = result.shape
    last, nothing = pairs.shape[1] - 1, np.float32(0)
    for i in range(items):
        for c in range(columns):
            one, other, row = pairs[c, 0, i], pairs[c, last, i], result[i, c]
            for k in range(channels):
                value = (one[k] if one[k] > other[k] else other[k]) + level[k]
                row[k] = value if value > nothing else nothing


def _dense(h: Floats, kernel: Floats, level: Floats) -> Floats:
    return np.maximum(h @ kernel + level, 0)


def _logarithmic(values: Floats) -> Floats:
    return np.copysign(np.log(1 + np.abs(values)), values)

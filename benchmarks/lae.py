"""The network of the appendix of Sakai (2020): Lyα emitter or not, from few sources that people had looked at, each shown several times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nalspark.emission.frames import CUTOUT_SHAPE, FIRST_REAL_CLASS, PLANES
from nalspark.emission.inject import ALL_CLASSES, generator, simulate
from nalspark.learning.feed import Feed

#: Class → unique sources, and how often each is shown: 16,205 examples.
UNIQUE = {0: 4000, 1: 1000, 4: 595, 5: 505}
SHOWN = {0: 1, 1: 4, 4: 7, 5: 8}
#: Accuracy by class in the slides.
SLIDES = {-1: 0.462, 0: 0.894, 1: 0.835, 2: 0.635, 3: 0.406, 4: 0.899, 5: 0.891}
#: Fraction of the unique sources that are learned from; the others are for stopping and for the accuracy.
LEARNED = 0.8
_ROW_GROUP = 1000


def variants(images: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """Give images as they are and changed: upside down, columns reversed about the middle, moved by a column.

    Parameters
    ----------
    images : ndarray, shape (n, k, 9, 32)
    times : int
        1 to 12.

    Returns
    -------
    ndarray, shape (times, n, k, 9, 32)
        All different, the first as it was; a column that moves out comes in at the other end.
    """
    made = []
    for shift in (0, 1, -1):
        moved = np.roll(images, shift, axis=3)
        back = np.roll(moved[..., ::-1], 1, axis=3)
        made += [moved, moved[:, :, ::-1], back, back[:, :, ::-1]]
    return np.stack(made[:times])


def examples_of_class(value: int, number: int, frame: NDArray[np.float32], block: str, seed: int = 1) -> NDArray[np.float32]:
    """Simulate cut-outs (number, 5, 9, 32) of one class, in the noise of a block of fibers."""
    if value not in ALL_CLASSES:
        raise ValueError(f"class {value} is none of {ALL_CLASSES}")
    names = [f"lae-{block}-{value}-{k}" for k in range(number)]
    return simulate(names, frame, block, (value,), seed).images


def write_examples(folder: Path, frame: NDArray[np.float32], seed: int = 1) -> tuple[Feed, Feed]:
    """Write the examples for training and validation, as Parquet: split by source, so that no source is on both sides.

    Parameters
    ----------
    folder : path
    frame : ndarray, shape (f, p)
        Significances of a frame without sky.
    """
    split: dict[str, list[tuple[int, NDArray[np.float32]]]] = {"train": [], "validation": []}
    for value, number in UNIQUE.items():
        images = examples_of_class(value, number, frame, "learn", seed)
        learned = round(LEARNED * number)
        for name, some in (("train", images[:learned]), ("validation", images[learned:])):
            split[name].append((value, variants(some, SHOWN[value]).reshape(-1, *images.shape[1:])))
    return _feed(folder / "train.parquet", split["train"]), _feed(folder / "validation.parquet", split["validation"])


def _feed(path: Path, examples: list[tuple[int, NDArray[np.float32]]]) -> Feed:
    images = np.concatenate([some for _, some in examples])
    labels = np.concatenate([np.full(len(some), float(value >= FIRST_REAL_CLASS), np.float32) for value, some in examples])
    order = generator("order", path.name).permutation(len(images))
    planes = {name: pa.array([plane.tobytes() for plane in images[order, k]], pa.binary()) for k, name in enumerate(PLANES)}
    draws = generator("draw", path.name).random(len(images))
    pq.write_table(pa.table({"label": labels[order], "draw": draws, **planes}), path, row_group_size=_ROW_GROUP)
    return Feed((str(path),), PLANES, CUTOUT_SHAPE)

"""Scores with Spark: the packed model travels with the function, is put to work once in every worker, and scores column by column."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType

from nalspark.errors import ModelError
from nalspark.learning.ensemble import BANDS, FittedSecondStage
from nalspark.learning.models import Detector, ModelCard, PackedModel
from nalspark.settings import Infer
from nalspark.worker import idle_cleanup, is_own_process

SCORE = "score"
#: The model that this worker last put to work, by digest, batch size and what is asked of it: workers outlive their tasks.
_AT_WORK: dict[tuple[str, int, str], Detector] = {}


def score(frame: DataFrame, packed: PackedModel, infer: Infer) -> DataFrame:
    """Add the column ``score``: what the model gives each row, between 0 and 1.

    Parameters
    ----------
    frame : DataFrame
        With the model's input columns: little-endian float32 bytes of ``packed.card.shape``.
    packed : PackedModel
        Already checked against the grid and the species of `frame`.
    infer : Infer

    Returns
    -------
    DataFrame
        As many rows; a row without an input, or with one that is not finite, has a null score.

    Raises
    ------
    ModelError
        Where `frame` lacks an input column, or, in a worker, the model is broken or a cell has another size.
    """
    inputs = packed.card.inputs
    for name in inputs:
        if name not in frame.columns or not isinstance(frame.schema[name].dataType, BinaryType):
            raise ModelError(f"The model '{packed.where}' reads the binary column '{name}', which this table does not have.")
    batch_size = infer.batch_size

    @F.pandas_udf("float")  # type: ignore[call-overload, untyped-decorator]
    def scored(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        yield from _score_batches(batches, packed, batch_size)

    return frame.withColumn(SCORE, scored(*inputs))


def _score_batches(batches: Iterator[tuple[pd.Series, ...]], packed: PackedModel, batch_size: int) -> Iterator[pd.Series]:
    detector = detector_at_work(packed, batch_size)
    for batch in batches:
        columns = (batch,) if isinstance(batch, pd.Series) else batch  # of a single column Spark gives the series itself
        usable = ~np.any([column.isna() for column in columns], axis=0)
        scores = np.full(len(usable), np.nan, dtype=np.float32)  # NaN arrives as null
        scores[usable] = detector.predict(decode_examples([column[usable] for column in columns], packed.card))
        yield pd.Series(scores)
    idle_cleanup()


def decode_examples(columns: Sequence[Sequence[bytes]], card: ModelCard) -> NDArray[np.float32]:
    """Decode cells to arrays as the network reads them.

    Parameters
    ----------
    columns : sequences of bytes, n each
        In the order of ``card.inputs``.
    card : ModelCard

    Returns
    -------
    ndarray, shape (n, \\*card.example_shape)

    Raises
    ------
    ModelError
        Where a cell has not as many bytes as the card says.
    """
    size = 4 * int(np.prod(card.shape))
    examples = np.empty((len(columns[0]), *card.example_shape), np.float32)
    for channel, (name, cells) in enumerate(zip(card.inputs, columns, strict=True)):
        wrong = next((len(cell) for cell in cells if len(cell) != size), size)
        if wrong != size:
            raise ModelError(
                f"A cell of column '{name}' has {wrong} bytes; the model {card.name} reads {size} (float32 of shape {card.shape})."
            )
        examples[..., channel] = np.frombuffer(b"".join(cells), "<f4").reshape(-1, *card.shape)
    return examples


def detector_at_work(packed: PackedModel, batch_size: int, what: Literal["scores", "features"] = "scores") -> Detector:
    """Give the model, put to work at its first use in this process; only the last one is kept."""
    key = packed.digest, batch_size, what
    if key not in _AT_WORK:
        for other in [other for other in _AT_WORK if other[0] != packed.digest]:
            del _AT_WORK[other]
        with _device_chosen():
            _AT_WORK[key] = packed.load(batch_size) if what == "scores" else packed.load_features(batch_size)
    return _AT_WORK[key]


@contextmanager
def _device_chosen() -> Iterator[None]:
    """What :func:`prepare_worker` settles, for a model that is put to work inside.

    In a worker that others share the environment is put back: by then TensorFlow, where it is needed, has looked for its devices. A process
    that is neither our own nor a worker keeps the devices that its user chose.
    """
    if is_own_process():
        prepare_worker()
        yield
    elif TaskContext.get() is None:
        yield
    else:
        usual = dict(os.environ)
        prepare_worker()
        try:
            yield
        finally:
            for name in set(os.environ) - set(usual):
                del os.environ[name]
            os.environ.update(usual)


def features(examples: NDArray[np.float32], packed: PackedModel, of: Literal["network", "image"], batch_size: int) -> NDArray[np.float32]:
    """Give what a second-stage classifier maps examples (n, \\*example_shape) by: the network's features, or the image itself; (n, d)."""
    if of == "image":
        return (np.sign(examples) * np.log1p(np.abs(examples))).reshape(len(examples), -1)
    return detector_at_work(packed, batch_size, "features").logits(examples)


def second_stage_columns(
    columns: Mapping[str, Any], packed: PackedModel, second: FittedSecondStage, batch_size: int
) -> dict[str, NDArray[Any]]:
    """Compute what both stages of the selection say of each row: the columns of SECOND_STAGE_COLUMNS.

    `columns` has ``score``, (n,), and the model's input columns, (n, pixels) each.
    """
    band = second.card.bands.of(columns[SCORE])
    middle = np.flatnonzero(band == 1)
    result: dict[str, NDArray[Any]] = {name: np.full(len(band), np.nan) for name in ("umap_x", "umap_y", "svm_margin")}
    result["accepted"] = band == 2
    if len(middle):
        planes = [np.asarray(columns[name])[middle].reshape(-1, *packed.card.shape) for name in packed.card.inputs]
        place = second.place(features(np.stack(planes, axis=-1), packed, second.card.features, batch_size))
        margin = second.margin(place)
        result["umap_x"][middle], result["umap_y"][middle], result["svm_margin"][middle] = place[:, 0], place[:, 1], margin
        result["accepted"][middle] = margin >= second.card.threshold
    names = np.array([*BANDS, None], dtype=object)
    return {"band": names[band], **result}


def prepare_worker() -> None:
    """Choose, before a model is loaded, on which device this worker computes, and with how many threads if TensorFlow does.

    The GPU is the one that Spark gave the task. Where it gave none, GPUs are left alone, unless ``CUDA_VISIBLE_DEVICES`` is set: workers
    that know nothing of each other would fight for one. Threads are as many as ``OMP_NUM_THREADS`` says, which Spark sets to the task's
    cores.
    """
    task = TaskContext.get()
    given = task.resources().get("gpu") if task is not None else None
    if given is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(given.addresses)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU may be shared by several tasks
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # full float32: a score must not depend on the device beyond its last digits
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

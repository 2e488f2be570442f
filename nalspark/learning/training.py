"""Networks are fitted: one, or the members of an ensemble; on one machine, on several GPUs, or by several Spark workers together.

One loop serves all: its step runs under a strategy of TensorFlow, which for a single device does nothing, and otherwise sums the gradients.
A member that was interrupted goes on from its last epoch and ends as if it had not been.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import BarrierTaskContext
from pyspark.sql import SparkSession

from nalspark.errors import FeedError, TrainingError
from nalspark.learning import networks
from nalspark.learning.feed import Feed, told
from nalspark.learning.models import read_model
from nalspark.session import SPARK_ERRORS, parallelism
from nalspark.settings import Train
from nalspark.tables.atomic import write_file

# isort: split
import keras
import tensorflow as tf

#: Curve → one value an epoch.
History = dict[str, list[float]]
#: A fitted network with the weights of its best epoch, and its curves.
Fitted = tuple[keras.Model, History]
Say = Callable[[str], None]

CURVES = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "rows_per_second", "seconds")
_MOMENTUM = 0.9
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def fit_member(
    train: Feed,
    validation: Feed,
    settings: Train,
    *,
    checkpoints: str | Path,
    member: int = 0,
    progress: Say | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Fitted:
    """Fit one network to all positives and the member's negatives.

    Loss is the binary cross-entropy of the logits, the mean over the rows. After every epoch all of the state is in a file below
    `checkpoints`; a call with the same settings and examples goes on from there, and does nothing once the member is finished.

    Parameters
    ----------
    train, validation : Feed
        Their negatives are drawn alike.
    settings : Train
    checkpoints : path
        Folder for the state; with several workers all see it under this path.
    member : int
        Which draw.
    progress : callable, optional
        Takes a line an epoch.
    strategy : tf.distribute.Strategy, optional
        By default :func:`strategy_here`.

    Returns
    -------
    model : keras.Model
        With the weights of the epoch of the lowest validation loss.
    history : dict
        Curve → list with one value an epoch: see :data:`CURVES`.

    Raises
    ------
    FeedError
        Where an epoch did not give every row.
    TrainingError
        Where the loss is not a number, or settings and machine do not fit.
    """
    strategy = strategy or strategy_here()
    path = checkpoint_path(train, validation, settings, checkpoints, member)
    fit = _Fit(train, validation, settings, member, strategy)
    if path.exists():
        fit.resume(path)
    fit.agree(path)
    while not _finished(fit.history, settings):
        with told():
            fit.epoch()
        if _rank_of_workers()[0] == 0:
            _write(path, fit.state())
        if progress:
            progress(_line(fit.history, settings, member))
    fit.model.set_weights(fit.best)
    return fit.model, fit.history


def train_members(train: Feed, validation: Feed, settings: Train, *, checkpoints: str | Path, progress: Say | None = None) -> list[Fitted]:
    """Fit the members 0 … ``settings.members`` - 1, one after the other, here. Parameters as for :func:`fit_member`."""
    strategy = strategy_here()
    if progress:
        progress(f"train       on {devices_here()}")
    return [
        fit_member(train, validation, settings, checkpoints=checkpoints, member=member, progress=progress, strategy=strategy)
        for member in range(settings.members)
    ]


def strategy_here() -> tf.distribute.Strategy:
    """Choose what this process can use: the workers that ``TF_CONFIG`` names, else all its GPUs, else the one device.

    Raises
    ------
    TrainingError
        Where keras runs on another library than TensorFlow, whose loop this is.
    """
    if keras.backend.backend() != "tensorflow":
        raise TrainingError(
            f"Training runs on TensorFlow, and keras is set to '{keras.backend.backend()}'. Unset KERAS_BACKEND; "
            "trained models run on any backend."
        )
    return _strategy()


def devices_here() -> str:
    """Name what this process trains on: its GPUs, or the processor's cores."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return ", ".join(names) or f"{len(os.sched_getaffinity(0))} cores of the processor: TensorFlow finds no GPU"


@cache
def _strategy() -> tf.distribute.Strategy:
    """One a process: the collective operations of a second one are taken for those of the first."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(tf.config.list_physical_devices("GPU")) > 1 else tf.distribute.get_strategy()


def _rank_of_workers() -> tuple[int, int]:
    """This process's number among the workers, and how many there are, as ``TF_CONFIG`` says."""
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    return config.get("task", {}).get("index", 0), len(config.get("cluster", {}).get("worker", ["here"]))


class _Fit:
    """A member and all that changes while it is fitted."""

    def __init__(self, train: Feed, validation: Feed, settings: Train, member: int, strategy: tf.distribute.Strategy) -> None:
        if settings.batch_size % strategy.num_replicas_in_sync:
            raise TrainingError(
                f"train.batch_size = {settings.batch_size} cannot be shared equally by {strategy.num_replicas_in_sync} devices. "
                "Set a multiple."
            )
        self.train, self.validation, self.settings, self.member, self.strategy = train, validation, settings, member, strategy
        self.history: History = {curve: [] for curve in CURVES}
        self.best: list[NDArray[np.float32]] = []
        self.shares = {feed: (member, feed.fraction(settings.negatives_per_positive)) for feed in (train, validation)}
        keras.utils.set_random_seed(int(np.random.SeedSequence([settings.seed, member]).generate_state(1)[0]))
        with strategy.scope(), _precision(settings):
            self.model = networks.build(settings.network, train.tensor_shape, settings.options)
            if settings.start_from:
                self.model.set_weights(read_model(settings.start_from).weights_of(member, self.model))
            self.optimizer = self._optimizer()
            self.optimizer.build(self.model.trainable_variables)
            # Sum of the losses, right answers, rows.
            self.totals = tf.Variable(
                tf.zeros(3, tf.float64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._learn = tf.function(lambda x, y: strategy.run(self._learn_batch, (x, y)), autograph=False)
        self._judge = tf.function(lambda x, y: strategy.run(self._judge_batch, (x, y)), autograph=False)

    def _optimizer(self) -> keras.optimizers.Optimizer:
        settings, rate = self.settings, self.settings.learning_rate
        if settings.schedule == "cosine":
            _, workers = _rank_of_workers()
            steps = self.train.steps(settings.batch_size // workers, shards=workers, negatives=self.shares[self.train])
            rate = keras.optimizers.schedules.CosineDecay(rate, settings.epochs * steps)
        made = keras.optimizers.Adam(rate) if settings.optimizer == "adam" else keras.optimizers.SGD(rate, momentum=_MOMENTUM)
        half = keras.config.dtype_policy().compute_dtype == "float16"
        return keras.optimizers.LossScaleOptimizer(made) if half else made

    def epoch(self) -> None:
        """Learn from every row once, judge, and add to the curves."""
        number, started = len(self.history["loss"]), time.monotonic()
        seed = int(np.random.SeedSequence([self.settings.seed, self.member, number]).generate_state(1)[0] >> 1)
        loss, accuracy, rows = self._run(self._learn, self.train, seed)
        learned = time.monotonic() - started
        validation_loss, validation_accuracy, _ = self._run(self._judge, self.validation, None)
        if not (math.isfinite(loss) and math.isfinite(validation_loss)):
            raise TrainingError(
                f"The loss of member {self.member} is not a number in epoch {number + 1}. Lower train.learning_rate = "
                f"{self.settings.learning_rate}, and look for values in the training table that are not finite."
            )
        rate = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        values = (loss, accuracy, validation_loss, validation_accuracy, rate, rows / learned, time.monotonic() - started)
        for curve, value in zip(CURVES, values, strict=True):
            self.history[curve].append(value)
        if _best_epoch(self.history) == number:
            self.best = self.model.get_weights()

    def _run(self, step: Callable[..., None], feed: Feed, seed: int | None) -> tuple[float, float, float]:
        """Mean loss, accuracy and rows of one pass, over all workers. Shuffled where there is a seed."""
        share, size = self.shares[feed], self.settings.batch_size

        def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shard, shards = context.input_pipeline_id, context.num_input_pipelines
            own = feed.epoch(size // shards, seed=seed, shard=shard, shards=shards, negatives=share)
            return own.rebatch(context.get_per_replica_batch_size(size))

        self.totals.assign(tf.zeros(3, tf.float64))
        for x, y in self.strategy.distribute_datasets_from_function(batches):
            step(x, y)
        loss, right, rows = (float(total) for total in self.totals.read_value().numpy())
        if rows != feed.kept(share):
            raise FeedError(f"An epoch gave {rows:.0f} examples; expected {feed.kept(share)}. Run again.")
        return loss / rows, right / rows, rows

    def _learn_batch(self, x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            losses = self._losses(self.model(x, training=True), y)
            # Over the rows of a full batch of all workers: every row weighs the same, and the workers' gradients are summed.
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / self.settings.batch_size)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)

    def _judge_batch(self, x: tf.Tensor, y: tf.Tensor) -> None:
        self._losses(self.model(x, training=False), y)

    def _losses(self, logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Of each row; 0 for padding. Adds to the totals."""
        logit, own = tf.reshape(logits, (-1,)), y >= 0
        losses = tf.where(own, tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logit), 0.0)
        right = tf.logical_and(own, (logit > 0) == (y > 0))
        self.totals.assign_add(tf.stack([tf.reduce_sum(tf.cast(values, tf.float64)) for values in (losses, right, own)]))
        return losses

    # ---- interrupted and gone on with

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables]

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next epochs depend on, as arrays."""
        arrays = {f"variable-{n}": keras.ops.convert_to_numpy(value) for n, value in enumerate(self._variables())}
        arrays |= {f"best-{n}": value for n, value in enumerate(self.best)}
        return arrays | {"history": np.array(json.dumps(self.history))}

    def resume(self, path: Path) -> None:
        """Take up the state that :meth:`state` gave."""
        with _checkpoint(path) as archive:
            self.history, self.best = _best_of(archive, self.model)
            for n, variable in enumerate(self._variables()):
                variable.assign(archive[f"variable-{n}"])

    def agree(self, path: Path) -> None:
        """Refuse to go on where the workers do not stand at the same epoch: they would wait for each other for ever."""
        here = float(len(self.history["loss"]))
        ask = tf.function(lambda: self.strategy.run(lambda: tf.constant([here, here * here, 1.0], tf.float64)), autograph=False)
        total, squares, n = self.strategy.reduce("SUM", ask(), axis=None).numpy()
        if squares * n != total * total:
            raise TrainingError(f"The workers do not find the same checkpoint '{path}'. Put it in a folder that all of them see.")


@contextmanager
def _precision(settings: Train) -> Iterator[None]:
    """The policy under which a network is built: float16 only where a GPU's tensor cores make it faster."""
    before = keras.config.dtype_policy()
    details = [tf.config.experimental.get_device_details(device) for device in tf.config.list_physical_devices("GPU")]
    gains = bool(details) and all(detail.get("compute_capability", (0,))[0] >= 7 for detail in details)
    keras.config.set_dtype_policy("mixed_float16" if settings.mixed_precision and gains else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _best_epoch(history: History) -> int:
    return int(np.argmin(history["validation_loss"]))


def _finished(history: History, settings: Train) -> bool:
    done = len(history["loss"])
    return done >= settings.epochs or (done > 0 and done - 1 - _best_epoch(history) >= settings.patience)


def _line(history: History, settings: Train, member: int) -> str:
    """Write the last epoch's numbers as a line."""
    last = {curve: values[-1] for curve, values in history.items()}
    done = len(history["loss"])
    if _finished(history, settings):
        left = f"best epoch {_best_epoch(history) + 1}"
    else:
        left = f"at most {np.mean(history['seconds']) * (settings.epochs - done):,.0f} s left"
    return (
        f"member {member + 1}/{settings.members}, epoch {done}/{settings.epochs}: loss {last['loss']:.4f}, "
        f"validation {last['validation_loss']:.4f}{' *' if _best_epoch(history) == done - 1 else ''}, "
        f"accuracy {100 * last['validation_accuracy']:.2f} %, {last['rows_per_second']:,.0f} rows/s, {left}"
    )


def checkpoint_path(train: Feed, validation: Feed, settings: Train, checkpoints: str | Path, member: int) -> Path:
    """Tell where a member's state is kept. Other settings or examples have another file; the number of workers makes no difference."""
    cause = settings.model_dump(mode="json", exclude={"members", "workers", "start_from"})
    if settings.start_from:
        cause["start_from"] = read_model(settings.start_from).digest
    text = json.dumps([cause, train.digest(), validation.digest()], sort_keys=True)
    return Path(checkpoints) / f"member-{member}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"


@contextmanager
def _checkpoint(path: Path) -> Iterator[Any]:
    """What :func:`_write` wrote, open to be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except _BROKEN as error:
        raise TrainingError(f"The checkpoint '{path}' cannot be used: {error}. Delete it; the member is then trained anew.") from None


def _best_of(archive: Any, model: keras.Model) -> tuple[History, list[NDArray[np.float32]]]:
    """Curves, and the weights of the best epoch, of a checkpoint."""
    return json.loads(str(archive["history"])), [archive[f"best-{n}"] for n in range(len(model.weights))]


def _write(path: Path, arrays: dict[str, Any]) -> None:
    """Under its name only when it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # an archive is written with going back, which not every cluster's file system can
        np.savez(content, **arrays)
        write_file(path, content.getbuffer(), sync=True)
    except OSError as error:
        raise TrainingError(f"The checkpoint '{path}' cannot be written: {error.strerror}. Choose another folder.") from None


# ---- several workers


def fit_on_spark(
    spark: SparkSession, train: Feed, validation: Feed, settings: Train, *, checkpoints: str | Path, progress: Say | None = None
) -> list[Fitted]:
    """Fit all members, each by ``settings.workers`` Spark tasks together. Parameters as for :func:`fit_member`.

    The workers share the row groups, take the same number of steps, and sum their gradients at each. With the steps of one worker they
    differ only in which rows meet in a batch.

    Raises
    ------
    TrainingError
        Where Spark has fewer slots than workers, or the tables fewer row groups, or Spark keeps Python workers from one task to the next:
        a process can join one cluster only.
    """
    slots = parallelism(spark)
    if slots < settings.workers:
        raise TrainingError(
            f"train.workers = {settings.workers}, and Spark runs {slots} tasks at a time. Set train.workers to {slots} or less."
        )
    for feed, split in ((train, "train"), (validation, "validation")):
        if not feed.rows(settings.workers - 1, settings.workers):
            raise TrainingError(
                f"train.workers = {settings.workers}: the workers share out the row groups of the training table, and split '{split}' has "
                "fewer than there are workers. Every part has at least one: set simulate.spectra_per_part (emission.rows_per_part) lower, "
                "simulate more (simulate.n, emission.n_train), or set train.workers to 1."
            )
    if spark.conf.get("spark.python.worker.reuse", "true") != "false":
        raise TrainingError("Training by several workers needs fresh Python workers: start Spark with spark.python.worker.reuse=false.")
    checkpoints = Path(checkpoints).absolute()
    if progress:
        progress(f"train       on {settings.workers} Spark workers together; each on the GPU that Spark gave it, else on the processor")
    places = [checkpoint_path(train, validation, settings, checkpoints, member) for member in range(settings.members)]
    tasks = spark.range(0, settings.workers, 1, settings.workers)
    work = tasks.mapInArrow(_worker(train, validation, settings, str(checkpoints)), tasks.schema, barrier=True)
    try:
        with _watched(places, settings, progress):
            work.collect()
    except SPARK_ERRORS as error:
        found = re.search(r"nalspark\.errors\.\w+: (.+)", str(error))
        if found:
            raise TrainingError(found[1].strip()) from None
        raise TrainingError(
            "A worker of the training stopped before its end. Run again: the member goes on from its last epoch."
        ) from error
    return [_finished_member(path, train, settings) for path in places]


def _worker(train: Feed, validation: Feed, settings: Train, checkpoints: str) -> Callable[[Iterator[Any]], Iterator[pa.RecordBatch]]:
    """What each task of the barrier stage does; what it makes lies in the checkpoints."""

    def work(batches: Iterator[Any]) -> Iterator[pa.RecordBatch]:
        context = BarrierTaskContext.get()
        _join(context)
        train_members(train, validation, settings, checkpoints=checkpoints)
        context.barrier()  # who leaves early takes the others' connections along
        yield from batches

    return work


def _finished_member(path: Path, train: Feed, settings: Train) -> Fitted:
    model = networks.build(settings.network, train.tensor_shape, settings.options)
    with _checkpoint(path) as archive:
        history, best = _best_of(archive, model)
    model.set_weights(best)
    return model, history


def _join(context: BarrierTaskContext) -> None:
    """Tell TensorFlow of all tasks of the stage: each on a free port of its host, and with the GPU that Spark gave it."""
    host = context.getTaskInfos()[context.partitionId()].address.rsplit(":", 1)[0]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        addresses = context.allGather(f"{host}:{probe.getsockname()[1]}")
    task = {"type": "worker", "index": context.partitionId()}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    gpus = context.resources().get("gpu")
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.addresses)


@contextmanager
def _watched(places: list[Path], settings: Train, progress: Say | None) -> Iterator[None]:
    """Tell, from the checkpoints, what the workers have done, while the block runs."""
    if progress is None:
        yield
        return
    known = [len(_curves(path)["loss"]) for path in places]
    done = threading.Event()

    def watch() -> None:
        ended = False
        while not ended:
            ended = done.wait(1.0)
            for member, path in enumerate(places):
                history = _curves(path)
                for epoch in range(known[member], len(history["loss"])):
                    progress(_line({curve: values[: epoch + 1] for curve, values in history.items()}, settings, member))
                known[member] = len(history["loss"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _curves(path: Path) -> History:
    try:
        with _checkpoint(path) as archive:
            return json.loads(str(archive["history"]))
    except TrainingError:  # not there yet
        return {curve: [] for curve in CURVES}

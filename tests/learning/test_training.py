"""Training: the loss that is said, the same result after an interruption, and the same from one process, two devices and two workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.errors import FeedError, TrainingError
from nalspark.learning import feed as feed_module
from nalspark.learning import training
from nalspark.settings import Train

# isort: split
import keras

pytestmark = [pytest.mark.usefixtures("petastorm"), pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]
SHAPE, COLUMNS = (3, 33), ("image_residual", "image_inverse_error")
SMALL = Train(
    options={"filters": [4, 4, 6], "dense": 8, "dropout": 0.2}, members=1, epochs=4, batch_size=32, patience=9, learning_rate=0.01
)


def changed(**values):
    options = {**SMALL.options, **values.pop("options", {})}
    return SMALL.model_copy(update={**values, "options": options})


def make_feed(folder, n=240, seed=0, random_labels=False, group=30, positives=0.4):
    """Two files of candidates: a positive has a line in the middle of the first two rows, 1 to 6 σ a pixel."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < positives).astype("f4")
    residual = rng.normal(0, 0.1, (n, *SHAPE)).astype("<f4")
    marked = rng.permutation(label) if random_labels else label
    residual[marked == 1, :2, 15:18] += rng.uniform(0.1, 0.6, (int(marked.sum()), 1, 1))
    inverse = np.full((n, *SHAPE), 10, "<f4")
    draw = rng.random(n)
    for number, rows in enumerate(np.array_split(np.arange(n), 2)):
        images = {name: [values[i].tobytes() for i in rows] for name, values in zip(COLUMNS, (residual, inverse), strict=True)}
        path = Path(folder) / f"split={number}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({**images, "label": label[rows], "draw": draw[rows]}), path, row_group_size=group)
    return feed_module.Feed(tuple(sorted(map(str, Path(folder).absolute().rglob("*.parquet")))), COLUMNS, SHAPE)


def feeds(folder, **options):
    folder = Path(folder)
    return make_feed(folder / "train", **options), make_feed(folder / "validation", **{**options, "n": 100, "seed": 9})


def examples(feed):
    """All rows as arrays."""
    batches = [(x.numpy(), y.numpy()) for x, y in feed.epoch(50, seed=None)]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return x[y >= 0], y[y >= 0]


def cross_entropy(model, x, y):
    logit = keras.ops.convert_to_numpy(model(x, training=False))[:, 0].astype(float)
    return np.mean(np.logaddexp(0, logit) - y * logit), np.mean((logit > 0) == (y > 0))


def same(a, b):
    """Weights and curves, the timings apart."""
    (model, history), (other, told) = a, b
    curves = [curve for curve in history if curve not in ("seconds", "rows_per_second")]
    return [history[curve] for curve in curves] == [told[curve] for curve in curves] and all(
        np.array_equal(left, right) for left, right in zip(model.get_weights(), other.get_weights(), strict=True)
    )


class Interrupted(Exception):
    pass


def interrupt_after(epochs):
    lines = []

    def progress(line):
        lines.append(line)
        if len(lines) == epochs:
            raise Interrupted

    return progress


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Feeds, and one member fitted without a break."""
    folder = tmp_path_factory.mktemp("training")
    pair = feeds(folder)
    return *pair, training.fit_member(*pair, SMALL, checkpoints=folder / "unbroken")


def test_a_network_learns_and_its_curves_tell_the_truth(shared):
    train, validation, (model, history) = shared
    assert {len(values) for values in history.values()} == {4} and set(history) == set(training.CURVES)
    assert history["validation_loss"][-1] < 0.85 * history["validation_loss"][0]
    drawn = validation.epoch(100, seed=None, negatives=(0, validation.fraction(1.0)))
    ((x, y),) = [(x.numpy()[y >= 0], y.numpy()[y >= 0]) for x, y in drawn]
    best = int(np.argmin(history["validation_loss"]))
    loss, accuracy = cross_entropy(model, x, y)
    assert loss == pytest.approx(history["validation_loss"][best], rel=1e-5)
    assert accuracy == pytest.approx(history["validation_accuracy"][best])


def test_a_step_goes_down_the_gradient_of_the_mean_loss(tmp_path, shared):
    """One step of plain descent with all rows in the batch, of which some are padding."""
    train, validation, _ = shared
    settings = changed(
        options={"dropout": 0.0, "noise": 0.0},
        optimizer="sgd",
        schedule="constant",
        learning_rate=0.3,
        epochs=1,
        batch_size=256,
        negatives_per_positive=9.0,
    )
    before = training._Fit(train, validation, settings, 0, training.strategy_here()).model
    after, history = training.fit_member(train, validation, settings, checkpoints=tmp_path)
    x, y = examples(train)
    assert history["loss"][0] == pytest.approx(cross_entropy(before, x, y)[0], rel=1e-5)
    tf = training.tf
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=before(x)[:, 0])) / 256
    gradients = tape.gradient(loss, before.trainable_variables)
    for old, new, gradient in zip(before.trainable_variables, after.trainable_variables, gradients, strict=True):
        np.testing.assert_allclose(new - old, -0.3 * gradient, rtol=1e-3, atol=1e-6)


def test_a_repeated_fit_is_the_same_bit_for_bit_and_members_differ(tmp_path, shared):
    train, validation, unbroken = shared
    settings = changed(members=2)
    lines = []
    members = training.train_members(train, validation, settings, checkpoints=tmp_path, progress=lines.append)
    assert same(members[0], unbroken) and not same(members[1], unbroken)
    assert lines[0] == f"train       on {training.devices_here()}"
    assert len(lines) == 9 and lines[1].startswith("member 1/2, epoch 1/4: loss ") and "rows/s, at most" in lines[1]
    assert lines[8].startswith("member 2/2, epoch 4/4: loss ") and "best epoch" in lines[8]


def test_what_trains_is_named(monkeypatch):
    tf = training.tf
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert training.devices_here() == "2 cores of the processor: TensorFlow finds no GPU"
    devices = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in (0, 1)]
    details = [{"device_name": "NVIDIA H200"}, {}]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details[devices.index(device)])
    assert training.devices_here() == "NVIDIA H200, /physical_device:GPU:1"


def test_more_workers_than_row_groups_are_refused_with_the_settings_that_make_them(tmp_path, shared, monkeypatch):
    monkeypatch.setattr(training, "parallelism", lambda spark: 4)
    train, validation, _ = shared
    few = feed_module.Feed(validation.files[:1], COLUMNS, SHAPE)  # 50 rows in groups of 30
    with pytest.raises(TrainingError) as told:
        training.fit_on_spark(None, train, few, changed(workers=3), checkpoints=tmp_path)
    for words in ("train.workers = 3", "split 'validation' has fewer", "simulate.spectra_per_part", "simulate.n", "set train.workers to 1"):
        assert words in str(told.value)


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "schedule": "constant"}])
def test_an_interrupted_fit_ends_as_if_it_had_not_been(tmp_path, shared, options):
    train, validation, unbroken = shared
    settings = changed(**options)
    whole = training.fit_member(train, validation, settings, checkpoints=tmp_path / "whole") if options else unbroken
    for epochs in (1, 2):  # interrupted twice
        with pytest.raises(Interrupted):
            training.fit_member(train, validation, settings, checkpoints=tmp_path, progress=interrupt_after(epochs))
    lines = []
    resumed = training.fit_member(train, validation, settings, checkpoints=tmp_path, progress=lines.append)
    assert len(lines) == 1 and same(resumed, whole)
    assert same(training.fit_member(train, validation, settings, checkpoints=tmp_path, progress=lines.append), whole)
    assert len(lines) == 1  # finished: nothing was done


def run_script(folder, text, timeout, **variables):
    """A script in a fresh process, as a user's: what it prints last, read as JSON if it ends well."""
    script = Path(folder) / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_training import *\n\n{text}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **variables}
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=timeout, env=environment, cwd=folder, check=False
    )


def test_a_killed_process_is_gone_on_with_bit_for_bit(tmp_path, shared):
    train, validation, unbroken = shared
    ended = run_script(
        tmp_path,
        f"""
import signal
train, validation = (feed_module.Feed(files, COLUMNS, SHAPE) for files in {(train.files, validation.files)})
training.fit_member(train, validation, SMALL, checkpoints={str(tmp_path / "kept")!r},
    progress=lambda line: " epoch 2/" in line and os.kill(os.getpid(), signal.SIGKILL))
""",
        timeout=120,
    )
    assert ended.returncode == -9, ended.stderr[-2000:]
    lines = []
    assert same(training.fit_member(train, validation, SMALL, checkpoints=tmp_path / "kept", progress=lines.append), unbroken)
    assert len(lines) == 2


def test_a_checkpoint_is_whole_or_not_there(tmp_path, shared, monkeypatch):
    train, validation, unbroken = shared
    with pytest.raises(Interrupted):
        training.fit_member(train, validation, SMALL, checkpoints=tmp_path, progress=interrupt_after(1))

    def torn(file, **arrays):
        file.write(b"PK half of")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.np, "savez", torn)
        with pytest.raises(TrainingError, match="cannot be written: No space left on device"):
            training.fit_member(train, validation, SMALL, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert same(training.fit_member(train, validation, SMALL, checkpoints=tmp_path), unbroken)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"PK half of")
    with pytest.raises(TrainingError, match="cannot be used.*Delete it"):
        training.fit_member(train, validation, SMALL, checkpoints=tmp_path)


def test_checkpoints_are_named_by_what_they_depend_on(tmp_path, shared):
    train, validation, _ = shared

    def path(settings, member=0, feed=train):
        return training.checkpoint_path(feed, validation, settings, tmp_path, member)

    assert path(SMALL) == path(changed(workers=2, members=7))
    others = [path(changed(**change)) for change in ({"seed": 2}, {"learning_rate": 0.1}, {"options": {"dense": 9}})]
    assert len({path(SMALL), path(SMALL, member=1), path(SMALL, feed=validation), *others}) == 6


def test_training_stops_when_it_no_longer_helps_and_keeps_the_best(tmp_path):
    train, validation = feeds(tmp_path, random_labels=True, n=120)
    settings = changed(epochs=60, patience=3, options={"dropout": 0.0, "noise": 0.0}, learning_rate=0.02, schedule="constant")
    model, history = training.fit_member(train, validation, settings, checkpoints=tmp_path)
    losses = history["validation_loss"]
    assert len(losses) < 60 and len(losses) == int(np.argmin(losses)) + 1 + 3
    assert history["learning_rate"] == pytest.approx([0.02] * len(losses), abs=1e-8)
    ((x, y),) = [(x.numpy()[y >= 0], y.numpy()[y >= 0]) for x, y in validation.epoch(100, seed=0, negatives=(0, validation.fraction(1.0)))]
    assert cross_entropy(model, x, y)[0] == pytest.approx(min(losses), rel=1e-5)


def test_the_step_size_follows_a_cosine(shared):
    """To nothing at the end of the last epoch; that it is constant where it is to be is seen where training stops early."""
    _, _, (_, history) = shared
    assert SMALL.schedule == "cosine"
    assert history["learning_rate"] == pytest.approx(0.005 * (1 + np.cos(np.pi * np.array([0.25, 0.5, 0.75, 1.0]))), abs=1e-8)


def test_half_precision_is_used_only_where_a_gpu_gains_by_it(tmp_path, shared, monkeypatch):
    train, validation, unbroken = shared
    settings, tf = changed(mixed_precision=True), training.tf
    if not tf.config.list_physical_devices("GPU"):
        assert same(training.fit_member(train, validation, settings, checkpoints=tmp_path / "cpu"), unbroken)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a device"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: {"compute_capability": (7, 0)})
    whole = training.fit_member(train, validation, settings, checkpoints=tmp_path / "whole")
    assert whole[0].layers[-1].compute_dtype == "float32" and {layer.compute_dtype for layer in whole[0].layers} >= {"float16"}
    assert {weight.dtype for weight in whole[0].weights} == {"float32"}
    # Half precision rounds, and what is drawn anew each epoch makes much of it.
    assert whole[1]["validation_loss"] == pytest.approx(unbroken[1]["validation_loss"], rel=0.25)
    with pytest.raises(Interrupted):
        training.fit_member(train, validation, settings, checkpoints=tmp_path, progress=interrupt_after(2))
    assert same(training.fit_member(train, validation, settings, checkpoints=tmp_path), whole)
    assert keras.config.dtype_policy().name == "float32"


def test_what_cannot_be_trained_is_told_in_a_sentence(tmp_path, shared, monkeypatch):
    train, validation, _ = shared
    with pytest.raises(TrainingError, match="loss of member 0 is not a number in epoch"):
        training.fit_member(train, validation, changed(learning_rate=1e30, optimizer="sgd"), checkpoints=tmp_path)
    devices = type("Three", (), {"num_replicas_in_sync": 3})()
    with pytest.raises(TrainingError, match="batch_size = 32 cannot be shared equally by 3"):
        training.fit_member(train, validation, SMALL, checkpoints=tmp_path, strategy=devices)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(TrainingError, match="KERAS_BACKEND"):
        training.strategy_here()


def test_lost_rows_end_the_training(tmp_path, shared, monkeypatch):
    train, validation, _ = shared
    files = feed_module.Feed(train.files[:1], train.columns, train.shape)
    monkeypatch.setattr(feed_module.Feed, "_read", lambda self, *arguments: iter([*read(files, *arguments)]))
    with pytest.raises(FeedError, match="An epoch gave .* examples; expected"):
        training.fit_member(train, validation, SMALL, checkpoints=tmp_path)


read = feed_module.Feed._read


def test_workers_that_stand_at_different_epochs_are_refused(tmp_path, shared):
    train, validation, _ = shared
    fit = training._Fit(train, validation, SMALL, 0, training.strategy_here())
    fit.agree(tmp_path)
    fit.strategy = type("Two", (), {"run": fit.strategy.run, "reduce": lambda *a, axis: training.tf.constant([3.0, 5.0, 2.0])})()
    with pytest.raises(TrainingError, match="do not find the same checkpoint"):
        fit.agree(tmp_path)


@pytest.mark.spark
def test_spark_that_cannot_train_is_refused(tmp_path, shared, spark):
    train, validation, _ = shared
    with pytest.raises(TrainingError, match="train.workers = 3, and Spark runs 2 tasks"):
        training.fit_on_spark(spark, train, validation, changed(workers=3), checkpoints=tmp_path)
    with pytest.raises(TrainingError, match="spark.python.worker.reuse=false"):
        training.fit_on_spark(spark, train, validation, changed(workers=2), checkpoints=tmp_path)


@pytest.mark.spark
def test_two_workers_two_devices_and_one_take_the_same_steps(tmp_path):
    """With all rows in every step nothing differs but the order of the sums: the losses agree to 1e-4, of which rounding takes 1e-6.

    In a process of its own, since a device can be divided only before TensorFlow has started. The shards are not equal.
    """
    ended = run_script(
        tmp_path,
        """
if __name__ == "__main__":
    from nalspark.session import spark_session

    tf = training.tf
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    train, validation = feeds(".", n=450)
    quiet = {"dropout": 0.0, "noise": 0.0}
    settings = changed(options=quiet, batch_size=512, workers=2, negatives_per_positive=9.0, optimizer="sgd", learning_rate=0.3)
    told, lines = {}, []
    spark = spark_session("local[2]", "together", {"spark.python.worker.reuse": "false"})
    ((model, history),) = training.fit_on_spark(spark, train, validation, settings, checkpoints="workers", progress=lines.append)
    spark.stop()
    told["2 workers"] = history["validation_loss"]
    told["model"] = float(cross_entropy(model, *examples(validation))[0])
    for name, strategy in (("2 devices", tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])), ("1 device", tf.distribute.get_strategy())):
        told[name] = training.fit_member(train, validation, settings, checkpoints=name, strategy=strategy)[1]["validation_loss"]
    print(json.dumps({**told, "lines": lines, "shards": [train.rows(0, 2), train.rows(1, 2)]}))
""",
        timeout=150,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["2 workers"] == pytest.approx(told["1 device"], rel=1e-4)
    assert told["2 devices"] == pytest.approx(told["1 device"], rel=1e-4)
    assert told["model"] == pytest.approx(min(told["2 workers"]), rel=1e-4)
    assert told["1 device"][-1] < 0.99 * told["1 device"][0]  # the steps did something
    assert told["shards"] == [240, 210]
    assert told["lines"][0].startswith("train       on 2 Spark workers together; ")
    assert len(told["lines"]) == 5 and told["lines"][1].startswith("member 1/1, epoch 1/4: loss ")

"""Scoring with Spark: the same scores to the last bit however the rows are cut up; nulls stay null; faults reach the user as sentences."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nalspark.errors import ModelError, NalsparkError
from nalspark.learning import networks
from nalspark.learning.inference import decode_examples, prepare_worker, score
from nalspark.learning.models import Calibration, ModelCard, read_model, save_model
from nalspark.session import running_session
from nalspark.settings import Infer

pytestmark = pytest.mark.spark

COLUMNS = ["image_residual", "image_inverse_error"]
N = 150


def save(folder, network, inputs, shape, options, members=2):
    card = ModelCard(name="test", network=network, options=options, inputs=inputs, shape=shape, grid="g", species="MgII",
                     calibration=Calibration(slope=0.5))  # fmt: skip
    networks.keras.utils.set_random_seed(3)
    return save_model(folder, card, [networks.build(network, card.example_shape, options) for _ in range(members)])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "images"
    save(folder, "candidate_cnn", COLUMNS, (8, 49), {"filters": [4, 6, 8], "dense": 8})
    return read_model(folder)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pair = [rng.normal(0, 0.3, (N, 8, 49)).astype("<f4"), rng.uniform(0, 30, (N, 8, 49)).astype("<f4")]
    cells = {name: [image.tobytes() for image in values] for name, values in zip(COLUMNS, pair, strict=True)}
    return pd.DataFrame({"row": np.arange(N), **cells}), np.stack(pair, axis=-1)


def scores(frame):
    return frame.select("row", "score").toPandas().sort_values("row")["score"].to_numpy()


@pytest.fixture
def short_batches(spark):
    """Arrow batches that do not divide the network's."""
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, "11")
    yield
    spark.conf.set(key, before)


@pytest.mark.parametrize("partitions, batch_size", [(1, 256), (3, 64), (7, 1)])
def test_scores_do_not_depend_on_partitions(spark, packed, images, partitions, batch_size):
    table, examples = images
    frame = spark.createDataFrame(table).repartition(partitions)
    scored = score(frame, packed, Infer(batch_size=batch_size))
    assert scored.columns == ["row", *COLUMNS, "score"] and scored.schema["score"].dataType.typeName() == "float"
    np.testing.assert_array_equal(scores(scored), packed.load().predict(examples))


def test_nor_on_arrow_batches(spark, packed, images, short_batches):
    table, examples = images
    np.testing.assert_array_equal(scores(score(spark.createDataFrame(table), packed, Infer())), packed.load().predict(examples))


def test_rows_without_an_image_have_no_score(spark, packed, images):
    table, examples = images
    table = table.copy()
    table.loc[[3, 70], COLUMNS[0]] = None
    table.loc[[4, 70], COLUMNS[1]] = None
    table.loc[5, COLUMNS[0]] = np.full((8, 49), np.nan, "<f4").tobytes()
    found = score(spark.createDataFrame(table).repartition(3), packed, Infer()).select("row", "score").collect()
    assert {row["row"] for row in found if row["score"] is None} == {3, 4, 5, 70}
    expected = packed.load().predict(examples)
    assert all(row["score"] == expected[row["row"]] for row in found if row["score"] is not None)


def test_nothing_but_nulls_and_no_rows(spark, packed, images):
    frame = spark.createDataFrame(images[0]).selectExpr("row", *[f"cast(null as binary) as {name}" for name in COLUMNS])
    assert np.isnan(scores(score(frame, packed, Infer()))).all()
    assert score(frame.limit(0), packed, Infer()).count() == 0


def test_whole_spectra_are_scored_from_one_column(spark, tmp_path):
    packed = save(tmp_path / "spectra", "zhao2019", ["flux"], (3841,), {"dense": 8}, members=1)
    spectra = np.random.default_rng(0).normal(1, 0.2, (20, 3841)).astype("<f4")
    frame = spark.createDataFrame(pd.DataFrame({"row": np.arange(20), "flux": [spectrum.tobytes() for spectrum in spectra]}))
    expected = packed.load(16).predict(spectra[..., None])
    np.testing.assert_array_equal(scores(score(frame.repartition(3), packed, Infer(batch_size=16))), expected)


def test_a_workers_model_follows_the_one_asked_for(spark, packed, images, tmp_path):
    """Workers live on from query to query, and must not go on with the model they have."""
    table, examples = images
    other = replace(packed, card=packed.card.model_copy(update={"calibration": Calibration(slope=0.1, intercept=1.0)}))
    frame = spark.createDataFrame(table).repartition(3)
    for model in (packed, other, packed):
        np.testing.assert_array_equal(scores(score(frame, model, Infer())), model.load().predict(examples))


def test_a_table_without_the_columns_is_refused_at_once(spark, packed, images):
    frame = spark.createDataFrame(images[0])
    with pytest.raises(ModelError, match="reads the binary column 'image_inverse_error', which this table does not have"):
        score(frame.drop("image_inverse_error"), packed, Infer())
    with pytest.raises(ModelError, match="binary column 'image_residual'"):
        score(frame.withColumn("image_residual", frame["row"]), packed, Infer())


def test_what_a_worker_finds_wrong_is_a_sentence(spark, packed, images):
    broken = replace(packed, weights=(packed.weights[0][:200], packed.weights[1]))
    broken = replace(broken, card=packed.card.model_copy(update={"name": "broken", "members": ("", "")}))
    with pytest.raises(NalsparkError, match=r"^The weights weights-0.npz of '.*' are not an npz of plain arrays \("), running_session():
        score(spark.createDataFrame(images[0]), broken, Infer()).collect()
    short = images[0].assign(image_residual=b"1234")
    with pytest.raises(NalsparkError, match="A cell of column 'image_residual' has 4 bytes; the model test reads 1568"), running_session():
        score(spark.createDataFrame(short), packed, Infer()).collect()


def test_decoding_keeps_the_order_of_the_channels(packed, images):
    table, examples = images
    np.testing.assert_array_equal(decode_examples([table[name] for name in COLUMNS], packed.card), examples)
    assert decode_examples([[], []], packed.card).shape == (0, 8, 49, 2)


@pytest.mark.parametrize(
    "given, variables, expected",
    [
        (None, {}, {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1"}),
        (None, {"CUDA_VISIBLE_DEVICES": "2", "OMP_NUM_THREADS": "4"}, {"CUDA_VISIBLE_DEVICES": "2", "TF_NUM_INTRAOP_THREADS": "4"}),
        (["1", "3"], {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1,3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}),
    ],
)
def test_a_worker_takes_the_gpu_that_spark_gives_it(monkeypatch, given, variables, expected):
    class Task:
        def resources(self):
            return {} if given is None else {"gpu": type("Resource", (), {"addresses": given})}

    settled = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TF_FORCE_GPU_ALLOW_GROWTH", "NVIDIA_TF32_OVERRIDE", "TF_NUM_INTRAOP_THREADS",
               "TF_NUM_INTEROP_THREADS")  # fmt: skip
    for name in settled:
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("nalspark.learning.inference.TaskContext.get", Task)
    prepare_worker()
    assert {name: os.environ[name] for name in expected} == expected


def test_one_thread_a_worker():
    """The variables that a worker sets are the ones that TensorFlow obeys."""
    code = (
        "import os, time; os.environ['OMP_NUM_THREADS'] = '1'\n"
        "from nalspark.learning.inference import prepare_worker; prepare_worker()\n"
        "import tensorflow as tf; x = tf.ones((2000, 2000)); x @ x; t, c = time.perf_counter(), time.process_time()\n"
        "for _ in range(10): (x @ x).numpy()\n"
        "print((time.process_time() - c) / (time.perf_counter() - t))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 1.15

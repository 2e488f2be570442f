"""Every stage, however its rows are cut up, gives what its numpy function gives on the whole array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from runs import make_survey, settings_of, spark_frame

from nalspark.absorption import stages as absorption
from nalspark.learning.ensemble import Bands, FittedSecondRound, SecondRoundCard
from nalspark.learning.inference import decode_examples, features, score
from nalspark.learning.models import PackedModel, read_model
from nalspark.settings import Settings
from nalspark.surveys import stages as surveys
from nalspark.surveys.sources import classify, part_of, walk
from nalspark.tables.arrow import Columns, decode, encode, to_arrow
from nalspark.tables.schemas import CANDIDATES, NORMALIZED, SCORES, TARGETS
from nalspark.tables.table import Table

pytestmark = pytest.mark.spark

#: Spark partitions, and rows of a batch within one.
CUTS = [(1, 256), (3, 256), (7, 4)]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("stages") / "survey")


@pytest.fixture(scope="module")
def settings(survey: Path) -> Settings:
    return settings_of(survey, survey / "out")


@pytest.fixture(params=CUTS, ids=lambda cut: f"{cut[0]} partitions")
def cut(spark: Any, request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of partitions; batches are as short as the parameter says."""
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, str(request.param[1]))
    yield request.param[0]
    spark.conf.set(key, before)


def as_columns(batch: pa.RecordBatch, table: Table) -> Columns:
    return decode(batch, {column.name: column for column in table.columns})


def usable(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(batch["reason"].is_null())


# ---- the numpy functions on the whole array, each on the result of the one before


@pytest.fixture(scope="module")
def read(survey: Path) -> pa.RecordBatch:
    paths = [file.path for file in walk(str(survey / "parts"))]
    columns = {"path": np.array(paths, dtype=object), "part": [part_of(path, 1) for path in paths]}
    return encode(surveys.read_files(columns), surveys.SPECTRA_READ)


@pytest.fixture(scope="module")
def targets(read: pa.RecordBatch) -> pa.RecordBatch:
    columns = as_columns(usable(read), surveys.SPECTRA_READ)
    return encode(columns | {"z_qso": columns["z_pipeline"]}, TARGETS)


@pytest.fixture(scope="module")
def normalized(read: pa.RecordBatch, targets: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    columns = as_columns(usable(read), surveys.SPECTRA_READ) | as_columns(targets.select(["path", "z_qso"]), TARGETS)
    return encode(absorption.normalize_columns(columns, settings), NORMALIZED)


@pytest.fixture(scope="module")
def candidates(normalized: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    return encode(absorption.search_columns(as_columns(usable(normalized), NORMALIZED), settings), CANDIDATES)


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return read_model()


@pytest.fixture(scope="module")
def scores(candidates: pa.RecordBatch, model: PackedModel) -> pa.RecordBatch:
    images = decode_examples([candidates[name].to_pylist() for name in model.card.inputs], model.card)
    return encode(as_columns(candidates, CANDIDATES) | {"score": model.load().predict(images)}, SCORES)


@pytest.fixture(scope="module")
def measured(candidates: pa.RecordBatch, scores: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    possible = pa.array(scores["score"].to_numpy() >= settings.infer.measure_score)
    columns = as_columns(candidates.filter(possible), CANDIDATES) | {"score": scores["score"].to_numpy()[possible.to_numpy(False)]}
    return encode(absorption.measure_columns(columns, settings), absorption.measured_table(settings))


@pytest.fixture(scope="module")
def second(candidates: pa.RecordBatch, model: PackedModel) -> FittedSecondRound:
    """Arrays that nothing was fitted for: candidates as the map's examples, a boundary through its middle."""
    images = decode_examples([candidates[name].to_pylist() for name in model.card.inputs], model.card)
    seen = features(images, model, "network", 256).astype(np.float64)
    places = np.random.default_rng(0).normal(size=(len(seen), 2))
    bands = Bands(low=0.1, high=0.9)
    card = SecondRoundCard(bands=bands, model=model.digest, neighbours=5, gamma=1.0, intercept=0.0)
    support, dual = np.array([[-1.0, 0.0], [1.0, 0.0]]), np.array([-1.0, 1.0])
    return FittedSecondRound(card, seen.mean(axis=0), seen.std(axis=0) + 1e-6, seen.astype(np.float32), places, support, dual)


@pytest.fixture(scope="module")
def vetted(
    candidates: pa.RecordBatch, measured: pa.RecordBatch, model: PackedModel, second: FittedSecondRound, settings: Settings
) -> pa.RecordBatch:
    chosen = candidates.filter(pc.is_in(candidates["candidate_id"], measured["absorber_id"]))
    images = as_columns(chosen.select(list(model.card.inputs)), CANDIDATES)
    columns = as_columns(measured, absorption.measured_table(settings)) | images
    return encode(absorption.vet_columns(columns, model, second, settings), absorption.vetted_table(settings))


# ---- the comparison


def frame_of(spark: Any, batch: pa.RecordBatch, table: Table, partitions: int) -> Any:
    return spark_frame(spark, batch, table).repartition(partitions)


def assert_equal(frame: Any, expected: pa.RecordBatch, table: Table, key: str) -> None:
    """Equal to the last bit after sorting by id: pixels are compared as bytes."""
    assert frame.columns == table.names
    found = to_arrow(frame, table).sort_by(key)
    whole = pa.Table.from_batches([expected]).sort_by(key)
    assert found.num_rows == whole.num_rows > 0
    for name in table.names:
        ours, theirs = found[name].to_pylist(), whole[name].to_pylist()
        wrong = [row for row, (a, b) in enumerate(zip(ours, theirs, strict=True)) if repr(a) != repr(b)]
        assert not wrong, f"{name} differs in {len(wrong)} rows, first in {found[key][wrong[0]]}"


def test_ingest_reads_what_the_reader_reads_from_all_files(spark: Any, survey: Path, settings: Settings, read: Any, cut: int) -> None:
    files = surveys.list_files(spark, classify(settings.spectra), settings).select("path", "part").repartition(cut)
    assert_equal(surveys.ingest(files), read, surveys.SPECTRA_READ, "path")


def test_preprocess_normalises_each_spectrum_as_all_together(
    spark: Any, settings: Settings, read: Any, targets: Any, normalized: Any, cut: int
) -> None:
    spectra = frame_of(spark, usable(read), surveys.SPECTRA_READ, cut)
    stage = absorption.preprocess(spectra, frame_of(spark, targets, TARGETS, 2), settings)
    assert_equal(stage, normalized, NORMALIZED, "spectrum_id")


def test_search_finds_in_each_spectrum_what_it_finds_in_all_together(
    spark: Any, settings: Settings, normalized: Any, candidates: Any, cut: int
) -> None:
    stage = absorption.search(frame_of(spark, usable(normalized), NORMALIZED, cut), settings)
    assert_equal(stage, candidates, CANDIDATES, "candidate_id")


def test_infer_scores_each_candidate_as_all_together(
    spark: Any, settings: Settings, candidates: Any, scores: Any, model: PackedModel, cut: int
) -> None:
    stage = score(frame_of(spark, candidates, CANDIDATES, cut), model, settings.infer).select(*SCORES.names)
    assert_equal(stage, scores, SCORES, "candidate_id")


def test_measure_fits_each_possible_candidate_as_all_together(
    spark: Any, settings: Settings, candidates: Any, scores: Any, measured: Any, cut: int
) -> None:
    frames = frame_of(spark, candidates, CANDIDATES, cut), frame_of(spark, scores, SCORES, 2)
    assert_equal(absorption.measure(*frames, settings), measured, absorption.measured_table(settings), "absorber_id")


@pytest.fixture(scope="module")
def vetted_by_spark() -> dict[int, pa.Table]:
    """What the cuts that were tried gave, for the ones that follow."""
    return {}


def test_vet_looks_at_each_measured_candidate_as_at_all_together_and_removes_none(
    spark: Any, settings: Settings, candidates: Any, measured: Any, vetted: Any, model: Any, second: Any, vetted_by_spark: Any, cut: int
) -> None:
    """Equal to the last bit however Spark cuts; beside one process with more threads, features may differ in the last digits."""
    table = absorption.vetted_table(settings)
    frames = frame_of(spark, candidates, CANDIDATES, cut), frame_of(spark, measured, absorption.measured_table(settings), 2)
    found = to_arrow(absorption.vet(*frames, model, second, settings), table).sort_by("absorber_id")
    assert all(found.equals(other) for other in vetted_by_spark.values())
    vetted_by_spark[cut] = found
    ours, theirs = found.to_pandas(), vetted.to_pandas().sort_values("absorber_id", ignore_index=True)
    places = ["umap_x", "umap_y", "svm_margin"]
    np.testing.assert_allclose(ours[places].to_numpy(), theirs[places].to_numpy(), rtol=1e-3, atol=1e-3)
    assert ours.drop(columns=places).equals(theirs.drop(columns=places))
    assert vetted.select(measured.schema.names).equals(measured)


def test_vet_says_where_score_fit_and_second_round_differ(settings: Settings, vetted: pa.RecordBatch) -> None:
    rows = vetted.to_pandas()
    middle = rows["band"] == "reclassify"
    assert middle.any() and (rows["accepted"] == (rows["band"] == "keep"))[~middle].all()
    assert (rows["accepted"] == (rows["svm_margin"] >= 0))[middle].all() and rows["umap_x"][~middle].isna().all()
    overruled = rows["accepted"] != (rows["score"] >= settings.infer.min_score)
    assert ((rows["vet_flags"] & 1 > 0) == overruled).all()
    assert ((rows["vet_flags"] & 2 > 0) == (rows["accepted"] & (rows["veto"] != 0))).all()


def test_what_is_measured_has_the_score_and_some_are_absorbers(
    settings: Settings, candidates: pa.RecordBatch, scores: pa.RecordBatch, measured: pa.RecordBatch
) -> None:
    given = dict(zip(scores["candidate_id"].to_pylist(), scores["score"].to_pylist(), strict=True))
    assert list(given) == candidates["candidate_id"].to_pylist()
    possible = {name: value for name, value in given.items() if value >= settings.infer.measure_score}
    assert dict(zip(measured["absorber_id"].to_pylist(), measured["score"].to_pylist(), strict=True)) == possible
    assert 5 < len(possible) < len(given)
    vetoed = np.array(measured["veto"].to_pylist()) != 0
    assert 5 < (~vetoed).sum() < len(vetoed)
    assert all(value >= settings.infer.min_score for value in measured.filter(pa.array(~vetoed))["score"].to_pylist())


def test_a_candidate_without_a_score_is_not_measured(spark: Any, settings: Settings, candidates: Any, scores: Any) -> None:
    """As the network gives it for an image that holds a NaN."""
    nothing = encode(as_columns(scores, SCORES) | {"score": np.full(len(scores), np.nan)}, SCORES)
    stage = absorption.measure(frame_of(spark, candidates, CANDIDATES, 1), frame_of(spark, nothing, SCORES, 1), settings)
    assert stage.count() == 0

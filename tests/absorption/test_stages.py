"""Every stage, however its rows are cut up, gives what its numpy function gives on the whole array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from runs import make_survey, settings_of, spark_frame

from nalspark.absorption import chain
from nalspark.absorption import stages as absorption
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry
from nalspark.learning.inference import decode_examples, score
from nalspark.learning.models import PackedModel, read_model
from nalspark.lines import MG_II, SPEED_OF_LIGHT_KMS
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.surveys import stages as surveys
from nalspark.surveys.sources import classify, part_of, walk
from nalspark.tables.arrow import Columns, decode, encode, rows_of, to_arrow
from nalspark.tables.schemas import CANDIDATES, NORMALIZED, SCORES, SEARCHED, SENSITIVITY, TARGETS
from nalspark.tables.table import Table

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("stages") / "survey")


@pytest.fixture(scope="module")
def settings(survey: Path) -> Settings:
    return settings_of(survey, survey / "out")


def as_columns(batch: pa.RecordBatch, table: Table) -> Columns:
    return decode(batch, {column.name: column for column in table.columns})


def usable(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(batch["reason"].is_null())


# ---- the numpy functions on the whole array, each on the result of the one before


@pytest.fixture(scope="module")
def read(survey: Path) -> pa.RecordBatch:
    paths = [file.path for file in walk(str(survey / "parts"))]
    columns = {"path": np.array(paths, dtype=object), "part": [part_of(path, 1) for path in paths]}
    rows = pa.Table.from_batches([encode(rows, surveys.SPECTRA_READ) for rows in surveys.read_files(columns)])
    return rows.combine_chunks().to_batches()[0]


@pytest.fixture(scope="module")
def targets(read: pa.RecordBatch) -> pa.RecordBatch:
    columns = as_columns(usable(read), surveys.SPECTRA_READ)
    return encode(columns | {"z_qso": columns["z_pipeline"]}, TARGETS)


@pytest.fixture(scope="module")
def pixels(read: pa.RecordBatch, targets: pa.RecordBatch) -> Columns:
    return as_columns(usable(read), surveys.SPECTRA_READ) | as_columns(targets.select(["path", "z_qso"]), TARGETS)


@pytest.fixture(scope="module")
def found(pixels: Columns, settings: Settings) -> tuple[pa.RecordBatch, ...]:
    tables = SEARCHED, CANDIDATES, SENSITIVITY
    return tuple(encode(columns, table) for columns, table in zip(absorption.search_columns(pixels, [settings]), tables, strict=True))


@pytest.fixture(scope="module")
def candidates(found: tuple[pa.RecordBatch, ...]) -> pa.RecordBatch:
    return found[1]


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


def test_search_finds_in_each_spectrum_what_it_finds_in_all_together(
    spark: Any, settings: Settings, read: Any, targets: Any, found: Any, cut: int
) -> None:
    spectra = frame_of(spark, usable(read), surveys.SPECTRA_READ, cut)
    tables = SEARCHED, CANDIDATES, SENSITIVITY
    stage = absorption.search(spectra, frame_of(spark, targets, TARGETS, 2), [settings], tables)
    for batch, table, key in zip(found, tables, ("spectrum_id", "candidate_id", "spectrum_id"), strict=True):
        assert_equal(rows_of(stage, table), batch, table, key)


def test_pixels_are_normalised_once_more_as_they_were_searched(
    spark: Any, settings: Settings, read: Any, targets: Any, pixels: Any, found: Any, cut: int
) -> None:
    spectra = frame_of(spark, usable(read), surveys.SPECTRA_READ, cut)
    normalized = usable(encode(absorption.normalize_columns(pixels, settings), NORMALIZED))
    assert_equal(absorption.normalize(spectra, frame_of(spark, targets, TARGETS, 2), settings), normalized, NORMALIZED, "spectrum_id")
    assert normalized.select(SEARCHED.names) == usable(found[0])


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


def test_what_is_measured_has_the_score_and_some_are_absorbers(
    settings: Settings, candidates: pa.RecordBatch, scores: pa.RecordBatch, measured: pa.RecordBatch
) -> None:
    given = dict(zip(scores["candidate_id"].to_pylist(), scores["score"].to_pylist(), strict=True))
    assert list(given) == candidates["candidate_id"].to_pylist()
    possible = {name: value for name, value in given.items() if value >= settings.infer.measure_score}
    assert dict(zip(measured["absorber_id"].to_pylist(), measured["score"].to_pylist(), strict=True)) == possible
    assert 5 < len(possible) < len(given)
    accepted = [value >= settings.infer.min_score for value in measured["score"].to_pylist()]
    assert measured["accepted"].to_pylist() == accepted and 5 < sum(accepted) < len(accepted)


def test_the_continuum_goes_with_each_candidate_in_units_of_flux(pixels: Columns, candidates: pa.RecordBatch, settings: Settings) -> None:
    """1 - residual = flux / continuum, in the pixel of the first line and with the flux as the survey gives it."""
    flux = chain.on_lattice(pixels).flux
    found = as_columns(candidates, CANDIDATES)
    row_of = {name: row for row, name in enumerate(pixels["spectrum_id"])}
    given = np.array([flux[row_of[name], pixel] for name, pixel in zip(found["spectrum_id"], found["pixel"], strict=True)])
    geometry = ImageGeometry.of(settings.line_species, LATTICE.step)
    middle = (slice(None), geometry.primary, HALF_WIDTH)
    residual, weight = (found[name].reshape(-1, *geometry.shape)[middle] for name in ("image_residual", "image_inverse_error"))
    seen = weight > 0
    assert seen.sum() > 0.9 * len(seen) and (found["continuum_flux"] > 0).all()
    np.testing.assert_allclose((found["continuum_flux"] * (1.0 - residual))[seen], given[seen], rtol=1e-3, atol=1e-4)


def test_widths_follow_from_depths_and_sigma(measured: pa.RecordBatch, settings: Settings) -> None:
    """W = A σ λ₀ √(2π) / c: what those need who want the amplitudes in units of flux."""
    rows = as_columns(measured, absorption.measured_table(settings))
    for line in (MG_II.primary, MG_II.secondary):
        width = rows[f"depth_{line.label}"] * rows["sigma_fit_kms"] / SPEED_OF_LIGHT_KMS * line.wavelength * np.sqrt(2.0 * np.pi)
        np.testing.assert_allclose(width, rows[f"ew_{line.label}"], rtol=1e-6)
    assert (rows["continuum_flux"] > 0).all() and (rows["sigma_fit_kms_err"] > 0).all() and (rows["depth_2796_err"] > 0).all()


def test_a_candidate_without_a_score_is_not_measured(spark: Any, settings: Settings, candidates: Any, scores: Any) -> None:
    """As the network gives it for an image that holds a NaN."""
    nothing = encode(as_columns(scores, SCORES) | {"score": np.full(len(scores), np.nan)}, SCORES)
    stage = absorption.measure(frame_of(spark, candidates, CANDIDATES, 1), frame_of(spark, nothing, SCORES, 1), settings)
    assert stage.count() == 0

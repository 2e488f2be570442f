"""The stage learns in Spark what its function learns from the whole array, however the rows are cut up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from runs import spark_frame

from nalspark.mocks import quasars
from nalspark.mocks.inject import seeded_generator
from nalspark.settings import load
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.eigenspectra import DrawnQuasars
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.stages import PART, _kept_aside, choose_quasars, eigenspectra_of, fit_columns, fit_eigenspectra_by_bin
from nalspark.tables.arrow import decode, encode, to_arrow
from nalspark.tables.schemas import EIGENSPECTRA, NORMALIZED

pytestmark = pytest.mark.spark

SETTINGS = load(overrides=["eigenspectra.components=4", "eigenspectra.rounds=2"])


@pytest.fixture(scope="module")
def normalized() -> pa.RecordBatch:
    """Quasars in two bins, and a lonely one in a third; some are two spectra of one quasar; null positions are allowed."""
    n = 61
    rngs = [seeded_generator("eigenspectra", number // 2) for number in range(n)]
    z = np.array([1.0 + 0.4 * (rng.random() > 0.5) + 0.2 * rng.random() for rng in rngs])
    z[-1] = 2.5
    flux = np.array([quasars.quasar_flux(LATTICE, redshift, rng) for redshift, rng in zip(z, rngs, strict=True)], dtype=np.float32)
    mask = np.zeros(flux.shape, dtype=np.uint8)
    mask[:, 500:510] = PixelFlag.ABSURD
    mask[::3, :300] = PixelFlag.NO_DATA
    ra = np.array([rng.uniform(0, 360) for rng in rngs])
    columns = {
        "spectrum_id": np.array([f"{(number * 37) % 1000:04d}-55000-0001" for number in range(n)], dtype=object),
        "part": np.full(n, "1", dtype=object), "ra": np.where(np.arange(n) < 4, np.nan, ra), "dec": np.zeros(n), "z_qso": z, "flux": flux,
        "ivar": np.where(mask > 0, 0.0, 400.0).astype(np.float32), "continuum": flux, "mask": mask,
    }  # fmt: skip
    return encode(columns, NORMALIZED)


def frame_of(spark: Any, batch: pa.RecordBatch, partitions: int) -> Any:
    return spark_frame(spark, batch, NORMALIZED).repartition(partitions)


def learned(spark: Any, batch: pa.RecordBatch, partitions: int, settings: Any = SETTINGS) -> pa.Table:
    rows = frame_of(spark, batch, partitions)
    found = fit_eigenspectra_by_bin(rows.join(choose_quasars(rows, settings), "spectrum_id"), settings)
    assert found.columns == EIGENSPECTRA.names
    return to_arrow(found, EIGENSPECTRA).sort_by("z_bin")


@pytest.fixture(scope="module")
def expected(normalized: pa.RecordBatch) -> pa.Table:
    """The stage's function on the rows of each bin, in order of their names."""
    rows = pa.Table.from_batches([normalized]).sort_by("spectrum_id").combine_chunks().to_batches()[0]
    z_bin = np.floor(rows["z_qso"].to_numpy() / 0.2).astype(int)
    declared = {column.name: column for column in NORMALIZED.columns}
    batches = []
    for number in np.unique(z_bin):
        columns = decode(rows.filter(pa.array(z_bin == number)), declared)
        batches.append(encode(fit_columns({**columns, "z_bin": np.full(len(columns["z_qso"]), number)}, SETTINGS), EIGENSPECTRA))
    return pa.Table.from_batches(batches)


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_eigenspectra_do_not_depend_on_how_rows_are_cut_up(spark: Any, normalized: Any, expected: Any, partitions: int) -> None:
    found = learned(spark, normalized, partitions)
    for name in EIGENSPECTRA.names:
        assert repr(found[name].to_pylist()) == repr(expected[name].to_pylist()), name


def test_bins_are_described_and_read_back(expected: pa.Table) -> None:
    assert expected["z_bin"].to_pylist() == [5, 7]  # the lonely quasar of bin 12 has no row
    assert set(expected["part"].to_pylist()) == {PART}
    bins = eigenspectra_of(expected)
    assert sum(one.n_quasars + one.n_held_out for one in bins) == 60
    for one in bins:
        assert one.components.shape == (4, len(one.mean)) and one.coefficients.shape == (one.n_quasars, 4)
        assert one.mean.shape == one.scatter.shape and len(one.mean) > LATTICE.n_pixels
        assert one.z_high - one.z_low == pytest.approx(0.2)
    flux = DrawnQuasars(bins)(seeded_generator(1), 1.5)
    assert flux.shape == (LATTICE.n_pixels,) and np.median(flux) == pytest.approx(1.0, rel=0.05)
    peak = LATTICE.wavelength[2300:3000][flux[2300:3000].argmax()]
    assert peak == pytest.approx(2799.0 * 2.5, rel=0.01)


def test_a_bin_takes_no_more_quasars_than_the_setting_allows(spark: Any, normalized: Any) -> None:
    few = load(overrides=["eigenspectra.components=4", "eigenspectra.rounds=1", "eigenspectra.max_quasars_per_bin=12"])
    ours, theirs = learned(spark, normalized, 1, few), learned(spark, normalized, 5, few)
    assert [one.n_quasars + one.n_held_out for one in eigenspectra_of(ours)] == [12, 12]
    assert ours["mean"].to_pylist() == theirs["mean"].to_pylist()


def test_spectra_of_one_quasar_are_held_out_together() -> None:
    count = 4000
    place = np.arange(count) // 2
    columns = {"spectrum_id": np.arange(count).astype(str), "ra": 0.31 * place % 360 + 0.01, "dec": 0.01 + 0.1 * (place // 1000)}
    aside = _kept_aside(columns)
    np.testing.assert_array_equal(aside[::2], aside[1::2])
    assert 0.07 < aside.mean() < 0.13

"""The eigenspectra of a survey's quasars as a Spark stage: one bin of redshift a task."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from nalspark.errors import NalsparkError
from nalspark.settings import Settings
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.eigenspectra import Eigenspectra, bridge_gaps, fit_eigenspectra
from nalspark.tables.arrow import Columns, decode, encode
from nalspark.tables.schemas import EIGENSPECTRA, NORMALIZED

#: Fraction of the quasars on which the reconstruction is tried.
_HELD_OUT = 0.1
#: Cells of the sky by which quasars are distinguished, per degree: all spectra of a quasar are in one, but for one in a hundred on an edge.
_CELLS_PER_DEGREE = 20
#: The table is made as a whole: its one part.
PART = "all"


def _kept_aside(columns: Columns) -> NDArray[np.bool_]:
    """Which rows are not learned from: chosen by a hash of the quasar's place, so that no quasar is on both sides."""
    names = [
        f"{int(np.floor(ra * _CELLS_PER_DEGREE))}:{int(np.floor(dec * _CELLS_PER_DEGREE))}" if np.isfinite(ra + dec) else str(name)
        for name, ra, dec in zip(columns["spectrum_id"], columns["ra"], columns["dec"], strict=True)
    ]
    digests = [hashlib.blake2b(name.encode(), digest_size=4).digest() for name in names]
    return np.array([int.from_bytes(digest, "little") < _HELD_OUT * 2**32 for digest in digests], dtype=bool)


def fit_columns(columns: Columns, settings: Settings) -> Columns:
    """Learn one row of EIGENSPECTRA, or none, from the rows of NORMALIZED of one bin, in order of ``spectrum_id``, with their ``z_bin``.

    There is none where fewer than two quasars can be learned from.
    """
    chosen, continuum = settings.eigenspectra, columns["continuum"]
    number = int(columns["z_bin"][0])
    known = bridge_gaps(np.where(columns["mask"] == 0, columns["ivar"], 0.0).astype(np.float32))
    # Where it was extrapolated a continuum is worth nothing, and where it is negative it is wrong.
    known[((columns["mask"] & np.uint8(PixelFlag.FOREST)) > 0) | (continuum <= 0)] = 0.0
    z_range = (number * chosen.bin_width, (number + 1) * chosen.bin_width)
    try:
        model = fit_eigenspectra(
            continuum, known, columns["z_qso"], z_range,
            components=chosen.components, rounds=chosen.rounds, held_out=_kept_aside(columns),
        )  # fmt: skip
    except NalsparkError:
        return {}
    return {"part": [PART], "z_bin": np.array([number]), **_row(model)}


def _row(model: Eigenspectra) -> Columns:
    scalars = ("z_low", "z_high", "first_pixel", "n_quasars", "n_held_out", "reconstruction_error")
    arrays = ("mean", "components", "variance", "scatter", "coefficients")
    return {**{name: np.array([getattr(model, name)]) for name in scalars}, **{name: [getattr(model, name)] for name in arrays}}


def eigenspectra_of(table: pa.Table) -> tuple[Eigenspectra, ...]:
    """Make objects of rows of EIGENSPECTRA, in order of redshift."""
    declared = {column.name: column for column in EIGENSPECTRA.columns}
    rows = [row for batch in table.to_batches() for row in _rows(decode(batch, declared))]
    return tuple(sorted(rows, key=lambda model: model.z_low))


def _rows(columns: Columns) -> list[Eigenspectra]:
    return [
        Eigenspectra(
            z_low=float(columns["z_low"][row]),
            z_high=float(columns["z_high"][row]),
            first_pixel=int(columns["first_pixel"][row]),
            mean=columns["mean"][row],
            components=columns["components"][row].reshape(len(columns["variance"][row]), -1),
            variance=columns["variance"][row],
            scatter=columns["scatter"][row],
            coefficients=columns["coefficients"][row].reshape(-1, len(columns["variance"][row])),
            n_held_out=int(columns["n_held_out"][row]),
            reconstruction_error=float(columns["reconstruction_error"][row]),
        )
        for row in range(len(columns["z_low"]))
    ]


def _fit_group(group: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    declared = {column.name: column for column in NORMALIZED.columns}
    # Rows come in any order, and sums of floating-point numbers depend on it.
    table = pa.Table.from_pandas(group.sort_values("spectrum_id"), preserve_index=False)
    (batch,) = table.combine_chunks().to_batches()  # text of pandas 3 comes in chunks, which a batch cannot have
    fitted = encode(fit_columns(decode(batch, declared), settings), EIGENSPECTRA).to_pandas()
    return fitted.astype({"part": object})  # nor does Spark 4.3 take text that comes in chunks


def _bin_of(settings: Settings) -> Column:
    return F.floor(F.col("z_qso") / settings.eigenspectra.bin_width).cast("int").alias("z_bin")


def choose_quasars(searched: DataFrame, settings: Settings) -> DataFrame:
    """Choose which spectra are learned from: the first of every bin of redshift in an order that knows nothing of them.

    Parameters
    ----------
    searched : DataFrame of SEARCHED, usable rows only
    settings : Settings

    Returns
    -------
    DataFrame
        ``spectrum_id``.
    """
    in_order = Window.partitionBy("z_bin").orderBy(F.xxhash64("spectrum_id"), "spectrum_id")
    placed = searched.select("spectrum_id", _bin_of(settings)).withColumn("place", F.row_number().over(in_order))
    return placed.where(F.col("place") <= settings.eigenspectra.max_quasars_per_bin).select("spectrum_id")


def fit_eigenspectra_by_bin(normalized: DataFrame, settings: Settings) -> DataFrame:
    """Learn the eigenspectra of every bin of redshift.

    Parameters
    ----------
    normalized : DataFrame of NORMALIZED
        Of the chosen quasars.
    settings : Settings

    Returns
    -------
    DataFrame of EIGENSPECTRA
        A bin with fewer than two quasars to learn from has no row. All rows have one ``part``.
    """
    pixels = normalized.select("spectrum_id", "ra", "dec", "z_qso", "ivar", "continuum", "mask", _bin_of(settings))

    def fit(group: pd.DataFrame) -> pd.DataFrame:  # no `partial`: Spark 4.3 reads the types, and warns where it finds none
        return _fit_group(group, settings)

    return pixels.groupBy("z_bin").applyInPandas(fit, EIGENSPECTRA.spark_schema)  # Spark 3.5 has no applyInArrow

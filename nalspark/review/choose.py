"""Which rows of a catalogue are looked at: those that a condition selects, or a sample of them that is the same for everybody."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from nalspark.errors import NalsparkError
from nalspark.judging.composites.selection import Selection, parse_selection
from nalspark.sampling import round_by_round, strata_of
from nalspark.tables.table import Column, Table

#: A page of more systems than this helps nobody.
MOST = 100_000
_ORDER = "review_order"
_BATCH_ROWS = 65_536


def choose(
    dataset: ds.Dataset, table: Table, name: Sequence[str], select: str = "", sample: int | None = None, evenly: str = ""
) -> pa.Table:
    """Read the rows of a catalogue that are to be looked at, in an order that says nothing of them.

    The order is that of a digest of a row's name: the same for every reviewer and after every start, and the first n of it are a random
    sample. No more rows than are wanted are held at a time.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
    table : Table
        Its declaration; columns of pixels, and those that the files lack, are left out.
    name : sequence of str
        Columns that together tell a row from all others.
    select : str
        A condition on columns as ``nalspark stack`` takes it; a row of which it cannot be said, because of a null, is left out.
    sample : int, optional
        How many rows at most; all by default.
    evenly : str
        A column of scores of which the rows have equally many in each stratum (:data:`nalspark.sampling.STRATA`), as far as there are so
        many. They come round by round, one of each stratum: whoever stops early has seen equally many of each.

    Raises
    ------
    SettingsError
        Where the condition is none.
    NalsparkError
        Where nothing is left, or too much, or the sample is less than one.
    """
    if sample is not None and sample < 1:
        raise NalsparkError(f"A sample of {sample} systems cannot be looked at: --sample must be 1 or more.")
    if sample is not None and sample > MOST:
        raise NalsparkError(f"A sample of {sample} systems is more than a page can show: --sample must be {MOST} or less.")
    columns = present(dataset, table)
    selection = parse_selection(select, {column.name: column.kind for column in columns})
    names = [column.name for column in columns]
    kept = pa.schema([dataset.schema.field(one) for one in names]).append(pa.field(_ORDER, pa.uint64())).empty_table()
    if evenly and evenly not in names:
        raise NalsparkError(f"The catalogue has no column '{evenly}' by which a sample could be drawn.")
    n_selected = 0
    for batch in dataset.to_batches(columns=names, batch_size=_BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pa.array(_selected(rows, selection)))
        n_selected += len(rows)
        rows = rows.append_column(_ORDER, pa.array(_digests(rows, name), pa.uint64()))
        kept = _first(pa.concat_tables([kept, rows]), min(sample or MOST, MOST), evenly)
    if not n_selected:
        raise NalsparkError(f"No row of the catalogue fulfils '{select}'." if select else "The catalogue has no rows.")
    if sample is None and n_selected > MOST:
        raise NalsparkError(f"{n_selected} systems are too many to be looked at: narrow them with --select, or take a --sample.")
    return kept.drop_columns([_ORDER])


def _first(rows: pa.Table, n: int, evenly: str) -> pa.Table:
    """The first rows in their order: of any part of a table, so many that the first of the whole are among them."""
    if not evenly:
        return rows.sort_by([(_ORDER, "ascending")]).slice(0, n).combine_chunks()
    stratum = strata_of(rows[evenly].to_numpy())
    rows = rows.filter(pa.array(stratum >= 0))  # what has no score is in no stratum
    return rows.take(round_by_round(stratum[stratum >= 0], rows[_ORDER].to_numpy())[:n]).combine_chunks()


def present(dataset: ds.Dataset, table: Table) -> tuple[Column, ...]:
    """Give the declared columns that the files have, but those of pixels."""
    return tuple(column for column in table.columns if column.name in dataset.schema.names and not column.pixel_dtype)


def _selected(rows: pa.Table, selection: Selection) -> NDArray[np.bool_]:
    frame = rows.select(sorted(selection.columns)).to_pandas(types_mapper=pd.ArrowDtype)
    chosen: Any = selection.apply(lambda column: frame[column])
    if not isinstance(chosen, pd.Series):  # all rows, or a condition that names no column
        return np.full(len(rows), chosen is not False)
    return chosen.fillna(False).to_numpy(dtype=bool)


def _digests(rows: pa.Table, name: Sequence[str]) -> list[int]:
    """A number for each row, as good as drawn by chance, from its name alone."""
    texts = zip(*(rows[column].to_pylist() for column in name), strict=True)
    return [int.from_bytes(hashlib.blake2b(repr(text).encode(), digest_size=8).digest(), "big") for text in texts]

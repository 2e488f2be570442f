"""Columns as astropy tables, with the units and descriptions that their table declares."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.table import Column, MaskedColumn, QTable
from astropy.units import Quantity

from nalspark.tables.arrow import decode, objects
from nalspark.tables.table import Column as Declared
from nalspark.tables.table import Table


def to_qtable(columns: Mapping[str, Any] | pa.Table, table: Table) -> QTable:
    """Make an astropy table of some columns.

    Floating columns with a unit become quantities, NaN where nothing was measured. Whole numbers stay plain, so that ``plate == 3586``
    needs no unit; where one is missing, or a text is, the column is masked. A list, or an array of pixels, is one object in its cell.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (rows,), or pyarrow Table
    table : Table
        Its declaration: what it does not declare is left out, and so is what `columns` do not have.

    Returns
    -------
    QTable
        Columns in the declared order, each with its description and, in ``info.meta["ucd"]``, its UCD.
    """
    values = _decoded(columns, table) if isinstance(columns, pa.Table) else columns
    result = QTable(meta={"name": table.name, "description": table.description})
    for column in table.columns:
        if column.name in values:
            result[column.name] = _filled(values[column.name], column)
            result[column.name].info.description = column.description
            result[column.name].info.meta = {"ucd": column.ucd} if column.ucd else {}
    return result


def _decoded(rows: pa.Table, table: Table) -> dict[str, Any]:
    known = [name for name in table.names if name in rows.column_names]
    declared = {column.name: column for column in table.columns}
    combined = rows.select(known).combine_chunks().to_batches()
    batch = combined[0] if combined else pa.RecordBatch.from_pylist([], rows.select(known).schema)
    return decode(batch, declared)


def _filled(values: Any, column: Declared) -> Column | MaskedColumn | Quantity:
    """One column, missing values as :func:`to_qtable` says."""
    array = np.asarray(values)
    if column.kind in ("float", "double"):
        plain = array.astype(column.arrow_type.to_pandas_dtype(), copy=False)
        return Quantity(plain, unit_of(column), dtype=plain.dtype) if column.unit else Column(plain)
    if column.kind.startswith(("list<", "pixels<")):
        return Column(objects(values))
    missing = np.array([value is None or value != value for value in array.tolist()], dtype=bool)
    nothing, kind = ("", str) if column.kind == "string" else (0, column.arrow_type.to_pandas_dtype())
    filled = np.where(missing, nothing, array).astype(kind)
    return MaskedColumn(filled, mask=missing) if missing.any() else Column(filled)


def unit_of(column: Declared) -> u.UnitBase:
    """Give the unit that a column is declared with."""
    with warnings.catch_warnings():
        # ``erg/s/cm^2/Angstrom`` is understood; astropy only advises against several slashes.
        warnings.simplefilter("ignore", u.UnitsWarning)
        return u.Unit(column.unit)

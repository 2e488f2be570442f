"""The one adapter between Spark's Arrow batches and numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nalspark.errors import StoreError
from nalspark.tables.table import Column, Table
from nalspark.worker import idle_cleanup

if TYPE_CHECKING:  # a table's bytes are read without Spark too
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

Columns = dict[str, Any]
Batches = Iterator[pa.RecordBatch]

#: Rows of Parquet files that are held in memory at a time.
_BATCH_ROWS = 32_768


def objects(cells: Sequence[Any]) -> np.ndarray:
    """Give an array of objects, one a cell; numpy would make a rectangle of arrays that are equally long."""
    result = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        result[row] = cell
    return result


def _decode_pixels(array: pa.Array, dtype: str) -> np.ndarray:
    """Binary cells to an array of shape (n, p) where all cells are equally long, else to an object array of n arrays."""
    if array.null_count == 0 and len(array):
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
        if len(set(np.diff(offsets))) == 1:  # the cells lie one behind the other: nothing is copied
            return np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].view(dtype).reshape(len(array), -1)
    return objects([None if cell is None else np.frombuffer(cell, dtype=dtype) for cell in array.to_pylist()])


def decode(batch: pa.RecordBatch, declared: Mapping[str, Column]) -> Columns:
    """Decode a batch to a dictionary of arrays; ``pixels`` columns come as arrays of numbers, a list as an array in its cell.

    Nulls become NaN in floating columns, and in lists of numbers, and None in the others. An integer column with nulls comes as float, as
    pyarrow does it, but for one of 64 bits, which float does not hold: that comes as objects.
    """
    pixels = {name: column.pixel_dtype for name, column in declared.items() if column.pixel_dtype}
    return {
        name: _decode_pixels(array, pixels[name]) if name in pixels else _decode_values(array)
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    }


def _decode_values(array: pa.Array) -> np.ndarray:
    if array.null_count and pa.types.is_int64(array.type):
        return objects(array.to_pylist())
    return array.to_numpy(zero_copy_only=False)


def _encode_column(values: Any, column: Column) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if column.pixel_dtype:
        cells = [None if cell is None else np.ascontiguousarray(cell, dtype=column.pixel_dtype).tobytes() for cell in values]
        return pa.array(cells, type=pa.binary())
    if column.kind.startswith("list<"):
        return pa.array([None if cell is None else list(cell) for cell in values], type=column.arrow_type)
    plain = isinstance(values, np.ndarray) and values.dtype.kind not in "OUS"
    # NaN in a floating column means "not measured": null on disk, as every reader of Parquet understands it.
    return pa.array(values if plain else list(values), type=column.arrow_type, from_pandas=True)


def encode(columns: Mapping[str, Any], table: Table) -> pa.RecordBatch:
    """Encode a dictionary of arrays as a batch with exactly the table's columns; a column that is absent becomes null."""
    rows = len(next(iter(columns.values()))) if columns else 0
    arrays = [
        _encode_column(columns[column.name], column) if column.name in columns else pa.nulls(rows, column.arrow_type)
        for column in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=table.arrow_schema)


def _map_partition(batches: Batches, function: Callable[[Columns], Columns], declared: Mapping[str, Column], target: Table) -> Batches:
    for batch in batches:
        if batch.num_rows:
            yield encode(function(decode(batch, declared)), target)


def to_arrow(frame: DataFrame, table: Table) -> pa.Table:
    """Collect all rows of a small frame on the driver, with the types that its table declares (Spark 3.5 has no ``toArrow``)."""
    return pa.Table.from_pylist([row.asDict() for row in frame.collect()], table.arrow_schema)


def to_columns(frame: DataFrame, table: Table) -> Columns:
    """Collect a small frame on the driver as arrays."""
    whole = to_arrow(frame, table).combine_chunks()
    return decode(whole.to_batches()[0] if len(whole) else encode({}, table), {column.name: column for column in table.columns})


def _settled(batches: Batches, function: Callable[[Batches], Batches]) -> Batches:
    yield from function(batches)
    idle_cleanup()


def map_batches(frame: DataFrame, function: Callable[[Batches], Batches], schema: StructType | str) -> DataFrame:
    """Apply ``frame.mapInArrow``, for workers that go on to further tasks."""
    return frame.mapInArrow(partial(_settled, function=function), schema)


def read_batches(files: Iterable[str | Path], columns: Sequence[Column]) -> Batches:
    """Read some columns of Parquet files, batch after batch, with the types that their table declares.

    Group of rows by group: a pass over several keeps the bytes of those that are done until it ends.

    Raises
    ------
    StoreError
        Where one of the files cannot be read.
    """
    names = [column.name for column in columns]
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                for group in range(parquet.num_row_groups):
                    for batch in parquet.iter_batches(_BATCH_ROWS, [group], names):
                        arrays = [batch.column(column.name).cast(column.arrow_type) for column in columns]
                        yield pa.RecordBatch.from_arrays(arrays, names=names)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"'{file}' is not readable as Parquet: {error}.") from None


def tally(
    files: Iterable[str | Path], columns: Sequence[Column], count: Callable[[Columns], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Sum up what `count` gives of some columns of Parquet files, in one pass and in memory that does not grow with their rows.

    `count` takes a dictionary of arrays, and gives counts of the same names and shapes for any number of rows, none included.
    """
    declared = {column.name: column for column in columns}
    nothing = pa.RecordBatch.from_pylist([], schema=pa.schema([(column.name, column.arrow_type) for column in columns]))
    totals = dict(count(decode(nothing, declared)))
    for batch in read_batches(files, columns):
        totals = {name: totals[name] + counts for name, counts in count(decode(batch, declared)).items()}
    return totals


def numbered(spark: SparkSession, ranges: Mapping[str, range], per_task: int) -> DataFrame:
    """List the numbers of some parts for what is made from a number: columns ``part`` and ``number``.

    A task has at most `per_task` numbers, in their order and of one part, however many cores there are: so the files that are written of
    it, and the order of the rows in them, are the same everywhere.
    """
    from pyspark.sql import functions as F  # who only reads a table does not load Spark

    pieces = [(part, numbers[at : at + per_task]) for part, numbers in ranges.items() for at in range(0, len(numbers), per_task)]
    listed = [(task, part, numbers[0], numbers[-1]) for task, (part, numbers) in enumerate(pieces)]
    firsts = F.broadcast(spark.createDataFrame(listed, "id long, part string, first long, last long"))
    tasks = spark.range(0, len(listed), 1, len(listed)).join(firsts, "id")
    return tasks.select("part", F.explode(F.sequence("first", "last")).alias("number"))


def map_arrays(frame: DataFrame, function: Callable[[Columns], Columns], source: Table, target: Table) -> DataFrame:
    """Apply a numpy function to every batch of a frame.

    Parameters
    ----------
    frame : DataFrame
    function : callable
        ``dict of arrays -> dict of arrays``; it may return any number of rows. Its result for a row must not depend on the other rows of
        the batch, because Spark chooses the batches.
    source : Table
        Declares which of the frame's columns hold pixels.
    target : Table
        Columns of the result.
    """
    declared = {column.name: column for column in source.columns}
    return map_batches(frame, partial(_map_partition, function=function, declared=declared, target=target), target.spark_schema)


def _map_to_tables(
    batches: Batches,
    function: Callable[[Columns], Sequence[Columns]],
    declared: Mapping[str, Column],
    targets: Sequence[Table],
) -> Batches:
    for batch in batches:
        for table, columns in zip(targets, function(decode(batch, declared)), strict=True) if batch.num_rows else ():
            rows = encode(columns, table).to_struct_array()
            yield pa.RecordBatch.from_arrays(
                [rows if other is table else pa.nulls(len(rows), pa.struct(other.arrow_schema)) for other in targets],
                names=[other.name for other in targets],
            )


def map_to_tables(frame: DataFrame, function: Callable[[Columns], Sequence[Columns]], source: Table, targets: Sequence[Table]) -> DataFrame:
    """Apply a numpy function that makes rows of several tables in one pass; parameters else as for :func:`map_arrays`.

    Returns
    -------
    DataFrame
        Rows of all tables: :func:`rows_of` tells them apart.
    """
    from pyspark.sql import types as T

    declared = {column.name: column for column in source.columns}
    schema = T.StructType([T.StructField(table.name, table.spark_schema) for table in targets])
    return map_batches(frame, partial(_map_to_tables, function=function, declared=declared, targets=targets), schema)


def rows_of(frame: DataFrame, table: Table) -> DataFrame:
    """Give the rows of one table of a frame of :func:`map_to_tables`."""
    return frame.where(f"{table.name} IS NOT NULL").select(f"{table.name}.*")

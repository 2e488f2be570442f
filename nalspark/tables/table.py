"""One declaration per table: the Spark schema, the Arrow schema, the FITS units and UCDs and the data-model page come from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import types as T

#: Kind of a column → Arrow's type.
_SIMPLE = {
    "string": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
    kind : str
        ``string``, ``int``, ``long``, ``float``, ``double``, ``bool``; ``list<double>``; or an array of numbers in one binary cell,
        written ``pixels<f4>`` with the numpy type of its elements (little-endian).
    description : str
    unit : str
        As FITS writes it (``Angstrom``, ``km/s``, ``deg``); empty for dimensionless.
    ucd : str
        Unified content descriptor, version 1+ (IVOA).
    """

    name: str
    kind: str
    description: str
    unit: str = ""
    ucd: str = ""

    @property
    def pixel_dtype(self) -> str | None:
        """The numpy type of the elements of a ``pixels<…>`` column, else None."""
        return "<" + self.kind[len("pixels<") : -1] if self.kind.startswith("pixels<") else None

    @property
    def arrow_type(self) -> pa.DataType:
        if self.kind.startswith("list<"):
            return pa.list_(_SIMPLE[self.kind[5:-1]])
        return _SIMPLE["binary" if self.pixel_dtype else self.kind]

    @property
    def spark_type(self) -> T.DataType:
        from pyspark.sql.pandas.types import from_arrow_type  # who only reads a result does not load Spark

        return from_arrow_type(self.arrow_type)


#: A row that could not be used carries these two; usable rows have null in both.
REJECTION_COLUMNS = (
    Column("reason", "string", "Why the row was rejected: a short identifier; null for a usable row"),
    Column("detail", "string", "The rejection in a sentence: what was found, what was expected"),
)


@dataclass(frozen=True)
class Table:
    """A table: its name, what a row is, its columns in order, and what else the data model says of it."""

    name: str
    description: str
    columns: tuple[Column, ...]
    note: str = ""

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def arrow_schema(self) -> pa.Schema:
        return pa.schema([pa.field(column.name, column.arrow_type) for column in self.columns])

    @property
    def spark_schema(self) -> T.StructType:
        from pyspark.sql import types as T

        return T.StructType([T.StructField(column.name, column.spark_type) for column in self.columns])

    def rejectable(self) -> Table:
        """Give the same table with the columns ``reason`` and ``detail`` at its end."""
        return replace(self, columns=self.columns + REJECTION_COLUMNS)

    def select(self, *names: str) -> tuple[Column, ...]:
        """Give the declarations of some columns, in the order asked for."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in names)

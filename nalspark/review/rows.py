"""Single rows of a table on disk, without Spark: a part is indexed when it is first asked for, and a row is read with its row group."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nalspark.errors import StoreError
from nalspark.tables.manifest import Manifest
from nalspark.tables.store import Store
from nalspark.tables.table import Table

#: Parts whose index is kept, and row groups (of some 8 MB each, as nalspark writes them).
_INDEXED, _HELD = 64, 12


class _Place(NamedTuple):
    file: str
    group: int
    row: int


class Rows:
    """The usable rows of one table of a result.

    Parameters
    ----------
    store : Store
    manifest : Manifest
    table : Table
    key : sequence of str
        Columns by which a row is asked for.
    columns : sequence of str
        Those that are read.
    """

    def __init__(self, store: Store, manifest: Manifest, table: Table, key: Sequence[str], columns: Sequence[str]) -> None:
        self.store, self.parts, self.table, self.key = store, manifest.parts(table.name), table, tuple(key)
        self.schema = pa.schema([table.arrow_schema.field(name) for name in columns])
        self._index = lru_cache(_INDEXED)(self._indexed)
        self._held: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def one(self, part: str, *key: str) -> pa.Table:
        """Read one row of a part, as a table.

        Raises
        ------
        StoreError
            Where there is none, or the files are not there or not readable.
        """
        place = self._index(part).get(key)
        if place is None:
            raise StoreError(
                f"Table '{self.table.name}' of {self.store.root} has no usable row {', '.join(key)} any more: a stage was left out since "
                "the files changed. Run all stages."
            )
        return self._group(place).slice(place.row, 1)

    def _indexed(self, part: str) -> dict[tuple[str, ...], _Place]:
        files = self.store.files(self.parts[part]) if part in self.parts and self.parts[part].path else []
        found = {}
        for file in files:
            with self._opened(file) as parquet:
                names = [name for name in (*self.key, "reason") if name in parquet.schema_arrow.names]
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=names).to_pydict()
                    reasons = rows.get("reason", [None] * len(rows[self.key[0]]))
                    for row, (reason, *key) in enumerate(zip(reasons, *(rows[name] for name in self.key), strict=True)):
                        if reason is None:
                            found[tuple(key)] = _Place(file, group, row)
        return found

    def _group(self, place: _Place) -> pa.Table:
        at = place.file, place.group
        with self._lock:
            if at not in self._held:
                self._held[at] = self._read(*at)
            self._held.move_to_end(at)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return self._held[at]

    def _read(self, file: str, group: int) -> pa.Table:
        """A row group with the declared columns; null in those that an earlier version did not write."""
        with self._opened(file) as parquet:
            rows = parquet.read_row_group(group, columns=[name for name in self.schema.names if name in parquet.schema_arrow.names])
        arrays = [rows[one.name] if one.name in rows.column_names else pa.nulls(len(rows), one.type) for one in self.schema]
        return pa.table(arrays, schema=self.schema)

    def _opened(self, file: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"'{file}' cannot be read: {' '.join(str(error).split())}. Was the result made anew? Start again.") from None

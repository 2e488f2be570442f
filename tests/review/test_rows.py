"""Single rows of a result's tables: those that the report would draw, whichever file and row group they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.errors import StoreError
from nalspark.pipeline.publish import gallery_items
from nalspark.plots.figures import velocities
from nalspark.review.rows import Rows
from nalspark.review.systems import absorber_exhibits, drawn
from nalspark.tables.manifest import Manifest, Part
from nalspark.tables.result import open_result
from nalspark.tables.store import Store
from nalspark.tables.table import REJECTION_COLUMNS, Column, Table

TABLE = Table("things", "", (Column("name", "string", ""), Column("x", "int", ""), Column("new", "double", ""), *REJECTION_COLUMNS))


def test_a_system_is_drawn_from_the_same_arrays_as_the_report_draws_it(small_result: Path) -> None:
    result, exhibits = open_result(small_result), absorber_exhibits(small_result)
    rows = [exhibits.row(number, blind=False) for number in (0, 1, 59)]
    for row, item in zip(rows, gallery_items(Store(small_result), result.manifest, result.settings, rows), strict=True):
        ours, theirs = exhibits.draw(row), drawn(item)
        assert ours == theirs
        panel = ours["panels"]["each"][item.doublet[0]]
        np.testing.assert_allclose(panel["velocity"], velocities(item)[item.doublet[0]], atol=0.01)


def test_every_row_is_found_in_its_file_and_row_group(tmp_path: Path) -> None:
    parts = {}
    for part in "ab":
        (tmp_path / part).mkdir()
        for number in range(2):
            names = [f"{part}{number}{row}" for row in range(10)]
            reasons = ["broken" if row == 3 else None for row in range(10)]
            table = pa.table({"name": names, "x": pa.array(range(10), pa.int32()), "reason": reasons})
            pq.write_table(table, tmp_path / part / f"{number}.parquet", row_group_size=4)
        parts[part] = Part("", part, 20)
    rows = Rows(Store(tmp_path), Manifest(tables={"things": parts}), TABLE, ("name",), ("name", "x", "new"))
    for part in "ab":
        for number in range(2):
            for row in (0, 4, 9):
                assert rows.one(part, f"{part}{number}{row}").to_pylist() == [{"name": f"{part}{number}{row}", "x": row, "new": None}]
    for part, name in (("a", "b00"), ("c", "a00"), ("a", "a03")):
        with pytest.raises(StoreError, match="no usable row"):
            rows.one(part, name)

"""Rows, rejections and faults of a Parquet file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.tables.store import count_rows


@pytest.mark.parametrize("rows_per_group", [1, 3, 100])
def test_rows_with_a_reason_are_counted(tmp_path, rows_per_group):
    reasons = [None, "truncated", None, None, "internal_error", "truncated", None]
    table = pa.table({"spectrum_id": [str(n) for n in range(7)], "reason": pa.array(reasons, pa.string())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows_per_group)
    assert count_rows(tmp_path / "a.parquet")[:3] == (7, 3, 1)


def test_table_without_reasons(tmp_path):
    pq.write_table(pa.table({"score": [0.1, None, 0.9]}), tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == (3, 0, 0, 0)


def test_columns_that_are_lists_do_not_confuse_it(tmp_path):
    table = pa.table({"z_start": [[0.4, 0.5, 0.6], [], None], "reason": pa.array([None, None, "no_path"], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == (3, 1, 0, 0)


def test_rejections_that_may_pass_have_a_checksum_of_what_they_befell(tmp_path):
    """Another file, or another reason, is another checksum; the order of the rows is none."""

    def checksum(*rejections):
        paths, reasons = zip(*rejections, strict=True)
        pq.write_table(pa.table({"path": list(paths), "reason": pa.array(reasons, pa.string())}), tmp_path / "a.parquet")
        return count_rows(tmp_path / "a.parquet")[3]

    assert checksum(("a", None), ("b", "truncated")) == 0
    both = checksum(("a", "io_error"), ("b", "permission_denied"))
    assert both == checksum(("b", "permission_denied"), ("c", "not_fits"), ("a", "io_error"))
    different = {both, checksum(("a", "io_error"), ("b", None)), checksum(("a", None), ("b", "io_error")), checksum(("a", "file_missing"))}
    assert len(different) == 4 and 0 not in different

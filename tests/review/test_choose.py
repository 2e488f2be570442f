"""Which systems are looked at: conditions, and samples that are the same for everybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.errors import NalsparkError, SettingsError
from nalspark.review import choose as choosing
from nalspark.review.choose import choose
from nalspark.sampling import strata_of
from nalspark.tables.result import open_parquet
from nalspark.tables.table import Column, Table

TABLE = Table(
    "rows",
    "",
    (Column("name", "string", ""), Column("x", "double", ""), Column("bits", "int", ""), Column("pixels", "pixels<f4>", "")),
)
N = 1000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = [None if row % 10 == 0 else row / N for row in range(N)]
    columns = {"name": [f"n{row}" for row in range(N)], "x": x, "bits": np.arange(N, dtype=np.int32) % 4, "pixels": [b""] * N}
    path = tmp_path_factory.mktemp("choose") / "rows.parquet"
    pq.write_table(pa.table(columns, schema=TABLE.arrow_schema), path, row_group_size=77)
    return path


def names(file: Path, select: str = "", sample: int | None = None) -> list[str]:
    return choose(open_parquet(file), TABLE, ("name",), select, sample)["name"].to_pylist()


def test_all_rows_come_in_an_order_that_is_not_the_tables(file: Path) -> None:
    found = names(file)
    assert sorted(found) == sorted(f"n{row}" for row in range(N))
    assert found != sorted(found) and found == names(file)
    assert "pixels" not in choose(open_parquet(file), TABLE, ("name",)).column_names


def test_a_sample_is_the_beginning_of_the_whole_and_of_greater_ones(file: Path) -> None:
    assert names(file, sample=30) == names(file)[:30] == names(file, sample=100)[:30]
    assert len(names(file, sample=10 * N)) == N


@pytest.mark.parametrize(
    "select, chosen",
    [
        ("x < 0.1", lambda row: row % 10 and row < 100),
        ("not x < 0.1", lambda row: row % 10 and row >= 100),  # of a null neither is true
        ("bits & 1 != 0 or x >= 0.99", lambda row: row % 2 or (row % 10 and row >= 990)),
        ("name == 'n7'", lambda row: row == 7),
        ("True", lambda row: True),
    ],
)
def test_a_condition_selects(file: Path, select: str, chosen: object) -> None:
    assert set(names(file, select)) == {f"n{row}" for row in range(N) if chosen(row)}  # type: ignore[operator]


def test_a_sample_of_a_selection_is_that_of_the_whole_as_far_as_it_goes(file: Path) -> None:
    wanted = [name for name in names(file) if int(name[1:]) % 4 == 1]
    assert names(file, "bits == 1", 20) == wanted[:20]


@pytest.mark.parametrize(
    "select, sample, error",
    [
        ("__import__('os').system('true')", None, SettingsError),
        ("y > 1", None, SettingsError),
        ("x", None, SettingsError),
        ("x > 2", None, NalsparkError),
        ("", 0, NalsparkError),
    ],
)
def test_what_is_no_condition_or_leaves_nothing_is_told(file: Path, select: str, sample: int | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        names(file, select, sample)


def test_too_many_systems_are_refused_but_not_a_sample_of_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MOST", 50)
    with pytest.raises(NalsparkError, match="1000 systems are too many"):
        names(file)
    assert len(names(file, sample=20)) == 20


def test_an_even_sample_has_equally_many_of_every_stratum_whatever_the_batches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(n: int) -> list[str]:
        return choose(open_parquet(file), TABLE, ("name",), sample=n, evenly="x")["name"].to_pylist()

    first = drawn(120)
    strata = strata_of([int(name[1:]) / N for name in first])
    counts = np.bincount(strata).tolist()
    assert sorted(counts) == [9] + [10] * 10 + [11] and counts[-1] == 9, "the last stratum, 0.99 to 1, has nine rows with a number"
    assert all(len(set(strata[start : start + 12])) == 12 for start in range(0, 108, 12)), "round by round"
    assert drawn(60) == first[:60] and not {f"n{row}" for row in range(0, N, 10)} & set(first)
    monkeypatch.setattr(choosing, "_BATCH_ROWS", 7)
    assert drawn(120) == first
    with pytest.raises(NalsparkError, match="no column 'score'"):
        choose(open_parquet(file), TABLE, ("name",), sample=3, evenly="score")

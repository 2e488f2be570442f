"""The adapter between Arrow and numpy: what goes in comes out, for every kind of column, with nulls."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nalspark.lines import C_IV, MG_II
from nalspark.tables import schemas
from nalspark.tables.arrow import decode, encode, read_batches
from nalspark.tables.table import Column, Table

KINDS = Table(
    "kinds",
    "One column of every kind.",
    (
        Column("text", "string", ""), Column("small", "int", ""), Column("large", "long", ""), Column("single", "float", ""),
        Column("real", "double", ""), Column("truth", "bool", ""), Column("raw", "binary", ""), Column("many", "list<double>", ""),
        Column("words", "list<string>", ""), Column("fixed", "pixels<f4>", ""), Column("ragged", "pixels<f8>", ""),
        Column("bits", "pixels<u1>", ""),
    ),
)  # fmt: skip
DECLARED = {column.name: column for column in KINDS.columns}


def full_columns():
    """Three rows without a null."""
    ragged = np.empty(3, dtype=object)
    ragged[:] = [np.arange(2.0), np.arange(5.0), np.zeros(0)]
    return {
        "text": np.array(["a", "", "Å"], dtype=object),
        "small": np.array([1, -2, 2**31 - 1]),
        "large": np.array([2**62, 0, -1]),
        "single": np.array([1.5, -0.0, np.inf], dtype=np.float32),
        "real": np.array([1e-300, np.pi, -np.inf]),
        "truth": np.array([True, False, True]),
        "raw": [b"\x00\xff", b"", b"x"],
        "many": [np.array([1.0, 2.0]), np.zeros(0), [3.0]],
        "words": [["a", "b"], [], ["c"]],
        "fixed": np.arange(12, dtype=np.float32).reshape(3, 4),
        "ragged": ragged,
        "bits": np.array([[0, 255], [1, 2], [3, 4]], dtype=np.uint8),
    }


def round_trip(columns, table=KINDS):
    return decode(encode(columns, table), {column.name: column for column in table.columns})


def test_every_kind_comes_back():
    columns = full_columns()
    back = round_trip(columns)
    assert list(back) == KINDS.names
    for name in ("text", "small", "large", "single", "real", "truth"):
        np.testing.assert_array_equal(back[name], columns[name])
    assert back["single"].dtype == np.float32 and back["small"].dtype == np.int32 and back["truth"].dtype == bool
    assert list(back["raw"]) == columns["raw"]
    assert [list(cell) for cell in back["many"]] == [[1.0, 2.0], [], [3.0]]
    assert [list(cell) for cell in back["words"]] == columns["words"]
    np.testing.assert_array_equal(back["fixed"], columns["fixed"])
    assert back["fixed"].shape == (3, 4) and back["fixed"].dtype == np.float32  # equally long cells make one array
    assert back["bits"].dtype == np.uint8
    assert back["ragged"].dtype == object and [len(cell) for cell in back["ragged"]] == [2, 5, 0]


def test_nulls_of_every_kind_come_back():
    columns = {name: list(values) for name, values in full_columns().items()}
    for values in columns.values():
        values[1] = None
    back = round_trip(columns)
    for name in ("text", "truth", "raw", "many", "words", "fixed", "ragged", "bits", "large"):  # float does not hold 64 bits
        assert back[name][1] is None and back[name][0] is not None, name
    for name in ("small", "single", "real"):  # integers with nulls come as float: documented
        assert np.isnan(back[name][1]) and not np.isnan(back[name][0]), name
    assert len(back["fixed"]) == 3 and back["fixed"].dtype == object  # a null among pixels: no rectangle any more


def test_a_column_of_nulls_and_an_absent_column_are_the_same():
    for column in KINDS.columns:
        columns = {"small": np.arange(2), "large": np.arange(2)}
        absent = encode({name: values for name, values in columns.items() if name != column.name}, KINDS)
        given_null = encode(columns | {column.name: [None, None]}, KINDS)
        assert absent.column(column.name).null_count == 2
        assert absent.column(column.name).equals(given_null.column(column.name))


def test_nan_is_null_on_disk_and_nan_in_memory():
    batch = encode({"real": np.array([1.0, np.nan]), "single": np.array([np.nan, 2.0], dtype=np.float32)}, KINDS)
    assert batch.column("real").null_count == 1 and batch.column("single").null_count == 1
    back = decode(batch, DECLARED)
    np.testing.assert_array_equal(back["real"], [1.0, np.nan])
    # An integer column may be given as float where some are missing, as decode hands it out.
    assert encode({"small": np.array([7.0, np.nan])}, KINDS).column("small").to_pylist() == [7, None]
    # NaN inside pixels is a number like any other: only whole cells are null.
    assert np.isnan(round_trip({"fixed": np.array([[1.0, np.nan]])})["fixed"][0, 1])


def test_pixels_are_little_endian_and_converted():
    cell = encode({"fixed": np.array([[1.0, 2.0]], dtype=">f8")}, KINDS).column("fixed")[0].as_py()
    assert cell == np.array([1.0, 2.0], dtype="<f4").tobytes()
    strided = np.arange(12, dtype=np.float32).reshape(4, 3).T
    np.testing.assert_array_equal(round_trip({"fixed": strided})["fixed"], strided)


def test_lists_of_equal_length_stay_cells():
    """numpy would make a rectangle of them."""
    back = round_trip({"many": [[1.0, 2.0], [3.0, 4.0]], "words": [["a"], ["b"]]})
    assert back["many"].shape == (2,) and isinstance(back["many"][1], np.ndarray) and list(back["many"][1]) == [3.0, 4.0]
    assert back["words"].shape == (2,)


def test_columns_that_no_table_declares_are_passed_as_they_are():
    batch = pa.RecordBatch.from_pydict({"fixed": [b"\x00\x00\x80\x3f"], "other": [3]})
    back = decode(batch, {"fixed": DECLARED["fixed"]})
    assert back["fixed"][0, 0] == 1.0 and back["other"][0] == 3
    assert decode(batch, {})["fixed"][0] == b"\x00\x00\x80\x3f"


def test_order_and_types_are_the_tables():
    columns = full_columns()
    batch = encode(dict(reversed(columns.items())) | {"undeclared": [1, 2, 3]}, KINDS)
    assert batch.schema.equals(KINDS.arrow_schema)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), hnp.arrays(np.float32, st.integers(0, 6))), min_size=1, max_size=6))
def test_any_mixture_of_pixel_cells_comes_back_bit_for_bit(cells):
    back = round_trip({"fixed": cells})["fixed"]
    assert len(back) == len(cells)
    for before, after in zip(cells, back, strict=True):
        assert (after is None) if before is None else (before.tobytes() == np.asarray(after).tobytes())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(hnp.arrays(np.float64, st.integers(1, 6)))
def test_any_doubles_come_back(values):
    np.testing.assert_array_equal(round_trip({"real": values})["real"], values)


@pytest.mark.parametrize("table", [value for value in vars(schemas).values() if isinstance(value, Table)]
                         + [schemas.absorbers_table(species) for species in (MG_II, C_IV)], ids=lambda table: table.name)  # fmt: skip
def test_spark_and_arrow_agree_on_every_table(table):
    from pyspark.sql.pandas.types import to_arrow_schema

    assert to_arrow_schema(table.spark_schema).equals(table.arrow_schema)
    assert len(set(table.names)) == len(table.names)
    assert all(column.description for column in table.columns)


def test_a_file_is_read_in_memory_that_does_not_grow_with_its_rows(tmp_path):
    """Of 60 groups of rows one is held at a time, with what is in hand of it: far less than a quarter of the file."""
    table = Table("t", "T.", (Column("x", "double", "x"),))
    values = np.random.default_rng(1).normal(size=100_000)
    path, groups = tmp_path / "x.parquet", 60
    with pq.ParquetWriter(path, table.arrow_schema) as writer:
        for number in range(groups):
            writer.write_table(pa.table({"x": values + number}))
    before, most, total = pa.total_allocated_bytes(), 0, 0.0
    for batch in read_batches([path], table.columns):
        most, total = max(most, pa.total_allocated_bytes() - before), total + batch["x"].to_numpy().sum()
    assert most < groups * values.nbytes / 4
    assert total == pytest.approx(groups * values.sum() + len(values) * sum(range(groups)), rel=1e-9)

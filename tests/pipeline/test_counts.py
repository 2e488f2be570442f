"""What the report counts: against counting by hand, in one batch or several."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.absorption.measure import AbsorberFlag
from nalspark.pipeline import publish as stages
from nalspark.tables.arrow import Columns, encode, tally
from nalspark.tables.table import Column, Table

EDGES = {"z_abs": np.array([0.5, 1.0, 2.0])}
Z = np.arange(0.4, 2.3, 0.005)
KINDS = {
    "z_abs": "double",
    "flags": "int",
    "score": "double",
    "z_qso": "double",
    "snr": "float",
    "z_start": "list<double>",
    "z_stop": "list<double>",
    "n_epochs": "int",
}
TABLE = Table("counted", "Rows to count.", tuple(Column(name, kind, name) for name, kind in KINDS.items()))
OFF, EDGE = int(AbsorberFlag.OFF_PATH), int(AbsorberFlag.EDGE)


def count(columns: Columns) -> dict[str, np.ndarray]:
    return {**stages._absorber_counts(columns, EDGES), **stages._sightline_counts(columns, Z)}


def test_bins_leave_out_what_is_outside_and_what_is_not_known() -> None:
    columns = {"z_abs": np.array([0.4, 0.5, 0.99, 1.0, 1.5, 3.0, np.nan]), "flags": np.array([0, OFF, 0, EDGE, OFF | EDGE, 0, 0])}
    columns["score"] = np.array([0.5, 0.25, 1.0, 0.75, 1.0, 0.0, 0.123456])
    counted = stages._absorber_counts(columns, EDGES)
    assert counted["z_abs"].tolist() == [2, 2]
    assert counted["in_path"].tolist() == [1, 1]
    assert counted["score"] == 3_623_456
    bits = dict(zip(AbsorberFlag.__members__, counted["flags"].tolist(), strict=True))
    assert {name: n for name, n in bits.items() if n} == {"OFF_PATH": 2, "EDGE": 2}


def test_the_path_is_the_number_of_intervals_that_hold_a_redshift() -> None:
    rng = np.random.default_rng(5)
    ends = [np.sort(rng.uniform(0.2, 2.6, 2 * k)) for k in rng.integers(0, 4, 300)]
    columns = {"z_start": [list(one[::2]) for one in ends], "z_stop": [list(one[1::2]) for one in ends]}
    by_hand = sum(((one[::2, None] <= Z) & (one[1::2, None] >= Z)).sum(axis=0) for one in ends)
    known = {"z_qso": np.ones(300), "snr": np.ones(300), "n_epochs": np.ones(300, np.int32)}
    np.testing.assert_array_equal(stages._sightline_counts(columns | known, Z)["path"], by_hand)


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_a_tally_is_the_sum_over_all_rows_however_they_are_cut(tmp_path: Path, pieces: int) -> None:
    rng = np.random.default_rng(6)
    value, flags = rng.uniform(0, 2.5, 50), rng.choice([0, OFF, EDGE, OFF | EDGE], 50)
    columns = {"z_abs": value, "flags": flags, "z_qso": value, "snr": value, "z_start": value[:, None], "z_stop": value[:, None] + 0.3}
    columns["n_epochs"] = rng.integers(1, 5, 50).astype(np.int32)
    columns["score"] = rng.uniform(0, 1, 50).round(6)
    files = []
    for number, rows in enumerate(np.array_split(np.arange(50), pieces)):
        files.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.Table.from_batches([encode({name: values[rows] for name, values in columns.items()}, TABLE)]), files[-1])
    for some, expected in ((files, columns), ([], {name: values[:0] for name, values in columns.items()})):
        found, by_hand = tally(some, TABLE.columns, count), count(expected)
        assert set(found) == set(by_hand) == {"z_abs", "in_path", "flags", "score", "z_qso", "snr", "path", "epochs"}
        for name in found:
            np.testing.assert_array_equal(found[name], by_hand[name], err_msg=name)

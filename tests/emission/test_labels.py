"""Labels from several people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nalspark.emission.labels import agreement, consensus, read_labels
from nalspark.errors import CatalogError

LOOKS = [
    ("a", "ann", 5, "2020-03-01T10:00:00"), ("a", "bob", 5, "2020-03-01T10:00:00"), ("a", "cyd", 4, "2020-03-01T10:00:00"),
    ("b", "ann", 0, "2020-03-01T10:01:00"), ("b", "bob", 4, "2020-03-01T10:01:00"),
    ("c", "ann", -2, "2020-03-01T10:02:00"), ("c", "bob", 5, "2020-03-01T10:02:00"), ("c", "bob", -2, "2020-03-02T10:02:00"),
    ("d", "ann", 0, "2020-03-01T10:03:00"), ("d", "bob", 2, "2020-03-01T10:03:00"),
]  # fmt: skip


@pytest.fixture
def labels(tmp_path):
    pd.DataFrame(LOOKS, columns=["detection_id", "reviewer", "class", "time"]).to_csv(tmp_path / "labels.csv", index=False)
    return read_labels(tmp_path / "labels.csv")


def test_the_last_look_of_a_person_counts(labels):
    assert len(labels) == 9
    assert labels.set_index(["detection_id", "reviewer"])["class"]["c", "bob"] == -2


def test_kappa_is_that_of_its_definition(labels):
    """Of real or not, ann and bob: both real in 1 of 4, both fake in 2: p = 0.75, by chance 0.25·0.5 + 0.75·0.5 = 0.5."""
    table = agreement(labels).set_index(["reviewer_a", "reviewer_b"])
    assert table["n"]["ann", "bob"] == 4
    assert table["kappa_real"]["ann", "bob"] == pytest.approx((0.75 - 0.5) / 0.5)
    assert np.isnan(table["kappa_real"]["ann", "cyd"])  # one common detection, both say real


def test_rules_of_consensus(labels):
    def classes(rule):
        return consensus(labels, rule).set_index("detection_id")["class"].to_dict()

    assert classes("median") == {"a": 5.0, "b": 2.0, "c": -2.0, "d": 1.0}
    assert classes("majority")["a"] == 5.0 and np.isnan(classes("majority")["b"])
    assert classes("unanimous")["c"] == -2.0 and np.isnan(classes("unanimous")["a"])


def test_disagreements_come_first(labels):
    assert consensus(labels, "median")["detection_id"].tolist() == ["b", "d", "a", "c"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("detection_id,reviewer,class,time\na,ann,7,2020-01-01\n", "out of range, the first by ann for a: 7"),
        ("detection_id,reviewer,class,time\na,ann,x,2020-01-01\n", "out of range"),
        ("detection_id,reviewer,class,time\na,ann,3,yesterday\n", "no time"),
        ("detection_id,class,time\na,3,2020-01-01\n", "no column reviewer"),
    ],
)
def test_broken_labels_are_refused(tmp_path, text, told):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(CatalogError, match=told):
        read_labels(tmp_path / "labels.csv")

"""What people's labels say of a catalogue, on arrays; the whole command is in test_evaluate.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nalspark.errors import NalsparkError
from nalspark.judging.labelled import by_score, join_labels, label_numbers, purity_of
from nalspark.lines import MG_II


@pytest.fixture(scope="module")
def bench():
    """The scripted reviewer of benchmarks/labels.py, 200 samples of 300 of a catalogue whose truth is known."""
    spec = importlib.util.spec_from_file_location("labels_bench", Path(__file__).parents[2] / "benchmarks" / "labels.py")
    module = sys.modules["labels_bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.repeat(module.Reviewer(0.05, 0.08, 0.1), rows=20_000, n=300, repeats=200, seed=1)


def test_the_stratified_estimate_has_no_bias_and_an_honest_error(bench):
    for name, aim, stated in (("weighted", bench.expected, "error"), ("corrected", bench.truth, "corrected_error")):
        away, scatter = bench.table[name] - aim, bench.table[name].std()
        assert abs(away.mean()) < 2 * scatter / np.sqrt(200)
        assert np.sqrt((bench.table[stated] ** 2).mean()) == pytest.approx(scatter, rel=0.15)
    assert bench.expected < bench.truth - 0.04, "who errs sees another purity"
    assert (bench.table["plain"] - bench.expected).mean() < -0.05, "labels as they are would be off"
    assert 0.6 < bench.table["held"].mean() < 0.76


def test_purity_by_score_is_what_truth_and_error_rates_say(bench):
    bins = bench.by_score
    assert len(bins) == 7 * 200
    held = (bins["lower"] <= bins["expected"]) & (bins["expected"] <= bins["upper"])
    assert 0.64 < held.mean() < 0.73
    sums = bins.groupby("low")[["successes", "trials", "unsure", "labelled"]].sum()
    expected = bins.groupby("low")["expected"].first()
    error = np.sqrt(expected * (1 - expected) / sums["trials"])
    assert (np.abs(sums["successes"] / sums["trials"] - expected) < 3 * error).all()
    assert sums["unsure"].sum() / sums["labelled"].sum() == pytest.approx(0.1, abs=0.005)


SCORES = np.array([0.55, 0.55, 0.55, 0.55, 0.97, 0.97, 0.97, 0.97])
ABSORBER = np.array([True, False, False, False, True, True, True, False])
UNSURE = np.array([False, False, True, True, False, False, False, True])


def test_unsure_ones_are_left_out_and_bound_the_purity():
    table = by_score(SCORES, SCORES, ABSORBER, UNSURE).set_index("low")
    assert table["fraction"].to_dict() == {0.5: 0.5, 0.95: 1.0}
    assert table["least"].to_dict() == {0.5: 0.25, 0.95: 0.75} and table["most"].to_dict() == {0.5: 0.75, 0.95: 1.0}
    purity = purity_of(np.repeat(SCORES, 10), SCORES, ABSORBER, UNSURE, (0.0, 0.1))
    assert purity["sure"]["fraction"] == pytest.approx(0.75) and (purity["sure"]["successes"], purity["sure"]["trials"]) == (4, 5)
    assert (purity["least"]["fraction"], purity["most"]["fraction"]) == pytest.approx((0.5, 0.875))
    assert purity["corrected"]["fraction"] == pytest.approx(0.75 / 0.9) and purity["corrected"]["upper"] <= 1.0


def test_of_strata_that_nobody_looked_at_nothing_is_said():
    """9,000 rows above 0.99, and labels of the others alone."""
    scores = np.repeat([0.995, 0.85], [9000, 1000])
    purity = purity_of(scores, np.full(100, 0.85), np.arange(100) < 50, np.zeros(100, dtype=bool))
    assert purity["sure"]["fraction"] == 0.5 and purity["sure"]["strata"] == 1
    rows = pd.DataFrame({"absorber_id": [f"a-{k}" for k in range(10_000)], "spectrum_id": "a", "z_abs": 1.0, "score": scores})
    labels = pd.DataFrame({"system": rows["absorber_id"][9000:9100], "spectrum_id": "a", "species": "MgII", "z": 1.0, "class": "not"})
    assert label_numbers(rows, labels, MG_II)["covered"] == 0.1


def labels_of(*rows):
    return pd.DataFrame(rows, columns=["system", "spectrum_id", "species", "z", "class"])


CATALOGUE = pd.DataFrame({
    "absorber_id": ["a-1", "a-2", "b-1", None], "spectrum_id": ["a", "a", "b", "c"], "z_abs": [1.0, 1.2, 1.0, 0.8],
    "score": [0.9, 0.8, 0.99, np.nan],
})  # fmt: skip


def test_labels_are_joined_by_id_else_as_the_same_system():
    labels = labels_of(
        ("a-1", "a", "MgII", 1.0, "absorber"), ("a-9", "a", "MgII", 1.2005, "not"), ("old", "c", None, 0.8001, None),
        ("gone", "b", "MgII", 1.1, "not"), ("x", None, None, np.nan, "absorber"), ("b-1", "b", "CIV", 1.0, "not"),
    )  # fmt: skip
    classes, counts = join_labels(labels, CATALOGUE, MG_II)
    assert classes.to_dict() == {0: "absorber", 1: "not", 3: "unsure"}
    assert counts == {"by_id": 1, "by_match": 2, "unmatched": 2, "other_species": 1}


def test_a_row_that_has_its_label_takes_no_other():
    labels = labels_of(("a-1", "a", "MgII", 1.0, "absorber"), ("old", "a", "MgII", 1.0001, "not"))
    classes, counts = join_labels(labels, CATALOGUE, MG_II)
    assert classes.to_dict() == {0: "absorber"} and counts["unmatched"] == 1
    twice = labels_of(("a-1", "a", "MgII", 1.0, "absorber"), ("a-1", "a", None, 1.0, "not"))
    classes, counts = join_labels(twice, CATALOGUE, MG_II)
    assert classes.to_dict() == {0: "absorber"} and (counts["by_id"], counts["unmatched"]) == (1, 1)


def test_the_index_of_the_catalogue_does_not_matter():
    labels = labels_of(("b-1", "b", "MgII", 1.0, "not"))
    assert join_labels(labels, CATALOGUE.set_axis([7, 5, 3, 1]), MG_II)[0].to_dict() == {3: "not"}


@pytest.mark.parametrize("rows", [CATALOGUE, CATALOGUE.iloc[:0]])
def test_labels_of_nothing_here_are_refused(rows):
    with pytest.raises(NalsparkError, match="None of 1 labelled systems"):
        label_numbers(rows, labels_of(("z", "z", "MgII", 1.0, "not")), MG_II)


def test_labels_that_are_all_unsure_say_nothing_of_the_purity():
    numbers = label_numbers(CATALOGUE, labels_of(("a-1", "a", "MgII", 1.0, "unsure"), ("a-2", "a", "MgII", 1.2, None)), MG_II)
    assert numbers["unsure"] == 2 and np.isnan(numbers["purity"]["sure"]["fraction"])
    assert (numbers["purity"]["least"]["fraction"], numbers["purity"]["most"]["fraction"]) == (0.0, 1.0)
    assert np.isnan(numbers["reliability"]["expected_calibration_error"])

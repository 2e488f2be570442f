"""Metrics whose values can be worked out by hand, the paper's own table, and what must hold for any labels and scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.metrics import (
    area_under_curve,
    binary_metrics,
    binomial_interval,
    bootstrap_errors,
    cohen_kappa,
    cohen_kappa_error,
    decision_rates,
    fleiss_kappa,
    reliability,
    roc_curve,
    rogan_gladen,
)

#: Zhao et al. (2019): the counts that reproduce the artificial column of Table 2.
PAPER = decision_rates(tp=18464, tn=25775, fp=4132, fn=2803)


def test_the_paper_s_artificial_column_follows_from_its_counts():
    printed = {"accuracy": 0.8649, "precision": 0.8165, "recall": 0.8710, "f1": 0.8428, "balanced_accuracy": 0.8658}
    for name, value in printed.items():
        assert PAPER[name] == pytest.approx(value, abs=0.003), name


def test_the_paper_s_auc_is_its_balanced_accuracy():
    # From accuracy, precision and recall of its real column alone: positives are p of all, FP = TP (1/P - 1), acc = TP + (1 - p) - FP.
    accuracy, precision, recall = 0.8971, 0.8977, 0.8524
    false = recall * (1 / precision - 1)
    p = (1 - accuracy) / (1 - recall + false)
    assert 0.5 * (recall + 1 - false * p / (1 - p)) == pytest.approx(0.8907, abs=0.0005)


def test_decisions_are_counted():
    metrics = binary_metrics([1, 1, 1, 0, 0, 0, 0], [0.9, 0.5, 0.4, 0.5, 0.1, 0.2, 0.3])
    assert metrics["accuracy"] == 5 / 7 and metrics["precision"] == metrics["recall"] == metrics["f1"] == 2 / 3
    assert metrics["specificity"] == 3 / 4 and metrics["balanced_accuracy"] == pytest.approx(17 / 24)
    assert (metrics["tp"], metrics["tn"], metrics["fp"], metrics["fn"]) == (2, 3, 1, 1)
    # Of 12 pairs, (0.5, 0.5) counts half and (0.4, 0.5) not.
    assert metrics["auc"] == pytest.approx(10.5 / 12)


def test_decisions_may_be_given():
    metrics = binary_metrics([1, 0], [0.0, 0.9], predicted=[True, False])
    assert metrics["accuracy"] == 1.0 and metrics["auc"] == 0.0


def test_a_rate_of_nothing_is_nan():
    nothing = binary_metrics([], [])
    assert all(math.isnan(nothing[name]) for name in ("accuracy", "precision", "recall", "f1", "auc"))
    one_class = binary_metrics([0, 0], [0.1, 0.2])
    assert one_class["accuracy"] == 1.0 and math.isnan(one_class["precision"]) and math.isnan(one_class["auc"])


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        area_under_curve([0, 1], [0.1, 0.2, 0.3])


def test_area_of_the_known_cases():
    label = np.array([0, 0, 1, 1])
    assert area_under_curve(label, [1, 2, 3, 4]) == 1.0
    assert area_under_curve(label, [4, 3, 2, 1]) == 0.0
    assert area_under_curve(label, [7, 7, 7, 7]) == 0.5


labels_and_scores = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(labels_and_scores)
def test_the_area_is_that_under_the_curve_and_the_share_of_ordered_pairs(rows):
    label, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float)
    false_rate, true_rate = roc_curve(label, score)
    if label.all() or not label.any():
        assert math.isnan(area_under_curve(label, score))
        return
    difference = score[label][:, None] - score[~label]
    pairs = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    assert area_under_curve(label, score) == pytest.approx(pairs)
    area = (0.5 * (true_rate[1:] + true_rate[:-1]) * np.diff(false_rate)).sum()
    assert area == pytest.approx(pairs)
    assert (false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]) == (0, 0, 1, 1)
    # Only the order of the scores counts.
    assert area_under_curve(label, np.exp(3 * score)) == area_under_curve(label, score)


def test_scikit_learn_agrees():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    label, score = rng.random(500) < 0.3, np.round(rng.normal(size=500), 1)
    score = score + label
    ours, called = binary_metrics(label, score, 0.7), score >= 0.7
    assert ours["auc"] == pytest.approx(sklearn.roc_auc_score(label, score))
    for name in ("accuracy_score", "precision_score", "recall_score", "f1_score", "balanced_accuracy_score"):
        assert ours[name.removesuffix("_score")] == pytest.approx(getattr(sklearn, name)(label, called)), name


def test_bootstrap_gives_the_binomial_error():
    label = np.arange(400) < 120
    errors = bootstrap_errors(lambda label: {"fraction": label.mean(), "never": math.nan}, label, draws=800)
    assert errors["fraction"] == pytest.approx(math.sqrt(0.3 * 0.7 / 400), rel=0.1)
    assert math.isnan(errors["never"])
    assert errors["fraction"] == bootstrap_errors(lambda label: {"fraction": label.mean()}, label, draws=800)["fraction"]
    assert bootstrap_errors(lambda label: {"fraction": label.mean()}, np.zeros(0)) == {}


def test_wilson_s_interval():
    lower, upper = binomial_interval([0, 5, 10, 0], [10, 10, 10, 0])
    # At the ends it is 0 to z²/(n + z²); in the middle, of half-width z/2 √(1/(n + z²)).
    np.testing.assert_allclose(lower, [0.0, 0.5 - 0.5 / math.sqrt(11), 10 / 11, 0.0])
    np.testing.assert_allclose(upper, [1 / 11, 0.5 + 0.5 / math.sqrt(11), 1.0, 1.0])


def test_wilson_s_interval_covers_two_thirds():
    n, rng = 30, np.random.default_rng(2)
    truth = rng.uniform(0.02, 0.98, 20000)
    lower, upper = binomial_interval(rng.binomial(n, truth), np.full(20000, n))
    assert ((lower <= truth) & (truth <= upper)).mean() == pytest.approx(0.6827, abs=0.015)


def test_an_honest_score_is_calibrated():
    rng = np.random.default_rng(3)
    score = rng.random(20000)
    honest, boasting = reliability(rng.random(20000) < score, score), reliability(rng.random(20000) < score**2, score)
    assert honest.expected_calibration_error < 0.012
    assert honest.count.tolist() == [2000] * 10
    assert ((honest.lower <= honest.score) & (honest.score <= honest.upper)).sum() >= 4
    # Mean of s - s² over the unit interval.
    assert boasting.expected_calibration_error == pytest.approx(1 / 6, abs=0.012)


def test_reliability_of_one_score():
    curve = reliability([1, 0, 1, 0], [0.8, 0.8, 0.8, 0.8])
    assert curve.count.tolist() == [4] and curve.fraction.tolist() == [0.5]
    assert curve.expected_calibration_error == pytest.approx(0.3)
    assert math.isnan(reliability([], []).expected_calibration_error)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(labels_and_scores, st.randoms(use_true_random=False))
def test_reliability_does_not_depend_on_the_order(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = (reliability([row[0] for row in some], [row[1] / 6 for row in some], 5) for some in (rows, shuffled))
    assert one.count.tolist() == other.count.tolist() and one.count.sum() == len(rows)
    np.testing.assert_allclose(one.score, other.score)
    np.testing.assert_allclose(one.fraction, other.fraction)


# ---- people

#: 30 patients, the diagnoses of six psychiatrists each: depression, personality disorder, schizophrenia, neurosis, other (Fleiss 1971).
DIAGNOSES = (
    "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031 "
    "00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"
)  # fmt: skip


def test_kappa_of_cohen_s_table():
    """Cohen (1968), 200 cases: 0.70 agree, 0.41 by chance."""
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    assert cohen_kappa(table) == pytest.approx((0.70 - 0.41) / (1 - 0.41)) == pytest.approx(0.492, abs=5e-4)
    assert cohen_kappa(np.stack([table, np.diag([3, 2, 1])])).tolist() == pytest.approx([0.29 / 0.59, 1.0])


def test_kappa_is_nothing_where_one_thing_is_said():
    assert (
        np.isnan(cohen_kappa([[7, 0], [0, 0]]))
        and np.isnan(cohen_kappa(np.zeros((2, 2))))
        and np.isnan(cohen_kappa_error([[1, 0], [0, 0]]))
    )
    assert cohen_kappa([[3, 3], [3, 3]]) == 0.0


def test_kappa_of_numbers_counts_squared_distances():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(1)
    a = rng.integers(0, 5, 300)
    b = np.clip(a + rng.integers(-1, 3, 300), 0, 4)
    table = np.zeros((5, 5))
    np.add.at(table, (a, b), 1)
    assert cohen_kappa(table, np.arange(5)) == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))
    assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(a, b))
    # Classes 0, 1, 5: to take 5 for 1 is 16 times as bad as 1 for 0.
    assert cohen_kappa([[5, 0, 0], [0, 5, 1], [0, 0, 5]], [0, 1, 5]) < cohen_kappa([[5, 1, 0], [0, 5, 0], [0, 0, 5]], [0, 1, 5])


def test_the_error_of_kappa_is_its_scatter():
    """Where two classes are as frequent for both, κ = 2 p - 1, so that its error is 2 √(p (1 - p) / n)."""
    assert cohen_kappa_error([[450, 50], [50, 450]]) == pytest.approx(2 * math.sqrt(0.9 * 0.1 / 1000), rel=0.1)


def test_kappa_of_fleiss_s_example():
    votes = np.array([[int(count) for count in row] for row in DIAGNOSES.split()])
    assert (votes.sum(axis=1) == 6).all() and (votes.sum(axis=0) / 180).round(3).tolist() == [0.144, 0.144, 0.167, 0.306, 0.239]
    assert fleiss_kappa(votes) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa([*votes, [0, 0, 1, 0, 0]]) == fleiss_kappa(votes), "one vote says nothing"


def test_kappa_of_fleiss_without_disagreement_or_votes():
    assert fleiss_kappa([[2, 0], [0, 3]]) == 1.0
    assert np.isnan(fleiss_kappa([[2, 0], [3, 0]])) and np.isnan(fleiss_kappa([[1, 0]])) and np.isnan(fleiss_kappa(np.zeros((0, 2))))


@pytest.mark.parametrize("truth", [0.0, 0.3, 1.0])
def test_errors_of_who_calls_are_taken_out(truth):
    called = truth * (1 - 0.08) + (1 - truth) * 0.05
    assert rogan_gladen(called, 0.05, 0.08) == pytest.approx(truth)


def test_who_calls_at_random_cannot_be_corrected():
    with pytest.raises(ValueError, match="together below 1"):
        rogan_gladen(0.5, 0.5, 0.5)

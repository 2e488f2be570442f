"""Stratified samples, and the fractions that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.metrics import binomial_interval
from nalspark.sampling import STRATA, strata_of, stratified_fraction, stratified_sample


def test_strata_have_their_lower_edges():
    assert strata_of([-1.0, 0.0, 0.1, 0.0999, 0.95, 0.9999, 1.0, 2.0, np.nan]).tolist() == [0, 0, 1, 0, 10, 11, 11, 11, -1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=200), st.integers(1, 60), st.integers(0, 10))
def test_a_sample_is_as_even_as_the_strata_allow(scores, n, seed):
    rows, weights = stratified_sample(scores, n, np.random.default_rng(seed))
    assert len(rows) == len(set(rows.tolist())) == min(n, len(scores))
    held, drawn = (np.bincount(strata_of(some), minlength=len(STRATA) - 1) for some in (scores, np.asarray(scores, dtype=float)[rows]))
    # None has two more than another that had more to give.
    assert not len(rows) or drawn.max() - drawn[drawn < held].min(initial=drawn.max()) <= 1
    if (drawn[held > 0] > 0).all():
        assert weights.sum() == pytest.approx(len(scores))


def test_whoever_stops_early_has_seen_as_many_of_each():
    scores = np.repeat([0.55, 0.75, 0.995], [40, 4, 1000])
    rows, weights = stratified_sample(scores, 60, np.random.default_rng(1))
    for stop in (3, 6, 12):
        assert np.bincount(strata_of(scores[rows[:stop]]))[[5, 7, 11]].tolist() == [stop // 3] * 3
    counts = np.bincount(strata_of(scores[rows]))[[5, 7, 11]].tolist()
    assert counts == [28, 4, 28]
    assert sorted(set(weights.tolist())) == pytest.approx([1.0, 40 / 28, 1000 / 28])


def test_the_same_seed_draws_the_same_and_rows_without_a_score_are_not_drawn():
    scores = np.where(np.arange(100) % 2, np.nan, np.linspace(0, 1, 100))
    once, again = (stratified_sample(scores, 80, np.random.default_rng(3))[0].tolist() for _ in range(2))
    assert once == again and sorted(once) == list(range(0, 100, 2))
    with pytest.raises(ValueError, match="at least one row"):
        stratified_sample(scores, 0, np.random.default_rng(3))


def test_the_whole_is_the_weighted_mean_of_the_strata():
    estimate = stratified_fraction([5, 9], [10, 10], [100, 900])
    assert estimate.fraction == pytest.approx(0.1 * 0.5 + 0.9 * 0.9)
    variance = 0.1**2 * 0.9 * 0.25 / 9 + 0.9**2 * (1 - 10 / 900) * 0.09 / 9
    assert estimate.error == pytest.approx(np.sqrt(variance)) and estimate.strata == 2


def test_of_one_large_stratum_the_interval_is_wilson_s():
    estimate = stratified_fraction([43], [43], [10**9])
    assert estimate.error == 0.0 and estimate.upper == 1.0
    assert estimate.lower == pytest.approx(binomial_interval([43], [43])[0][0])


def test_who_looked_at_everything_has_no_error():
    estimate = stratified_fraction([3, 8], [10, 10], [10, 10])
    assert (estimate.fraction, estimate.error, estimate.lower, estimate.upper) == pytest.approx((0.55, 0.0, 0.55, 0.55))


@pytest.mark.parametrize(
    ("successes", "trials", "sizes", "merged"),
    [
        ([0, 5, 9], [0, 10, 10], [50, 50, 900], ([5, 9], [10, 10], [100, 900])),
        ([5, 9, 1], [10, 10, 1], [100, 800, 100], ([5, 10], [10, 11], [100, 900])),
        ([0, 5, 0, 9, 0], [0, 10, 0, 10, 0], [0, 100, 0, 900, 0], ([5, 9], [10, 10], [100, 900])),
        ([1], [1], [5], ([1], [1], [5])),
    ],
)
def test_a_stratum_with_little_goes_with_its_neighbour(successes, trials, sizes, merged):
    assert stratified_fraction(successes, trials, sizes) == stratified_fraction(*merged)


def test_without_a_sample_nothing_is_known():
    nothing = stratified_fraction([0, 0], [0, 0], [10, 20])
    assert np.isnan(nothing.fraction) and (nothing.lower, nothing.upper, nothing.strata) == (0.0, 1.0, 0)


def test_a_sample_larger_than_its_stratum_is_refused():
    with pytest.raises(ValueError, match="cannot have given"):
        stratified_fraction([3], [10], [9])

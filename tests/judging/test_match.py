"""The comparison of a catalogue with the truth: one to one, nearest first, in the searched path."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nalspark.absorption.systems import same_system
from nalspark.judging.match import compare, rounding_of


def make_catalogue(*rows):
    """Rows (spectrum_id, z_abs); the equivalent width tells them apart."""
    return pd.DataFrame({"spectrum_id": [name for name, _ in rows], "z_abs": [z for _, z in rows], "ew_2796": np.arange(len(rows)) + 1.0})


def make_truth(*rows):
    return make_catalogue(*rows).rename(columns={"ew_2796": "ew_primary"})


def make_sightlines(**paths):
    """spectrum_id → list of (z_start, z_stop)."""
    return pd.DataFrame({
        "spectrum_id": list(paths),
        "z_start": [np.array([a for a, _ in intervals]) for intervals in paths.values()],
        "z_stop": [np.array([b for _, b in intervals]) for intervals in paths.values()],
    })  # fmt: skip


WIDE = make_sightlines(a=[(0.4, 2.0)], b=[(0.4, 2.0)])


def test_a_found_absorber_brings_its_measurement():
    result = compare(make_catalogue(("b", 0.7), ("a", 1.0005)), WIDE, make_truth(("a", 1.0)))
    assert result.truth["found"].tolist() == [True]
    assert result.truth.loc[0, "measured_ew_2796"] == 2.0 and result.truth.loc[0, "measured_z_abs"] == 1.0005
    assert result.spurious["spectrum_id"].tolist() == ["b"]
    assert result.purity == 0.5 and result.completeness() == (1, 1)


def test_matches_are_one_to_one():
    # Two catalogue rows at one true absorber: one of them is spurious. Two true ones at one row: one of them is missed.
    twice = compare(make_catalogue(("a", 1.0), ("a", 1.001)), WIDE, make_truth(("a", 1.0)))
    assert twice.completeness() == (1, 1) and twice.spurious["z_abs"].tolist() == [1.001] and twice.purity == 0.5
    once = compare(make_catalogue(("a", 1.0)), WIDE, make_truth(("a", 1.0), ("a", 1.001)))
    assert once.truth["found"].tolist() == [True, False] and once.purity == 1.0 and once.completeness() == (1, 2)


def test_nearest_pairs_come_first():
    # Taken in the truth's order, 1.0000 would take 1.0010 (its nearest) away from 1.0011, which would then go empty-handed.
    result = compare(make_catalogue(("a", 1.0010), ("a", 0.9985)), WIDE, make_truth(("a", 1.0000), ("a", 1.0011)))
    assert result.truth["measured_z_abs"].tolist() == [0.9985, 1.0010]


def test_another_spectrum_and_another_redshift_do_not_match():
    result = compare(make_catalogue(("b", 1.0), ("a", 1.0021), ("c", 1.0)), WIDE, make_truth(("a", 1.0)))
    assert result.truth["found"].tolist() == [False] and np.isnan(result.truth.loc[0, "measured_z_abs"])
    assert len(result.spurious) == 3
    # 4.56 pixels away: a wide system reaches as far, and so does one whose redshift is rounded.
    wide = make_truth(("a", 1.0)).assign(ew_primary=2.2)
    assert compare(make_catalogue(("a", 1.0021)), WIDE, wide).completeness() == (1, 1)
    assert compare(make_catalogue(("a", 1.0021)), WIDE, make_truth(("a", 1.0)), rounding=0.001).completeness() == (1, 1)
    assert compare(make_catalogue(("a", 1.0021)), WIDE, make_truth(("a", 1.0)).drop(columns="ew_primary")).completeness() == (0, 1)


def test_the_rounding_of_a_catalogue_is_seen_in_its_redshifts():
    assert rounding_of(np.float32([0.815, 1.673, 1.78])) == 0.001
    assert rounding_of([0.815, 1.6731]) == 0.0 and rounding_of([]) == 0.0


def test_completeness_counts_the_searched_path_alone():
    sightlines = make_sightlines(a=[(0.4, 0.8), (1.0, 1.5)], empty=[])
    truth = make_truth(("a", 0.5), ("a", 0.9), ("a", 1.0), ("a", 1.6), ("empty", 0.5), ("rejected", 0.5))
    result = compare(make_catalogue(("a", 0.5)), sightlines, truth)
    # Inside, in the gap, on an edge, beyond; a sightline without path; a spectrum that never was a sightline.
    assert result.truth["in_path"].tolist() == [True, False, True, False, False, False]
    assert result.completeness() == (1, 2)
    assert result.completeness(truth["z_abs"].to_numpy() > 0.9) == (0, 1)


def test_found_outside_the_path_is_pure_but_not_complete():
    result = compare(make_catalogue(("a", 0.9)), make_sightlines(a=[(1.0, 1.5)]), make_truth(("a", 0.9)))
    assert result.purity == 1.0 and result.completeness() == (0, 0)


def test_empty_catalogue_and_empty_truth():
    nothing = make_catalogue()
    missed = compare(nothing, WIDE, make_truth(("a", 1.0), ("b", 5.0)))
    assert missed.truth["found"].tolist() == [False, False] and math.isnan(missed.purity) and missed.completeness() == (0, 1)
    invented = compare(make_catalogue(("a", 1.0)), WIDE, make_truth())
    assert invented.purity == 0.0 and invented.completeness() == (0, 0) and len(invented.spurious) == 1
    assert math.isnan(compare(nothing, WIDE, make_truth()).purity)


def test_arguments_are_left_alone():
    catalogue, truth = make_catalogue(("a", 1.0)), make_truth(("a", 1.0))
    copies = catalogue.copy(), truth.copy()
    compare(catalogue, WIDE, truth)
    pd.testing.assert_frame_equal(catalogue, copies[0])
    pd.testing.assert_frame_equal(truth, copies[1])


redshifts = st.lists(st.integers(0, 30).map(lambda k: 1.0 + k * 4e-4), max_size=7)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(redshifts, redshifts)
def test_every_row_is_accounted_for_and_no_match_is_too_far(found, true):
    catalogue, truth = make_catalogue(*(("a", z) for z in found)), make_truth(*(("a", z) for z in true))
    result = compare(catalogue, WIDE, truth)
    matched = result.truth[result.truth["found"]]
    assert len(matched) + len(result.spurious) == len(found)
    assert matched["measured_ew_2796"].is_unique
    assert same_system(matched["z_abs"], matched["measured_z_abs"], matched["ew_primary"]).all()
    # Nothing is left unmatched on both sides that could have matched.
    left, width = result.truth.loc[~result.truth["found"], ["z_abs", "ew_primary"]].to_numpy(dtype=float).T[:, :, None]
    assert not same_system(left, result.spurious["z_abs"].to_numpy(dtype=float), width).any()


@pytest.mark.parametrize("kind", [np.array, list])
def test_intervals_may_be_lists_or_arrays(kind):
    sightlines = pd.DataFrame({"spectrum_id": ["a"], "z_start": [kind([0.4])], "z_stop": [kind([2.0])]})
    assert compare(make_catalogue(), sightlines, make_truth(("a", 1.0))).completeness() == (0, 1)

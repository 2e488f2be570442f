"""The completeness function from counts: known functions come back, it is monotone, and counts add up whatever the batches are."""

import numpy as np
import pytest

from nalspark.errors import NalsparkError
from nalspark.judging.completeness import BINS, COUNTED, CompletenessFunction, _classes_of, count, tabulate
from nalspark.judging.worth import Purity


def injected(n=60_000, seed=1, middle=4.0):
    """Absorbers put in, found with a probability that is a logistic function of log W / σ_W."""
    rng = np.random.default_rng(seed)
    ew, sigma = np.exp(rng.uniform(np.log(0.1), np.log(6), n)), np.exp(rng.uniform(np.log(0.02), np.log(0.6), n))
    return {
        "ew_primary": ew,
        "sigma_ew": sigma,
        "z_abs": rng.uniform(0.4, 2.2, n),
        "snr": 1 / sigma,
        "blended": np.zeros(n, bool),
        "found": rng.random(n) < truth(ew / sigma, middle),
    }


def truth(x, middle=4.0):
    return 0.98 / (1 + (middle / x) ** 4)


def test_the_function_that_was_put_in_comes_out() -> None:
    function = CompletenessFunction.of(tabulate(count(injected())))
    x = np.geomspace(1.5, 40, 30)
    for ew in (0.3, 0.6, 1.1, 2.5):
        known = ew / x < 0.3  # classes of W have narrower ones beside them, of which some errors are too large
        np.testing.assert_allclose(function(ew, ew / x, 1.0)[known], truth(x)[known], atol=0.05)


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = tabulate(count(injected(n=5000)))
    order = np.random.default_rng(3).permutation(len(table["by"]))
    mixed = CompletenessFunction.of({name: values[order] for name, values in table.items()})
    ew, sigma = np.geomspace(0.1, 5, 40)[:, None], np.geomspace(0.02, 0.6, 30)
    np.testing.assert_array_equal(mixed(ew, sigma, 1.7), CompletenessFunction.of(table)(ew, sigma, 1.7))


def test_it_is_monotone_in_the_significance_and_lies_between_0_and_1() -> None:
    function = CompletenessFunction.of(tabulate(count(injected(n=3000, seed=4))))
    for ew in np.geomspace(0.05, 10, 15):
        along = function(ew, ew / np.geomspace(0.01, 1000, 200), 1.3)
        assert (np.diff(along) >= -1e-12).all() and along.min() >= 0 and along.max() <= 1
    assert np.isnan(function(1.0, [np.nan, 0.0, -1.0], 1.0)).all()
    assert function(1.0, np.inf, 1.0) == 0


def test_counts_add_up_to_the_same_in_any_order() -> None:
    columns = injected(n=5000)
    whole = count(columns)
    order = np.random.default_rng(2).permutation(5000)
    pieces = [count({name: columns[name][rows] for name in COUNTED}) for rows in np.array_split(order, 7)]
    for by in BINS:
        np.testing.assert_array_equal(sum(piece[by] for piece in pieces), whole[by])
        assert whole[by][..., 0].sum() == 5000


def test_what_is_blended_with_an_absorber_of_the_spectrum_does_not_count() -> None:
    columns = injected(n=1000)
    columns["blended"] = np.arange(1000) < 400
    assert count(columns)["ew"][..., 0].sum() == 600
    rest = {name: values[400:] for name, values in columns.items()}
    np.testing.assert_array_equal(count(columns)["significance"], count(rest)["significance"])


def test_the_table_tells_fractions_with_their_intervals() -> None:
    table = tabulate(count(injected(n=2000)))
    assert set(table["by"]) == set(BINS)
    for by in BINS:
        mine = table["by"] == by
        assert table["n_injected"][mine].sum() == 2000
        assert (table["low"][mine] <= table["middle"][mine]).all() and (table["middle"][mine] <= table["high"][mine]).all()
    np.testing.assert_allclose(table["fraction"], table["n_found"] / table["n_injected"])
    assert ((table["lower"] <= table["fraction"]) & (table["fraction"] <= table["upper"])).all()
    assert np.isfinite(table["completeness"]).sum() == (table["by"] == "significance").sum()
    assert np.isnan(tabulate(count(injected(n=20)))["completeness"]).all()


def test_what_changes_with_redshift_is_a_shift_of_the_significance() -> None:
    columns = injected(n=60_000, seed=7)
    shift = np.where(columns["z_abs"] > 1.6, 0.3, 0.0)
    x = columns["ew_primary"] / columns["sigma_ew"] * np.exp(shift)
    columns["found"] = np.random.default_rng(8).random(len(x)) < truth(x)
    function = CompletenessFunction.of(tabulate(count(columns)))
    x = np.geomspace(2.5, 12, 12)
    np.testing.assert_allclose(function(0.8, 0.8 / x, 1.1), truth(x), atol=0.04)
    np.testing.assert_allclose(function(0.8, 0.8 / x, 1.9), truth(x * np.exp(0.3)), atol=0.04)


def test_too_few_absorbers_are_no_function_and_that_is_said() -> None:
    with pytest.raises(NalsparkError, match="per_sightline higher"):
        CompletenessFunction.of(tabulate(count(injected(n=20))))
    with pytest.raises(NalsparkError, match="per_sightline higher"):
        CompletenessFunction.of(tabulate(count(injected(n=0))))


def test_purity_is_told_by_decoys_and_by_scores() -> None:
    purity = Purity(n_rows=10, n_decoys=4.0, n_pieces=1, score_sum=8.5)
    assert (purity.by_decoys, purity.by_score) == (0.8, 0.85)
    assert purity.cards["PURDECOY"] == 0.8 and purity.cards["SUMSCORE"] == 8.5
    empty = Purity(0, 3.0, 0, 0.0)
    assert np.isnan(empty.by_score) and np.isnan(empty.by_decoys)
    assert set(empty.cards) == {"NDECOYS", "NPIECES", "SUMSCORE"}, "a FITS header holds no NaN"


@pytest.mark.parametrize("n", [150, 200, 250, 400, 2000, 20_000])
def test_joined_classes_leave_out_no_absorber(n: int) -> None:
    """Neighbouring classes of W are joined until each has enough, and few absorbers have few classes."""
    for seed in range(8):
        table = tabulate(count(injected(n=n, seed=seed)))
        cells = {name: np.asarray(table[name])[table["by"] == "significance"] for name in ("ew_low", "n_injected")}
        classes = _classes_of(cells)
        assert sorted(np.concatenate(classes)) == list(range(len(cells["n_injected"])))
        held = [cells["n_injected"][mine].sum() for mine in classes]
        assert min(held) >= 50 and len(CompletenessFunction.of(table).curves) == len(classes)
        assert len(classes) >= (1 if n < 200 else 2 if n < 2000 else 4)

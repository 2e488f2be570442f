"""Purity from people's labels: a scripted reviewer of known errors looks at stratified samples of a catalogue whose truth is known.

    python benchmarks/labels.py [--rows 20000] [--n 300] [--repeats 200] [--errors 0.05 0.08] [--unsure 0.1] [--seed 1]

The catalogue has scores above 0.5, most of them near 1; a row is real with probability score², so that scores promise too much. The
reviewer takes what is not real for an absorber, and the reverse, as often as --errors say, and is unsure as often as --unsure says.
Printed:

* of the first sample, the purity by score, beside what the truth and the error rates say;
* over all samples, estimate minus expectation of the purity of the whole catalogue: the mean with its standard error, the scatter, and the
  root mean square of the stated standard errors; as is, weighted back, and weighted back and corrected for the reviewer's errors (against
  the truth); how often the 68 % interval holds the expectation; the same of the purity by score.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nalspark.judging.labelled import by_score, purity_of
from nalspark.sampling import STRATA, strata_of, stratified_sample

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reviewer:
    """How often someone errs, either way, and is unsure."""

    false_positive: float = 0.05
    false_negative: float = 0.08
    unsure: float = 0.1

    def look(self, real: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say of rows whether they are absorbers, and of which that is unsure."""
        wrong = rng.random(len(real)) < np.where(real, self.false_negative, self.false_positive)
        unsure = rng.random(len(real)) < self.unsure
        return (real ^ wrong) & ~unsure, unsure

    def says(self, purity: Array | float) -> Array | float:
        """What a purity looks like to them, of the rows that they are sure of."""
        return purity * (1.0 - self.false_negative) + (1.0 - purity) * self.false_positive


def make_catalogue(rows: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """Make scores of a published catalogue, and which rows are real."""
    near_one = 1.0 - 0.5 * rng.beta(0.25, 3.0, rows)
    scores = np.where(rng.random(rows) < 0.6, near_one, rng.uniform(0.5, 1.0, rows))
    return scores, rng.random(rows) < scores**2


def purity_by_stratum(scores: Array, real: NDArray[np.bool_]) -> Array:
    """True purity of every stratum; NaN where it has no row."""
    stratum, n = strata_of(scores), len(STRATA) - 1
    rows = np.bincount(stratum, minlength=n)
    return np.where(rows > 0, np.bincount(stratum[real], minlength=n) / np.maximum(rows, 1), np.nan)


@dataclass(frozen=True)
class Repeats:
    """What came of many samples.

    Attributes
    ----------
    table : DataFrame, one row per sample
        ``plain``: the fraction of the labels as they are; ``weighted``, ``error``, ``held``: the stratified estimate, its stated error, and
        whether its interval holds the expectation; ``corrected``, ``corrected_error``.
    expected, truth : float
        What the reviewer would say of the whole catalogue in the mean, and its true purity.
    by_score : DataFrame, the bins of all samples
        As :func:`nalspark.judging.labelled.by_score`, with ``expected``.
    """

    table: pd.DataFrame
    expected: float
    truth: float
    by_score: pd.DataFrame


def repeat(reviewer: Reviewer, rows: int, n: int, repeats: int, seed: int) -> Repeats:
    """Draw samples of one catalogue, label them, and estimate."""
    rng = np.random.default_rng(seed)
    scores, real = make_catalogue(rows, rng)
    expected, table, bins = reviewer.says(purity_by_stratum(scores, real)), [], []
    truth = float(real.mean())
    target = float(reviewer.says(truth))
    for _ in range(repeats):
        drawn, _ = stratified_sample(scores, n, rng)
        absorber, unsure = reviewer.look(real[drawn], rng)
        purity = purity_of(scores, scores[drawn], absorber, unsure, (reviewer.false_positive, reviewer.false_negative))
        sure, corrected = purity["sure"], purity["corrected"]
        table.append({
            "plain": sure["successes"] / sure["trials"], "weighted": sure["fraction"], "error": sure["error"],
            "held": sure["lower"] <= target <= sure["upper"],
            "corrected": corrected["fraction"], "corrected_error": corrected["error"],
        })  # fmt: skip
        some = by_score(scores, scores[drawn], absorber, unsure)
        bins.append(some.assign(expected=np.asarray(expected)[strata_of(some["low"])]))
    return Repeats(pd.DataFrame(table), target, truth, pd.concat(bins, ignore_index=True))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--errors", type=float, nargs=2, default=[0.05, 0.08], metavar=("FP", "FN"))
    parser.add_argument("--unsure", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = repeat(Reviewer(*options.errors, options.unsure), options.rows, options.n, options.repeats, options.seed)
    bins, table = result.by_score, result.table
    first = bins[: int((bins["low"].diff() < 0).argmax()) or len(bins)]
    columns = ["low", "high", "rows", "labelled", "unsure", "successes", "fraction", "lower", "upper", "least", "most", "expected"]
    print(first[columns].to_string(index=False, float_format="%.3f"))
    held = (bins["lower"] <= bins["expected"]) & (bins["expected"] <= bins["upper"])
    print(f"\nof {len(bins)} bins of {options.repeats} samples the 68 % interval holds the expectation in {held.mean():.3f}")
    print(f"purity of {options.rows} rows: {result.truth:.4f}; the reviewer would say {result.expected:.4f}")
    for name, aim, stated in (
        ("plain", result.expected, None),
        ("weighted", result.expected, "error"),
        ("corrected", result.truth, "corrected_error"),
    ):
        away = table[name] - aim
        said = f", stated {np.sqrt((table[stated] ** 2).mean()):.4f}" if stated else ""
        print(f"{name:<10} off by {away.mean():+.4f} +- {away.std() / np.sqrt(len(away)):.4f}, scatter {away.std():.4f}{said}")
    print(f"the 68 % interval of the weighted one holds the expectation in {table['held'].mean():.3f} of the samples")


if __name__ == "__main__":
    main()

"""What a published catalogue is worth, in numbers: completeness, and purity in two ways that need no truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nalspark import metrics
from nalspark.judging.decoys import EXTRA_PIXELS
from nalspark.tables.result import Result


@dataclass(frozen=True)
class Purity:
    """How pure a catalogue is.

    Attributes
    ----------
    n_rows : int
    n_decoys : float
        Doublets of wrong separations that would be in it, in all searches for such; each counts for the path without known absorbers.
    by_decoys : float
        1 - decoys of one search over rows; NaN without rows.
    by_score : float
        Mean of the scores, which are probabilities: 1 - Σ (1 - p) / n.
    """

    n_rows: int
    n_decoys: float
    by_decoys: float
    by_score: float


def purity_of(n_rows: int, score_sum: float, n_decoys: float) -> Purity:
    """Tell how pure a catalogue is.

    Parameters
    ----------
    n_rows : int
    score_sum : float
        Of its rows' scores.
    n_decoys : float
        Accepted decoys by their weight, of all separations of :data:`nalspark.judging.decoys.EXTRA_PIXELS`.
    """
    if not n_rows:
        return Purity(0, n_decoys, np.nan, np.nan)
    return Purity(n_rows, n_decoys, 1.0 - n_decoys / len(EXTRA_PIXELS) / n_rows, score_sum / n_rows)


def completeness_tables(table: Mapping[str, Any]) -> dict[str, dict[str, pd.DataFrame]]:
    """Give the counts of COMPLETENESS as tables to be drawn: ``low high fraction lower upper trials successes``.

    Parameters
    ----------
    table : mapping
        Its columns, in any order of rows.

    Returns
    -------
    dict of dict of DataFrame
        ``curves``: by W / σ_W, a table per class of W, all redshifts together; ``panels``: by W, redshift, S/N.
    """
    rows = pd.DataFrame({name: list(values) for name, values in table.items()})
    names = {"significance": "W / σ_W", "ew": "W (Å)", "z": "absorption redshift", "snr": "S/N per pixel"}
    result: dict[str, dict[str, pd.DataFrame]] = {"curves": {}, "panels": {}}
    for (by, low), mine in rows.groupby(["by", "ew_low"], sort=True):
        counted = mine.groupby(["low", "high"], as_index=False).agg(successes=("n_found", "sum"), trials=("n_injected", "sum"))
        lower, upper = metrics.binomial_interval(counted["successes"], counted["trials"])
        counted = counted.assign(fraction=counted["successes"] / counted["trials"], lower=lower, upper=upper)
        high = mine["ew_high"].iloc[0]
        ends = f"{low:g} ≤ W < {high:g} Å" if np.isfinite(high) else f"W ≥ {low:g} Å"
        result["curves" if by == "significance" else "panels"][ends if by == "significance" else names[by]] = counted
    return result


def result_purity(result: Result) -> Purity:
    """Tell how pure the catalogue of a result is.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on it.
    """
    score = result.table("absorbers", ["score"])["score"].to_numpy()
    decoys = result.table("decoys", ["accepted", "weight"])
    weight = decoys["weight"].to_numpy()[decoys["accepted"].to_numpy(zero_copy_only=False)]
    return purity_of(len(score), float(score.sum()), float(weight.sum()))


def worth_text(result: Result) -> str:
    """Write completeness by equivalent width and purity of a result as text.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on it.
    """
    lines = ["absorbers put into its spectra    found     of  fraction  68 %"]
    for row in completeness_tables(result.table("completeness").to_pydict())["panels"]["W (Å)"].itertuples():
        label = f"{row.low:.1f} <= W < {row.high:.1f} Å" if np.isfinite(row.high) else f"{row.low:.1f} Å <= W"
        lines.append(f"  {label:<30} {row.successes:>6} {row.trials:>6}    {row.fraction:.3f}  {row.lower:.3f}-{row.upper:.3f}")
    purity = result_purity(result)
    lines.append(
        f"purity without labels: {purity.by_decoys:.3f} by {purity.n_decoys:.0f} doublets of {len(EXTRA_PIXELS)} wrong separations, "
        f"{purity.by_score:.3f} by the scores of {purity.n_rows} rows"
    )
    return "\n".join(lines)

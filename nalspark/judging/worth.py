"""What a published catalogue is worth, in numbers: completeness, and purity in two ways that need no truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.judging.decoys import EXTRA_PIXELS
from nalspark.tables.result import Result


@dataclass(frozen=True)
class Purity:
    """How pure a catalogue is.

    Attributes
    ----------
    n_rows : int
    n_decoys : int
        Doublets of wrong separations that would be in it, in all searches for such.
    by_decoys : float
        1 - decoys of one search over rows; NaN without rows.
    by_score : float
        Mean of the scores, which are probabilities: 1 - Σ (1 - p) / n.
    """

    n_rows: int
    n_decoys: int
    by_decoys: float
    by_score: float


def purity_of(score: NDArray[np.floating], n_decoys: int) -> Purity:
    """Tell how pure a catalogue is.

    Parameters
    ----------
    score : ndarray, shape (n,)
        Of its rows.
    n_decoys : int
        Accepted decoys, of all separations of :data:`nalspark.judging.decoys.EXTRA_PIXELS`.
    """
    n = len(score)
    if not n:
        return Purity(0, n_decoys, np.nan, np.nan)
    return Purity(n, n_decoys, 1.0 - n_decoys / len(EXTRA_PIXELS) / n, float(np.mean(score)))


def result_purity(result: Result) -> Purity:
    """Tell how pure the catalogue of a result is.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on it.
    """
    score = result.table("absorbers", ["score"])["score"].to_numpy()
    accepted = result.table("decoys", ["accepted"])["accepted"].to_numpy()
    return purity_of(score, int(np.count_nonzero(accepted)))


def worth_text(result: Result) -> str:
    """Write completeness by equivalent width and purity of a result as text.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on it.
    """
    lines = ["absorbers put into its spectra    found     of  fraction  68 %"]
    rows: list[dict[str, Any]] = [row for row in result.table("completeness").to_pylist() if row["by"] == "ew"]
    for row in rows:
        label = f"{row['low']:.1f} <= W < {row['high']:.1f} Å" if np.isfinite(row["high"]) else f"{row['low']:.1f} Å <= W"
        interval = f"{row['lower']:.3f}-{row['upper']:.3f}"
        lines.append(f"  {label:<30} {row['n_found']:>6} {row['n_injected']:>6}    {row['fraction']:.3f}  {interval}")
    purity = result_purity(result)
    lines.append(
        f"purity without labels: {purity.by_decoys:.3f} by {purity.n_decoys} doublets of {len(EXTRA_PIXELS)} wrong separations, "
        f"{purity.by_score:.3f} by the scores of {purity.n_rows} rows"
    )
    return "\n".join(lines)

"""What a published catalogue is worth, in numbers: completeness, and purity in two ways that need no truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from numpy.typing import NDArray

from nalspark import metrics
from nalspark.absorption.sensitivity import BIN_COLUMNS, bin_of, flat_bins
from nalspark.errors import StoreError
from nalspark.judging.completeness import CompletenessFunction
from nalspark.judging.decoys import N_SEPARATIONS
from nalspark.tables.arrow import decode
from nalspark.tables.result import Result
from nalspark.tables.schemas import SENSITIVITY
from nalspark.tables.store import Store

#: Ranges of W (Å) that are drawn; the function has more classes, of which these are unions.
_DRAWN = (0.0, 0.4, 0.8, 1.5, np.inf)


@dataclass(frozen=True)
class Purity:
    """How pure a catalogue is.

    Attributes
    ----------
    n_rows : int
    n_decoys : float
        Doublets of wrong separations that would be in it, in all searches for such; each counts for the path without known absorbers.
    n_pieces : int
        Rows nearer to the row before them, in the same spectrum, than the doublet's two lines: they may be pieces of one wide system. Real
        neighbours as near are counted too.
    score_sum : float
        Of the scores, which are probabilities.
    """

    n_rows: int
    n_decoys: float
    n_pieces: int
    score_sum: float

    @property
    def by_decoys(self) -> float:
        """1 - (decoys of one search + pieces) / rows; NaN without rows."""
        return 1.0 - (self.n_decoys / N_SEPARATIONS + self.n_pieces) / self.n_rows if self.n_rows else np.nan

    @property
    def by_score(self) -> float:
        """1 - Σ (1 - p) / rows; NaN without rows."""
        return self.score_sum / self.n_rows if self.n_rows else np.nan

    @property
    def cards(self) -> dict[str, Any]:
        """The cards of a FITS header that tell it."""
        counts = {"NDECOYS": self.n_decoys, "NPIECES": self.n_pieces, "SUMSCORE": self.score_sum}
        return counts | ({"PURDECOY": self.by_decoys, "PURSCORE": self.by_score} if self.n_rows else {})


def completeness_tables(table: Mapping[str, Any]) -> dict[str, dict[str, pd.DataFrame]]:
    """Give the counts of COMPLETENESS as tables to be drawn: ``low high fraction lower upper trials successes``.

    Parameters
    ----------
    table : mapping
        Its columns, in any order of rows.

    Returns
    -------
    dict of dict of DataFrame
        ``curves``: by W / σ_W, a table for each of four ranges of W, all redshifts together; ``panels``: by W, redshift, S/N.
    """
    rows = pd.DataFrame({name: list(values) for name, values in table.items()})
    counted = rows["by"] == "significance"
    number = np.searchsorted(_DRAWN, rows.loc[counted, "ew_low"], "right")
    rows.loc[counted, "ew_low"], rows.loc[counted, "ew_high"] = np.array(_DRAWN)[number - 1], np.array(_DRAWN)[number]
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
    """Tell how pure the catalogue of a result is, from the header of ``absorbers.fits``.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on it.
    """
    result.dataset("decoys")  # says what is missing
    place = Store(result.root).published("absorbers.fits")
    header = fits.getheader(place, 1)
    if "NDECOYS" not in header:
        raise StoreError(f"{place} does not tell its purity: an earlier version published it. Run stage 'publish' again, with --force.")
    return Purity(int(header["NAXIS2"]), float(header["NDECOYS"]), int(header["NPIECES"]), float(header["SUMSCORE"]))


def expected_completeness(result: Result, systems: pd.DataFrame) -> NDArray[np.float64]:
    """Give the completeness that the catalogue should have for some systems, by its own completeness function.

    Parameters
    ----------
    result : Result
    systems : DataFrame
        ``spectrum_id``, ``z_abs``, ``ew_primary`` (rest Å).

    Returns
    -------
    ndarray, shape (m,)
        NaN where nothing is searched.

    Raises
    ------
    StoreError
        Where `nalspark completeness` has not run on the result.
    NalsparkError
        Where too few absorbers were put in.
    """
    function = CompletenessFunction.of(result.table("completeness").to_pydict())
    names = ["spectrum_id", *BIN_COLUMNS]
    chosen = pc.field("spectrum_id").isin(pa.array(systems["spectrum_id"].unique()))
    table = result.dataset("sensitivity").to_table(names, filter=chosen).combine_chunks()
    rows = decode(table.to_batches()[0], {column.name: column for column in SENSITIVITY.columns}) if len(table) else {}
    sigma = np.full(len(systems), np.nan)
    if rows:
        row, bins, values, _ = flat_bins(rows)
        place = pd.Series(np.arange(len(table)), index=rows["spectrum_id"]).reindex(systems["spectrum_id"]).to_numpy(dtype=float)
        known = pd.Series(values, index=pd.MultiIndex.from_arrays([row, bins]))
        wanted = pd.MultiIndex.from_arrays([np.nan_to_num(place, nan=-1).astype(int), bin_of(result.species, systems["z_abs"])])
        sigma = known.reindex(wanted).to_numpy()
    return function(systems["ew_primary"], sigma, systems["z_abs"])


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
        f"purity without labels: {purity.by_decoys:.3f} by {purity.n_decoys:.0f} doublets of {N_SEPARATIONS} wrong separations and "
        f"{purity.n_pieces} possible pieces of wide systems; {purity.by_score:.3f} by the scores of {purity.n_rows} rows"
    )
    return "\n".join(lines)

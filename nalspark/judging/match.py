"""A catalogue against the truth: what was found, what was not, and what was never there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`.

    Attributes
    ----------
    truth : DataFrame
        The true absorbers with ``in_path``, ``found`` and, where found, the measured columns with the prefix ``measured_``.
    spurious : DataFrame
        Catalogue rows that no true absorber explains.
    """

    truth: pd.DataFrame
    spurious: pd.DataFrame

    @property
    def purity(self) -> float:
        """Fraction of the catalogue's rows that are true; NaN for an empty catalogue."""
        true = int(self.truth["found"].sum())
        return true / (true + len(self.spurious)) if true + len(self.spurious) else float("nan")

    def completeness(self, chosen: np.ndarray | None = None) -> tuple[int, int]:
        """Found and all of the true absorbers in the searched path, of those chosen."""
        inside = self.truth["in_path"].to_numpy(bool) & (np.ones(len(self.truth), bool) if chosen is None else chosen)
        return int(self.truth["found"].to_numpy(bool)[inside].sum()), int(inside.sum())


def _in_path(z_abs: float, start: np.ndarray | list, stop: np.ndarray | list) -> bool:
    return bool(((np.asarray(start) <= z_abs) & (z_abs <= np.asarray(stop))).any())


def compare(absorbers: pd.DataFrame, sightlines: pd.DataFrame, truth: pd.DataFrame, max_delta_z: float = 0.002) -> Comparison:
    """Match a catalogue with the truth, spectrum by spectrum, each row at most once, nearest pairs first.

    Parameters
    ----------
    absorbers : DataFrame
        The published catalogue.
    sightlines : DataFrame
        The published sightlines: ``spectrum_id``, ``z_start``, ``z_stop``.
    truth : DataFrame
        ``spectrum_id``, ``z_abs``, ``ew_primary``, …
    max_delta_z : float
        Largest difference of redshift of a match.
    """
    truth = truth.reset_index(drop=True).copy()
    absorbers = absorbers.reset_index(drop=True)
    path = sightlines.set_index("spectrum_id")[["z_start", "z_stop"]]
    ends = path.reindex(truth["spectrum_id"])
    truth["in_path"] = [
        _in_path(z, a, b) if isinstance(a, np.ndarray | list) else False
        for z, a, b in zip(truth["z_abs"], ends["z_start"], ends["z_stop"], strict=True)
    ]
    pairs = truth.reset_index()[["index", "spectrum_id", "z_abs"]].merge(
        absorbers.reset_index()[["index", "spectrum_id", "z_abs"]], on="spectrum_id", suffixes=("_true", "_found")
    )
    pairs["delta"] = (pairs["z_abs_true"] - pairs["z_abs_found"]).abs()
    pairs = pairs[pairs["delta"] <= max_delta_z].sort_values(["delta", "index_true", "index_found"])
    partner = pd.Series(-1, index=truth.index)
    taken: set[int] = set()
    for true_row, found_row in zip(pairs["index_true"], pairs["index_found"], strict=True):
        if partner[true_row] < 0 and found_row not in taken:
            partner[true_row] = found_row
            taken.add(found_row)
    truth["found"] = partner >= 0
    measured = absorbers.reindex(partner.where(partner >= 0)).reset_index(drop=True).add_prefix("measured_")
    return Comparison(pd.concat([truth, measured], axis=1), absorbers[~absorbers.index.isin(taken)])

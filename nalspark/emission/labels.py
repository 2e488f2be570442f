"""Visual classes from several people: how far they agree, and what they say together."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from nalspark.emission.frames import CLASSES, FIRST_REAL_CLASS, read_table
from nalspark.errors import CatalogError

COLUMNS = ("detection_id", "reviewer", "class", "time")
Rule = Literal["median", "majority", "unanimous"]


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read a table of labels: one row for each look of a person at a detection. The last look of each counts.

    Raises
    ------
    CatalogError
        Where it cannot be read, lacks a column, or has a class or time that is none.
    """
    table = read_table(path, "table of labels", COLUMNS)
    classes = pd.to_numeric(table["class"], errors="coerce")
    wrong = table[~classes.isin(list(CLASSES))]
    if len(wrong):
        row = wrong.iloc[0]
        raise CatalogError(
            f"{len(wrong)} label(s) of '{path}' are out of range, the first by {row['reviewer']} for {row['detection_id']}: "
            f"{row['class']}. Classes are the whole numbers from -2 to 5."
        )
    times = pd.to_datetime(table["time"], errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        raise CatalogError(f"{int(times.isna().sum())} label(s) of '{path}' have no time; expected ISO 8601, as 2020-03-01T12:00:00.")
    names = {name: table[name].astype(str) for name in COLUMNS[:2]}
    looks = pd.DataFrame({**names, "class": classes.astype(int), "time": times}).sort_values(["time", *COLUMNS[:2]], kind="stable")
    return looks.drop_duplicates(["detection_id", "reviewer"], keep="last").reset_index(drop=True)


def agreement(labels: pd.DataFrame) -> pd.DataFrame:
    """Compute Cohen's κ of every two reviewers over what both looked at: of the classes, weighted by squared distance, and of real or not.

    Returns
    -------
    DataFrame
        ``reviewer_a``, ``reviewer_b``, ``n``, ``kappa_class``, ``kappa_real``; NaN where both always say the same one thing.
    """
    wide = labels.pivot(index="detection_id", columns="reviewer", values="class")
    rows = []
    for a, b in combinations(wide.columns, 2):
        both = wide[[a, b]].dropna().astype(int)
        if len(both):
            real = both >= FIRST_REAL_CLASS
            rows.append((a, b, len(both), _kappa(both[a], both[b], "quadratic"), _kappa(real[a], real[b], None)))
    return pd.DataFrame(rows, columns=["reviewer_a", "reviewer_b", "n", "kappa_class", "kappa_real"])


def _kappa(a: pd.Series, b: pd.Series, weights: str | None) -> float:
    from sklearn.metrics import cohen_kappa_score  # most of a second to load: no other command waits for it

    return float(cohen_kappa_score(a, b, weights=weights)) if len({*a, *b}) > 1 else float("nan")


_RULES = {
    "median": lambda values: np.floor(values.median()),
    "majority": lambda values: values.mode()[0] if len(values.mode()) == 1 else np.nan,
    "unanimous": lambda values: values.iloc[0] if values.nunique() == 1 else np.nan,
}


def consensus(labels: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Decide what the reviewers say together, disagreements first.

    Parameters
    ----------
    labels : DataFrame of :func:`read_labels`
    rule : str
        ``median``, rounded down, towards the fakes; ``majority``, no class where two are equally frequent; ``unanimous``, no class where
        two differ.

    Returns
    -------
    DataFrame
        ``detection_id``, ``n``, ``lowest``, ``highest``, ``real`` (how many say it is), ``class`` (NaN for none). First what people
        disagree on as to real or not, the most even first; then by the distance of the extremes.
    """
    groups = labels.groupby("detection_id")["class"]
    table = groups.agg(n="count", lowest="min", highest="max", real=lambda values: int((values >= FIRST_REAL_CLASS).sum())).reset_index()
    table["class"] = groups.agg(_RULES[rule]).to_numpy(dtype=float)
    uneven = (2 * table["real"] - table["n"]).abs() / table["n"]
    order = np.lexsort((table["detection_id"], -(table["highest"] - table["lowest"]), uneven))
    return table.iloc[order].reset_index(drop=True)

"""Visual classes from several people: what is this programme's own of :mod:`nalspark.review.labels`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nalspark.emission.frames import CLASSES, FIRST_REAL_CLASS
from nalspark.errors import CatalogError
from nalspark.review import labels as review
from nalspark.review.labels import Rule

#: The classes that say that a line is real.
REAL = tuple(str(number) for number in CLASSES if number >= FIRST_REAL_CLASS)


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read labels as :func:`nalspark.review.labels.read_labels` does, with ``detection_id`` for the system and classes as whole numbers.

    Raises
    ------
    CatalogError
        Where they cannot be read, lack a column, or have a class or time that is none.
    """
    labels = review.read_labels(path, programme="emission")
    wrong = labels[~labels["class"].isin([str(number) for number in CLASSES])]
    if len(wrong):
        row = wrong.iloc[0]
        raise CatalogError(
            f"{len(wrong)} label(s) of '{path}' are out of range, the first by {row['reviewer']} for {row['system']}: {row['class']}. "
            "Classes are the whole numbers from -2 to 5."
        )
    return labels.rename(columns={"system": "detection_id"}).astype({"class": int})


def _general(labels: pd.DataFrame) -> pd.DataFrame:
    return labels.rename(columns={"detection_id": "system"}).astype({"class": str})


def agreement(labels: pd.DataFrame) -> pd.DataFrame:
    """Compute Cohen's κ of every two reviewers, see :func:`nalspark.review.labels.agreement`: of the classes, and of real or not."""
    return review.agreement(_general(labels), REAL)


def consensus(labels: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Decide what the reviewers say together, disagreements first.

    Parameters
    ----------
    labels : DataFrame of :func:`read_labels`
    rule : str
        As for :func:`nalspark.review.labels.consensus`; the median is rounded down, towards the fakes.

    Returns
    -------
    DataFrame
        ``detection_id``, ``n``, ``lowest``, ``highest``, ``real`` (how many say it is), ``class`` (NaN for none). First what people
        disagree on as to real or not, the most even first; then by the distance of the extremes.
    """
    table = review.consensus(_general(labels), rule, REAL).rename(columns={"system": "detection_id"})
    return table[["detection_id", "n", "lowest", "highest", "real", "class"]].astype({"class": float})

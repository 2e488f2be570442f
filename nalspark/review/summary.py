"""``nalspark labels``: what reviewers did, how far they agree, and what they say together, as text and as a table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from nalspark.errors import NalsparkError
from nalspark.review.labels import REAL, Rule, agreement, consensus, consistency, overall, read_labels, reviewers
from nalspark.tables.atomic import replacing

#: Systems that are printed.
_SHOWN = 20


def summarise(path: str | Path, rule: Rule = "majority", out: str | Path | None = None) -> str:
    """Write what ``nalspark labels`` prints, and the table of all systems, disagreements first, into a file.

    Parameters
    ----------
    path : path
        What :func:`nalspark.review.labels.read_labels` takes.
    rule : str
        Of :func:`nalspark.review.labels.consensus`.
    out : path, optional
        CSV or Parquet, by the end of its name.

    Raises
    ------
    NalsparkError
        Where there are no labels, the rule does not suit them, or the file cannot be written.
    """
    labels = read_labels(path)
    if labels.empty:
        raise NalsparkError(f"'{path}' holds no label: none was given, or all were undone.")
    real = REAL.get(labels["programme"].iloc[0])
    together = consensus(labels, rule, real)
    if out is not None:
        _write(together, Path(out))
    parts = [f"{len(labels)} labels of {len(together)} systems by {labels['reviewer'].nunique()} reviewers", _table(reviewers(labels))]
    parts += [*_agreement(labels, real), f"{_split(together, real)}; rule: {rule}", _table(together.head(_SHOWN))]
    if out is not None:
        parts.append(f"labels  {Path(out).absolute()}: {len(together)} systems")
    return "\n\n".join(parts)


def _table(frame: pd.DataFrame) -> str:
    shown = frame.dropna(axis="columns", how="all")
    return shown.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


def _agreement(labels: pd.DataFrame, real: Collection[str] | None) -> list[str]:
    """κ of every two, of all together, and of each with themselves, as far as there are such."""
    pairs, own, parts = agreement(labels, real), consistency(labels, real), []
    if len(pairs):
        both = overall(labels, real)
        kappa = " and ".join(
            f"{both[name]:.3f} ± {both[f'{name}_err']:.3f} ({what})"
            for name, what in (("kappa_class", "classes"), ("kappa_real", "real or not"))
            if name in both
        )
        parts += [f"agreement, Cohen's κ\n{_table(pairs)}", f"Fleiss' κ of {both['n']} systems with two reviewers or more: {kappa}"]
    if len(own):
        parts.append(f"second looks against first ones, Cohen's κ\n{_table(own)}")
    return parts


def _split(together: pd.DataFrame, real: Collection[str] | None) -> str:
    if real is None:
        split = (together["votes"].str.count(",") > 0).sum()
        return f"{len(together)} systems, {split} of them of several classes"
    split = ((together["real"] > 0) & (together["real"] < together["n"])).sum()
    return f"{len(together)} systems, {split} of them real to some and not to others"


def _write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix not in (".csv", ".parquet"):
        raise NalsparkError(f"The table is written as CSV or Parquet: '{path.name}' ends with neither .csv nor .parquet.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            if path.suffix == ".csv":
                table.to_csv(new, index=False)
            else:
                table.to_parquet(new, index=False)
    except OSError as error:
        raise NalsparkError(f"The table cannot be written to '{path}': {error.strerror}.") from None

"""Figures and tables of an evaluation: numbers in, Figure or string out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nalspark.metrics import Reliability
from nalspark.plots.style import BLUE, GREEN, INK, MUTED, ORANGE, VERMILLION, log_x, new_figure, nothing, styled

#: One after the other where curves share a picture; the marks tell them apart without colour.
_CURVES = ((VERMILLION, "o"), (ORANGE, "s"), (GREEN, "^"), (BLUE, "D"), (INK, "v"), (MUTED, "P"))
_GROUPS = {"found": (BLUE, "-", 0.22), "missed": (VERMILLION, (0, (4, 2)), 0.0), "spurious": (INK, (0, (1, 1)), 0.0)}
#: Where a bin has no upper end, it is drawn to this many times its lower one.
_OPEN_END = 1.6
_TEXT_WIDTH = 110


# ---- figures


@styled
def fractions_figure(panels: Mapping[str, pd.DataFrame], ylabel: str) -> Figure:
    """Draw fractions with their 68 % intervals, a panel per quantity, numbers of trials above.

    Parameters
    ----------
    panels : mapping
        Axis label → result of :func:`nalspark.judging.evaluate.fractions`.
    ylabel : str
    """
    figure = new_figure((2.6 * len(panels) + 0.6, 2.9))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, table) in zip(all_axes, panels.items(), strict=True):
        if table.empty:
            nothing(axes)
        else:
            low, high = table["low"], table["high"]
            # A logarithmic axis where the bins span much, and widen.
            log = low.min() >= 0 and high.max() > 6 * high.min() and (high - low).iloc[-1] > 1.5 * (high - low).iloc[0]
            middle, limits = _points(axes, table, log, color=BLUE)
            for x, trials in zip(middle, table["trials"], strict=True):
                axes.text(x, 1.04, f"{trials}", ha="center", fontsize=7, color=MUTED)
            axes.set_xlim(*limits)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(ylabel)
    return figure


def _points(
    axes: Axes, table: pd.DataFrame, log: bool, shift: float | None = None, **style: Any
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Draw fractions over their bins, or, shifted by a factor, without the bins' widths; give the points' places and the bins' ends."""
    low, high = table["low"].to_numpy(dtype=float), table["high"].to_numpy(dtype=float)
    high = np.where(np.isfinite(high), high, _OPEN_END * low)
    low = np.where(low > 0, low, 0.5 * high) if log else low
    middle = (shift or 1.0) * (np.sqrt(low * high) if log else 0.5 * (low + high))
    widths = np.stack([middle - low, high - middle]) if shift is None else None
    intervals = np.maximum([table["fraction"] - table["lower"], table["upper"] - table["fraction"]], 0.0)
    axes.errorbar(middle, table["fraction"], intervals, widths, markersize=3.5, elinewidth=0.9, capsize=0, **{"fmt": "o", **style})
    for level in (0.0, 1.0):
        axes.axhline(level, color=MUTED, linewidth=0.5, zorder=0)
    # A little room below 0, so that points there are seen whole.
    axes.set(ylim=(-0.03, 1.12), yticks=np.arange(0.0, 1.01, 0.2))
    if log:
        log_x(axes)
    return middle, (low.min(), high.max())


@styled
def curves_figure(curves: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str) -> Figure:
    """Draw fractions of one quantity, a curve per range of another, on a logarithmic axis.

    Parameters
    ----------
    curves : mapping
        Label → result of :func:`nalspark.judging.evaluate.fractions`, all with the same edges.
    xlabel, ylabel : str
    """
    figure = new_figure((6.4, 3.4))
    axes = figure.add_subplot()
    drawn = {label: table for label, table in curves.items() if not table.empty}
    ends: list[float] = []
    for number, (label, table) in enumerate(drawn.items()):
        colour, mark = _CURVES[number % len(_CURVES)]
        # Side by side, so that error bars do not cover each other.
        shift = 1.025 ** (number - 0.5 * (len(drawn) - 1))
        ends += _points(axes, table, True, shift, fmt=mark, color=colour, label=label, linestyle="-", linewidth=0.8)[1]
    if drawn:
        axes.set_xlim(min(ends), max(ends))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        nothing(axes)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@styled
def scores_figure(roc: tuple[ArrayLike, ArrayLike], published: tuple[float, float], auc: float, curve: Reliability) -> Figure:
    """Draw the ROC curve of the spectra, and the reliability curve of the absorbers' scores.

    Parameters
    ----------
    roc : pair of arrays, shape (k,)
        False and true positive rates.
    published : pair of float
        Those of the published decision.
    auc : float
    curve : Reliability
    """
    figure = new_figure((7.2, 3.3))
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    if np.isfinite(np.array(roc, dtype=float)).all():
        left.plot(*roc, color=BLUE, linewidth=1.4)
        left.plot(*published, "o", color=VERMILLION, markersize=5, label="published", clip_on=False)
        left.text(0.97, 0.14, f"AUC {auc:.3f}", ha="right", color=INK)
        left.legend(loc="lower right")
    else:
        left.text(0.5, 0.5, "one label only", ha="center", va="center", color=MUTED)
    left.set(xlabel="spectra without a strong system\ncalled positive", ylabel="spectra with one, called positive")
    _draw_reliability(right, curve)
    right.set(xlabel="mean score of the absorbers", ylabel="fraction that is true")
    return figure


def _draw_reliability(axes: Axes, curve: Reliability) -> None:
    if len(curve.score):
        yerr = np.maximum([curve.fraction - curve.lower, curve.upper - curve.fraction], 0.0)
        axes.errorbar(curve.score, curve.fraction, yerr=yerr, fmt="o-", color=BLUE, markersize=3.5, linewidth=0.8, elinewidth=0.9)
    else:
        axes.text(0.5, 0.5, "no absorber", ha="center", va="center", color=MUTED)


@styled
def labels_figure(curve: Reliability, table: pd.DataFrame) -> Figure:
    """Draw what people say of absorbers: the reliability curve of the scores, and the purity by score.

    Parameters
    ----------
    curve : Reliability
        Of those that people are sure of.
    table : DataFrame
        Result of :func:`nalspark.judging.labelled.by_score`.
    """
    figure = new_figure((7.2, 3.3))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    left.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="mean score of the labelled absorbers", ylabel="fraction judged real")
    _draw_reliability(left, curve)
    sure = table[table["trials"] > 0]
    for row in table.itertuples():
        label = "unsure as not, as absorber" if row.Index == 0 else None
        right.fill_between([row.low, row.high], row.least, row.most, color=ORANGE, alpha=0.3, linewidth=0, label=label)
    if len(sure):
        _points(right, sure, False, color=BLUE, label="sure")
    right.set(xlim=(table["low"].min(), table["high"].max()), xlabel="score", ylabel="purity, as people say")
    right.legend(loc="lower right")
    return figure


@styled
def distributions_figure(groups: Mapping[str, pd.DataFrame], panels: Mapping[str, tuple[str, ArrayLike]]) -> Figure:
    """Draw found, missed and spurious systems, a panel per quantity (Zhao et al. 2019, fig. 7).

    Parameters
    ----------
    groups : mapping
        ``found``, ``missed``, ``spurious`` → their quantities as columns.
    panels : mapping
        Column → axis label and bin edges; values beyond the edges are counted in the outermost bins.
    """
    figure = new_figure((7.6, 5.0))
    for axes, (column, (label, cuts)) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=False):
        edges, top = np.asarray(cuts, dtype=float), 0
        for name, frame in groups.items():
            values = frame[column].to_numpy(dtype=float)
            counts, _ = np.histogram(np.clip(values[np.isfinite(values)], edges[0], edges[-1]), edges)
            top = max(top, int(counts.max(initial=0)))
            colour, line, fill = _GROUPS[name]
            if counts.any():
                axes.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.3, label=name)
                axes.stairs(counts, edges, color=colour, fill=True, alpha=fill)
        if top:
            axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.1 * top))
            axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
            axes.legend(loc="upper right", handlelength=2.4)
        else:
            nothing(axes)
        axes.set(xlabel=label, ylabel="systems")
    return figure


# ---- text


@dataclass(frozen=True)
class Sheet:
    """A table to be printed, and shown on the page.

    Attributes
    ----------
    title : str
    heads : sequence of str
        Columns; numbers where they begin with ``#``.
    rows : sequence of sequences of str
    note : str
        What must be known to read it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def as_text(sheet: Sheet) -> str:
    """Write the sheet in columns for a terminal."""
    columns = []
    for head, *cells in zip(sheet.heads, *sheet.rows, strict=True):
        name = head.removeprefix("#")
        width = max(map(len, (name, *cells)))
        columns.append([cell.rjust(width) if head.startswith("#") else cell.ljust(width) for cell in (name, *cells)])
    lines = ["  " + "  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([sheet.title, *lines, *textwrap.wrap(sheet.note, _TEXT_WIDTH, initial_indent="  ", subsequent_indent="  ")])

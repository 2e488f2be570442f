"""Figures, text and page of an evaluation: numbers in, Figure or string out."""

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

from nalspark.plots.pages import render
from nalspark.plots.style import BLUE, GREEN, INK, MUTED, ORANGE, VERMILLION, log_x, new_figure, nothing, styled

#: One after the other where curves share a picture; the marks tell them apart without colour.
_CURVES = ((VERMILLION, "o"), (ORANGE, "s"), (GREEN, "^"), (BLUE, "D"), (INK, "v"), (MUTED, "P"))
_GROUPS = {"found": (BLUE, "-", 0.22), "missed": (VERMILLION, (0, (4, 2)), 0.0), "spurious": (INK, (0, (1, 1)), 0.0)}
#: Where a bin has no upper end, it is drawn to this many times its lower one.
_OPEN_END = 1.6
_TEXT_WIDTH = 110
_POINTS: dict[str, Any] = {"markersize": 3.5, "elinewidth": 0.9, "capsize": 0}


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
    figure = new_figure((2.6 * max(len(panels), 1) + 0.6, 2.9))
    all_axes = np.atleast_1d(figure.subplots(1, max(len(panels), 1), sharey=True))
    for axes, (label, table) in zip(all_axes, panels.items(), strict=False):
        if table.empty:
            nothing(axes)
        else:
            log = _is_log(table)
            low, middle, high = _bins(table, log)
            axes.errorbar(
                middle,
                table["fraction"],
                yerr=_intervals(table),
                xerr=np.stack([middle - low, high - middle]),
                fmt="o",
                color=BLUE,
                **_POINTS,
            )
            for x, trials in zip(middle, table["trials"], strict=True):
                axes.text(x, 1.04, f"{trials}", ha="center", fontsize=7, color=MUTED)
            _fraction_axis(axes, log, (low.min(), high.max()))
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(ylabel)
    return figure


def _is_log(table: pd.DataFrame) -> bool:
    """Whether the bins ask for a logarithmic axis: they span much, and widen."""
    low, high = table["low"].to_numpy(dtype=float), table["high"].to_numpy(dtype=float)
    return bool(low.min() >= 0 and high.max() > 6 * high.min() and (high - low)[-1] > 1.5 * (high - low)[0])


def _bins(table: pd.DataFrame, log: bool) -> tuple[NDArray, NDArray, NDArray]:
    """Lower end, middle and upper end of the bins, finite, and positive where the axis is logarithmic."""
    low, high = table["low"].to_numpy(dtype=float), table["high"].to_numpy(dtype=float)
    high = np.where(np.isfinite(high), high, _OPEN_END * low)
    low = np.where(low > 0, low, 0.5 * high) if log else low
    return low, np.sqrt(low * high) if log else 0.5 * (low + high), high


def _intervals(table: pd.DataFrame) -> NDArray:
    """Lengths of the error bars, shape (2, b)."""
    return np.maximum([table["fraction"] - table["lower"], table["upper"] - table["fraction"]], 0.0)


def _fraction_axis(axes: Axes, log: bool, limits: tuple[float, float]) -> None:
    # A little room below 0, so that points there are seen whole.
    axes.set_ylim(-0.03, 1.12)
    axes.set_yticks(np.arange(0.0, 1.01, 0.2))
    for level in (0.0, 1.0):
        axes.axhline(level, color=MUTED, linewidth=0.5, zorder=0)
    if log:
        log_x(axes)
    else:
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes.set_xlim(*limits)


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
        low, middle, high = _bins(table, log=True)
        # Side by side, so that error bars do not cover each other.
        x = middle * 1.025 ** (number - 0.5 * (len(drawn) - 1))
        axes.errorbar(
            x, table["fraction"], yerr=_intervals(table), fmt=mark, color=colour, label=label, linestyle="-", linewidth=0.8, **_POINTS
        )
        ends += [low.min(), high.max()]
    if ends:
        _fraction_axis(axes, True, (min(ends), max(ends)))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        nothing(axes)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@dataclass(frozen=True)
class ScoreCurves:
    """What :func:`scores_figure` draws.

    Attributes
    ----------
    false_rate, true_rate : array, shape (k,)
        The ROC curve.
    published : pair of float
        False and true positive rate of the published decision.
    auc : float
    score, fraction, lower, upper : array, shape (b,)
        The reliability curve.
    """

    false_rate: ArrayLike
    true_rate: ArrayLike
    published: tuple[float, float]
    auc: float
    score: ArrayLike
    fraction: ArrayLike
    lower: ArrayLike
    upper: ArrayLike


@styled
def scores_figure(curves: ScoreCurves) -> Figure:
    """Draw the ROC curve of the spectra, and the reliability curve of the absorbers' scores."""
    figure = new_figure((7.2, 3.3))
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    if np.isfinite(np.asarray(curves.false_rate, dtype=float)).all() and np.isfinite(np.asarray(curves.true_rate, dtype=float)).all():
        left.plot(curves.false_rate, curves.true_rate, color=BLUE, linewidth=1.4)
        left.plot(*curves.published, "o", color=VERMILLION, markersize=5, label="published", clip_on=False)
        left.text(0.97, 0.14, f"AUC {curves.auc:.3f}", ha="right", color=INK)
        left.legend(loc="lower right")
    else:
        left.text(0.5, 0.5, "one label only", ha="center", va="center", color=MUTED)
    left.set(xlabel="spectra without a strong system\ncalled positive", ylabel="spectra with one, called positive")
    score, fraction = np.asarray(curves.score, dtype=float), np.asarray(curves.fraction, dtype=float)
    if score.size:
        yerr = np.maximum([fraction - np.asarray(curves.lower), np.asarray(curves.upper) - fraction], 0.0)
        right.errorbar(score, fraction, yerr=yerr, fmt="o-", color=BLUE, markersize=3.5, linewidth=0.8, elinewidth=0.9)
    else:
        right.text(0.5, 0.5, "no absorber", ha="center", va="center", color=MUTED)
    right.set(xlabel="mean score of the absorbers", ylabel="fraction that is true")
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
            if len(axes.get_legend_handles_labels()[1]):
                axes.legend(loc="upper right", handlelength=2.4)
        else:
            nothing(axes)
        axes.set(xlabel=label, ylabel="systems")
    return figure


# ---- text and page


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
    heads = [head.lstrip("#") for head in sheet.heads]
    widths = [max(len(row[column]) for row in (heads, *sheet.rows)) for column in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if head.startswith("#") else cell.ljust(width)
            for cell, width, head in zip(cells, widths, sheet.heads, strict=True)
        ]
        return "  " + "  ".join(padded).rstrip()

    note = textwrap.wrap(sheet.note, _TEXT_WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([sheet.title, line(heads), *(line(row) for row in sheet.rows), *note])


def evaluation_page(title: str, sheets: Sequence[Sheet], pictures: Mapping[str, str]) -> str:
    """Write the evaluation as HTML that shows pictures lying beside it.

    Parameters
    ----------
    title : str
    sheets : sequence of Sheet
    pictures : mapping
        File name → caption.
    """
    return render("evaluation.html", title=title, sheets=sheets, pictures=pictures)

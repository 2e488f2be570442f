"""Figures of rates: arrays in, Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nalspark.plots.style import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, VERMILLION, log_x, new_figure, nothing, styled

Array = NDArray[np.float64]
#: Curves of other authors: colour and line.
_OTHERS = ((VERMILLION, "-"), (GREEN, (0, (5, 2))), (ORANGE, (0, (1, 1))))
_CURVES = (BLUE, ORANGE, GREEN, VERMILLION, INK, MUTED)
_LINES = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class Points:
    """Measured values in bins.

    Attributes
    ----------
    low, high : ndarray, shape (b,)
        Ends of the bins.
    value, lower, upper : ndarray, shape (b,)
        What was measured, and its 68 % interval; NaN where nothing could be.
    jackknife : ndarray, shape (b,)
        Its standard error by jackknife.
    uncorrected : ndarray, shape (b,)
        The plain count over the path.
    """

    low: Array
    high: Array
    value: Array
    lower: Array
    upper: Array
    jackknife: Array
    uncorrected: Array


def _draw(axes: Axes, points: Points, middle: Array, label: str) -> None:
    """Points with Poisson bars, the jackknife's behind them, and hollow what was counted without a correction."""
    good = np.isfinite(points.value)
    spread = np.where(np.isfinite(points.jackknife), points.jackknife, 0.0)[good]
    axes.errorbar(middle[good], points.value[good], spread, fmt="none", ecolor=FAINT, elinewidth=4.5, zorder=1)
    ends = np.maximum([points.value - points.lower, points.upper - points.value], 0.0)[:, good]
    widths = np.stack([middle - points.low, points.high - middle])[:, good]
    axes.errorbar(middle[good], points.value[good], ends, widths, fmt="o", color=BLUE, markersize=4, elinewidth=0.9, zorder=4, label=label)
    axes.plot(middle, points.uncorrected, "s", color=MUTED, markersize=3.5, fillstyle="none", label="uncorrected", zorder=3)


def _note(figure: Figure, note: str) -> None:
    if note:
        figure.suptitle(note, color=VERMILLION, fontsize=9)


@styled
def rates_figure(panels: Mapping[str, tuple[Points, Mapping[str, tuple[Array, Array]]]], ylabel: str, note: str = "") -> Figure:
    """Draw rates by redshift, a panel per limit of W, with curves of other authors.

    Parameters
    ----------
    panels : mapping
        Title → points, and name → redshifts and rates of each curve.
    ylabel : str
    note : str
        What must be known of all panels.
    """
    columns = min(len(panels), 2)
    figure = new_figure((3.7 * columns, 2.6 * -(-len(panels) // columns) + 0.2))
    all_axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axes, (title, (points, curves)) in zip(all_axes, panels.items(), strict=False):
        axes.set(title=title, xlabel="absorption redshift", ylabel=ylabel)
        if not np.isfinite(points.value).any():
            nothing(axes, "no path shows such absorbers")
            continue
        _draw(axes, points, 0.5 * (points.low + points.high), "corrected" if not note else "measured")
        for (name, curve), (colour, line) in zip(curves.items(), _OTHERS, strict=False):
            axes.plot(*curve, color=colour, linestyle=line, linewidth=1.2, label=name, zorder=2)
        top = np.nanmax([np.nanmax(points.upper), *(y.max(initial=0.0) for _, y in curves.values())])
        axes.set(xlim=(points.low.min(), points.high.max()), ylim=(0.0, 1.1 * max(top, 1e-6)))
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    drawn = [axes for axes in all_axes if axes.get_legend_handles_labels()[1]]
    if drawn:
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend([handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]], loc="outside lower center", ncols=4)
    _note(figure, note)
    return figure


@styled
def ew_function_figure(points: Points, curves: Mapping[str, tuple[Array, Array]], xlabel: str, note: str = "") -> Figure:
    """Draw f(W) on logarithmic axes, with curves: the fit, and other authors.

    Parameters
    ----------
    points : Points
        Bins in W, values per Å.
    curves : mapping
        Name → W and f(W); the first is the fit.
    xlabel : str
    note : str
        What must be known.
    """
    figure = new_figure((5.2, 3.8))
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel="d²N / dz dW  (1/Å)")
    if np.nanmax(np.append(points.value, 0.0)) > 0:
        _draw(axes, points, np.sqrt(points.low * points.high), "corrected" if not note else "measured")
        for (name, curve), (colour, line) in zip(curves.items(), ((INK, "-"), *_OTHERS), strict=False):
            axes.plot(*curve, color=colour, linestyle=line, linewidth=1.1, label=name, zorder=2)
        shown = points.value[points.value > 0]
        axes.set_yscale("log")
        log_x(axes)
        axes.set(xlim=(points.low.min(), points.high.max()), ylim=(0.3 * shown.min(), 3.0 * shown.max()))
        axes.legend()
    else:
        nothing(axes)
    _note(figure, note)
    return figure


@styled
def sightlines_figure(z: Array, sightlines: Sequence[tuple[float, Array]], threshold: float) -> Figure:
    """Draw g(W, z): in how many sightlines an absorber would be seen, a curve per W.

    Parameters
    ----------
    z : ndarray, shape (k,)
    sightlines : sequence of (float, ndarray of shape (k,))
        W in Å, and the number of sightlines at each redshift.
    threshold : float
        W over its error from which on an absorber counts as seen.
    """
    figure = new_figure((5.6, 3.4))
    axes = figure.add_subplot()
    axes.set(xlabel="absorption redshift", ylabel="sightlines")
    if not len(z):
        nothing(axes)
        return figure
    for number, (ew, counts) in enumerate(sightlines):
        colour, line = _CURVES[number % len(_CURVES)], _LINES[number % len(_LINES)]
        axes.plot(z, counts, color=colour, linestyle=line, linewidth=1.2, label=f"W = {ew:.2g} Å")
    axes.set(xlim=(z.min(), z.max()), ylim=(0.0, None), title=f"where W reaches {threshold:g} σ")
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure

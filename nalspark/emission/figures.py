"""A selection in two stages, drawn: completeness and contamination against the score, and the map with its boundary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import ArrayLike, NDArray

from nalspark.emission.frames import FIRST_REAL_CLASS
from nalspark.learning.ensemble import FittedSecondStage
from nalspark.plots.style import BLUE, FAINT, INK, MUTED, SHADE, VERMILLION, new_figure, styled

#: Points that are drawn of each kind, and cells of the grid on which the boundary is found.
_POINTS, _GRID = 2500, 160
#: Quantiles of the embeddings, along each axis, that a map shows.
SHOWN = (0.01, 0.99)
#: Detections drawn along the boundary of the map.
_EXAMPLES = 10


class MapExample(NamedTuple):
    """An example that is shown beside the map.

    Attributes
    ----------
    place : pair of float
    image : ndarray, shape (rows, columns)
    title : str
    real : bool
    """

    place: tuple[float, float]
    image: NDArray[np.float32]
    title: str
    real: bool


def along_boundary(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Choose some detections along the boundary, from one end of the map to the other.

    Parameters
    ----------
    table : DataFrame of CLASSIFIED
    threshold : float
        Margin at which the boundary runs.
    """
    middle = table[table["band"] == "reclassify"]
    place = middle[["umap_x", "umap_y"]]
    low, high = (place.quantile(edge) for edge in SHOWN)
    middle = middle[((place >= low) & (place <= high)).all(axis=1)]
    near = middle.assign(away=(middle["svm_margin"] - threshold).abs()).sort_values("away")
    near = near.head(max(_EXAMPLES, len(near) // 6)).sort_values("umap_x", kind="stable")
    if near.empty:
        return near
    steps = np.linspace(near["umap_x"].min(), near["umap_x"].max(), _EXAMPLES)
    return near.iloc[np.unique(np.searchsorted(near["umap_x"], steps))]


def selection_figures(
    table: pd.DataFrame, second: FittedSecondStage, threshold: float, examples: Sequence[MapExample]
) -> tuple[Figure, Figure]:
    """Draw a selection: completeness and contamination against the score, and the map.

    Parameters
    ----------
    table : DataFrame of CLASSIFIED
        Of detections whose classes are known.
    second : FittedSecondStage
    threshold : float
        The network's best single threshold.
    examples : sequence of MapExample
        Shown beside the map.
    """
    label, card = (table["class"] >= FIRST_REAL_CLASS).to_numpy(), second.card
    places = table[["umap_x", "umap_y"]].to_numpy(dtype=float)
    return (
        score_figure(label, table["score"].to_numpy(dtype=float), (card.bands.low, card.bands.high), threshold),
        map_figure(places, label, second.margin, card.threshold, examples),
    )


@styled
def score_figure(labels: ArrayLike, scores: ArrayLike, edges: tuple[float, float], threshold: float) -> Figure:
    """Draw completeness, contamination and figure of merit of what scores above a threshold, against the threshold, with the bands.

    Parameters
    ----------
    labels, scores : array_like, shape (n,)
    edges : pair of float
        Of the middle band.
    threshold : float
        The best single one.
    """
    real, score = np.asarray(labels) > 0.5, np.asarray(scores, dtype=float)
    cuts = np.unique(np.quantile(score, np.linspace(0.0, 1.0, 400)))
    chosen = np.array([(real & (score >= cut)).sum() for cut in cuts]), np.array([(score >= cut).sum() for cut in cuts])
    completeness, purity = chosen[0] / max(real.sum(), 1), chosen[0] / np.maximum(chosen[1], 1)
    figure = new_figure((6.4, 3.4))
    axes = figure.subplots()
    x = _logit(cuts)
    low, high = _logit(np.array(edges))
    axes.axvspan(low, high, color=SHADE, zorder=0)
    axes.plot(x, completeness, color=BLUE, label="completeness")
    axes.plot(x, 1.0 - purity, color=VERMILLION, linestyle=(0, (5, 2)), label="contamination")
    axes.plot(x, completeness * purity, color=INK, linewidth=1.0, linestyle=(0, (1, 1)), label="figure of merit")
    axes.axvline(_logit(np.array([threshold]))[0], color=MUTED, linewidth=0.8)
    for place, name in ((0.5 * (x.min() + low), "discard"), (0.5 * (low + high), "reclassify"), (0.5 * (high + x.max()), "keep")):
        axes.text(place, 1.03, name, ha="center", color=MUTED, fontsize=8)
    ticks = np.array([1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
    axes.set_xticks(_logit(ticks), [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="score (vertical line: best single threshold)", ylim=(0.0, 1.1), xlim=(x.min(), x.max()))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _logit(score: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1.0 - clipped))


@styled
def map_figure(
    places: ArrayLike,
    labels: ArrayLike,
    margin: Callable[[ArrayLike], NDArray[np.float64]],
    threshold: float,
    examples: Sequence[MapExample] = (),
) -> Figure:
    """Draw the middle band's map, real and fake, with the boundary; numbered examples along it with their images.

    Parameters
    ----------
    places : array_like, shape (n, 2)
        NaN for what is not in the middle band; the few that lie far out are not shown.
    labels : array_like, shape (n,)
    margin : callable
        Places → margins.
    threshold : float
        Margin at which the boundary runs.
    examples : sequence of MapExample
    """
    where, real = np.asarray(places, dtype=float), np.asarray(labels) > 0.5
    inside = np.isfinite(where).all(axis=1)
    where, real = where[inside], real[inside]
    columns = max(1, (len(examples) + 1) // 2)
    figure = new_figure((8.4, 6.6))
    grid = GridSpec(3, columns, figure=figure, height_ratios=(4.2, 1.0, 1.0))
    axes = figure.add_subplot(grid[0, :])
    for which, color, marker, name in ((~real, VERMILLION, "x", "fake"), (real, BLUE, "o", "real")):
        some = where[which][:_POINTS]
        axes.scatter(some[:, 0], some[:, 1], s=7, marker=marker, linewidths=0.6, color=color, alpha=0.55, label=f"{name} ({which.sum()})")
    if len(where):
        low, high = np.quantile(where, SHOWN, axis=0) + [[-0.5], [0.5]]
        x, y = (np.linspace(low[axis], high[axis], _GRID) for axis in (0, 1))
        cells = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        axes.contour(x, y, margin(cells).reshape(_GRID, _GRID), levels=[threshold], colors=[INK], linewidths=1.3)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="line: boundary")
    for number, example in enumerate(examples):
        _mark(axes, figure.add_subplot(grid[1 + number // columns, number % columns]), number + 1, example)
    return figure


def _mark(axes: Axes, panel: Axes, number: int, example: MapExample) -> None:
    """An example's number at its place in the map, and its image in a panel of its own."""
    axes.annotate(
        str(number), example.place, fontsize=8, fontweight="bold", color=INK, ha="center", va="center",
        bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK, "linewidth": 0.7},
    )  # fmt: skip
    panel.imshow(example.image, cmap="gray_r", vmin=-2.5, vmax=6.0, aspect="auto", interpolation="nearest")
    panel.set_title(f"{number}  {example.title}", fontsize=7, color=BLUE if example.real else VERMILLION)
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set(visible=True, color=FAINT)

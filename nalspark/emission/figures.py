"""A selection in two stages, drawn: completeness and contamination against the score, and the map with its boundary."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from nalspark.emission.frames import CUTOUT_SHAPE, FIRST_REAL_CLASS, PLANES
from nalspark.learning.ensemble import FittedSecondStage
from nalspark.plots.style import BLUE, FAINT, INK, MUTED, SHADE, VERMILLION, new_figure, styled

#: Points that are drawn of each kind, and cells of the grid on which the boundary is found.
_POINTS, _GRID = 2500, 160
#: Quantiles of the embeddings, along each axis, that a map shows.
_SHOWN = (0.01, 0.99)
#: Detections drawn along the boundary of the map.
_EXAMPLES = 10


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
    low, high = (place.quantile(edge) for edge in _SHOWN)
    middle = middle[((place >= low) & (place <= high)).all(axis=1)]
    near = middle.assign(away=(middle["svm_margin"] - threshold).abs()).sort_values("away")
    near = near.head(max(_EXAMPLES, len(near) // 6)).sort_values("umap_x", kind="stable")
    if near.empty:
        return near
    steps = np.linspace(near["umap_x"].min(), near["umap_x"].max(), _EXAMPLES)
    return near.iloc[np.unique(np.searchsorted(near["umap_x"], steps))]


@styled
def score_figure(table: pd.DataFrame, second: FittedSecondStage, threshold: float) -> Figure:
    """Draw completeness, contamination and figure of merit of what scores above a threshold, against the threshold, with the bands.

    Parameters
    ----------
    table : DataFrame of CLASSIFIED
        Of detections whose classes are known.
    second : FittedSecondStage
    threshold : float
        The network's best single one.
    """
    real, score = (table["class"] >= FIRST_REAL_CLASS).to_numpy(), table["score"].to_numpy(dtype=float)
    cuts = np.unique(np.quantile(score, np.linspace(0.0, 1.0, 400)))
    chosen = np.array([(real & (score >= cut)).sum() for cut in cuts]), np.array([(score >= cut).sum() for cut in cuts])
    completeness, purity = chosen[0] / max(real.sum(), 1), chosen[0] / np.maximum(chosen[1], 1)
    figure = new_figure((6.4, 3.4))
    axes = figure.subplots()
    x = _logit(cuts)
    low, high = _logit([second.card.bands.low, second.card.bands.high])
    axes.axvspan(low, high, color=SHADE, zorder=0)
    axes.plot(x, completeness, color=BLUE, label="completeness")
    axes.plot(x, 1.0 - purity, color=VERMILLION, linestyle=(0, (5, 2)), label="contamination")
    axes.plot(x, completeness * purity, color=INK, linewidth=1.0, linestyle=(0, (1, 1)), label="figure of merit")
    axes.axvline(float(_logit(threshold)), color=MUTED, linewidth=0.8)
    for place, name in ((0.5 * (x.min() + low), "discard"), (0.5 * (low + high), "reclassify"), (0.5 * (high + x.max()), "keep")):
        axes.text(place, 1.03, name, ha="center", color=MUTED, fontsize=8)
    ticks = [1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999]
    axes.set_xticks(_logit(ticks), [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="score (vertical line: best single threshold)", ylim=(0.0, 1.1), xlim=(x.min(), x.max()))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _logit(score: ArrayLike) -> NDArray[np.float64]:
    return logit(np.clip(score, 1e-6, 1 - 1e-6))


@styled
def map_figure(table: pd.DataFrame, second: FittedSecondStage, examples: pd.DataFrame) -> Figure:
    """Draw the middle band's map, real and fake, with the boundary; numbered examples along it with their images.

    The few embeddings that lie far out are not shown.

    Parameters
    ----------
    table : DataFrame of CLASSIFIED
        Of detections whose classes are known.
    second : FittedSecondStage
    examples : DataFrame
        Rows of :func:`along_boundary`, each with its weighted sum.
    """
    middle = table.dropna(subset=["umap_x", "umap_y"])
    where, real = middle[["umap_x", "umap_y"]].to_numpy(dtype=float), (middle["class"] >= FIRST_REAL_CLASS).to_numpy()
    columns = max(1, (len(examples) + 1) // 2)
    figure = new_figure((8.4, 6.6))
    grid = figure.add_gridspec(3, columns, height_ratios=(4.2, 1.0, 1.0))
    axes = figure.add_subplot(grid[0, :])
    for which, color, marker, name in ((~real, VERMILLION, "x", "fake"), (real, BLUE, "o", "real")):
        some = where[which][:_POINTS]
        axes.scatter(some[:, 0], some[:, 1], s=7, marker=marker, linewidths=0.6, color=color, alpha=0.55, label=f"{name} ({which.sum()})")
    if len(where):
        low, high = np.quantile(where, _SHOWN, axis=0) + [[-0.5], [0.5]]
        x, y = (np.linspace(low[axis], high[axis], _GRID) for axis in (0, 1))
        cells = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        boundary = [second.card.threshold]
        axes.contour(x, y, second.margin(cells).reshape(_GRID, _GRID), levels=boundary, colors=[INK], linewidths=1.3)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="line: boundary")
    for number, example in enumerate(examples.to_dict("records")):
        axes.annotate(
            str(number + 1), (example["umap_x"], example["umap_y"]), fontsize=8, fontweight="bold", color=INK, ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK, "linewidth": 0.7},
        )  # fmt: skip
        _example(figure.add_subplot(grid[1 + number // columns, number % columns]), number + 1, example)
    return figure


def _example(panel: Axes, number: int, example: dict[Hashable, Any]) -> None:
    """An example's image in a panel of its own."""
    image = np.frombuffer(example[PLANES[0]], "<f4").reshape(CUTOUT_SHAPE)
    panel.imshow(image, cmap="gray_r", vmin=-2.5, vmax=6.0, aspect="auto", interpolation="nearest")
    title = f"{number}  {example['kind']}, {'accepted' if example['accepted'] else 'rejected'}"
    panel.set_title(title, fontsize=7, color=BLUE if example["kind"] == "line" else VERMILLION)
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set(visible=True, color=FAINT)

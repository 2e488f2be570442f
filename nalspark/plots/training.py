"""How a model was trained and how well its scores hold: curves in, figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nalspark.metrics import binary_metrics, reliability, roc_curve
from nalspark.plots.evaluation import scores_figure
from nalspark.plots.style import BLUE, VERMILLION, new_figure, styled


@styled
def curves_figure(histories: Sequence[dict[str, list[float]]]) -> Figure:
    """Draw loss and accuracy against the epoch: a thin line a member, training and validation."""
    figure = new_figure((7.2, 3.2))
    for axes, curve, label in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("cross-entropy", "accuracy"), strict=True):
        for number, history in enumerate(histories):
            epochs = np.arange(1, len(history[curve]) + 1)
            first = number == 0
            axes.plot(epochs, history[curve], color=BLUE, linewidth=0.9, label="training" if first else None)
            axes.plot(epochs, history[f"validation_{curve}"], color=VERMILLION, linewidth=0.9, label="validation" if first else None)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend()
    return figure


def training_figures(histories: Sequence[dict[str, list[float]]], labels: ArrayLike, scores: ArrayLike) -> dict[str, Figure]:
    """Draw the pictures that go with a model, by name.

    Parameters
    ----------
    histories : sequence of dict
        Of every member: curve → one value an epoch.
    labels, scores : array_like, shape (n,)
        Of the test examples.
    """
    values, roc, curve = binary_metrics(labels, scores), roc_curve(labels, scores), reliability(labels, scores)
    published = (values["fp"] / max(values["fp"] + values["tn"], 1), values["recall"])
    return {"curves": curves_figure(histories), "scores": scores_figure(roc, published, values["auc"], curve)}

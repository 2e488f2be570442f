"""From examples to a model on disk: fit the members, calibrate their mean, test it, write it with its card."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import TrainingError
from nalspark.learning.examples import Examples
from nalspark.learning.feed import PADDING, Feed, told
from nalspark.learning.models import (
    TABLE_2,
    Calibration,
    Detector,
    ModelCard,
    PackedModel,
    fit_calibration,
    mean_logit,
    package_versions,
    read_model,
    save_model,
)
from nalspark.learning.networks import resolved_options
from nalspark.metrics import binary_metrics, bootstrap_errors, reliability
from nalspark.settings import Settings

#: From the feeds of the examples to learn from and to stop by, to the fitted members and their curves: see `learning.training`.
Fit = Callable[[Feed, Feed], Sequence[tuple[Any, dict[str, list[float]]]]]

#: What the examples are split into: to learn from, to stop by, to calibrate with, and to test on.
SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Built:
    """A model, the curves of its members, labels and scores (n,) of the test examples, and the number of training examples."""

    packed: PackedModel
    histories: list[dict[str, list[float]]]
    labels: NDArray[np.float32]
    scores: NDArray[np.float32]
    n_train: int


def build_model(examples: Examples, settings: Settings, folder: Path, fit: Fit, progress: Callable[[str], None]) -> Built:
    """Train, calibrate, test and save; what is in `folder` is replaced only by a finished model.

    Raises
    ------
    FeedError, TrainingError, ModelError
    """
    feeds = {split: _feed(examples, split) for split in SPLITS}
    train, validation, calibrating, testing = feeds.values()
    progress(f"train       {train.rows()} examples, {validation.rows()} to stop by")
    fitted = fit(train, validation)
    models = [model for model, _ in fitted]
    card = ModelCard(
        name=Path(settings.out).name,
        network=settings.train.network,
        options=resolved_options(settings.train.network, settings.train.options),
        inputs=examples.columns,
        shape=examples.shape,
        grid=examples.grid,
        species=examples.species,
    )
    detector, rows = Detector(card, models), {split: feed.rows() for split, feed in feeds.items()}
    start = read_model(settings.train.start_from) if settings.train.start_from else None
    calibration, how = _calibration(*_outputs(detector, calibrating), examples.least_to_calibrate, start)
    logits, labels = _outputs(detector, testing)
    scores = calibration.score(mean_logit(logits))
    # The test's metrics are of its examples as they are.
    rare = {"overrepresented": examples.overrepresented} if examples.overrepresented != 1.0 else {}
    from_start = {"start_from": start.digest} if start else {}
    errors = errors_by_quasar(labels, scores, testing.names("quasar_id"))
    test = {"test": errors} if errors else {}
    learned = {
        "calibration": calibration.where_rarer(examples.overrepresented),
        "data": {"table": examples.digest, "examples": rows, "revisions": dict(examples.revisions)} | rare | from_start | how | test,
        "settings": settings.model_dump(mode="json", include=set(examples.sections)),
        "metrics": metrics(labels, scores),
        "versions": package_versions(),
        "created": datetime.date.today().isoformat(),
    }
    packed = save_model(folder, card.model_copy(update=learned), models)
    progress("train       " + ", ".join(f"{name} {value:.4f}" for name, value in packed.card.metrics.items()))
    return Built(packed, [history for _, history in fitted], labels, scores, train.rows())


def _calibration(
    logits: NDArray[np.float32], labels: NDArray[np.float32], least: int, start: PackedModel | None
) -> tuple[Calibration, dict[str, str]]:
    """The calibration, and what the card says of one that was not fitted: some labels cannot tell a probability."""
    if min((labels == 1).sum(), (labels == 0).sum()) >= least:
        return fit_calibration(logits, labels), {}
    of_start = "that of the model it was started from"
    return (start.card.calibration, {"calibration": of_start}) if start else (Calibration(), {"calibration": "none"})


def _feed(examples: Examples, split: str) -> Feed:
    if not examples.files.get(split):
        raise TrainingError(f"The training table has no examples of split '{split}'. Simulate, or label, more spectra.")
    return Feed(examples.files[split], examples.columns, examples.shape)


def metrics(labels: NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
    """Compute what the card says of the test examples."""
    found = binary_metrics(labels, scores)
    wanted = {name: float(found[name]) for name in TABLE_2}
    return {**wanted, "calibration_error": float(reliability(labels, scores).expected_calibration_error)}


def errors_by_quasar(labels: NDArray[np.float32], scores: NDArray[np.float32], quasars: Sequence[str]) -> dict[str, float]:
    """Compute what the card says of the metrics' errors: their scatter over quasars drawn with replacement, and how many there are.

    Parameters
    ----------
    labels, scores : ndarray, shape (n,)
    quasars : sequence of str, of as many; empty where they are not known, and nothing is computed
    """
    if not len(quasars):
        return {}
    names, number = np.unique(np.asarray(quasars, dtype=str), return_inverse=True)
    rows = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])

    def of_drawn(drawn: NDArray[np.int64]) -> dict[str, float]:
        chosen = np.concatenate([rows[quasar] for quasar in drawn])
        found = binary_metrics(labels[chosen], scores[chosen])
        return {name: found[name] for name in TABLE_2}

    return {**bootstrap_errors(of_drawn, np.arange(len(names))), "quasars": len(names), "positives": int((labels == 1).sum())}


def _outputs(detector: Detector, feed: Feed) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, members) and labels (n,) of all rows."""
    logits, labels = [], []
    with told():
        for x, y in feed.epoch(detector.batch_size, seed=None):
            own = y.numpy() != PADDING
            logits.append(detector.logits(x.numpy())[own])
            labels.append(y.numpy()[own])
    return np.concatenate(logits), np.concatenate(labels)

"""Bands, map and boundary: chosen as they say, equal to scikit-learn's and near UMAP's, one row at a time, and safe on disk."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from nalspark.errors import ModelError, TrainingError
from nalspark.learning import ensemble
from nalspark.learning.ensemble import (
    ARRAYS,
    CARD,
    Bands,
    best_threshold,
    choose_bands,
    fit_second_stage,
    read_second_stage,
    save_second_stage,
    selection_quality,
)
from nalspark.settings import SecondStage

SETTINGS = SecondStage(keep_contamination=0.05, discard_contamination=0.95, neighbours=10)


def examples(n=700, seed=0):
    """Scores that tell most, and features in which the rest come apart along two directions."""
    rng = np.random.default_rng(seed)
    real = rng.random(n) < 0.5
    logit = np.where(real, 2.0, -2.0) + rng.normal(0, 2.0, n)
    features = rng.normal(size=(n, 8))
    features[:, 0] += np.where(real, 2.5, -2.5)
    features[:, 1] *= 3.0
    return real.astype(float), 1 / (1 + np.exp(-logit)), features


@pytest.fixture(scope="module")
def fitted():
    labels, scores, features = examples()
    return fit_second_stage(labels, scores, lambda rows: features[rows], SETTINGS, "model-1")


def test_bands_have_the_contamination_asked_for():
    labels, scores, _ = examples(5000)
    bands = choose_bands(labels, scores, SETTINGS)
    number = bands.of(scores)
    assert (labels[number == 2] < 0.5).mean() <= 0.05 and (labels[number == 0] < 0.5).mean() >= 0.95
    wider = Bands(low=bands.low + 0.05, high=bands.high - 0.05).of(scores)
    assert (labels[wider == 2] < 0.5).mean() > 0.05 and (labels[wider == 0] < 0.5).mean() < 0.95
    assert bands.of([np.nan, 0.0, bands.low, bands.high, 1.0]).tolist() == [-1, 0, 1, 2, 2]


def test_bands_where_none_is_clean_or_foul_enough():
    """Fakes at the top and real ones at the bottom: all is looked at twice."""
    bands = choose_bands([1, 0, 1, 0], [0.1, 0.2, 0.8, 0.9], SecondStage(keep_contamination=0.0, discard_contamination=1.0))
    assert bands.of([0.1, 0.2, 0.8, 0.9]).tolist() == [1, 1, 1, 1]


def test_the_best_threshold_is_that_of_trying_all():
    labels, scores, _ = examples(400)
    merits = {cut: selection_quality(labels, scores >= cut)["figure_of_merit"] for cut in scores}
    assert best_threshold(labels, scores) == max(merits, key=merits.get)


def test_quality_is_the_slides_arithmetic():
    """91.48 % complete and 5.73 % contaminated make 0.862."""
    real = np.repeat([True, False], 100_000)
    accepted = np.concatenate([np.arange(100_000) < 91_480, np.arange(100_000) < 91_480 * 0.0573 / 0.9427])
    found = selection_quality(real, accepted)
    assert found["completeness"] == pytest.approx(0.9148) and found["contamination"] == pytest.approx(0.0573, abs=1e-4)
    assert found["figure_of_merit"] == pytest.approx(0.862, abs=5e-4)


def test_the_second_stage_gains_on_what_it_has_not_seen(fitted):
    labels, scores, features = examples(4000, seed=9)
    band = fitted.card.bands.of(scores)
    accepted = band == 2
    accepted[band == 1] = fitted.margin(fitted.place(features[band == 1])) >= fitted.card.threshold
    alone = selection_quality(labels, scores >= best_threshold(labels, scores))["figure_of_merit"]
    assert selection_quality(labels, accepted)["figure_of_merit"] > alone + 0.05


def test_margins_are_scikit_learns(fitted):
    from sklearn.svm import SVC

    places = np.random.default_rng(1).uniform(-3, 3, (200, 2))
    real = places[:, 0] ** 2 > 1 + places[:, 1]
    machine = SVC(kernel="rbf", gamma=0.7, C=3.0).fit(places, real)
    card = fitted.card.model_copy(update={"gamma": 0.7, "intercept": float(machine.intercept_[0])})
    ours = ensemble.FittedSecondStage(
        card, fitted.centre, fitted.scale, fitted.points, fitted.embedding, machine.support_vectors_, machine.dual_coef_[0]
    )
    np.testing.assert_allclose(ours.margin(places), machine.decision_function(places), rtol=1e-9, atol=1e-9)


def test_a_place_is_near_those_of_the_nearest_examples(fitted):
    """A training example comes back almost to itself, and is placed without itself where it is known."""
    features = fitted.points * fitted.scale + fitted.centre
    spread = fitted.embedding.std(axis=0).max()
    own = np.hypot(*(fitted.place(features) - fitted.embedding).T)
    without = np.hypot(*(fitted.place(features, known=True) - fitted.embedding).T)
    assert np.median(own) < np.median(without) < 0.5 * spread


def test_weights_are_umaps_memberships():
    distance = np.sort(np.random.default_rng(0).uniform(0.5, 3.0, (20, 12)), axis=1)
    weight = ensemble._memberships(distance)
    sigma = (distance[:, -1] - distance[:, 0]) / -np.log(weight[:, -1] / weight[:, 0])
    np.testing.assert_allclose(np.exp(-distance / sigma[:, None]).sum(axis=1), np.log2(12), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 255, 257])
def test_a_row_does_not_depend_on_the_others(fitted, size):
    _, _, features = examples(600, seed=4)
    whole = fitted.place(features)
    parts = np.concatenate([fitted.place(features[start : start + size]) for start in range(0, 600, size)])
    np.testing.assert_array_equal(parts, whole)
    margins = np.concatenate([fitted.margin(whole[start : start + size]) for start in range(0, 600, size)])
    np.testing.assert_array_equal(margins, fitted.margin(whole))


def test_it_comes_back_from_disk_as_it_was(fitted, tmp_path):
    saved = save_second_stage(tmp_path, fitted)
    read = read_second_stage(tmp_path)
    assert read.card == saved.card and read.card.versions["umap-learn"]
    _, _, features = examples(50, seed=3)
    np.testing.assert_array_equal(read.place(features), fitted.place(features))
    np.testing.assert_array_equal(read.margin(read.place(features)), fitted.margin(fitted.place(features)))


def test_another_network_is_refused(fitted):
    fitted.check("model-1")
    with pytest.raises(ModelError, match="made for the network model-1, and this one is model-2"):
        fitted.check("model-2")


def spoil_card(folder, **changes):
    tree = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**tree, **changes}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / CARD).unlink(), "There is no second-stage classifier"),
        (lambda folder: (folder / CARD).write_text("{"), "not valid JSON"),
        (lambda folder: spoil_card(folder, format=2), "format 2, and this nalspark reads up to 1"),
        (lambda folder: spoil_card(folder, gamma=-1.0), "not the card of a second-stage classifier"),
        (lambda folder: (folder / ARRAYS).write_bytes(b"spoiled"), "SHA-256 differs"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(fitted, tmp_path, spoil, told):
    save_second_stage(tmp_path, fitted)
    spoil(tmp_path)
    with pytest.raises(ModelError, match=told):
        read_second_stage(tmp_path)


@pytest.mark.parametrize(
    "name, array", [("embedding", np.zeros((3, 2))), ("dual", np.array([{}], dtype=object)), ("points", np.full((1, 8), np.nan))]
)
def test_arrays_that_do_not_fit_are_refused(fitted, tmp_path, name, array):
    """Their digest is right: whoever made them made them so. Objects are not read at all."""
    import hashlib
    import io

    stream = io.BytesIO()
    np.savez(stream, **{**{other: getattr(fitted, other) for other in ensemble._ARRAY_NAMES}, name: array})
    save_second_stage(tmp_path, fitted)
    (tmp_path / ARRAYS).write_bytes(stream.getvalue())
    spoil_card(tmp_path, arrays=hashlib.sha256(stream.getvalue()).hexdigest())
    with pytest.raises(ModelError, match="plain arrays|should be finite numbers"):
        read_second_stage(tmp_path)


def test_too_few_in_the_middle_are_told():
    labels = np.repeat([0.0, 1.0], 200)
    with pytest.raises(TrainingError, match="too few for a boundary"):
        fit_second_stage(labels, labels, lambda rows: np.zeros((len(rows), 2)), SETTINGS, "m")


def test_fitting_without_umap_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(TrainingError, match=r"pip install 'nalspark\[emission\]'"):
        ensemble.require_umap()

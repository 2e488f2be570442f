"""The second-stage classifier of a selection (Sakai 2020): the network's score makes three bands, a map of the middle one is cut in two.

What scores low is discarded, what scores high is kept. The examples between are laid out in a plane by UMAP (McInnes et al. 2018), from
the features that the network computes before its last layer, and a support vector machine draws the boundary.

UMAP itself moves new examples together, so that one's place depends on the others that come with it. Here a new example's place is the mean
of its nearest training examples' embedding with UMAP's own membership weights: UMAP's first step for new examples, and for one alone. So a
second-stage classifier is arrays: nothing of it is a pickled object, and applying it needs neither UMAP nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from nalspark.errors import ModelError, TrainingError
from nalspark.learning.models import Frozen, arrays_of, npz, package_versions, read_card, read_checked, sha256
from nalspark.settings import SecondStage
from nalspark.tables.atomic import write_file

Array = NDArray[np.float64]

FORMAT = 1
CARD, ARRAYS = "second_stage.json", "second_stage.npz"
#: Names of the bands, from the lowest scores to the highest.
BANDS = ("discard", "reclassify", "keep")
_REMEDY = "Fit the second-stage classifier again."
_ARRAY_NAMES = ("centre", "scale", "points", "embedding", "support", "dual")
#: Rows whose distances to all support vectors are held at a time.
_ROWS = 256
_BISECTIONS = 48
_FOLDS = 5
#: Penalties and kernel widths that cross-validation chooses from.
_PENALTIES, _WIDTHS = (0.3, 3.0, 30.0), (0.3, 1.0, 3.0)
#: Fewer examples of the middle band, or of either kind in it, draw no boundary.
_LEAST, _LEAST_OF_A_KIND = 60, 10


# ---- bands


_Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Bands(Frozen):
    """Edges of the middle band: a score below `low` is discarded, one of `high` or more is kept."""

    low: _Score
    high: _Score

    def of(self, scores: ArrayLike) -> NDArray[np.int64]:
        """Give the number of each score's band, from 0; -1 for NaN."""
        values = np.asarray(scores, dtype=float)
        number = (values >= self.low).astype(np.int64) + (values >= self.high)
        return np.where(np.isnan(values), -1, number)


def choose_bands(labels: ArrayLike, scores: ArrayLike, settings: SecondStage) -> Bands:
    """Choose the bands whose contamination on labelled examples is what is asked for.

    The kept band is the largest from the top whose contamination is at most ``keep_contamination``, the discarded one the largest from the
    bottom whose contamination is at least ``discard_contamination``.

    Parameters
    ----------
    labels : array, shape (n,)
        1 real, 0 not; the network has not learned from these examples.
    scores : array, shape (n,)
    settings : SecondStage
    """
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    value, fake = np.asarray(scores, dtype=float)[order], np.asarray(labels)[order] < 0.5
    new = np.append(True, np.diff(value) > 0)  # a band's edge cannot part equal scores
    number = np.arange(1, len(value) + 1)
    above = np.cumsum(fake[::-1])[::-1] / number[::-1]
    clean = np.flatnonzero(new & (above <= settings.keep_contamination))
    high = value[clean[0]] if len(clean) else 1.0
    below = np.concatenate([[1.0], np.cumsum(fake) / number])[:-1]
    foul = np.flatnonzero(new & (below >= settings.discard_contamination))
    low = value[foul[-1]]
    return Bands(low=float(min(low, high)), high=float(max(low, high)))


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Find the score above which selecting everything gives the greatest completeness x (1 - contamination)."""
    positive, values = np.asarray(labels) > 0.5, np.asarray(scores, dtype=float)
    order = np.argsort(-values, kind="stable")
    true = np.cumsum(positive[order])
    merit = true**2 / (max(positive.sum(), 1) * np.arange(1, len(values) + 1))
    last_of_equals = np.append(np.diff(values[order]) < 0, True)
    return float(values[order][int(np.argmax(np.where(last_of_equals, merit, -1.0)))])


def selection_quality(labels: ArrayLike, accepted: ArrayLike) -> dict[str, float]:
    """Compute ``completeness``, ``contamination`` and ``figure_of_merit``, their product completeness x (1 - contamination).

    For the power spectrum of what is selected, contamination dilutes the signal and incompleteness adds noise; the survey's cosmology asks
    for 0.94 (Sakai 2020).
    """
    real, chosen = np.asarray(labels) > 0.5, np.asarray(accepted, dtype=bool)
    found = float((real & chosen).sum())
    completeness = found / real.sum() if real.any() else float("nan")
    purity = found / chosen.sum() if chosen.any() else float("nan")
    return {"completeness": completeness, "contamination": 1.0 - purity, "figure_of_merit": completeness * purity}


# ---- the second-stage classifier


class SecondStageCard(Frozen):
    """What a second-stage classifier is: all that is not an array.

    Attributes
    ----------
    format : int
    bands : Bands
    features : str
        Of what the map is: of the ``network``'s last features, or of the ``image`` itself.
    model : str
        Digest of the network, without which scores and features mean something else.
    neighbours : int
        Training examples whose embeddings a new one's is the mean of.
    gamma, intercept : float
        Of the support vector machine.
    threshold : float
        Margin from which an example of the middle band is accepted.
    arrays : str
        SHA-256 of the file of arrays; filled in by :func:`save_second_stage`.
    metrics, settings, versions : dict
    """

    format: int = FORMAT
    bands: Bands
    features: Literal["network", "image"] = "network"
    model: str
    neighbours: Annotated[int, Field(ge=1)]
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Annotated[float, Field(allow_inf_nan=False)]
    threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    arrays: str = ""
    metrics: dict[str, float] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class FittedSecondStage:
    """A second-stage classifier at work.

    Attributes
    ----------
    card : SecondStageCard
    centre, scale : ndarray, shape (d,)
        Features are measured from here, in these units.
    points : ndarray, shape (m, d), float32
        The training examples in these units.
    embedding : ndarray, shape (m, 2)
        Where UMAP put them.
    support : ndarray, shape (s, 2)
        Support vectors: embedding.
    dual : ndarray, shape (s,)
        Their coefficients.
    """

    card: SecondStageCard
    centre: Array
    scale: Array
    points: NDArray[np.float32]
    embedding: Array
    support: Array
    dual: Array

    @cached_property
    def _tree(self) -> cKDTree:
        # In so many dimensions a tree saves little: leaves of 64 are searched a third faster than the usual ones of 16.
        return cKDTree(self.points, leafsize=64)

    def place(self, features: ArrayLike, known: bool = False) -> Array:
        """Compute the embedding of examples in the plane.

        Parameters
        ----------
        features : array_like, shape (n, d)
            Finite.
        known : bool
            The examples are the training examples themselves: each is placed by the others.

        Returns
        -------
        ndarray, shape (n, 2)
            A row's place depends on that row alone.
        """
        x = ((np.asarray(features, dtype=np.float64) - self.centre) / self.scale).astype(np.float32)
        if not len(x):
            return np.zeros((0, self.embedding.shape[1]))
        k = min(self.card.neighbours, len(self.points) - known)
        distance, number = self._tree.query(x, k=np.arange(1, k + 1) + known)
        weight = _memberships(distance)
        return (weight[:, :, None] * self.embedding[number]).sum(axis=1) / weight.sum(axis=1)[:, None]

    def margin(self, embedding: ArrayLike) -> Array:
        """Compute the signed distance from the boundary, positive for real ones: the machine's decision function, shape (n,)."""
        found = []
        for start in range(0, len(np.asarray(embedding)), _ROWS):
            some = np.asarray(embedding, dtype=np.float64)[start : start + _ROWS]
            squared = sum((some[:, axis, None] - self.support[:, axis]) ** 2 for axis in range(self.support.shape[1]))
            found.append((np.exp(-self.card.gamma * squared) * self.dual).sum(axis=1) + self.card.intercept)
        return np.concatenate(found) if found else np.zeros(0)

    def check(self, model: str) -> None:
        """Refuse to work with another network than the one it was made with.

        Raises
        ------
        ModelError
        """
        if self.card.model != model:
            raise ModelError(
                f"The second-stage classifier was made for the network {self.card.model}, and this one is {model}: scores and features of "
                "one mean nothing to the other. Fit the second-stage classifier again."
            )


def _memberships(distance: Array) -> Array:
    """UMAP's weights exp(-d/σ) with Σ = log2 k, σ for each row by bisection; shape (n, k)."""
    k = distance.shape[1]
    goal = np.log2(k) if k > 1 else 1.0
    low, high = np.full(len(distance), 1e-9), np.full(len(distance), 1e9)
    for _ in range(_BISECTIONS):
        sigma = np.sqrt(low * high)
        wide = np.exp(-distance / sigma[:, None]).sum(axis=1) > goal
        high, low = np.where(wide, sigma, high), np.where(wide, low, sigma)
    return np.exp(-(distance - distance[:, :1]) / np.sqrt(low * high)[:, None])


# ---- fit


def fit_second_stage(
    labels: ArrayLike, scores: ArrayLike, features_of: Callable[[NDArray[np.int64]], ArrayLike], settings: SecondStage, model: str
) -> FittedSecondStage:
    """Choose the bands, map the middle one, and draw the boundary.

    Parameters
    ----------
    labels, scores : array_like, shape (n,)
        Of examples that the network did not learn from.
    features_of : callable
        Gives the features, (m, d), of the examples with these numbers.
    settings : SecondStage
    model : str
        Digest of the network.

    Raises
    ------
    TrainingError
        Where the middle band has too few examples, or too few of a kind, for a boundary.
    """
    y, score = np.asarray(labels) > 0.5, np.asarray(scores, dtype=float)
    bands = choose_bands(y, score, settings)
    kept, middle = bands.of(score) == 2, np.flatnonzero(bands.of(score) == 1)
    rest = _Rest(int(y.sum()), int((y & kept).sum()), int(kept.sum()), max(len(middle) / settings.max_examples, 1.0))
    if len(middle) > settings.max_examples:
        middle = np.sort(np.random.default_rng(settings.seed).choice(middle, settings.max_examples, replace=False))
    _check_middle(y[middle], bands)
    features = np.asarray(features_of(middle), dtype=np.float64)
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    points = ((features - centre) / scale).astype(np.float32)
    card = SecondStageCard(
        bands=bands, features=settings.features, model=model, neighbours=settings.neighbours, gamma=1.0, intercept=0.0,
        settings=settings.model_dump(mode="json"), versions=package_versions(("nalspark", "umap-learn", "scikit-learn", "numpy")),
    )  # fmt: skip
    empty = np.zeros((0, 2))
    mapped = FittedSecondStage(card, centre, scale, points, _umap(settings).fit_transform(points).astype(np.float64), empty, np.zeros(0))
    return _with_boundary(mapped, mapped.place(features, known=True), y[middle], rest)


def _check_middle(real: NDArray[np.bool_], bands: Bands) -> None:
    if len(real) < _LEAST or not _LEAST_OF_A_KIND <= real.sum() <= len(real) - _LEAST_OF_A_KIND:
        raise TrainingError(
            f"Between the scores {bands.low:.3f} and {bands.high:.3f} there are {len(real)} examples, {real.sum()} of them real: too few "
            "for a boundary. Give more examples, or set second_stage.keep_contamination lower and discard_contamination higher."
        )


def require_umap() -> None:
    """Refuse to fit a second-stage classifier where umap-learn is not installed; to use a fitted one needs none.

    Raises
    ------
    TrainingError
    """
    if find_spec("umap") is None:
        raise TrainingError("A second-stage classifier is laid out by UMAP, which is not here: pip install 'nalspark[emission]'.")


def _umap(settings: SecondStage) -> Any:
    require_umap()
    import umap  # seconds of compilation: only who fits waits for it

    return umap.UMAP(n_neighbors=settings.neighbours, min_dist=settings.min_dist, random_state=settings.seed, n_jobs=1)


class _Rest(NamedTuple):
    """What the score alone decides: real ones in all, real ones and all that are kept; and how many each mapped example stands for."""

    real: int
    kept_real: int
    kept: int
    weight: float


def _with_boundary(mapped: FittedSecondStage, embedding: Array, real: NDArray[np.bool_], rest: _Rest) -> FittedSecondStage:
    """The boundary that cross-validation finds best, and the margin above which the whole selection's figure of merit is greatest."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
    from sklearn.svm import SVC

    usual = 1.0 / (embedding.shape[1] * embedding.var())
    grid = {"C": list(_PENALTIES), "gamma": [usual * width for width in _WIDTHS]}
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(SVC(kernel="rbf"), grid, cv=folds, scoring="roc_auc").fit(embedding, real)
    machine = search.best_estimator_
    margins = cross_val_predict(SVC(kernel="rbf", **search.best_params_), embedding, real, cv=folds, method="decision_function")
    threshold, merit = _merit_threshold(margins, real, rest)
    card = mapped.card.model_copy(
        update={
            "gamma": float(search.best_params_["gamma"]),
            "intercept": float(machine.intercept_[0]),
            "threshold": threshold,
            "metrics": {"examples": float(len(real)), "auc_of_margin": float(search.best_score_), "figure_of_merit": merit},
        }
    )
    return replace(mapped, card=card, support=machine.support_vectors_.astype(float), dual=machine.dual_coef_[0].astype(float))


def _merit_threshold(margins: Array, real: NDArray[np.bool_], rest: _Rest) -> tuple[float, float]:
    """The margin at which completeness x (1 - contamination) of kept and accepted together is greatest, and that figure."""
    order = np.argsort(-margins, kind="stable")
    true = rest.kept_real + rest.weight * np.concatenate([[0], np.cumsum(real[order])])
    merit = true**2 / (max(rest.real, 1) * np.maximum(rest.kept + rest.weight * np.arange(len(margins) + 1), 1))
    best = int(np.argmax(merit))
    edges = np.concatenate([[margins.max() + 1.0], margins[order], [margins.min() - 1.0]])
    return float(0.5 * (edges[best] + edges[best + 1])), float(merit[best])


# ---- on disk


def save_second_stage(folder: str | Path, second: FittedSecondStage) -> FittedSecondStage:
    """Write ``second_stage.json`` and ``second_stage.npz`` into a folder, beside the network's files or elsewhere.

    Raises
    ------
    ModelError
        Where it cannot be written.
    """
    content = npz({name: getattr(second, name) for name in _ARRAY_NAMES})
    card = second.card.model_copy(update={"arrays": sha256(content)})
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_file(Path(folder) / ARRAYS, content)
        write_file(Path(folder) / CARD, card.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise ModelError(f"The second-stage classifier cannot be written into '{folder}': {error.strerror}.") from None
    return replace(second, card=card)


def read_second_stage(folder: str | Path) -> FittedSecondStage:
    """Read a second-stage classifier, and refuse what this version cannot reproduce.

    Raises
    ------
    ModelError
        Where there is none, it is damaged, its arrays do not fit each other, or a newer nalspark wrote it.
    """
    where = Path(folder)
    card = read_card(where / CARD, SecondStageCard, "second-stage classifier", _REMEDY)
    content = read_checked(where / ARRAYS, card.arrays, CARD, _REMEDY)
    arrays = arrays_of(content, f"The arrays of '{where / ARRAYS}'", _REMEDY, _ARRAY_NAMES)
    (m, d), s = np.atleast_2d(arrays["points"]).shape, len(np.atleast_1d(arrays["dual"]))
    shapes = {"centre": (d,), "scale": (d,), "points": (m, d), "embedding": (m, 2), "support": (s, 2), "dual": (s,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise ModelError(f"'{where / ARRAYS}': '{name}' should be finite numbers of shape {shape}. {_REMEDY}")
    return FittedSecondStage(card, **arrays)

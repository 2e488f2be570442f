"""A model on disk, packed, and at work.

A model is a directory: ``card.json`` says what it is, and ``weights-K.npz`` holds the weights of member K as plain arrays. The architecture
is rebuilt from its name and options, so nothing that is read is executed; and what is read is checked: digests, shapes, grid, species.

This module loads keras only to put to work what needs it: a network other than ``candidate_cnn``, or any on a GPU.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from string import digits
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import expit

from nalspark.errors import ModelError
from nalspark.learning import candidate
from nalspark.tables.atomic import replacing

if TYPE_CHECKING:
    import keras

Floats = NDArray[np.float32]
_Card = TypeVar("_Card", bound=BaseModel)

FORMAT = 1
#: Models that ship with nalspark, each in a folder with the name of its species.
SHIPPED = Path(__file__).parent / "shipped"
CARD = "card.json"
#: With fewer rows a backend may choose other kernels, whose last bits differ: shorter batches are padded to this.
_SMALLEST_BATCH = 16
#: Logits are rounded to multiples of this, a power of 2: smaller digits depend on a row's place in its batch.
STEP = np.float32(2.0**-8)
#: The metrics of Zhao et al. (2019), Table 2, whose AUC is that of the ROC curve here: theirs is the balanced accuracy.
TABLE_2 = ("accuracy", "precision", "recall", "f1", "auc")
#: What a model that is offered without a warning reaches on its test; the one that ships has a recall of 0.88 and a precision of 0.96.
_WORTH = {"recall": 0.7, "precision": 0.7}
_REMEDY = "Copy or train the model anew."


# ---- what a model says of itself


class Frozen(BaseModel):
    """What a card consists of: unchangeable, and without fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Calibration(Frozen):
    """From logit to score (Platt 1999): score = 1 / (1 + exp(-(slope · logit + intercept)))."""

    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    intercept: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    def score(self, logit: ArrayLike) -> Floats:
        """Score in [0, 1] of each logit."""
        return expit(self.slope * np.asarray(logit, dtype=np.float64) + self.intercept).astype(np.float32)

    def where_rarer(self, factor: float) -> Calibration:
        """Give the calibration where positives are rarer by a factor beside the negatives: the odds are smaller by it (Bayes)."""
        return self.model_copy(update={"intercept": self.intercept - float(np.log(factor))})


class ModelCard(Frozen):
    """What a model is, what it reads, and how it came to be.

    Attributes
    ----------
    format : int
        Of the directory.
    name : str
    network, options
        The architecture: see :func:`nalspark.learning.networks.build`.
    inputs : tuple of str
        Binary float32 columns that it reads, in the order of the channels.
    shape : tuple of int
        Of one of these columns: (8, 49).
    grid : str
        Fingerprint of the wavelength grid.
    species : str
    members : tuple of str
        SHA-256 of each member's file of weights; filled in by :func:`save_model`.
    calibration : Calibration
        Of the mean of the members' logits.
    data, settings, metrics : dict
        Digests and counts of what it was trained on, how, and how well it does.
    versions : dict
        Package → version.
    created : str
        ISO date.
    """

    format: int = FORMAT
    name: str
    network: str
    options: dict[str, Any] = {}
    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    grid: str
    species: str
    members: tuple[str, ...] = ()
    calibration: Calibration = Calibration()
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    versions: dict[str, str] = {}
    created: str = ""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example as the network reads it: the columns side by side along the last axis."""
        return (*self.shape, len(self.inputs))

    @property
    def doubt(self) -> str:
        """Say, in a sentence, why it should not be used as it is; empty where its test tells of nothing."""
        # A card has null for what is undefined: the precision of a network that calls nothing positive.
        reached = {name: self.metrics[name] for name in _WORTH if self.metrics.get(name) is not None}
        poor = [f"{name} {value:.2f}" for name, value in reached.items() if value < _WORTH[name]]
        said = f"on its own test it reached only {' and '.join(poor)}. Train it longer (train.epochs) or on more (simulate.n)."
        return said if poor else ""


def table_2(card: ModelCard) -> str:
    """Write a card's metrics on its test as the paper's Table 2, with their errors, as text; what is undefined is so called."""
    told = card.data.get("test", {})
    of = f" ({told['quasars']} quasars, {told['positives']} positive examples)" if told else ""
    values = {name: card.metrics[name] for name in TABLE_2 if name in card.metrics}
    errors = {name: f" ± {told[name]:.3f}" if isinstance(told.get(name), float) else "" for name in values}
    cells = [f"{name} {f'{value:.3f}{errors[name]}' if value is not None else 'undefined'}" for name, value in values.items()]
    return ", ".join(cells) + of


def package_versions(names: Sequence[str] = ("nalspark", "keras", "tensorflow", "tensorflow-cpu", "numpy")) -> dict[str, str]:
    """Give the installed versions, for a card; a package that is not installed is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fit_calibration(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit slope and intercept of greatest likelihood, with Platt's (1999) targets: finite also where the logits separate the labels.

    Parameters
    ----------
    logits : array_like, shape (n,) or (n, members)
        Of examples that were not trained on; members are averaged, as :meth:`Detector.predict` does.
    labels : array_like, shape (n,)
        0 or 1.

    Raises
    ------
    ModelError
        Where a label is neither, or one of the two is missing, a logit is not finite, or the logits do not rise with the label.
    """
    x, y = mean_logit(np.asarray(logits, dtype=np.float64)), np.asarray(labels, dtype=np.float64)
    wrong = np.count_nonzero(~np.isfinite(x))
    if wrong:
        raise ModelError(f"{wrong} of {len(x)} logits are not finite: the training diverged. Lower its learning rate.")
    positive, negative = np.count_nonzero(y == 1), np.count_nonzero(y == 0)
    if not positive or not negative or positive + negative < len(y):
        raise ModelError(f"A calibration needs examples labelled 0 and 1; there are {positive} of 1 and {negative} of 0 in {len(y)}.")
    target = np.where(y == 1, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    centre, spread = float(x.mean()), float(x.std())
    slope, level = _logistic_regression((x - centre) / spread, target) if spread else (0.0, 0.0)
    if slope <= 0:
        raise ModelError("The network's logits do not rise from the negatives to the positives: it has learned nothing.")
    return Calibration(slope=slope / spread, intercept=level - slope * centre / spread)


def _logistic_regression(u: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and level that minimise the cross-entropy of `target` in [0, 1]."""
    from scipy.optimize import minimize  # a worker that only scores does not wait for it

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = parameters[0] * u + parameters[1]
        excess = expit(z) - target
        return float((np.logaddexp(0.0, z) - target * z).mean()), np.array([(excess * u).mean(), excess.mean()])

    slope, level = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    return float(slope), float(level)


# ---- on disk


def save_model(folder: str | Path, card: ModelCard, models: Sequence[keras.Model]) -> PackedModel:
    """Write a model; it appears under its name only when it is complete.

    Parameters
    ----------
    folder : path, replaced where it holds a model
    card : ModelCard, whose ``members`` are filled in
    models : sequence of keras.Model, of the card's architecture

    Raises
    ------
    ModelError
        Where `folder` holds something else, or cannot be written.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and not (target / CARD).is_file() and (target.is_file() or any(target.iterdir())):
        raise ModelError(f"'{target}' is there and is no model: it has no {CARD}. Choose another directory.")
    weights = tuple(npz({str(n): array for n, array in enumerate(model.get_weights())}) for model in models)
    packed = PackedModel(card.model_copy(update={"members": tuple(map(sha256, weights))}), weights, str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as new:
            new.mkdir()
            for number, content in enumerate(packed.weights):
                (new / weights_file(number)).write_bytes(content)
            (new / CARD).write_text(packed.card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"The model '{target}' cannot be written: {error.strerror}.") from None
    return packed


def shipped_model(species: str) -> Path:
    """Name the folder of the model of a species that ships with nalspark.

    Raises
    ------
    ModelError
        Where none does.
    """
    there = sorted(folder.name for folder in SHIPPED.iterdir() if (folder / CARD).is_file())
    if species not in there:
        raise ModelError(
            f"No model for {species} ships with nalspark; there are {', '.join(there)}. Train one with "
            f"`nalspark train RUN.toml --set species={species}` and give it as infer.model."
        )
    return SHIPPED / species


def read_model(folder: str | Path = "", species: str = "MgII") -> PackedModel:
    """Read a model's bytes, and check that they are the ones its card names.

    Parameters
    ----------
    folder : path
        Empty for the model of the species that ships with nalspark.
    species : str

    Raises
    ------
    ModelError
        Where there is none, it is damaged, or a newer nalspark wrote it.
    """
    path = Path(folder).expanduser() if str(folder) else shipped_model(species)
    card = read_card(path / CARD, ModelCard, "model", _REMEDY)
    if not card.members:
        raise ModelError(f"'{path / CARD}' names no weights: the model was never trained.")
    weights = (read_checked(path / weights_file(number), expected, CARD, _REMEDY) for number, expected in enumerate(card.members))
    return PackedModel(card, tuple(weights), str(path))


def weights_file(number: int) -> str:
    """Name of a member's file."""
    return f"weights-{number}.npz"


def read_card(file: Path, kind: type[_Card], what: str, remedy: str) -> _Card:
    """Read the card of something that was trained; `what` and `remedy` are words of the sentences.

    Raises
    ------
    ModelError
        Where there is none, it is damaged, or a newer nalspark wrote it.
    """
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"There is no {what} in '{file.parent}': a {what} is a directory with a {file.name}, which cannot be read ({error.strerror}). "
            "`nalspark train` and `nalspark emission train` write one."
        ) from None
    except ValueError as error:
        raise ModelError(f"'{file}' is not valid JSON: {error}. {remedy}") from None
    written = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise ModelError(
            f"'{file.parent}' is a {what} of format {written}, and this nalspark reads up to {FORMAT}. Install a newer nalspark."
        )
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}" for fault in error.errors())
        raise ModelError(f"'{file}' is not the card of a {what} ({faults}). {remedy}") from None


def read_checked(file: Path, expected: str, card: str, remedy: str) -> bytes:
    """Read a file whose SHA-256 a card names.

    Raises
    ------
    ModelError
        Where it cannot be read, or is another.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"'{file}' cannot be read: {error.strerror}. {remedy}") from None
    if sha256(content) != expected:
        raise ModelError(f"'{file}' is not the file that {card} was written for: its SHA-256 differs. {remedy}")
    return content


def sha256(content: bytes) -> str:
    """Give the SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def npz(arrays: Mapping[str, Any]) -> bytes:
    """Pack arrays as a compressed npz; the same arrays give the same bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def arrays_of(content: bytes, where: str, remedy: str, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Unpack an npz of plain arrays, by default all of them; `where` names it.

    Raises
    ------
    ModelError
        Where it is none, or holds objects.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in names or archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{where} are not an npz of plain arrays ({error}). {remedy}") from None


def _weights_of(content: bytes, expected: Sequence[tuple[int, ...]], where: str) -> list[Floats]:
    """A member's weights, checked against the architecture's."""
    arrays = list(arrays_of(content, f"The weights {where}", _REMEDY).values())
    shapes = [array.shape for array in arrays]
    if shapes != list(expected):
        wrong = next((k for k, (a, b) in enumerate(zip(shapes, expected, strict=False)) if a != b), min(len(shapes), len(expected)))
        raise ModelError(
            f"The weights {where} are {len(shapes)} arrays where the network has {len(expected)}; number {wrong} does not fit. "
            "They belong to another architecture."
        )
    for number, array in enumerate(arrays):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ModelError(f"The weights {where}, array {number}: expected finite float32, found {array.dtype} with other values.")
    return arrays


# ---- packed, and at work


@dataclass(frozen=True)
class PackedModel:
    """A model as it travels: the card, the bytes of the weights (an npz per member), and where it was read, for messages."""

    card: ModelCard
    weights: tuple[bytes, ...] = field(repr=False)
    where: str = ""

    @property
    def digest(self) -> str:
        """Digest of all that decides a score: two models with the same digest give the same scores."""
        card = self.card.model_dump(mode="json", include={"network", "options", "inputs", "shape", "members", "calibration"})
        return sha256(json.dumps(card, sort_keys=True).encode())[:16]

    def check(self, grid: str, species: str, shapes: Mapping[tuple[str, ...], tuple[int, ...]] | None = None) -> None:
        """Refuse to work on anything but what the model was trained for.

        Parameters
        ----------
        grid, species : str
            Fingerprint of the grid on which the spectra are, and the species that is searched.
        shapes : mapping, optional
            What there is to read: columns → the shape of one of them in one example.

        Raises
        ------
        ModelError
        """
        if self.card.species != species:
            raise ModelError(
                f"The model '{self.where}' was trained for {self.card.species}, not for {species}. Train one with "
                f"`nalspark train RUN.toml --set species={species}` and give it as infer.model."
            )
        if self.card.grid != grid:
            raise ModelError(
                f"The model '{self.where}' was trained on the wavelength grid {self.card.grid}, and the spectra are on {grid}. "
                "Train one for this grid."
            )
        if shapes is not None and shapes.get(self.card.inputs) != self.card.shape:
            there = " or ".join(f"{', '.join(columns)} of shape {shape}" for columns, shape in shapes.items())
            raise ModelError(
                f"The model '{self.where}' reads {', '.join(self.card.inputs)} of shape {self.card.shape}; expected {there}. Train one "
                "with this version of nalspark."
            )

    def load(self, batch_size: int = 256) -> Detector:
        """Rebuild the networks and put the weights in: ``candidate_cnn`` in numpy, unless a GPU was chosen and TensorFlow can use it.

        Raises
        ------
        ModelError
            Where the network is not known, or the weights are not its own.
        """
        if self.card.network != candidate.NAME or (gpu_chosen() and _has_backend()):
            return Detector(self.card, self._networks(), batch_size)
        expected = candidate.weight_shapes(self.card.example_shape, self.card.options)
        networks = [candidate.Network(self._member(number, expected), self.card.options) for number in range(len(self.weights))]
        return Detector(self.card, networks, candidate.ROWS)

    def load_features(self, batch_size: int = 256) -> Detector:
        """Load the networks without their last layer: its ``logits`` are what the last layer sees, the members' features side by side."""
        models = self._networks()
        import keras  # after the networks, which load TensorFlow without its greetings

        heads = [keras.Model(model.inputs, model.get_layer("logit").input) for model in models]
        return Detector(self.card, heads, batch_size)

    def weights_of(self, number: int, model: keras.Model) -> list[Floats]:
        """Give the weights of a member, to put into a network of the same architecture; the members are counted round.

        Raises
        ------
        ModelError
            Where the network is another.
        """
        return self._member(number % len(self.weights), [tuple(weight.shape) for weight in model.weights])

    def _networks(self) -> list[keras.Model]:
        if not _has_backend():
            raise ModelError(f"{self.card.network} needs TensorFlow, which is not installed here: pip install 'nalspark[standard]'.")
        from nalspark.learning.networks import build

        models = []
        for number in range(len(self.weights)):
            model = build(self.card.network, self.card.example_shape, self.card.options)
            model.set_weights(self._member(number, [tuple(weight.shape) for weight in model.weights]))
            models.append(model)
        return models

    def _member(self, number: int, expected: Sequence[tuple[int, ...]]) -> list[Floats]:
        return _weights_of(self.weights[number], expected, f"{weights_file(number)} of '{self.where}'")


def _has_backend() -> bool:
    return any(map(find_spec, ("tensorflow", "jax", "torch")))


def gpu_chosen() -> bool:
    """Tell whether networks are to work on a GPU.

    ``CUDA_VISIBLE_DEVICES`` names one: the user set it, or :func:`nalspark.learning.inference.prepare_worker`, where Spark gave the task
    one. A GPU that nobody chose is left alone.
    """
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith((*digits, "GPU-", "MIG-"))


class Detector:
    """Networks at work.

    An example's score does not depend on the others of its batch: every batch has the same number of rows, the last is padded, and what the
    networks give is rounded to multiples of :data:`STEP`. On some processors a convolution's last bits depend on a row's place in its
    batch, by some 1e-7 of its value; such a difference outlives the rounding in less than one of 10⁴ rows, and is then one step. Between
    numpy, the backends and kinds of processors it is at most 1.3e-4 of a logit, and in few rows one step.

    Parameters
    ----------
    card : ModelCard
    models : sequence of keras.Model, or of candidate.Network
    batch_size : int
        Rows that go through the networks at a time.
    """

    def __init__(self, card: ModelCard, models: Sequence[keras.Model | candidate.Network], batch_size: int = 256) -> None:
        self.card = card
        self.batch_size = max(batch_size, _SMALLEST_BATCH)
        self._run = _compiled(list(models), (self.batch_size, *card.example_shape))

    def logits(self, examples: ArrayLike) -> Floats:
        """Compute the logit of every member.

        Parameters
        ----------
        examples : array_like, shape (n, \\*card.example_shape)

        Returns
        -------
        ndarray, shape (n, members), float32; NaN for an example with a value that is not finite

        Raises
        ------
        ModelError
            Where the examples have another shape.
        """
        x = np.ascontiguousarray(examples, dtype=np.float32)
        if x.shape[1:] != self.card.example_shape:
            raise ModelError(f"The model {self.card.name} reads examples of shape {self.card.example_shape}, not {x.shape[1:]}.")
        found = []
        for start in range(0, max(len(x), 1), self.batch_size):
            batch = x[start : start + self.batch_size]
            rows = len(batch)
            if rows < self.batch_size:
                batch = np.concatenate([batch, np.zeros((self.batch_size - rows, *x.shape[1:]), np.float32)])
            found.append(np.rint(self._run(batch)[:rows] / STEP) * STEP)
        result = np.concatenate(found)
        # A maximum over pixels may pass over NaN: without this, a broken example would get a score like any other.
        result[~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))] = np.nan
        return result

    def predict(self, examples: ArrayLike) -> Floats:
        """Compute the calibrated score in [0, 1] of every example, shape (n,), float32; NaN where the mean of the logits is.

        The mean of logits, not of probabilities: it is what the calibration was fitted to, and a member that is sure does not drown.
        """
        return self.card.calibration.score(mean_logit(self.logits(examples)))


def mean_logit(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Average over the members, (n, members) → (n,); member after member, so that the sum does not depend on n."""
    if logits.ndim == 1:
        return logits.astype(np.float64)
    total = np.zeros(len(logits))
    for member in logits.T:
        total += member
    return total / logits.shape[1]


def _compiled(models: list[Any], batch_shape: tuple[int, ...]) -> Callable[[Floats], Floats]:
    """A function (batch) → (rows, members): one graph for all members on TensorFlow, plain calls elsewhere."""
    if isinstance(models[0], candidate.Network):
        return lambda batch: np.concatenate([model(batch) for model in models], axis=1)
    import keras
    from keras import ops

    def together(batch: Any) -> Any:
        return ops.concatenate([model(batch, training=False) for model in models], axis=1)

    if keras.backend.backend() != "tensorflow":
        return lambda batch: ops.convert_to_numpy(together(ops.convert_to_tensor(batch)))
    import tensorflow as tf

    # Without XLA: on CPUs it is no faster for convolutions, and with several threads its last bits depend on the row's place.
    graph = tf.function(together, input_signature=[tf.TensorSpec(batch_shape, tf.float32)], autograph=False)
    return lambda batch: graph(batch).numpy()

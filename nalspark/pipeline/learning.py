"""What makes a model: eigenspectra of the survey's quasars, artificial spectra, training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.absorption.stages import normalize
from nalspark.errors import ModelError, NalsparkError
from nalspark.learning.examples import Examples
from nalspark.learning.models import PackedModel, read_model
from nalspark.mocks import stages as mocks
from nalspark.pipeline.inputs import Inputs, example_inputs
from nalspark.pipeline.run import ALL, Run
from nalspark.pipeline.stage import Stage
from nalspark.plots.training import training_figures
from nalspark.settings import Settings
from nalspark.spectra.eigenspectra import DrawnQuasars, Eigenspectra
from nalspark.spectra.grid import ZHAO_GRID
from nalspark.spectra.stages import choose_quasars, eigenspectra_of, fit_eigenspectra_by_bin
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.arrow import to_arrow
from nalspark.tables.manifest import Part, digest
from nalspark.tables.schemas import EIGENSPECTRA, SEARCHED, TARGETS, TRAINING
from nalspark.tables.table import Table
from nalspark.version import VERSION

#: Making a mock spectrum takes some times as long as searching a real one: waves hold so many fewer.
_MOCK_WEIGHT = 5
#: Real examples of either label from which a calibration is fitted: its level is then known to 0.2 in the logit.
_LEAST_TO_CALIBRATE = 50
#: The files of a model, beside the tables.
MODEL = Table("model", "The files of a trained model.", ())


def quasar_models(run: Run) -> tuple[Eigenspectra, ...]:
    """Read the eigenspectra of all bins of redshift.

    Raises
    ------
    NalsparkError
        Where no bin has any.
    """
    found = eigenspectra_of(to_arrow(run.whole(EIGENSPECTRA), EIGENSPECTRA))
    if not found:
        raise NalsparkError("No bin of redshift has two quasars to learn eigenspectra from. Give more spectra, or set wider bins.")
    return found


class LearnEigenspectra(Stage):
    """Learn what quasars look like, bin by bin of redshift: a bin holds quasars of every part."""

    name, table = "eigenspectra", EIGENSPECTRA
    reads = (SPECTRA_READ.name, TARGETS.name, SEARCHED.name)
    sections = ("eigenspectra",)

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key_of_all(self)}

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        used = choose_quasars(run.usable(SEARCHED), run.settings)
        targets = run.usable(TARGETS).join(F.broadcast(used), "spectrum_id")
        return fit_eigenspectra_by_bin(normalize(run.usable(SPECTRA_READ), targets, run.settings), run.settings)

    def finish(self, run: Run) -> None:
        for model in quasar_models(run):
            run.progress.say(
                f"  z {model.z_low:.1f} to {model.z_high:.1f}: {model.n_quasars} quasars, {len(model.variance)} eigenspectra, "
                f"reconstruction error {model.reconstruction_error:.3f} on {model.n_held_out} others"
            )


class Simulate(Stage):
    """Make artificial spectra, and the examples that come of them; a part belongs to one split, every spectrum is another quasar's.

    Mocks go through the code of the stages `made_like`: their revisions are causes.
    """

    name = "simulate"
    sections = (
        *(f"simulate.{name}" for name in (
            "examples", "n", "n_realistic", "population", "contaminated", "contaminated_realistic", "families", "continuum", "seed",
            "spectra_per_part",
        )),
        "preprocess", "species",
    )  # fmt: skip
    revision = 6

    def __init__(self, inputs: Inputs, made_like: tuple[Stage, ...]) -> None:
        self.inputs, settings = inputs, inputs.settings
        self.learned = settings.simulate.continuum == "eigenspectra"
        self.reads = (EIGENSPECTRA.name,) if self.learned else ()
        self.table = mocks.examples_table(settings)
        if settings.simulate.examples == "candidates":  # else they are whole spectra, which are not searched
            self.sections = (*self.sections, "search")
        self.revisions = [stage.revision for stage in made_like]

    def check(self) -> None:
        _ = self.inputs.equivalent_widths

    def wanted(self, run: Run) -> dict[str, str]:
        # Sky fibers and catalogue count by their content.
        made_of = [self.inputs.sky.digest if self.inputs.sky else "", self.inputs.equivalent_widths, self.revisions]
        made_from = run.manifest.key_of(self.reads, ALL)
        return {part: run.key(self, part, part, made_from, made_of) for part in mocks.example_parts(run.settings)}

    def weight(self, run: Run, parts: list[str]) -> int:
        return len(parts) * run.settings.simulate.spectra_per_part * _MOCK_WEIGHT

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        continuum = DrawnQuasars(quasar_models(run)) if self.learned else None
        recipes = mocks.recipes(run.settings, self.inputs.sky, continuum, self.inputs.equivalent_widths)
        return mocks.simulate(mocks.mock_names(run.spark, parts, run.settings), recipes, run.settings)


class Train(Stage):
    """Train a network on the examples, calibrate and test it."""

    name, table, in_place = "train", MODEL, True
    reads = (TRAINING.name,)
    sections: tuple[str, ...] = ("train", "species")
    #: Axes of the examples that a network reads → the setting that makes such examples.
    remedies: ClassVar[Mapping[int, str]] = {2: "simulate.examples=spectra", 3: "simulate.examples=candidates"}

    def __init__(self, settings: Settings, made_by: tuple[Stage, ...]) -> None:
        self.settings, self.made_by = settings, made_by

    @property
    def species(self) -> str:
        """What the network is of."""
        return self.settings.line_species.name

    def examples(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Give the columns of an example, one a channel of the network, and the shape of one."""
        return example_inputs(self.settings)

    def check(self) -> None:
        """Build the network, and look for what reads its examples: these may take hours, and this seconds."""
        from nalspark.learning.feed import require_petastorm
        from nalspark.learning.networks import NETWORKS, build

        columns, shape = self.examples()
        start, chosen = start_of(self.settings, self.species), started(self.settings, self.species).train
        if start and (start.card.inputs, start.card.shape) != (columns, shape):
            raise ModelError(
                f"train.start_from: the model '{start.where}' reads {', '.join(start.card.inputs)} of shape {start.card.shape}; expected "
                f"{', '.join(columns)} of shape {shape}. Start from another model, or set simulate.examples."
            )
        network = chosen.network
        try:
            build(network, (*shape, len(columns)), chosen.options)
        except ModelError as error:
            axes = len(NETWORKS[network][1]) if network in NETWORKS else 0
            remedy = self.remedies.get(axes) if axes != len(shape) + 1 else None
            raise ModelError(f"{error}{f' Set {remedy}.' if remedy else ''}") from None
        require_petastorm()

    def wanted(self, run: Run) -> dict[str, str]:
        start = start_of(self.settings, self.species)
        return {ALL: run.key_of_all(self, VERSION, *((start.digest,) if start else ()))}

    def present(self, run: Run, part: str) -> bool:
        return run.store.published(MODEL.name).is_dir()

    def compute(self, run: Run, parts: list[str]) -> Mapping[str, Mapping[str, Part]]:
        columns, shape = self.examples()
        keys = run.manifest.contents(TRAINING.name)
        revisions = {stage.name: stage.revision for stage in self.made_by}
        files = split_files(run, TRAINING.name)
        examples = Examples(files, columns, shape, ZHAO_GRID.fingerprint, self.species, digest(keys), revisions)
        if run.settings.labels.source == "mocks":
            examples = replace(examples, overrepresented=mocks.overrepresentation(run.settings))
        else:  # real ones are few: what stops the training also calibrates
            files = {**files, "calibration": files.get("validation", ())}
            sections = ("labels", "crossmatch", *examples.sections)
            examples = replace(examples, files=files, least_to_calibrate=_LEAST_TO_CALIBRATE, sections=sections)
        return {MODEL.name: {ALL: Part("", MODEL.name, fit_model(run, examples))}}

    def finish(self, run: Run) -> None:
        shutil.rmtree(run.store.checkpoints, ignore_errors=True)


def split_files(run: Run, table: str) -> dict[str, tuple[str, ...]]:
    """Give the Parquet files of every split of a table whose parts are named ``<split>-<number>``, in the order of the parts."""
    files: dict[str, list[str]] = {}
    for part, record in sorted(run.manifest.parts(table).items()):
        if record.path:
            files.setdefault(part.rpartition("-")[0], []).extend(run.store.files(record))
    return {split: tuple(found) for split, found in files.items()}


def start_of(settings: Settings, species: str) -> PackedModel | None:
    """Read the model whose weights are the first ones; None where they are random.

    Raises
    ------
    ModelError
        Where there is none, or it is of another species.
    """
    place = settings.train.start_from
    if not place:
        return None
    start = read_model("" if place == "shipped" else place, species)
    if start.card.species != species:
        raise ModelError(f"train.start_from: the model '{start.where}' was trained for {start.card.species}, not for {species}.")
    return start


def started(settings: Settings, species: str) -> Settings:
    """Take the network, and its options, of the model that is started from."""
    start = start_of(settings, species)
    if start is None:
        return settings
    chosen = {"network": start.card.network, "options": start.card.options, "start_from": str(Path(start.where).absolute())}
    return settings.model_copy(update={"train": settings.train.model_copy(update=chosen)})


def fit_model(run: Run, examples: Examples) -> int:
    """Train on the examples and put the model, with its pictures, in its place; give how many were trained on."""
    # TensorFlow takes seconds and half a gigabyte: only who trains waits for it.
    from nalspark.learning.build import build_model
    from nalspark.learning.feed import Feed
    from nalspark.learning.training import Fitted, fit_on_spark, train_members

    settings = started(run.settings, examples.species)
    how, checkpoints, say = settings.train, str(run.store.checkpoints), run.progress.say

    def fit(train: Feed, validation: Feed) -> list[Fitted]:
        if how.workers > 1:
            return fit_on_spark(run.spark, train, validation, how, checkpoints=checkpoints, progress=say)
        return train_members(train, validation, how, checkpoints=checkpoints, progress=say)

    folder = Path(run.store.published(MODEL.name))
    built = build_model(examples, settings, folder, fit, say)
    for name, figure in training_figures(built.histories, built.labels, built.scores).items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    return built.n_train

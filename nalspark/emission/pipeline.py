"""The emission programme's stages on the engine: those that train a selection and judge it, and those that classify real detections.

``model/`` is the network, ``second_stage/`` the rest of the selection with its judgement. Simulated and real detections are parts of the
same tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from nalspark.emission import stages
from nalspark.emission.cutouts import CutoutFlag
from nalspark.emission.figures import along_boundary, map_figure, score_figure
from nalspark.emission.frames import CUTOUT_SHAPE, PLANES, error_frame_of
from nalspark.emission.inputs import GRID, SECOND_STAGE, SPECIES, Inputs, read_network
from nalspark.emission.report import result_text
from nalspark.emission.settings import EmissionSettings
from nalspark.emission.stages import FOUND, split_of
from nalspark.emission.tables import CLASSIFIED, DETECTIONS, REJECTED
from nalspark.errors import NalsparkError, StoreError
from nalspark.learning.ensemble import ARRAYS, CARD, best_threshold, fit_second_stage, require_umap, save_second_stage
from nalspark.learning.examples import Examples
from nalspark.learning.inference import decode_examples, features
from nalspark.pipeline.learning import MODEL, Train, fit_model, split_files
from nalspark.pipeline.run import ALL, Run
from nalspark.pipeline.stage import Made, Stage
from nalspark.progress import now
from nalspark.tables.atomic import write_file
from nalspark.tables.fits import write_fits
from nalspark.tables.manifest import Part, digest
from nalspark.tables.table import Table
from nalspark.tables.versions import keep_version
from nalspark.version import VERSION

#: Splits that the network is made with; what the second-stage classifier is fitted to; what judges both.
LEARN, REFERENCE, HELD_OUT = ("train", "validation", "calibration", "test"), "reference", "held_out"
PUBLISHED = Table("published", "The files of what was found.", ())
JUDGEMENT = Table("judgement", "The table of the result and its pictures, beside the second-stage classifier.", ())
#: The table of the result, and its pictures.
RESULT, PICTURES = "result.txt", ("scores.png", "map.png")
#: In the second-stage classifier's card: the network's best single threshold on the reference detections.
_NETWORK_THRESHOLD = "network_threshold"

#: What is recorded of files that a stage puts in their place itself.
Records = Mapping[str, Mapping[str, Part]]


def _causes(run: Run, table: Table, splits: Collection[str]) -> dict[str, str]:
    """What stands for the parts of some splits among the causes of others."""
    return {part: cause for part, cause in run.manifest.contents(table.name).items() if split_of(part) in splits}


class _WithInputs(Stage):
    """A stage that works with what a run was given.

    Parameters
    ----------
    inputs : Inputs
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs


class Simulate(_WithInputs):
    """Put lines and fakes into the noise of frames; a part belongs to one split."""

    name, table = "simulate", DETECTIONS
    sections = ("emission.seed",)

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.numbers = stages.parts_of(inputs.settings)

    def check(self) -> None:
        _ = self.inputs.frames

    def owns(self, part: str) -> bool:
        return part != FOUND

    def wanted(self, run: Run) -> dict[str, str]:
        return {part: run.key(self, part, n, self.inputs.frame_digests) for part, n in self.numbers.items()}

    def due(self, run: Run, parts: list[str]) -> int:
        return sum(self.numbers[part] for part in parts)

    def compute(self, run: Run, parts: list[str]) -> Made:
        numbers = {part: self.numbers[part] for part in parts}
        return stages.simulate(run.spark, numbers, self.inputs.frames, self.inputs.settings.emission.seed)


class TrainNetwork(Train):
    """Train the network on cut-outs, calibrate and test it.

    Parameters
    ----------
    inputs : Inputs
    """

    reads = (DETECTIONS.name,)
    sections = ("train",)
    remedies: ClassVar[Mapping[int, str]] = {}
    species = SPECIES

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs.settings, ())
        self.inputs = inputs

    def examples(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return PLANES, CUTOUT_SHAPE

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key(self, ALL, _causes(run, DETECTIONS, LEARN), VERSION)}

    def compute(self, run: Run, parts: list[str]) -> Records:
        made_from = digest(_causes(run, DETECTIONS, LEARN))
        files, sections = split_files(run, DETECTIONS.name), ("emission", "train")
        examples = Examples(files, PLANES, CUTOUT_SHAPE, GRID, SPECIES, made_from, sections=sections)
        n_train = fit_model(run, examples)
        return {MODEL.name: {ALL: Part("", MODEL.name, n_train, content=read_network(self.inputs.folder).digest)}}


class FitSecondStage(_WithInputs):
    """Fit the second-stage classifier to the reference detections."""

    name, table, in_place = "second_stage", SECOND_STAGE, True
    reads = (MODEL.name, DETECTIONS.name)
    sections = ("second_stage",)

    def check(self) -> None:
        require_umap()

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key(self, ALL, _causes(run, DETECTIONS, (REFERENCE,)))}

    def present(self, run: Run, part: str) -> bool:
        return all((run.store.published(SECOND_STAGE.name) / name).is_file() for name in (CARD, ARRAYS))

    def compute(self, run: Run, parts: list[str]) -> Records:
        table = pa.concat_tables([pq.read_table(file, columns=["label", *PLANES]) for file in split_files(run, DETECTIONS.name)[REFERENCE]])
        packed, how, size = read_network(self.inputs.folder), run.settings.second_stage, run.settings.infer.batch_size
        labels = table["label"].to_numpy()
        examples = decode_examples([table[name].to_pylist() for name in PLANES], packed.card)
        scores = packed.load(size).predict(examples)
        second = fit_second_stage(labels, scores, lambda rows: features(examples[rows], packed, how.features, size), how, packed.digest)
        metrics = second.card.metrics | {_NETWORK_THRESHOLD: best_threshold(labels, scores)}
        second = replace(second, card=second.card.model_copy(update={"metrics": metrics}))
        card = save_second_stage(run.store.published(SECOND_STAGE.name), second).card
        return {SECOND_STAGE.name: {ALL: Part("", SECOND_STAGE.name, len(labels), content=digest(card.model_dump(mode="json")))}}

    def finish(self, run: Run) -> None:
        second = self.inputs.selection.second
        run.progress.say(
            f"  bands at {second.card.bands.low:.3f} and {second.card.bands.high:.3f}; {second.card.metrics['examples']:.0f} examples "
            f"between them, {len(second.support)} support vectors"
        )


class CutOut(_WithInputs):
    """Cut out, or read, the detections that a run names."""

    name, table = "cut_out", DETECTIONS

    def check(self) -> None:
        chosen = self.inputs.settings.emission
        if not (chosen.detections or chosen.cutouts):
            raise NalsparkError("There is nothing to classify: set emission.detections (with emission.frames) or emission.cutouts.")

    def owns(self, part: str) -> bool:
        return part == FOUND

    def wanted(self, run: Run) -> dict[str, str]:
        chosen = self.inputs.settings.emission
        frames = chosen.frames if chosen.detections else ()
        files: dict[str, Iterable[str | Path]] = {
            "frames": [*frames, *map(error_frame_of, frames)],
            "detections": chosen.detections,
            "cutouts": chosen.cutouts,
        }
        return {FOUND: run.key(self, FOUND, {kind: [_fingerprint(Path(path)) for path in paths] for kind, paths in files.items()})}

    def compute(self, run: Run, parts: list[str]) -> Made:
        return stages.found_detections(run.spark, self.inputs.settings)


class Classify(_WithInputs):
    """Let the selection decide on what neither the network nor the second-stage classifier has seen."""

    name, table = "classify", CLASSIFIED
    reads: tuple[str, ...] = (MODEL.name, SECOND_STAGE.name, DETECTIONS.name)
    split: ClassVar[str] = HELD_OUT

    def cause(self, run: Run) -> str:
        """Give what stands for the selection among the causes: of one that is still to be made the manifest tells."""
        return digest(run.manifest.key_of((MODEL.name, SECOND_STAGE.name), ALL))

    def owns(self, part: str) -> bool:
        return split_of(part) == self.split

    def wanted(self, run: Run) -> dict[str, str]:
        cause = self.cause(run)
        return {part: run.key(self, part, cause) for part in run.common_parts((DETECTIONS.name,)) if self.owns(part)}

    def due(self, run: Run, parts: list[str]) -> int:
        return run.rows(DETECTIONS.name, parts)

    def compute(self, run: Run, parts: list[str]) -> Made:
        selection = self.inputs.selection
        return stages.classify(run.usable(DETECTIONS, parts), selection.packed, selection.second, self.inputs.settings)


class ClassifyFound(Classify):
    """Classify the detections that a run names, by the selection that it names."""

    reads = (DETECTIONS.name,)
    split = FOUND

    def check(self) -> None:
        _ = self.inputs.selection

    def given(self, run: Run) -> dict[str, str]:
        return {"selection": self.inputs.selection.digest}

    def cause(self, run: Run) -> str:
        return self.inputs.selection.digest


class Publish(_WithInputs):
    """Publish what was classified, and what could not be, as a catalogue is published. Files are replaced when all are whole."""

    name, table, in_place = "publish", PUBLISHED, True
    reads = (DETECTIONS.name, CLASSIFIED.name)

    def wanted(self, run: Run) -> dict[str, str]:
        return {FOUND: run.key(self, FOUND, VERSION)}

    def present(self, run: Run, part: str) -> bool:
        return all(run.store.published(name).exists() for name in run.manifest.published)

    def compute(self, run: Run, parts: list[str]) -> Records:
        store, manifest, rows = run.store, run.manifest, dict[str, int]()
        rejected = store.read(run.spark, manifest, DETECTIONS, parts).where("reason IS NOT NULL")
        for table, frame in ((CLASSIFIED, store.read(run.spark, manifest, CLASSIFIED, parts)), (REJECTED, rejected)):
            rows |= store.write_unpublished(frame.select(*table.names).orderBy("frame", "detection_id"), table)
        if sum(rows.values()) != run.rows(DETECTIONS.name, parts, usable=False):
            raise StoreError("What was classified and what was rejected do not add up to the detections. Run again with --force.")
        files = store.unpublished_files(CLASSIFIED)
        rows["classified.fits"] = write_fits(files, CLASSIFIED, store.unpublished("classified.fits"), {"cutout_flags": CutoutFlag})
        for name in rows:
            store.replace(name)
        manifest.published, manifest.publication, manifest.published_on = rows, manifest.publication + 1, now()
        return {PUBLISHED.name: {FOUND: Part("", "classified.parquet", rows["classified.parquet"])}}

    def finish(self, run: Run) -> None:
        keep_version(run.store, run.manifest, run.settings.pipeline.versions_kept)


class Judge(_WithInputs):
    """Compare what was classified with what it is: the table of the result, and its pictures."""

    name, table, in_place = "judge", JUDGEMENT, True
    reads = (SECOND_STAGE.name, DETECTIONS.name, CLASSIFIED.name)

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key(self, ALL, _causes(run, CLASSIFIED, (HELD_OUT,)))}

    def present(self, run: Run, part: str) -> bool:
        return all((run.store.published(SECOND_STAGE.name) / name).is_file() for name in (RESULT, *PICTURES))

    def compute(self, run: Run, parts: list[str]) -> Records:
        second, folder = self.inputs.selection.second, run.store.published(SECOND_STAGE.name)
        table = pa.concat_tables([pq.read_table(file) for file in split_files(run, CLASSIFIED.name)[HELD_OUT]]).to_pandas()
        threshold = second.card.metrics[_NETWORK_THRESHOLD]
        shown = along_boundary(table, second.card.threshold)
        images = pq.read_table(
            list(split_files(run, DETECTIONS.name)[HELD_OUT]), columns=["detection_id", PLANES[0]],
            filters=[("detection_id", "in", list(shown["detection_id"]))],
        )  # fmt: skip
        figures = score_figure(table, second, threshold), map_figure(table, second, shown.merge(images.to_pandas(), on="detection_id"))
        for name, figure in zip(PICTURES, figures, strict=True):
            figure.savefig(folder / name, dpi=110)
        write_file(folder / RESULT, result_text(table, threshold) + "\n")
        return {JUDGEMENT.name: {ALL: Part("", SECOND_STAGE.name, len(table))}}


def _fingerprint(path: Path) -> list[object]:
    """A file's name, size and time; only the name where it is not there, which its reader will say."""
    if not path.exists():
        return [path.name]
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def training_stages(settings: EmissionSettings) -> tuple[Stage, ...]:
    """Give the stages that train a selection and judge it, in their order."""
    inputs = Inputs(settings, settings.out)
    return Simulate(inputs), TrainNetwork(inputs), FitSecondStage(inputs), Classify(inputs), Judge(inputs)


def finding_stages(settings: EmissionSettings) -> tuple[Stage, ...]:
    """Give the stages that classify the detections which a run names, and publish them, in their order."""
    inputs = Inputs(settings, settings.emission.model or settings.out)
    return CutOut(inputs), ClassifyFound(inputs), Publish(inputs)

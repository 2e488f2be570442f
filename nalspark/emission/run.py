"""Run the selection in one output directory: simulate, train, fit the second-stage classifier, judge it; classify real detections.

``model/`` is the network, ``second_stage/`` the rest; a table is made again only when its causes have changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from nalspark.emission import stages
from nalspark.emission.figures import SHOWN, MapExample, map_figure, score_figure
from nalspark.emission.frames import CUTOUT_SHAPE, FIRST_REAL_CLASS, PLANES
from nalspark.emission.report import result_text
from nalspark.emission.settings import EmissionSettings
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.errors import NalsparkError, StoreError, UnusableSpectrum
from nalspark.learning.ensemble import (
    BANDS,
    FittedSecondStage,
    best_threshold,
    fit_second_stage,
    read_second_stage,
    require_umap,
    save_second_stage,
)
from nalspark.learning.examples import Examples
from nalspark.learning.inference import decode_examples, features
from nalspark.learning.models import PackedModel, read_model
from nalspark.plots.training import training_figures
from nalspark.progress import Progress
from nalspark.tables.manifest import Part, digest
from nalspark.tables.store import Store
from nalspark.version import VERSION

#: What a model of this programme is for, as its card says it.
GRID, SPECIES = "VIRUS cut-outs 9 x 32, 2 Angstrom", "emission line"
LEARN, JUDGE = ("train", "validation", "calibration", "test"), ("reference", "held_out")
#: Raised when the code changes what is simulated, or what is classified.
_REVISION = 1
_FOUND = "found"
#: Detections drawn along the boundary of the map.
_EXAMPLES = 10


@dataclass(frozen=True)
class Selection:
    """A trained selection: both rounds."""

    packed: PackedModel
    second: FittedSecondStage


def read_selection(folder: str | Path) -> Selection:
    """The selection in a directory that a training wrote.

    Raises
    ------
    ModelError
        Where either round is missing or damaged, or the two do not belong together.
    """
    packed, second = read_model(Path(folder) / "model"), read_second_stage(Path(folder) / "second_stage")
    packed.check(GRID, SPECIES)
    second.check(packed.digest)
    return Selection(packed, second)


class EmissionRun:
    """The work of one run.

    Parameters
    ----------
    spark : SparkSession
    settings : EmissionSettings
    progress : Progress
    """

    def __init__(self, spark: Any, settings: EmissionSettings, progress: Progress) -> None:
        if not settings.out:
            raise NalsparkError("No output directory is given: set `out` in the run file.")
        self.spark, self.settings, self.progress = spark, settings, progress
        self.store = Store(settings.out)

    # ---- train

    def train(self) -> str:
        """Simulate, train both rounds, judge them on what neither has seen; the table of the result."""
        from nalspark.learning.feed import require_petastorm
        from nalspark.learning.networks import build  # TensorFlow: only who trains waits for it

        # Detections for the network take minutes to simulate; that it exists, and reads cut-outs, is seen at once.
        build(self.settings.train.network, (*CUTOUT_SHAPE, len(PLANES)), self.settings.train.options)
        require_petastorm()
        require_umap()
        with self.store.lock():
            self.manifest = self.store.manifest()
            self.manifest.settings, self.manifest.version = self.settings.model_dump(mode="json"), VERSION
            self._simulate((*LEARN, *JUDGE))
            packed = self._network()
            second, threshold = self._second_stage(packed)
            self._classify_parts(Selection(packed, second), [part for part in self._parts("detections") if part.startswith("held_out")])
            text = self._judge(second, threshold)
            self.store.commit(self.manifest)
            self.store.prune(self.manifest)
            return text

    def _parts(self, table: str) -> list[str]:
        return sorted(self.manifest.parts(table))

    def _frames(self) -> dict[str, np.ndarray]:
        try:
            return stages.read_frames(self.settings)
        except UnusableSpectrum as error:
            raise NalsparkError(f"A frame of emission.frames cannot be used: {error.detail}") from None

    def _simulate(self, splits: Sequence[str]) -> None:
        frames = self._frames()
        made_from = {name: [frame.shape, str(np.nansum(np.abs(frame), dtype=np.float64))] for name, frame in frames.items()}
        parts = stages.parts_of(self.settings, splits)
        keys = {part: digest("emission", _REVISION, made_from, n, self.settings.emission.seed) for part, n in parts.items()}
        for table in ("detections", "classified"):
            for part in set(self.manifest.parts(table)) - {*keys, _FOUND}:
                del self.manifest.parts(table)[part]
        stale = self._stale("detections", keys)
        if stale:
            names = stages.detection_names(self.spark, {part: parts[part] for part in stale})
            self._write("detections", stages.simulate(names, frames, self.settings), {part: keys[part] for part in stale})
        self.progress.say(f"simulate    {len(stale)} of {len(parts)} parts: {sum(parts[part] for part in stale)} detections")

    def _stale(self, table: str, keys: dict[str, str]) -> list[str]:
        have = self.manifest.parts(table)
        return [part for part in keys if part not in have or have[part].key != keys[part]]

    def _write(self, table: str, frame: Any, keys: dict[str, str]) -> None:
        declared = {"detections": DETECTIONS, "classified": CLASSIFIED}[table]
        run = self.store.new_run(self.manifest, table, digest(table, keys))
        self.manifest.parts(table).update(self.store.write(frame, declared, run, keys))
        self.store.commit(self.manifest)

    def _files(self, split: str) -> tuple[str, ...]:
        records = [record for part, record in sorted(self.manifest.parts("detections").items()) if part.rpartition("-")[0] == split]
        return tuple(file for record in records if record.path for file in self.store.files(record))

    def _network(self) -> PackedModel:
        """The first round, trained unless it is there and its causes are the same."""
        made_from = {part: record.key for part, record in self.manifest.parts("detections").items() if part.rpartition("-")[0] in LEARN}
        key = digest("emission network", made_from, self.settings.train.model_dump(mode="json"), VERSION)
        folder = self.store.published("model")
        have = self.manifest.parts("model").get("all")
        if have is not None and have.key == key and folder.is_dir():
            self.progress.say("train       up to date")
            return read_model(folder)
        self.manifest.parts("model").clear()
        self.store.commit(self.manifest)
        from nalspark.learning.build import build_model
        from nalspark.learning.feed import Feed
        from nalspark.learning.training import Fitted, fit_on_spark, train_members

        how, checkpoints = self.settings.train, str(self.store.checkpoints)

        def fit(train: Feed, validation: Feed) -> list[Fitted]:
            if how.workers > 1:
                return fit_on_spark(self.spark, train, validation, how, checkpoints=checkpoints, progress=self.progress.say)
            return train_members(train, validation, how, checkpoints=checkpoints, progress=self.progress.say)

        files = {split: self._files(split) for split in LEARN}
        examples = Examples(files, PLANES, CUTOUT_SHAPE, GRID, SPECIES, digest(made_from), ("emission", "train"))
        built = build_model(examples, self.settings, folder, fit, self.progress.say)
        self._draw(training_figures(built.histories, built.labels, built.scores), folder)
        self.manifest.parts("model")["all"] = Part(key, "model", built.n_train)
        self.store.commit(self.manifest)
        shutil.rmtree(self.store.checkpoints, ignore_errors=True)
        return built.packed

    def _second_stage(self, packed: PackedModel) -> tuple[FittedSecondStage, float]:
        """The second-stage classifier, and the network's best single threshold, both chosen on the reference detections."""
        table = pa.concat_tables([pq.read_table(file, columns=["label", *PLANES]) for file in self._files("reference")])
        labels = table["label"].to_numpy()
        examples = decode_examples([table[name].to_pylist() for name in PLANES], packed.card)
        scores = packed.load(self.settings.infer.batch_size).predict(examples)
        how, size = self.settings.second_stage, self.settings.infer.batch_size
        second = fit_second_stage(labels, scores, lambda rows: features(examples[rows], packed, how.features, size), how, packed.digest)
        second = save_second_stage(self.store.published("second_stage"), second)
        card = second.card
        self.progress.say(
            f"vet         bands at {card.bands.low:.3f} and {card.bands.high:.3f}; {card.metrics['examples']:.0f} examples between them, "
            f"{len(second.support)} support vectors"
        )
        return second, best_threshold(labels, scores)

    # ---- classify

    def _classify_parts(self, selection: Selection, parts: list[str]) -> None:
        model = [selection.packed.digest, selection.second.card.model_dump(mode="json"), _REVISION]
        keys = {part: digest(model, self.manifest.parts("detections")[part].key) for part in parts}
        stale = self._stale("classified", keys)
        if stale:
            read = self.store.read(self.spark, self.manifest, DETECTIONS, stale)
            usable = read.where("reason is null")
            self._write(
                "classified", stages.classify(usable, selection.packed, selection.second, self.settings), {p: keys[p] for p in stale}
            )
        written = sum(self.manifest.parts("classified")[part].rows for part in parts)
        due = sum(self.manifest.parts("detections")[part].rows - self.manifest.parts("detections")[part].rejected for part in parts)
        if written != due:
            raise StoreError(f"{written} detections were classified where {due} were due. Run it again.")
        self.progress.say(f"classify    {len(stale)} of {len(parts)} parts: {written} detections")

    def classify(self) -> str:
        """Cut out, or read, the detections that the run names, and classify them; what was done, in words."""
        chosen = self.settings.emission
        if not (chosen.detections or chosen.cutouts):
            raise NalsparkError("There is nothing to classify: set emission.detections (with emission.frames) or emission.cutouts.")
        selection = read_selection(chosen.model or self.settings.out)
        with self.store.lock():
            self.manifest = self.store.manifest()
            key = digest("found", _REVISION, [_fingerprint(path) for path in (*chosen.frames, *chosen.detections, *chosen.cutouts)])
            have = self.manifest.parts("detections").get(_FOUND)
            if have is None or have.key != key:
                self._write("detections", self._found(), {_FOUND: key})
            self._classify_parts(selection, [_FOUND])
            self.store.commit(self.manifest)
            self.store.prune(self.manifest)
            return self._publish()

    def _found(self) -> Any:
        chosen = self.settings.emission
        frames = []
        if chosen.detections:
            frames.append(stages.cut_detections(stages.read_places(self.spark, self.settings, _FOUND), self.settings))
        if chosen.cutouts:
            frames.append(stages.read_ready_cutouts(self.spark, self.settings, _FOUND))
        return frames[0] if len(frames) == 1 else frames[0].unionByName(frames[1])

    def _publish(self) -> str:
        """What was found, what was not, and where it lies, in words."""
        classified = self.store.read(self.spark, self.manifest, CLASSIFIED, [_FOUND])
        counts = {(row["band"], row["accepted"]): row["count"] for row in classified.groupBy("band", "accepted").count().collect()}
        bands = {band: sum(count for (name, _), count in counts.items() if name == band) for band in BANDS}
        accepted = sum(count for (_, yes), count in counts.items() if yes)
        record = self.manifest.parts("detections")[_FOUND]
        lines = [f"{sum(counts.values())} detections: " + ", ".join(f"{count} {band}" for band, count in bands.items())]
        lines.append(f"{accepted} accepted; {record.rejected} rejected:")
        read = self.store.read(self.spark, self.manifest, DETECTIONS, [_FOUND])
        for row in read.where("reason is not null").groupBy("reason").count().orderBy("reason").collect():
            lines.append(f"  {row['count']} {row['reason']}")
        return "\n".join([*lines, f"classified  {self.store.root / self.manifest.parts('classified')[_FOUND].path}"])

    # ---- judge

    def _judge(self, second: FittedSecondStage, threshold: float) -> str:
        """The table and the pictures of the held-out detections."""
        records = [r for part, r in sorted(self.manifest.parts("classified").items()) if part.startswith("held_out") and r.path]
        files = [file for record in records for file in self.store.files(record)]
        table = pa.concat_tables([pq.read_table(file) for file in files]).to_pandas()
        text = result_text(table, threshold)
        label = (table["class"] >= FIRST_REAL_CLASS).to_numpy()
        score = table["score"].to_numpy(dtype=float)
        folder = self.store.published("second_stage")
        images = self._examples_along(table, second)
        self._draw(
            {
                "scores": score_figure(label, score, (second.card.bands.low, second.card.bands.high), threshold),
                "map": map_figure(table[["umap_x", "umap_y"]].to_numpy(dtype=float), label, second.margin, second.card.threshold, images),
            },
            folder,
        )
        (folder / "result.txt").write_text(text + "\n", encoding="utf-8")
        return f"{text}\n\nselection   {self.store.root}\npictures    {folder / 'scores.png'}, {folder / 'map.png'}"

    def _examples_along(self, table: pd.DataFrame, second: FittedSecondStage) -> list[MapExample]:
        """Some detections along the boundary, from one end of the map to the other, with their weighted sums."""
        middle = table[table["band"] == "reclassify"]
        place = middle[["umap_x", "umap_y"]]
        low, high = (place.quantile(edge) for edge in SHOWN)
        middle = middle[((place >= low) & (place <= high)).all(axis=1)]
        near = middle.assign(away=(middle["svm_margin"] - second.card.threshold).abs()).sort_values("away")
        near = near.head(max(_EXAMPLES, len(near) // 6)).sort_values("umap_x", kind="stable")
        steps = np.linspace(near["umap_x"].min(), near["umap_x"].max(), _EXAMPLES)
        chosen = near.iloc[np.unique(np.searchsorted(near["umap_x"], steps))] if len(near) else near
        names = set(chosen["detection_id"])
        images: dict[str, bytes] = {}
        for file in self._files("held_out"):
            read = pq.read_table(file, columns=["detection_id", PLANES[0]], filters=[("detection_id", "in", names)])
            images |= dict(zip(read["detection_id"].to_pylist(), read[PLANES[0]].to_pylist(), strict=True))
        return [
            MapExample(
                (row.umap_x, row.umap_y), np.frombuffer(images[row.detection_id], "<f4").reshape(CUTOUT_SHAPE),
                f"{row.kind}, {'accepted' if row.accepted else 'rejected'}", row.kind == "line",
            )
            for row in chosen.itertuples()
        ]  # fmt: skip

    @staticmethod
    def _draw(figures: dict[str, Figure], folder: Path) -> None:
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=110)


def _fingerprint(path: str) -> list[object]:
    """A file's name, size and time; only the name where it is not there, which its reader will say."""
    if not Path(path).exists():
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]

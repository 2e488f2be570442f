"""From spectra with redshifts to measured absorbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.absorption import stages as absorption
from nalspark.absorption.chain import IMAGE_COLUMNS
from nalspark.learning.inference import score
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Made, Stage
from nalspark.session import short_tasks
from nalspark.settings import Settings
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.arrow import rows_of
from nalspark.tables.schemas import BALNICITY, CANDIDATES, SCORES, SEARCHED, SENSITIVITY, TARGETS
from nalspark.tables.table import Table

#: Candidates of a task: half a second's work, so that the last task of a wave is not waited for.
_SCORED_PER_TASK = 5000


class Search(Stage):
    """Normalise every target's spectrum, propose doublets, cut their images, and keep how well a doublet would be seen."""

    name, table = "search", SEARCHED
    more: tuple[Table, ...] = (CANDIDATES, SENSITIVITY)
    #: Settings of each species that is searched; none: those of the run.
    each: Sequence[Settings] = ()
    reads = (SPECTRA_READ.name, TARGETS.name)
    sections = ("preprocess", "search", "species")
    revision = 6

    def wanted(self, run: Run) -> dict[str, str]:
        # Rows that images have beyond the species' own lines; a species without keeps the key that it had before there were any.
        shown = [[str(line) for pair in one.line_species.alternatives for line in pair] for one in self.each or [run.settings]]
        more = [shown] if any(shown) else []
        return {part: run.key(self, part, *more) for part in run.common_parts(self.reads)}

    def due(self, run: Run, parts: list[str]) -> int:
        return run.rows(TARGETS.name, parts)

    def compute(self, run: Run, parts: list[str]) -> Made:
        tables = (self.table, *self.more)
        pixels, targets = run.usable(SPECTRA_READ, parts), run.usable(TARGETS, parts)
        found = absorption.search(pixels, targets, self.each or [run.settings], tables).persist(StorageLevel.DISK_ONLY)
        run.after_wave.callback(found.unpersist)
        return {table.name: rows_of(found, table) for table in tables}

    def present(self, run: Run, part: str) -> bool:
        return part in run.manifest.parts(SENSITIVITY.name)  # earlier versions did not make it; the candidates are the same

    def finish(self, run: Run) -> None:
        run.manifest.tables.pop("normalized", None)  # earlier versions kept all pixels twice


class Balnicity(Stage):
    """Measure the broad absorption of every quasar whose spectrum covers C IV."""

    name, table = "balnicity", BALNICITY
    reads = (SPECTRA_READ.name, TARGETS.name)
    sections = ("preprocess", "species")

    def weight(self, run: Run, parts: list[str]) -> int:
        return run.rows(TARGETS.name, parts)

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        return absorption.balnicity(run.usable(SPECTRA_READ, parts), run.usable(TARGETS, parts), run.settings)


class Infer(Stage):
    """Give every candidate the probability that it is an absorber."""

    name, table = "infer", SCORES
    reads = (SPECTRA_READ.name, TARGETS.name, CANDIDATES.name)
    sections = ("species",)
    revision = 2

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def check(self) -> None:
        _ = self.inputs.model

    def given(self, run: Run) -> dict[str, str]:
        return {"model": self.inputs.model.digest}

    def wanted(self, run: Run) -> dict[str, str]:
        return {part: run.key(self, part, self.inputs.model.digest) for part in run.common_parts(self.reads)}

    def due(self, run: Run, parts: list[str]) -> int:
        return run.rows(CANDIDATES.name, parts)

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        packed, how, candidates = self.inputs.model, run.settings.infer, run.usable(CANDIDATES, parts)
        if packed.card.inputs == IMAGE_COLUMNS:
            tasks = 1 + self.due(run, parts) // _SCORED_PER_TASK
            return score(candidates.coalesce(tasks), packed, how).select(*SCORES.names)
        spectra = absorption.whole_spectra(run.usable(SPECTRA_READ, parts), run.usable(TARGETS, parts), run.settings)
        scored = score(spectra, packed, how)
        return candidates.join(F.broadcast(scored.select("spectrum_id", "score")), "spectrum_id").select(*SCORES.names)

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        return short_tasks(spark)


class Measure(Stage):
    """Fit every candidate that the network does not rule out."""

    name = "measure"
    reads = (CANDIDATES.name, SCORES.name)
    sections = ("measure", "infer.min_score", "infer.measure_score", "preprocess.window_blue_z", "species")
    revision = 5

    def __init__(self, settings: Settings) -> None:
        self.table = absorption.measured_table(settings)

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        return absorption.measure(run.usable(CANDIDATES, parts), run.usable(SCORES, parts), run.settings)

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        return short_tasks(spark)

"""Real examples to learn from, in place of artificial ones."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nalspark.errors import NalsparkError
from nalspark.mocks.stages import examples_table
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Stage
from nalspark.surveys.catalogs import write_parquet
from nalspark.surveys.crossmatch.stages import objects
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.schemas import CANDIDATES, MATCHES, SEARCHED, TARGETS
from nalspark.teaching.labels import Reach
from nalspark.teaching.stages import Rules, known_of_spectra, label_candidates, label_spectra

#: The parts of the table: one for each split. Epochs of a quasar may lie in any part of what is read.
_PARTS = ("test-00000", "train-00000", "validation-00000")


class LabelExamples(Stage):
    """Label the run's own candidates, or whole spectra, by absorber catalogues and by people."""

    name = "label_examples"
    reads = (SPECTRA_READ.name, TARGETS.name, MATCHES.name, SEARCHED.name, CANDIDATES.name)
    sections = (
        *(f"labels.{name}" for name in ("source", "agree", "fold", "share", "seed")),
        "crossmatch.weak", "crossmatch.match_radius_arcsec", "simulate.examples", "preprocess", "species",
    )  # fmt: skip
    at_once = True

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.table = inputs, examples_table(inputs.settings)

    def check(self) -> None:
        """Refuse what gives no labels.

        Raises
        ------
        NalsparkError
        """
        settings = self.inputs.settings
        by_people, n = settings.labels.source == "people", len(self.inputs.catalogues["absorbers"])
        if by_people and not settings.labels.people:
            raise NalsparkError("labels.source = 'people' takes labels of `nalspark review`: name them in labels.people.")
        if settings.labels.people and settings.simulate.examples == "spectra":
            raise NalsparkError(
                "People label systems, not whole spectra, of which they do not see every place: set simulate.examples = 'candidates'."
            )
        if not by_people and n < settings.labels.agree:
            raise NalsparkError(
                f"labels.source = 'catalogues' labels spectra by {settings.labels.agree} absorber catalogue(s) at least, and the run has "
                f"{n}: name them in `absorbers`."
            )
        if settings.labels.people and self.inputs.verdicts.empty:
            raise NalsparkError(
                f"None of the labels in {', '.join(settings.labels.people)} decides about a system of {settings.line_species.name}: they "
                "are of other species, unsure, or fewer than labels.agree."
            )

    def given(self, run: Run) -> dict[str, str]:
        return {"labels of people": self.inputs.verdicts_digest} if self.inputs.settings.labels.people else {}

    def wanted(self, run: Run) -> dict[str, str]:
        return {part: run.key_of_all(self, part, self.inputs.verdicts_digest) for part in _PARTS}

    def weight(self, run: Run, parts: list[str]) -> int:
        return run.rows(TARGETS.name, list(run.manifest.parts(TARGETS.name)))

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        settings, searched, targets = run.settings, run.usable(SEARCHED), run.usable(TARGETS)
        own = {one.name: Reach.of(write_parquet(one, run.store.catalogues)) for one in self.inputs.catalogues["absorbers"]}
        matches = run.whole(MATCHES)
        if settings.labels.source == "people":
            targets, matches = targets.drop("covered").selectExpr("*", "CAST(array() AS array<string>) AS covered"), matches.where("false")
        same = objects(searched, settings.crossmatch.match_radius_arcsec)
        known = known_of_spectra(targets, matches, same, self.inputs.verdicts)
        rules = Rules(own, settings)
        if settings.simulate.examples == "candidates":
            return label_candidates(run.usable(CANDIDATES), searched, known, rules)
        return label_spectra(run.usable(SPECTRA_READ), targets, searched, known, rules)

    def finish(self, run: Run) -> None:
        for split, n, positives, quasars in example_counts(run.whole(self.table)):
            run.progress.say(f"  {split:<10} {n} examples of {quasars} quasars, {positives} of them absorbers")


def example_counts(examples: DataFrame) -> list[tuple[str, int, int, int]]:
    """Count, for each split, examples, those labelled 1, and quasars (of many, to some per cent)."""
    counts = (F.count("*"), F.sum("label").cast("int"), F.approx_count_distinct("quasar_id"))
    return sorted(tuple(row) for row in examples.groupBy("split").agg(*counts).collect())

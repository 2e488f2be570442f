"""The stages in their order, those of a catalogue and those of a model."""

from __future__ import annotations

from pyspark.sql import SparkSession

from nalspark.pipeline.absorbers import Balnicity, Infer, Measure, Search
from nalspark.pipeline.crossmatch import Crossmatch
from nalspark.pipeline.engine import Engine
from nalspark.pipeline.ingest import Ingest
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.learning import LearnEigenspectra, Simulate, Train
from nalspark.pipeline.publish import Publish
from nalspark.pipeline.stage import Stage
from nalspark.pipeline.teaching import LabelExamples
from nalspark.pipeline.worth import Completeness, Decoys, Inject
from nalspark.progress import Progress
from nalspark.settings import Settings

#: What makes a catalogue, what makes a model, and all stages.
CATALOGUE = tuple(stage.name for stage in (Ingest, Crossmatch, Search, Infer, Measure, Publish))
LEARNING = (Simulate.name, Train.name)
#: What says what a catalogue is worth, with all that it needs: the catalogue before, and its files after.
WORTH = (*CATALOGUE[:-1], Inject.name, Decoys.name, Completeness.name, CATALOGUE[-1])
#: What measures the quasars' broad absorption, and publishes it.
WITH_BALNICITY = (*CATALOGUE[:-1], Balnicity.name, CATALOGUE[-1])
#: What makes a model of real spectra with labels.
TAUGHT = (*CATALOGUE[:3], LabelExamples.name, Train.name)
ALL_STAGES = (*WORTH[:-1], *WITH_BALNICITY[-2:], LearnEigenspectra.name, *LEARNING[:-1], *TAUGHT[-2:])


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """Give the stages of a run in their order: the examples of a model are artificial ones, or real ones with labels."""
    inputs, search = Inputs(settings), Search()
    examples = Simulate(inputs, (search,)) if settings.labels.source == "mocks" else LabelExamples(inputs)
    worth, broad = (Inject(inputs), Decoys(inputs), Completeness()), Balnicity()
    return (
        Ingest(settings), Crossmatch(inputs), search, Infer(inputs), Measure(settings), *worth, broad, Publish(settings, worth, broad),
        LearnEigenspectra(), examples, Train(settings, (search, examples)),
    )  # fmt: skip


def pipeline(spark: SparkSession, settings: Settings, progress: Progress) -> Engine:
    """Give the engine with the stages of a run; :meth:`Engine.run` brings a catalogue up to date."""
    return Engine(spark, settings, progress, stages_of(settings), CATALOGUE)

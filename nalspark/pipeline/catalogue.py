"""The stages in their order, those of a catalogue and those of a model."""

from __future__ import annotations

from pyspark.sql import SparkSession

from nalspark.pipeline.absorbers import Infer, Measure, Preprocess, Search
from nalspark.pipeline.crossmatch import Crossmatch
from nalspark.pipeline.engine import Engine
from nalspark.pipeline.ingest import Ingest
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.learning import LearnEigenspectra, Simulate, Train
from nalspark.pipeline.publish import Publish
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress
from nalspark.settings import Settings

#: What makes a catalogue, what makes a model, and all stages.
CATALOGUE = tuple(stage.name for stage in (Ingest, Crossmatch, Preprocess, Search, Infer, Measure, Publish))
LEARNING = (Simulate.name, Train.name)
ALL_STAGES = (*CATALOGUE, LearnEigenspectra.name, *LEARNING)


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """Give the stages of a run in their order."""
    inputs, preprocess, search = Inputs(settings), Preprocess(), Search()
    simulate = Simulate(inputs, (preprocess, search))
    return (
        Ingest(settings), Crossmatch(inputs), preprocess, search, Infer(inputs), Measure(settings), Publish(settings),
        LearnEigenspectra(), simulate, Train(settings, (preprocess, search, simulate)),
    )  # fmt: skip


def pipeline(spark: SparkSession, settings: Settings, progress: Progress) -> Engine:
    """Give the engine with the stages of a run; :meth:`Engine.run` brings a catalogue up to date."""
    return Engine(spark, settings, progress, stages_of(settings), CATALOGUE)

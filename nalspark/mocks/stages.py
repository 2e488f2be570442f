"""Artificial spectra as a Spark stage: names in, examples to learn from out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.incidence import frequency_law
from nalspark.lines import LineSpecies
from nalspark.mocks.examples import candidate_examples, spectrum_examples
from nalspark.mocks.inject import ZHAO_2019, Population
from nalspark.mocks.interlopers import kinds_of
from nalspark.mocks.recipes import Continuum, Recipe, SkyNoise
from nalspark.settings import Settings
from nalspark.tables.arrow import Columns, map_arrays, numbered
from nalspark.tables.schemas import TRAINING, TRAINING_SPECTRA
from nalspark.tables.table import Table

#: Interlopers that are learned from more often than the others: those that were taken for absorbers most often when all came alike.
_HARDEST = ("CIV", "CIV", "CIV", "SiIV", "FeII2586", "CaII", "host", "host", "host", "MgII", "MgII", "MgII")
#: Absorbers as they are, from the weakest that can be seen; and as many weak as strong ones.
REALISTIC = Population(counts=(0.0,) * 6 + (1.0,), ew_law="published", incidence=1.0, ew_min=0.15, red_margin_z=-0.015)
_BROAD = Population(counts=(0.2, 0.6, 0.2), ew_law="log-uniform", ew_min=0.2, ew_max=5.0, red_margin_z=-0.015)
#: Absorbers per unit redshift that artificial spectra have at least, where real ones are rarer.
_LEAST_FREQUENT = 0.4
#: Share of its neighbour's noise in a pixel of spectra to calibrate with: they then propose as many false candidates as real sky fibers do,
#: 1.3 a spectrum. What is learned from has up to a quarter.
_CORRELATED = 0.0
#: Each task makes some seconds of work, and a file of a few row groups at most.
_SPECTRA_PER_TASK = 500
#: What an artificial spectrum is made from: its name, the part and the split that its examples belong to.
MOCK_NAMES = Table("mock_names", "Names of artificial spectra.", TRAINING.select("quasar_id", "part", "split"))


def populations(settings: Settings, sample: tuple[float, ...] = ()) -> tuple[Population, ...]:
    """Give the absorber populations of the training spectra; `sample` has the equivalent widths of the empirical population."""
    real = _realistic(settings.line_species)
    known = {"broad": (real, _BROAD), "zm13": (real,), "log-uniform": (_BROAD,), "zhao2019": (ZHAO_2019,)}
    if settings.simulate.population == "empirical":
        return (replace(_BROAD, ew_law="empirical", ew_sample=sample),)
    return known[settings.simulate.population]


def overrepresentation(settings: Settings) -> float:
    """Tell how many times as frequent as in nature absorbers are in the spectra to calibrate with: more than once for a rare species."""
    return 1.0 if settings.simulate.population == "zhao2019" else _overrepresentation(settings.line_species)


def _overrepresentation(species: LineSpecies) -> float:
    return max(1.0, _LEAST_FREQUENT / float(frequency_law(species).rate(1.0, REALISTIC.ew_min)))


def _realistic(species: LineSpecies) -> Population:
    return replace(REALISTIC, incidence=_overrepresentation(species))


def recipes(
    settings: Settings, sky: SkyNoise | None = None, continuum: Continuum | None = None, sample: tuple[float, ...] = ()
) -> dict[str, Recipe]:
    """Tell how the spectra of each split are made: those for training, and those for calibration and test.

    The latter have absorbers as they are, unless the population is the paper's or the species so rare that it is overrepresented, and are
    searched in the species' own window: a probability says how often candidates of a survey are absorbers.
    """
    chosen, species = settings.simulate, settings.line_species
    kinds = kinds_of(species)
    # No fiber on both sides: what is tested on was not learned from.
    fibers = (sky.take(slice(0, None, 2)), sky.take(slice(1, None, 2))) if sky else (None, None)
    harder = kinds + tuple(kind for kind in _HARDEST if kind in kinds)
    learn = Recipe(
        species,
        populations(settings, sample),
        chosen.seed,
        chosen.contaminated,
        harder,
        sky=fibers[0],
        continuum=continuum,
        window=settings.preprocess,
        families=chosen.families,
    )
    real = learn.populations if chosen.population == "zhao2019" else (_realistic(species),)
    window = settings.preprocess.model_copy(update={"window_rest_blue": 0.0})
    judge = replace(
        learn, populations=real, contaminated=chosen.contaminated_realistic, kinds=kinds, sky=fibers[1], window=window,
        most_correlated=_CORRELATED, families=min(chosen.families, 1.0),
    )  # fmt: skip
    return {"train": learn, "validation": learn, "calibration": judge, "test": judge}


def examples_table(settings: Settings) -> Table:
    """Declare the table of examples that the settings ask for; both are called ``training``."""
    return TRAINING if settings.simulate.examples == "candidates" else replace(TRAINING_SPECTRA, name=TRAINING.name)


def _spectra_of_splits(settings: Settings) -> dict[str, int]:
    """How many artificial spectra each split is made from."""
    learn, judge = settings.simulate.n, settings.simulate.n_realistic
    return {"train": learn - learn // 5, "validation": learn // 5, "calibration": judge - judge // 2, "test": judge // 2}


def example_parts(settings: Settings) -> list[str]:
    """Name the parts of the training table: ``<split>-<number>``."""
    size = settings.simulate.spectra_per_part
    return [f"{split}-{block:05d}" for split, n in _spectra_of_splits(settings).items() for block in range(-(-n // size))]


def mock_names(spark: SparkSession, parts: list[str], settings: Settings) -> DataFrame:
    """Name the artificial spectra of some parts: a frame of MOCK_NAMES. No name is in two parts."""
    size, numbers = settings.simulate.spectra_per_part, _spectra_of_splits(settings)
    blocks = {}
    for part in parts:
        split, _, block = part.rpartition("-")
        blocks[part] = range(numbers[split])[int(block) * size : (int(block) + 1) * size]
    names = numbered(spark, blocks, _SPECTRA_PER_TASK).withColumn("split", F.regexp_extract("part", "(.*)-", 1))
    return names.select(F.concat_ws("-", "split", "number").alias("quasar_id"), "part", "split")


def example_columns(columns: Columns, recipes: dict[str, Recipe], settings: Settings) -> Columns:
    """Make rows of TRAINING or TRAINING_SPECTRA from names of artificial spectra."""
    make = candidate_examples if settings.simulate.examples == "candidates" else spectrum_examples
    names, made = columns["quasar_id"], []
    part = dict(zip(names, columns["part"], strict=True))
    for split in sorted(set(columns["split"])):
        examples = make(list(names[columns["split"] == split]), recipes[split], settings)
        parts = np.array([part[name] for name in examples["quasar_id"]], dtype=object)
        made.append({**examples, "split": np.full(len(parts), split, dtype=object), "part": parts})
    return {key: np.concatenate([examples[key] for examples in made]) for key in made[0]}


def simulate(names: DataFrame, recipes: dict[str, Recipe], settings: Settings) -> DataFrame:
    """Make artificial spectra and the examples that come of them.

    Parameters
    ----------
    names : DataFrame of MOCK_NAMES
    recipes : dict
        From :func:`recipes`.
    settings : Settings

    Returns
    -------
    DataFrame of TRAINING, or of TRAINING_SPECTRA
    """
    return map_arrays(names, partial(example_columns, recipes=recipes, settings=settings), MOCK_NAMES, examples_table(settings))

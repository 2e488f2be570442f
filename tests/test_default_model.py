"""The model that ships is the one that its run file makes."""

from pathlib import Path

import numpy as np
import pytest

from nalspark.absorption.chain import IMAGE_COLUMNS, input_shapes
from nalspark.errors import ModelError
from nalspark.learning.models import SHIPPED, read_model, shipped_model
from nalspark.learning.networks import resolved_options
from nalspark.pipeline.catalogue import stages_of
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE, ZHAO_GRID

RUN = load(Path(__file__).parents[1] / "conf" / "runs" / "default_model.toml")


def test_the_card_says_what_the_run_file_asks_for():
    card = read_model().card
    assert (card.network, card.options) == (RUN.train.network, resolved_options(RUN.train.network, RUN.train.options))
    assert len(card.members) == RUN.train.members
    assert (card.inputs, card.species, card.grid) == (IMAGE_COLUMNS, RUN.line_species.name, ZHAO_GRID.fingerprint)
    for section in ("preprocess", "search", "simulate", "train"):
        asked = RUN.model_dump(mode="json")[section]
        later = load().model_dump(mode="json")[section]  # settings that came after the model: at their defaults
        assert {**later, **card.settings[section]} == asked, section
    assert card.metrics["auc"] > 0.97 and card.metrics["calibration_error"] < 0.02


def test_its_examples_went_through_the_stages_as_they_are():
    """What the search or the mocks have changed since asks for a model that is made anew: raise no revision without one."""
    made_by = {stage.name: stage.revision for stage in stages_of(RUN) if stage.name in ("search", "simulate")}
    # When they were made, what `search` does first was a stage of its own.
    assert read_model().card.data["revisions"] == made_by | {"preprocess": 5}


@pytest.mark.parametrize("species", sorted(folder.name for folder in SHIPPED.iterdir()))
def test_the_model_of_every_species_is_small_good_and_made_by_the_code_as_it_is(species):
    folder, card = shipped_model(species), read_model(species=species).card
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2**20
    settings = RUN.model_copy(update={"species": (species,)})
    assert (card.species, card.inputs, card.shape) == (species, IMAGE_COLUMNS, input_shapes(settings.line_species, LATTICE)[IMAGE_COLUMNS])
    made_by = {stage.name: stage.revision for stage in stages_of(settings) if stage.name in ("search", "simulate")}
    assert made_by.items() <= card.data["revisions"].items()
    assert card.metrics["auc"] > 0.97 and card.metrics["calibration_error"] < 0.02 and not card.doubt


def test_a_species_without_a_model_is_told():
    with pytest.raises(ModelError, match="No model for NV ships with nalspark; there are .*CIV.*Train one with `nalspark train RUN.toml"):
        shipped_model("NV")


def test_a_doublet_of_atomic_physics_scores_high_and_noise_low():
    """Two equal lines at the right distance at 10 σ each with Fe II, in noise; and noise alone."""
    rng = np.random.default_rng(1)
    error = np.full((2, 8, 49), 20.0)
    residual = rng.normal(0.0, 1 / 20.0, (2, 8, 49))
    u = np.arange(-24, 25)
    lines = {0: 0.3, 2: 0.4, 3: 0.2, 4: 0.5, 5: 0.8, 6: 0.75, 7: 0.2}
    for row, depth in lines.items():
        residual[0, row] += depth * np.exp(-0.5 * (u / 1.6) ** 2)
    for row, other in ((5, 11), (6, -11)):  # the rows of the doublet show each other's line
        residual[0, row] += 0.75 * np.exp(-0.5 * ((u - other) / 1.6) ** 2)
    scores = read_model().load().predict(np.stack([residual, error], axis=-1))
    assert scores[0] > 0.95 and scores[1] < 0.2

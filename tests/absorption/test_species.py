"""Every ion by data: the same search and fit for each, and for one that is not in the list."""

from dataclasses import replace

import numpy as np
import pytest

from nalspark.absorption.chain import Searchable, prepare, propose
from nalspark.absorption.measure import measure_candidates
from nalspark.absorption.systems import in_path
from nalspark.lines import C_IV_1548, C_IV_1550, N_V_1238, N_V_1242, SPECIES, LineSpecies, interlopers_of
from nalspark.mocks.examples import label_candidates
from nalspark.mocks.interlopers import kinds_of
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.mocks.stages import populations
from nalspark.settings import Settings, load

#: Between Lyα and its own emission there is little room: 5000 km/s.
N_V = LineSpecies("NV", N_V_1238, N_V_1242, (C_IV_1548, C_IV_1550), (1218.0, 1240.0), (3.0, 0.5))
#: Absorbers both of whose lines have 5 σ, of this many spectra.
N = 300


class _Of(Settings):
    """Settings of a species that is not in the list."""

    @property
    def line_species(self) -> LineSpecies:
        return N_V


def _settings(species: LineSpecies) -> Settings:
    settings = load(None, ["preprocess.min_good_pixels=40"]).model_copy(update={"species": (species.name,)})
    return settings if species.name in SPECIES else _Of.model_construct(**dict(settings))


@pytest.mark.parametrize("species", [*SPECIES.values(), N_V], ids=lambda species: species.name)
def test_strong_absorbers_of_every_species_are_proposed_and_measured(species):
    settings = _settings(species)
    recipe = Recipe(species, populations(settings), contaminated=0.0, window=settings.preprocess)
    mocks = make_mocks([f"{species.name}-{number}" for number in range(N)], recipe)
    ready = prepare(mocks.spectra, mocks.z_qso, settings)
    candidates = propose(Searchable.of(ready, mocks.z_qso), settings)
    label, number = label_candidates(mocks, candidates.row, candidates.pixel, settings)
    path = np.array([in_path(z, ready.z_start[k], ready.z_stop[k]) for k, z in zip(mocks.row, mocks.z_abs, strict=True)], dtype=bool)
    strong = np.flatnonzero((mocks.line_snr > 5).all(axis=1) & path)
    assert len(strong) >= 10
    # N V lies at the edge of the forest, where the continuum has nothing on its blue side.
    assert np.isin(strong, number[label == 1]).mean() >= (0.95 if species is not N_V else 0.9)

    measured = measure_candidates(candidates.image_residual, candidates.image_inverse_error, candidates.columns, species, candidates.grid)
    own = (label == 1) & np.isin(number, strong)
    z = measured["z_abs"][own] - mocks.z_abs[number[own]]
    assert np.median(np.abs(z) / (1 + mocks.z_abs[number[own]])) < 1.5e-4, "half a pixel"
    lines = (species.primary.label, species.secondary.label)
    total = sum(measured[f"ew_{line}"] for line in lines)[own] / (mocks.ew_primary + mocks.ew_secondary)[number[own]]
    assert np.median(total) == pytest.approx(1.0, abs=0.1)


def test_no_species_is_mistaken_for_itself():
    for species in SPECIES.values():
        ions = {line.ion for other in interlopers_of(species) for line in other.transitions}
        assert species.primary.ion not in ions and len(ions) >= 5
        assert species.name not in kinds_of(species)
    assert "MgII" in kinds_of(SPECIES["CIV"]) and "MgII" not in kinds_of(SPECIES["MgII"])


def test_our_own_galaxy_is_not_searched():
    """Ca II at redshift 0 is in every spectrum."""
    settings = _settings(SPECIES["CaII"])
    mocks = make_mocks([f"own-{number}" for number in range(20)], replace(Recipe(SPECIES["CaII"], populations(settings)), contaminated=0.0))
    ready = prepare(mocks.spectra, mocks.z_qso, settings)
    starts = np.concatenate([start for start in ready.z_start if len(start)])
    assert starts.min() > 0.0025

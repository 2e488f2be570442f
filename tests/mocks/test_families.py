"""Systems of other species: as many as their laws say, with the lines that come with them, and none of the searched ion."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import trapezoid

from nalspark.incidence import frequency_law
from nalspark.lines import SPECIES
from nalspark.mocks.families import draw_families
from nalspark.mocks.inject import seeded_generator
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.mocks.stages import populations
from nalspark.settings import load

N = 400


def families(species, frequency):
    rngs = [seeded_generator("families", number) for number in range(N)]
    return draw_families(SPECIES[species], np.full(N, 2.5), rngs, frequency)


def test_they_are_as_frequent_as_their_law():
    z = np.linspace(0.003, 2.5, 2001)
    for searched, others in (("CIV", {"MgII"}), ("MgII", {"CIV"}), ("SiIV", {"MgII", "CIV"})):
        drawn = {system.name: absorbers for system, absorbers in families(searched, 2.0)}
        assert set(drawn) == others, "what is searched has a law of its own"
        for name, absorbers in drawn.items():
            # Lines of C IV at low redshift lie bluewards of the grid: none is drawn there.
            rate = frequency_law(SPECIES[name]).rate(z, 0.15)
            low = z > (0.003 if name == "MgII" else absorbers.z.min())
            assert len(absorbers) == pytest.approx(2.0 * N * trapezoid(rate[low], z[low]), rel=0.06)


@pytest.mark.parametrize("searched", ["CIV", "SiIV", "FeII"])
def test_none_shows_the_ion_that_is_searched(searched):
    ion = SPECIES[searched].primary.ion
    for system, absorbers in families(searched, 1.0):
        assert ion not in {line.ion for line in system.transitions}
        assert absorbers.relative_tau.shape[1] == len(system.transitions) >= 2


def test_a_spectrum_with_families_is_the_same_in_any_batch():
    settings = load(None, ["species=CIV"])
    recipe = Recipe(settings.line_species, populations(settings), families=2.0, window=settings.preprocess)
    together, alone = make_mocks(["a", "b", "c"], recipe), make_mocks(["b"], recipe)
    np.testing.assert_array_equal(together.spectra.flux[1], alone.spectra.flux[0])
    np.testing.assert_array_equal(together.z_abs[together.row == 1], alone.z_abs)
    without = make_mocks(["a", "b", "c"], replace(recipe, families=0.0))
    lower = np.mean(without.expected > together.expected * 1.01)
    assert lower > 0.005, "they absorb"
    np.testing.assert_array_equal(without.z_abs, together.z_abs)

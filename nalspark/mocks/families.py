"""Absorbers of other species in mock spectra, each as often as its law says, with all lines that come with them.

Systems of Mg II and of C IV bring the lines of nearly all other ions, but for those of the searched ion: its own law has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nalspark.lines import OUR_GALAXY, SPECIES, LineSpecies, with_all_lines
from nalspark.mocks.inject import Absorbers, Population, draw, uniforms_per_spectrum
from nalspark.spectra.grid import LATTICE

Array = NDArray[np.float64]

#: Whose systems the lines of other ions belong to.
FAMILIES = {"MgII": ("Mg II", "Mg I", "Fe II", "Al II", "Al III", "Si II", "Ca II", "Na I"), "CIV": ("C IV", "Si IV")}
#: As many of them in a spectrum as there may be.
_NATURE = Population(counts=(0.0,) * 30 + (1.0,), ew_law="published", ew_min=0.15, red_margin_z=0.0)


def with_lines_of(species: LineSpecies, ions: set[str]) -> LineSpecies:
    """Give the species with the known lines of some ions beside its own."""
    full = with_all_lines(species)
    return replace(full, companions=tuple(line for line in full.companions if line.ion in ions or line.ion == species.primary.ion))


def draw_families(
    searched: LineSpecies, z_qso: Array, rngs: Sequence[np.random.Generator], frequency: float
) -> list[tuple[LineSpecies, Absorbers]]:
    """Draw absorbers of all other species, wherever one of their lines lies on the grid.

    Parameters
    ----------
    searched : LineSpecies
    z_qso : ndarray, shape (n,)
    rngs : sequence of n Generator
        One for each spectrum.
    frequency : float
        How many times as frequent as in nature.

    Returns
    -------
    list of (LineSpecies, Absorbers)
    """
    population = replace(_NATURE, incidence=frequency)
    first, last = LATTICE.wavelength_at(np.array([0, LATTICE.n_pixels - 1]))
    drawn = []
    for name, ions in FAMILIES.items():
        if name == searched.name:
            continue
        system = with_lines_of(SPECIES[name], set(ions) - {searched.primary.ion})
        waves = [line.wavelength for line in system.transitions]
        low = np.full(len(z_qso), max(first / max(waves) - 1.0, OUR_GALAXY))
        high = np.maximum(low, np.minimum(z_qso, last / min(waves) - 1.0))
        uniforms = np.stack([rng.random(uniforms_per_spectrum(system, population)) for rng in rngs])
        absorbers = draw(system, population, uniforms, (low, high))
        drawn.append((system, absorbers))
    return drawn

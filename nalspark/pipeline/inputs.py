"""What a run is given beside files of spectra: catalogues and a model, refused where they do not fit."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from nalspark.absorption.chain import IMAGE_COLUMNS, SPECTRUM_COLUMNS, input_shapes
from nalspark.errors import CatalogError, NalsparkError, did_you_mean
from nalspark.learning.models import PackedModel, read_model
from nalspark.mocks.noise import sky_noise
from nalspark.mocks.recipes import SkyNoise
from nalspark.review.labels import read_labels
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE, ZHAO_GRID
from nalspark.surveys.catalogs import Catalog, equivalent_width_quantiles, open_catalog
from nalspark.surveys.crossmatch.stages import FOOTPRINTS
from nalspark.tables.manifest import digest
from nalspark.teaching.labels import verdicts


def example_inputs(settings: Settings) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Give the columns of an example, one a channel of the network, and the shape of one."""
    columns = SPECTRUM_COLUMNS if settings.simulate.examples == "spectra" else IMAGE_COLUMNS
    return columns, input_shapes(settings.line_species, LATTICE)[columns]


class Inputs:
    """Catalogues, model and noise of a run, each opened, and hashed, once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def catalogues(self) -> dict[str, list[Catalog]]:
        """Catalogues of quasars and of absorbers, in their order."""
        return {
            "quasars": [open_catalog(path, "quasars") for path in self.settings.quasars],
            "absorbers": [open_catalog(path, "absorbers", self.settings.species) for path in self.settings.absorbers],
        }

    @cached_property
    def searched(self) -> dict[str, Catalog]:
        """Lists of quasars whose spectra were searched for an absorber catalogue, by its name.

        Raises
        ------
        CatalogError
            Where a footprint is that of a catalogue which the run does not have, or a list cannot be read.
        """
        footprint, names = self.settings.crossmatch.footprint, [catalogue.name for catalogue in self.catalogues["absorbers"]]
        for name in footprint:
            if name not in names:
                raise CatalogError(
                    f"crossmatch.footprint names '{name}', which is none of the run's absorber catalogues "
                    f"({', '.join(names) or 'there are none'}).{did_you_mean(name, names)}"
                )
        return {name: open_catalog(how, "quasars") for name, how in footprint.items() if how not in FOOTPRINTS}

    @cached_property
    def model(self) -> PackedModel:
        """The network of the run.

        Raises
        ------
        ModelError
            Where it was made for something else.
        """
        packed = read_model(self.settings.infer.model, self.settings.line_species.name)
        packed.check(ZHAO_GRID.fingerprint, self.settings.line_species.name, input_shapes(self.settings.line_species, LATTICE))
        return packed

    @cached_property
    def sky(self) -> SkyNoise | None:
        """Noise of real sky fibers, where it is asked for."""
        folder = self.settings.simulate.sky
        return sky_noise(folder) if folder else None

    @cached_property
    def equivalent_widths(self) -> tuple[float, ...]:
        """Quantiles of the equivalent widths of the catalogue of the empirical population; empty for other populations.

        Raises
        ------
        NalsparkError
            Where the settings name no catalogue, or it has too few absorbers.
        """
        chosen = self.settings.simulate
        if chosen.population != "empirical":
            return ()
        if not chosen.catalogue:
            raise NalsparkError("simulate.population = 'empirical' takes equivalent widths from a catalogue: set simulate.catalogue.")
        return equivalent_width_quantiles(open_catalog(chosen.catalogue, "absorbers", self.settings.species))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """What people say of systems: see :func:`nalspark.teaching.labels.verdicts`; no rows where the settings name no labels.

        Raises
        ------
        NalsparkError
            Where labels cannot be read.
        """
        chosen, species = self.settings.labels, self.settings.line_species
        looks = read_labels(*chosen.people, programme="absorption") if chosen.people else pd.DataFrame()
        agree = chosen.agree if chosen.source == "people" else 1
        return verdicts(looks, species.name, species.primary.wavelength, agree)

    @cached_property
    def verdicts_digest(self) -> str:
        """Digest of these; empty where there are none."""
        return digest(self.verdicts.to_dict("list")) if len(self.verdicts) else ""

"""An absorber as pictures show it: its row of the catalogue, its spectrum and its candidate put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nalspark.absorption.chain import instrument_kms
from nalspark.absorption.images import ImageGeometry
from nalspark.absorption.measure import AbsorberFlag
from nalspark.errors import StoreError
from nalspark.plots.figures import GalleryItem
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.tables.arrow import Columns
from nalspark.tables.data_model import bit_words


def gallery_item(absorber: Mapping[str, Any], spectrum: Columns, candidate: Mapping[str, Any], settings: Settings) -> GalleryItem:
    """Put together what the picture of one absorber shows.

    Parameters
    ----------
    absorber : mapping
        Its row of the absorbers table.
    spectrum : dict
        One row of NORMALIZED, decoded.
    candidate : mapping
        Its row of the candidates.
    settings : Settings
        With the species of the absorber.

    Raises
    ------
    StoreError
        Where the candidate's image is that of another version.
    """
    own = np.frombuffer(candidate["image_residual"], "<f4"), np.frombuffer(candidate["image_inverse_error"], "<f4")
    species, geometry = settings.line_species, ImageGeometry.of(settings.line_species, LATTICE.step)
    lines = len(species.transitions)
    if own[0].size != np.prod(geometry.shape):
        raise StoreError(
            f"The image of candidate {candidate['candidate_id']} has {own[0].size} pixels where {species.name} has "
            f"{' × '.join(map(str, geometry.shape))}: another version of nalspark made it. Run all stages."
        )
    ivar, rest, width = spectrum["ivar"], species.primary.wavelength, candidate["instrument_pixels"]
    good = (spectrum["mask"] == 0) & (ivar > 0)
    return GalleryItem(
        absorber,
        LATTICE.wavelength,
        spectrum["flux"],
        spectrum["continuum"],
        np.where(good, 1.0 / np.sqrt(np.where(good, ivar, 1.0)), np.nan),
        own[0].reshape(geometry.shape)[:lines],
        own[1].reshape(geometry.shape)[:lines],
        geometry.fractions[:lines],
        [str(line) for line in species.transitions],
        np.array([line.wavelength for line in species.transitions]),
        (geometry.primary, geometry.secondary),
        candidate["pixel"],
        bit_words(absorber["flags"], AbsorberFlag),
        [(rest * (1 + a), rest * (1 + b)) for a, b in zip(spectrum["z_start"], spectrum["z_stop"], strict=True)],
        instrument_sigma_kms=float(instrument_kms(np.nan if width is None else width, settings)),
    )

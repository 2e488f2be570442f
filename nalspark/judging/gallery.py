"""All systems of a catalogue that is small enough to be looked through, and those that only other catalogues have: ``gallery.html``.

The page holds the pixels about every line of every system, and its script draws those that are in sight. It fetches nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.measure import AbsorberFlag
from nalspark.absorption.normalize import residuals
from nalspark.judging.evaluate import measure_systems
from nalspark.judging.inputs import Catalogue, pixels
from nalspark.judging.match import compare, rounding_of
from nalspark.lines import LineSpecies
from nalspark.plots.pages import render_scripted
from nalspark.plots.report import CatalogueOutcome
from nalspark.spectra.grid import LATTICE
from nalspark.tables.data_model import bit_words
from nalspark.tables.schemas import absorbers_table

#: A catalogue of more systems has no gallery; nor has one where other catalogues have more.
MOST_SYSTEMS = 3000
#: Columns that a card shows, behind the redshift and the equivalent width of the first line.
_SHOWN = ("significance", "score", "fwhm_kms", "doublet_ratio", "z_qso", "velocity_kms")
#: The flux over the continuum, and its error, as bytes: one unit, the least flux; 255 where a pixel is not used.
_UNIT, _LEAST, _UNUSED = 0.01, -0.5, 255


@dataclass(frozen=True)
class Gallery:
    """The page, and how many systems of each other catalogue the catalogue has.

    Attributes
    ----------
    page : str
        HTML.
    outcomes : sequence of CatalogueOutcome
    """

    page: str
    outcomes: Sequence[CatalogueOutcome]


def shown_columns(species: LineSpecies) -> list[str]:
    """Give the columns of the absorbers table of which a card shows the value, and may be filtered and sorted by."""
    return ["z_abs", f"ew_{species.primary.label}", f"ew_{species.primary.label}_err", *_SHOWN]


def make_gallery(catalogue: Catalogue, others: Mapping[str, pd.DataFrame]) -> Gallery:
    """Write the page of all systems.

    Parameters
    ----------
    catalogue : Catalogue
        Its absorbers with ``spectrum_id``, ``flags`` and :func:`shown_columns`. Of the sightlines those of the systems are enough.
    others : mapping of DataFrame
        Other catalogue → ``spectrum_id``, ``z_abs`` of its systems.

    Returns
    -------
    Gallery

    Raises
    ------
    StoreError
        Where the spectra cannot be read.
    """
    absorbers, listed, missed, outcomes = catalogue.absorbers, [], [], []
    for number, (name, theirs) in enumerate(others.items()):
        compared = compare(absorbers, catalogue.sightlines, theirs, rounding_of(theirs["z_abs"]))
        listed.append(compared.absorbers["true"].to_numpy(bool))
        missed.append(compared.missed[["spectrum_id", "z_abs"]].assign(catalogue=number))
        recovered = int(listed[-1].sum())
        outcomes.append(CatalogueOutcome(name, recovered, len(missed[-1]), len(absorbers) - recovered))
    lost = [_measured(catalogue, rows) for rows in missed if len(rows)]
    systems = pd.concat([absorbers, *lost], ignore_index=True)
    known_to = [[int(number) for number in np.flatnonzero(row)] for row in np.transpose(listed)] if listed else [[]] * len(absorbers)
    facts = {
        **_pictures(catalogue, systems),
        "catalogues": list(others),
        "n_found": len(absorbers),
        "columns": _columns(catalogue.species, systems),
        "spectrum_id": systems["spectrum_id"].tolist(),
        # Of a system that was found the catalogues that have it too; of one that was missed the one that has it.
        "known_to": known_to + [[int(number)] for rows in lost for number in rows["catalogue"]],
        "flags": [bit_words(value, AbsorberFlag) for value in absorbers["flags"]],
    }
    title = f"All {catalogue.species.name} systems"
    return Gallery(render_scripted("gallery.html", "gallery.js", facts, title=title, outcomes=outcomes), outcomes)


def _measured(catalogue: Catalogue, missed: pd.DataFrame) -> pd.DataFrame:
    """Systems that were missed, with what a fit at their redshift says of them."""
    label = catalogue.species.primary.label
    measured = measure_systems(catalogue, missed)[[f"ew_{label}", f"ew_{label}_err"]].astype(float)
    z_qso = catalogue.sightlines.set_index("spectrum_id")["z_qso"].reindex(missed["spectrum_id"]).to_numpy()
    return pd.concat([missed.assign(z_qso=z_qso), measured], axis=1)


def _columns(species: LineSpecies, systems: pd.DataFrame) -> list[dict[str, Any]]:
    """The columns of a card: name, unit, meaning, and the values of all systems; null where there is none."""
    declared, shown = {column.name: column for column in absorbers_table(species).columns}, []
    for name in shown_columns(species):
        values = systems[name].to_numpy(float) if name in systems else np.full(len(systems), np.nan)
        about = declared[name]
        plain = [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
        shown.append({"name": name, "unit": about.unit.replace("Angstrom", "Å"), "meaning": about.description, "values": plain})
    return shown


def _pictures(catalogue: Catalogue, systems: pd.DataFrame) -> dict[str, Any]:
    """The flux over the continuum and its error about every line of every system, as text, and how it is to be read.

    Of a picture the bytes are those of shape (lines, 2, columns), in base64; ``shift`` is where the first line lies with respect to the
    middle of its row, in pixels, ``fractions`` what is added of the other lines.
    """
    species = catalogue.species
    geometry, lines = ImageGeometry.of(species, LATTICE.step), len(species.transitions)
    exact = LATTICE.pixel(species.primary.wavelength * (1.0 + systems["z_abs"].to_numpy(float)))
    pixel, texts = np.round(exact).astype(np.int64), [""] * len(systems)
    rows_of = {str(name): rows for name, rows in systems.groupby("spectrum_id").indices.items()}
    for names, ready in pixels(catalogue, list(rows_of)):
        residual, weight = residuals(ready.spectra.flux, ready.spectra.ivar, ready.continuum, ready.spectra.mask)
        taken = [rows_of[str(name)] for name in names]
        rows, spectrum = np.concatenate(taken), np.repeat(np.arange(len(taken)), [len(some) for some in taken])
        images = [cut_images(values, spectrum, pixel[rows], geometry)[:, :lines] for values in (residual, np.sqrt(weight))]
        for row, coded in zip(rows, _coded(*images), strict=True):
            texts[row] = base64.b64encode(coded.tobytes()).decode("ascii")
    return {
        "lines": [str(line) for line in species.transitions],
        "doublet": [geometry.primary, geometry.secondary],
        "pixel_kms": LATTICE.pixel_kms,
        "coding": {"unit": _UNIT, "least": _LEAST, "unused": _UNUSED, "columns": geometry.shape[1]},
        "fractions": np.round(geometry.fractions[:lines], 2).tolist(),
        "shift": np.round(exact - pixel, 2).tolist(),
        "pictures": texts,
    }


def _coded(residual: NDArray[np.float32], inverse_error: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Images of shape (m, t, c) as bytes of shape (m, t, 2, c)."""
    used = inverse_error > 0
    error = 1.0 / np.where(used, inverse_error, 1.0)
    both = np.stack([(1.0 - residual - _LEAST) / _UNIT, error / _UNIT], axis=2)
    return np.where(used[:, :, None], np.clip(np.rint(both), 0, _UNUSED - 1), _UNUSED).astype(np.uint8)

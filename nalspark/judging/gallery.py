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

from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, cut_images
from nalspark.absorption.measure import AbsorberFlag
from nalspark.absorption.normalize import residuals
from nalspark.judging.inputs import Catalogue, pixels_of
from nalspark.judging.match import compare, rounding_of
from nalspark.judging.strength import measure_at
from nalspark.lines import LineSpecies
from nalspark.plots.pages import render_scripted
from nalspark.plots.report import CatalogueOutcome
from nalspark.spectra.grid import LATTICE
from nalspark.tables.data_model import bit_words
from nalspark.tables.schemas import absorbers_table

#: A catalogue of more systems has no gallery, nor has one where other catalogues have more, or all these lie in more parts.
MOST_SYSTEMS, MOST_PARTS = 3000, 300
#: Columns that a card shows, behind the redshift and the equivalent width of the first line.
_SHOWN = ("significance", "score", "fwhm_kms", "doublet_ratio", "z_qso", "velocity_kms")
#: The flux over the continuum, and its error, as bytes: one unit, the least flux; 255 where a pixel is not used.
_UNIT, _LEAST, _UNUSED = 0.01, -0.5, 255


@dataclass(frozen=True)
class Gallery:
    """The page, and what became of the systems of other catalogues.

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
    return ["z_abs", *_widths(species), *_SHOWN]


def _widths(species: LineSpecies) -> tuple[str, str]:
    """The columns of the first line's equivalent width and of its error."""
    return f"ew_{species.primary.label}", f"ew_{species.primary.label}_err"


def make_gallery(catalogue: Catalogue, others: Mapping[str, pd.DataFrame]) -> Gallery:
    """Write the page of all systems.

    Parameters
    ----------
    catalogue : Catalogue
        Its absorbers with ``spectrum_id``, ``flags`` and :func:`shown_columns`, its sightlines with ``covered`` too. Of these those of the
        systems are enough.
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
    absorbers, sightlines = catalogue.absorbers, catalogue.sightlines
    covered_by = sightlines.set_index("spectrum_id")["covered"].reindex(absorbers["spectrum_id"])
    verdicts, missed, outcomes = [], [], []
    for number, (name, theirs) in enumerate(others.items()):
        compared = compare(absorbers, sightlines, theirs, rounding_of(theirs["z_abs"]))
        recovered = compared.absorbers["true"].to_numpy(bool)
        covered = np.array([isinstance(names, np.ndarray | list) and name in names for names in covered_by], dtype=bool)
        verdicts.append(np.where(recovered, "recovered", np.where(covered, "new", "")))
        missed.append(compared.missed[["spectrum_id", "z_abs"]].assign(catalogue=number))
        n_recovered, n_missed = int(recovered.sum()), len(missed[-1])
        n_outside, n_new = len(theirs) - n_recovered - n_missed, int((covered & ~recovered).sum())
        outcomes.append(CatalogueOutcome(name, n_recovered, n_missed, n_outside, n_new))
    z_qso = sightlines.set_index("spectrum_id")["z_qso"]
    lost = [rows.assign(z_qso=z_qso.reindex(rows["spectrum_id"]).to_numpy()) for rows in missed if len(rows)]
    systems = pd.concat([absorbers, *lost], ignore_index=True)
    pictures, widths = _looked_at(catalogue, systems, len(absorbers))
    facts = {
        **_geometry(catalogue.species, systems),
        "pictures": pictures,
        "catalogues": list(others),
        "n_found": len(absorbers),
        "columns": _columns(catalogue.species, systems.assign(**widths)),
        "spectrum_id": systems["spectrum_id"].tolist(),
        # Of a system that was found one for each catalogue; of one that was missed the number of the catalogue that has it.
        "verdicts": [list(row) for row in zip(*verdicts, strict=True)] if verdicts else [[]] * len(absorbers),
        "missed_of": [int(number) for rows in lost for number in rows["catalogue"]],
        "flags": [bit_words(value, AbsorberFlag) for value in absorbers["flags"]],
    }
    title, within = f"All {catalogue.species.name} systems", round((HALF_WIDTH + 0.5) * LATTICE.pixel_kms, -1)
    return Gallery(render_scripted("gallery.html", "gallery.js", facts, title=title, outcomes=outcomes, within_kms=within), outcomes)


def _columns(species: LineSpecies, systems: pd.DataFrame) -> list[dict[str, Any]]:
    """The columns of a card: name, unit, meaning, and the values of all systems; null where there is none."""
    declared, shown = {column.name: column for column in absorbers_table(species).columns}, []
    for name in shown_columns(species):
        values = systems[name].to_numpy(float) if name in systems else np.full(len(systems), np.nan)
        about = declared[name]
        plain = [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
        shown.append({"name": name, "unit": about.unit.replace("Angstrom", "Å"), "meaning": about.description, "values": plain})
    return shown


def _geometry(species: LineSpecies, systems: pd.DataFrame) -> dict[str, Any]:
    """How the pictures are read: their lines, their bytes, and where a line lies with respect to the middle of its row, in pixels.

    That is ``shift``, of the first line of every system, and what is added for each of the lines.
    """
    geometry, lines = ImageGeometry.of(species, LATTICE.step), len(species.transitions)
    exact = LATTICE.pixel(species.primary.wavelength * (1.0 + systems["z_abs"].to_numpy(float)))
    return {
        "width": _widths(species)[0],
        "lines": [str(line) for line in species.transitions],
        "doublet": [geometry.primary, geometry.secondary],
        "coding": {"unit": _UNIT, "least": _LEAST, "unused": _UNUSED, "columns": geometry.shape[1]},
        "fractions": np.round(geometry.fractions[:lines], 2).tolist(),
        "shift": np.round(exact - np.round(exact), 2).tolist(),
    }


def _looked_at(catalogue: Catalogue, systems: pd.DataFrame, n_found: int) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """The picture of every system, and the equivalent width of the first line with its error, in one pass over the spectra.

    A picture is the flux over the continuum and its error about every line: bytes of shape (lines, 2, columns), in base64; empty where the
    spectrum is not there. The widths of the first `n_found` are those of the catalogue, of the others what a fit at their redshift gives.
    """
    species = catalogue.species
    geometry, lines, z_abs = ImageGeometry.of(species, LATTICE.step), len(species.transitions), systems["z_abs"].to_numpy(float)
    pixel, texts = np.round(LATTICE.pixel(species.primary.wavelength * (1.0 + z_abs))).astype(np.int64), [""] * len(systems)
    widths = {name: systems[name].to_numpy(float, copy=True) for name in _widths(species)}
    for rows, spectrum, ready in pixels_of(catalogue, systems["spectrum_id"]):
        residual, weight = residuals(ready.spectra.flux, ready.spectra.ivar, ready.continuum, ready.spectra.mask)
        images = [cut_images(values, spectrum, pixel[rows], geometry)[:, :lines] for values in (residual, np.sqrt(weight))]
        for row, coded in zip(rows, _coded(*images), strict=True):
            texts[row] = base64.b64encode(coded.tobytes()).decode("ascii")
        lost = rows >= n_found
        if lost.any():
            fitted = measure_at(ready.spectra.take(spectrum[lost]), ready.continuum[spectrum[lost]], z_abs[rows[lost]], species)
            for name, values in widths.items():
                values[rows[lost]] = fitted[name]
    return texts, widths


def _coded(residual: NDArray[np.float32], inverse_error: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Images of shape (m, t, c) as bytes of shape (m, t, 2, c)."""
    used = inverse_error > 0
    error = 1.0 / np.where(used, inverse_error, 1.0)
    both = np.stack([(1.0 - residual - _LEAST) / _UNIT, error / _UNIT], axis=2)
    return np.where(used[:, :, None], np.clip(np.rint(both), 0, _UNUSED - 1), _UNUSED).astype(np.uint8)

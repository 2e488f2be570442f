"""The report of a run: one HTML file that needs nothing else, for a reader who did not make the run.

The page is ``templates/report.html``: everything that comes from files or settings is escaped; figures are embedded; there are no scripts
and no links to other hosts. It depends on :class:`ReportData` only: no clock.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from nalspark.errors import INTERNAL_ERROR
from nalspark.lines import SPECIES
from nalspark.plots.evaluation import curves_figure, fractions_figure
from nalspark.plots.figures import (
    GalleryItem,
    absorber_figure,
    doublet_ratio_figure,
    histogram_figure,
    incidence_figure,
    path_figure,
    path_per_bin,
)
from nalspark.plots.pages import render


class Rejected(NamedTuple):
    """Files or spectra that one stage rejected for one reason."""

    stage: str
    reason: str
    n: int
    example: str


class BitCount(NamedTuple):
    """How many rows have one bit of a flag column, and what it means."""

    name: str
    n: int
    meaning: str = ""


class CatalogueMatch(NamedTuple):
    """The crossmatch with one catalogue, both ways round."""

    catalogue: str
    rows: int
    matched: int
    unmatched: int
    spectra_by_id: int
    spectra_by_sky: int
    spectra_unmatched: int


class CatalogueOutcome(NamedTuple):
    """What became of another catalogue's systems, and how many of ours are new to it.

    Recovered: ours has it. Missed: ours lacks it in the searched path; outside: where nothing was searched. New: in a spectrum that the
    other catalogue covers, only ours has it.
    """

    catalogue: str
    recovered: int
    missed: int
    outside: int
    new: int


class Picture(NamedTuple):
    """An embedded picture: its address, its size in pixels, what it shows in words, and the width in which it is shown."""

    source: str
    width: int
    height: int
    alt: str
    shown: int | None = None


class Card(NamedTuple):
    """An absorber in a gallery: its picture, and what the picture's title has no room for."""

    picture: Picture
    facts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RatioSample:
    """Absorbers for the figure of doublet ratios: arrays of shape (m,); a sample of some thousands is enough."""

    ew: ArrayLike
    ratio: ArrayLike
    ratio_err: ArrayLike
    flagged: ArrayLike
    thin_ratio: float


@dataclass(frozen=True, kw_only=True)
class WorthData:
    """What the catalogue is worth.

    Attributes
    ----------
    curves, panels : mapping of DataFrame
        Label → fractions found of absorbers put in, by W / σ_W for ranges of W, and by single quantities: as
        :func:`nalspark.plots.evaluation.curves_figure` and :func:`nalspark.plots.evaluation.fractions_figure` take them.
    n_decoys, n_separations, n_pieces : int
        Doublets of so many wrong separations that the catalogue would have, and possible pieces of wide systems.
    by_decoys, by_score : float
        The purity by them, and by the scores.
    """

    curves: Mapping[str, pd.DataFrame]
    panels: Mapping[str, pd.DataFrame]
    n_decoys: int
    n_separations: int
    n_pieces: int
    by_decoys: float
    by_score: float


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that the report shows; the caller has aggregated it.

    Attributes
    ----------
    title, species, version : str
        Heading, line species, and the nalspark version that made the run.
    settings : mapping of str to str
        Dotted key → value.
    counts : mapping of str to int
        In the order of the pipeline: files, spectra, sightlines, candidates, absorbers, … The shares of the flags are of ``absorbers``.
    rejections : sequence of Rejected
        Those with the reason ``internal_error`` get a sentence of their own.
    flags : sequence of BitCount
        Bits of the absorbers. A row can have several.
    histograms : mapping
        Name → (edges of shape (b + 1,), counts of shape (b,)). The names that are columns of the catalogue get their axis labels here.
    in_path : array, shape (b,)
        Of the absorbers in the histogram of ``z_abs`` those within the searched redshifts: they give the absorbers per unit path.
    path : pair of arrays, shape (k,)
        Absorption redshifts, ascending, and the number of sightlines searched there.
    seen : mapping
        W (Å) → the number of sightlines, at the redshifts of `path`, in which an absorber of W would be seen.
    worth : WorthData, optional
    catalogue_matches : sequence of CatalogueMatch
    outcomes : sequence of CatalogueOutcome
        In the same result, where it is small enough for a gallery of all systems.
    has_gallery : bool
        Whether ``gallery.html`` lies beside the report.
    gallery_strongest, gallery_doubtful : sequence of GalleryItem
    doublet_ratios : RatioSample, optional
    """

    title: str
    species: str
    version: str
    settings: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    rejections: Sequence[Rejected] = ()
    flags: Sequence[BitCount] = ()
    histograms: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    in_path: ArrayLike = ()
    path: tuple[ArrayLike, ArrayLike] = ((), ())
    seen: Mapping[float, ArrayLike] = field(default_factory=dict)
    worth: WorthData | None = None
    catalogue_matches: Sequence[CatalogueMatch] = ()
    outcomes: Sequence[CatalogueOutcome] = ()
    has_gallery: bool = False
    gallery_strongest: Sequence[GalleryItem] = ()
    gallery_doubtful: Sequence[GalleryItem] = ()
    doublet_ratios: RatioSample | None = None


#: Histogram → axis label, what is counted, and whether the counts need a logarithmic axis.
_AXES = {
    "z_abs": ("absorption redshift", "absorbers", False),
    "z_qso": ("quasar redshift", "sightlines", False),
    "snr": ("median signal-to-noise ratio per pixel", "sightlines", False),
    "significance": ("significance of the detection (σ)", "absorbers", True),
    "fwhm_kms": ("FWHM, instrument removed (km/s)", "absorbers", False),
}

#: Column → what the title of a card has no room for.
_FACTS = {
    "ra": "RA {:.4f}°", "dec": "Dec {:+.4f}°", "z_qso": "quasar at z = {:.4f}", "velocity_kms": "{:,.0f} km/s from it",
    "fwhm_kms": "FWHM {:.0f} km/s", "significance": "significance {:.1f} σ", "chi2_reduced": "reduced χ² {:.2f}",
}  # fmt: skip
#: Cards beyond this number are drawn smaller, so that a gallery of a hundred does not make a page of 20 MB.
_MANY_CARDS = 40
#: Pixels in which a figure across the page is shown.
_WIDE = 860


def render_report(data: ReportData) -> str:
    """Write the report as one self-contained HTML page.

    Parameters
    ----------
    data : ReportData

    Returns
    -------
    str
        HTML with embedded style and figures; the same data give the same text.
    """
    species, (z, sightlines) = SPECIES[data.species], (np.asarray(values, dtype=float) for values in data.path)
    n_cards = len(data.gallery_strongest) + len(data.gallery_doubtful)
    filled = {name: pair for name, pair in data.histograms.items() if np.nansum(np.asarray(pair[1], dtype=float)) > 0}
    return render(
        "report.html",
        title=data.title,
        data=data,
        species=str(species.primary).rpartition(" ")[0],
        n_rejected=sum(row.n for row in data.rejections),
        n_faults=sum(row.n for row in data.rejections if row.reason == INTERNAL_ERROR),
        window=species.window_rest,
        path=_path(z, sightlines, data.seen),
        worth=_worth(data.worth),
        total_path=float(path_per_bin([z[0], z[-1]], z, sightlines)[0]) if z.size else 0.0,
        histograms=[_histogram(name, *pair) for name, pair in filled.items()],
        empty=[name for name in data.histograms if name not in filled],
        incidence=_incidence(data, z, sightlines),
        ratios=_ratios(data.doublet_ratios),
        strongest=_cards(data.gallery_strongest, n_cards),
        doubtful=_cards(data.gallery_doubtful, n_cards),
    )


def _path(z: np.ndarray, sightlines: np.ndarray, seen: Mapping[float, ArrayLike]) -> Picture | None:
    if not np.nansum(sightlines) > 0:
        return None
    alt = f"Sightlines searched against absorption redshift, from {z[0]:.2f} to {z[-1]:.2f}; at most {np.nanmax(sightlines):,.0f}."
    return embed(png(path_figure(z, sightlines, seen)), alt, _WIDE)


def _worth(worth: WorthData | None) -> list[Picture]:
    if worth is None:
        return []
    fraction = "fraction found"
    curves = curves_figure(worth.curves, "W / σ_W", fraction), "Fraction found of absorbers put in, against W over its error."
    panels = fractions_figure(worth.panels, fraction), "Fraction found of absorbers put in, by equivalent width, redshift and S/N."
    return [embed(png(figure), alt, _WIDE) for figure, alt in (curves, panels)]


def _histogram(name: str, edges: ArrayLike, counts: ArrayLike) -> Picture:
    width = f"rest equivalent width W({name[3:]}) (Å)", "absorbers", True
    label, what, log_counts = width if name.startswith("ew_") else _AXES.get(name, (name, "rows", False))
    total, low, high = np.nansum(np.asarray(counts, dtype=float)), np.asarray(edges)[0], np.asarray(edges)[-1]
    alt = f"Histogram of {total:,.0f} {what} against {label}, from {low:g} to {high:g}."
    return embed(png(histogram_figure(edges, counts, label, what, log_counts=log_counts)), alt)


def _incidence(data: ReportData, z: np.ndarray, sightlines: np.ndarray) -> Picture | None:
    if not np.size(data.in_path) or not np.nansum(sightlines) > 0:
        return None
    edges, _ = data.histograms.get("z_abs", ((), ()))
    figure = incidence_figure(edges, data.in_path, path_per_bin(edges, z, sightlines))
    return embed(png(figure), "Absorbers per unit searched path against absorption redshift, with Poisson errors.", _WIDE)


def _ratios(sample: RatioSample | None) -> Picture | None:
    if sample is None or not np.isfinite(np.asarray(sample.ratio, dtype=float)).any():
        return None
    figure = doublet_ratio_figure(sample.ew, sample.ratio, sample.ratio_err, sample.flagged, sample.thin_ratio)
    alt = f"Doublet ratio against equivalent width of {np.size(sample.ew):,} absorbers, with the physical range shaded."
    return embed(png(figure), alt, _WIDE)


def _cards(items: Sequence[GalleryItem], n_cards: int) -> list[Card]:
    """The cards of a gallery in a report with so many: of many each is drawn smaller."""
    return [_card(item, png(absorber_figure(item), dpi=110 if n_cards <= _MANY_CARDS else 70)) for item in items]


def _card(item: GalleryItem, picture: bytes) -> Card:
    name = str(item.absorber.get("spectrum_id") or "an unnamed spectrum")
    remarks = f" Flags: {', '.join(item.remarks)}." if item.remarks else ""
    alt = f"Spectrum {name} with an absorber at redshift {item.value('z_abs'):.5f}, and its transitions in velocity.{remarks}"
    facts = [text.format(item.value(column)) for column, text in _FACTS.items() if math.isfinite(item.value(column))]
    return Card(embed(picture, alt), facts)


def png(figure: Figure, *, dpi: int = 150) -> bytes:
    """Draw a figure as PNG. A palette keeps it at a third of the size, with no loss that the eye sees in a line drawing."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    # All 256 colours: with fewer, the many greys of the data take those of a thin red line.
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG")
    return buffer.getvalue()


def embed(picture: bytes, alt: str, shown: int | None = None) -> Picture:
    """Make a PNG part of a page, described by `alt`; `shown` is the width in which it is shown, pixels."""
    with Image.open(io.BytesIO(picture)) as opened:
        return Picture("data:image/png;base64," + base64.b64encode(picture).decode("ascii"), *opened.size, alt, shown)

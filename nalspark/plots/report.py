"""The report of a run: one HTML file that needs nothing else, for a reader who did not make the run.

Everything that comes from files or settings is escaped; figures are embedded; there are no scripts and no links to other hosts. The page
depends on :class:`ReportData` only: no clock.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from nalspark.lines import SPECIES
from nalspark.plots.figures import (
    GalleryItem,
    absorber_figure,
    doublet_ratio_figure,
    histogram_figure,
    incidence_figure,
    path_figure,
    path_per_bin,
)


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


@dataclass(frozen=True, kw_only=True)
class RatioSample:
    """Absorbers for the figure of doublet ratios: arrays of shape (m,); a sample of some thousands is enough."""

    ew: ArrayLike
    ratio: ArrayLike
    ratio_err: ArrayLike
    flagged: ArrayLike
    thin_ratio: float


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
    flags, vetoes : sequence of BitCount
        Bits of the absorbers, and of the candidates that are not absorbers. A row can have several.
    histograms : mapping
        Name → (edges of shape (b + 1,), counts of shape (b,)). The names that are columns of the catalogue get their axis labels here.
    in_path : array, shape (b,)
        Of the absorbers in the histogram of ``z_abs`` those within the searched redshifts: they give the absorbers per unit path.
    path : pair of arrays, shape (k,)
        Absorption redshifts, ascending, and the number of sightlines searched there.
    catalogue_matches : sequence of CatalogueMatch
    gallery_strongest, gallery_doubtful : sequence of str
        HTML, from :func:`card`.
    doublet_ratios : RatioSample, optional
    """

    title: str
    species: str
    version: str
    settings: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    rejections: Sequence[Rejected] = ()
    flags: Sequence[BitCount] = ()
    vetoes: Sequence[BitCount] = ()
    histograms: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    in_path: ArrayLike = ()
    path: tuple[ArrayLike, ArrayLike] = ((), ())
    catalogue_matches: Sequence[CatalogueMatch] = ()
    gallery_strongest: Sequence[str] = ()
    gallery_doubtful: Sequence[str] = ()
    doublet_ratios: RatioSample | None = None


#: Histogram → axis label, what is counted, and whether the counts need a logarithmic axis.
_AXES = {
    "z_abs": ("absorption redshift", "absorbers", False),
    "z_qso": ("quasar redshift", "sightlines", False),
    "snr": ("median signal-to-noise ratio per pixel", "sightlines", False),
    "redshift_path": ("searched redshift path Δz", "sightlines", False),
    "significance": ("significance of the detection (σ)", "absorbers", True),
    "score": ("score", "absorbers", True),
    "doublet_ratio": ("doublet ratio", "absorbers", False),
    "fwhm_kms": ("FWHM, instrument removed (km/s)", "absorbers", False),
    "velocity_kms": ("velocity from the quasar (km/s)", "absorbers", False),
    "chi2_reduced": ("reduced χ² of the fit", "absorbers", False),
}

_CSS = """
:root { --ink: #222; --muted: #5f6670; --line: #dde1e6; --soft: #f5f7f9; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, sans-serif; }
main, header > div, nav > div { max-width: 1080px; margin: 0 auto; padding: 0 28px; }
header { border-bottom: 1px solid var(--line); background: var(--soft); padding: 30px 0 22px; }
h1 { margin: 0 0 4px; font-size: 1.75rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 52px 0 10px; padding-top: 4px; font-size: 1.3rem; border-bottom: 2px solid var(--line); padding-bottom: 6px; }
h3 { margin: 28px 0 8px; font-size: 1.02rem; }
p { max-width: 74ch; margin: 8px 0 14px; }
.sub, .note, figcaption { color: var(--muted); }
.note, figcaption { font-size: .9rem; }
nav { border-bottom: 1px solid var(--line); font-size: .92rem; }
nav a { display: inline-block; padding: 10px 22px 10px 0; color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 20px 0 8px; padding: 0; }
.tiles div { border: 1px solid var(--line); border-radius: 6px; padding: 12px 16px; }
.tiles dt { color: var(--muted); font-size: .88rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: 12px 0 20px; }
th { text-align: left; font-weight: 600; color: var(--muted); border-bottom: 2px solid var(--line); padding: 6px 14px 6px 0;
  vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 6px 14px 6px 0; vertical-align: top; overflow-wrap: anywhere; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
td.n { white-space: nowrap; }
td code { overflow-wrap: normal; }
code { font: .88em ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 18px 24px; }
figure { margin: 12px 0; }
figure img { display: block; max-width: 100%; height: auto; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 14px 16px 4px; margin: 18px 0; break-inside: avoid; }
.card figure { margin: 0; }
.card .note { max-width: none; margin: 8px 0; font-size: .84rem; }
.settings { columns: 2; column-gap: 40px; font-size: .9rem; padding: 0; }
.settings div { break-inside: avoid; display: flex; justify-content: space-between; gap: 16px; border-bottom: 1px solid var(--line);
  padding: 3px 0; }
.settings dt { flex: none; max-width: 60%; }
.settings dd { margin: 0; text-align: right; min-width: 0; overflow-wrap: anywhere; }
footer { margin: 60px 0 40px; color: var(--muted); font-size: .88rem; }
@media (max-width: 640px) { .settings { columns: 1; } .grid { grid-template-columns: 1fr; } table { display: block; overflow-x: auto; } }
"""

#: Cards beyond this number are drawn smaller, so that a gallery of a hundred does not make a page of 20 MB.
_MANY_CARDS = 40


def render_report(data: ReportData) -> str:
    """The report as one self-contained HTML page.

    Parameters
    ----------
    data : ReportData

    Returns
    -------
    str
        HTML with embedded style and figures; the same data give the same text.
    """
    sections = (
        ("Searched", "What was searched", _searched(data)),
        ("Found", "What was found", _distributions(data)),
        ("Catalogues", "Comparison with catalogues", _catalogues(data)),
        ("Flags", "Flags and vetoes", _flags(data)),
        ("Strongest", "Strongest absorbers", _gallery(data.gallery_strongest, _STRONGEST)),
        ("Doubtful", "Most doubtful absorbers", _gallery(data.gallery_doubtful, _DOUBTFUL)),
        ("Settings", "Settings", _settings(data)),
    )
    shown = [(name, heading, body) for name, heading, body in ((n, h, "\n".join(parts)) for n, h, parts in sections) if body]
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name, _, _ in shown)
    bodies = "\n".join(f'<section id="{name.lower()}"><h2>{heading}</h2>\n{body}</section>' for name, heading, body in shown)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(data.title)}</title>\n'
        f"<style>{_CSS}</style></head>\n<body><header><div><h1>{escape(data.title)}</h1>"
        f'<p class="sub">Narrow {escape(_spaced(data.species))} absorption in quasar spectra · nalspark {escape(data.version)}</p>'
        f"{_tiles(data.counts)}</div></header>\n<nav><div>{links}</div></nav>\n<main>\n{bodies}\n"
        f"<footer>Generated by nalspark {escape(data.version)} from the tables beside it. Column names and units: docs/data_model.md."
        f"</footer>\n</main></body></html>\n"
    )


# ---- sections: each yields HTML, nothing where there is nothing to say


def _searched(data: ReportData) -> Iterable[str]:
    rejected = sum(row[2] for row in data.rejections)
    yield (
        "<p>Every file is accounted for: it is either a <em>sightline</em>, a quasar spectrum in which absorption was searched over a "
        "known range of redshifts, or it is rejected, with the stage and the reason. A sightline without an absorber is a non-detection, "
        "not a gap.</p>"
    )
    if data.rejections:
        rows = [
            (escape(str(stage)), f"<code>{escape(str(reason))}</code>", _number(n), escape(str(example or "")))
            for stage, reason, n, example in data.rejections
        ]
        yield f"<h3>Not searched: {_number(rejected)} files or spectra</h3>"
        yield _table(("stage", "reason", "#rows", "for example"), rows)
    else:
        yield "<p>No file was rejected.</p>"
    z, sightlines = (np.asarray(values, dtype=float) for values in data.path)
    yield "<h3>Searched redshift path</h3>"
    if not np.nansum(sightlines) > 0:
        yield '<p class="note">No redshift was searched in any spectrum.</p>'
        return
    total = float(path_per_bin([z[0], z[-1]], z, sightlines)[0])
    blue, red = SPECIES[data.species].window_rest
    yield (
        "<p>The number of sightlines in which an absorber of redshift z could have been seen: its lines lie in the spectrum, in the window "
        f"between the quasar's emission lines ({blue:g} to {red:g} Å in the quasar's frame), and on usable pixels. Numbers of absorbers "
        "must be divided by it to become rates. "
        f"Its integral, the total path, is Δz = {total:,.1f}.</p>"
    )
    alt = f"Sightlines searched against absorption redshift, from {z[0]:.2f} to {z[-1]:.2f}; at most {np.nanmax(sightlines):,.0f}."
    yield _image(path_figure(z, sightlines), alt, width=860)


def _distributions(data: ReportData) -> Iterable[str]:
    filled = {name: pair for name, pair in data.histograms.items() if np.nansum(np.asarray(pair[1], dtype=float)) > 0}
    empty = [name for name in data.histograms if name not in filled]
    if not data.counts.get("absorbers", 1):
        yield "<p>No absorber was found. The tables of sightlines and rejections are complete all the same.</p>"
    if filled:
        yield "<p>Absorbers are counted as published, whatever their flags; sightlines, with or without absorbers.</p>"
        yield '<div class="grid">'
        for name, (edges, counts) in filled.items():
            label, what, log_counts = _axis(name)
            total, low, high = np.nansum(np.asarray(counts, dtype=float)), np.asarray(edges)[0], np.asarray(edges)[-1]
            alt = f"Histogram of {total:,.0f} {what} against {label}, from {low:g} to {high:g}."
            yield _image(histogram_figure(edges, counts, label, what, log_counts=log_counts), alt)
        yield "</div>"
    if empty:
        yield f'<p class="note">Nothing to show for: {escape(", ".join(empty))}.</p>'
    yield from _incidence(data)
    sample = data.doublet_ratios
    if sample is not None and np.isfinite(np.asarray(sample.ratio, dtype=float)).any():
        yield (
            "<h3>Doublet ratio</h3><p>Atomic physics lets the ratio of the two equivalent widths lie between 1 (saturated) and "
            f"{sample.thin_ratio:.2f} (optically thin): the shaded band. Points far outside, in view of their errors, are not simple "
            "doublets.</p>"
        )
        figure = doublet_ratio_figure(sample.ew, sample.ratio, sample.ratio_err, sample.flagged, sample.thin_ratio)
        alt = f"Doublet ratio against equivalent width of {np.size(sample.ew):,} absorbers, with the physical range shaded."
        yield _image(figure, alt, 860)


def _incidence(data: ReportData) -> Iterable[str]:
    edges, _ = data.histograms.get("z_abs", ((), ()))
    z, sightlines = data.path
    if not np.size(data.in_path) or not np.nansum(np.asarray(sightlines, dtype=float)) > 0:
        return
    yield (
        "<h3>Absorbers per unit path</h3><p>Absorbers found within the searched redshifts (those without the flag "
        "<code>OFF_PATH</code>), divided by the path searched, in bins of redshift. The errors are Poisson's alone. Nothing is corrected "
        "for completeness or purity: the curve follows the survey's signal-to-noise ratio as well as the absorbers on the sky.</p>"
    )
    figure = incidence_figure(edges, data.in_path, path_per_bin(edges, z, sightlines))
    yield _image(figure, "Absorbers per unit searched path against absorption redshift, with Poisson errors.", 860)


def _catalogues(data: ReportData) -> Iterable[str]:
    if not data.catalogue_matches:
        return
    yield (
        "<p>Each catalogue that was given, and how it meets the spectra: first by plate, date and fiber, then by position on the sky. Rows "
        "without a spectrum are objects whose file was not among the input.</p>"
    )
    heads = ("catalogue", "#rows", "#with a spectrum", "#without", "#spectra by id", "#by position", "#unmatched")
    yield _table(heads, [(escape(name), *(_number(n) for n in numbers)) for name, *numbers in data.catalogue_matches])


def _flags(data: ReportData) -> Iterable[str]:
    if data.flags:
        yield "<h3>Flags of the absorbers</h3>"
        yield (
            "<p>A flag is a remark, not a verdict: flagged absorbers stay in the catalogue, so that each study can make its own cut. "
            "One absorber can have several.</p>"
        )
        yield _bits(data.flags, "flag", data.counts.get("absorbers"))
    if data.vetoes:
        yield "<h3>Why candidates are not absorbers</h3>"
        yield (
            "<p>The search proposes more candidates than there are absorbers. These are the tests that the others failed, often several "
            "at once.</p>"
        )
        yield _bits(data.vetoes, "veto", None)


_STRONGEST = (
    "The strongest absorbers: if these do not convince, nothing in the catalogue will. Above, the spectrum with its continuum and the "
    "searched range; below, each transition at the fitted redshift, the flux divided by the continuum."
)
_DOUBTFUL = (
    "The absorbers nearest to the detection threshold, or with the most remarks. Some of them may be noise: they show what the threshold "
    "admits."
)


def card(item: GalleryItem, n_cards: int) -> str:
    """A card of one of the report's galleries, HTML, with its picture.

    Parameters
    ----------
    item : GalleryItem
    n_cards : int
        How many the report will have: of many each is drawn smaller.
    """
    name = str(item.absorber.get("spectrum_id") or "an unnamed spectrum")
    remarks = f" Flags: {', '.join(item.remarks)}." if item.remarks else ""
    alt = f"Spectrum {name} with an absorber at redshift {item.value('z_abs'):.5f}, and its transitions in velocity.{remarks}"
    picture = _image(absorber_figure(item), alt, dpi=110 if n_cards <= _MANY_CARDS else 70)
    return f'<div class="card">{picture}{_facts(item)}</div>'


def _gallery(gallery: Sequence[str], introduction: str) -> Iterable[str]:
    if not gallery:
        return
    yield f"<p>{introduction}</p>"
    yield (
        '<p class="note">Black: data, with the 1σ error as a blue band. Red: the fitted doublet (solid) and lines measured at its redshift '
        "(dashed). Orange: continuum. Grey: pixels that are not used.</p>"
    )
    yield from gallery


def _facts(item: GalleryItem) -> str:
    """What the card's title has no room for."""
    facts = []
    for column, text, form in (
        ("ra", "RA {}°", ".4f"), ("dec", "Dec {}°", "+.4f"), ("z_qso", "quasar at z = {}", ".4f"),
        ("velocity_kms", "{} km/s from it", ",.0f"), ("fwhm_kms", "FWHM {} km/s", ".0f"),
        ("significance", "significance {} σ", ".1f"), ("chi2_reduced", "reduced χ² {}", ".2f"),
    ):  # fmt: skip
        value = item.value(column)
        if math.isfinite(value):
            facts.append(text.format(f"{value:{form}}"))
    return f'<p class="note">{escape(" · ".join(facts))}</p>' if facts else ""


def _settings(data: ReportData) -> Iterable[str]:
    if not data.settings:
        return
    yield (
        "<p>All settings of the run, defaults included. With these, the same files and the same version, the catalogue comes out the "
        "same.</p>"
    )
    pairs = "".join(f"<div><dt><code>{escape(str(k))}</code></dt><dd>{escape(str(v))}</dd></div>" for k, v in data.settings.items())
    yield f'<dl class="settings">{pairs}</dl>'


# ---- pieces


def _tiles(counts: Mapping[str, int]) -> str:
    tiles = "".join(f"<div><dt>{escape(str(name))}</dt><dd>{_number(n)}</dd></div>" for name, n in counts.items())
    return f'<dl class="tiles">{tiles}</dl>' if tiles else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; the columns whose head begins with # are numbers."""
    css = [' class="n"' if head.startswith("#") else "" for head in heads]
    head = "".join(f"<th{c}>{escape(text.lstrip('#'))}</th>" for c, text in zip(css, heads, strict=True))
    body = "".join("<tr>" + "".join(f"<td{c}>{cell}</td>" for c, cell in zip(css, row, strict=True)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bits(bits: Sequence[BitCount], what: str, total: int | None) -> str:
    rows = []
    for name, n, *meaning in bits:
        share = f"{100.0 * n / total:.1f} %" if total else ""
        cells = (f"<code>{escape(name)}</code>", _prose(meaning[0] if meaning else ""), _number(n))
        rows.append((*cells, share) if total else cells)
    return _table((what, "meaning", "#rows", "#share") if total else (what, "meaning", "#rows"), rows)


def _prose(text: str) -> str:
    """Escaped text in which what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _number(value: Any) -> str:
    try:
        return f"{int(value):,}"
    except (TypeError, ValueError, OverflowError):
        return "–"


def _spaced(species: str) -> str:
    """``MgII`` as the field writes it: ``Mg II``."""
    stem = species.rstrip("IVX")
    return f"{stem} {species[len(stem) :]}" if stem and stem != species else species


def _axis(name: str) -> tuple[str, str, bool]:
    if name.startswith("ew_"):
        return f"rest equivalent width W({name[3:]}) (Å)", "absorbers", True
    return _AXES.get(name, (name, "rows", False))


def _image(figure: Figure, alt: str, width: int | None = None, *, dpi: int = 150) -> str:
    """A figure as an embedded PNG. A palette keeps it at a third of the size, with no loss that the eye sees in a line drawing."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    # All 256 colours: with fewer, the many greys of the data take those of a thin red line.
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG")
    size = f' style="width:{width}px"' if width else ""
    shape = f' width="{picture.width}" height="{picture.height}"'
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<figure><img{size}{shape} alt="{escape(alt, quote=True)}" src="data:image/png;base64,{encoded}"></figure>'

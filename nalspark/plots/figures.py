"""Figures of a catalogue: arrays in, matplotlib Figure out. Nothing is saved here and no pyplot state is touched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import matplotlib.patches
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nalspark.lines import SPEED_OF_LIGHT_KMS
from nalspark.metrics import poisson_interval
from nalspark.plots.style import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, SHADE, VERMILLION, log_x, new_figure, nothing, panel, styled

Array = NDArray[np.float64]

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_SMALL = (4.6, 2.7)


@dataclass(frozen=True)
class GalleryItem:
    """One absorber, with all that its card shows.

    Attributes
    ----------
    absorber : mapping
        Its row of the absorbers table: column → value; a missing or null column is left out of the card.
    wavelength : ndarray, shape (p,), Å
        Observed vacuum wavelength, constant steps in log λ.
    flux, continuum, error : ndarray, shape (p,), one common unit
        ``error`` is not finite or not positive where the pixel is not used.
    residual, inverse_error : ndarray, shape (t, c)
        The candidate's image: 1 - flux/continuum and its inverse standard error (0 where there is no data).
    fractions : ndarray, shape (t,), pixels
        From each row's middle column to its line (:class:`nalspark.absorption.images.ImageGeometry`).
    lines : sequence of t str
        Names of the transitions, the last word being the label of the columns (``Fe II 2600`` → ``ew_2600``).
    rest : ndarray, shape (t,), Å
        Vacuum rest wavelengths of the transitions.
    doublet : pair of int
        Rows of the first and second line of the doublet.
    pixel : int
        Index in ``wavelength`` of the middle column of the first line's row.
    remarks : sequence of str
        The flags in words; empty where there is nothing to remark.
    searched : sequence of pairs
        Observed wavelengths (Å) between which the first line was searched.
    instrument_sigma_kms : float
        Gaussian σ of the instrument, which the catalogue's FWHM has taken off.
    """

    absorber: Mapping[str, Any]
    wavelength: Array
    flux: Array
    continuum: Array
    error: Array
    residual: Array
    inverse_error: Array
    fractions: Array
    lines: Sequence[str]
    rest: Array
    doublet: tuple[int, int]
    pixel: int
    remarks: Sequence[str] = ()
    searched: Sequence[tuple[float, float]] = ()
    instrument_sigma_kms: float = field(default=69.03, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("wavelength", "flux", "continuum", "error", "residual", "inverse_error", "fractions", "rest"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        pixels, image = self.wavelength.shape, self.residual.shape
        for name, expected in (("flux", pixels), ("continuum", pixels), ("error", pixels), ("inverse_error", image)):
            if getattr(self, name).shape != expected:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {expected}")
        for name in ("fractions", "lines", "rest"):
            if len(getattr(self, name)) != image[0]:
                raise ValueError(f"{name} must have one value for each of the image's {image[0]} rows")

    def value(self, column: str) -> float:
        """Give a number of the absorber's row; NaN where it is missing or null."""
        found = self.absorber.get(column)
        return math.nan if found is None else float(found)

    def label(self, row: int) -> str:
        """Give the label that the catalogue's columns use for a transition (``2796``)."""
        return str(self.lines[row]).split()[-1]


def _clean(values: ArrayLike) -> Array:
    return np.nan_to_num(np.asarray(values, dtype=float), nan=0.0, posinf=0.0, neginf=0.0)


# ---- distributions


@styled
def histogram_figure(edges: ArrayLike, counts: ArrayLike, xlabel: str, ylabel: str = "absorbers", *, log_counts: bool = False) -> Figure:
    """Draw a histogram whose bins the caller counted. The axis is logarithmic where the bins are.

    Parameters
    ----------
    edges : array, shape (b + 1,)
    counts : array, shape (b,)
    xlabel, ylabel : str
        With unit.
    log_counts : bool
        Draw the counts on a logarithmic axis, where they are large enough to need one.
    """
    figure, axes = panel(_SMALL)
    edges, counts = np.asarray(edges, dtype=float), _clean(counts)
    log_counts = log_counts and counts.max(initial=0.0) >= 50
    if len(edges) != len(counts) + 1 and counts.size:
        raise ValueError(f"{len(edges)} edges do not bound {len(counts)} bins")
    if not counts.sum() > 0:
        nothing(axes)
    else:
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.25, baseline=0.5 if log_counts else 0.0)
        axes.stairs(counts, edges, color=BLUE, linewidth=1.2, baseline=0.5 if log_counts else 0.0)
        _count_axis(axes, counts, log_counts)
        if _logarithmic(edges):
            log_x(axes)
        axes.set_xlim(edges[0], edges[-1])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def _count_axis(axes: Axes, counts: Array, log_counts: bool) -> None:
    if log_counts:
        axes.set_yscale("log")
        axes.set_ylim(0.5, 1.6 * counts.max())
        axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    else:
        axes.set_ylim(0, 1.08 * counts.max())
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _logarithmic(edges: Array) -> bool:
    """Whether bins grow by a constant factor."""
    if len(edges) < 4 or edges[0] <= 0:
        return False
    ratios = edges[1:] / edges[:-1]
    return bool(np.ptp(ratios) < 1e-3 * ratios[0] and edges[-1] > 3 * edges[0])


@styled
def path_figure(z: ArrayLike, sightlines: ArrayLike, seen: Mapping[float, ArrayLike] | None = None) -> Figure:
    """Draw the redshift path g(z): in how many sightlines each absorption redshift was searched.

    Parameters
    ----------
    z : array, shape (k,)
        Ascending absorption redshifts.
    sightlines : array, shape (k,)
        Sightlines searched there.
    seen : mapping, optional
        W (Å) → those of them in which an absorber of W would be seen: g(W, z).
    """
    figure, axes = panel((7.2, 2.6))
    z, sightlines = np.asarray(z, dtype=float), _clean(sightlines)
    if not sightlines.sum() > 0:
        nothing(axes, "no redshift was searched")
    else:
        axes.fill_between(z, sightlines, color=GREEN, alpha=0.22, linewidth=0)
        axes.plot(z, sightlines, color=GREEN, linewidth=1.4)
        for number, (ew, those) in enumerate((seen or {}).items()):
            axes.plot(z, _clean(those), color=BLUE, linewidth=0.9, alpha=1.0 - 0.2 * number, label=f"W = {ew:g} Å")
        if seen:
            axes.legend(frameon=False, fontsize=7)
        axes.set_xlim(z[0], z[-1])
        _count_axis(axes, sightlines, log_counts=False)
    axes.set(xlabel="absorption redshift z", ylabel="sightlines searched, g(z)")
    return figure


def path_per_bin(edges: ArrayLike, z: ArrayLike, sightlines: ArrayLike) -> Array:
    """Compute the searched path Δz in each bin: the integral of g(z), shape (b,); 0 beyond the ends of `z`.

    Parameters
    ----------
    edges : array, shape (b + 1,)
    z, sightlines : array, shape (k,)
        As for :func:`path_figure`.
    """
    z, sightlines = np.asarray(z, dtype=float), _clean(sightlines)
    if z.size < 2:
        return np.zeros(max(len(np.asarray(edges)) - 1, 0))
    # The integral of a broken line is not a broken line: take the ends of the bins among its nodes.
    nodes = np.unique(np.concatenate([z, np.clip(np.asarray(edges, dtype=float), z[0], z[-1])]))
    values = np.interp(nodes, z, sightlines)
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(nodes))])
    return np.diff(np.interp(np.asarray(edges, dtype=float), nodes, integral))


@styled
def incidence_figure(edges: ArrayLike, counts: ArrayLike, path: ArrayLike) -> Figure:
    """Draw absorbers per unit of searched path, with exact 1 σ Poisson errors (Gehrels 1986), not corrected for completeness.

    Parameters
    ----------
    edges : array, shape (b + 1,)
        Bins of absorption redshift.
    counts : array, shape (b,)
        Absorbers found.
    path : array, shape (b,)
        Searched path Δz (:func:`path_per_bin`). Bins without path are not drawn.
    """
    figure, axes = panel((7.2, 2.6))
    edges, counts, path = np.asarray(edges, dtype=float), _clean(counts), _clean(path)
    shown = path > 0.01 * path.max(initial=0.0)
    if not shown.any():
        nothing(axes, "no redshift was searched")
    else:
        n, g = counts[shown], path[shown]
        low, high = poisson_interval(n)
        centre, half = 0.5 * (edges[1:] + edges[:-1])[shown], 0.5 * np.diff(edges)[shown]
        axes.errorbar(
            centre, n / g, yerr=np.stack([n - low, high - n]) / g, xerr=half,
            fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.0, markersize=3.5, capsize=0,
        )  # fmt: skip
        axes.set_xlim(edges[0], edges[-1])
        # An empty bin with little path has a long upper error: it must not set the scale.
        axes.set_ylim(0, max(1.25 * float((n / g).max()), float(np.median(high / g))))
    axes.set(xlabel="absorption redshift z", ylabel="absorbers per unit path")
    return figure


@styled
def doublet_ratio_figure(ew: ArrayLike, ratio: ArrayLike, ratio_err: ArrayLike, flagged: ArrayLike, thin_ratio: float) -> Figure:
    """Draw doublet ratio against equivalent width; real doublets lie between 1 (saturated) and the optically thin ratio.

    Parameters
    ----------
    ew : array, shape (m,), rest Å
    ratio, ratio_err : array, shape (m,)
    flagged : array of bool, shape (m,)
        Absorbers with any flag are drawn as open symbols.
    thin_ratio : float
        The ratio of optically thin lines (:attr:`nalspark.lines.LineSpecies.optically_thin_ratio`).
    """
    figure, axes = panel((7.2, 3.0), top=0.3)
    ew, ratio, error = (np.asarray(values, dtype=float) for values in (ew, ratio, ratio_err))
    flagged = np.asarray(flagged, dtype=bool)
    drawable = np.isfinite(ew) & np.isfinite(ratio) & (ew > 0)
    axes.axhspan(1.0, thin_ratio, color=SHADE, zorder=0)
    if not drawable.any():
        nothing(axes)
    for group, colour, face, label in ((~flagged, BLUE, BLUE, "nothing to remark"), (flagged, VERMILLION, "white", "flagged")):
        chosen = group & drawable
        if chosen.any():
            axes.errorbar(
                ew[chosen], ratio[chosen], yerr=np.where(np.isfinite(error[chosen]), error[chosen], 0.0), label=label,
                fmt="o", color=colour, markerfacecolor=face, markersize=3.5, markeredgewidth=0.9, elinewidth=0.5, alpha=0.85,
            )  # fmt: skip
    if drawable.any():
        log_x(axes)
        axes.set_ylim(0.0, 3.5)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    axes.set(xlabel="rest equivalent width of the first line (Å)", ylabel="doublet ratio")
    return figure


# ---- one absorber


@styled
def absorber_figure(item: GalleryItem) -> Figure:
    """Draw the card of one absorber: its spectrum above, each transition in velocity below.

    Parameters
    ----------
    item : GalleryItem
    """
    # A fixed layout and one pair of axes for all transitions: finding a layout for nine panels takes longer than drawing them.
    figure = new_figure((10.4, 4.5), None)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1.0), left=0.06, right=0.99, top=0.86, bottom=0.11, hspace=0.62)
    top, panels = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    _spectrum(top, item)
    _mark_lines(top, item)
    _title(top, item)
    _transitions(panels, item)
    return figure


def _transitions(panels: Axes, item: GalleryItem) -> None:
    """All transitions in velocity, side by side on one pair of axes."""
    rows, velocity, ticks = len(item.lines), velocities(item), np.array([-1000.0, 0.0, 1000.0])
    pitch = (velocity.shape[1] + 5) * _pixel_kms(item)
    panels.set_ylim(*panel_limits(item))
    for row in range(rows):
        _transition(panels, item, row, velocity[row], row * pitch)
    panels.set_xlim(-0.52 * pitch, (rows - 0.48) * pitch)
    panels.set_xticks((np.arange(rows)[:, None] * pitch + ticks).ravel(), [f"{tick:.0f}".replace("-", "−") for tick in ticks] * rows)
    panels.tick_params(axis="x", labelsize=7.5)
    panels.set_ylabel("flux / continuum")
    panels.set_xlabel("velocity from the fitted redshift (km/s)")


@styled
def sightline_figure(spectrum: GalleryItem, absorbers: Sequence[GalleryItem], title: str) -> Figure:
    """Draw one spectrum with all its absorbers: above the spectrum, and below it the transitions of each absorber in velocity.

    Parameters
    ----------
    spectrum : GalleryItem
        Of which the pixels and the searched wavelengths are drawn.
    absorbers : sequence of GalleryItem
        In the same pixels; in the order in which they are drawn.
    title : str
    """
    inches = [2.6] + [3.05] * len(absorbers)
    height = sum(inches)
    figure = new_figure((10.4, height), None)
    base = height
    for number, tall in enumerate(inches):
        base -= tall
        axes = figure.add_axes((0.06, (base + 0.5) / height, 0.93, (tall - (1.45 if number else 1.0)) / height))
        if number:
            _transitions(axes, absorbers[number - 1])
            _title(axes, absorbers[number - 1], above=1.40)
        else:
            _spectrum(axes, spectrum)
            axes.text(0.0, 1.06, title, transform=axes.transAxes, fontsize=10, fontweight="bold", parse_math=False)
            for item in absorbers:
                _mark_lines(axes, item)
    return figure


def _pair(item: GalleryItem, column: str, digits: int) -> str:
    value, error = item.value(column), item.value(f"{column}_err")
    if not math.isfinite(value):
        return "not measured"
    return f"{value:.{digits}f}".replace("-", "−") + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def _title(axes: Axes, item: GalleryItem, above: float = 1.20) -> None:
    first = item.label(item.doublet[0])
    pieces = [
        str(item.absorber.get("spectrum_id") or "spectrum without a name"),
        f"z = {_pair(item, 'z_abs', 5)}",
        f"W({first}) = {_pair(item, f'ew_{first}', 2)} Å",
        f"ratio {_pair(item, 'doublet_ratio', 2)}",
    ]
    if math.isfinite(item.value("score")):
        pieces.append(f"score {item.value('score'):.3f}")
    # Names come from files: a dollar sign in one must not be read as mathematics.
    axes.text(0.0, above, "     ".join(pieces), transform=axes.transAxes, fontsize=10, fontweight="bold", parse_math=False)
    remarks = "flags: " + ", ".join(item.remarks) if item.remarks else "no flags"
    place: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8.5, "parse_math": False}
    axes.text(0.0, above - 0.13, remarks, color=VERMILLION if item.remarks else MUTED, **place)


def _spectrum(axes: Axes, item: GalleryItem) -> None:
    wavelength, flux, continuum, error = item.wavelength, item.flux, item.continuum, item.error
    good = np.isfinite(error) & (error > 0) & np.isfinite(flux)
    _shade(axes, item.searched, color=SHADE)
    axes.step(wavelength, np.where(good, flux, np.nan), where="mid", color=INK, linewidth=0.55, label="flux")
    axes.step(wavelength, np.where(good, error, np.nan), where="mid", color=MUTED, linewidth=0.5, alpha=0.7, label="error")
    seen = np.isfinite(continuum) & (continuum > 0)
    axes.plot(wavelength, np.where(seen, continuum, np.nan), color=ORANGE, linewidth=1.2, label="continuum")
    axes.set(xlabel="observed wavelength, vacuum (Å)", ylabel="flux (rescaled)")
    if good.any():
        axes.set_ylim(*spectrum_limits(item))
        axes.set_xlim(*wavelength[good][[0, -1]])
    else:
        nothing(axes, "no usable pixel")
    handles, labels = axes.get_legend_handles_labels()
    if item.searched:
        handles.append(mpl.patches.Patch(color=SHADE))
        labels.append("searched")
    axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, handlelength=1.4, borderaxespad=0.1)


def spectrum_limits(item: GalleryItem) -> tuple[float, float]:
    """Tell between which fluxes a spectrum is drawn: cosmic rays and the noise at the ends of the detector must not set the scale."""
    good = np.isfinite(item.error) & (item.error > 0) & np.isfinite(item.flux)
    if not good.any():
        return 0.0, 1.0
    seen = good & np.isfinite(item.continuum) & (item.continuum > 0)
    top = float(max(np.percentile(item.flux[good], 99.7), np.percentile(item.continuum[seen], 99.5) if seen.any() else 0.0))
    return min(-0.04 * top, 0.0), 1.28 * top if top > 0 else 1.0


def _mark_lines(axes: Axes, item: GalleryItem) -> None:
    """A tick for every transition at the top of the panel; the doublet's are long.

    The ions' names stand beside them: the doublet's on its left, the others' on their right, where they do not meet.
    """
    low, high = axes.get_xlim()
    groups: dict[tuple[str, bool], list[float]] = {}
    for row, place in enumerate(item.rest * (1.0 + item.value("z_abs"))):
        if low < place < high:
            strong = row in item.doublet
            span = (0.0, 1.0) if strong else (0.90, 1.0)
            axes.axvline(place, *span, color=VERMILLION if strong else BLUE, linewidth=0.8, alpha=0.55 if strong else 0.9, zorder=1)
            groups.setdefault((str(item.lines[row]).rpartition(" ")[0], strong), []).append(place)
    for (ion, strong), group in groups.items():
        for cluster in _clusters(sorted(group), 0.05 * (high - low)):
            at, shift, side = (cluster[0], -3, "right") if strong else (cluster[-1], 3, "left")
            axes.annotate(
                ion, (at, 0.985), xycoords=("data", "axes fraction"), xytext=(shift, 0), textcoords="offset points", ha=side, va="top",
                fontsize=7.5, color=VERMILLION if strong else BLUE, fontweight="bold" if strong else "normal", parse_math=False,
                annotation_clip=True,
            )  # fmt: skip


def _clusters(places: Sequence[float], reach: float) -> list[list[float]]:
    """Ascending places, those nearer than `reach` to their neighbour together: they share one name in the picture."""
    clusters: list[list[float]] = []
    for place in places:
        if clusters and place - clusters[-1][-1] < reach:
            clusters[-1].append(place)
        else:
            clusters.append([place])
    return clusters


def _pixel_kms(item: GalleryItem) -> float:
    return float(SPEED_OF_LIGHT_KMS * np.log(item.wavelength[-1] / item.wavelength[0]) / (len(item.wavelength) - 1))


def velocities(item: GalleryItem) -> Array:
    """Compute the velocity of every image pixel from the line at z_abs, shape (t, c), km/s."""
    columns = item.residual.shape[1]
    pixel_kms, z = _pixel_kms(item), item.value("z_abs")
    # The fit puts the line at a fraction of a pixel from the middle of the image.
    line = item.rest[item.doublet[0]] * (1.0 + z) / item.wavelength[item.pixel]
    shift = SPEED_OF_LIGHT_KMS * math.log(line) / pixel_kms if math.isfinite(z) else 0.0
    return (np.arange(columns) - columns // 2 - item.fractions[:, None] - shift) * pixel_kms


def panel_limits(item: GalleryItem) -> tuple[float, float]:
    """Tell between which values of flux over continuum the transitions are drawn."""
    ratio = 1.0 - item.residual[item.inverse_error > 0]
    if not ratio.size:
        return 0.0, 1.5
    return float(np.clip(np.percentile(ratio, 0.5) - 0.1, -0.5, 0.0)), float(np.clip(np.percentile(ratio, 99.5) + 0.15, 1.35, 2.5))


def line_model(item: GalleryItem, row: int, velocity: Array) -> Array | None:
    """Compute flux over continuum of the fitted Gaussians as a row's panel sees them: its own line, and the doublet's other beside it.

    ``A = W c / (λ₀ σ √(2π))`` with σ the catalogue's width and the instrument's, in quadrature.
    """
    sigma = math.hypot(item.value("fwhm_kms") / _FWHM_PER_SIGMA, item.instrument_sigma_kms)
    width = item.value(f"ew_{item.label(row)}")
    if not (math.isfinite(sigma) and math.isfinite(width)):
        return None
    model = np.ones_like(velocity)
    for other in {row, *(item.doublet if row in item.doublet else ())}:
        width = item.value(f"ew_{item.label(other)}")
        amplitude = width * SPEED_OF_LIGHT_KMS / (item.rest[other] * sigma * math.sqrt(2.0 * math.pi))
        centre = SPEED_OF_LIGHT_KMS * math.log(item.rest[other] / item.rest[row])
        if math.isfinite(amplitude):
            model -= amplitude * np.exp(-0.5 * ((velocity - centre) / sigma) ** 2)
    return model


def _transition(axes: Axes, item: GalleryItem, row: int, velocity: Array, middle: float) -> None:
    """One transition, its velocity 0 at `middle` of the axes that all share."""
    inverse = item.inverse_error[row]
    good = inverse > 0
    ratio = np.where(good, 1.0 - item.residual[row], np.nan)
    error = np.where(good, 1.0 / np.where(good, inverse, 1.0), np.nan)
    x, half = velocity + middle, 0.5 * (velocity[1] - velocity[0])
    _shade(axes, [(x[start] - half, x[stop - 1] + half) for start, stop in _runs(~good)], color=FAINT, alpha=0.55)
    axes.fill_between(x, ratio - error, ratio + error, step="mid", color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x[[0, -1]], [1.0, 1.0], color=ORANGE, linewidth=0.9, zorder=1)
    axes.axvline(middle, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    axes.step(x, ratio, where="mid", color=INK, linewidth=0.9)
    fine = np.linspace(velocity[0], velocity[-1], 200)
    model, strong = line_model(item, row, fine), row in item.doublet
    if model is not None:
        axes.plot(fine + middle, model, color=VERMILLION, linewidth=1.3 if strong else 1.0, linestyle="-" if strong else (0, (3, 1.5)))
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "parse_math": False}
    axes.text(middle, 1.12, str(item.lines[row]), fontsize=9, fontweight="bold" if strong else "normal", **place)
    width = _pair(item, f"ew_{item.label(row)}", 2)
    axes.text(middle, 1.03, f"{width} Å" if width != "not measured" else width, fontsize=7.5, color=MUTED, **place)
    if not good.any():
        axes.text(middle, 0.5, "no data", va="center", fontsize=8, color=MUTED, **place)


def _shade(axes: Axes, ranges: Iterable[tuple[float, float]], **style: Any) -> None:
    """Shade ranges of x from bottom to top: one artist, however many they are."""
    spans = [(start, stop - start) for start, stop in ranges]
    axes.broken_barh(spans, (0.0, 1.0), transform=axes.get_xaxis_transform(), linewidth=0, zorder=0, **style)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where consecutive flags are set: pairs (start, stop)."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(start), int(stop)) for start, stop in zip(steps[::2], steps[1::2], strict=True)]

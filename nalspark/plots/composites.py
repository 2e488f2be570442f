"""Figures of composite spectra: the composite with its lines, and the ratio to the controls with the dust's fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nalspark.plots.style import BLUE, INK, MUTED, ORANGE, VERMILLION, new_figure, nothing, styled

#: Panels, one below the other, that a composite is drawn in.
_PANELS = 3
#: Labels nearer than this part of a panel's width are moved apart.
_APART = 0.022
#: Standard error above which a pixel is not drawn.
_NOISIEST = 0.07


@styled
def composite_figure(
    wavelength: ArrayLike, curves: Mapping[str, ArrayLike], lines: Sequence[tuple[str, float, bool]], title: str = ""
) -> Figure:
    """Draw a composite of normalised flux, in panels of equal width in log λ.

    Parameters
    ----------
    wavelength : array_like, shape (p,), rest-frame Å
    curves : mapping of array_like, shape (p,)
        ``mean``, its standard error ``mean_err``, and ``median``.
    lines : sequence of (label, wavelength in Å, seen)
        Labelled in dark where seen, else in grey.
    title : str
    """
    wave = np.asarray(wavelength, dtype=float)
    flux, sigma, middle = (np.asarray(curves[name], dtype=float) for name in ("mean", "mean_err", "median"))
    figure = new_figure((10.5, 7.6))
    panels = figure.subplots(_PANELS, 1)
    known = np.isfinite(flux)
    if np.isfinite(sigma).any():  # a line's own variety is no noise
        known &= (sigma < _NOISIEST) | (1.0 - flux > 3.0 * sigma)
    if known.sum() < 2:
        for axes in panels:
            nothing(axes)
        return figure
    edges = np.geomspace(wave[known][0], wave[known][-1], _PANELS + 1)
    low = min(float(flux[known].min()), 0.9)
    high = max(float(np.percentile(flux[known], 99.9)), 1.0 + 0.1 * (1.0 - low))
    flux, sigma, middle = (np.where(known, values, np.nan) for values in (flux, sigma, middle))  # gaps, not bridges
    for axes, start, stop in zip(panels, edges[:-1], edges[1:], strict=True):
        here = (wave >= start) & (wave <= stop)
        axes.fill_between(wave[here], (flux - sigma)[here], (flux + sigma)[here], color=BLUE, alpha=0.25, linewidth=0, step="mid")
        axes.step(wave[here], middle[here], where="mid", color=ORANGE, linewidth=0.6, label="median")
        axes.step(wave[here], flux[here], where="mid", color=BLUE, linewidth=0.8, label="mean")
        axes.axhline(1.0, color=MUTED, linewidth=0.5, zorder=0)
        axes.set(xlim=(start, stop), ylim=(low - 0.03 * (high - low), high + 0.7 * (high - low)), ylabel="flux / continuum")
        _label(axes, lines, (high, high + 0.1 * (high - low)))
    panels[0].legend(loc="lower left", ncols=2)
    panels[-1].set_xlabel("rest wavelength, vacuum (Å)")
    panels[0].set_title(title)
    return figure


def _label(axes: Axes, lines: Sequence[tuple[str, float, bool]], ends: tuple[float, float]) -> None:
    """Names of lines above the spectrum, with strokes between two heights; those that would cover each other are moved apart."""
    start, stop = axes.get_xlim()
    inside = sorted((line for line in lines if start < line[1] < stop), key=lambda line: line[1])
    places = _spread(np.array([(wave - start) / (stop - start) for _, wave, _ in inside]))
    for (label, wave, seen), place in zip(inside, places, strict=True):
        colour = INK if seen else MUTED
        x = start + place * (stop - start)
        axes.plot([wave, wave, x], [ends[0], 0.5 * (ends[0] + ends[1]), ends[1]], color=colour, linewidth=0.6)
        weight = "bold" if seen else "normal"
        axes.text(x, ends[1], f" {label}", rotation=90, ha="center", va="bottom", fontsize=7, color=colour, fontweight=weight)


def _spread(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move places apart, from left to right and back, as little as that takes."""
    moved = places.copy()
    for _ in range(50):
        close = np.flatnonzero(np.diff(moved) < _APART * 0.999)
        if not len(close):
            break
        for left in close:
            shift = 0.5 * max(_APART - (moved[left + 1] - moved[left]), 0.0)
            moved[left], moved[left + 1] = moved[left] - shift, moved[left + 1] + shift
    return moved


@styled
def ratio_figure(wavelength: ArrayLike, curves: Mapping[str, ArrayLike], ebv: tuple[float, float], title: str = "") -> Figure:
    """Draw the ratio of absorbed to control spectra, with the extinction law that fits it.

    Parameters
    ----------
    wavelength : array_like, shape (d,), rest-frame Å
    curves : mapping of array_like, shape (d,)
        ``ratio``, its standard error ``ratio_err``, and ``model``.
    ebv : pair of float
        E(B-V) and its standard error, magnitudes.
    title : str
    """
    wave = np.asarray(wavelength, dtype=float)
    values, sigma, fit = (np.asarray(curves[name], dtype=float) for name in ("ratio", "ratio_err", "model"))
    figure = new_figure((7.2, 3.8))
    axes = figure.add_subplot()
    known = np.isfinite(values) & np.isfinite(sigma) & (sigma < _NOISIEST)
    if not known.any():
        nothing(axes)
        return figure
    axes.fill_between(wave[known], (values - sigma)[known], (values + sigma)[known], color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(wave[known], values[known], color=BLUE, linewidth=0.9, label="absorbed / control spectra")
    label = f"SMC dust, E(B−V) = {ebv[0]:.4f} ± {ebv[1]:.4f}"
    axes.plot(wave[known], fit[known], color=VERMILLION, linewidth=1.2, linestyle=(0, (5, 2)), label=label)
    axes.axhline(1.0, color=MUTED, linewidth=0.5, zorder=0)
    axes.set(xlabel="rest wavelength, vacuum (Å)", ylabel="ratio of geometric means", title=title)
    axes.legend(loc="lower right")
    return figure

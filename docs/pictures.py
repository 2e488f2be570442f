"""Draws spectrum.png and steps.png of these pages: `python docs/pictures.py`, some seconds. flow.svg is written by hand.

report.png is a picture of the report that `nalspark demo --n 60` writes:
    chromium --headless --no-sandbox --window-size=1000,900 --screenshot=docs/report.png nalspark-demo/result/report.html
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nalspark
from nalspark.absorption.chain import Searchable, detect, light_of, prepare, propose, scorer
from nalspark.absorption.images import HALF_WIDTH
from nalspark.absorption.search import constrained_gain
from nalspark.finder import Found
from nalspark.learning.models import read_model
from nalspark.lines import MG_II
from nalspark.mocks.survey import simulate_survey
from nalspark.plots.report import png
from nalspark.plots.style import BLUE, INK, MUTED, ORANGE, VERMILLION, new_figure, styled
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE

HERE = Path(__file__).parent
#: That of the strongest absorber of `nalspark demo --n 60`, as start.md finds it.
SPECTRUM = "4000-55500-0022"
WIDTH = 2.4  # pixels, the middle one of the search's filters


def doublet_significance(residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Significance of a doublet whose first line is at each pixel, by one filter; shape (p,)."""
    u = np.arange(-10, 11)
    profile = np.exp(-0.5 * (u / WIDTH) ** 2)
    power = np.convolve(weight, profile**2, "same")
    amplitude = np.convolve(weight * residual, profile, "same") / np.maximum(power, 1e-30)
    shift = round(MG_II.offset_pixels(MG_II.secondary, LATTICE.step))
    gain, _ = constrained_gain(amplitude, power, np.roll(amplitude, -shift), np.roll(power, -shift), MG_II.optically_thin_ratio)
    return np.sqrt(np.maximum(gain, 0.0))


def draw_continuum(axes: Axes, flux: np.ndarray, continuum: np.ndarray) -> None:
    axes.step(LATTICE.wavelength, flux, where="mid", color=INK, linewidth=0.5)
    axes.plot(LATTICE.wavelength, continuum, color=ORANGE, linewidth=1.4)
    axes.set(xlim=(3800, 9200), ylim=(0, 2.5 * np.nanmedian(flux)), xlabel="observed wavelength, Å", ylabel="flux")
    axes.set_title("1  prepare: a continuum through the quasar's light", loc="left")


def draw_search(axes: Axes, significance: np.ndarray, searched: np.ndarray, pixels: np.ndarray) -> None:
    z = LATTICE.wavelength / MG_II.primary.wavelength - 1.0
    axes.plot(z, np.where(searched, significance, np.nan), color=BLUE, linewidth=0.8)
    axes.axhline(load().search.min_significance, color=MUTED, linewidth=0.8, linestyle="--")
    axes.plot(z[pixels], significance[pixels], "v", color=VERMILLION, markersize=5)
    axes.set(yscale="log", ylim=(0.5, 120), xlim=(z[searched].min(), z[searched].max()))
    axes.set(xlabel="redshift of Mg II", ylabel="significance of a doublet, σ")
    axes.set_title("2  search: every place where two lines may be a doublet", loc="left")


def draw_image(axes: Axes, image: np.ndarray) -> None:
    kms = 69.0 * (HALF_WIDTH + 0.5)
    axes.imshow(image, aspect="auto", cmap="Blues", vmin=0, vmax=np.percentile(image, 99), extent=(-kms, kms, len(image) - 0.5, -0.5))
    axes.set_yticks(range(len(image)), [str(line) for line in MG_II.transitions])
    axes.set(xlabel="velocity, km/s")
    axes.set_title("3  image: one row for each line, cut at the candidate", loc="left")


def draw_fit(axes: Axes, residual: np.ndarray, absorber: dict[str, float]) -> None:
    first = MG_II.transitions.index(MG_II.primary)
    line = MG_II.primary.wavelength
    kms = 69.03 * np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    axes.step(kms, 1.0 - residual[first], where="mid", color=INK, linewidth=0.9)
    fine, sigma = np.linspace(kms[0], kms[-1], 500), np.hypot(absorber["fwhm_kms"] / 2.3548, 69.03)
    model = np.ones_like(fine)
    for label, centre in (("2796", 0.0), ("2803", 299792.458 * np.log(MG_II.secondary.wavelength / line))):
        depth = absorber[f"ew_{label}"] * 299792.458 / (line * sigma * np.sqrt(2 * np.pi))
        model -= depth * np.exp(-0.5 * ((fine - centre) / sigma) ** 2)
    axes.plot(fine, model, color=VERMILLION, linewidth=1.3)
    axes.set(xlabel="velocity from Mg II 2796, km/s", ylabel="flux / continuum", ylim=(0, 1.6))
    axes.text(0.02, 0.96, f"score {absorber['score']:.3f}", transform=axes.transAxes, va="top", fontweight="bold")
    axes.text(0.98, 0.96, f"z = {absorber['z_abs']:.4f}   W = {absorber['ew_2796']:.2f} Å", transform=axes.transAxes, va="top", ha="right")
    axes.set_title("4  score and fit: the network decides, a fit measures", loc="left")


@styled
def steps(found: Found) -> Figure:
    """The four steps of the method on one spectrum."""
    settings, z = load(), found._given.z
    ready = prepare(found._given.on_grid(range(1), LATTICE), z, settings)
    searchable = Searchable.of(ready, z)
    light, network = light_of(searchable, settings), read_model().load()
    detections = detect(searchable, scorer(network.predict, network.card.inputs, settings), settings)
    strongest = int(np.argmax(detections.measured["ew_2796"]))
    absorber = {name: values[strongest] for name, values in detections.measured.items()}
    candidates = propose(searchable, settings)
    at = int(np.flatnonzero(candidates.pixel == absorber["pixel"])[0])
    figure = new_figure((9.0, 5.6))
    panels = figure.subplots(2, 2).ravel()
    draw_continuum(panels[0], ready.spectra.flux[0], ready.continuum[0])
    draw_search(panels[1], doublet_significance(light.residual[0], light.weight[0]), light.searched[0], candidates.pixel)
    draw_image(panels[2], candidates.image_residual[at] * (candidates.image_inverse_error[at] > 0))
    draw_fit(panels[3], candidates.image_residual[at], absorber)
    return figure


def main() -> None:
    """Draw both."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_survey(Path(folder) / "survey", 60, 1)
        spectrum = nalspark.read_spectrum(next(Path(folder).rglob(f"spec-{SPECTRUM}.fits")))
    found = nalspark.find(spectrum)
    (HERE / "spectrum.png").write_bytes(png(found.plot(), dpi=90))
    (HERE / "steps.png").write_bytes(png(steps(found), dpi=110))


if __name__ == "__main__":
    main()

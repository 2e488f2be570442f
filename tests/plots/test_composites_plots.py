"""Figures of composites: what is drawn, and that nothing is no fault."""

from __future__ import annotations

import numpy as np

from nalspark.plots.composites import composite_figure, ratio_figure

WAVE = np.geomspace(1300.0, 6000.0, 4000)


def curves(flux: np.ndarray, error: float) -> dict[str, np.ndarray]:
    return {"mean": flux, "mean_err": np.full(len(flux), error), "median": flux}


def test_a_composite_has_three_panels_each_line_in_one_of_them_labels_apart() -> None:
    lines = [("Mg II 2796", 2796.35, True), ("Mg II 2803", 2803.53, True), ("Ca II 3934", 3934.78, False), ("N V 1238", 1238.8, True)]
    figure = composite_figure(WAVE, curves(np.ones(len(WAVE)), 0.01), lines, "40 spectra")
    figure.draw_without_rendering()
    texts = {text.get_text().strip(): text for axes in figure.axes for text in axes.texts}
    assert set(texts) == {"Mg II 2796", "Mg II 2803", "Ca II 3934"} and len(figure.axes) == 3
    boxes = [texts[name].get_window_extent() for name in ("Mg II 2796", "Mg II 2803")]
    assert not boxes[0].overlaps(boxes[1])
    assert texts["Mg II 2796"].get_color() != texts["Ca II 3934"].get_color()


def test_deep_lines_are_drawn_whole_and_noisy_pixels_not() -> None:
    flux = 1.0 - 0.8 * np.exp(-0.5 * ((WAVE - 2800.0) / 3.0) ** 2)
    drawn = curves(flux, 0.01)
    drawn["mean_err"][-200:], drawn["mean"][-200:] = 0.5, 7.0
    figure = composite_figure(WAVE, drawn, [])
    low, high = figure.axes[1].get_ylim()
    assert low < flux.min() and high < 2.0


def test_a_ratio_shows_its_reddening_and_nothing_is_said_to_be_nothing() -> None:
    ratio = {"ratio": np.ones(50), "ratio_err": np.full(50, 0.01), "model": np.full(50, 0.9)}
    figure = ratio_figure(np.geomspace(1300.0, 6000.0, 50), ratio, (0.0412, 0.003))
    assert "0.0412 ± 0.0030" in figure.axes[0].get_legend().get_texts()[1].get_text()
    nowhere = {name: np.full(50, np.nan) for name in ratio}
    assert ratio_figure(np.arange(50.0), nowhere, (np.nan, np.nan)).axes[0].texts[0].get_text() == "nothing to show"
    blank = composite_figure(WAVE, curves(np.full(len(WAVE), np.nan), np.nan), [])
    assert [axes.texts[0].get_text() for axes in blank.axes] == ["nothing to show"] * 3

"""Figures of rates: what is drawn where, and that nothing at all can be drawn too."""

from __future__ import annotations

import numpy as np
import pytest

from nalspark.plots.statistics import Points, ew_function_figure, rates_figure, sightlines_figure

LOW, HIGH = np.array([0.4, 0.8, 1.2]), np.array([0.8, 1.2, 1.6])


def points(value):
    value = np.asarray(value, dtype=float)
    return Points(LOW, HIGH, value, 0.8 * value, 1.3 * value, np.full(3, 0.1), 0.5 * value)


def drawn(figure):
    figure.canvas.draw()
    return figure.axes


def test_rates_are_drawn_with_their_bars_and_the_others_curves():
    curve = {"A & B 2000": (np.linspace(0.4, 1.6, 5), np.linspace(0.2, 0.4, 5))}
    panels = {
        "W ≥ 0.3 Å": (points([0.3, np.nan, 0.5]), curve),
        "W ≥ 1 Å": (points([0.0, 0.0, 0.0]), {}),
        "none": (points([np.nan] * 3), curve),
    }
    figure = rates_figure(panels, "dN/dz", "not corrected")
    first, second, third, *_ = drawn(figure)
    x, y = first.containers[1].lines[0].get_data(orig=False)
    np.testing.assert_allclose([x, y], [[0.6, 1.4], [0.3, 0.5]])
    np.testing.assert_allclose(first.containers[1].lines[2][1].get_segments()[0], [[0.6, 0.24], [0.6, 0.39]])
    assert first.get_legend_handles_labels()[1] == ["uncorrected", "A & B 2000", "measured"]
    assert figure.get_suptitle() == "not corrected" and "no path" in third.texts[0].get_text()
    assert second.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "uncorrected", "A & B 2000"]


def test_f_of_w_is_drawn_on_logarithmic_axes():
    figure = ew_function_figure(points([0.9, 0.1, 0.0]), {"fit": (LOW, np.exp(-LOW))}, "W (Å)")
    (axes,) = drawn(figure)
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_ylim() == pytest.approx((0.03, 2.7))
    assert not figure.get_suptitle()
    assert "nothing" in drawn(ew_function_figure(points([np.nan] * 3), {}, "W (Å)"))[0].texts[0].get_text()


def test_g_has_a_curve_for_every_width():
    z = np.linspace(0.4, 2.0, 9)
    (axes,) = drawn(sightlines_figure(z, [(0.3, 10 * z), (1.0, 20 * z)], 5.0))
    assert axes.get_legend_handles_labels()[1] == ["W = 0.3 Å", "W = 1 Å"] and axes.get_title() == "where W reaches 5 σ"
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), 20 * z)
    assert "nothing" in drawn(sightlines_figure(np.zeros(0), [], 5.0))[0].texts[0].get_text()

"""Pictures, text and page of an evaluation: they draw what they are given, nothing included, and escape what comes from files."""

from __future__ import annotations

from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from nalspark.judging.evaluate import fractions
from nalspark.metrics import Reliability
from nalspark.plots.evaluation import (
    Sheet,
    as_text,
    curves_figure,
    distributions_figure,
    fractions_figure,
    scores_figure,
)
from nalspark.plots.pages import render

WIDTHS = np.array([0.0, 0.4, 0.7, 0.8, 1.2, 2.5, 5.0])
TABLE = fractions(WIDTHS, WIDTHS > 0.6, [0.0, 0.3, 0.6, 1.0, 2.0, 3.0, np.inf])
NOTHING = fractions([], [], [0.0, 1.0])
EVIL = "<script>alert('x')</script>&\""


def pixels(figure):
    """The picture as drawn, shape (h, w, 4): drawing it is the test."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_fractions_are_drawn_where_they_are():
    figure = fractions_figure(
        {"W (Å)": TABLE, "empty": NOTHING, "z": fractions([0.5, 0.7, 0.9], [1, 0, 1], [0.4, 0.6, 0.8, 1.0])}, "purity"
    )
    pixels(figure)
    widths, empty, redshifts = figure.axes
    assert widths.get_xscale() == "log" and redshifts.get_xscale() == "linear"
    x, y = widths.containers[0].lines[0].get_data(orig=False)
    np.testing.assert_allclose(y, TABLE["fraction"])
    # Open ends are drawn finite: the last bin from 3 to 4.8, the first, which begins at 0, from 0.15.
    assert widths.get_xlim() == pytest.approx((0.15, 4.8)) and np.all(np.diff(x) > 0)
    assert [text.get_text() for text in widths.texts] == [str(n) for n in TABLE["trials"]]
    assert "nothing" in empty.texts[0].get_text()
    assert widths.get_ylim()[0] < 0 < 1 < widths.get_ylim()[1]


def test_curves_stand_side_by_side():
    figure = curves_figure({"S/N 2-4": TABLE, "none": NOTHING, "S/N 4-6": TABLE}, "W", "completeness")
    pixels(figure)
    axes = figure.axes[0]
    assert axes.get_legend_handles_labels()[1] == ["S/N 2-4", "S/N 4-6"]
    first, second = (container.lines[0].get_xdata() for container in axes.containers)
    assert (first < second).all()
    pixels(curves_figure({}, "W", "completeness"))
    many = curves_figure({f"{number}": TABLE for number in range(9)}, "W", "completeness")
    assert len(many.axes[0].containers) == 9


def test_scores():
    curve = Reliability(*np.array([[0.2, 0.8], [0.1, 0.9], [0.05, 0.8], [0.2, 1.0], [5, 5]]))
    figure = scores_figure(([0, 0.1, 1], [0, 0.9, 1]), (0.1, 0.9), 0.93, curve)
    pixels(figure)
    left, right = figure.axes
    assert any("AUC 0.930" in text.get_text() for text in left.texts)
    np.testing.assert_allclose(right.containers[0].lines[0].get_ydata(), [0.1, 0.9])
    nothing = scores_figure(([0, np.nan], [0, 1]), (np.nan, 1.0), np.nan, Reliability(*np.zeros((5, 0))))
    pixels(nothing)
    assert [axes.texts[0].get_text() for axes in nothing.axes] == ["one label only", "no absorber"]


def test_distributions_count_what_lies_beyond_in_the_last_bin():
    columns = ["z_abs", "ew", "fwhm_kms", "doublet_ratio"]
    panels = {name: (name, np.linspace(0.0, 2.0, 5)) for name in columns}
    found = pd.DataFrame([[1.0, 1.0, np.nan, 1.2], [1.0, 9.0, np.nan, 1.4]], columns=columns)
    groups = {"found": found, "missed": found.iloc[:1], "spurious": found.iloc[:0]}
    figure = distributions_figure(groups, panels)
    pixels(figure)
    heights = [axes.patches[0].get_data().values.tolist() for axes in figure.axes if axes.patches]
    assert heights[0] == [0, 0, 2, 0] and heights[1] == [0, 0, 1, 1]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["found", "missed"]
    assert "nothing" in figure.axes[2].texts[0].get_text()
    pixels(distributions_figure(dict.fromkeys(groups, found.iloc[:0]), panels))


def test_no_style_leaks():
    before = dict(mpl.rcParams)
    fractions_figure({"W": TABLE}, "purity")
    assert dict(mpl.rcParams) == before


def test_text_in_columns():
    sheet = Sheet("Purity", ["", "#true", "#of"], [["all", "9", "10"], ["W 0.3-0.6", "1", "2"]], "Of the rows. " * 20)
    title, heads, first, second, *note = as_text(sheet).split("\n")
    assert (title, heads) == ("Purity", "             true  of")
    assert (first, second) == ("  all           9  10", "  W 0.3-0.6     1   2")
    assert len(note) > 1 and max(map(len, note)) <= 110
    assert as_text(Sheet("t", ["a"], [])).split("\n") == ["t", "  a"]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_tables_and_pictures_and_runs_nothing():
    sheet = Sheet(EVIL, ["species", "#n"], [[EVIL, "3"]], EVIL)
    page = Tags(render("evaluation.html", title=EVIL, sheets=[sheet], pictures={"purity.png": EVIL}))
    tags = [tag for tag, _ in page.seen]
    assert "script" not in tags and tags.count("table") == 1
    assert [attributes["src"] for tag, attributes in page.seen if tag == "img"] == ["purity.png"]

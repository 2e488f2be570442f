"""The page of all systems: its pixels are the spectra's, catalogues are compared by the one rule, and nothing in it is more than text."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import PATIENCE_S, chromium, wait_until
from make_review import HOSTILE, write_absorbers

from nalspark.judging.gallery import Gallery, make_gallery, shown_columns
from nalspark.judging.inputs import Catalogue
from nalspark.lines import MG_II
from nalspark.spectra.grid import LATTICE
from nalspark.tables.result import open_result

N = 70
LISTED = '<b>"listed"</b>'
NAMES = [*HOSTILE, *(f"0001-52000-{number:05d}" for number in range(N - len(HOSTILE)))]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Seventy absorbers of as many spectra, in three parts; everything between redshift 0.5 and 2.4 was searched."""
    result = open_result(write_absorbers(tmp_path_factory.mktemp("gallery") / "result", N, NAMES, per_part=25))
    absorbers = result.table("absorbers", ["absorber_id", "spectrum_id", "part", "flags", *shown_columns(MG_II)]).to_pandas()
    paths = result.table("targets", ["spectrum_id", "path"]).to_pandas()
    ends = {"z_start": [np.array([0.5])] * N, "z_stop": [np.array([2.4])] * N, "snr": 12.0}
    lines = absorbers[["spectrum_id", "part", "z_qso"]].merge(paths, on="spectrum_id").assign(**ends)
    lines["covered"] = [[LISTED] if row < 40 else [] for row in range(N)]
    return Catalogue(result, absorbers, lines)


@pytest.fixture(scope="module")
def others(catalogue: Catalogue) -> dict[str, pd.DataFrame]:
    """A catalogue of eleven of ours, three that we lack, and two where nothing was searched; and one of two that we lack."""
    found = catalogue.absorbers[["spectrum_id", "z_abs"]]
    lacked = found.iloc[20:23].assign(z_abs=found["z_abs"] + 0.05)
    outside = found.iloc[30:32].assign(z_abs=2.5)
    return {LISTED: pd.concat([found.iloc[:11], lacked, outside], ignore_index=True), "other": lacked.iloc[1:]}


@pytest.fixture(scope="module")
def gallery(catalogue: Catalogue, others: dict[str, pd.DataFrame]) -> Gallery:
    return make_gallery(catalogue, others)


def facts_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_catalogues_are_compared_system_by_system(gallery: Gallery, catalogue: Catalogue) -> None:
    assert [tuple(row) for row in gallery.outcomes] == [(LISTED, 11, 3, 2, 40 - 11), ("other", 0, 2, 0, 0)]
    facts = facts_of(gallery.page)
    assert facts["n_found"] == N and len(facts["spectrum_id"]) == N + 5
    assert facts["verdicts"] == [["recovered", ""]] * 11 + [["new", ""]] * 29 + [["", ""]] * (N - 40)
    assert facts["missed_of"] == [0, 0, 0, 1, 1]
    assert facts["spectrum_id"][:N] == list(catalogue.absorbers["spectrum_id"])
    columns = {column["name"]: column["values"] for column in facts["columns"]}
    assert columns["z_abs"][:N] == pytest.approx(catalogue.absorbers["z_abs"], rel=1e-5)
    # What was missed has no score; its width, where nothing is, is none to speak of.
    assert columns["score"][N:] == [None] * 5 and None not in columns["z_qso"]
    widths, errors = (np.array(columns[name][N:]) for name in ("ew_2796", "ew_2796_err"))
    assert (np.abs(widths) < 5 * errors).all()


def test_the_pictures_are_the_pixels_about_each_line(gallery: Gallery, catalogue: Catalogue) -> None:
    facts = facts_of(gallery.page)
    columns, unit, least = (facts["coding"][name] for name in ("columns", "unit", "least"))
    candidates = catalogue.result.table("candidates", ["candidate_id", "pixel", "image_residual", "image_inverse_error"])
    of = {row["candidate_id"]: row for row in candidates.to_pylist()}
    compared = 0
    for row, absorber in catalogue.absorbers.iterrows():
        candidate = of[absorber["absorber_id"]]
        exact = LATTICE.pixel(MG_II.primary.wavelength * (1 + absorber["z_abs"]))
        assert facts["shift"][row] == pytest.approx(exact - np.round(exact), abs=0.006)
        if np.round(exact) != candidate["pixel"]:
            continue
        compared += 1
        residual, inverse = (
            np.frombuffer(candidate[name], "<f4").reshape(-1, columns) for name in ("image_residual", "image_inverse_error")
        )
        shown = np.frombuffer(base64.b64decode(facts["pictures"][row]), np.uint8).reshape(len(facts["lines"]), 2, columns)
        used = inverse > 0
        assert ((shown != facts["coding"]["unused"]) == used[:, None]).all()
        flux, inside = least + unit * shown[:, 0], used & (np.abs(residual) < 1.4)
        assert np.abs(flux - (1 - residual))[inside].max() <= 0.51 * unit
        assert np.abs(unit * shown[:, 1][inside] - 1 / inverse[inside]).max() <= 0.51 * unit
    assert compared > N / 2


def test_without_other_catalogues_all_is_shown_and_none_is_new(catalogue: Catalogue) -> None:
    gallery = make_gallery(catalogue, {})
    facts = facts_of(gallery.page)
    assert gallery.outcomes == [] and facts["catalogues"] == [] and facts["verdicts"] == [[]] * N


def test_a_system_whose_spectrum_is_gone_is_told_without_a_picture(catalogue: Catalogue) -> None:
    lines = catalogue.sightlines.assign(part=["elsewhere"] * 5 + list(catalogue.sightlines["part"][5:]))
    theirs = catalogue.absorbers[["spectrum_id", "z_abs"]].iloc[:2].assign(z_abs=lambda rows: rows["z_abs"] + 0.05)
    facts = facts_of(make_gallery(replace(catalogue, sightlines=lines), {"theirs": theirs}).page)
    assert [not picture for picture in facts["pictures"]] == [True] * 5 + [False] * (N - 5) + [True] * 2
    (ew,) = (column["values"] for column in facts["columns"] if column["name"] == "ew_2796")
    assert ew[N:] == [None, None] and ew[:N] == pytest.approx(catalogue.absorbers["ew_2796"], rel=1e-5)


def test_a_catalogue_of_which_nothing_was_found_has_what_was_missed(catalogue: Catalogue, others: dict[str, pd.DataFrame]) -> None:
    gallery = make_gallery(replace(catalogue, absorbers=catalogue.absorbers.iloc[:0]), {LISTED: others[LISTED]})
    facts = facts_of(gallery.page)
    assert [tuple(row) for row in gallery.outcomes] == [(LISTED, 0, 14, 2, 0)] and facts["n_found"] == 0 and len(facts["pictures"]) == 14


def test_nothing_from_a_catalogue_is_more_than_text(gallery: Gallery) -> None:
    assert set(HOSTILE) <= set(facts_of(gallery.page)["spectrum_id"])
    assert gallery.page.count("<script") == 2 and "<img" not in gallery.page and "<b>" not in gallery.page
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', gallery.page)
    assert policy.startswith("default-src &#39;none&#39;; base-uri &#39;none&#39;; form-action &#39;none&#39;; ")


def test_it_is_filtered_and_sorted_in_a_browser(gallery: Gallery, catalogue: Catalogue, tmp_path: Path) -> None:
    place, asked = tmp_path / "gallery.html", list[str]()
    place.write_text(gallery.page, encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(PATIENCE_S * 1000)
        said = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(place.as_uri())

        def count() -> int:
            return int(page.get_attribute("body", "data-count"))

        def until(condition: Callable[[], Any]) -> None:
            """Wait, without `wait_for_function`: what that puts into the page is no script of the page's own, and does not run."""
            wait_until(lambda: page.wait_for_timeout(50) or condition())

        def titles() -> list[str]:
            return page.locator("#cards h3").all_text_contents()

        assert count() == N and len(titles()) == 60
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        until(lambda: len(titles()) == N)
        for kind, n in (("recovered 0", 11), ("new 0", 29), ("missed 0", 3), ("missed 1", 2)):
            page.select_option('select[aria-label="catalogue"]', kind)
            assert count() == n == len(titles())
            assert page.locator(f"#cards .{kind.split()[0]}").count() >= n
        page.select_option('select[aria-label="catalogue"]', "")
        page.fill('input[aria-label="score from"]', "0.8")
        page.select_option('select[aria-label="sort by"]', "score")
        page.select_option('select[aria-label="order"]', "down")
        best = catalogue.absorbers[catalogue.absorbers["score"] >= 0.8].sort_values("score", ascending=False)
        assert count() == len(best) and titles() == list(best["spectrum_id"])
        page.reload()  # the address holds what is asked for
        assert titles() == list(best["spectrum_id"])
        page.locator("#controls button").click()
        page.select_option('select[aria-label="flags"]', "none")
        assert count() == (catalogue.absorbers["flags"] == 0).sum()
        page.locator("#controls button").click()
        page.fill('input[aria-label="spectrum"]', "<SCRIPT>")
        assert titles() == [HOSTILE[0]]
        dark = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((v, k) => k % 4 === 0 && v < 60).length"
        until(lambda: page.evaluate(f"({dark})(document.querySelector('#cards canvas'))") > 100)
        assert page.evaluate("window.hacked ?? null") is None and said == []
        # Even a script that got into the page would not run.
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}))")
        until(lambda: said)
        assert page.evaluate("window.hacked ?? null") is None and "Content Security Policy" in said.pop()
        assert said == [] and all(url.startswith(place.as_uri()) for url in asked)

"""Kept versions, with hard links and where the file system has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nalspark.tables.manifest import Manifest, Part, read_manifest
from nalspark.tables.store import Store
from nalspark.tables.versions import keep_version, versions


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "no hard links":

        def no_links(*_: object, **__: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)
    return request.param == "hard links"


def publish(store: Store, number: int, text: str) -> Manifest:
    """A result with one published file, one published folder, and a part of one kept table."""
    part = store.root / "tables" / "scores" / f"run{number}" / "in_part=a"
    for folder in (part, store.published("absorbers.parquet")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.parquet").write_text(text)
    (store.root / ".report.html.new").write_text(text)
    store.replace("report.html")
    return Manifest(
        tables={"scores": {"a": Part("k", str(part.relative_to(store.root)), 1)}, "spectra": {"a": Part("k", "tables/spectra", 1)}},
        published={"report.html": 1, "absorbers.parquet": 1},
        publication=number,
    )


def test_versions_are_whole_results_and_only_the_last_are_kept(tmp_path: Path, links: bool) -> None:
    store = Store(tmp_path)
    for number in (1, 2, 3):
        keep_version(store, publish(store, number, f"text {number}"), 2)
    kept = versions(store)
    assert list(kept) == [2, 3]
    manifest = read_manifest(kept[2] / "manifest.json")
    assert set(manifest.tables) == {"scores", "measured", "published"} and manifest.publication == 2
    assert (kept[2] / "report.html").read_text() == "text 2"
    assert (kept[2] / manifest.tables["scores"]["a"].path / "2.parquet").read_text() == "text 2"
    assert (kept[3] / "report.html").samefile(store.published("report.html")) == links
    assert sorted(os.listdir(tmp_path / "versions")) == ["0002", "0003"]


def test_a_version_of_the_same_number_is_replaced_and_zero_keeps_none(tmp_path: Path, links: bool) -> None:
    store = Store(tmp_path)
    keep_version(store, publish(store, 1, "cut short"), 5)
    (tmp_path / "versions" / ".0001.new").mkdir()  # left by a killed run
    keep_version(store, publish(store, 1, "whole"), 5)
    assert (versions(store)[1] / "report.html").read_text() == "whole"
    assert os.listdir(tmp_path / "versions") == ["0001"]
    keep_version(store, publish(store, 2, "unkept"), 0)
    assert versions(store) == {}

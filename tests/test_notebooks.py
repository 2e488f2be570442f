"""The four notebooks run for real, one after the other, in this process's Spark session; they import nalspark and define nothing."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from make_rates import CONSTANT, make_survey, write_result
from matplotlib.figure import Figure

from nalspark.notebook import parameter, shower

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
#: As little as a model can be made from.
TINY = (
    "simulate.n=300 simulate.n_realistic=200 simulate.spectra_per_part=250 train.epochs=1 train.members=1 train.batch_size=16 "
    "train.options={filters=[4,8,8],dense=8}"
)


def page_of(path: Path) -> Path:
    """The page of the documentation that shows a notebook with what it gave: docs/notebook_pages.py writes it."""
    return path.parents[1] / "docs" / "notebooks" / f"{path.stem}.md"


def shown_by(name: str, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> list[Any]:
    """What a notebook displays."""
    for key, value in parameters.items():
        monkeypatch.setenv(f"NALSPARK_{key.upper()}", str(value))
    shown: list[Any] = []
    path = next(path for path in NOTEBOOKS if path.stem == name)
    runpy.run_path(str(path), {"display": shown.append}, "__main__")
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


def test_there_are_four_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "rates", "review", "training"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_databricks_format_and_defines_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Databricks notebook source\n# MAGIC %md\n# MAGIC # ")
    cells = text.split("\n\n# COMMAND ----------\n\n")
    assert len(cells) > 4 and "# COMMAND" not in "".join(cells)
    for cell in cells[1:]:
        lines = cell.strip().splitlines()
        magic = [line.startswith("# MAGIC") for line in lines]
        assert all(magic) or not any(magic), f"a cell is either text or code: {cell[:60]}"
        ast.parse(cell)
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, defined)]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if page_of(path).is_file()], ids=lambda path: path.stem)
def test_the_page_that_shows_a_notebook_has_its_cells_and_pictures(path: Path) -> None:
    page = page_of(path)
    text, cells = page.read_text(encoding="utf-8"), path.read_text(encoding="utf-8").split("\n\n# COMMAND ----------\n\n")[1:]
    code = [cell.strip() for cell in cells if not cell.startswith("# MAGIC")]
    again = f"python docs/notebook_pages.py {path.stem}"
    assert re.findall(r"^```python\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL) == code, again
    shown = [line.removeprefix("# MAGIC").strip() for cell in cells for line in cell.splitlines() if line.startswith("# MAGIC ")]
    assert [line for line in shown if line != "%md" and line not in text] == [], again
    pictures = re.findall(r"\]\((\S+\.png)\)", text)
    assert all((page.parent / picture).stat().st_size < 100_000 for picture in pictures)


@pytest.mark.spark
def test_quickstart_makes_a_survey_and_its_catalogue(spark: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by("quickstart", monkeypatch, folder=folder, spectra=24, settings="publish.gallery=0")
    assert str(shown[0]).startswith("24 spectra with ")
    assert (folder / "result" / "report.html").is_file()
    absorbers, sightlines = [table for table in shown if isinstance(table, pd.DataFrame)]
    assert len(absorbers) >= 3 and absorbers["significance"].is_monotonic_decreasing and len(sightlines) == 5
    assert any(" searched spectra; truth: " in text for text in shown if isinstance(text, str))
    assert sum(isinstance(thing, Figure) for thing in shown) == 2


@pytest.mark.spark
def test_review_reads_the_catalogue(spark: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (folder / "result").is_dir():
        pytest.skip("the catalogue is made by the test of quickstart")
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*.parquet"))
    shown = shown_by("review", monkeypatch, folder=folder, cards=1)
    assert shown[0]["sightlines.parquet"] + shown[0]["rejections.parquet"] == 24
    assert sum(isinstance(thing, Figure) for thing in shown) == 4
    assert shown[2].loc["count", "z_abs"] == shown[0]["absorbers.parquet"]
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*.parquet")) == before


@pytest.mark.spark
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training_makes_a_model(petastorm: Any, spark: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by("training", monkeypatch, folder=folder, settings=TINY)
    assert [str(text).split()[0] for text in shown[:2]] == ["simulate", "train"]
    assert 0 <= shown[2].loc["accuracy", "candidate_cnn"] <= 1
    assert (folder / "model-run" / "model" / "card.json").is_file()
    assert shown[-1] == f"infer.model={folder / 'model-run' / 'model'}"


def test_rates_takes_a_result_to_its_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(make_survey(60, CONSTANT), tmp_path / "result")
    shown = shown_by("rates", monkeypatch, folder=tmp_path)
    assert sum(isinstance(thing, Figure) for thing in shown) == 3
    assert shown[0].startswith("rates of ") and {"dndz", "dndz_published"} <= set(shown[2].columns)


class Widgets:
    """As `dbutils.widgets`: a text field keeps what the user wrote."""

    def __init__(self, **written: str) -> None:
        self.values = written

    def text(self, name: str, default: str) -> None:
        self.values.setdefault(name, default)

    def get(self, name: str) -> str:
        return self.values[name]


class Dbutils:
    widgets = Widgets(folder="/Volumes/x")


def test_parameters_come_from_widgets_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NALSPARK_CARDS", "7")
    assert parameter({"dbutils": Dbutils()}, "folder", "here") == "/Volumes/x"
    assert parameter({"dbutils": Dbutils()}, "cards", "4") == "4"
    assert (parameter({}, "cards", "4"), parameter({}, "spectra", "300")) == ("7", "300")
    assert shower({"display": repr}) is repr and shower({}) is print

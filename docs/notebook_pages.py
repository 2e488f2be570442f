"""Runs the notebooks, and writes pages with what they show into docs/notebooks: `python docs/notebook_pages.py quickstart review rates`.

They run in a folder of their own, one after the other, on a simulated survey of 150 spectra. `training` needs an environment for training;
`NALSPARK_SETTINGS` makes it small. A test compares the pages' cells with the notebooks'.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nalspark.cli import main as command
from nalspark.plots.report import png

HERE = Path(__file__).parent
SEPARATOR = "\n\n# COMMAND ----------\n\n"


def cells_of(notebook: str) -> list[tuple[str, str]]:
    """The cells of a notebook in Databricks's format: `markdown` or `python`, and the text without what marks it."""
    found = []
    for cell in notebook.removeprefix("# Databricks notebook source\n").split(SEPARATOR):
        if cell.startswith("# MAGIC %md\n"):
            lines = cell.strip().splitlines()[1:]
            found.append(("markdown", "\n".join(line.removeprefix("# MAGIC").removeprefix(" ") for line in lines)))
        else:
            found.append(("python", cell.strip()))
    return found


def as_text(thing: Any) -> str:
    """A table or a value as a reader of the page sees it."""
    text = thing.to_string(max_rows=12, max_cols=12) if isinstance(thing, pd.DataFrame) else str(thing)
    return re.sub(re.escape(f"{os.getcwd()}/"), "", text)


def run_cells(name: str) -> str:
    """Run a notebook in the working folder; give its page, and write its figures."""
    page, names, shown = [], {"__name__": "__main__"}, []
    names["display"] = shown.append
    for kind, source in cells_of((HERE.parent / "notebooks" / f"{name}.py").read_text(encoding="utf-8")):
        page.append(source if kind == "markdown" else f"```python\n{source}\n```")
        shown.clear()
        if kind == "python":
            exec(compile(source, name, "exec"), names)
        texts: list[str] = []
        for thing in shown:
            if isinstance(thing, Figure):
                picture = f"{name}-{sum('![' in part for part in page) + 1}.png"
                (HERE / "notebooks" / picture).write_bytes(png(thing, dpi=80))
                page.append(f"![A figure that the cell above shows]({picture})")
            else:
                texts.append(as_text(thing))
        if texts:
            page.append("```text\n" + "\n\n".join(texts) + "\n```")
    return "\n\n".join(page) + "\n"


def main(names: list[str]) -> None:
    """Write the pages of some notebooks."""
    (HERE / "notebooks").mkdir(exist_ok=True)
    os.environ.setdefault("NALSPARK_SPECTRA", "150")
    os.environ.setdefault("NALSPARK_CARDS", "1")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name in names:
            if name == "rates":
                command(["completeness", "nalspark-notebooks/result"])
            page = run_cells(name)
            (HERE / "notebooks" / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

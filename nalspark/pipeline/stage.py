"""What a stage says about itself. The engine knows no stage, and asks only this."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from pyspark.sql import DataFrame, SparkSession

from nalspark.pipeline.run import Run
from nalspark.tables.manifest import Part
from nalspark.tables.table import Table

#: Rows for the stage's own table, or for several tables by name; records where the stage has put rows in their place itself.
Made = DataFrame | Mapping[str, DataFrame | Mapping[str, Part]]


class Stage:
    """A stage: a declaration, and the answers to what the engine asks. The usual answers are here.

    Attributes
    ----------
    name : str
    table : Table
        What it writes; `more` are written beside it, part by part as well.
    reads : tuple of str
        Tables whose parts are causes of its parts; the rows of the last one are its work.
    sections : tuple of str
        Settings that change its result: a section, or one setting of it, dotted.
    revision : int
        Raised when the code changes the result.
    content : tuple of str
        Columns of the table that matter to those who read it; empty where a part's causes say enough.
    at_once : bool
        All parts in one write: a row's result depends on other parts.
    in_place : bool
        It replaces files beside the tables: what is recorded of them is forgotten first.
    tolerant : bool
        It may be made of parts that are out of date; that is said.
    outside : bool
        Which parts are wanted follows from what lies outside the result, and takes long to ask.
    spectra : bool
        Its rows are the spectra in which the work of all stages is counted.
    """

    name: str
    table: Table
    more: tuple[Table, ...] = ()
    reads: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    revision = 1
    content: tuple[str, ...] = ()
    at_once = in_place = tolerant = outside = spectra = False

    def check(self) -> None:
        """Refuse what cannot work, before a session is started."""

    def owns(self, part: str) -> bool:
        """Tell whether a part of its table is its own; other parts of the table are left to whoever made them."""
        return True

    def wanted(self, run: Run) -> dict[str, str]:
        """Give the parts that must exist, each with the key it must have: by default those that all tables read have."""
        return {part: run.key(self, part) for part in run.common_parts(self.reads)}

    def compute(self, run: Run, parts: list[str]) -> Made:
        """Make some parts."""
        raise NotImplementedError

    def due(self, run: Run, parts: list[str]) -> int | None:
        """Give the rows owed for some parts; None for any number."""
        return None

    def least(self, run: Run, parts: list[str]) -> int:
        """Give the smallest number of rows that some parts can have."""
        return self.due(run, parts) or 0

    def weight(self, run: Run, parts: list[str]) -> int:
        """Give how much work some parts are, in rows: waves are bundled by it."""
        return self.due(run, parts) or 0

    def together(self, run: Run, parts: set[str]) -> set[str]:
        """Give the parts that are made with these, some of which may be gone."""
        return parts

    def accept(self, run: Run, parts: set[str]) -> None:
        """Refuse what looks like a mistake, before anything is done to parts that are to be made or to be forgotten."""

    def present(self, run: Run, part: str) -> bool:
        """Tell whether what a part put in its place beside the tables is still there."""
        return True

    def given(self, run: Run) -> dict[str, str]:
        """Give the digests of what the run was given for it beside files and settings: name → digest."""
        return {}

    def news(self, run: Run) -> list[str]:
        """Say what is new outside."""
        return []

    def finish(self, run: Run) -> None:
        """Do what remains when all parts are made, before the manifest tells of them."""

    def close(self) -> None:
        """Let go of what was held for the run, however it ended."""

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        """Give how files are shared out among tasks while it works."""
        return nullcontext()

"""What a programme gives to be looked at: rows of its catalogue, what may be said of them, and what the page shows of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nalspark.errors import NalsparkError
from nalspark.review.journal import Subject
from nalspark.tables.data_model import bit_meanings, bit_words
from nalspark.tables.table import Column


@dataclass(frozen=True)
class Choice:
    """One thing that a reviewer may say.

    Attributes
    ----------
    value : str
        As labels have it.
    key : str
        On the keyboard.
    text : str
        On the button.
    tone : str
        ``yes``, ``no`` or ``doubt``: its colour.
    """

    value: str
    key: str
    text: str
    tone: str = "doubt"


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """The systems of one review.

    Attributes
    ----------
    programme, title : str
    classes : sequence of Choice
    reasons : mapping
        Class → the reasons that may be given for it, each with a key of its own.
    rows : pyarrow.Table
        One a system, in the order in which they are shown.
    columns : sequence of Column
        Declarations of the columns of `rows`.
    first : sequence of str
        The columns that are always in sight.
    hidden : frozenset of str
        Columns that say what a network or another person thinks of a system: a blind review has none of them.
    bits : mapping
        Column of flags → what its bits mean.
    identity : sequence of str
        The columns that `subject` needs.
    subject : callable
        Row → what a label of it is about.
    draw : callable
        Row → what the programme's script draws, as JSON has it; of a blind review the row lacks what is hidden.
    script : Path
        The JavaScript that draws, in a folder of its own.
    """

    programme: str
    title: str
    classes: tuple[Choice, ...]
    rows: pa.Table
    columns: tuple[Column, ...]
    hidden: frozenset[str]
    identity: tuple[str, ...]
    subject: Callable[[Mapping[str, Any]], Subject]
    draw: Callable[[Mapping[str, Any]], dict[str, Any]]
    script: Path
    reasons: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    bits: Mapping[str, type[IntFlag]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def subjects(self) -> list[Subject]:
        """What labels of each row are about."""
        return [self.subject(row) for row in self.rows.select(list(self.identity)).to_pylist()]

    def row(self, number: int, *, blind: bool) -> dict[str, Any]:
        """Give a row: column → value; in a blind review without what is hidden."""
        found = self.rows.slice(number, 1).to_pylist()[0]
        return {name: value for name, value in found.items() if not (blind and name in self.hidden)}

    def sortable(self, *, blind: bool) -> list[Column]:
        """Give the columns that the systems may be sorted by."""
        return [column for column in self.columns if not column.kind.startswith("list<") and not (blind and column.name in self.hidden)]

    def order(self, column: str, *, descending: bool, blind: bool) -> tuple[list[int], list[Any]]:
        """Sort the systems: their row numbers, those without a value last, and the values; in the order of `rows` where `column` is empty.

        Raises
        ------
        NalsparkError
            Where there is no such column, or it is hidden.
        """
        if not column:
            return list(range(len(self))), [None] * len(self)
        if column not in {one.name for one in self.sortable(blind=blind)}:
            raise NalsparkError(f"The systems cannot be sorted by '{column}'.")
        keys = [(column, "descending" if descending else "ascending")]
        numbers = pc.sort_indices(self.rows.select([column]), sort_keys=keys).to_pylist()
        values = self.rows[column].to_pylist()
        return numbers, [_plain(values[number]) for number in numbers]

    def facts(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give what the table shows of a row: name, value as text, unit, meaning, and whether it is always in sight; those first."""
        declared = {column.name: column for column in self.columns}
        rest = [name for name in declared if name not in self.first]
        facts = []
        for name in (*(name for name in self.first if name in declared), *rest):
            value, error = row.get(name), row.get(f"{name}_err")
            own_error = name.endswith("_err") and row.get(name.removesuffix("_err")) is not None
            if value is None or own_error or name in self.bits or isinstance(value, list):
                continue
            about = declared[name]
            text = _with_error(value, error)
            facts.append({"name": name, "text": text, "unit": about.unit, "meaning": about.description, "first": name in self.first})
        return facts

    def remarks(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """Give the flags of a row as words with their meanings."""
        found = []
        for column, enum in self.bits.items():
            value = row.get(column) or 0
            meanings = [meaning for name, meaning in bit_meanings(enum).items() if value & enum[name]]
            words = bit_words(value, enum)
            found += [{"text": word, "meaning": meaning} for word, meaning in zip(words, meanings + [""] * len(words), strict=False)]
        return found


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_error(value: Any, error: Any = None) -> str:
    """A value as text, to the digits that its error leaves."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if isinstance(error, float) and math.isfinite(error) and error > 0:
        digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
        return f"{value:.{digits}f} ± {error:.{digits}f}"
    return f"{value:.6g}"

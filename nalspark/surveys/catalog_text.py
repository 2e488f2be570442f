"""Catalogues as text: what separates their fields, which line names the columns, which lines are rows, and the rows.

Nobody writes a table as another does: line ends, delimiters, titles, comments, rows of units, rules of dashes, fixed widths. What all have
is a line that names the columns, and the names of a catalogue's columns are known (:func:`find_layout`). Headers that describe the columns
one by one are left to ``astropy.io.ascii``, the rows of all to ``pyarrow.csv``, some million bytes at a time.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from astropy.io import ascii as astropy_ascii

#: Characters that are parsed at a time.
BLOCK = 8 << 20
#: Characters, and lines of them, in which the names of the columns and the first row are searched.
_HEAD, _HEAD_LINES = 1 << 20, 2000
#: A line of as many numbers is a row.
_FEWEST_NUMBERS = 3
_BLANKS = " "
_DELIMITERS = (",", ";", "\t", "|", _BLANKS)
#: What lines between rows, or around them, are drawn with.
_RULE = "-=+|:;, \t"
#: A command of LaTeX between rows.
_COMMAND = re.compile(r"\\[a-z]{2}")
#: A rule that shows the places of the columns.
_PLACES = re.compile(r" *[-=]+( +[-=]+)+ *")
_MARKED = re.compile(r"\s*[#%!]+\s*")
#: Headers that describe the columns one by one: what tells them, what their lines begin with, and astropy's name of them.
_DESCRIBED = (
    (re.compile("byte-by-byte description", re.IGNORECASE), re.compile("------|======"), astropy_ascii.Mrt),
    (re.compile(r"\|[^|]+\|"), re.compile(r"\|"), astropy_ascii.Ipac),
    (re.compile(r"#\s*1\s+[A-Za-z]"), re.compile(r"#\s*\d+\s+[A-Za-z]"), astropy_ascii.SExtractor),
)
_NUMBER = re.compile(r"[+-]?\.?\d")
#: The second line of an RDB file: widths and types.
_RDB_TYPE = re.compile(r"\d+[NSM]", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
#: Lines below the header that may say units and types.
_UNIT_LINES = 3
_SHOWN = 60
#: What the name of a column without one begins with, or ends with where it is not the first of its name.
_NAMELESS = "(column"
_SEPARATORS = {_BLANKS: "blanks", "\t": "tab"}


@dataclass(frozen=True)
class Layout:
    """How the rows of a text are cut.

    Attributes
    ----------
    names : tuple of str
        Of the columns; all differ.
    header : int
        The line that names the columns, counted from 1.
    above : int
        Lines above the first row.
    delimiter : str
        A blank stands for any number of them.
    spans : tuple of slice
        The places of the columns in a line, where these have fixed widths.
    ruled : bool
        Whether a rule below the names shows the places, so that nothing is between them.
    decimal_comma : bool
    """

    names: tuple[str, ...]
    header: int
    above: int = 0
    delimiter: str = _BLANKS
    spans: tuple[slice, ...] = ()
    ruled: bool = False
    decimal_comma: bool = False

    def cells(self, line: str) -> list[str]:
        """Cut a line; one that a rule does not fit has a cell too many."""
        if not self.spans:
            return _split(line, self.delimiter)
        cells = [line[span].strip() for span in self.spans]
        between = self.ruled and "".join("".join(cells).split()) != "".join(line.split())
        return [*cells, line.strip()] if between else cells


def folded(name: str) -> str:
    """Give a column's name without its case, its unit in brackets, and what separates its words."""
    return re.sub(r"\[.*\]|\(.*\)|[_\-.\s]", "", name).lower()


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == _BLANKS:
        if '"' not in line:
            return line.split()
        line = line.replace("\t", _BLANKS).strip()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


def _is_row(line: str) -> bool:
    text = line.strip(" \t\n\x00\x1a")
    is_rule = not text.strip(_RULE) and ("--" in text or "==" in text)
    return bool(text) and text[0] != "#" and not is_rule and not _COMMAND.match(text)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names that all differ: the first column of a name has it."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        seen[name if name and name not in seen else f"{name} {_NAMELESS} {number})".lstrip()] = number
    return tuple(seen)


# --- the layout ----------------------------------------------------------------------------------------------------------------------


def find_layout(file: TextIO, known: frozenset[str]) -> Layout:
    """Find the header of a text, what separates its fields, and where its rows begin.

    Of all lines and delimiters those are taken that give the most known names, the fewest others among them, and before all others those
    with as many fields as a row below them has.

    Parameters
    ----------
    file : text file
        At its beginning.
    known : frozenset of str
        What columns may be called, each :func:`folded`.

    Raises
    ------
    ValueError
        Where no line can be a header.
    """
    lines = list(islice(io.StringIO(file.read(_HEAD)), _HEAD_LINES))
    best, layout = (False, 0, 0), None
    for candidate in _candidates(lines):
        if n_known := len({folded(name) for name in candidate.names} & known):
            fitting = candidate if candidate.spans else _fitted(candidate, lines)
            n_named = sum(1 for name in candidate.names if not name.startswith(_NAMELESS))
            if (rank := (fitting is not None, n_known, -n_named)) > best:
                best, layout = rank, fitting or candidate
    if layout is None:
        layout = _first_line(lines)
    meant = [place for place, name in enumerate(layout.names) if folded(name) in known]
    rows = [number for number in range(layout.above, len(lines)) if _is_row(lines[number])]
    cells = {number: [cell for place, cell in enumerate(layout.cells(lines[number])) if place in meant] for number in rows[:50]}
    for number in rows[:_UNIT_LINES]:
        if meant and not any(_NUMBER.match(cell) and not _RDB_TYPE.fullmatch(cell) for cell in cells[number]):
            rows.remove(number)
    with_comma = layout.delimiter != "," and any(_DECIMAL_COMMA.fullmatch(cell) for row in cells.values() for cell in row)
    return replace(layout, above=rows[0] if rows else len(lines), decimal_comma=with_comma)


def _candidates(lines: list[str]) -> Iterator[Layout]:
    """All that the header may be, the likelier before the less likely."""
    for tells, begins, reader in _DESCRIBED:
        header = [number for number, line in enumerate(lines) if begins.match(line)]
        below = next((line for line in lines[header[-1] + 1 :] if line.strip()), "") if header else ""
        if below and any(tells.match(line) for line in lines) and not begins.match(below) and _is_row(below):
            yield from _described(lines, header, reader)
    for number, line in enumerate(lines):
        if _is_row(line) and any(_has_numbers(_split(line, delimiter)) for delimiter in _DELIMITERS):
            return  # a header further down would be that of another table
        text = _MARKED.sub(lambda mark: " " * len(mark[0]), line, count=1) if _MARKED.match(line) else line
        if places := next((below for below in lines[number + 1 : number + 4] if _PLACES.fullmatch(below.rstrip("\n"))), ""):
            starts = [place.span() for place in re.finditer("[-=]+", places)]
            spans = tuple(slice(start, stop if stop < starts[-1][1] else None) for start, stop in starts)
            yield Layout(_distinct(text[span].strip() for span in spans), number + 1, number + 1, spans=spans, ruled=True)
        for delimiter in _DELIMITERS if text.strip() else ():
            yield Layout(_distinct(_split(text, delimiter)), number + 1, number + 1, delimiter)


def _has_numbers(cells: list[str]) -> bool:
    """Whether these are the cells of a row, and no title."""
    n_numbers = sum(1 for cell in cells if _NUMBER.match(cell))
    return n_numbers >= _FEWEST_NUMBERS and 2 * n_numbers > len(cells)


def _described(lines: list[str], header: list[int], reader: Any) -> Iterator[Layout]:
    """The layout by a header that describes every column, as astropy understands it; none where it does not."""
    described = astropy_ascii.get_reader(reader_cls=reader).header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of units, which are not looked at
            described.get_cols([line.rstrip("\n") for line in lines if line.strip()])
    except (LookupError, TypeError, ValueError):  # of which astropy's errors of text are one
        return
    spans = tuple(slice(column.start, column.end) for column in described.cols if reader is not astropy_ascii.SExtractor)
    yield Layout(_distinct(column.name for column in described.cols), header[0] + 1, header[-1] + 1, spans=spans)


def _fitted(layout: Layout, lines: list[str]) -> Layout | None:
    """The layout, if a row below has as many fields; a delimiter that ends the header only, or the rows only, is nothing."""
    n_names = len(layout.names)
    rows = islice((line for line in lines[layout.above :] if _is_row(line)), _UNIT_LINES + 1)
    for cells in (found := [layout.cells(line) for line in rows]):
        if len(cells) == n_names:
            return layout
        if len(cells) == n_names + 1 and not cells[-1]:
            return replace(layout, names=(*layout.names, f"{_NAMELESS} {n_names + 1})"))
        if len(cells) == n_names - 1 and layout.names[-1] == f"{_NAMELESS} {n_names})":
            return replace(layout, names=layout.names[:-1])
    return None if found else layout


def _first_line(lines: list[str]) -> Layout:
    """The first line that could be a header, where no name in it is known."""
    number = next((number for number, line in enumerate(lines) if _is_row(line)), None)
    if number is None:
        raise ValueError("it has no header line; the first line of a table names its columns")
    delimiter = max(_DELIMITERS, key=lambda delimiter: len(_split(lines[number], delimiter)) - (delimiter == _BLANKS))
    names = _split(lines[number], delimiter)
    if all(map(_NUMBER.match, names)):
        raise ValueError(
            f"line {number + 1} ({_short(lines[number].strip())!r}) has numbers, but the first line of a table names its columns"
        )
    return Layout(_distinct(names), number + 1, number + 1, delimiter)


# --- the rows ------------------------------------------------------------------------------------------------------------------------


def rows(file: TextIO, layout: Layout, names: Sequence[str]) -> Iterator[dict[str, pa.Array]]:
    """Read columns as strings, some million bytes at a time: types guessed from the first block would fail on a later one.

    Parameters
    ----------
    file : text file
        At its beginning.
    layout : Layout
    names : sequence of str

    Raises
    ------
    ValueError
        Of a line with more or fewer fields than the header.
    """
    above = sum(1 for _ in islice(file, layout.above))
    while block := file.read(BLOCK):
        block += file.readline()
        if table := _parsed(block, above, layout, names):
            yield table
        above += block.count("\n")


def line_of(file: TextIO, layout: Layout, row: int) -> int:
    """Give the line, counted from 1, of a row, counted from 0, of a file at its beginning."""
    numbered = islice(zip(count(1), file, strict=False), layout.above, None)
    return next(islice((number for number, line in numbered if _is_row(line)), row, None), 0)


def _parsed(block: str, above: int, layout: Layout, names: Sequence[str]) -> dict[str, pa.Array]:
    """Some lines as columns; none where there is no row among them."""
    keep: Callable[[str], object] = bool
    parse = pa_csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)
    if layout.spans or layout.delimiter == _BLANKS:
        keep, parse = _is_row, pa_csv.ParseOptions(delimiter="\t", quote_char=False)
        clean = "\n".join("\t".join(layout.cells(line)) for line in filter(keep, block.split("\n")))
    elif "\n#" in block or block.startswith("#"):
        keep = _is_row
        clean = "\n".join(filter(keep, block.split("\n")))
    else:
        clean = block
    ragged = list[pa_csv.InvalidRow]()

    def of_other_length(row: pa_csv.InvalidRow) -> str:
        if _is_row(row.text):
            ragged.append(row)
        return "skip"

    parse.invalid_row_handler = of_other_length
    table = _by_arrow(clean.replace(f'{parse.delimiter} "', f'{parse.delimiter}"'), parse, layout, names)
    if ragged:
        raise ValueError(_fault(ragged[0], (number for number, line in enumerate(block.split("\n"), above + 1) if keep(line)), layout))
    return table


def _by_arrow(text: str, parse: pa_csv.ParseOptions, layout: Layout, names: Sequence[str]) -> dict[str, pa.Array]:
    """Columns of a text that has nothing but rows, and what the handler of invalid ones leaves out."""
    content = text.encode("utf-8", "replace")
    if not content or content.isspace():
        return {}
    # Threads of Arrow's that still run when a process ends itself end it in their own way.
    read = pa_csv.ReadOptions(column_names=layout.names, block_size=len(content) + 1, use_threads=False)
    convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=list(names), strings_can_be_null=False)
    table = pa_csv.read_csv(pa.py_buffer(content), read, parse, convert).combine_chunks()
    columns = {name: column.chunk(0) for name, column in zip(names, table.columns, strict=True)} if len(table) else {}
    return {name: pc.replace_substring(column, ",", ".") if layout.decimal_comma else column for name, column in columns.items()}


def _fault(row: pa_csv.InvalidRow, numbers: Iterator[int], layout: Layout) -> str:
    line = next(islice(numbers, row.number - 1, None), 0)
    return (
        f"line {line} has {row.actual_columns} fields ({_short(row.text)!r}), but line {layout.header}, which names the columns, has "
        f"{row.expected_columns}; separated by {_SEPARATORS.get(layout.delimiter, layout.delimiter)!r}"
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"

"""The data-model page, and the words for the bits of a flag column: both come from the declarations, none is written twice."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from enum import IntFlag

from nalspark.tables.table import Column, Table

_DOCUMENTED_MEMBER = re.compile(r"^ +(?P<name>[A-Z][A-Z0-9_]*) *=.*?#: *(?P<meaning>.+?) *$", re.MULTILINE)

_KINDS = {
    "int": "32-bit integer",
    "long": "64-bit integer",
    "float": "32-bit float",
    "double": "64-bit float",
    "bool": "true or false",
    "string": "text",
}
_PIXELS = {"<f2": "16-bit floats", "<f4": "32-bit floats", "<f8": "64-bit floats", "<u1": "bytes", "<i4": "32-bit integers"}

#: Words of a member's name that stay in capitals when it is written as words.
_ACRONYMS = frozenset({"BAL"})


#: Python 3.11 cannot parse in two threads at once (its counter of recursion is shared).
_PARSING = threading.Lock()


def bit_meanings(enum: type[IntFlag]) -> dict[str, str]:
    """Tell what each bit of a flag column means.

    The meanings are the ``#:`` comments beside the members, read from the source as pydantic reads the docstrings of
    :mod:`nalspark.settings`, so that a bit is described in one place only.

    Returns
    -------
    dict
        Member name → meaning, in the order of the bits; the meaning is empty where the member has no comment or there is no source.
    """
    with _PARSING:
        try:
            source = inspect.getsource(enum)
        except (OSError, TypeError):
            source = ""
    found = {match["name"]: match["meaning"] for match in _DOCUMENTED_MEMBER.finditer(source)}
    return {name: found.get(name, "") for name in enum.__members__}


def bit_words(value: int, enum: type[IntFlag]) -> tuple[str, ...]:
    """Name the bits that are set in `value`, as words for a person: ``(near quasar, sky line)``; a bit without a name as ``bit 12``."""
    value = int(value)
    words = [_words(name) for name, bit in enum.__members__.items() if value & bit]
    unknown = value & ~sum(enum.__members__.values())
    return (*words, *(f"bit {position}" for position in range(unknown.bit_length()) if unknown >> position & 1))


def data_model_page(tables: Sequence[Table], enums: Mapping[str, type[IntFlag]]) -> str:
    """Write the data model as a Markdown page: the tables in their order, then the bits of the columns that `enums` names."""
    lines = [
        "# Data model",
        "",
        "Generated from the declarations in `nalspark/tables/schemas.py`; change those, not this page.",
        "",
        "Every table is a folder of Parquet files. Wavelengths are in vacuum, positions are ICRS, and equivalent widths are in the",
        "absorber's rest frame. A value that could not be measured is null in Parquet, and NaN (or the column's TNULL) in FITS. A column",
        "of *pixels* holds an array of little-endian numbers in one binary cell: decode it with `numpy.frombuffer`.",
        "",
        'In pandas write `df["flags"]`: `df.flags` is something else, an attribute of every frame, as `df.mean` is.',
        "`class` is a word of Python itself: write `df['class']`.",
        "",
        "| table | a row is |",
        "|---|---|",
        *(f"| [{table.name}](#{table.name}) | {_cell(table.description)} |" for table in tables),
    ]
    for table in tables:
        lines += ["", *_table_section(table, enums)]
    for column, enum in enums.items():
        lines += ["", *_bits_section(column, enum)]
    return "\n".join(lines) + "\n"


def _table_section(table: Table, enums: Mapping[str, type[IntFlag]]) -> Iterable[str]:
    yield from (f"## {table.name}", "", table.description, "", "| column | type | unit | UCD | meaning |", "|---|---|---|---|---|")
    for column in table.columns:
        meaning = _cell(column.description)
        if column.name in enums:
            meaning += f" ([bits](#bits-of-{column.name}))"
        yield f"| `{column.name}` | {_kind(column)} | {_cell(column.unit)} | {_cell(column.ucd)} | {meaning} |"
    if table.note:
        yield from ("", table.note)


def _bits_section(column: str, enum: type[IntFlag]) -> Iterable[str]:
    yield from (f"## Bits of {column}", "")
    yield from (" ".join((enum.__doc__ or "").split("\n\n")[0].split()), "", "| bit | value | name | meaning |", "|---|---|---|---|")
    meanings = bit_meanings(enum)
    for name, bit in enum.__members__.items():
        yield f"| {int(bit).bit_length() - 1} | {int(bit)} | `{name}` | {_cell(meanings[name])} |"


def _kind(column: Column) -> str:
    if column.pixel_dtype:
        return f"pixels: {_PIXELS.get(column.pixel_dtype, column.pixel_dtype)}"
    if column.kind.startswith("list<"):
        return f"list of {_KINDS[column.kind[5:-1]]}"
    return _KINDS[column.kind]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _words(name: str) -> str:
    return " ".join(word if word in _ACRONYMS else word.lower() for word in name.split("_"))

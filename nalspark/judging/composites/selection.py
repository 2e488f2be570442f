"""Which rows are stacked: a condition on columns, written as in Python, read and never run.

``ew_2796 > 1 and not (z_abs < 0.5 or flags & 1024 != 0)``: comparisons of columns with each other or with numbers and texts, joined by
``and``, ``or``, ``not``; ``&`` takes bits of a whole number. Nothing else is understood.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from nalspark.errors import SettingsError, did_you_mean

_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_NUMBERS, _WHOLE = ("int", "long", "float", "double"), ("int", "long")
#: Kinds of columns that can be compared, by what they are compared as.
_TYPES = {**dict.fromkeys(_NUMBERS, "number"), "string": "text", "bool": "truth"}
_LONGEST = 2000
_HELP = 'Write comparisons of columns and numbers, joined by and, or, not: for example "ew_2796 > 1 and z_abs < 1.5".'


@dataclass(frozen=True)
class Selection:
    """A condition that was read.

    Attributes
    ----------
    text : str
        As it was written; empty: all rows.
    columns : frozenset of str
        Those that it names.
    """

    text: str
    columns: frozenset[str]
    _tree: ast.expr | None

    def apply(self, column: Callable[[str], Any]) -> Any:
        """Give the condition, of whatever `column` gives for a name: numpy arrays, or columns of Spark or of pandas; None: all rows."""
        return None if self._tree is None else _value(self._tree, column)


def parse_selection(text: str, kinds: Mapping[str, str]) -> Selection:
    """Read a condition.

    Parameters
    ----------
    text : str
        Empty: all rows.
    kinds : mapping
        Column → kind, as :class:`nalspark.tables.table.Column` names kinds.

    Raises
    ------
    SettingsError
        Where it is no condition, names an unknown column, or compares a text with a number.
    """
    if not text.strip():
        return Selection("", frozenset(), None)
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None:
        raise SettingsError(f"The selection '{text[:80]}' is no condition of at most {_LONGEST} characters. {_HELP}")
    if _check(tree, kinds, text) != "truth":
        raise SettingsError(f"The selection '{text}' is a value, not a condition. {_HELP}")
    return Selection(text.strip(), frozenset(_names(tree)), tree)


def _names(tree: ast.expr) -> Iterable[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _check(node: ast.expr, kinds: Mapping[str, str], text: str) -> str:
    """What a piece of a condition is: ``truth``, ``number``, ``text``."""
    match node:
        case ast.BoolOp(values=values):
            return _all_truths(values, kinds, text)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _all_truths([operand], kinds, text)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand) if _check(operand, kinds, text) == "number":
            return "number"
        case ast.BinOp(op=ast.BitAnd(), left=ast.Name(id=name), right=ast.Constant(value=int() as bits)) if (
            kinds.get(name) in _WHOLE and 0 <= bits < 2**31
        ):
            return "number"
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARED for op in ops):
            if len({_check(side, kinds, text) for side in (left, *others)}) > 1:
                raise SettingsError(f"'{ast.unparse(node)}' in the selection compares a number with a text or a truth value.")
            return "truth"
        case ast.Constant(value=bool()):
            return "truth"
        case ast.Constant(value=int() | float() as value) if abs(value) < 2**63:
            return "number"
        case ast.Constant(value=str()):
            return "text"
        case ast.Name(id=name):
            return _kind(name, kinds)
    raise SettingsError(f"'{ast.unparse(node)[:80]}' in the selection is not understood. {_HELP}")


def _all_truths(values: list[ast.expr], kinds: Mapping[str, str], text: str) -> str:
    for value in values:
        if _check(value, kinds, text) != "truth":
            raise SettingsError(f"'{ast.unparse(value)}' in the selection is a value, not a condition. {_HELP}")
    return "truth"


def _kind(name: str, kinds: Mapping[str, str]) -> str:
    usable = [known for known, kind in kinds.items() if kind in _TYPES]
    if name not in usable:
        near = did_you_mean(name, usable) or f" There are {', '.join(usable)}."
        raise SettingsError(f"The selection names a column '{name}', which cannot be selected by.{near}")
    return _TYPES[kinds[name]]


def _value(node: ast.expr, column: Callable[[str], Any]) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            join = operator.and_ if isinstance(op, ast.And) else operator.or_
            return reduce(join, (_value(value, column) for value in values))
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, column)
            return -value if isinstance(op, ast.USub) else (not value if isinstance(value, bool) else ~value)
        case ast.BinOp(left=left, right=right):
            return _bits(_value(left, column), _value(right, column))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(side, column) for side in (left, *others)]
            pairs = zip(ops, sides[:-1], sides[1:], strict=True)
            return reduce(operator.and_, (_COMPARED[type(op)](one, other) for op, one, other in pairs))
        case ast.Constant(value=value):
            return value
    return column(node.id)  # type: ignore[attr-defined]  # nothing else passes the check


def _bits(value: Any, bits: int) -> Any:
    """The bits of a column; of Spark's columns ``&`` joins conditions."""
    return value.bitwiseAND(bits) if hasattr(value, "bitwiseAND") else value & bits

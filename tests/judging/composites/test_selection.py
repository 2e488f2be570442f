"""Conditions on columns: what is understood, and that nothing is run."""

from __future__ import annotations

import numpy as np
import pytest

from nalspark.errors import SettingsError
from nalspark.judging.composites.selection import parse_selection

KINDS = {"ew_2796": "double", "z_abs": "double", "flags": "int", "survey": "string", "primary": "bool", "z_start": "list<double>"}
ROWS = {
    "ew_2796": np.array([0.5, 1.5, 2.5, 3.5]),
    "z_abs": np.array([0.4, 0.8, 1.2, 1.6]),
    "flags": np.array([0, 1024, 5, 1]),
    "survey": np.array(["main", "sv3", "main", "sv1"]),
    "primary": np.array([True, False, True, True]),
}


@pytest.mark.parametrize(
    "text, rows",
    [
        ("ew_2796 > 1", [1, 2, 3]),
        ("ew_2796 > 1 and z_abs < 1.5", [1, 2]),
        ("0.5 < z_abs <= 1.2", [1, 2]),
        ("not (z_abs < 0.5 or z_abs > 1.5)", [1, 2]),
        ("flags & 1024 == 0 and primary", [0, 2, 3]),
        ("survey == 'main' or survey == \"sv1\"", [0, 2, 3]),
        ("z_abs > -1 and not primary", [1]),
        ("ew_2796 > z_abs and flags != 5", [0, 1, 3]),
        ("True and ew_2796 >= 3.5", [3]),
    ],
)
def test_a_condition_chooses_rows(text, rows):
    chosen = parse_selection(text, KINDS).apply(ROWS.__getitem__)
    assert np.flatnonzero(chosen).tolist() == rows


def test_no_condition_is_all_rows_and_the_columns_are_told():
    assert parse_selection("  ", KINDS).apply(ROWS.__getitem__) is None
    assert parse_selection("ew_2796 > 1 and not primary", KINDS).columns == {"ew_2796", "primary"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "().__class__.__bases__[0]", "(lambda: 1)() == 1", "[x for x in (1,)] == 1", "z_abs.real > 1",
        "z_abs > 1; z_abs < 2", "z_abs ** 9 > 1", "f'{z_abs}' == 'a'", "z_abs in (1, 2)", "z_abs > (y := 1)", "z_abs > 1 if True else 2",
        "print(1)", "z_abs >", "9" * 3000, "(" * 500 + "1" + ")" * 500, "not " * 900 + "primary", "\0", "z_abs > 1j", "z_abs == None",
        "ew_2796", "1", "z_abs and primary", "z_abs > 'high'", "survey & 1 == 0", "-survey == 'a'", "z_start > 1", "primary == 1",
        "flags & flags == 1", "z_abs < 99999999999999999999999999", "flags & 99999999999999999999 == 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_in_a_sentence(text):
    with pytest.raises(SettingsError, match="selection") as refused:
        parse_selection(text, KINDS)
    assert len(str(refused.value)) < 500


def test_a_misspelt_column_is_answered_with_the_right_one():
    with pytest.raises(SettingsError, match="'ew_2769'.*Did you mean 'ew_2796'"):
        parse_selection("ew_2769 > 1", KINDS)

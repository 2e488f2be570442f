"""What the command line says of itself: an example for every command, and the page of all settings."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nalspark.cli import _parser, main, settings_text
from nalspark.settings import Section, Settings, Unit, known_keys

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
#: Ends of the names of settings that have a unit. The longer ones come first.
SUFFIXES = {"_mb_s": "MB/s", "_s": "s", "_mb": "MB", "_arcsec": "arcsec", "_kms": "km/s", "_pixels": "pixels", "_significance": "σ"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


@pytest.mark.parametrize("parser", [*parsers(_parser())], ids=lambda parser: parser.prog)
def test_the_help_of_every_command_ends_with_an_example_that_is_one(parser: argparse.ArgumentParser) -> None:
    assert parser.epilog and f"{parser.epilog} ".startswith(f"example: {parser.prog} ")
    assert parser.format_help().rstrip().endswith(parser.epilog), "not broken into lines"
    words = shlex.split(parser.epilog.removeprefix("example: "))
    asked = _parser().parse_args(words[1 : words.index(">")] if ">" in words else words[1:])
    assert not hasattr(asked, "run") or not asked.run.startswith("conf/") or (PAGE.parents[1] / asked.run).is_file()


# ---- settings


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    assert main(["settings"]) == 0
    assert PAGE.read_text(encoding="utf-8") == capsys.readouterr().out, (
        "docs/settings.md is out of date: nalspark settings > docs/settings.md"
    )


def test_every_setting_is_printed_with_default_values_and_meaning() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*)` \| (.*) \| (.+) \| (.+) \|$", settings_text(), re.MULTILINE)
    names = [name for name, *_ in rows]
    assert set(names) >= set(known_keys()) and len(names) == len(set(names))
    assert all(default and values and meaning.endswith(".") for _, default, _, values, meaning in rows)
    by_name = {name: tuple(rest) for name, *rest in rows}
    assert by_name["search.min_significance"][:3] == ("3.4", "σ", "number, > 0")
    assert by_name["crossmatch.weak"][:3] == ('"exclude"', "", "exclude, negative")
    assert by_name["search.widths_pixels"][:3] == ("[1.4, 2.4, 4.2]", "pixels", "list")
    assert by_name["train.mixed_precision"][:3] == ("false", "", "true, false")


def test_a_name_with_a_unit_has_that_unit() -> None:
    for name, kind in Settings.model_fields.items():
        inner = kind.annotation
        for leaf, field in inner.model_fields.items() if isinstance(inner, type) and issubclass(inner, Section) else ():
            expected = next((unit for suffix, unit in SUFFIXES.items() if leaf.endswith(suffix)), None)
            units = [note for note in field.metadata if isinstance(note, Unit)]
            assert expected is None or units == [expected], f"{name}.{leaf}"


def test_one_section_or_one_setting_is_printed(capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    assert main(["settings", "search"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("## search\n") and said in PAGE.read_text(encoding="utf-8") and "`infer." not in said
    assert main(["settings", "run"]) == 0 and "| `out` |" in capsys.readouterr().out
    assert main(["settings", "infer.min_score"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| `infer.min_score` | `0.6` |")
    assert main(["settings", "serch"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("Did you mean 'search'?")

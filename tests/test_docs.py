"""Every block of code in README.md, CONTRIBUTING.md and docs/*.md runs, or says in a comment above it why it does not.

A folder has what the pages name: SPECTRA, DR16Q_v4.fits, DIR (a result whose worth is known), RUN.toml, TRUTH and so on. Blocks of Python
of one page share their names. What does not run is parsed all the same: no page shows a command, an option or a setting that is not there.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from astropy.table import Table

from nalspark.cli import _parser, main, settings_text
from nalspark.mocks.survey import simulate_survey
from nalspark.settings import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Languages of blocks. `text` is what a program prints, or a file of another program; the site has those in braces for itself.
LANGUAGES = ("sh", "python", "toml", "text")
_FENCE = re.compile(r"^(?P<above>[^\n]*)\n(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (?P<reason>.+) -->")
#: First words of folders of this repository: what a command names in them must be there.
_OURS = re.compile(r"(jobs|conf|benchmarks|notebooks)/[\w./-]+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and why it is not run; empty where it is."""

    language: str
    code: str
    reason: str

    @property
    def lines(self) -> list[str]:
        return self.code.replace("\\\n", " ").splitlines()


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, those of the site's own directives left out."""
    found = []
    for match in _FENCE.finditer("\n" + text):
        if match["language"].startswith("{"):
            continue
        mark = _MARK.fullmatch(match["above"])
        found.append(Block(match["language"], match["code"], mark["reason"] if mark else ""))
    return found


def commands_in(line: str) -> Iterator[list[str]]:
    """The commands of a line of a shell, each as its words, without redirections and variables."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("&|;()"):
            yield command
            command = []
        elif command or "=" not in word:
            command.append(word)


def nalspark_words(line: str) -> Iterator[list[str]]:
    """What follows `nalspark` in the commands of a line, redirections left out; a schedule may stand before the first."""
    for command in commands_in(line):
        for place, word in enumerate(command):
            if word == "nalspark" or word.endswith("/bin/nalspark"):
                words = command[place + 1 :]
                if words:
                    yield words[: words.index(">")] if ">" in words else words
                break


def texts_of(block: Block) -> list[str]:
    """Where commands may stand in a block: the lines, and of Python the texts."""
    if block.language == "python":
        return [node.value for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return block.lines if block.language in ("sh", "text") else []


def parsed(words: list[str]) -> argparse.Namespace:
    """The options of a command line, whose settings must be known."""
    options = _parser().parse_args(words)
    known = re.findall(r"^\| `([\w.]+)` \|", settings_text(), re.MULTILINE)
    for name in [text.partition("=")[0] for text in getattr(options, "set", ())]:
        assert name in known or any(name.startswith(f"{one}.") for one in known), f"there is no setting {name}"
    return options


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name; none of one that has none."""
    return next((dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def check_inline(text: str) -> None:
    """`nalspark …` within a sentence may leave out what is required: its commands and options must be there."""
    words, parser = text.split()[1:], _parser()
    while words and (choices := commands(parser)) and re.fullmatch(r"[a-z][\w-]*", words[0]):
        assert words[0] in choices, f"there is no command {words[0]} in `{text}`"
        parser = choices[words.pop(0)]
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in parser._option_string_actions, f"there is no option {word} in `{text}`"


def run_line(line: str) -> None:
    """Run a line of a block of `sh`: commands of nalspark alone, whose output may go into a file."""
    for command in commands_in(line):
        if command:
            assert command[0] == "nalspark", f"only commands of nalspark are run, mark the block that says: {line}"
            words = command[1:]
            assert main(words[: words.index(">")] if ">" in words else words) == 0, line


def runs(block: Block) -> bool:
    return not block.reason and block.language != "text"


def has_code(page: Path) -> bool:
    return any(map(runs, blocks_of(page.read_text(encoding="utf-8"))))


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working folder; a block of TOML becomes RUN.toml."""
    if block.language == "python":
        exec(compile(block.code, "a page", "exec"), names)
    elif block.language == "toml":
        Path("RUN.toml").write_text(block.code, encoding="utf-8")
        load("RUN.toml")
    elif block.language == "sh":
        for line in block.lines:
            run_line(line)


# ---- what all blocks have


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is_and_every_command_is_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    for block in blocks_of(text):
        assert block.language in LANGUAGES, f"a block of {page.name} is of no known language: {block.code[:60]}"
        if block.language == "toml":
            tomllib.loads(block.code)
        for line in texts_of(block):
            for words in nalspark_words(line):
                parsed(words)
            for path in re.finditer(_OURS, line):
                assert (ROOT / path[0]).exists() or "HOST" in path[0], f"{page.name}: {path[0]}"
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`(nalspark [a-z][^`\n]*)`", outside):
        check_inline(inline)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_mark_stands_on_a_block(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall("^<!-- not run:", text, re.MULTILINE)) == sum(bool(block.reason) for block in blocks_of(text))


def test_links_to_pages_outside_are_whole() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((https?:[^)]*)\)", page.read_text(encoding="utf-8")):
            assert re.fullmatch(r"https?://[\w.-]+\.[a-z]+(/[^\s]*)?", link), f"{page.name}: {link}"


@pytest.mark.parametrize(
    "code", ["nalspark find SPECTRA --ouut DIR", "nalspark fnid SPECTRA --out DIR", "nalspark run RUN.toml --set search.min_sig=3"]
)
def test_a_wrong_command_is_found(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks_of(f"# Page\n\n<!-- not run: an example -->\n```sh\n{code}\n```\n")
    assert block.reason == "an example"
    with pytest.raises((SystemExit, AssertionError)):
        for words in nalspark_words(block.lines[0]):
            parsed(words)
    with pytest.raises(AssertionError):
        check_inline("nalspark find SPECTRA --quasar FILE")


def test_what_cannot_run_must_say_so() -> None:
    (block,) = blocks_of("Some words\n\n```sh\nspark-submit jobs/catalogue.py RUN.toml\n```\n")
    assert not block.reason
    with pytest.raises(AssertionError, match="mark the block"):
        run_block(block, {})


# ---- running them


def write_labels(result: Path) -> None:
    """What two reviewers say of all absorbers of a result, one doubt among it."""
    rows = pd.read_parquet(result / "absorbers.parquet", columns=["absorber_id", "spectrum_id", "z_abs"])
    (result / "labels").mkdir()
    for reviewer in ("ada", "ben"):
        lines = []
        for number, row in enumerate(rows.itertuples()):
            doubt = reviewer == "ben" and number == 0
            said = {"class": "unsure" if doubt else "absorber", "reason": "noise" if doubt else "", "note": "", "blind": True, "look": 1}
            what = {"programme": "absorption", "system": row.absorber_id, "spectrum_id": row.spectrum_id, "species": "MgII", "z": row.z_abs}
            when = {"reviewer": reviewer, "time": f"2026-11-30T12:00:00.{number:03}Z", "undoes": ""}
            lines.append(json.dumps({"label_id": f"{reviewer}{number}"} | what | said | when))
        (result / "labels" / f"{reviewer}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def place(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which blocks run, and a copy of DIR as it is at the beginning of each page."""
    folder = tmp_path_factory.mktemp("docs")
    with chdir(folder):
        simulate_survey("survey", 70, 1)  # with fewer, no completeness can be told
        Path("SPECTRA").symlink_to("survey/spectra")
        shutil.copy("survey/quasars.fits", "DR16Q_v4.fits")
        shutil.copy("survey/truth.parquet", "TRUTH")
        truth = Table.from_pandas(pd.read_parquet("TRUTH"))
        systems = truth["plate", "mjd", "fiber", "z_abs"]
        systems["ew_2796"] = truth["ew_primary"]
        systems.write("OTHER.fits")
        quasars = Table.read("DR16Q_v4.fits")
        places = list(zip(quasars["RA"], quasars["DEC"], strict=True))
        Path("galaxies.csv").write_text("ra,dec,z\n" + "".join(f"{ra},{dec},0.5\n" for ra, dec in places[:9]))
        Path("conf").symlink_to(ROOT / "conf")
        Path("spec-7102-56666-0596.fits").symlink_to(next(Path("survey/spectra").rglob("spec-*.fits")))
        assert main(["find", "SPECTRA", "--out", "DIR", "--quasars", "DR16Q_v4.fits"]) == 0
        assert main(["completeness", "DIR"]) == 0
        write_labels(Path("DIR"))
        shutil.copytree("DIR", "first", symlinks=True)
    return folder


@pytest.mark.spark
@pytest.mark.skipif(find_spec("petastorm") is not None, reason="the pages' blocks run with today's libraries")
@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.chdir(place)
    shutil.rmtree("DIR")
    shutil.copytree("first", "DIR", symlinks=True)
    Path("RUN.toml").write_text('spectra = ["SPECTRA"]\nquasars = ["DR16Q_v4.fits"]\nout = "DIR"\n', encoding="utf-8")
    names: dict[str, Any] = {}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if runs(block):
            run_block(block, names)
    assert all(address.startswith("file:") for address in opened)

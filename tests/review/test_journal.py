"""Labels on disk: nothing is lost, nothing doubled, whoever writes and however he ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nalspark.errors import StoreError
from nalspark.review.journal import FIELDS, Journal, LabelError, Subject, new_id, per_minute, slug

ROOT = Path(__file__).parents[2]
SUBJECT = Subject("0752-52251-0044-36422", "0752-52251-0044", "MgII", 1.5)
WRITER = """
import sys
from pathlib import Path
from nalspark.review.journal import Journal, Subject, new_id
journal = Journal(Path(sys.argv[1]), "absorption")
for number in range(100):
    said = {"class": "absorber", "reason": "", "note": sys.argv[2] * 300, "blind": False, "look": 1}
    journal.add(Subject(f"{sys.argv[2]}-{number}"), sys.argv[3], said, new_id())
"""


def said(cls: str = "absorber", **more: Any) -> dict[str, Any]:
    return {"class": cls, "reason": "", "note": "", "blind": False, "look": 1} | more


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "labels", "absorption")


def lines(journal: Journal, name: str = "ann") -> list[str]:
    return (journal.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()


def classes(journal: Journal, reviewer: str = "ann", look: int = 1) -> dict[str, str]:
    return {system: label["class"] for (system, _), label in journal.standing(reviewer, look).items()}


def test_a_label_is_one_line_with_every_field(journal: Journal) -> None:
    label_id = new_id()
    journal.add(SUBJECT, " ann ", said("not", reason="sky", note="Å\n«»", blind=True, look=2), label_id)
    (line,) = lines(journal)
    label = json.loads(line)
    assert tuple(label) == FIELDS
    assert label.pop("time").endswith("Z")
    assert label == {
        "label_id": label_id, "programme": "absorption", "system": SUBJECT.system, "spectrum_id": SUBJECT.spectrum_id, "species": "MgII",
        "z": 1.5, "reviewer": "ann", "class": "not", "reason": "sky", "note": "Å\n«»", "blind": True, "look": 2, "undoes": "",
    }  # fmt: skip
    assert Journal(journal.folder, "absorption").standing("ann", 2)[SUBJECT.key]["label_id"] == label_id
    assert journal.standing("ann", 1) == {}


def test_the_last_label_counts_and_undoing_brings_back_the_one_before(journal: Journal) -> None:
    first, second = new_id(), new_id()
    journal.add(SUBJECT, "ann", said("absorber"), first)
    journal.add(SUBJECT, "ann", said("not"), second)
    assert classes(journal) == {SUBJECT.system: "not"}
    undo = new_id()
    assert journal.undo(second, "ann", undo)["label_id"] == second
    assert classes(journal) == classes(Journal(journal.folder, "absorption")) == {SUBJECT.system: "absorber"}
    last = json.loads(lines(journal)[-1])
    assert (last["label_id"], last["undoes"], last["class"], last["system"]) == (undo, second, "", SUBJECT.system)
    journal.undo(first, "ann", new_id())
    assert classes(journal) == {} and journal.looked_at() == set()


def test_what_is_asked_twice_is_done_once(journal: Journal) -> None:
    label_id, undo = new_id(), new_id()
    one = journal.add(SUBJECT, "ann", said(), label_id)
    assert Journal(journal.folder, "absorption").add(SUBJECT, "ann", said(), label_id) == one
    for _ in range(2):
        assert journal.undo(label_id, "ann", undo)
    assert len(lines(journal)) == 2


def test_nobody_undoes_the_label_of_another(journal: Journal) -> None:
    label_id = new_id()
    journal.add(SUBJECT, "ann", said(), label_id)
    assert journal.undo(label_id, "bob", new_id()) is None
    assert journal.undo(label_id, "Ann", new_id()) is None  # another person, though of the same file
    assert Journal(journal.folder, "emission").undo(label_id, "ann", new_id()) is None
    assert classes(journal) == {SUBJECT.system: "absorber"}


@pytest.mark.parametrize("cut", [1, 40, -2])
def test_a_line_cut_short_is_told_and_takes_no_other_with_it(journal: Journal, cut: int) -> None:
    for number in range(2):
        journal.add(Subject(f"s{number}"), "ann", said(), new_id())
    file = journal.folder / "ann.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[0][:cut])
    again = Journal(journal.folder, "absorption")
    assert list(classes(again)) == ["s0", "s1"]
    (told,) = again.torn()
    assert "1 line(s)" in told and str(file) in told
    again.add(Subject("s2"), "ann", said("not"), new_id())
    assert classes(again) == classes(Journal(journal.folder, "absorption")) == {"s0": "absorber", "s1": "absorber", "s2": "not"}
    assert len(again.torn()) == 1


@pytest.mark.parametrize("line", ["nonsense", "[1, 2]", "{}", '{"label_id": 3}', "\x00\xff", "null", "[" * 100_000])
def test_a_line_that_is_no_label_is_left_out(journal: Journal, line: str) -> None:
    (journal.folder / "ann.jsonl").write_text(line + "\n", encoding="utf-8")
    journal.add(SUBJECT, "ann", said(), new_id())
    assert classes(journal) == {SUBJECT.system: "absorber"}
    assert len(journal.torn()) == 1


def test_two_processes_and_another_reviewer_write_at_once(tmp_path: Path) -> None:
    who = [("a", "ann"), ("b", "ann"), ("c", "bob")]
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), *one], cwd=ROOT) for one in who]
    assert [process.wait(timeout=200) for process in processes] == [0, 0, 0]
    journal = Journal(tmp_path, "absorption")
    assert journal.torn() == []
    assert set(classes(journal, "ann")) == {f"{name}-{number}" for name in "ab" for number in range(100)}
    assert set(classes(journal, "bob")) == {f"c-{number}" for number in range(100)}


def test_a_journal_sees_what_another_process_adds_and_that_a_file_is_gone(journal: Journal) -> None:
    other = Journal(journal.folder, "absorption")
    journal.add(Subject("s0"), "ann", said(), new_id())
    assert list(classes(other)) == ["s0"]
    journal.add(Subject("s1"), "ann", said(), new_id())
    assert list(classes(other)) == ["s0", "s1"]
    (journal.folder / "ann.jsonl").unlink()
    assert classes(other) == {}


def test_two_species_at_one_pixel_are_two_systems(journal: Journal) -> None:
    for species, cls in (("MgII", "absorber"), ("CIV", "not")):
        journal.add(Subject("s0", "s", species, 1.0), "ann", said(cls), new_id())
    assert [label["class"] for label in journal.standing("ann", 1).values()] == ["absorber", "not"]


@pytest.mark.parametrize(
    "name, file",
    [("ann", "ann"), ("Ann Bo", "ann-bo"), ("Żółć", "zoc-"), ("../../etc/passwd", "etc-passwd-"), ("李", "reviewer-"), ("a/b", "a-b-")],
)
def test_a_reviewers_file_lies_in_the_folder_whatever_the_name(journal: Journal, name: str, file: str) -> None:
    assert slug(name) == file or (file.endswith("-") and slug(name).startswith(file))
    journal.add(SUBJECT, name, said(), new_id())
    assert [path.name for path in journal.folder.iterdir()] == [f"{slug(name)}.jsonl"]
    assert classes(journal, name) == {SUBJECT.system: "absorber"}


def test_names_that_differ_have_files_that_differ() -> None:
    assert len({slug(name) for name in ("a-b", "a/b", "a.b", "李", "王")}) == 5


def test_what_cannot_be_kept_is_refused_in_a_sentence(journal: Journal, tmp_path: Path) -> None:
    for reviewer in ("", "  ", "x" * 61, "a\x00b"):
        with pytest.raises(LabelError, match="reviewer's name"):
            journal.add(SUBJECT, reviewer, said(), new_id())
    with pytest.raises(LabelError, match="2000"):
        journal.add(SUBJECT, "ann", said(note="x" * 2001), new_id())
    with pytest.raises(LabelError, match="hexadecimal"):
        journal.add(SUBJECT, "ann", said(), "1")
    assert list(journal.folder.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        Journal(tmp_path / "file" / "labels", "absorption")


def test_the_rate_leaves_pauses_out() -> None:
    def at(*seconds: int) -> list[dict[str, str]]:
        return [{"time": f"2026-11-30T12:{second // 60:02d}:{second % 60:02d}.000Z"} for second in seconds]

    assert per_minute(at(0, 10)) is None
    assert per_minute(at(0, 10, 20)) == pytest.approx(6.0)
    assert per_minute(at(0, 10, 20, 1500, 1510)) == pytest.approx(6.0)

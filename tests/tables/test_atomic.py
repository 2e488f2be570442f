"""A file or a folder is replaced whole, or not at all, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nalspark.tables.atomic import put, replacing, write_file


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def no_append(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the mounted folders of a cloud: files are written from their first byte to their last."""
    opened = open

    def strict(file: Any, mode: str = "r", *given: Any, **how: Any) -> Any:
        assert not set(mode) & {"a", "+"}, f"{file} is opened with mode {mode}"
        return opened(file, mode, *given, **how)

    monkeypatch.setattr("builtins.open", strict)
    monkeypatch.setattr(os, "link", lambda *_, **__: pytest.fail("a hard link"))


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("content", ["Å", "Å".encode(), memoryview("Å".encode())])
def test_a_file_is_written_and_replaced(tmp_path: Path, content: Any, sync: bool, no_append: None) -> None:
    write_file(tmp_path / "a", "a longer text than what follows")
    write_file(tmp_path / "a", content, sync=sync)
    assert (tmp_path / "a").read_bytes() == "Å".encode()
    assert os.listdir(tmp_path) == ["a"]


def make_folder(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("before", [{}, {"a": "old", "b": "old"}])
def test_a_folder_is_replaced_by_another(tmp_path: Path, before: dict[str, str], no_append: None) -> None:
    if before:
        make_folder(tmp_path / "model", **before)
    with replacing(tmp_path / "model") as new:
        make_folder(new, a="new")
    assert tree(tmp_path) == {"model/a": "new"} and os.listdir(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", a="old")
    make_folder(tmp_path / ".model.new", junk="half")
    make_folder(tmp_path / ".model.old", junk="older")
    with replacing(tmp_path / "model") as new:
        make_folder(new, a="new")
    assert tree(tmp_path) == {"model/a": "new"} and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    make_folder(tmp_path / "model", a="old")
    with pytest.raises(type(error)), replacing(tmp_path / "model") as new:
        make_folder(new, a="half")
        raise error
    assert tree(tmp_path) == {"model/a": "old"} and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_renamed_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "model", a="old")
    make_folder(tmp_path / "better", a="new")
    rename = os.replace

    def fail(source: Path, target: Path) -> None:
        if source.name == "better":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path / "better", tmp_path / "model")
    assert tree(tmp_path) == {"better/a": "new", "model/a": "old"}

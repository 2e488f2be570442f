"""Disks and file systems that fail while a file is read: it is rejected with a reason, or read whole; never is a row wrong.

More of them, in runs of the command: benchmarks/faulty_disk.py.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from surveys.make_files import write_spec, write_spspec
from surveys.test_sdss import same

from nalspark.errors import MAY_PASS, NalsparkError, UnusableSpectrum
from nalspark.surveys import reader
from nalspark.surveys.reader import open_spectrum, read_spectrum
from nalspark.surveys.spectrum import SurveySpectrum

REASONS = {errno.ENOENT: "file_missing", errno.EACCES: "permission_denied", errno.EIO: "io_error", errno.ESTALE: "io_error"}


class Faulty(io.FileIO):
    """A file that gives less than asked for, and does something before one of its reads."""

    def __init__(self, path: str, at: int, act: Callable[[], object], rng: np.random.Generator | None = None) -> None:
        super().__init__(path)
        self.at, self.act, self.rng, self.reads = at, act, rng, 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads == self.at:
            self.act()
        if self.rng is not None and size is not None and size > 1:
            size = int(self.rng.integers(1, size + 1))
        return super().read(size)


@cache
def content(kind: str, plate: int = 3655) -> bytes:
    with TemporaryDirectory() as folder:
        write = write_spspec if kind == "spSpec" else write_spec
        raw = write(Path(folder) / "x", plate=plate, n_pixels=3000).read_bytes()
    return gzip.compress(raw) if kind == "compressed" else raw


@pytest.fixture(params=["spec", "compressed", "spSpec"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.write_bytes(content(request.param))
    os.utime(path, (10**9, 10**9))
    return path


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the reader open such files."""

    def use(*faults: Any) -> None:
        monkeypatch.setattr(reader, "open", lambda path, *_, **__: Faulty(path, *faults), raising=False)

    return use


def outcome(path: Path) -> SurveySpectrum | str:
    try:
        return open_spectrum(path)
    except UnusableSpectrum as fault:
        assert path.name in fault.detail and fault.detail.endswith(".")
        return fault.reason


@pytest.mark.parametrize("seed", range(5))
def test_a_file_that_comes_in_pieces_is_read_whole(file: Path, opens: Callable[..., None], seed: int) -> None:
    whole = open_spectrum(file)
    opens(0, print, np.random.default_rng(seed))
    assert same(open_spectrum(file), whole)


@pytest.mark.parametrize("number", REASONS)
def test_an_error_at_any_read_is_a_reason_that_may_pass(file: Path, opens: Callable[..., None], number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    whole, found = open_spectrum(file), []
    for at in range(1, 9):
        opens(at, fail)
        found.append(outcome(file))
    reasons = {reason for reason in found if isinstance(reason, str)}
    assert reasons == {REASONS[number]} and reasons <= set(MAY_PASS)
    assert all(same(spectrum, whole) for spectrum in found if not isinstance(spectrum, str))


@pytest.mark.parametrize("number", REASONS)
@pytest.mark.parametrize("call", ["stat", "open", "fstat"])
def test_an_error_before_the_first_read_is_a_reason(file: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(*((reader, "open", fail) if call == "open" else (os, call, fail)), raising=False)
        found = outcome(file)
    assert found == REASONS[number]


def changes(path: Path) -> dict[str, Callable[[], object]]:
    raw, other = path.read_bytes(), content("spec", plate=4000)

    def rewrite() -> None:
        with path.open("r+b") as stream:
            stream.write(other[: len(raw)].ljust(len(raw), b"\0"))

    def grow() -> None:
        with path.open("ab") as stream:
            stream.write(raw)

    return {"shrinks": lambda: os.truncate(path, len(raw) // 3), "grows": grow, "is rewritten": rewrite}


@pytest.mark.parametrize("change", ["shrinks", "grows", "is rewritten"])
def test_a_file_that_changes_while_it_is_read_is_tried_again(file: Path, opens: Callable[..., None], change: str) -> None:
    """Half of the old and half of the new file would be a wrong row."""
    whole, raw, found = open_spectrum(file), file.read_bytes(), []
    act = changes(file)[change]
    for at in range(1, 9):
        file.write_bytes(raw)
        os.utime(file, (10**9, 10**9))
        opens(at, act)
        found.append(outcome(file))
    assert "changed_while_read" in found and "changed_while_read" in MAY_PASS
    assert all(same(spectrum, whole) for spectrum in found if not isinstance(spectrum, str))
    assert {reason for reason in found if isinstance(reason, str)} == {"changed_while_read"}


def test_a_file_that_another_takes_the_place_of_is_read_whole(file: Path, opens: Callable[..., None], tmp_path: Path) -> None:
    whole, raw, new = open_spectrum(file), file.read_bytes(), tmp_path / "new"
    for at in range(1, 9):
        file.write_bytes(raw)
        new.write_bytes(content("spec", plate=4000))
        opens(at, lambda: os.replace(new, file))
        assert same(open_spectrum(file), whole)


def test_an_address_of_a_web_server_is_answered_by_a_sentence() -> None:
    with pytest.raises(UnusableSpectrum, match="is behind HTTP, .* `nalspark fetch RELEASE --quasars CATALOGUE --out FOLDER`") as caught:
        open_spectrum("https://data.sdss.org/spec-1.fits")
    assert caught.value.reason == "behind_http" and caught.value.reason not in MAY_PASS
    with pytest.raises(NalsparkError, match="is behind HTTP"):
        read_spectrum("http://data.sdss.org/spec-1.fits")

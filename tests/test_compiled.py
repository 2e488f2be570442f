"""Compiled code on disk: found again by another process, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from nalspark.compiled import compiled

PROGRAM = """
from nalspark.spectra import continuum
import numpy as np
smooth = np.empty(9)
continuum._solve(np.arange(9.0) ** 2, np.ones(9), 81.0, smooth, np.empty((9, 3)))
print(smooth.tolist(), sum(continuum._solve.stats.cache_hits.values()))
"""


def run(cache: Path, home: Path) -> tuple[str, int]:
    """What another process computes, and how many functions it found on disk."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "HOME": str(home)}
    said = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True).stdout
    numbers, found = said.rsplit(maxsplit=1)
    return numbers, int(found)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    cache = tmp_path_factory.mktemp("cache")
    numbers, found = run(cache, cache)
    assert found == 0
    return cache, numbers


def test_a_second_process_does_not_compile_again(first: tuple[Path, str]) -> None:
    cache, numbers = first
    assert run(cache, cache) == (numbers, 1)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 100])
def test_a_file_cut_short_is_made_anew(first: tuple[Path, str], ending: str, left: int) -> None:
    cache, numbers = first
    files = list(cache.rglob(f"*_solve*{ending}"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:left])
    assert run(cache, cache) == (numbers, 0)
    assert run(cache, cache) == (numbers, 1)


def test_a_user_without_a_home_gets_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says of him what it was asked: "~"."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert compiled(lambda x: x + 1)(1) == 2
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call that writes fails as on a full disk: the result is there all the same."""
    asked = []

    def full(*_: object) -> None:
        asked.append(True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)

    def double(values: np.ndarray) -> np.ndarray:
        return 2.0 * values

    assert compiled(double)(np.ones(3)).tolist() == [2.0, 2.0, 2.0] and asked


TWO_TYPES = """
from nalspark.mocks import inject
import numpy as np
total, values = np.zeros((2, 9)), np.ones((2, 3))
starts = np.array([[1, 7], [5, 7]])
inject._add(total, np.arange(2), starts[:, 0], values)
inject._add(total, np.arange(2), np.array([0, 6]), values)
print(total.astype(int).tolist())
"""


def test_code_that_is_not_what_it_is_named_is_made_anew(tmp_path: Path) -> None:
    """Two processes that compile one function for other types at the same moment may write to the same file."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}

    def said() -> str:
        return subprocess.run([sys.executable, "-c", TWO_TYPES], env=environment, capture_output=True, text=True, check=True).stdout

    right = said()
    assert right.strip() == "[[1, 2, 2, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 2, 2, 1]]"
    one, other = sorted(tmp_path.rglob("inject._add*.nbc"))
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second), other.write_bytes(first)
    assert said() == right
    assert said() == right

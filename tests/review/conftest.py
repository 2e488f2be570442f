"""A small result to look at, some names of which are an attack."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_review import HOSTILE, write_absorbers


@pytest.fixture(scope="session")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty absorbers in three parts; tests that label work on a copy."""
    names = [*HOSTILE, *(f"0001-52000-{number:05d}" for number in range(57))]
    return write_absorbers(tmp_path_factory.mktemp("review") / "result", 60, names, per_part=25)

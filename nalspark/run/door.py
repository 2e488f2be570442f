"""What ``nalspark.run`` does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from nalspark.errors import NalsparkError
from nalspark.progress import Progress
from nalspark.run.pipeline import Pipeline
from nalspark.run.plan import STAGE_NAMES, check
from nalspark.session import running_session
from nalspark.settings import load
from nalspark.tables.result import Result, open_result


def run(path: str | PathLike[str], values: Mapping[str, Any]) -> Result:
    """Run all stages of a catalogue, as ``nalspark run RUN.toml`` does; see :mod:`nalspark.run`."""
    settings = load(fspath(path), (), **values)
    if not settings.out:
        raise NalsparkError("No output directory is given: set `out` in the run file, or give out=…")
    check(settings, STAGE_NAMES)
    with running_session(None) as spark:
        Pipeline(spark, settings, Progress(sys.stderr)).run(STAGE_NAMES)
    return open_result(settings.out)

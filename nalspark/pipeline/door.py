"""What ``nalspark.run`` does."""

from __future__ import annotations

import sys
from os import PathLike, fspath
from typing import Any

from nalspark.errors import NalsparkError
from nalspark.pipeline.catalogue import CATALOGUE, stages_of
from nalspark.pipeline.engine import Engine, check_stages
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import load
from nalspark.tables.result import Result, open_result


def run(path: str | PathLike[str], **values: Any) -> Result:
    """Run all stages of a catalogue, as the command ``nalspark run RUN.toml`` does, and open the result.

    Parameters
    ----------
    path : path
        A run file.
    **values
        Settings that take the place of the file's: a section as a dictionary, or one setting, as ``**{"infer.min_score": 0.9}``.

    Returns
    -------
    Result

    Raises
    ------
    NalsparkError
        Of any kind; nothing that was there is lost.
    """
    settings = load(fspath(path), (), **values)
    if not settings.out:
        raise NalsparkError("No output directory is given: set `out` in the run file, or give out=…")
    stages = stages_of(settings)
    check_stages(stages, settings, CATALOGUE)
    with running_session(None) as spark:
        Engine(spark, settings, Progress(sys.stderr), stages, CATALOGUE).run()
    return open_result(settings.out)

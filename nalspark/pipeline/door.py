"""What ``nalspark.run`` does, and when a run was a good one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nalspark.errors import INTERNAL_ERROR, IncompleteError, NalsparkError
from nalspark.pipeline.catalogue import CATALOGUE, stages_of
from nalspark.pipeline.engine import Engine, StageSummary, check_stages
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import load
from nalspark.tables.result import Result, open_parquet, open_result
from nalspark.tables.store import Store


def run(path: str | PathLike[str], **settings: Any) -> Result:
    """Run the stages that a TOML file describes, as ``nalspark run`` does, and open the result.

    Parameters
    ----------
    path : path
    **settings
        Settings that differ from the file's, by dotted key: ``out="DIR"``, ``**{"infer.min_score": 0.9}``.

    Returns
    -------
    Result

    Raises
    ------
    NalsparkError
        As the command says it in a sentence; nothing that was there is lost.

    Examples
    --------
    >>> import nalspark
    >>> nalspark.run("RUN.toml", out="DIR").absorbers  # doctest: +SKIP
    """
    chosen = load(fspath(path), (), **settings)
    if not chosen.out:
        raise NalsparkError("No output directory is given: set `out` in the run file, or give out=…")
    stages = stages_of(chosen)
    check_stages(stages, chosen, CATALOGUE)
    progress = Progress(sys.stderr)
    with running_session(patience_s=chosen.pipeline.executor_wait_s, say=progress.say) as spark:
        summaries = Engine(spark, chosen, progress, stages, CATALOGUE).run(CATALOGUE)
    check_whole(summaries, chosen.out)
    return open_result(chosen.out)


def check_whole(summaries: Sequence[StageSummary], out: str, reasons: str = "") -> None:
    """Refuse to call a run good in which nalspark itself failed, or nothing could be used.

    Parameters
    ----------
    summaries : sequence of StageSummary
    out : str
        Directory of the result.
    reasons : str
        Where the reason of each rejected row stands, as the end of a sentence; by default in the published rejections.

    Raises
    ------
    IncompleteError
    """
    for summary in summaries:
        if summary.faults:
            raise IncompleteError(
                f"Stage '{summary.stage}' met {summary.faults} fault(s) of nalspark itself (reason {INTERNAL_ERROR}): everything else is "
                "done, and these rows are tried again by the next run. Their details are in the rejections; please report them."
            )
    manifest = Store(out).manifest()
    for table in manifest.tables:
        usable, rejected = manifest.rows(table)
        if rejected and not usable:
            listed = Path(out) / "rejections.parquet"
            where = f"{listed} has the reason of each" + ("." if listed.exists() else ", once stage 'publish' has run.")
            raise IncompleteError(f"Of the {rejected} rows of table '{table}' none can be used: {reasons or where}{_first_reason(listed)}")


def _first_reason(listed: Path) -> str:
    """The sentence of one of the published rejections, for who looks no further; empty where there are none."""
    if not listed.exists():
        return ""
    rows = open_parquet(listed).head(1, columns=["reason", "detail"]).to_pylist()
    return f" The first is {rows[0]['reason']}: {rows[0]['detail'].rstrip('.')}." if rows else ""

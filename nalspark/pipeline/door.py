"""What ``nalspark.run`` does, and when a run was a good one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nalspark.errors import INTERNAL_ERROR, IncompleteError, NalsparkError
from nalspark.pipeline.catalogue import CATALOGUE, stages_of
from nalspark.pipeline.engine import Engine, StageSummary, check_stages
from nalspark.pipeline.several import check_folder, check_species, result_folders, run_species
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import Settings, load
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
    work = prepare_run(chosen, CATALOGUE)
    progress = Progress(sys.stderr)
    with running_session(patience_s=chosen.pipeline.executor_wait_s, say=progress.say) as spark:
        summaries = work(spark, progress)
    check_whole(summaries, *map(str, result_folders(chosen)))
    return open_result(chosen.out)


def prepare_run(settings: Settings, stages: Sequence[str], parts: Sequence[str] = (), **how: Any) -> Callable[..., list[StageSummary]]:
    """Refuse what cannot work, before a session is started, and give what is to be done with a session and a progress.

    Parameters
    ----------
    settings : Settings
        Of one species, or of several.
    stages, parts : sequence of str
        As for :meth:`~nalspark.pipeline.engine.Engine.run`.
    **how
        Further arguments of it.

    Raises
    ------
    NalsparkError
    """
    dry_run = how.get("dry_run", False)
    check_folder(settings)
    if len(settings.species) > 1:
        if parts:
            raise NalsparkError("Parts can be named for one species only: name its folder as `out`.")
        check_species(settings, stages, dry_run=dry_run)
        return lambda spark, progress: run_species(spark, settings, progress, **how)
    all_stages = stages_of(settings)
    check_stages(all_stages, settings, stages, dry_run=dry_run)
    return lambda spark, progress: Engine(spark, settings, progress, all_stages, CATALOGUE).run(stages, parts, **how)


def check_whole(summaries: Sequence[StageSummary], *outs: str, reasons: str = "") -> None:
    """Refuse to call a run good in which nalspark itself failed, or nothing could be used.

    Parameters
    ----------
    summaries : sequence of StageSummary
    *outs : str
        Directories of the results; something must have been usable for one of them.
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
    faults = [_nothing_usable(Path(out), reasons) for out in outs]
    if all(faults):
        raise IncompleteError(faults[0])


def _nothing_usable(out: Path, reasons: str) -> str:
    """A sentence on the first table of a result of which no row can be used; empty where there is none."""
    manifest = Store(out).manifest()
    for table in manifest.tables:
        usable, rejected = manifest.rows(table)
        if rejected and not usable:
            listed = out / "rejections.parquet"
            where = f"{listed} has the reason of each" + ("." if listed.exists() else ", once stage 'publish' has run.")
            return f"Of the {rejected} rows of table '{table}' none can be used: {reasons or where}{_first_reason(listed)}"
    return ""


def _first_reason(listed: Path) -> str:
    """The sentence of one of the published rejections, for who looks no further; empty where there are none."""
    if not listed.exists():
        return ""
    rows = open_parquet(listed).head(1, columns=["reason", "detail"]).to_pylist()
    return f" The first is {rows[0]['reason']}: {rows[0]['detail'].rstrip('.')}." if rows else ""

"""``nalspark emission``: the selection of real emission lines from a survey's detections."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nalspark.emission.inputs import SECOND_STAGE
from nalspark.emission.labels import agreement, consensus, read_labels
from nalspark.emission.pipeline import PICTURES, RESULT, finding_stages, training_stages
from nalspark.emission.report import found_text
from nalspark.emission.settings import EmissionSettings, load_run
from nalspark.emission.tables import CLASSIFIED, DETECTIONS, REJECTED
from nalspark.errors import NalsparkError
from nalspark.pipeline.door import check_whole
from nalspark.pipeline.engine import Engine, check_stages
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.tables.store import Store

_SHOWN = 20
#: What the data model's page says of the programme.
TABLES = (DETECTIONS, CLASSIFIED, REJECTED)
#: What the settings' page says of it.
SETTINGS = EmissionSettings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Hang ``emission`` and its own commands under the command line's."""
    example = "example: nalspark emission demo --out nalspark-emission"
    parser = commands.add_parser("emission", help="tell real emission-line detections (HETDEX) from fakes", epilog=example)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    texts = {
        "train": ("simulate detections, train both stages of the selection, judge them", "conf/runs/hetdex_demo.toml"),
        "run": ("classify the detections that a TOML file names, and publish what came of it", "RUN.toml --dry-run"),
        "labels": ("how far reviewers agree, and what they say together", "RUN.toml --set emission.labels=labels.csv"),
    }
    for name, (text, arguments) in texts.items():
        kind = kinds.add_parser(name, help=text, epilog=f"example: nalspark emission {name} {arguments}")
        kind.add_argument("run", metavar="RUN.toml")
        _common(kind, in_stages=name != "labels")
    demo = kinds.add_parser("demo", help="a small selection from nothing, with its table and pictures", epilog=example)
    demo.add_argument("--out", default="nalspark-emission", metavar="DIR")
    demo.add_argument("--frames", nargs="+", default=[], metavar="FILE", help="VIRUS frames whose noise is used; parametric by default")
    _common(demo)
    parser.set_defaults(command_function=command)


def _common(parser: argparse.ArgumentParser, *, in_stages: bool = True) -> None:
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="a setting")
    parser.add_argument("--master", metavar="URL", help="Spark master; by default the one of spark-submit, or all local cores")
    if in_stages:
        parser.add_argument("--force", action="store_true", help="make everything anew although nothing changed")
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


#: What a demonstration trains: one network, few passes.
_DEMO: dict[str, Any] = {
    "train.network": "cutout_cnn",
    "train.members": 1,
    "train.epochs": 8,
    "train.patience": 8,
    "train.learning_rate": 3e-3,
}


def command(options: argparse.Namespace) -> None:
    """Do what the command line asks."""
    if options.what == "demo":
        given: dict[str, Any] = {"emission.frames": options.frames} if options.frames else {}
        settings = load_run(None, options.set, out=options.out, **_DEMO, **given)
    else:
        settings = load_run(options.run, options.set)
    _WORK[options.what](settings, options)


def _run(
    stages_of: Callable[[EmissionSettings], Sequence[Stage]],
    result_of: Callable[[Store], str],
    settings: EmissionSettings,
    options: argparse.Namespace,
) -> None:
    """Run stages, say what came of it, and refuse to call it good where it is not."""
    if not settings.out:
        raise NalsparkError("No output directory is given: set `out` in the run file.")
    stages = stages_of(settings)
    names = [stage.name for stage in stages]
    check_stages(stages, settings, names, dry_run=options.dry_run)
    # A Python process can join one group of training workers in its life.
    several = {"spark.python.worker.reuse": "false"} if "train" in names and settings.train.workers > 1 else None
    progress = Progress(sys.stderr)
    with running_session(options.master, several, patience_s=settings.pipeline.executor_wait_s, say=progress.say) as spark:
        engine = Engine(spark, settings, progress, stages, names)
        summaries = engine.run(names, force=options.force, dry_run=options.dry_run, explain=options.dry_run)
    if options.dry_run:
        return
    print(result_of(Store(settings.out)))
    check_whole(summaries, settings.out, reasons=f"{Path(settings.out) / 'rejected_detections.parquet'} has the reason of each.")


def _trained_text(store: Store) -> str:
    """The table of the result, and where the selection and its pictures lie."""
    folder = store.published(SECOND_STAGE.name)
    pictures = ", ".join(str(folder / name) for name in PICTURES)
    return f"{(folder / RESULT).read_text(encoding='utf-8')}\nselection   {store.root}\npictures    {pictures}"


def _labels(settings: EmissionSettings, options: argparse.Namespace) -> None:
    if not settings.emission.labels:
        raise NalsparkError(
            "There are no labels: set emission.labels to a table of detection_id, reviewer, class, time, or to a folder of reviewers' journals."
        )
    labels = read_labels(settings.emission.labels)
    together = consensus(labels, settings.emission.consensus)
    split = together[(together["real"] > 0) & (together["real"] < together["n"])]
    print(agreement(labels).to_string(index=False, float_format="%.3f"))
    print(f"\n{len(together)} detections, {len(split)} of them real to some and fake to others; rule: {settings.emission.consensus}")
    print(together.head(_SHOWN).to_string(index=False))


_WORK: dict[str, Callable[[EmissionSettings, argparse.Namespace], None]] = {
    "train": partial(_run, training_stages, _trained_text),
    "demo": partial(_run, training_stages, _trained_text),
    "run": partial(_run, finding_stages, found_text),
    "labels": _labels,
}

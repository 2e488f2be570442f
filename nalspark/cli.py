"""The command line. The jobs call it too."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import warnings
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from nalspark.absorption.measure import AbsorberFlag
from nalspark.absorption.stages import measured_table
from nalspark.doctor import examine
from nalspark.errors import NalsparkError, did_you_mean
from nalspark.judging.cli import add_commands as add_worth
from nalspark.judging.composites import cli as composites
from nalspark.judging.diff import compare_catalogues, open_side
from nalspark.judging.evaluate import evaluate_result
from nalspark.judging.match import compare
from nalspark.judging.page import evaluation_text, write_evaluation
from nalspark.judging.worth import worth_text
from nalspark.learning.models import read_model, table_2
from nalspark.lines import SPECIES
from nalspark.mocks.survey import LAYOUTS, simulate_survey
from nalspark.pipeline.catalogue import CATALOGUE, LEARNING, TAUGHT, WITH_BALNICITY, WORTH
from nalspark.pipeline.door import check_whole, prepare_run
from nalspark.pipeline.engine import StageSummary
from nalspark.pipeline.several import result_folders
from nalspark.pipeline.status import status
from nalspark.progress import Progress, ProgressHandler, logger
from nalspark.review import cli as review
from nalspark.review.labels import Rule, consensus, read_labels
from nalspark.review.summary import summarise
from nalspark.session import running_session
from nalspark.settings import Settings, load, local_folder
from nalspark.stop import stoppable, tell
from nalspark.surveys.catalogs import open_catalog
from nalspark.surveys.download import FAILURES, fetch
from nalspark.surveys.release import load_release, release_names
from nalspark.tables.data_model import data_model_page
from nalspark.tables.export import COMPANION_SNR, FORMATS, export_result
from nalspark.tables.result import open_result
from nalspark.tables.schemas import (
    CANDIDATES,
    CHANGES,
    COMPLETENESS,
    DECOYS,
    EIGENSPECTRA,
    EW_FIT,
    EW_FUNCTION,
    FETCH_FAILURES,
    G_OF_EW_Z,
    INJECTIONS,
    MATCHES,
    PUBLISHED_SENSITIVITY,
    RATES,
    REJECTIONS,
    SCORES,
    SIGHTLINES,
    TRAINING,
    TRUTH,
    absorbers_table,
    randoms_table,
)
from nalspark.tables.settings_page import settings_page
from nalspark.tables.store import Store, spark_path
from nalspark.tables.versions import versions
from nalspark.version import VERSION
from nalspark.worker import own_process

#: The end of each command's help.
_EXAMPLES = {
    "nalspark": "nalspark find spectra --out result --quasars DR16Q_v4.fits",
    "nalspark find": "nalspark find spectra --out result --quasars DR16Q_v4.fits --set infer.min_score=0.9",
    "nalspark run": "nalspark run conf/runs/demo.toml search infer measure publish",
    "nalspark reprocess": "nalspark reprocess conf/runs/sdss_dr16.toml --dry-run",
    "nalspark completeness": "nalspark completeness conf/runs/sdss_dr16.toml --set completeness.per_sightline=3",
    "nalspark balnicity": "nalspark balnicity result",
    "nalspark train": "nalspark train conf/runs/default_model.toml --set simulate.n=20000",
    "nalspark demo": "nalspark demo --n 100 --open",
    "nalspark diff": "nalspark diff result/versions/0001 result --out changes",
    "nalspark status": "nalspark status result",
    "nalspark stack": 'nalspark stack result --select "ew_2796 > 1 and z_abs < 1.5" --name strong',
    "nalspark export": "nalspark export result --format ecsv --out absorbers.ecsv",
    "nalspark review": 'nalspark review result --select "score < 0.9 and z_abs > 1.5" --sample 300',
    "nalspark statistics": "nalspark statistics result --set statistics.min_velocity_kms=3000",
    "nalspark randoms": "nalspark randoms result --n 20 --out randoms.fits",
    "nalspark evaluate": "nalspark evaluate --catalogue result --truth survey/truth.parquet",
    "nalspark labels": "nalspark labels result --out labels.csv",
    "nalspark data-model": "nalspark data-model > data_model.md",
    "nalspark settings": "nalspark settings search",
    "nalspark doctor": "nalspark doctor",
    "nalspark fetch": "nalspark fetch sdss_dr16 --quasars DR16Q_v4.fits --out spectra --workers 8",
    "nalspark simulate": "nalspark simulate survey --n 300 --out survey",
    "nalspark simulate survey": "nalspark simulate survey --n 300 --out survey --seed 2",
}


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the option or command which was meant, takes no shortened ones, and ends its help with an example."""

    def __init__(self, **settings: Any) -> None:
        example = _EXAMPLES.get(settings.get("prog", ""))
        given = {"epilog": example and f"example: {example}", "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{"allow_abbrev": False, **given, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers is None:  # before argparse reports the missing value of a misspelt option
            for text in takewhile(lambda text: text != "--", args or ()):
                name = text.partition("=")[0]
                if name.startswith("--") and name not in self._option_string_actions:
                    self.error(f"unrecognized arguments: {text}.{did_you_mean(name, self._option_string_actions)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        wrong = re.search(r"^argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)$", message)
        near = did_you_mean(wrong[1], re.findall(r"'([^']*)'", wrong[2])) if wrong else ""
        super().error(message + near)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings, for example search.min_significance=6"
    )
    parser.add_argument("--master", metavar="URL", help="Spark master; by default the one of spark-submit, or all local cores")
    parser.add_argument("--force", action="store_true", help="redo everything, even if nothing changed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, without doing it")
    parser.add_argument("--allow-removals", action="store_true", help="files that are not there any more are gone for good, however many")
    parser.add_argument("--log", metavar="FILE", help="append events to this file, one JSON object per line")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nalspark", description="Narrow absorption lines in every quasar spectrum of a survey.")
    parser.add_argument("--version", action="version", version=f"nalspark {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_add_searches, _add_looks, add_worth, _add_spectra):
        add(commands)
    composites.add_commands(commands)
    review.add_commands(commands)
    for programme in _siblings():
        programme.add_commands(commands)
    return parser


def _add_searches(commands: Any) -> None:
    find = commands.add_parser("find", help="find absorbers in spectra and write a catalogue")
    find.add_argument("spectra", nargs="+", metavar="SPECTRA", help="folders, globs, files, or text files that list paths")
    find.add_argument("--out", required=True, metavar="DIR", help="directory of the result")
    find.add_argument(
        "--quasars", action="extend", nargs="+", default=[], metavar="FILE", help="quasar catalogues, whose redshifts are used first"
    )
    find.add_argument("--absorbers", action="extend", nargs="+", default=[], metavar="FILE", help="absorber catalogues to compare with")
    find.add_argument(
        "--species", nargs="+", default=None, metavar="NAME", help=f"species to search, one or several: {', '.join(SPECIES)} (default MgII)"
    )
    _common(find)

    run = commands.add_parser("run", help="run the stages that a TOML file describes")
    run.add_argument("run", metavar="RUN.toml")
    run.add_argument("stages", nargs="*", metavar="STAGE", help=f"stages to run, of {', '.join(CATALOGUE)}; all by default")
    run.add_argument("--part", action="extend", nargs="+", default=[], help="only these parts")
    _common(run)

    worth = commands.add_parser("completeness", help="say what a catalogue is worth: put absorbers into its own spectra and look for them")
    worth.add_argument("run", metavar="DIR", help="a run file, or a result: its catalogue is brought up to date first")
    worth.set_defaults(stages=WORTH)
    _common(worth)

    broad = commands.add_parser("balnicity", help="measure the broad absorption of the quasars in C IV: BI, AI, and absorbers in troughs")
    broad.add_argument("run", metavar="DIR", help="a run file, or a result: its catalogue is brought up to date first")
    broad.set_defaults(stages=WITH_BALNICITY)
    _common(broad)

    reprocess = commands.add_parser("reprocess", help="say what changed since the last run, then do only that work")
    reprocess.add_argument("run", metavar="RUN.toml")
    reprocess.set_defaults(stages=())
    _common(reprocess)

    train = commands.add_parser("train", help="train a model as a TOML file describes: on artificial spectra, or on real ones with labels")
    train.add_argument("run", metavar="RUN.toml")
    _common(train)

    demo = commands.add_parser("demo", help="simulate a small survey, search it, compare with the truth")
    demo.add_argument("--out", default="nalspark-demo", type=local_folder, metavar="DIR")
    demo.add_argument("--n", type=int, default=300, help="number of spectra")
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument("--master", metavar="URL")
    demo.add_argument("--open", action="store_true", help="open the report in the browser at the end")


def _add_rule(parser: argparse.ArgumentParser) -> None:
    rules = get_args(Rule)
    parser.add_argument("--rule", choices=rules, default=rules[0], help=f"what several people say together (default {rules[0]})")


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 0.5:
        raise argparse.ArgumentTypeError(f"expected a rate from 0 to below 0.5, not {text}")
    return value


def _add_looks(commands: Any) -> None:
    diff = commands.add_parser("diff", help="list absorbers gained, lost, moved and remeasured between two catalogues, with reasons")
    diff.add_argument(
        "before", metavar="A", help="the earlier result, or a version such as DIR/versions/0001; without B, the last two versions in A"
    )
    diff.add_argument("after", metavar="B", nargs="?", help="the later one")
    diff.add_argument("--out", type=local_folder, metavar="FOLDER", help="write the rows to FOLDER/changes.parquet")
    diff.add_argument("--master", metavar="URL")

    state = commands.add_parser("status", help="show what a result holds, what the last runs did, and who writes to it now")
    state.add_argument("result", metavar="DIR")

    settings = commands.add_parser("settings", help="print every setting with its default, unit and meaning, as Markdown")
    settings.add_argument("section", nargs="?", default="", metavar="SECTION", help="only this section, or this setting")

    evaluate = commands.add_parser("evaluate", help="judge a catalogue against known absorbers and other catalogues")
    evaluate.add_argument(
        "--catalogue", required=True, type=local_folder, metavar="DIR", help="a result of `nalspark find`, or the run file that names it"
    )
    evaluate.add_argument("--truth", metavar="FILE", help="known absorbers: truth.parquet of a simulated survey, or an absorber catalogue")
    evaluate.add_argument(
        "--catalogues",
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE",
        help="absorber catalogues to compare with (default: those of the run)",
    )
    evaluate.add_argument(
        "--labels",
        action="extend",
        nargs="+",
        default=[],
        type=local_folder,
        metavar="PATH",
        help="what people say of its absorbers: what `nalspark labels` takes",
    )
    _add_rule(evaluate)
    evaluate.add_argument(
        "--label-errors",
        nargs=2,
        type=_rate,
        metavar=("FP", "FN"),
        help="how often people take what is no absorber for one, and the reverse: corrects the purity",
    )
    evaluate.add_argument("--out", type=local_folder, metavar="DIR", help="folder for numbers and pictures (default DIR/evaluation)")

    labels = commands.add_parser("labels", help="how far reviewers agree, and what they say together")
    labels.add_argument(
        "labels", type=local_folder, metavar="DIR", help="a result, its folder of labels, a journal of one reviewer, or a table of labels"
    )
    _add_rule(labels)
    labels.add_argument("--out", type=local_folder, metavar="FILE", help="write all systems, disagreements first, as CSV or Parquet")

    _add_export(commands)
    commands.add_parser("doctor", help="show what a local session finds on this machine, and what would keep a run from working")
    commands.add_parser("data-model", help="print the columns of every table, as Markdown")


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write the catalogue of a result in a format that other programs read")
    export.add_argument("result", metavar="DIR")
    forms = "; ".join(f"{name}: {form.meaning}" for name, form in FORMATS.items())
    export.add_argument("--format", required=True, metavar="FORMAT", help=forms)
    export.add_argument("--out", type=local_folder, metavar="FILE", help="the file to write (default: one in DIR)")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    export.add_argument(
        "--companion-snr",
        type=float,
        default=COMPANION_SNR,
        metavar="N",
        help=f"picca-absorbercat: mask other lines than the doublet's above so many standard errors (default {COMPANION_SNR:g})",
    )


def _add_spectra(commands: Any) -> None:
    fetch = commands.add_parser("fetch", help="get the spectra of a quasar catalogue from a survey's archive")
    fetch.add_argument("release", metavar="RELEASE", help=f"one of {', '.join(release_names())}, or a TOML file like theirs")
    fetch.add_argument("--quasars", required=True, metavar="FILE", help="quasar catalogue with what the files are known by")
    fetch.add_argument("--out", required=True, type=local_folder, metavar="DIR", help="folder of the spectra; whole files in it are kept")
    fetch.add_argument("--base-url", metavar="URL", help="a mirror of the archive")
    fetch.add_argument("--workers", metavar="N", help="parallel downloads (default 4)")
    fetch.add_argument("--surveys", nargs="+", metavar="NAME", help="of DESI, where the catalogue has no SURVEY: main, sv3")
    fetch.add_argument("--programs", nargs="+", metavar="NAME", help="of DESI, where the catalogue has no PROGRAM: dark, bright")
    fetch.add_argument("--limit-rate", metavar="MB/S", help="largest rate of all downloads together")
    fetch.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings, for example fetch.retries=10"
    )

    simulate = commands.add_parser("simulate", help="write a simulated survey")
    survey = simulate.add_subparsers(dest="what", required=True, metavar="WHAT").add_parser(
        "survey", help="FITS spectra in the format of a survey, with truth"
    )
    survey.add_argument("--like", choices=LAYOUTS, default="sdss", help="the survey whose files are imitated (default sdss)")
    survey.add_argument("--n", type=int, required=True, help="number of quasars")
    survey.add_argument("--out", required=True, type=local_folder, metavar="DIR", help="a new folder, or a simulated survey to replace")
    survey.add_argument("--species", choices=SPECIES, default="MgII", help="what absorbs (default MgII)")
    survey.add_argument("--seed", type=int, default=1, help="the same seed gives the same spectra (default 1)")
    survey.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="real files: of SDSS, spectra to put absorbers into; of DESI, coadds to take noise from",
    )
    survey.add_argument("--per-file", type=int, metavar="N", help="targets in a file of DESI (default 500)")
    survey.add_argument("--workers", type=int, metavar="N", help="processes (default one per core, one for fewer than 1000 quasars)")


def _siblings() -> list[Any]:
    """The command lines of the other science programmes, where they are installed."""
    found = [name for name in ("nalspark.emission",) if find_spec(name)]
    return [import_module(f"{name}.cli") for name in found]


def _run(settings: Settings, options: argparse.Namespace, stages: Sequence[str] = CATALOGUE) -> list[StageSummary]:
    if not settings.out:
        raise NalsparkError("No output directory is given: set `out` in the run file, or --out.")
    # A Python process can join one group of training workers in its life.
    conf = {"spark.python.worker.reuse": "false"} if "train" in stages and settings.train.workers > 1 else None
    explain = options.dry_run or options.command == "reprocess"
    how = {"force": options.force, "dry_run": options.dry_run, "explain": explain, "allow_removals": options.allow_removals}
    work = prepare_run(settings, stages, getattr(options, "part", ()), **how)
    patience_s = settings.pipeline.executor_wait_s
    with _progress(options) as progress, running_session(options.master, conf, patience_s=patience_s, say=progress.say) as spark:
        try:
            summaries = work(spark, progress)
        except BaseException as error:
            progress.note("run_failed", kind=type(error).__name__, text=str(error))
            raise
        progress.note("run_done")
        return summaries


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress]:
    """What a run tells, and to whom."""
    with ExitStack() as opened:
        try:
            log = opened.enter_context(open(options.log, "a", encoding="utf-8")) if options.log else None
        except OSError as error:
            raise NalsparkError(
                f"The log '{options.log}' cannot be opened to append to it: {error.strerror}. Give --log a file on a local disk."
            ) from None
        progress = Progress(sys.stderr, log)
        opened.enter_context(tell(progress.stop))
        handler = ProgressHandler(progress)
        logger.addHandler(handler)
        opened.callback(logger.removeHandler, handler)
        yield progress


def _say_results(settings: Settings, summaries: Sequence[StageSummary]) -> None:
    """Say where results are, and whether they are whole: of several species one at least must have been searched."""
    for folder in result_folders(settings):
        if len(settings.species) > 1:
            print(f"-- {folder.name}")
        _say_result(str(folder))
    if len(settings.species) > 1:
        print(f"-- all\ncatalogue  {Store(settings.out).published('absorbers.fits')}")
    check_whole(summaries, *map(str, result_folders(settings)))


def _say_result(out: str) -> None:
    store = Store(out)
    rows = store.manifest().published
    absorbers, sightlines, rejections = (rows[f"{name}.parquet"] for name in ("absorbers", "sightlines", "rejections"))
    print(f"{absorbers} absorbers in {sightlines} searched spectra; {rejections} rejected.")
    print(f"catalogue  {store.published('absorbers.fits')}\nreport     {store.published('report.html')}")
    if rejections:
        print(f"rejected   {store.published('rejections.parquet')}, with reasons")


def _find(options: argparse.Namespace) -> None:
    values = {"spectra": options.spectra, "out": options.out, "quasars": options.quasars, "absorbers": options.absorbers}
    if options.species:
        values["species"] = options.species
    settings = load(overrides=options.set, **values)
    summaries = _run(settings, options)
    if not options.dry_run:
        _say_results(settings, summaries)


def _run_file(options: argparse.Namespace) -> None:
    settings = load(options.run, options.set)
    stages = options.stages or CATALOGUE
    summaries = _run(settings, options, stages)
    if options.dry_run:
        return
    if CATALOGUE[-1] in stages:
        _say_results(settings, summaries)
    else:
        check_whole(summaries, settings.out)


def _settings_of(options: argparse.Namespace) -> Settings:
    """The settings of a run file, or of a result of `nalspark find`, which knows how it was made."""
    if not Path(options.run).exists():
        raise NalsparkError(f"There is no '{options.run}': name a result of `nalspark find`, or a run file.")
    made = open_result(options.run).settings.model_dump(mode="json") | {"out": options.run} if Path(options.run).is_dir() else None
    return load(None, options.set, **made) if made else load(options.run, options.set)


def _completeness(options: argparse.Namespace) -> None:
    settings = _settings_of(options)
    summaries = _run(settings, options, WORTH)
    if not options.dry_run:
        print(worth_text(open_result(settings.out)))
        _say_result(settings.out)
        check_whole(summaries, settings.out)


def _balnicity(options: argparse.Namespace) -> None:
    settings = _settings_of(options)
    summaries = _run(settings, options, WITH_BALNICITY)
    if not options.dry_run:
        _say_result(settings.out)
        check_whole(summaries, settings.out)


def _diff(options: argparse.Namespace) -> None:
    before, after = options.before, options.after
    if after is None:
        open_side(before)  # is it a result at all?
        kept = list(versions(Store(before)).values())
        if len(kept) < 2:
            raise NalsparkError(
                f"{before} keeps only {len(kept)} version(s) of its catalogue, in {Path(before) / 'versions'}: "
                "name another result to compare it with."
            )
        before, after = str(kept[-2]), str(kept[-1])
    sides = open_side(before), open_side(after)
    place = Path(options.out or ".").expanduser().absolute() / "changes.parquet"
    if options.out:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NalsparkError(f"The changes cannot be written to {place}: {error.strerror}.") from None
    with running_session(options.master) as spark:
        comparison = compare_catalogues(spark, *sides)
        print(comparison.text())
        if options.out:
            comparison.changes.orderBy("spectrum_id", "change").write.mode("overwrite").parquet(spark_path(place))
            print(f"changes    {place}")


def _evaluate(options: argparse.Namespace) -> None:
    catalogue = load(options.catalogue).out if Path(options.catalogue).is_file() else options.catalogue
    if not catalogue:
        raise NalsparkError(f"The run file '{options.catalogue}' does not say where the result is: set `out` in it.")
    if options.label_errors and not options.labels:
        raise NalsparkError("--label-errors says how often people err: give their labels too, with --labels PATH.")
    labels = consensus(read_labels(*options.labels, programme="absorption"), options.rule) if options.labels else None
    evaluation = evaluate_result(catalogue, options.truth, options.catalogues, labels, options.label_errors)
    out = Path(options.out or Path(catalogue) / "evaluation")
    write_evaluation(evaluation, out)
    print(f"{evaluation_text(evaluation)}\n\nevaluation  {(out / 'evaluation.html').absolute()}")


def _export(options: argparse.Namespace) -> None:
    how = {"overwrite": options.overwrite, "companion_snr": options.companion_snr}
    path, rows = export_result(options.result, options.format, options.out, **how)
    print(f"{rows} rows  {path}")


def _train(options: argparse.Namespace) -> None:
    settings = load(options.run, options.set)
    real = settings.labels.source != "mocks"
    summaries = _run(settings, options, TAUGHT if real else LEARNING)
    if options.dry_run:
        return
    model = Store(settings.out).published("model")
    card = read_model(model).card
    print(f"model      {model}" + (f"\nwarning    {card.doubt}" if card.doubt else ""))
    print(f"test       {table_2(card)}\nuse it     nalspark find SPECTRA --out DIR --set infer.model={model}")
    if real:
        check_whole(summaries, settings.out)


def _fetch(options: argparse.Namespace) -> None:
    given = {"base_url": options.base_url, "workers": options.workers, "limit_rate_mb_s": options.limit_rate}
    given |= {"surveys": options.surveys, "programs": options.programs}
    settings = load(overrides=options.set, **{f"fetch.{key}": value for key, value in given.items() if value is not None})
    release, catalog = load_release(options.release), open_catalog(options.quasars, "quasars")
    summary = fetch(release, catalog, options.out, settings.fetch, Progress(sys.stderr).say)
    print(f"{summary}; {summary.not_selected} rows outside the redshifts of {release.name}.")
    if summary.failures:
        print(f"failures   {Path(options.out) / FAILURES}")


def _simulate(options: argparse.Namespace) -> None:
    progress = Progress(sys.stderr)
    summary = simulate_survey(
        options.out,
        options.n,
        options.seed,
        options.source,
        lambda done, n: progress.say(f"{done} of {n} spectra written"),
        like=options.like,
        species=SPECIES[options.species],
        workers=options.workers,
        per_file=options.per_file,
    )
    print(f"{summary.n_spectra} spectra with {summary.n_absorbers} absorbers in {summary.out}: spectra/, quasars.fits, truth.parquet")


#: Bins of rest equivalent width (Å) in which the demonstration counts what was found.
_EW_BINS = (0.0, 0.3, 0.6, 1.0, 2.0, np.inf)


def completeness_table(out: Path, truth: Path) -> str:
    """Count what was found and missed by equivalent width, with the purity, as text."""
    absorbers, sightlines = (pd.read_parquet(out / f"{name}.parquet") for name in ("absorbers", "sightlines"))
    comparison = compare(absorbers, sightlines, pd.read_parquet(truth))
    width = comparison.truth["ew_primary"].to_numpy()
    lines = ["true absorbers in the path, any S/N    found    all"]
    for low, high in zip(_EW_BINS[:-1], _EW_BINS[1:], strict=True):
        found, of = comparison.completeness((width >= low) & (width < high))
        label = f"{low:.1f} <= W < {high:.1f} Å" if np.isfinite(high) else f"{low:.1f} Å <= W"
        lines.append(f"  {label:<34} {found:>7} {of:>6}" + (f"  {found / of:>4.0%}" if of else ""))
    true, spurious = int(comparison.truth["found"].sum()), len(comparison.spurious)
    beside = true - comparison.completeness()[0]
    rows = f"catalogue rows: {true} true" + (f" ({beside} of them just outside the searched path)" if beside else "")
    return "\n".join([*lines, f"{rows}, {spurious} spurious; purity {comparison.purity:.1%}"])


def settings_text(section: str = "") -> str:
    """Write the page of all settings, or one section of it, as text."""
    return settings_page([Settings, *(programme.SETTINGS for programme in _siblings())], section)


def data_model() -> str:
    """Write the data-model page, for the default species, as text."""
    settings = Settings()
    catalogue = [absorbers_table(settings.line_species), SIGHTLINES, REJECTIONS, PUBLISHED_SENSITIVITY, COMPLETENESS, INJECTIONS, DECOYS]
    catalogue += [RATES, EW_FUNCTION, EW_FIT, G_OF_EW_Z, randoms_table(settings.line_species)]
    catalogue += [MATCHES, CANDIDATES, SCORES, measured_table(settings)]
    tables = [*catalogue, CHANGES, TRAINING, EIGENSPECTRA, TRUTH, FETCH_FAILURES]
    tables += [table for programme in _siblings() for table in programme.TABLES]
    return data_model_page(tables, {"flags": AbsorberFlag})


def _doctor() -> None:
    lines, faults = examine()
    print("\n".join(lines))
    if faults:
        raise NalsparkError("\n".join(faults))


def _demo(options: argparse.Namespace) -> None:
    root = Path(options.out)
    survey, result = root / "survey", root / "result"
    simulate_survey(survey, options.n, options.seed)
    print(f"simulated {options.n} spectra in {survey.absolute()}")
    settings = load(spectra=[str(survey / "spectra")], out=str(result), quasars=[str(survey / "quasars.fits")])
    options.force, options.dry_run, options.allow_removals, options.log = False, False, True, None
    _run(settings, options)
    print(completeness_table(result, survey / "truth.parquet"))
    _say_result(str(result))
    print(f"by S/N     nalspark evaluate --catalogue {result} --truth {survey / 'truth.parquet'}")
    address = Store(str(result)).published("report.html").absolute().as_uri()
    if not (options.open and webbrowser.open(address)):
        print(f"look at    {address}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "find": _find,
    "run": _run_file,
    "completeness": _completeness,
    "balnicity": _balnicity,
    "reprocess": _run_file,
    "settings": lambda options: print(settings_text(options.section), end=""),
    "diff": _diff,
    "status": lambda options: print("\n".join(status(options.result))),
    "train": _train,
    "fetch": _fetch,
    "simulate": _simulate,
    "evaluate": _evaluate,
    "labels": lambda options: print(summarise(options.labels, options.rule, options.out)),
    "export": _export,
    "doctor": lambda _: _doctor(),
    "data-model": lambda _: print(data_model(), end=""),
    "demo": _demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, which then is nalspark's own, and give its exit status.

    0: done. 2: a user's mistake, in a sentence. 3: done, but with faults of nalspark itself (`internal_error`), or nothing at all could be
    used. 128 + signal: stopped, 130 by Ctrl-C; 141: whoever read the output has gone.
    """
    if arguments is None:
        own_process()
        # The whole suite passes with pandas 3; to a user it says that the installation is wrong.
        warnings.filterwarnings("ignore", "\\s*PySpark does not yet fully support pandas", FutureWarning)
        return stoppable(lambda: _status(sys.argv[1:]))
    return _status(arguments)


def _status(arguments: Sequence[str]) -> int:
    try:
        try:
            options = _parser().parse_args(arguments)
            (options.command_function if "command_function" in options else _COMMANDS[options.command])(options)
        finally:
            sys.stdout.flush()  # here, where it can be told
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 128 + signal.SIGPIPE
    except NalsparkError as error:
        print(f"nalspark: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

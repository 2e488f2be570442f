"""``nalspark statistics`` and ``nalspark randoms``: what a catalogue is for, made of its published files alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nalspark.judging.randoms import write_randoms
from nalspark.judging.statistics import result_statistics
from nalspark.judging.statistics_files import statistics_text, write_statistics
from nalspark.progress import Progress
from nalspark.settings import Settings, Statistics, load, local_folder
from nalspark.tables.result import Result, open_result


def add_commands(commands: Any) -> None:
    """Hang the commands under the command line's."""
    statistics = commands.add_parser("statistics", help="dN/dz, dN/dX and f(W) of a catalogue, corrected for completeness, with figures")
    _common(statistics)
    statistics.add_argument("--out", type=local_folder, metavar="FOLDER", help="folder for tables and figures (default DIR/statistics)")
    statistics.set_defaults(command_function=_statistics)

    randoms = commands.add_parser("randoms", help="random absorbers on the searched path, for cross-correlations")
    _common(randoms)
    randoms.add_argument("--n", type=float, default=20.0, help="how many times as many as absorbers (default 20)")
    randoms.add_argument("--expected", action="store_true", help="as many times as the fitted law expects, not as were found")
    randoms.add_argument("--seed", type=int, default=1, help="the same seed gives the same randoms (default 1)")
    randoms.add_argument("--out", type=local_folder, metavar="FILE", help="FITS or Parquet, by its ending (default DIR/randoms.fits)")
    randoms.set_defaults(command_function=_randoms)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", type=local_folder, metavar="DIR", help="a result of `nalspark find` with its completeness")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings, for example statistics.om0=0.31"
    )
    parser.add_argument("--uncorrected", action="store_true", help="take the completeness as 1")


def _opened(options: argparse.Namespace) -> tuple[Result, Statistics]:
    """The result, and its settings as the options change them."""
    result = open_result(options.result)
    own = {name: getattr(result.settings, name) for name in Settings.model_fields}
    tree = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in own.items()}
    return result, load(overrides=options.set, **tree).statistics


def _statistics(options: argparse.Namespace) -> None:
    result, settings = _opened(options)
    progress = Progress(sys.stderr)
    rows = result.manifest.published.get("sensitivity.parquet", "all")
    progress.say(f"summing the path of {rows} sightlines")
    tables = result_statistics(result, settings, uncorrected=options.uncorrected)
    out = Path(options.out or result.root / "statistics")
    written = write_statistics(tables, out)
    print(f"{statistics_text(tables)}\n\nstatistics  {out.absolute()}: {', '.join(path.name for path in written)}")


def _randoms(options: argparse.Namespace) -> None:
    result, settings = _opened(options)
    how = {"expected": options.expected, "uncorrected": options.uncorrected, "seed": options.seed}
    path, summary = write_randoms(result, options.out, options.n, settings, say=Progress(sys.stderr).say, **how)
    print(f"{summary}\nrandoms    {path.absolute()}")

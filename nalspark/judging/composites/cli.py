"""``nalspark stack``: composite spectra of a result's absorbers, or at positions and redshifts that are given."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from nalspark.errors import NalsparkError
from nalspark.judging.composites.files import check_folder, stack_text, write_stack
from nalspark.judging.composites.stages import Plan, read_conditions, stack_result
from nalspark.judging.diff import open_side
from nalspark.progress import Progress
from nalspark.session import running_session
from nalspark.settings import local_folder
from nalspark.surveys.catalogs import open_catalog

#: Composites of a result lie in this folder of it.
_FOLDER = "stacks"
#: Where an absorber was found there may be dust.
_NO_ABSORBER = "n_absorbers == 0"
_NAME = r"[A-Za-z0-9][\w.+-]*"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Hang ``stack`` under the command line's commands."""
    plan = Plan()
    stack = commands.add_parser("stack", help="average the spectra of a result in the rest frame of its absorbers: lines and dust")
    stack.add_argument("result", metavar="DIR", help="a result of `nalspark find`")
    stack.add_argument(
        "--select",
        default="",
        metavar="CONDITION",
        help='which absorbers, by their columns: "ew_2796 > 1 and not z_abs < 0.5" (default all)',
    )
    stack.add_argument(
        "--positions", metavar="FILE", help="stack at these redshifts instead: a table with ra, dec (deg) and z, for example of galaxies"
    )
    stack.add_argument(
        "--radius",
        type=float,
        default=plan.radius_arcsec,
        metavar="ARCSEC",
        help="how far a position may lie from a sightline (default 30)",
    )
    stack.add_argument(
        "--controls",
        type=int,
        default=plan.controls,
        metavar="K",
        help="spectra without such an absorber, alike in redshift and S/N, for each with; 0: no dust is measured (default 3)",
    )
    stack.add_argument(
        "--control-select",
        metavar="CONDITION",
        help=f'of which sightlines, by their columns (default "{_NO_ABSORBER}", with --positions all), never of a quasar that is stacked',
    )
    stack.add_argument("--seed", type=int, default=plan.seed, help="of the bootstrap and of the choice of controls (default 1)")
    stack.add_argument("--name", metavar="NAME", help="name of the composite in DIR/stacks (default absorbers, or positions)")
    stack.add_argument("--out", type=local_folder, metavar="FOLDER", help="write it there instead")
    stack.add_argument("--master", metavar="URL", help="Spark master; by default the one of spark-submit, or all local cores")
    stack.set_defaults(command_function=command)


def command(options: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises
    ------
    NalsparkError
        Where an option is wrong, the folder holds something else, or nothing is left to stack.
    """
    _check(options)
    result = open_side(options.result)
    positions = open_catalog(options.positions, "quasars") if options.positions else None
    among = options.control_select if options.control_select is not None else ("" if positions else _NO_ABSORBER)
    plan = Plan(options.select, options.controls, among, options.seed, positions, options.radius)
    read_conditions(result, plan)  # a wrong one is told before a session is started
    name = options.name or ("positions" if positions else "absorbers")
    folder = Path(options.out).expanduser().absolute() if options.out else result.root / _FOLDER / name
    check_folder(folder)
    progress = Progress(sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        raise NalsparkError(f"The composite cannot be written to {folder}: {error.strerror}. Give another --out.") from None
    with scratch as lists, running_session(options.master, say=progress.say) as spark:
        stack = stack_result(spark, result, plan, Path(lists), progress.say)
    write_stack(stack, folder)
    print(stack_text(stack, folder))


def _check(options: argparse.Namespace) -> None:
    if options.controls < 0:
        raise NalsparkError(f"{options.controls} controls cannot be had; --controls must be 0 or more.")
    if not 0 < options.radius <= 3600:
        raise NalsparkError(f"A radius of {options.radius:g} arcsec cannot be searched; --radius must be above 0 and at most 3600.")
    if options.name is not None and not re.fullmatch(_NAME, options.name):
        raise NalsparkError(f"'{options.name}' cannot name a composite: --name takes letters, digits, and . _ + - after the first.")

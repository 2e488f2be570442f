"""``nalspark review``: the absorbers of a result, looked at one by one in the browser."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

from nalspark.errors import NalsparkError
from nalspark.review.exhibits import Exhibits
from nalspark.review.journal import FOLDER, Journal
from nalspark.review.server import Review, open_server
from nalspark.review.systems import absorber_exhibits


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Hang ``review`` under the command line's commands."""
    review = commands.add_parser("review", help="look at the absorbers of a result one by one in the browser, and label them")
    review.add_argument("result", metavar="DIR", help="a result of `nalspark find`")
    add_options(review)
    review.set_defaults(command_function=lambda options: serve_review(options, absorber_exhibits))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options of every review."""
    parser.add_argument(
        "--select", default="", metavar="CONDITION", help='which systems, by their columns: "score < 0.9 and z_abs > 1.5" (default all)'
    )
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, drawn by chance, the same for every reviewer")
    parser.add_argument(
        "--by-score", action="store_true", help="equally many of every stratum of score: `nalspark evaluate --labels` weighs them back"
    )
    parser.add_argument("--reviewer", metavar="NAME", help="who looks (default the name of this user); the page can change it")
    parser.add_argument("--blind", action="store_true", help="keep the score, the flags and all else that the network says from the page")
    parser.add_argument("--second-look", action="store_true", help="look once more at what one has labelled, without seeing what one said")
    parser.add_argument("--port", type=int, metavar="N", help="port on this machine (default the first free one from 8642 on)")
    parser.add_argument("--open", action=argparse.BooleanOptionalAction, default=True, help="open the browser (default yes)")


def serve_review(options: argparse.Namespace, open_exhibits: Callable[[str, str, int | None, bool], Exhibits]) -> None:
    """Serve a review until the command is stopped.

    Parameters
    ----------
    options : Namespace
        Those of :func:`add_options`, and ``result``.
    open_exhibits : callable
        Folder, condition, size of the sample, and whether it is drawn evenly by score → what is looked at.

    Raises
    ------
    NalsparkError
        Where there is nothing to look at, labels cannot be kept, or the port is not free.
    """
    exhibits = open_exhibits(options.result, options.select, options.sample, options.by_score)
    journal = Journal(Path(options.result) / FOLDER, exhibits.programme)
    review = Review(exhibits, journal, options.reviewer or _user(), options.blind, 2 if options.second_look else 1)
    server, access = open_server(review, options.port)
    for warning in journal.torn():
        print(f"note: {warning}")
    print(f"{len(exhibits)} systems; labels go to {journal.folder.absolute()}")
    print(f"review     {access.url}")
    print("Whoever has this address can label. Stop with Ctrl-C; every label is on disk.", flush=True)
    if options.open and _has_screen():
        webbrowser.open(access.url)
    server.serve_forever()


def _has_screen() -> bool:
    """Whether a browser would have a window; one in the terminal is of no use here."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise NalsparkError("This user has no name: say who looks with --reviewer.") from None

"""The errors a user can meet. Each message is a sentence: what, where, what was expected, what to do."""

from __future__ import annotations

import difflib
import logging
import traceback
from collections.abc import Iterable
from pathlib import Path

#: The reason of a row that a fault of nalspark's own left without a result: no property of the data.
INTERNAL_ERROR = "internal_error"
#: Reasons that may be gone the next time, though nothing else has changed: what they befell is tried again by the next run.
MAY_PASS = (INTERNAL_ERROR, "io_error", "permission_denied", "file_missing", "changed_while_read")
#: Innermost frames of the traceback that go into `detail`, and characters at most.
_FRAMES, _CHARACTERS = 4, 700


class NalsparkError(Exception):
    """Anything that a user can mend: the command line prints it without a traceback."""

    exit_status = 2


class IncompleteError(NalsparkError):
    """A run is done, and what was finished is kept, but it is no good result."""

    exit_status = 3


class SettingsError(NalsparkError):
    """A setting, a run file or an option is wrong."""


class CatalogError(NalsparkError):
    """A catalogue cannot be read or lacks a column."""


class StoreError(NalsparkError):
    """The output directory is in use, damaged, or not ours."""


class FetchError(NalsparkError):
    """Spectra cannot be got from an archive, or not be kept."""


class FeedError(NalsparkError):
    """A training table cannot be read, or not all of it was."""


class TrainingError(NalsparkError):
    """A network cannot be trained as asked."""


class ModelError(NalsparkError):
    """A model cannot be read, does not fit the data, or is asked for what it is not."""


class UnusableSpectrum(Exception):
    """One spectrum cannot be used. Never ends a run: it becomes a row of ``rejections``.

    Parameters
    ----------
    reason : str
        A short identifier, one per kind of fault (``truncated``, ``not_fits``, …).
    detail : str
        A sentence for a person: what was found, what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # what a process sends to another is made from these
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def internal_error(name: str, error: Exception) -> UnusableSpectrum:
    """Give the rejection for an exception that nobody foresaw, and write its traceback to the log of this process.

    `name` is that of what was worked on.

    Returns
    -------
    UnusableSpectrum
        With the reason :data:`INTERNAL_ERROR`; its detail names the exception and, the innermost first, the lines that led to it: from a
        worker of Spark nothing else reaches the driver.
    """
    logging.getLogger("nalspark").error("%s: a fault of nalspark", name, exc_info=error)
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames)
    said = "".join(char if char.isprintable() else " " for char in f"{type(error).__name__}: {error} [{where}]"[:_CHARACTERS])
    return UnusableSpectrum(INTERNAL_ERROR, f"A fault of nalspark, not of {name}; please report it: {said}.")


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """Suggest the nearest known word, as `` Did you mean 'x'?`` written after `before`; or give an empty string."""
    known = list(known)
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    return f" Did you mean '{before}{folded[near[0]]}'?" if near else ""

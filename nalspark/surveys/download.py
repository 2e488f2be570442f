"""Spectra from a survey's archive: many files at a time, politely, each whole or not at all.

A file appears under its name only after it was read by this project's own reader and found to be the spectrum that was asked for. So
whatever ends a fetch, the next one needs nothing but the files that are there to go on. Names are made of three whole numbers, never of
text from a catalogue. Nothing here grows with the number of spectra.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nalspark.errors import FetchError, SettingsError, UnusableSpectrum
from nalspark.settings import Fetch
from nalspark.surveys.archive import Archive, SpectrumId, check_is
from nalspark.surveys.catalogs import Catalog, read_rows
from nalspark.surveys.identity import PLATE_MJD_FIBER
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.release import DataRelease
from nalspark.tables.atomic import beside, put, write_file
from nalspark.tables.lock import InUse, hold
from nalspark.tables.schemas import FETCH_FAILURES

#: The list of failed spectra, in the output folder.
FAILURES = "fetch_failures.csv"
_LOCK = ".nalspark-fetch.lock"
#: Seconds between two lines of progress.
_EVERY_S = 5.0
#: Consecutive spectra for which the server gave no answer or an error, after which the fetch stops.
_SERVER_GONE, _NOTHING_CAME = 20, ("unreachable", "server_error", "stalled", "incomplete", "refused", "redirected")
_GO_ON = "Run the same command again to go on."


@dataclass(frozen=True)
class Outcome:
    """What became of one spectrum: ``downloaded``, ``present``, or the reason of its failure and a sentence."""

    spectrum: SpectrumId | None
    result: str
    detail: str = ""
    url: str = ""
    n_bytes: int = 0

    @property
    def failed(self) -> bool:
        return self.result not in ("downloaded", "present")


@dataclass
class FetchSummary:
    """Counts of a fetch; every spectrum that was asked for is in one of them.

    Attributes
    ----------
    rows : int
        Rows of the catalogue.
    downloaded, present : int
        Files that came, and files that were there already and whole.
    failures : Counter
        Reason → spectra.
    not_selected : int
        Rows of the catalogue whose redshift is outside the range that was asked for.
    n_bytes : int
        Bytes of the files that came.
    seconds : float
    """

    rows: int = 0
    downloaded: int = 0
    present: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    not_selected: int = 0
    n_bytes: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of one spectrum."""
        if outcome.failed:
            self.failures[outcome.result] += 1
        else:
            self.downloaded += outcome.result == "downloaded"
            self.present += outcome.result == "present"
            self.n_bytes += outcome.n_bytes

    @property
    def done(self) -> int:
        return self.downloaded + self.present + self.failures.total()

    def progress(self) -> str:
        """Say what is done of what, and how long the rest will take at this rate."""
        left = max(self.rows - self.not_selected - self.done, 0)
        minutes = left * self.seconds / self.done / 60 if self.done else 0.0
        return f"{self.done} of {self.done + left} spectra, about {minutes:.0f} min left: {self}"

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-3)
        rate = f"in {seconds:.0f} s ({self.downloaded / seconds:.0f} files/s, {self.n_bytes / seconds / 1e6:.1f} MB/s)"
        came = f"{self.downloaded} downloaded {rate}, {self.present} already there, {self.failures.total()} failed"
        return came + (f" ({', '.join(f'{n} {reason}' for reason, n in self.failures.most_common())})" if self.failures else "")


class _Fetcher:
    """One spectrum at a time, from its identifier to its file."""

    def __init__(self, release: DataRelease, archive: Archive, out: Path) -> None:
        self._release, self.archive, self._out = release, archive, out

    def __call__(self, wanted: SpectrumId) -> Outcome:
        path = self._out / self._release.local_path(*wanted)
        with suppress(UnusableSpectrum):
            check_is(open_spectrum(path), wanted)
            return Outcome(wanted, "present")
        urls = [self.archive.url(remote) for remote in self._release.remote_paths(*wanted)]
        for url in urls:
            try:
                content = self.archive.get(url, wanted)
            except UnusableSpectrum as fault:
                if fault.reason != "not_found":
                    return Outcome(wanted, fault.reason, fault.detail, url)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, content)  # not synced to the disk: what a power cut damages, the next fetch finds damaged and gets again
                return Outcome(wanted, "downloaded", url=url, n_bytes=len(content))
        return Outcome(wanted, "not_found", f"The archive has no such file, in none of {len(urls)} reductions.", urls[0])


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The output folder, for this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with hold(out / _LOCK):
            yield
    except InUse as busy:
        raise FetchError(f"Another fetch is writing into '{out}'. Wait until it ends, or give another --out.{busy.remedy}") from None


@contextmanager
def _failure_list(out: Path) -> Iterator[Callable[[Outcome], None]]:
    """Takes the failures as they come; the list replaces the last one when the fetch ends, however it ends short of being killed."""
    part = beside(out / FAILURES)
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FETCH_FAILURES.names, restval="")
        writer.writeheader()

        def record(outcome: Outcome) -> None:
            named = {"spectrum_id": outcome.spectrum, **outcome.spectrum._asdict()} if outcome.spectrum else {}
            writer.writerow({**named, "url": outcome.url, "reason": outcome.result, "detail": outcome.detail})

        try:
            yield record
        finally:
            file.close()
            put(part, out / FAILURES)


def _wanted(catalog: Catalog, release: DataRelease, summary: FetchSummary) -> Iterator[SpectrumId | Outcome]:
    """The spectra of a catalogue in the release's range of redshifts, some rows in memory; rows that name none as failures."""
    selection = release.selection
    for rows in read_rows(catalog):
        outside = (rows["z"] < selection.z_min) | (rows["z"] > selection.z_max)
        summary.not_selected += int(outside.sum())
        ids = np.stack([rows[name] for name in PLATE_MJD_FIBER], axis=1)
        nameless = (ids < 1).any(axis=1)
        for row in rows["row"][nameless & ~outside]:
            yield Outcome(None, "no_identifier", f"Row {row} of {catalog.name} (counted from 0) has no usable plate, mjd and fiber.")
        for plate, mjd, fiber in np.unique(ids[~nameless & ~outside], axis=0).tolist():
            yield SpectrumId(plate, mjd, fiber)


def _outcomes(wanted: Iterator[SpectrumId | Outcome], fetcher: _Fetcher, workers: int) -> Generator[Outcome, None, None]:
    """Outcomes as they come, a few spectra for each worker under way."""
    pending: set[Future[Outcome]] = set()

    def finished(at_most: int) -> Iterator[Outcome]:
        """Wait until so many are under way at most."""
        while len(pending) > at_most:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            pending.difference_update(done)
            yield from (future.result() for future in done)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for spectrum in wanted:
                if isinstance(spectrum, Outcome):
                    yield spectrum
                    continue
                pending.add(pool.submit(fetcher, spectrum))
                yield from finished(4 * workers - 1)
            yield from finished(0)
        finally:
            fetcher.archive.stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _follow(outcomes: Iterator[Outcome], summary: FetchSummary, record: Callable[[Outcome], None], say: Callable[[str], None]) -> None:
    """Count and record outcomes, and tell of them now and then.

    Raises
    ------
    FetchError
        Where there is no server any more.
    """
    started = told = time.monotonic()
    gone = 0
    for outcome in outcomes:
        summary.add(outcome)
        now = time.monotonic()
        summary.seconds = now - started
        if outcome.failed:
            record(outcome)
        gone = gone + 1 if outcome.result in _NOTHING_CAME else 0
        if gone >= _SERVER_GONE:
            raise FetchError(f"{gone} spectra in a row could not be had. {outcome.detail} {summary}. {_GO_ON}")
        if now - told >= _EVERY_S:
            told = now
            say(f"fetch       {summary.progress()}")


def fetch(release: DataRelease, catalog: Catalog, out: str | Path, settings: Fetch, say: Callable[[str], None]) -> FetchSummary:
    """Get the spectra of a quasar catalogue into a folder; what is there and whole stays as it is.

    Parameters
    ----------
    release : DataRelease
    catalog : Catalog
        Quasars with plate, mjd and fiber.
    out : path
        ``out/PLATE/FILE``, and ``out/fetch_failures.csv``: a row for every spectrum that could not be had.
    settings : Fetch
    say : callable
        Takes lines of progress.

    Returns
    -------
    FetchSummary

    Raises
    ------
    SettingsError
        Where the base URL is none, or the release does not keep one spectrum a file.
    FetchError
        Where the folder cannot be written or is in use, the server is gone, or somebody interrupts. What came is kept.
    """
    if not release.by_fiber:
        names = ", ".join(release.native_id)
        raise SettingsError(
            f"The files of {release.name} are named by {names} and hold many spectra each: nalspark fetch goes by plate, mjd and fiber. "
            f"Get them with the archive's own tools from {release.base_url}."
        )
    out, summary = Path(out), FetchSummary(catalog.n_rows)
    archive = Archive(settings.base_url or release.base_url, settings)
    for fact in () if settings.base_url else release.unverified:
        say(f"note: not verified: {fact}")
    try:
        with _held(out), _failure_list(out) as record:
            wanted, fetcher = _wanted(catalog, release, summary), _Fetcher(release, archive, out)
            with closing(_outcomes(wanted, fetcher, settings.workers)) as outcomes:
                _follow(outcomes, summary, record, say)
    except KeyboardInterrupt:
        raise FetchError(f"Stopped: {summary}. {_GO_ON}") from None
    except OSError as error:
        raise FetchError(f"'{out}' cannot be written: {error.strerror}. {summary}. {_GO_ON}") from None
    return summary

"""Spectra from a survey's archive: many files at a time, politely, each whole or not at all.

A file appears under its name only after this project's own reader found it to be the one that was asked for. So whatever ends a fetch, the
next one needs nothing but the files that are there to go on. Names are made of numbers, and of words of at most 20 letters and digits.
Nothing here grows with the number of quasars.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nalspark.errors import FetchError, UnusableSpectrum
from nalspark.settings import Fetch
from nalspark.surveys.archive import Archive
from nalspark.surveys.catalogs import Catalog
from nalspark.surveys.reader import identify
from nalspark.surveys.release import ArchiveFile, DataRelease, FileKey
from nalspark.surveys.wanted import Wanted
from nalspark.tables.atomic import beside, put
from nalspark.tables.lock import InUse, hold
from nalspark.tables.schemas import FETCH_FAILURES

#: The list of files that could not be had, in the output folder.
FAILURES = "fetch_failures.csv"
_LOCK = ".nalspark-fetch.lock"
#: Seconds between two lines of progress.
_EVERY_S = 5.0
#: Consecutive files for which the server gave no answer or an error, after which the fetch stops.
_SERVER_GONE, _NOTHING_CAME = 20, ("unreachable", "server_error", "stalled", "incomplete", "refused", "redirected")
_GO_ON = "Run the same command again to go on."


@dataclass(frozen=True)
class Outcome:
    """What became of one file, or of a row that names none: ``downloaded``, ``present``, or the reason of its failure and a sentence."""

    key: FileKey | None
    result: str
    detail: str = ""
    url: str = ""
    n_bytes: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is no file now."""
        return self.result not in ("downloaded", "present")


@dataclass
class FetchSummary:
    """Counts of a fetch; every file that was asked for is in one of them.

    Attributes
    ----------
    rows : int
        Rows of the catalogue.
    downloaded, present : int
        Files that came, and files that were there already and whole.
    failures : Counter
        Reason → files, or rows that name none.
    not_selected : int
        Rows of the catalogue whose redshift is outside the range that was asked for.
    n_bytes : int
        Bytes of the files that came.
    seconds : float
    files : int
        Files that hold the quasars, where that is known; 0 where each row of the catalogue may have its own.
    """

    rows: int = 0
    downloaded: int = 0
    present: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    not_selected: int = 0
    n_bytes: int = 0
    seconds: float = 0.0
    files: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of one file."""
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
        done = self.done - (self.failures["no_identifier"] if self.files else 0)
        left = max((self.files or self.rows - self.not_selected) - done, 0)
        minutes = left * self.seconds / done / 60 if done else 0.0
        return f"{done} of {done + left} files, about {minutes:.0f} min left: {self}"

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-3)
        rate = f"in {seconds:.0f} s ({self.downloaded / seconds:.0f} files/s, {self.n_bytes / seconds / 1e6:.1f} MB/s)"
        came = f"{self.downloaded} downloaded {rate}, {self.present} already there, {self.failures.total()} failed"
        return came + (f" ({', '.join(f'{n} {reason}' for reason, n in self.failures.most_common())})" if self.failures else "")


class _Fetcher:
    """One file at a time, from its key to its place."""

    def __init__(self, archive: Archive, out: Path) -> None:
        self.archive, self._out = archive, out

    def __call__(self, file: ArchiveFile) -> Outcome:
        path = self._out / file.local

        def check(found: Path) -> None:
            _check_is(identify(found, path.name), file.key)

        with suppress(UnusableSpectrum):
            check(path)
            return Outcome(file.key, "present")
        path.parent.mkdir(parents=True, exist_ok=True)
        urls = [self.archive.url(remote) for remote in file.paths]
        for url in urls:
            try:
                return Outcome(file.key, "downloaded", url=url, n_bytes=self.archive.get(url, path, check))
            except UnusableSpectrum as fault:
                if fault.reason != "not_found":
                    return Outcome(file.key, fault.reason, fault.detail, url)
        lost = "The archive has no such file" + (f", in none of {len(urls)} reductions." if len(urls) > 1 else ".")
        return Outcome(file.key, "not_found", lost, urls[0])


def _check_is(native: Mapping[str, int | str], key: FileKey) -> None:
    """Refuse a file that is not the one that was asked for."""
    other = [f"{name} {native.get(name, 'not known')}" for name, value in key.native.items() if native.get(name) != value]
    if other:
        raise UnusableSpectrum("wrong_spectrum", f"The file is of another one ({', '.join(other)}); expected {key}.")


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
            named = {"spectrum_id": outcome.key, **outcome.key.native} if outcome.key else {}
            writer.writerow({**named, "url": outcome.url, "reason": outcome.result, "detail": outcome.detail})

        try:
            yield record
        finally:
            file.close()
            put(part, out / FAILURES)


def _files(wanted: Wanted, summary: FetchSummary, beside: bool) -> Iterator[ArchiveFile | Outcome]:
    """The files of a catalogue's quasars; rows that name none as failures."""
    for key in wanted.each():
        summary.not_selected, summary.files = wanted.not_selected, wanted.n_keys * wanted.release.files_a_key(beside)
        if isinstance(key, str):
            yield Outcome(None, "no_identifier", key)
        else:
            yield from wanted.release.files(key, beside)


def _outcomes(files: Iterator[ArchiveFile | Outcome], fetcher: _Fetcher, workers: int) -> Generator[Outcome, None, None]:
    """Outcomes as they come, a few files for each worker under way, none of them twice."""
    pending: dict[Future[Outcome], str] = {}

    def finished(at_most: int) -> Iterator[Outcome]:
        """Wait until so many are under way at most."""
        while len(pending) > at_most:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                del pending[future]
            yield from (future.result() for future in done)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for file in files:
                if isinstance(file, Outcome):
                    yield file
                    continue
                while file.local in pending.values():
                    yield from finished(len(pending) - 1)
                pending[pool.submit(fetcher, file)] = file.local
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
            raise FetchError(f"{gone} files in a row could not be had. {outcome.detail} {summary}. {_GO_ON}")
        if now - told >= _EVERY_S:
            told = now
            say(f"fetch       {summary.progress()}")
    if 0 < summary.failures["unreachable"] == summary.done:
        raise FetchError(f"None of the files ({summary.done}) could be had. {outcome.detail} {_GO_ON}")


def _completed(settings: Fetch, release: DataRelease) -> Fetch:
    """The settings, with the release's own where they leave it to the release."""
    own = {"max_file_mb": release.largest_mb, "file_timeout_s": release.file_time_s}
    return settings.model_copy(update={name: getattr(settings, name) or value for name, value in own.items()})


def fetch(release: DataRelease, catalog: Catalog, out: str | Path, settings: Fetch, say: Callable[[str], None]) -> FetchSummary:
    """Get the spectra of a quasar catalogue into a folder; what is there and whole stays as it is.

    Parameters
    ----------
    release : DataRelease
    catalog : Catalog
        Quasars with what the release's files are known by: plate, mjd and fiber; field, mjd and catalogid; a position, survey and program.
    out : path
        ``out/FOLDER/FILE``, and ``out/fetch_failures.csv``: a row for every file that could not be had.
    settings : Fetch
    say : callable
        Takes lines of progress.

    Returns
    -------
    FetchSummary

    Raises
    ------
    SettingsError
        Where the base URL is none.
    CatalogError
        Where the catalogue lacks a column by which files are known, or cannot be read.
    FetchError
        Where the folder cannot be written or is in use, the server is gone, or somebody interrupts. What came is kept.
    """
    words = {"survey": settings.surveys, "program": settings.programs}
    wanted = Wanted(catalog, release, {name: given or release.words(name) for name, given in words.items()})
    out, summary = Path(out), FetchSummary(catalog.n_rows)
    archive = Archive(settings.base_url or release.base_url, _completed(settings, release))
    for fact in () if settings.base_url else release.unverified:
        if not fact.startswith("quasars."):  # where the list comes from: here it is given
            say(f"note: not verified: {fact}")
    try:
        with _held(out), _failure_list(out) as record:
            files, fetcher = _files(wanted, summary, settings.beside), _Fetcher(archive, out)
            with closing(_outcomes(files, fetcher, settings.workers)) as outcomes:
                _follow(outcomes, summary, record, say)
    except KeyboardInterrupt:
        raise FetchError(f"Stopped: {summary}. {_GO_ON}") from None
    except OSError as error:
        raise FetchError(f"'{out}' cannot be written: {error.strerror}. {summary}. {_GO_ON}") from None
    summary.not_selected = wanted.not_selected
    return summary

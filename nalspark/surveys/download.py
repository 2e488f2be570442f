"""Spectra from a survey's archive: many files at a time, politely, each whole or not at all.

A file appears under its name only after it was read by this project's own reader and found to be the spectrum that was asked for. So
whatever ends a fetch, the next one needs nothing but the files that are there to go on. Names are made of three whole numbers, never of
text from a catalogue; redirects stay on the archive's host; bodies are bounded. Nothing here grows with the number of spectra.
"""

from __future__ import annotations

import csv
import fcntl
import os
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import numpy as np
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader, MaxRetryError, NewConnectionError, ReadTimeoutError, SSLError

import nalspark
from nalspark.errors import FetchError, SettingsError, UnusableSpectrum
from nalspark.settings import Fetch
from nalspark.surveys.catalogs import ID_COLUMNS, Catalog, read_rows
from nalspark.surveys.fits_table import printable
from nalspark.surveys.reader import open_spectrum, parse_spectrum
from nalspark.surveys.release import DataRelease
from nalspark.surveys.sdss import SurveySpectrum
from nalspark.tables.schemas import FETCH_FAILURES

#: The list of what could not be had, in the output folder.
FAILURES = "fetch_failures.csv"
_LOCK = ".nalspark-fetch.lock"
_FITS = b"SIMPLE  ="
_CHUNK = 2**16
_MOST_REDIRECTS = 3
_LONGEST_WAIT_S = 60.0
#: Seconds between two lines of progress.
_EVERY_S = 5.0
#: Spectra in a row for which there was no server: then there is none.
_SERVER_GONE = 20
#: What the readers find in a file that was cut short on its way.
_CUT_SHORT = ("empty", "truncated")


class SpectrumId(NamedTuple):
    """What SDSS calls a spectrum."""

    plate: int
    mjd: int
    fiber: int

    def __str__(self) -> str:
        return f"{self.plate:04d}-{self.mjd}-{self.fiber:04d}"


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
        """What is done of what, and how long the rest will take at this rate."""
        left = max(self.rows - self.not_selected - self.done, 0)
        minutes = left * self.seconds / self.done / 60 if self.done else 0.0
        return f"{self.done} of {self.done + left} spectra, about {minutes:.0f} min left: {self}"

    def __str__(self) -> str:
        rate = f" in {self.seconds:.0f} s ({self.downloaded / self.seconds:.0f} files/s, {self.n_bytes / self.seconds / 1e6:.1f} MB/s)"
        came = f"{self.downloaded} downloaded{rate if self.seconds else ''}, {self.present} already there, {self.failures.total()} failed"
        return came + (f" ({', '.join(f'{n} {reason}' for reason, n in self.failures.most_common())})" if self.failures else "")


class _Passing(Exception):
    """A fault that may be gone a moment later. `response` is the server's answer, where it gave one."""

    def __init__(self, reason: str, detail: str, response: urllib3.BaseHTTPResponse | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.response = reason, detail, response


class _Rate:
    """Bytes a second for all threads together: whoever took some waits until they are due."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s, self._due, self._lock = bytes_per_s, time.monotonic(), threading.Lock()

    def take(self, n_bytes: int) -> None:
        if self._bytes_per_s:
            with self._lock:
                self._due = max(self._due, time.monotonic()) + n_bytes / self._bytes_per_s
                pause = self._due - time.monotonic()
            time.sleep(max(pause, 0.0))


def check_is(spectrum: SurveySpectrum, wanted: SpectrumId) -> None:
    """Refuse a spectrum that is not the one that was asked for.

    Raises
    ------
    UnusableSpectrum
        ``wrong_spectrum``.
    """
    found = SpectrumId(spectrum.plate, spectrum.mjd, spectrum.fiber)
    if found != wanted:
        raise UnusableSpectrum("wrong_spectrum", f"The file holds spectrum {found}; expected {wanted}.")


class Archive:
    """An archive's server, for many threads.

    Parameters
    ----------
    base_url : str
        ``http`` or ``https``; what all paths are below.
    settings : Fetch

    Raises
    ------
    SettingsError
        Where the base URL is none.
    """

    def __init__(self, base_url: str, settings: Fetch) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
            raise SettingsError(f"The base URL '{base_url}' is not of the form https://HOST/PATH (no user name, no query).")
        self._base = base_url.rstrip("/") + "/"
        self._settings = settings
        self._rate = _Rate(settings.limit_rate_mb_s * 1e6)
        self._retry = urllib3.Retry(settings.retries, backoff_factor=settings.backoff_s, backoff_jitter=settings.backoff_s)
        self.stopping = threading.Event()
        options: dict[str, Any] = {"maxsize": settings.workers, "headers": {"User-Agent": f"nalspark/{nalspark.__version__}"}}
        proxy = None if urllib.request.proxy_bypass(parts.hostname) else urllib.request.getproxies().get(parts.scheme)
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def url(self, path: str) -> str:
        return self._base + path

    def get(self, url: str, wanted: SpectrumId) -> bytes:
        """The file behind a URL, checked; asked for again where the fault may pass.

        Raises
        ------
        UnusableSpectrum
            ``not_found``, ``refused``, ``redirected``, ``too_large``, ``not_fits``, ``wrong_spectrum`` and the reader's reasons at once;
            ``server_error``, ``unreachable``, ``stalled``, ``incomplete`` after the repetitions.
        """
        retry = self._retry
        while True:
            try:
                return self._checked(self._body(url), wanted)
            except _Passing as fault:
                try:
                    retry = retry.increment("GET", url, fault.response)
                except MaxRetryError:
                    attempts = f" ({self._settings.retries + 1} attempts)"
                    raise UnusableSpectrum(fault.reason, fault.detail + attempts) from None
                if self.stopping.wait(self._pause(retry, fault.response)):
                    raise UnusableSpectrum("stopped", "The fetch was stopped.") from None

    @staticmethod
    def _pause(retry: urllib3.Retry, response: urllib3.BaseHTTPResponse | None) -> float:
        """Seconds until the next attempt: what the server asks for, else ever more."""
        try:
            asked = retry.get_retry_after(response) if response is not None else None
        except InvalidHeader:
            asked = None
        return min(asked or retry.get_backoff_time(), _LONGEST_WAIT_S)

    @staticmethod
    def _checked(content: bytes, wanted: SpectrumId) -> bytes:
        try:
            if content and not content.startswith(_FITS):
                begin = printable(content[:40].decode("ascii", "replace"), 40)
                raise UnusableSpectrum("not_fits", f"The server sent something that is no FITS file; it begins with '{begin}'.")
            check_is(parse_spectrum(content, str(wanted)), wanted)
        except UnusableSpectrum as fault:
            if fault.reason in _CUT_SHORT:
                raise _Passing("incomplete", fault.detail) from None
            raise
        return content

    def _body(self, url: str) -> bytes:
        """What one request, and the redirects it may take, bring."""
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._pool.request(
                    "GET", url, headers={"Accept-Encoding": "identity"}, preload_content=False, redirect=False, retries=False,
                    timeout=self._settings.timeout_s,
                )  # fmt: skip
                try:
                    location = response.get_redirect_location()
                    if not location:
                        self._check_status(response)
                        return self._read(response)
                finally:
                    response.close()  # a body that was read to its end has given its connection back already
            except (NewConnectionError, ConnectTimeoutError, SSLError) as error:
                raise _Passing("unreachable", f"There is no connection to the server: {printable(str(error), 200)}.") from None
            except ReadTimeoutError:
                raise _Passing("stalled", f"The server was silent for {self._settings.timeout_s:g} s.") from None
            except HTTPError as error:
                raise _Passing("incomplete", f"The answer broke off: {printable(str(error), 200)}.") from None
            url = self._redirected(url, str(location))
        raise UnusableSpectrum("redirected", f"The server redirects more than {_MOST_REDIRECTS} times.")

    @staticmethod
    def _redirected(url: str, location: str) -> str:
        here = urlsplit(url)
        try:
            target = urljoin(url, location)
            there = urlsplit(target)
        except ValueError:
            raise UnusableSpectrum("redirected", f"The server sends us to {printable(location, 200)}, which is no URL.") from None
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            shown = printable(target, 200)
            raise UnusableSpectrum("redirected", f"The server sends us elsewhere, to {shown}. If that is right, give it as --base-url.")
        return target

    @staticmethod
    def _check_status(response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if status in (404, 410):
            response.read(_CHUNK)  # the connection is good for the next file
            raise UnusableSpectrum("not_found", f"The archive has no such file (HTTP {status}).")
        if status == 429 or status >= 500:
            response.read(_CHUNK)
            raise _Passing("server_error", f"The server answers HTTP {status}.", response)
        if status != 200 or response.headers.get("Content-Encoding", "identity") != "identity":
            encoding = response.headers.get("Content-Encoding", "none")
            raise UnusableSpectrum("refused", f"The server answers HTTP {status}, encoding {encoding}; expected 200 and the file as it is.")

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        limit, end = int(self._settings.max_file_mb * 1e6), time.monotonic() + self._settings.file_timeout_s
        length = response.headers.get("Content-Length", "")
        promised = int(length) if length.isascii() and length.isdigit() else None
        too_large = UnusableSpectrum("too_large", f"The file is larger than fetch.max_file_mb = {self._settings.max_file_mb:g} MB.")
        if promised is not None and promised > limit:
            raise too_large
        content = bytearray()
        # read1 gives what has come: a server that sends a byte now and then cannot hold a thread beyond the time limit.
        while piece := response.read1(_CHUNK):
            content += piece
            if len(content) > limit:
                raise too_large
            if time.monotonic() > end or self.stopping.is_set():
                raise _Passing(
                    "stalled", f"After {self._settings.file_timeout_s:g} s the file was not there yet, {len(content)} bytes were."
                )
            self._rate.take(len(piece))
        if promised is not None and len(content) != promised:
            raise _Passing("incomplete", f"{len(content)} bytes came of {promised}.")
        return bytes(content)


class _Fetcher:
    """One spectrum at a time, from its identifier to its file."""

    def __init__(self, release: DataRelease, archive: Archive, out: Path) -> None:
        self._release, self.archive, self._out = release, archive, out

    def __call__(self, wanted: SpectrumId) -> Outcome:
        path = self._out / self._release.local_path(*wanted)
        if self._is_whole(path, wanted):
            return Outcome(wanted, "present")
        urls = [self.archive.url(remote) for remote in self._release.remote_paths(*wanted)]
        for url in urls:
            try:
                content = self.archive.get(url, wanted)
            except UnusableSpectrum as fault:
                if fault.reason != "not_found":
                    return Outcome(wanted, fault.reason, fault.detail, url)
            else:
                self._write(path, content)
                return Outcome(wanted, "downloaded", url=url, n_bytes=len(content))
        return Outcome(wanted, "not_found", f"The archive has no such file, in none of {len(urls)} reductions.", urls[0])

    @staticmethod
    def _is_whole(path: Path, wanted: SpectrumId) -> bool:
        try:
            check_is(open_spectrum(path), wanted)
        except UnusableSpectrum:
            return False
        return True

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        # Not synced to the disk: what a power cut damages, the next fetch finds damaged and gets again.
        part.write_bytes(content)
        os.replace(part, path)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The output folder, for this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FetchError(f"Another fetch is writing into '{out}'. Wait until it ends, or give another --out.") from None
        yield


@contextmanager
def _failure_list(out: Path) -> Iterator[Callable[[Outcome], None]]:
    """Takes the failures as they come; the list replaces the last one when the fetch ends, however it ends short of being killed."""
    part = out / f".{FAILURES}.part"
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FETCH_FAILURES.names)

        def record(outcome: Outcome) -> None:
            spectrum = outcome.spectrum
            writer.writerow([spectrum or "", *(spectrum or ("", "", "")), outcome.url, outcome.result, outcome.detail])

        try:
            yield record
        finally:
            file.flush()
            os.replace(part, out / FAILURES)


def _wanted(catalog: Catalog, release: DataRelease, summary: FetchSummary) -> Iterator[SpectrumId | Outcome]:
    """The spectra of a catalogue in the release's range of redshifts, some rows in memory; rows that name none as failures."""
    selection = release.selection
    for start in range(0, catalog.n_rows, catalog.rows_per_read):
        rows = read_rows(catalog, start, start + catalog.rows_per_read)
        outside = (rows["z"] < selection.z_min) | (rows["z"] > selection.z_max)
        summary.not_selected += int(outside.sum())
        ids = np.stack([rows[name] for name in ID_COLUMNS], axis=1)
        nameless = (ids < 1).any(axis=1)
        for row in rows["row"][nameless & ~outside]:
            yield Outcome(None, "no_identifier", f"Row {row} of {catalog.name} (counted from 0) has no usable plate, mjd and fiber.")
        for plate, mjd, fiber in np.unique(ids[~nameless & ~outside], axis=0).tolist():
            yield SpectrumId(plate, mjd, fiber)


def _outcomes(wanted: Iterator[SpectrumId | Outcome], fetcher: _Fetcher, workers: int) -> Generator[Outcome, None, None]:
    """Outcomes as they come, a few spectra for each worker under way."""
    pending: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for spectrum in wanted:
                if isinstance(spectrum, Outcome):
                    yield spectrum
                    continue
                pending.add(pool.submit(fetcher, spectrum))
                if len(pending) >= 4 * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
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
        gone = gone + 1 if outcome.result == "unreachable" else 0
        if gone >= _SERVER_GONE:
            raise FetchError(f"There is no connection to the server for {gone} spectra in a row: {outcome.detail}")
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
    except FetchError as error:
        raise FetchError(f"{error} {summary}. Run the same command again to go on.") from None
    except KeyboardInterrupt:
        raise FetchError(f"Stopped: {summary}. Run the same command again to go on.") from None
    except OSError as error:
        raise FetchError(f"'{out}' cannot be written: {error.strerror}. {summary}. Mend it and run the same command again.") from None
    return summary

"""An archive's server: one file of it at a time, whole and right or refused, for many threads at once.

Redirects stay on the archive's host, bodies are bounded in size and time and go to the disk as they come, and what arrives is checked
before it gets its name. A transfer that breaks off is gone on with where it broke off.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from nalspark.errors import SettingsError, UnusableSpectrum
from nalspark.settings import Fetch
from nalspark.surveys.fits_table import printable
from nalspark.surveys.partial import Partial
from nalspark.version import VERSION

_FITS = b"SIMPLE  ="
_CHUNK = 2**16
_MOST_REDIRECTS = 3
_LONGEST_WAIT_S = 60.0
#: What the readers find in a file that was cut short on its way.
_CUT_SHORT = ("empty", "truncated")


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
        options: dict[str, Any] = {"maxsize": settings.workers, "headers": {"User-Agent": f"nalspark/{VERSION}"}}
        proxy = None if urllib.request.proxy_bypass(parts.hostname) else urllib.request.getproxies().get(parts.scheme)
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def url(self, path: str) -> str:
        """Give the URL of a path below the base."""
        return self._base + path

    def get(self, url: str, target: Path, check: Callable[[Path], object]) -> int:
        """Get the file behind a URL into its place, checked; asked for again where the fault may pass, from where it broke off.

        Parameters
        ----------
        url : str
        target : Path
            Its folder is there.
        check : callable
            Looks at the file that came; raises `UnusableSpectrum` where it is not as it should be.

        Returns
        -------
        int
            Bytes that came.

        Raises
        ------
        UnusableSpectrum
            ``not_found``, ``refused``, ``redirected``, ``too_large``, ``not_fits`` and the reasons of `check` at once;
            ``server_error``, ``unreachable``, ``stalled``, ``incomplete`` after the repetitions.
        OSError
            Where the file cannot be written.
        """
        retry, part = self._retry, Partial(target)
        while True:
            try:
                if not part.is_whole:
                    self._body(url, part)
                self._check(part, check)
                part.put()
                return part.received
            except _Passing as fault:
                retry = self._next(retry, url, fault, part)
            except (UnusableSpectrum, OSError):
                part.give_up()
                raise

    def _next(self, retry: urllib3.Retry, url: str, fault: _Passing, part: Partial) -> urllib3.Retry:
        """Wait until the next attempt is due; what has come is left for it, or for the next fetch where there is none."""
        try:
            retry = retry.increment("GET", url, fault.response)
        except MaxRetryError:
            part.give_up()
            raise UnusableSpectrum(fault.reason, f"{fault.detail} ({self._settings.retries + 1} attempts)") from None
        if self.stopping.wait(self._pause(retry, fault.response)):
            part.give_up()
            raise UnusableSpectrum("stopped", "The fetch was stopped.") from None
        return retry

    @staticmethod
    def _pause(retry: urllib3.Retry, response: urllib3.BaseHTTPResponse | None) -> float:
        """Seconds until the next attempt: what the server asks for, else ever more."""
        try:
            asked = retry.get_retry_after(response) if response is not None else None
        except InvalidHeader:
            asked = None
        return min(asked or retry.get_backoff_time(), _LONGEST_WAIT_S)

    @staticmethod
    def _check(part: Partial, check: Callable[[Path], object]) -> None:
        """Refuse what is not the file that was asked for; what came in pieces may be right when it comes at once."""
        try:
            with open(part.path, "rb") as file:
                begin = file.read(40)
            if begin and not begin.startswith(_FITS):
                shown = printable(begin.decode("ascii", "replace"), 40)
                raise UnusableSpectrum("not_fits", f"The server sent something that is no FITS file; it begins with '{shown}'.")
            check(part.path)
        except UnusableSpectrum as fault:
            reason = "incomplete" if fault.reason in _CUT_SHORT else fault.reason
            again = (reason == "incomplete" and not (part.is_large and part.is_whole)) or not part.begun
            part.discard()
            raise (_Passing if again else UnusableSpectrum)(reason, fault.detail) from None

    def _body(self, url: str, part: Partial) -> None:
        """Take what one request, and the redirects it may take, bring."""
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._pool.request(
                    "GET", url, headers={"Accept-Encoding": "identity", **part.asks()}, preload_content=False, redirect=False,
                    retries=False, timeout=self._settings.timeout_s,
                )  # fmt: skip
                try:
                    location = response.get_redirect_location()
                    if not location:
                        self._check_status(response, part)
                        self._receive(response, part)
                        return
                finally:
                    response.close()  # a body that was read to its end has given its connection back already
            except (NewConnectionError, ConnectTimeoutError, ProxyError, SSLError) as error:
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
    def _check_status(response: urllib3.BaseHTTPResponse, part: Partial) -> None:
        status = response.status
        if status in (404, 410):
            response.read(_CHUNK)  # the connection is good for the next file
            part.discard()
            raise UnusableSpectrum("not_found", f"The archive has no such file (HTTP {status}).")
        if status == 429 or status >= 500:
            response.read(_CHUNK)
            raise _Passing("server_error", f"The server answers HTTP {status}.", response)
        if part.asks() and (status == 416 or (status == 206 and not part.goes_on(response.headers))):
            part.discard()
            raise _Passing("incomplete", f"The server does not go on where its answer broke off (HTTP {status}).")
        if status not in ((200, 206) if part.asks() else (200,)) or response.headers.get("Content-Encoding", "identity") != "identity":
            encoding = response.headers.get("Content-Encoding", "none")
            raise UnusableSpectrum("refused", f"The server answers HTTP {status}, encoding {encoding}; expected 200 and the file as it is.")

    def _receive(self, response: urllib3.BaseHTTPResponse, part: Partial) -> None:
        """Write the body of an answer to the disk."""
        limit, end = int(self._settings.max_file_mb * 1e6), time.monotonic() + self._settings.file_timeout_s
        length = response.headers.get("Content-Length", "")
        promised = int(length) if length.isascii() and length.isdigit() else None
        if response.status == 200:
            part.begin(response.headers, promised)
        too_large = UnusableSpectrum("too_large", f"The file is larger than fetch.max_file_mb = {self._settings.max_file_mb:g} MB.")
        if part.total > limit:
            part.discard()
            raise too_large
        with part.writing() as write:
            # read1 gives what has come: a server that sends a byte now and then cannot hold a thread beyond the time limit.
            while piece := response.read1(_CHUNK):
                if part.size + len(piece) > limit:
                    part.discard()
                    raise too_large
                write(piece)
                if time.monotonic() > end or self.stopping.is_set():
                    late = f"After {self._settings.file_timeout_s:g} s the file was not there yet, {part.size} bytes were."
                    raise _Passing("stalled", late)
                self._rate.take(len(piece))
        if part.total >= 0 and not part.is_whole:
            raise _Passing("incomplete", f"{part.size} bytes came of {part.total}.")

"""Archives on the loopback that have every fault that an archive can have: one of SDSS DR16's spectra, and one of any files."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, TypeVar

from surveys.make_files import spec_hdus

PATH = re.compile(r"/sas/dr16/(sdss|eboss)/spectro/redux/(\w+)/spectra/lite/(\d{4,5})/spec-(\d+)-(\d+)-(\d+)\.fits")
_SILENCE_S = 10.0


class SpectrumId(NamedTuple):
    """What SDSS calls a spectrum."""

    plate: int
    mjd: int
    fiber: int

    def __str__(self) -> str:
        return f"{self.plate:04d}-{self.mjd}-{self.fiber:04d}"


#: Stands for plate, mjd and fiber in the one file from which all are made.
_PLACEHOLDER = SpectrumId(77_777, 88_888, 6_666)


@cache
def _template() -> bytes:
    content = io.BytesIO()
    spec_hdus(*_PLACEHOLDER).writeto(content)
    return content.getvalue()


def spectrum_file(spectrum: SpectrumId) -> bytes:
    """The archive's file of a spectrum."""
    content = _template()
    for written, number in zip(_PLACEHOLDER, spectrum, strict=True):
        content = content.replace(struct.pack(">i", written), struct.pack(">i", number))
    return content


def run2d_of(spectrum: SpectrumId) -> str:
    return "v5_13_0" if spectrum.plate >= 3510 else "26"


class FaultyArchive(ThreadingHTTPServer):
    """Serves `faults`: spectrum → what is wrong with it; all others are there, each in the reduction of its plate.

    Attributes
    ----------
    log : list of (path, SpectrumId, status)
        Requests, in their order.
    most_at_a_time : int
        Requests that were under way together.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, faults: Mapping[SpectrumId, str], delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.delay_s = dict(faults), delay_s
        self.log: list[tuple[str, SpectrumId, int]] = []
        self.seen: Counter[str] = Counter()
        self.lock, self.at_a_time, self.most_at_a_time = threading.Lock(), 0, 0
        self.closing = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/sas/dr16"

    def requested(self, since: int = 0) -> set[SpectrumId]:
        return {spectrum for _, spectrum, _ in self.log[since:]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyArchive

    def log_message(self, *arguments: object) -> None:
        """The log that counts is the server's list."""

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.at_a_time += 1
            server.most_at_a_time = max(server.most_at_a_time, server.at_a_time)
            server.seen[self.path] += 1
        try:
            server.closing.wait(server.delay_s)
            self._answer()
        finally:
            with server.lock:
                server.at_a_time -= 1

    def _answer(self) -> None:
        matched = PATH.fullmatch(self.path.removesuffix("?again"))
        if matched is None:
            self._send(404, b"no such place")
            return
        self.spectrum = SpectrumId(*map(int, matched.groups()[3:]))
        fault = self.server.faults.get(self.spectrum, "")
        home = "v5_13_0" if fault == "moved" else run2d_of(self.spectrum)
        if fault == "missing" or matched[2] != home:
            self._send(404, b"<html>not here</html>")
        elif fault.endswith("_once") and self.server.seen[self.path] > 1:
            self._send(200, spectrum_file(self.spectrum))
        else:
            getattr(self, f"_{fault.removesuffix('_once') or 'good'}")()

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None) -> None:
        self.server.log.append((self.path, getattr(self, "spectrum", SpectrumId(0, 0, 0)), status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None

    def _good(self) -> None:
        self._send(200, spectrum_file(self.spectrum))

    _moved = _good

    def _error(self) -> None:
        self._send(500, b"oh no")

    def _busy(self) -> None:
        self._send(503, b"later", {"Retry-After": "soon"})

    def _short(self) -> None:
        content = spectrum_file(self.spectrum)
        self._send(200, content[: len(content) // 2], length=len(content))

    def _cut(self) -> None:
        """The length is right, and the file is not whole: the archive's own copy was cut."""
        self._send(200, spectrum_file(self.spectrum)[:20_000])

    def _stall(self) -> None:
        content = spectrum_file(self.spectrum)
        self._send(200, content[:5000], length=len(content))
        self.wfile.flush()
        self.server.closing.wait(_SILENCE_S)

    def _html(self) -> None:
        self._send(200, b"<html><body>Down for maintenance</body></html>" * 50)

    def _other(self) -> None:
        self._send(200, spectrum_file(self.spectrum._replace(fiber=self.spectrum.fiber + 500)))

    def _large(self) -> None:
        self._send(200, b"SIMPLE  =", length=10**10)

    def _endless(self) -> None:
        """No length, and no end."""
        self.server.log.append((self.path, self.spectrum, 200))
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.closing.is_set():
                self.wfile.write(b"SIMPLE  =" * 1000)
        except OSError:
            return

    def _away(self) -> None:
        self._send(302, b"", {"Location": "http://localhost:9/etc/passwd"})

    def _scheme(self) -> None:
        self._send(301, b"", {"Location": "file:///etc/passwd"})

    def _again(self) -> None:
        """A redirect on the same host, to the good file."""
        if self.path.endswith("?again"):
            self._good()
        else:
            self._send(302, b"", {"Location": self.path + "?again"})

    def _circle(self) -> None:
        self._send(302, b"", {"Location": self.path})


class Shelf(ThreadingHTTPServer):
    """Serves `files`, in pieces too, and with `faults`: the end of a path → what is wrong with that file.

    Attributes
    ----------
    log : list of (path, first byte, status, bytes sent)
        Answers, in their order.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Mapping[str, bytes], faults: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _FromShelf)
        self.files, self.faults = dict(files), dict(faults)
        self.log: list[tuple[str, int, int, int]] = []
        self.closing = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/shelf"

    def answers(self, name: str) -> list[tuple[int, int, int]]:
        """First byte, status and bytes sent of the answers for a file."""
        return [answer for path, *answer in self.log if path.endswith(name)]  # type: ignore[misc]

    def asked(self) -> list[str]:
        return [path for path, *_ in self.log]


class _FromShelf(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Shelf

    def log_message(self, *arguments: object) -> None:
        """The log that counts is the server's list."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("/shelf/")
        fault = next((fault for end, fault in self.server.faults.items() if path.endswith(end)), "")
        before = sum(known == path for known, *_ in self.server.log)
        content = self.server.files.get(path)
        if content is None or fault == "missing":
            self._answer(path, 404, b"no such file", {})
            return
        if fault == "changed" and before:
            content = self.server.files[f"new {path}"]
        if fault == "forbidden":
            self._answer(path, 403, b"not now", {})
            return
        version = {} if fault == "nameless" else {"ETag": f'"{zlib.crc32(content):x}"'}
        if fault == "rangeless":
            version["Accept-Ranges"] = "none"
        headers, status, first = version, 200, self._first(version, len(content), fault)
        if first:
            headers, status = version | {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}, 206
            if fault == "elsewhere":
                headers["Content-Range"] = f"bytes {first + 7}-{len(content) - 1}/{len(content)}"
        left = content[first:]
        sent = len(left) - len(left) // 2 if fault == "broken" or (fault and fault != "good" and not before) else len(left)
        self._answer(path, status, left[:sent], headers, first, len(left))

    def _first(self, version: Mapping[str, str], size: int, fault: str) -> int:
        """The first byte that is asked for, where the answer is a piece."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = fault == "elsewhere" or self.headers.get("If-Range") in (None, version.get("ETag"))
        return int(asked[1]) if asked and same and fault != "rangeless" and int(asked[1]) < size else 0

    def _answer(self, path: str, status: int, body: bytes, headers: Mapping[str, str], first: int = 0, length: int | None = None) -> None:
        self.server.log.append((path, first, status, len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with suppress(ConnectionError):  # whoever asked may be gone
            self.wfile.write(body)
        self.close_connection = length is not None and length != len(body)


@contextmanager
def shelf_with(files: Mapping[str, bytes], faults: Mapping[str, str] | None = None) -> Iterator[Shelf]:
    """A running archive of some files, by their paths below its base URL."""
    with _running(Shelf(files, faults or {})) as server:
        yield server


@contextmanager
def archive_with(faults: Mapping[SpectrumId, str], delay_s: float = 0.0) -> Iterator[FaultyArchive]:
    """A running archive of SDSS."""
    with _running(FaultyArchive(faults, delay_s)) as server:
        yield server


Server = TypeVar("Server", FaultyArchive, Shelf)


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)

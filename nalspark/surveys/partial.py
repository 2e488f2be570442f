"""A file on its way: its bytes so far, under a hidden name beside its place, and the version of the archive's file that they are of.

An attempt that breaks off leaves them; the next one asks for the rest of the same version (RFC 9110, §13.1.5 and §14). Large ones are kept
for the next fetch too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nalspark.tables.atomic import beside, put, remove

#: Bytes from which on a file is kept for another fetch; the whole of smaller ones comes as fast.
_WORTH_KEEPING = 2**20
#: Bytes from which on a file goes to the disk before it gets its name: when it is checked, not all of it is read.
_SYNCED_FROM = 2**24
_PIECE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Partial:
    """What has come of a file.

    Parameters
    ----------
    target : Path
        Its place, in a folder that is there. Nobody else gets the same file meanwhile.

    Attributes
    ----------
    path : Path
        Where the bytes are.
    size : int
        How many.
    total : int
        How many there will be; -1 where the server does not say.
    received : int
        Bytes that came through this object, those of all attempts.
    begun : bool
        Whether all of the bytes came in the last attempt.
    """

    def __init__(self, target: Path) -> None:
        self.path, self._target = beside(target), target
        self._about = target.with_name(f".{target.name}.version")
        self.size, self.received, self.begun = 0, 0, True
        self._version, self.total = "", -1
        try:
            version, total = self._about.read_text(encoding="ascii").split("\n")[:2]
            self._version, self.total, self.size, self.begun = version, int(total), self.path.stat().st_size, False
        except (OSError, ValueError):
            self.discard()

    @property
    def is_whole(self) -> bool:
        """Whether all that the server promised has come."""
        return self.size == self.total

    @property
    def is_large(self) -> bool:
        """Whether it costs something to get all of it again."""
        return self.size >= _WORTH_KEEPING

    def asks(self) -> dict[str, str]:
        """Give the headers that ask for what is missing, if the file is still the same; none where the whole file is to come."""
        return {"Range": f"bytes={self.size}-", "If-Range": self._version} if self.size and self._version else {}

    def begin(self, headers: Mapping[str, str], total: int | None) -> None:
        """Forget what came: the whole file comes now, of `total` bytes if that is known."""
        remove(self._about)
        self.path.write_bytes(b"")
        self.size, self.begun = 0, True
        self._version, self.total = _version(headers), -1 if total is None else total
        if self._version and self.total >= _WORTH_KEEPING:
            self._about.write_text(f"{self._version}\n{self.total}\n", encoding="ascii")

    def goes_on(self, headers: Mapping[str, str]) -> bool:
        """Tell whether an answer of status 206 brings what :meth:`asks` asked for."""
        piece = _PIECE.fullmatch(headers.get("Content-Range", ""))
        total = int(piece[3]) if piece and piece[3] != "*" else self.total
        fits = piece is not None and int(piece[1]) == self.size and self.total in (-1, total) and _version(headers) in ("", self._version)
        self.begun, self.total = False, total
        return fits

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes], None]]:
        """Lend what takes the next bytes."""
        with open(self.path, "ab") as file:

            def write(piece: bytes) -> None:
                file.write(piece)
                self.size += len(piece)
                self.received += len(piece)

            yield write

    def give_up(self) -> None:
        """Keep what is worth keeping, and remove the rest."""
        if not self._about.exists():
            self.discard()

    def discard(self) -> None:
        """Remove what came."""
        remove(self.path)
        remove(self._about)
        self.size, self.begun, self._version, self.total = 0, True, "", -1

    def put(self) -> None:
        """Give the file its name."""
        if self.size >= _SYNCED_FROM:
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
        put(self.path, self._target)
        remove(self._about)


def _version(headers: Mapping[str, str]) -> str:
    """What names the content of an answer, byte for byte; empty where nothing does, or where the server does not give parts of a file."""
    tag = headers.get("ETag", "")
    named = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    usable = named.isascii() and named.isprintable() and len(named) < 200 and headers.get("Accept-Ranges", "") != "none"
    return named if usable else ""

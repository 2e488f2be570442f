"""One writer at a time: a lock that ends with its process, also on file systems that know no locks.

Where the file system has ``flock``, the system lets go when the process ends, however it ends. Elsewhere (NFS without locks, mounted
folders of a cloud) a file beside the lock says who holds it; what a dead process of this host left there is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

#: What a file system without locks answers.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
#: Seconds until a lock counts as held: who only looks (:func:`holder`) holds it for a moment.
_PATIENCE = 0.5


class InUse(Exception):
    """Another process holds the lock: `holder` is ``process 12 on host``.

    `remedy` says what to do where that process is gone, with a space before it; it is empty where the system lets go by itself.
    """

    def __init__(self, holder: str, remedy: str = "") -> None:
        super().__init__(f"In use by {holder}.{remedy}")
        self.holder, self.remedy = holder, remedy


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock `path`, a file that stays, while the block runs.

    Raises
    ------
    InUse
        Where another process holds it.
    OSError
        Where it cannot be written.
    """
    lock = _take(path)
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Tell who holds the lock `path` (``process 12 on host``), and take nothing; empty where nobody does."""
    if _marker(path).exists():
        return "" if _is_gone(_marker(path)) else _who(_marker(path))
    try:
        with open(path, encoding="utf-8") as handle:
            # A shared lock on a file that is only read: two who look do not see each other, and a reader need not be allowed to write.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # not there, or not to be read; or a file system without locks, and no marker
        return ""
    return ""


def _take(path: Path) -> BaseFileLock:
    lock: BaseFileLock = FileLock(path, timeout=_PATIENCE, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(path.read_text(encoding="utf-8").strip() or "another process") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    else:
        path.write_text(f"process {os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        return lock
    path.touch()
    marker = _marker(path)
    lock = SoftFileLock(marker, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(_who(marker), f" If that process is gone, remove {marker}.") from None
    return lock


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _owner(marker: Path) -> tuple[int, str]:
    """Process and host, which filelock writes on the first two lines, the host with the number of its container behind a question mark."""
    lines = marker.read_text(encoding="utf-8").splitlines() if marker.exists() else []
    return (int(lines[0]), lines[1].partition("?")[0]) if len(lines) > 1 and lines[0].isdigit() else (0, "")


def _who(marker: Path) -> str:
    process, host = _owner(marker)
    return f"process {process} on {host}" if process else "another process"


def _is_gone(marker: Path) -> bool:
    process, host = _owner(marker)
    if host != os.uname().nodename:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        pass
    return False

"""One writer at a time, with ``flock`` and on file systems that know no locks; the other process is a real one."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nalspark.errors import StoreError
from nalspark.tables import lock
from nalspark.tables.store import Store

HOST = os.uname().nodename
_OTHER = """
import errno, fcntl, sys
from pathlib import Path
from nalspark.tables.lock import hold

def no_locks(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")

if sys.argv[2] == "no locks":
    fcntl.flock = no_locks
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["flock", "no locks"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no locks":

        def no_locks(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", no_locks)
    return str(request.param)


@pytest.fixture
def other(tmp_path: Path, kind: str) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a process that holds the lock of ``tmp_path`` until its input ends."""
    started = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _OTHER, str(tmp_path / ".nalspark.lock"), kind]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path, other: Callable[[], subprocess.Popen[bytes]], kind: str) -> None:
    process = other()
    assert Store(tmp_path).holder() == f"process {process.pid} on {HOST}"
    with pytest.raises(StoreError) as caught, Store(tmp_path).lock():
        pass
    said = f"{tmp_path} is in use by process {process.pid} on {HOST}. Wait until it ends, or give another --out."
    remedy = f" If that process is gone, remove {tmp_path / '.nalspark.lock.held'}."
    assert str(caught.value) == said + (remedy if kind == "no locks" else "")
    process.communicate()
    assert Store(tmp_path).holder() == ""
    with Store(tmp_path).lock():
        assert Store(tmp_path).holder() == f"process {os.getpid()} on {HOST}"
    assert os.listdir(tmp_path) == [".nalspark.lock"]


def test_a_killed_process_holds_nothing(tmp_path: Path, other: Callable[[], subprocess.Popen[bytes]], kind: str) -> None:
    process = other()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Store(tmp_path).holder() == ""
    with Store(tmp_path).lock():
        assert Store(tmp_path).holder() == f"process {os.getpid()} on {HOST}"
    assert Store(tmp_path).holder() == ""


@pytest.mark.parametrize("kind", ["no locks"], indirect=True)
def test_a_process_of_another_host_is_never_taken_for_dead(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / ".nalspark.lock.held"
    (tmp_path / ".nalspark.lock").touch()
    marker.write_text("12\nnode-7\n")
    assert Store(tmp_path).holder() == "process 12 on node-7"
    told = rf"process 12 on node-7\. Wait .* If that process is gone, remove {marker}\.$"
    with pytest.raises(StoreError, match=told), Store(tmp_path).lock():
        pass
    marker.unlink()
    with Store(tmp_path).lock():
        assert marker.exists()


def test_what_happens_under_the_lock_is_not_taken_for_a_failure_to_lock(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OSError, match="No space left"), Store(tmp_path).lock():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RuntimeError, match="of the stage"), Store(tmp_path).lock():
        raise RuntimeError("of the stage")
    assert Store(tmp_path).holder() == ""


def test_who_looks_does_not_take(tmp_path: Path, kind: str) -> None:
    assert lock.holder(tmp_path / "absent") == "" and not list(tmp_path.iterdir())
    with Store(tmp_path).lock():
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [lock.holder(tmp_path / ".nalspark.lock") for _ in range(3)] == ["", "", ""]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StoreError, match=r"cannot be written and locked: Input/output error\."), Store(tmp_path).lock():
        pass

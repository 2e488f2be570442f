"""``nalspark doctor``: what a local session finds on this machine, by the code that prepares one. No session is started."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pyspark

from nalspark.errors import NalsparkError
from nalspark.surroundings import check_remote, prepare
from nalspark.version import VERSION

#: What a search loads, by the name of the import; and what only training, other networks and GPUs need, shown where it is there.
_NEEDED = ("pyarrow", "numpy", "pandas", "scipy", "numba", "astropy")
_LIBRARIES = (*_NEEDED, "sklearn", "keras", "tensorflow", "petastorm")
_GB = 1e9
#: Free disk (GB) without which no run is begun, and memory (GB) that two cores were seen to take: docs/scaling.md.
_LEAST_DISK, _USUAL_MEMORY = 0.5, 3.0
#: Seconds to wait for `nvidia-smi`.
_GPU_S = 10


def examine() -> tuple[list[str], list[str]]:
    """Look at what a session would be started with.

    Returns
    -------
    lines : list of str
        What was found, and notes on what a session leaves aside.
    faults : list of str
        Sentences on what keeps a run from working, and what to do; empty where nothing does.
    """
    packages = packages_distributions()
    missing = [name for name in _NEEDED if name not in packages]
    libraries = [f"{name} {version(packages[name][0])}" for name in _LIBRARIES if name in packages]
    lines = [
        f"nalspark   {VERSION}",
        f"Python     {platform.python_version()}, {sys.executable}",
        f"libraries  {', '.join(libraries)}",
        f"Spark      {pyspark.__version__}, {Path(pyspark.__file__).parent}",
    ]
    faults = [f"There is no {', '.join(missing)}: pip install nalspark brings it."] if missing else []
    session, notes = _session(faults)
    disk, memory = _working_folder(faults), _memory()
    if memory and memory < _USUAL_MEMORY:
        notes.append(f"A run on two cores was seen to take {_USUAL_MEMORY:.0f} GB of memory: --master 'local[1]' takes less.")
    cuda = any(name.startswith("nvidia-cudnn") for name in packages.get("nvidia", ()))
    machine = [*disk, f"cores      {_cores()}", *([f"memory     {memory:.0f} GB"] if memory else []), f"GPU        {_gpus(cuda)}"]
    return [*lines, *session, *machine, *(f"note       {note}" for note in notes)], faults


def _session(faults: list[str]) -> tuple[list[str], list[str]]:
    """Describe what a session is given, with notes; what it lacks goes to the faults."""
    remote = os.environ.get("SPARK_REMOTE")
    try:
        check_remote(remote)
        given = prepare(local=True)
    except NalsparkError as error:
        faults.append(str(error))
        return [], []
    lines = [
        *([f"session    Spark Connect, {remote}"] if remote else []),
        f"Java       {given.java}",
        f"temporary  {_free(given.temporary, faults)}",
        *([f"user       {given.user}, without a name in the system"] if given.user else []),
    ]
    return lines, list(given.notes)


def _free(folder: str, faults: list[str]) -> str:
    free = shutil.disk_usage(folder).free / _GB
    if free < _LEAST_DISK:
        faults.append(f"{folder} has only {free:.1f} GB of disk free: make room there, or use another folder.")
    return f"{folder}, {free:.1f} GB free" if free < 10 else f"{folder}, {free:.0f} GB free"


def _working_folder(faults: list[str]) -> list[str]:
    """Describe the folder that results are written to where --out is relative."""
    try:
        folder = os.getcwd()
    except OSError:
        faults.append("The folder that you are in is gone: change to another one.")
        return []
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        faults.append(f"No file can be made in {folder} ({error.strerror}): change to another folder, or give --out one.")
    return [f"folder     {_free(folder, faults)}"]


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> float:
    """GB of memory, of a container its limit; 0 where the system does not tell."""
    with suppress(OSError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # "max" for none
            total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        return total / _GB
    return 0.0


def _gpus(cuda: bool) -> str:
    """Name the GPUs of this machine, and say where TensorFlow lacks CUDA: by what is installed, because to load it takes seconds."""
    try:
        said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=_GPU_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    names = re.findall(r"^GPU \d+: (.+?) \(UUID", said, re.MULTILINE)
    if not names:
        return "none; only training gains by one"
    return ", ".join(names) + ("" if cuda else "; not used: TensorFlow with CUDA comes with pip install 'nalspark[gpu]'")

"""``nalspark doctor``: what a local session finds on this machine, by the code that prepares one. No session is started."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pyspark

from nalspark.errors import NalsparkError
from nalspark.surroundings import check_remote, prepare
from nalspark.version import VERSION

#: What a search loads, by the name of the import; and what only training, other networks and GPUs need, shown where it is there.
_NEEDED = ("pyarrow", "numpy", "pandas", "scipy", "numba", "astropy")
_LIBRARIES = (*_NEEDED, "sklearn", "keras", "tensorflow")
_GB = 1e9


def examine() -> tuple[list[str], str]:
    """Look at what a session would be started with.

    Returns
    -------
    lines : list of str
        What was found, and notes on what a session leaves aside.
    fault : str
        A sentence on what is missing; empty where a session can be started.
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
    try:
        remote = os.environ.get("SPARK_REMOTE")
        check_remote(remote)
        given = prepare(local=True)
    except NalsparkError as error:
        return [*lines, *_machine()], str(error)
    lines += [
        *([f"session    Spark Connect, {remote}"] if remote else []),
        f"Java       {given.java}",
        f"temporary  {given.temporary}, {shutil.disk_usage(given.temporary).free / _GB:.0f} GB free",
        *([f"user       {given.user}, without a name in the system"] if given.user else []),
        *_machine(),
        *(f"note       {note}" for note in given.notes),
    ]
    return lines, f"There is no {', '.join(missing)}: pip install nalspark brings it." if missing else ""


def _machine() -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"cores      {cores}"
    with suppress(OSError, ValueError):  # not every system tells
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # a container's limit; "max" for none
            total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        yield f"memory     {total / _GB:.0f} GB"

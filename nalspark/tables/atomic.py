"""Put files and folders in place whole: a reader sees the old one or the new one, never a part.

The new one is made beside the old, under a hidden name, and renamed at the end: the only thing that local disks, network disks and the
mounted folders of a cloud all do. Whoever replaces the same name from several processes holds a lock, see :mod:`nalspark.tables.lock`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def beside(path: Path) -> Path:
    """Give the name under which what will be `path` is made."""
    return path.with_name(f".{path.name}.new")


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def put(new: Path, target: Path) -> None:
    """Put a file or a folder in the place of another, which is put back where that fails.

    Raises
    ------
    OSError
        Where the file system does not let it.
    """
    old = target.with_name(f".{target.name}.old")
    remove(old)
    if target.is_dir():  # a folder that holds something cannot be renamed over
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    remove(old)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place for a new file or folder; it takes the place of `path` when the block ends, and is removed where the block fails."""
    new = beside(path)
    remove(new)
    try:
        yield new
        put(new, path)
    finally:
        remove(new)


def write_file(path: Path, content: bytes | memoryview | str, *, sync: bool = False) -> None:
    """Write a file, or replace it, in one step.

    Parameters
    ----------
    path : Path
    content : bytes or str
        Text is written as UTF-8.
    sync : bool
        Wait until the bytes are on the disk, so that a power cut leaves the old file or the new one too.
    """
    with replacing(path) as new, open(new, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if sync:
            file.flush()
            os.fsync(file.fileno())

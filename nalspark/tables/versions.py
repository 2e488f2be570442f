"""Versions of a catalogue: what was published before, kept so that two can be compared.

``DIR/versions/<number>`` is a result directory of its own: the published files, the manifest of that day, and the tables that tell why a
candidate was or was not published. Its files are hard links to those of the result, which never change once written: a version costs disk
only for what later ones replace.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from nalspark.tables.atomic import remove, replacing
from nalspark.tables.manifest import Manifest, write_manifest
from nalspark.tables.store import Store

#: The folder of a result in which they lie.
VERSIONS = "versions"
#: The tables of a version: who was measured and scored, narrow beside spectra and images.
KEPT = ("scores", "measured")


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _link_all(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


def versions(store: Store) -> dict[int, Path]:
    """List the versions that are kept, oldest first: number → directory."""
    found = {int(path.name): path for path in (store.root / VERSIONS).glob("[0-9]*") if path.name.isdigit()}
    return dict(sorted(found.items()))


def keep_version(store: Store, manifest: Manifest, kept: int) -> None:
    """Keep the catalogue that was just published as version ``manifest.publication``, and of all versions the last `kept`.

    A version appears whole under its name. One of the same number, left by a run that ended between publishing and saying so, is replaced.

    The manifest is the one that will be committed.
    """
    if kept:
        target = store.root / VERSIONS / f"{manifest.publication:04d}"
        target.parent.mkdir(exist_ok=True)
        with replacing(target) as new:
            new.mkdir()
            for name in manifest.published:
                _link_all(store.published(name), new / name)
            tables = {name: manifest.parts(name) for name in KEPT}
            for part in (part for parts in tables.values() for part in parts.values() if part.path):
                _link_all(store.root / part.path, new / part.path)
            tables |= {"published": manifest.parts("published")}
            write_manifest(replace(manifest, tables=tables, runs=[]), new / "manifest.json")
    for old in list(versions(store).values())[: -kept or None]:
        remove(old)

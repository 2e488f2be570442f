"""The manifest: what a result consists of, and from which causes. Written last and whole; readers look only at what it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nalspark.errors import StoreError
from nalspark.tables.atomic import write_file

FORMAT = 1


def digest(*causes: Any) -> str:
    """Compute a short digest of JSON-able causes; equal causes give equal digests on every machine."""
    return hashlib.sha256(json.dumps(causes, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """One part of one table on disk.

    Attributes
    ----------
    key : str
        Digest of everything the part was made from.
    path : str
        Directory of its Parquet files, relative to the output directory; empty where the part has no rows.
    rows, rejected, faults : int
        Rows in all, of these rejections, and of these by a fault of nalspark itself.
    content : str
        Digest of what matters of it to those who read it, where its causes do not say enough.
    passing : int
        Checksum of the rejections that may pass by the next run, with their files; 0 where there are none.
    """

    key: str
    path: str
    rows: int
    rejected: int = 0
    faults: int = 0
    content: str = ""
    passing: int = 0

    @property
    def cause(self) -> str:
        """What stands for the part among the causes of others."""
        return self.content or self.key


@dataclass
class Manifest:
    """What is in an output directory.

    Attributes
    ----------
    tables : dict
        Table name → part name → Part.
    catalogues : list of dict
        Matched and unmatched counts of every catalogue.
    published : dict
        Published file → its digest or row count.
    settings : dict
        The settings of the last run.
    runs : list of dict
        A summary of every run: per stage when it began, rows in, out and rejected, spectra, seconds, bytes.
    inputs : dict
        What the run was given beside files: ``model`` and every catalogue → its digest.
    publication : int
        Number of the published version; 0 where none was.
    published_on : str
        When that was, UTC.
    """

    tables: dict[str, dict[str, Part]] = field(default_factory=dict)
    catalogues: list[dict[str, Any]] = field(default_factory=list)
    published: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    publication: int = 0
    published_on: str = ""
    version: str = ""
    format: int = FORMAT

    def parts(self, table: str) -> dict[str, Part]:
        """Give the parts of a table by name, to be changed in place."""
        return self.tables.setdefault(table, {})

    def rows(self, table: str) -> tuple[int, int]:
        """Count the usable and the rejected rows of a table."""
        parts = self.parts(table).values()
        rejected = sum(part.rejected for part in parts)
        return sum(part.rows for part in parts) - rejected, rejected

    def key_of(self, tables: Iterable[str], part: str) -> list[str]:
        """Give what stands for one part of several tables among the causes of others; nothing for an absent part."""
        return [self.parts(table)[part].cause if part in self.parts(table) else "" for table in tables]

    def contents(self, table: str) -> dict[str, str]:
        """Give what stands for the parts of a table among the causes of others."""
        return {part: record.cause for part, record in self.parts(table).items()}


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at `path`; an empty one where there is none.

    Raises
    ------
    StoreError
        Where the file is not a manifest of this format.
    """
    if not path.exists():
        return Manifest()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {tree['format']}; this version of nalspark reads format {FORMAT}. Use another output directory."
            )
        tables = {name: {part: Part(**record) for part, record in parts.items()} for name, parts in tree.pop("tables").items()}
        if published := tree.pop("keys", {}).get("publish"):  # of the first edition, which kept this key apart
            tables["published"] = {"all": Part(published, "absorbers.parquet", tree["published"]["absorbers.parquet"])}
        return Manifest(tables=tables, **tree)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Nothing was changed: run again when it can.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is not a manifest of nalspark ({error}). Use another output directory, or remove it to start anew."
        ) from None


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Replace the manifest in one step: a reader, also one after a power cut, sees the old one or the new one."""
    write_file(path, json.dumps(asdict(manifest), indent=1, sort_keys=True, default=str), sync=True)

"""One run: a session, settings, and a result directory with its manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.progress import Progress
from nalspark.settings import Settings
from nalspark.tables.manifest import Manifest, digest
from nalspark.tables.store import Store
from nalspark.tables.table import Table

#: The one part of a table, or of files, that all parts make together.
ALL = "all"


class Declared(Protocol):
    """What a key is made of."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def sections(self) -> tuple[str, ...]: ...
    @property
    def revision(self) -> int: ...


class Run:
    """What stages work with: a session, settings, progress, and the result as it is.

    Attributes
    ----------
    store : Store
    manifest : Manifest
        Of the result as it is; the engine reads it, and writes it when parts are done.
    stale : list of str
        Parts that the stage at work has to make.
    after_wave : ExitStack
        What is called when the wave at work is written.
    allow_removals : bool
        Whether files that are not there any more are gone for good.
    """

    def __init__(self, spark: SparkSession, settings: Settings, progress: Progress) -> None:
        self.spark, self.settings, self.progress = spark, settings, progress
        self.store = Store(settings.out)
        self.manifest = Manifest()
        self.stale: list[str] = []
        self.after_wave = ExitStack()
        self.allow_removals = False

    # ---- keys

    def key(self, stage: Declared, part: str, *more: Any) -> str:
        """Give the digest of a stage's revision, of the settings it uses, of the parts it reads, and of `more`."""
        made_from = self.manifest.key_of(stage.reads, part)
        return digest(stage.name, stage.revision, self.settings.chosen(stage.sections), made_from, more)

    def key_of_all(self, stage: Declared, *more: Any) -> str:
        """Give the same for a stage that works on all parts of what it reads."""
        made_from = {table: self.manifest.contents(table) for table in stage.reads}
        return digest(stage.name, stage.revision, self.settings.chosen(stage.sections), made_from, more)

    def common_parts(self, tables: Iterable[str]) -> list[str]:
        """Give the parts that all of some tables have."""
        return sorted(set.intersection(*(set(self.manifest.parts(table)) for table in tables)))

    # ---- rows

    def usable(self, table: Table, parts: Iterable[str] | None = None) -> DataFrame:
        """Read the rows of a table that were not rejected, of some parts or of all."""
        frame = self.store.read(self.spark, self.manifest, table, parts)
        return frame.where(F.col("reason").isNull()) if "reason" in table.names else frame

    def rows(self, table: str, parts: Collection[str], *, usable: bool = True) -> int:
        """Count the rows of some parts of a table; of the part :data:`ALL` those of all parts."""
        recorded = self.manifest.parts(table)
        found = recorded.values() if ALL in parts and ALL not in recorded else [recorded[part] for part in parts if part in recorded]
        return sum(record.rows - (record.rejected if usable else 0) for record in found)

    def whole(self, table: Table) -> DataFrame:
        """Read all rows of a table, rejections included."""
        return self.store.read(self.spark, self.manifest, table)

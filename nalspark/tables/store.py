"""The output directory: where every table lies, who may write, and how a part is replaced whole.

``DIR/tables/<table>/<run>/in_part=<part>/*.parquet``: a run writes a directory of its own, the manifest names it last, and what no manifest
names is removed. No other module builds a path in here.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nalspark.errors import INTERNAL_ERROR, MAY_PASS, StoreError
from nalspark.settings import local_folder
from nalspark.tables import atomic, lock
from nalspark.tables.manifest import Manifest, Part, digest, read_manifest, write_manifest
from nalspark.tables.table import Table

if TYPE_CHECKING:  # where a table lies is asked without Spark too
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


def not_a_glob(path: str) -> str:
    """Write a path as Spark's readers take it literally: they would expand brackets, braces, stars and question marks."""
    return re.sub(r"([][{}*?\\])", r"\\\1", path)


def spark_path(path: str | Path) -> str:
    """Write a path of the nodes' own file systems for Spark's writers: without a scheme they would go to Hadoop's default file system.

    Databricks knows its volumes by their path alone.
    """
    path = str(path)
    return path if path.startswith("/Volumes/") else f"file://{path}"


#: Ends of files that are read at the same time: of a far disk each is waited for.
_THREADS = 8


def count_rows(file: str | Path) -> tuple[int, int, int, int]:
    """Count the rows of a Parquet file, those that have a ``reason``, and of these those at a fault of nalspark itself, without Spark.

    The fourth number is a checksum of the rows whose reason may pass, with their ``path``.
    """
    about = pq.read_metadata(file)
    if "reason" not in about.schema.names:
        return about.num_rows, 0, 0, 0
    reason = pq.ParquetFile(file).read(columns=["reason"])["reason"]
    faults = pc.sum(pc.equal(reason, INTERNAL_ERROR)).as_py() or 0
    may_pass = pc.is_in(reason, value_set=pa.array(MAY_PASS))
    passing = 0
    if pc.any(may_pass).as_py():
        rows = pq.ParquetFile(file).read(columns=[name for name in ("reason", "path") if name in about.schema.names])
        passing = sum(zlib.crc32("\0".join(map(str, row.values())).encode()) for row in rows.filter(may_pass).to_pylist())
    return len(reason), len(reason) - reason.null_count, faults, passing


#: A name of our own: a folder that has it was made by nalspark.
_LOCK = ".nalspark.lock"


class Store:
    """An output directory, which the driver and all executors see under the same path."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(local_folder(str(root))).expanduser().absolute()

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.json"

    def published(self, name: str) -> Path:
        """Tell where a published file lies: ``absorbers.parquet``, ``absorbers.fits``, ``report.html``, …"""
        return self.root / name

    def check(self, *, writable: bool = True) -> None:
        """Look whether a result is here or can be, and whether this user can write it; write nothing.

        Raises
        ------
        StoreError
            Where the directory is a file, cannot be written, or holds something else than a result of nalspark.
        """
        nearest = next(path for path in (self.root, *self.root.parents) if os.path.exists(path))
        if not nearest.is_dir():
            raise StoreError(f"The output directory {self.root} cannot be written: {nearest} is a file.")
        if writable and not os.access(nearest, os.W_OK | os.X_OK):
            raise StoreError(f"The output directory {self.root} cannot be written: {nearest} may not be written by this user.")
        if nearest == self.root and not self.manifest_path.exists() and not (self.root / _LOCK).exists() and any(self.root.iterdir()):
            raise StoreError(f"{self.root} is not empty and holds no nalspark result. Give an empty or new directory with --out.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing; released when the process ends, however it ends.

        Raises
        ------
        StoreError
            Where another run holds it, or it cannot be written, or holds something else than a result of nalspark.
        """
        self.check()
        with ExitStack() as held:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock.hold(self.root / _LOCK))
            except lock.InUse as busy:
                raise StoreError(
                    f"{self.root} is in use by {busy.holder}. Wait until it ends, or give another --out.{busy.remedy}"
                ) from None
            except OSError as error:
                raise StoreError(f"The output directory {self.root} cannot be written and locked: {error.strerror}.") from None
            yield

    def holder(self) -> str:
        """Tell who writes here now (``process 12 on host``); empty where nobody does."""
        return lock.holder(self.root / _LOCK)

    def manifest(self) -> Manifest:
        """Read the manifest; an empty one where there is none."""
        return read_manifest(self.manifest_path)

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest: from now on the result is what it names."""
        write_manifest(manifest, self.manifest_path)

    @staticmethod
    def load(spark: SparkSession, schema: StructType, *paths: str | Path) -> DataFrame:
        """Read Parquet files below paths that may hold any character."""
        return spark.read.schema(schema).parquet(*[not_a_glob(spark_path(path)) for path in paths])

    def read(self, spark: SparkSession, manifest: Manifest, table: Table, parts: Iterable[str] | None = None) -> DataFrame:
        """Read all rows of a table, or of some of its parts, rejections included.

        Raises
        ------
        StoreError
            Where files that the manifest names are not there.
        """
        recorded = manifest.parts(table.name)
        wanted = recorded if parts is None else [part for part in parts if part in recorded]
        paths = [self.root / recorded[part].path for part in wanted if recorded[part].path]
        for path in paths:
            if not path.is_dir():
                raise StoreError(f"{path} is not there, but the manifest names it: somebody removed it. Make it anew with --force.")
        if not paths:
            return spark.createDataFrame([], table.spark_schema)
        return self.load(spark, table.spark_schema, *paths)

    def files(self, part: Part) -> list[str]:
        """List the Parquet files of a part."""
        return sorted(str(path) for path in (self.root / part.path).glob("*.parquet"))

    def rows_with(self, manifest: Manifest, table: Table, parts: Iterable[str], **values: Sequence[str]) -> pa.Table:
        """Read, without Spark, a few usable rows of some parts: those whose column has one of the values given under its name."""
        recorded = manifest.parts(table.name)
        files = [file for part in parts if part in recorded and recorded[part].path for file in self.files(recorded[part])]
        if not files:
            return table.arrow_schema.empty_table()
        chosen = [pc.field(name).isin(pa.array(some, pa.string())) for name, some in values.items()]
        chosen += [pc.field("reason").is_null()] if "reason" in table.names else []
        return pq.read_table(files, schema=table.arrow_schema, partitioning=None, filters=reduce(and_, chosen))

    def size(self, parts: Iterable[Part]) -> int:
        """Sum up the bytes of the Parquet files of some parts."""
        return sum(os.path.getsize(file) for part in parts if part.path for file in self.files(part))

    def write(self, frame: DataFrame, table: Table, run: str, keys: Mapping[str, str]) -> dict[str, Part]:
        """Write the parts of a table in `keys` and describe them; the manifest is not touched.

        Parameters
        ----------
        frame : DataFrame
            With a column ``part``; every part of it must be in `keys`.
        table : Table
        run : str
            Name of the run's directory: the same causes give the same one, so an interrupted run is overwritten by its repetition.
        keys : mapping
            Part → digest of its causes. A part without rows is recorded as empty.
        """
        target = self._write_parts(frame, table, run)
        parts = {part: Part(key, "", 0) for part, key in keys.items()}
        with ThreadPoolExecutor(_THREADS) as pool:
            for folder in sorted(target.glob("in_part=*")):
                part = folder.name.removeprefix("in_part=")
                if part not in keys:
                    raise StoreError(f"Table {table.name} was written with a part that nobody asked for: {part}.")
                counts = zip(*pool.map(count_rows, folder.glob("*.parquet")), strict=True)
                rows, rejected, faults, passing = map(sum, counts)
                parts[part] = Part(keys[part], self.place(table, run, part), rows, rejected, faults, passing=passing)
        return parts

    @staticmethod
    def place(table: Table, run: str, part: str) -> str:
        """Tell where a run writes a part, relative to the output directory."""
        return f"tables/{table.name}/{run}/in_part={part}"

    def write_rows(self, frame: DataFrame, table: Table, run: str) -> DataFrame:
        """Write a frame with a column ``part`` part by part, whichever parts there are, and read it back."""
        return self.load(frame.sparkSession, table.spark_schema, self._write_parts(frame, table, run))

    def _write_parts(self, frame: DataFrame, table: Table, run: str) -> Path:
        target = self.root / "tables" / table.name / run
        frame.selectExpr("*", "part AS in_part").write.mode("overwrite").partitionBy("in_part").parquet(spark_path(target))
        return target

    @property
    def catalogues(self) -> Path:
        """Where catalogues lie that were converted to Parquet; their names begin with their digests."""
        return self.root / "tables" / "catalogues"

    @property
    def checkpoints(self) -> Path:
        """Where an interrupted training goes on from; whoever finishes it removes it."""
        return self.root / "checkpoints"

    def unpublished(self, name: str) -> Path:
        """Tell where what will be published as `name` is made."""
        return atomic.beside(self.published(name))

    def unpublished_files(self, table: Table) -> list[Path]:
        """List the files of a table that is to be published."""
        return sorted(self.unpublished(f"{table.name}.parquet").glob("*.parquet"))

    def write_unpublished(self, frame: DataFrame, table: Table) -> dict[str, int]:
        """Write a table to be published beside the old one; give the number of its rows under its name."""
        name = f"{table.name}.parquet"
        frame.write.mode("overwrite").parquet(spark_path(self.unpublished(name)))
        return {name: sum(pq.read_metadata(file).num_rows for file in self.unpublished_files(table))}

    def replace(self, name: str) -> None:
        """Put what was made to be published as `name` in the place of what was."""
        atomic.put(self.unpublished(name), self.published(name))

    @staticmethod
    def new_run(manifest: Manifest, table: str, run: str) -> str:
        """Name a run's directory that the manifest does not name: what is there stays whole until the new manifest is."""
        named = {Path(part.path).parent.name for part in manifest.parts(table).values() if part.path}
        while run in named:
            run = digest(run)
        return run

    def prune(self, manifest: Manifest) -> None:
        """Remove what the manifest does not name: the leftovers of replaced parts and of interrupted runs."""
        named = {part.path for parts in manifest.tables.values() for part in parts.values() if part.path}
        for pattern in (".*.new", ".*.old"):
            for leftover in self.root.glob(pattern):
                atomic.remove(leftover)
        digests = tuple(manifest.inputs.values())
        for converted in self.catalogues.glob("*"):
            if not converted.name.startswith(digests):
                atomic.remove(converted)
        for run in self.root.glob("tables/*/*/"):  # folders only
            parts = list(run.glob("in_part=*"))
            unnamed = [part for part in parts if str(part.relative_to(self.root)) not in named]
            for folder in [run] if len(unnamed) == len(parts) else unnamed:
                atomic.remove(folder)

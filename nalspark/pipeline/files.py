"""The spectrum files below the sources of a run: listed once, compared with the last list, and fixed on disk before they are read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.errors import NalsparkError
from nalspark.pipeline.run import Run
from nalspark.settings import Settings
from nalspark.surveys import stages as surveys
from nalspark.surveys.sources import Listing, classify
from nalspark.tables.changes import FileChanges, file_changes
from nalspark.tables.manifest import Part
from nalspark.tables.schemas import FILES

_LISTING = "listing"
#: A file above the first size has several spectra, each of the second: with its resolution matrix.
_ONE_SPECTRUM_BYTES, _TARGET_BYTES = 24 * 2**20, 440_000


class SpectrumFiles:
    """The files of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._listed: DataFrame | None = None
        self._parts: dict[str, tuple[int, int, str]] | None = None
        self._fixed: tuple[str, DataFrame] | None = None

    @cached_property
    def sources(self) -> Listing:
        """The folders, files, lists and URLs that the settings name."""
        return classify(self.settings.spectra)

    @property
    def any_remote(self) -> bool:
        """Whether there can be files behind a URL."""
        return bool(self.sources.remote or self.sources.lists)

    def listed(self, spark: SparkSession) -> DataFrame:
        """Give the list of files, kept by Spark until :meth:`fix` has written what is needed of it."""
        if self._listed is None:
            frame, count = surveys.list_files(spark, self.sources, self.settings), self.settings.pipeline.partitions
            self._listed = (frame.repartition(count) if count else frame).persist()
        return self._listed

    def parts(self, spark: SparkSession) -> dict[str, tuple[int, int, str]]:
        """Give for each part the number of its files, that of its spectra by their size, and a digest of their paths, sizes and times.

        Raises
        ------
        NalsparkError
            Where there are no files.
        """
        if self._parts is None:
            content = F.sum(F.xxhash64("path", "size", "modified_ns").cast("decimal(38,0)")).cast("string")
            spectra = F.sum(F.when(F.col("size") > _ONE_SPECTRUM_BYTES, F.col("size") / _TARGET_BYTES).otherwise(1)).cast("long")
            sums = {"n": F.count("*"), "spectra": spectra, "content": content}
            rows = self.listed(spark).groupBy("part").agg(*[value.alias(name) for name, value in sums.items()]).collect()
            if not rows:
                raise NalsparkError("No spectrum files (*.fits, *.fit, also .gz and .fz) were found below the given spectra.")
            self._parts = {row["part"]: (row["n"], row["spectra"], row["content"]) for row in sorted(rows)}
        return self._parts

    def count(self, parts: Iterable[str]) -> int:
        """Count the files of some parts."""
        assert self._parts is not None
        return sum(self._parts[part][0] for part in parts)

    def spectra(self, parts: Iterable[str]) -> int:
        """Estimate the spectra in the files of some parts, by their size."""
        assert self._parts is not None
        return sum(self._parts[part][1] for part in parts)

    def changes(self, run: Run, wanted: dict[str, str]) -> FileChanges:
        """Compare with the last list; only parts whose key differs are compared file by file."""
        recorded = run.manifest.parts(FILES.name)
        same = {part for part, key in wanted.items() if part in recorded and recorded[part].key == key}
        if not (other := (recorded.keys() | wanted.keys()) - same):
            return FileChanges(0, 0, 0, self.count(same))
        before = run.store.read(run.spark, run.manifest, FILES, other)
        return file_changes(before, self.listed(run.spark).where(F.col("part").isin(other)), self.count(same))

    def check_removals(self, run: Run, parts: set[str]) -> None:
        """Refuse to take many files, or all of a folder, for gone: more likely a disk is not mounted, or a path has changed.

        Raises
        ------
        NalsparkError
            Where these parts, stale or gone, lack a folder's whole content, or more than ``pipeline.removals_share`` of all files.
        """
        recorded, share = run.manifest.parts(FILES.name), run.settings.pipeline.removals_share
        before = sum(record.rows for record in recorded.values())
        doubtful = sorted(parts & recorded.keys())
        if run.allow_removals or not doubtful:
            return
        if parts - self.parts(run.spark).keys():
            self._check_emptied(run)
        if sum(recorded[part].rows for part in doubtful) > share * before:
            listed = run.store.read(run.spark, run.manifest, FILES, doubtful)
            removed = listed.join(self.listed(run.spark).select("path"), "path", "left_anti").count()
            if removed > share * before:
                raise NalsparkError(
                    f"{removed} of the {before} spectrum files of the last run are gone, more than pipeline.removals_share = {share:g} "
                    "allows: is a disk not mounted, or a path another? The catalogue is left as it was. If they are gone for good, give "
                    "--allow-removals."
                )

    def _check_emptied(self, run: Run) -> None:
        rows = [(root, root.rstrip("/") + "/") for root in self.sources.roots]
        places = run.spark.createDataFrame(rows, "root string, above string")

        def filled(files: DataFrame) -> set[str]:
            below = files.join(F.broadcast(places), F.col("path").startswith(F.col("above")))
            return {row["root"] for row in below.select("root").distinct().collect()}

        if emptied := sorted(filled(run.whole(FILES)) - filled(self.listed(run.spark))):
            raise NalsparkError(
                f"'{emptied[0]}' held spectra at the last run and holds none now: is it mounted? The catalogue is left as it was. "
                "If they are gone for good, give --allow-removals."
            )

    def fix(self, run: Run) -> DataFrame:
        """Write the list of what the run will read, once, and give it as read back: what is read stays as it was found."""
        if self._fixed is None:
            place = run.store.new_run(run.manifest, FILES.name, _LISTING)
            due = self.listed(run.spark).where(F.col("part").isin(run.stale))
            self._fixed = place, run.store.write_rows(due, FILES, place)
            self.close()
        return self._fixed[1]

    def records(self, run: Run, parts: Iterable[str]) -> dict[str, Part]:
        """Give the records of the list that :meth:`fix` wrote, of some parts, without their keys."""
        assert self._fixed is not None
        return {part: Part("", run.store.place(FILES, self._fixed[0], part), self.count([part])) for part in parts}

    def close(self) -> None:
        if self._listed is not None:
            with suppress(Exception):  # the session is gone: what ended it is told
                self._listed.unpersist()
            self._listed = None

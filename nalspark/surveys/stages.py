"""Finding and reading spectrum files, as Spark stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial, reduce
from itertools import islice

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.errors import SettingsError
from nalspark.session import SPARK_ERRORS, parallelism, spark_says
from nalspark.settings import Settings
from nalspark.surveys.reader import fetch_ahead, open_spectra, parse_spectra
from nalspark.surveys.sources import FoundFile, Listing, describe, is_web, own_files, part_of, read_list, subfolders, walk
from nalspark.surveys.spectrum import SurveySpectrum
from nalspark.tables.arrow import Batches, Columns, decode, encode, map_batches
from nalspark.tables.schemas import FILES, NATIVE_IDS, SPECTRA
from nalspark.tables.store import not_a_glob

SPECTRA_READ = SPECTRA.rejectable()
#: Threads of a task that have the next files fetched while one is read: of a far disk every file is waited for.
_THREADS_AHEAD = 4
#: Spectra that a task holds at a time.
_SPECTRA_AT_ONCE = 64
_FIELDS = [field.name for field in fields(SurveySpectrum) if field.name != "native"]


def _files_of(kind: str, place: str) -> Iterable[FoundFile]:
    if kind == "folder":
        yield from walk(place)
    elif kind == "own files":
        yield from own_files(place)
    elif kind == "list":
        yield from (describe(path) for path in read_list(place))
    else:
        yield describe(place)


def _find_files(batches: Batches, places: Sequence[tuple[str, str]], plates_per_part: int) -> Batches:
    """Numbers of places → rows of FILES."""
    for batch in batches:
        found = [file for number in batch.column(0).to_pylist() for file in _files_of(*places[number])]
        columns = {
            "path": [file.path for file in found],
            "size": np.array([file.size for file in found], dtype=np.int64),
            "modified_ns": np.array([file.modified_ns for file in found], dtype=np.int64),
            "part": [part_of(file.path, plates_per_part) for file in found],
        }
        yield encode(columns, FILES)


def list_files(spark: SparkSession, listing: Listing, settings: Settings) -> DataFrame:
    """List every file below the sources once. The executors list, each some of the subfolders.

    Returns
    -------
    DataFrame of FILES
        The files of a part are in one partition.
    """
    places = [("file", path) for path in listing.files] + [("list", path) for path in listing.lists]
    for root in listing.roots:
        places += [("folder", folder) for folder in subfolders(root)] + [("own files", root)]
    frames = []
    if places:
        tasks = min(len(places), 1000, 8 * parallelism(spark))
        places = [place for first in range(tasks) for place in places[first::tasks]]  # neighbours in different tasks
        find = partial(_find_files, places=places, plates_per_part=settings.ingest.plates_per_part)
        frames.append(map_batches(spark.range(0, len(places), 1, tasks), find, FILES.spark_schema))
    if listing.remote:
        frames.append(_remote_files(spark, listing.remote, settings))
    found = reduce(DataFrame.unionByName, frames)
    return found.repartition("part").dropDuplicates(["part", "path"])  # a path has one part: one shuffle does for both


def _binary_files(spark: SparkSession, sources: Iterable[str]) -> DataFrame:
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    try:
        found = reader.load(list(sources))
        columns = found.columns  # Spark Connect looks only when it is asked
    except SPARK_ERRORS as error:
        raise SettingsError(f"A source behind a URL cannot be read: {spark_says(error)}") from None
    return found.select(*columns).where(F.lower("path").rlike(r"\.fits?(\.gz|\.fz)?$"))


def _remote_files(spark: SparkSession, sources: Iterable[str], settings: Settings) -> DataFrame:
    return _binary_files(spark, sources).select(
        "path",
        F.col("length").alias("size"),
        (F.unix_micros("modificationTime") * 1000).alias("modified_ns"),
        F.udf(partial(part_of, plates_per_part=settings.ingest.plates_per_part), "string")("path").alias("part"),
    )


def read_files(columns: Columns) -> Iterator[Columns]:
    """Read files: rows with ``path``, ``part`` and, for remote files, ``content`` → rows of SPECTRA, some at a time.

    What cannot be used has its reason; a file that cannot be used at all is one row.
    """
    files = list(zip(columns["path"], columns["part"], columns.get("content", [None] * len(columns["path"])), strict=True))
    with ThreadPoolExecutor(_THREADS_AHEAD) as ahead:
        for path, _, content in files:
            if content is None:
                ahead.submit(fetch_ahead, path)
        spectra = (
            (path, part, one)
            for path, part, content in files
            for one in (open_spectra(path) if content is None else parse_spectra(content, path))
        )
        while some := list(islice(spectra, _SPECTRA_AT_ONCE)):
            path, part, found = zip(*some, strict=True)
            rows: Columns = {"path": list(path), "part": list(part)}
            rows |= {name: [one.native.get(name) for one in found] for name in NATIVE_IDS}
            yield rows | {name: [getattr(one, name, None) for one in found] for name in (*_FIELDS, "reason", "detail")}


def _read_batches(batches: Batches) -> Batches:
    for batch in batches:
        if batch.num_rows:
            yield from (encode(rows, SPECTRA_READ) for rows in read_files(decode(batch, {})))


def ingest(files: DataFrame) -> DataFrame:
    """Read every file.

    Parameters
    ----------
    files : DataFrame
        ``path``, ``part`` and, where the executors cannot open the path themselves, ``content``.

    Returns
    -------
    DataFrame of SPECTRA with reasons; at least a row for each file
    """
    return map_batches(files, _read_batches, SPECTRA_READ.spark_schema)


def remote_contents(files: DataFrame) -> DataFrame:
    """Read files behind a URL scheme as bytes, with Spark's own file systems."""
    paths = [row["path"] for row in files.select("path").collect() if not is_web(row["path"])]  # one wave of parts
    if not paths:
        return files.withColumn("content", F.lit(None).cast("binary"))
    contents = _binary_files(files.sparkSession, map(not_a_glob, paths)).select("path", "content")
    return files.join(contents, "path", "left")

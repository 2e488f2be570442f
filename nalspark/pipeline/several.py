"""Several species in one pass: the spectra are read, matched and normalised once; each species has a result of its own, in a folder of
its name, and one table holds the absorbers of all.

``DIR`` has the tables that are shared, and ``absorbers.parquet``; ``DIR/MgII``, ``DIR/CIV``, … are results like any other, which name the
shared tables where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from nalspark.absorption import stages as absorption
from nalspark.absorption.measure import AbsorberFlag
from nalspark.errors import NalsparkError, StoreError
from nalspark.pipeline.absorbers import Search
from nalspark.pipeline.catalogue import CATALOGUE, stages_of
from nalspark.pipeline.crossmatch import Crossmatch
from nalspark.pipeline.engine import Engine, StageSummary, check_stages
from nalspark.pipeline.ingest import Ingest
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.publish import PUBLISHED
from nalspark.pipeline.run import ALL, Run
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress, now
from nalspark.settings import Settings
from nalspark.surveys.catalogs import open_catalog
from nalspark.surveys.crossmatch.stages import objects
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.fits import write_fits
from nalspark.tables.manifest import Part
from nalspark.tables.schemas import (
    CANDIDATES,
    FILES,
    MATCHES,
    SEARCHED,
    SENSITIVITY,
    SIGHTLINES,
    TARGETS,
    absorbers_table,
    all_absorbers_table,
)
from nalspark.tables.store import Store
from nalspark.tables.table import Table
from nalspark.version import VERSION

#: What the first stages make, and what the search makes for each species.
_SHARED, _SEARCHED = (FILES, SPECTRA_READ, TARGETS, MATCHES), (SEARCHED, CANDIDATES, SENSITIVITY)
_TOGETHER = (*CATALOGUE[:2], Search.name)


def _of_species(table: Table, settings: Settings) -> Table:
    """A table of one species among those of others."""
    return replace(table, name=f"{table.name}_{settings.line_species.name}")


class SearchEach(Search):
    """Search every spectrum for several species: it is normalised once."""

    def __init__(self, each: Sequence[Settings]) -> None:
        self.each = each
        self.table, *more = (_of_species(table, settings) for settings in each for table in _SEARCHED)
        self.more = tuple(more)

    def present(self, run: Run, part: str) -> bool:
        return True  # no earlier version left out one of its tables


def of_each_species(settings: Settings) -> list[Settings]:
    """Give the settings of each species' own result: its folder, and of the absorber catalogues those that list it.

    Raises
    ------
    CatalogError
        Where a catalogue cannot be read, or lists a species that is not searched.
    """
    listed = {path: open_catalog(path, "absorbers", settings.species) for path in settings.absorbers}
    each = []
    for name in settings.species:
        own = {path: catalogue for path, catalogue in listed.items() if catalogue.species in ("", name)}
        names = [catalogue.name for catalogue in own.values()]
        footprint = {catalogue: how for catalogue, how in settings.crossmatch.footprint.items() if catalogue in names}
        matching = settings.crossmatch.model_copy(update={"footprint": footprint})
        values = {"species": (name,), "out": f"{settings.out}/{name}", "absorbers": tuple(own), "crossmatch": matching}
        each.append(settings.model_copy(update=values))
    return each


def _stages(settings: Settings, each: Sequence[Settings]) -> tuple[Stage, ...]:
    return Ingest(settings), Crossmatch(Inputs(settings)), SearchEach(each)


def check_folder(settings: Settings) -> None:
    """Refuse a folder that holds the result of one species where several are searched, and the other way round.

    Raises
    ------
    StoreError
    """
    store = Store(settings.out)
    tables = store.manifest().tables
    several = any(name.startswith(f"{SEARCHED.name}_") for name in tables)
    if (several and len(settings.species) == 1) or (SEARCHED.name in tables and len(settings.species) > 1):
        what = "results of several species" if several else "the result of one species"
        raise StoreError(f"{store.root} holds {what}, and {', '.join(settings.species)} would be searched: give another --out.")


def check_species(settings: Settings, stages: Sequence[str], *, dry_run: bool = False) -> None:
    """Refuse what cannot work, before a session is started.

    Raises
    ------
    NalsparkError
    """
    if tuple(stages) != CATALOGUE:
        names = ", ".join(f"{settings.out}/{name}" for name in settings.species)
        raise NalsparkError(
            f"Several species are searched together, from the files to the catalogue; for what follows name one of {names}."
        )
    each = of_each_species(settings)
    check_stages(_stages(settings, each), settings, _TOGETHER, dry_run=dry_run)
    for one in each:
        Store(one.out).check(writable=not dry_run)
        for stage in stages_of(one):
            if stage.name in CATALOGUE[1:]:
                stage.check()


def run_species(spark: SparkSession, settings: Settings, progress: Progress, **how: Any) -> list[StageSummary]:
    """Bring the results of several species up to date, and the table of all their absorbers.

    Parameters
    ----------
    spark, settings, progress
        As of the :class:`~nalspark.pipeline.engine.Engine`.
    **how
        As of its ``run``.

    Raises
    ------
    NalsparkError
        Of any kind; nothing that was there is lost.
    """
    each, shared = of_each_species(settings), settings.model_copy(update={"absorbers": ()})
    summaries = Engine(spark, shared, progress, _stages(shared, each), _TOGETHER).run(**how)
    if how.get("dry_run"):
        progress.say(f"then the results of {', '.join(settings.species)}, each by itself, and the table of all absorbers")
        return summaries
    for one in each:
        progress.say(one.line_species.name)
        engine = Engine(spark, one, progress, stages_of(one), CATALOGUE)
        # With absorber catalogues of its own it has its own matches.
        _adopt(Run(spark, one, progress), settings, _SHARED[:2] if one.absorbers else _SHARED)
        summaries += engine.run(CATALOGUE[1:2])
        _adopt(Run(spark, one, progress), settings, _SEARCHED)
        summaries += engine.run(CATALOGUE[2:3])
        summaries += engine.run(CATALOGUE[3:], force=how.get("force", False))
    _join(spark, settings, each, progress)
    return summaries


def _adopt(run: Run, settings: Settings, tables: Sequence[Table]) -> None:
    """Name shared tables in a species' own manifest, where they lie."""
    with run.store.lock():
        theirs, run.manifest = Store(settings.out).manifest(), run.store.manifest()
        wanted = Search().wanted(run) if tables is _SEARCHED else {}
        for table in tables:
            name = table.name if table in _SHARED else _of_species(table, run.settings).name
            run.manifest.tables[table.name] = {
                part: replace(record, key=_key(record, wanted.get(part)), path=record.path and f"../{record.path}")
                for part, record in theirs.parts(name).items()
            }
        run.manifest.inputs |= theirs.inputs
        if not run.settings.absorbers:
            run.manifest.catalogues = theirs.catalogues
        if not run.manifest.version:
            run.manifest.settings = run.settings.model_dump(mode="json")
        run.manifest.version = VERSION
        run.store.commit(run.manifest)


def _key(record: Part, wanted: str | None) -> str:
    """The key that a part has in a species' own result; what met a fault is made again there."""
    return record.key if wanted is None or record.faults or record.passing else wanted


def _join(spark: SparkSession, settings: Settings, each: Sequence[Settings], progress: Progress) -> None:
    """Write the table of all absorbers, with the systems that they make up."""
    store, species = Store(settings.out), [one.line_species for one in each]
    table = all_absorbers_table(species)
    rows, lines = list[DataFrame](), list[DataFrame]()
    for one in each:
        own = Store(one.out)
        rows.append(store.load(spark, absorbers_table(one.line_species).spark_schema, own.published("absorbers.parquet")))
        lines.append(
            store.load(spark, SIGHTLINES.spark_schema, own.published("sightlines.parquet")).select("spectrum_id", "ra", "dec", "snr")
        )
    together = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), rows)
    same = objects(reduce(DataFrame.union, lines).dropDuplicates(["spectrum_id"]), settings.crossmatch.match_radius_arcsec)
    joined = absorption.with_systems(together, same, species)
    with store.lock():
        manifest = store.manifest()
        n = store.write_unpublished(joined.select(*table.names).orderBy("spectrum_id", "z_abs", "species"), table)
        n["absorbers.fits"] = write_fits(
            store.unpublished_files(table), table, store.unpublished("absorbers.fits"), {"flags": AbsorberFlag}
        )
        for name in n:
            store.replace(name)
        manifest.published, manifest.settings = n, settings.model_dump(mode="json")
        manifest.tables[PUBLISHED.name] = {ALL: Part("", "absorbers.parquet", n["absorbers.parquet"])}
        manifest.publication, manifest.published_on = manifest.publication + 1, now()
        store.commit(manifest)
    progress.say(f"join        {n['absorbers.parquet']} absorbers of {', '.join(settings.species)}")


def result_folders(settings: Settings) -> list[Path]:
    """Give the folders of the results: one, or one for each species."""
    return [Path(settings.out, name) for name in settings.species] if len(settings.species) > 1 else [Path(settings.out)]

"""Match spectra with catalogues: targets and matches."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial

from pyspark.sql import SparkSession

from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Made, Stage
from nalspark.session import narrow_reads
from nalspark.surveys.catalogs import Catalog, rows_given, write_parquet
from nalspark.surveys.crossmatch.stages import (
    catalog_frame,
    crossmatch,
    find_sightlines,
    footprints,
    mark_duplicates,
    match_counts,
    passed_over,
)
from nalspark.surveys.identity import KEYS
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.schemas import MATCHES, NATIVE_IDS, TARGETS


class Crossmatch(Stage):
    """Give every spectrum its redshift, and the catalogues' systems.

    Parts that share a spectrum go together: one of its rows is kept. Those who read the targets see their content: a new absorber
    catalogue changes labels, not spectra.
    """

    name, table, more = "crossmatch", TARGETS, (MATCHES,)
    reads = (SPECTRA_READ.name,)
    sections = tuple(f"crossmatch.{name}" for name in ("match_radius_arcsec", "label_significance", "weak", "z_min", "z_max"))
    revision = 6
    content = ("spectrum_id", "path", *NATIVE_IDS, "ra", "dec", "z_qso", "reason")
    at_once = True

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def check(self) -> None:
        _ = self.inputs.catalogues, self.inputs.searched

    def given(self, run: Run) -> dict[str, str]:
        listed = {f"footprint {name}": digest for name, digest in self._footprint().items()}
        return {f"{kind} {catalog.name}": catalog.digest for kind, found in self.inputs.catalogues.items() for catalog in found} | listed

    def _footprint(self) -> dict[str, str]:
        """How each footprint is told; a list of quasars by its content, not by its place."""
        told = self.inputs.settings.crossmatch.footprint
        return {name: self.inputs.searched[name].digest if name in self.inputs.searched else how for name, how in sorted(told.items())}

    def wanted(self, run: Run) -> dict[str, str]:
        known = {kind: [(catalog.name, catalog.digest) for catalog in found] for kind, found in self.inputs.catalogues.items()}
        footprint = self._footprint()
        return {part: run.key(self, part, known, footprint) for part in run.common_parts(self.reads)}

    def due(self, run: Run, parts: list[str]) -> int:
        return run.rows(SPECTRA_READ.name, parts)

    def weight(self, run: Run, parts: list[str]) -> int:
        """Give the spectra, and the rows of the catalogues that they are matched with."""
        return self.due(run, parts) + sum(catalogue.n_rows for found in self.inputs.catalogues.values() for catalogue in found)

    def together(self, run: Run, parts: set[str]) -> set[str]:
        """Give these parts, and those with another row of a spectrum that lies in one of them or lay there."""
        there = set(run.manifest.parts(SPECTRA_READ.name))
        gone, parts = parts - there, parts & there
        while others := run.manifest.parts(TARGETS.name).keys() - parts - gone:
            now = run.usable(SPECTRA_READ, sorted(parts)).select("spectrum_id")
            before, elsewhere = (run.store.read(run.spark, run.manifest, TARGETS, sorted(some)) for some in (parts | gone, others))
            ids = now.unionByName(before.select("spectrum_id"))
            shared = elsewhere.select("spectrum_id", "part").join(ids, "spectrum_id", "left_semi").select("part").distinct().collect()
            if not shared:
                break
            parts |= {row["part"] for row in shared}
        return parts

    def compute(self, run: Run, parts: list[str]) -> Made:
        convert = partial(catalog_frame, run.spark, folder=run.store.catalogues)
        frames = {kind: [(c.name, convert(c)) for c in found] for kind, found in self.inputs.catalogues.items()}
        searched = [(name, convert(one)) for name, one in self.inputs.searched.items()]
        spectra = mark_duplicates(run.usable(SPECTRA_READ, parts)).persist()
        hits = find_sightlines(spectra, frames["quasars"], frames["absorbers"], run.settings, searched).persist()
        for frame in (spectra, hits):
            run.after_wave.callback(frame.unpersist)
        names = {kind: [name for name, _ in found] for kind, found in frames.items()}
        targets, matches = crossmatch(
            spectra, hits, names["quasars"], names["absorbers"], run.settings, searched=list(self.inputs.searched),
            footprints=footprints(frames["absorbers"], run.settings.crossmatch.footprint),
        )  # fmt: skip
        # Narrow rows brought together by part: to make a file on a local disk Java starts three processes, for `chmod`.
        return {TARGETS.name: targets.repartition("part"), MATCHES.name: matches.repartition("part")}

    def finish(self, run: Run) -> None:
        named = [(kind, catalogue.name, catalogue.n_rows) for kind, found in self.inputs.catalogues.items() for catalogue in found]
        run.manifest.catalogues = match_counts(run.whole(TARGETS), run.whole(MATCHES), named) if named else []
        for name in [name for name in run.manifest.inputs if name.partition(" ")[0] in (*self.inputs.catalogues, "footprint")]:
            del run.manifest.inputs[name]  # those of this run are told by `given`
        for counts in run.manifest.catalogues:
            run.progress.say(
                "  {catalogue}: {rows_matched} of its {rows} rows have a spectrum; of the spectra {spectra_by_id} are in it by identifier, "
                "{spectra_on_sky} by position, {spectra_unmatched} not".format(**counts)
            )
        converted = {
            (kind, one.name): (one, rows_given(write_parquet(one, run.store.catalogues)))
            for kind, found in self.inputs.catalogues.items()
            for one in found
        }
        for counts in run.manifest.catalogues:
            if not counts["rows_matched"] and counts["spectra_unmatched"]:
                run.progress.say(_nothing_matches(*converted[counts["kind"], counts["catalogue"]]))
        lacking = {name: one.n_rows - given["z"] for (kind, name), (one, given) in converted.items() if kind == "quasars"}
        if any(lacking.values()):
            spectra = passed_over(run.whole(TARGETS), run.whole(MATCHES), list(lacking))
            for name in [name for name, rows in lacking.items() if rows]:
                run.progress.say(
                    f"  {name}: {lacking[name]} of its rows have no redshift (blank, or a fill value such as -999, -1 or NaN); "
                    f"{spectra.get(name, 0)} spectra take theirs from the next catalogue or from their own files"
                )

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        return narrow_reads(spark)


def _nothing_matches(catalog: Catalog, given: Mapping[str, int]) -> str:
    """Warn of a catalogue of which nothing matches: it is of another survey, or not read as it is meant."""
    identified = max(min(given[name] for name in key) for key in KEYS)
    placed = min(given[name] for name in ("ra", "dec"))
    columns = ", ".join(f"{name} = '{column}'" for name, column in catalog.columns)
    return (
        f"WARNING: nothing in catalogue '{catalog.name}' matches any spectrum. Of its {catalog.n_rows} rows {identified} have an "
        f"identifier (plate, mjd and fiber; TARGETID; CATALOGID) and {placed} a position. The map '{catalog.map}' reads {columns}. "
        f"Is it a catalogue of these spectra, and are its positions J2000 in degrees? Name another map with '{catalog.name}::map', or "
        "describe it in conf/catalogs."
    )

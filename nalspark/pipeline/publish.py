"""Publishing: the catalogue's files, and the report's numbers gathered in Spark.

Only counts and a handful of rows reach the driver, and of a small result what its gallery shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from enum import IntFlag
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.absorption.gallery import gallery_item
from nalspark.absorption.measure import AbsorberFlag, velocity_error
from nalspark.absorption.sensitivity import BIN_COLUMNS, MOST_BINS, bin_of, flat_bins
from nalspark.absorption.stages import (
    measured_table,
    n_pieces,
    normalized,
    sensitivity,
    sightlines,
    with_object,
    with_quasar_error,
    with_system,
    with_trough,
)
from nalspark.absorption.systems import count_in_path
from nalspark.errors import NalsparkError, StoreError
from nalspark.judging.completeness import CompletenessFunction
from nalspark.judging.decoys import N_SEPARATIONS
from nalspark.judging.gallery import MOST_PARTS, MOST_SYSTEMS, Gallery, make_gallery, shown_columns
from nalspark.judging.inputs import LISTED, Catalogue, listed_systems
from nalspark.judging.worth import Purity, completeness_tables
from nalspark.lines import LineSpecies
from nalspark.pipeline.run import ALL, Run
from nalspark.pipeline.stage import Stage
from nalspark.plots.figures import GalleryItem
from nalspark.plots.report import BitCount, CatalogueMatch, RatioSample, Rejected, ReportData, WorthData, render_report
from nalspark.progress import now
from nalspark.session import narrow_reads, together
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.crossmatch.stages import objects
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.arrow import Columns, map_arrays, read_batches, tally, to_columns
from nalspark.tables.atomic import remove
from nalspark.tables.changes import flat
from nalspark.tables.data_model import bit_meanings
from nalspark.tables.fits import write_fits
from nalspark.tables.manifest import Manifest, Part
from nalspark.tables.result import Result
from nalspark.tables.schemas import (
    BALNICITY,
    CANDIDATES,
    COMPLETENESS,
    DECOYS,
    FILES,
    MATCHES,
    PUBLISHED_SENSITIVITY,
    REJECTIONS,
    SCORES,
    SEARCHED,
    SENSITIVITY,
    SIGHTLINES,
    TARGETS,
    absorbers_table,
)  # fmt: skip
from nalspark.tables.store import Store
from nalspark.tables.table import Column, Table
from nalspark.tables.versions import keep_version
from nalspark.version import VERSION


def _all_rejections(spark: SparkSession, store: Store, manifest: Manifest) -> DataFrame:
    """One row per file or spectrum that is not searched, with the stage that rejected it; only parts that have any are read."""
    tables = {"ingest": SPECTRA_READ, "crossmatch": TARGETS, "search": SEARCHED}
    parts = {stage: {part for part, record in manifest.parts(table.name).items() if record.rejected} for stage, table in tables.items()}
    rejected = {stage: store.read(spark, manifest, table, parts[stage]).where("reason IS NOT NULL") for stage, table in tables.items()}
    paths = store.read(spark, manifest, TARGETS, parts["search"]).where("reason IS NULL").select("spectrum_id", "path")
    rejected["search"] = rejected["search"].join(paths, "spectrum_id")
    return reduce(
        DataFrame.unionByName, [frame.withColumn("stage", F.lit(stage)).select(*REJECTIONS.names) for stage, frame in rejected.items()]
    )


#: The published files, beside the tables.
PUBLISHED = Table("published", "The files of the catalogue.", ())


#: Equivalent widths (Å) of which the report shows where they would be seen, at so many standard errors.
SEEN, DETECTION = (0.3, 0.6, 1.0, 2.0), 5.0

#: Objects with more spectra are counted as if they had as many.
_MOST_EPOCHS = 1000


def _is_current(run: Run, stage: Stage) -> bool:
    """Whether a stage that is run on demand has run on the result as it is."""
    recorded = {part: record.key for part, record in run.manifest.parts(stage.table.name).items()}
    return bool(recorded) and recorded == stage.wanted(run)


class Publish(Stage):
    """Write the catalogue and the report. Files are replaced when all are whole."""

    name, table, in_place, tolerant = "publish", PUBLISHED, True, True
    reads = (SPECTRA_READ.name, TARGETS.name, MATCHES.name, SEARCHED.name, CANDIDATES.name, SCORES.name, "measured")
    sections = ("publish", "species", "crossmatch.match_radius_arcsec")
    revision = 4

    def __init__(self, settings: Settings, worth: tuple[Stage, ...], broad: Stage) -> None:
        """Publish with what the stages `worth` say of the catalogue, and `broad` of its quasars, where they have run on it as it is."""
        self.measured, self.worth, self.broad = measured_table(settings), worth, broad

    def known_worth(self, run: Run) -> tuple[Table, ...]:
        """Give the tables that say what the catalogue is worth; none where one of them was made of another catalogue, or not at all."""
        return tuple(stage.table for stage in self.worth) if all(_is_current(run, stage) for stage in self.worth) else ()

    def known(self, run: Run) -> tuple[Table, ...]:
        """Give the tables of :meth:`known_worth`, and that of the quasars' broad absorption where it is known."""
        return (*self.known_worth(run), *((self.broad.table,) if _is_current(run, self.broad) else ()))

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key_of_all(self, VERSION, {table.name: run.manifest.contents(table.name) for table in self.known(run)})}

    def present(self, run: Run, part: str) -> bool:
        return all(run.store.published(name).exists() for name in run.manifest.published)

    def compute(self, run: Run, parts: list[str]) -> dict[str, dict[str, Part]]:
        manifest, worth = run.manifest, self.known_worth(run)
        if not worth and any(manifest.parts(stage.table.name) for stage in self.worth):
            run.progress.say(
                "note: the completeness is that of another catalogue or other settings, and is left out; run `nalspark completeness`."
            )
        earlier = set(manifest.published)
        manifest.published = _write_catalogue(run, self.known(run))
        for name in earlier - set(manifest.published):
            remove(run.store.published(name))
        manifest.publication, manifest.published_on = manifest.publication + 1, now()
        return {PUBLISHED.name: {ALL: Part("", "absorbers.parquet", manifest.published["absorbers.parquet"])}}

    def finish(self, run: Run) -> None:
        keep_version(run.store, run.manifest, run.settings.pipeline.versions_kept)

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        return narrow_reads(spark)


def _write_catalogue(run: Run, known: tuple[Table, ...]) -> dict[str, int]:
    """Published file → number of its rows; `known` are the tables made on demand that are published with it."""
    store, manifest, settings = run.store, run.manifest, run.settings
    with ExitStack() as held:
        found = together(**_chains(run, known, held))
    rows: dict[str, int] = {}
    for facts in found.values():
        rows |= facts.pop("rows")
    due = sum(part.rows for part in manifest.parts(SPECTRA_READ.name).values())
    if rows["sightlines.parquet"] + rows["rejections.parquet"] != due:
        raise StoreError(
            f"{rows['sightlines.parquet']} sightlines and {rows['rejections.parquet']} rejections do not add up to the {due} rows read: "
            "a stage was left out since the files changed. Run all stages."
        )
    catalogue, of, cards = absorbers_table(settings.line_species), found["sensitivity"].pop("worth_of", None), {}
    score_sum = found["absorbers"].pop("millionths") / 1e6
    if of:
        purity = Purity(rows["absorbers.parquet"], of.pop("n_decoys"), of.pop("n_pieces"), score_sum)
        cards = purity.cards
        told = {name: getattr(purity, name) for name in ("by_decoys", "by_score", "n_pieces")}
        found["sensitivity"]["worth"] = WorthData(**of, **told, n_decoys=round(purity.n_decoys), n_separations=N_SEPARATIONS)
    files, place = store.unpublished_files(catalogue), store.unpublished("absorbers.fits")
    rows["absorbers.fits"] = write_fits(files, catalogue, place, {"flags": AbsorberFlag}, cards=cards)
    gallery = _gallery(run, rows)
    if gallery is None:
        run.progress.say(
            f"note: no gallery.html: it shows up to {MOST_SYSTEMS} systems in up to {MOST_PARTS} parts, and here are none, or more. "
            "`nalspark review` shows any of them."
        )
    shown = {"outcomes": gallery.outcomes, "has_gallery": True} if gallery else {}
    pages = {"report.html": render_report(_report_data(manifest, settings, rows, {**found, "gallery": shown}))}
    pages |= {"gallery.html": gallery.page} if gallery else {}
    for name, page in pages.items():
        store.unpublished(name).write_text(page, encoding="utf-8")
        rows[name] = 1
    for name in rows:  # all are whole: only now the old ones go
        store.replace(name)
    return rows


def _accepted(settings: Settings) -> Expression:
    """What `measured` says; a table of an earlier version of nalspark does not say it, and has null."""
    return F.coalesce("accepted", F.col("score") >= settings.infer.min_score)


def _catalogued(
    absorbers: DataFrame, objects: DataFrame, broad: DataFrame, worth: CompletenessFunction | None, settings: Settings
) -> DataFrame:
    """The rows of the catalogue, from measured ones with the errors of their quasars' redshifts."""
    catalogue, ew = absorbers_table(settings.line_species), f"ew_{settings.line_species.primary.label}"
    named = with_system(with_trough(with_object(absorbers, objects), broad, settings), settings)

    def completed(columns: Columns) -> Columns:
        redshifts = (columns[name].astype(float) for name in ("z_abs", "z_abs_err", "z_qso", "z_qso_err"))
        known = {**columns, "velocity_err_kms": velocity_error(*redshifts)}
        if worth is None:
            return known
        complete = worth(columns[ew], columns["sigma_ew"], columns["z_abs"])
        with np.errstate(divide="ignore"):
            return {**known, "completeness": complete, "weight": np.where(complete > 0, columns["score"] / complete, np.nan)}

    return map_arrays(named, completed, catalogue, catalogue)


def _chains(run: Run, known: tuple[Table, ...], held: ExitStack) -> dict[str, Callable[[], dict[str, Any]]]:
    """What can be done at the same time: a table is written, then looked at. Each chain gives `rows` and fields of ReportData."""
    spark, store, manifest, settings = run.spark, run.store, run.manifest, run.settings
    species = settings.line_species
    catalogue = absorbers_table(species)
    targets, searched = (store.read(spark, manifest, table) for table in (TARGETS, SEARCHED))
    measured = store.read(spark, manifest, measured_table(settings))
    usable = [frame.where(F.col("reason").isNull()) for frame in (targets, searched)]
    absorbers = measured.where(_accepted(settings))
    # Of the searched only: an epoch that could not be searched is none of the catalogue's.
    same = objects(usable[1], settings.crossmatch.match_radius_arcsec).persist()
    held.callback(same.unpersist)
    worth = tuple(table for table in known if table is not BALNICITY)
    function = _completeness_function(run, worth)
    broad = store.read(spark, manifest, BALNICITY, None if BALNICITY in known else ())
    matches = store.read(spark, manifest, MATCHES)
    lines_of_sight = sightlines(usable[0], usable[1], absorbers, matches, same, broad).select(*SIGHTLINES.names)
    rejected = _all_rejections(spark, store, manifest)

    def of_absorbers() -> dict[str, Any]:
        named = _catalogued(with_quasar_error(absorbers, usable[0]), same, broad, function, settings)
        rows = store.write_unpublished(named.orderBy("spectrum_id", "z_abs"), catalogue)
        files, edges = store.unpublished_files(catalogue), _absorber_edges(species)
        counted = tally(files, catalogue.select(*edges, "flags", "score"), partial(_absorber_counts, edges=edges))
        facts = {"flags": _bit_counts(counted["flags"], AbsorberFlag), "in_path": counted["in_path"], "millionths": int(counted["score"])}
        histograms = {name: (cuts, counted[name]) for name, cuts in edges.items()}
        samples = _samples(files, catalogue, settings.publish.gallery)
        ratios = _ratios(samples.pop("doublet_ratios"), species)
        galleries = {name: gallery_items(store, manifest, settings, shown.to_pylist()) for name, shown in samples.items()}
        return {"rows": rows, "histograms": histograms, "doublet_ratios": ratios, **facts, **galleries}

    def of_sightlines() -> dict[str, Any]:
        rows = store.write_unpublished(lines_of_sight.orderBy("spectrum_id"), SIGHTLINES)
        z = np.arange(*_redshifts(species), _PATH_STEP)
        columns = SIGHTLINES.select(*_SIGHTLINE_EDGES, "z_start", "z_stop", "n_epochs")
        counted = tally(store.unpublished_files(SIGHTLINES), columns, partial(_sightline_counts, z=z))
        histograms = {name: (cuts, counted[name]) for name, cuts in _SIGHTLINE_EDGES.items()}
        # Every spectrum is its share of an object.
        n_objects = round(float(np.sum(counted["epochs"][1:] / np.arange(1, _MOST_EPOCHS))))
        return {"rows": rows, "histograms": histograms, "path": (z, counted["path"]), "n_objects": n_objects}

    def of_rejections() -> dict[str, Any]:
        # Each file is sorted, of few rows the only one: to order all would be to find them twice.
        rows = store.write_unpublished(rejected.repartition("path").sortWithinPartitions("path"), REJECTIONS)
        return {"rows": rows, "rejections": _reasons(store.unpublished_files(REJECTIONS))}

    def of_sensitivity() -> dict[str, Any]:
        written = _write_sensitivity(run, sensitivity(usable[1], store.read(spark, manifest, SENSITIVITY), same, broad))
        if worth:
            rows, known = _write_worth(run, worth)
            written["rows"] |= rows
            written["worth_of"] = {**known, "n_pieces": n_pieces(absorbers)}
        return written

    return {"absorbers": of_absorbers, "sightlines": of_sightlines, "rejections": of_rejections, "sensitivity": of_sensitivity}


def _completeness_function(run: Run, worth: tuple[Table, ...]) -> CompletenessFunction | None:
    """The completeness function of the catalogue, where it is known."""
    if COMPLETENESS not in worth:
        return None
    try:
        return CompletenessFunction.of(to_columns(run.whole(COMPLETENESS), COMPLETENESS))
    except NalsparkError as error:
        run.progress.say(f"note: {error}")
        return None


def _write_sensitivity(run: Run, seen: DataFrame) -> dict[str, Any]:
    """Write the table of sensitivity; its rows, and where the report says absorbers would be seen."""
    species, store = run.settings.line_species, run.store
    rows = store.write_unpublished(seen.orderBy("spectrum_id"), PUBLISHED_SENSITIVITY)
    z, files = np.arange(*_redshifts(species), _PATH_STEP), store.unpublished_files(PUBLISHED_SENSITIVITY)
    columns = SENSITIVITY.select(*BIN_COLUMNS)
    counted = tally(files, columns, partial(_seen_counts, z=z, species=species))
    return {"rows": rows, "seen": {ew: counted["seen"][number] for number, ew in enumerate(SEEN)}}


def _write_worth(run: Run, worth: tuple[Table, ...]) -> tuple[dict[str, int], dict[str, Any]]:
    """Write the tables that say what the catalogue is worth; their rows, and what the report says of them, but for the scores."""
    rows, store = dict[str, int](), run.store
    for table in worth:
        order = [name for name in ("spectrum_id", "by", "ew_low", "z_low", "low", "z_abs") if name in table.names]
        rows |= store.write_unpublished(run.whole(table).orderBy(*order), table)
    files = {table.name: store.unpublished_files(table) for table in worth}
    counts = pa.Table.from_batches(read_batches(files[COMPLETENESS.name], COMPLETENESS.columns), COMPLETENESS.arrow_schema)
    decoys = tally(files[DECOYS.name], DECOYS.select("accepted", "weight"), _decoy_counts)
    return rows, {**completeness_tables(counts.to_pydict()), "n_decoys": int(decoys["millionths"]) / 1e6}


# ---- the report's numbers


def _absorber_counts(columns: Columns, edges: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.int64]]:
    """Counts between edges, of the redshifts also without those outside the searched path; rows with each flag; Σ score in 1e-6."""
    in_path = columns["z_abs"][(columns["flags"] & AbsorberFlag.OFF_PATH) == 0]
    flags = np.array([np.count_nonzero(columns["flags"] & int(bit)) for bit in AbsorberFlag.__members__.values()])
    scores = np.array(np.rint(columns["score"] * 1e6).sum(), np.int64)
    return {**_in_bins(columns, edges), "in_path": np.histogram(in_path, edges["z_abs"])[0], "flags": flags, "score": scores}


def _sightline_counts(columns: Columns, z: NDArray[np.float64]) -> dict[str, Any]:
    """Counts between edges, at each of some ascending redshifts how many were searched there, and by number of epochs."""
    path = count_in_path(z, *(np.concatenate([*columns[name], ()]) for name in ("z_start", "z_stop")))
    return {
        **_in_bins(columns, _SIGHTLINE_EDGES),
        "path": path,
        "epochs": np.bincount(np.minimum(columns["n_epochs"], _MOST_EPOCHS - 1), minlength=_MOST_EPOCHS),
    }


def _seen_counts(columns: Columns, z: NDArray[np.float64], species: LineSpecies) -> dict[str, NDArray[np.int64]]:
    """At each of some ascending redshifts in how many sightlines an absorber of the strengths :data:`SEEN` would be seen."""
    _, bins, sigma, _ = flat_bins(columns)
    seen = [np.bincount(bins[ew >= DETECTION * sigma], minlength=MOST_BINS) for ew in SEEN]
    return {"seen": np.array(seen)[:, bin_of(species, z)]}


def _decoy_counts(columns: Columns) -> dict[str, NDArray[np.int64]]:
    """Accepted decoys by their weight, in 1e-6: whole numbers add up to the same in any order."""
    return {"millionths": np.array(np.rint(columns["weight"][columns["accepted"].astype(bool)] * 1e6).sum(), np.int64)}


def _in_bins(columns: Columns, edges: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.int64]]:
    """Values outside all edges, and NaN, are left out."""
    return {name: np.histogram(columns[name], cuts)[0] for name, cuts in edges.items()}


def _bit_counts(counts: NDArray[np.int64], enum: type[IntFlag]) -> list[BitCount]:
    meanings = bit_meanings(enum)
    return [BitCount(name, int(n), meanings.get(name, "")) for name, n in zip(enum.__members__, counts, strict=True)]


def _absorber_edges(species: LineSpecies) -> dict[str, NDArray[np.float64]]:
    z_low, z_high = _redshifts(species)
    return {
        "z_abs": np.arange(z_low, z_high + 0.1, 0.1),
        f"ew_{species.primary.label}": np.geomspace(0.1, 10.0, 21),
        "significance": np.geomspace(3.0, 200.0, 19),
        "fwhm_kms": np.arange(0.0, 625.0, 25.0),
    }


_SIGHTLINE_EDGES = {"z_qso": np.arange(0.0, 5.01, 0.2), "snr": np.geomspace(0.5, 100.0, 21)}


def _redshifts(species: LineSpecies) -> tuple[float, float]:
    """Redshifts between which the species' first line lies on the grid, rounded outwards to tenths."""
    ends = LATTICE.wavelength[[0, -1]] / species.primary.wavelength - 1.0
    return max(float(np.floor(ends[0] * 10) / 10), 0.0), float(np.ceil(ends[1] * 10) / 10)


#: Between the redshifts at which the sightlines are counted.
_PATH_STEP = 0.005


def _reasons(files: Sequence[Path]) -> list[Rejected]:
    """Count the rejections of each stage and reason; the example is the first in the alphabet."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for batch in read_batches(files, REJECTIONS.select("stage", "reason", "detail")):
        for stage, reason, detail in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            n, example = found.get((stage, reason), (0, detail))
            found[stage, reason] = n + 1, min(example, detail)
    rows = [Rejected(*about, *counted) for about, counted in found.items()]
    return sorted(rows, key=lambda row: (row.stage, -row.n, row.reason))


#: Points of the doublet-ratio figure: a sample, the most significant ones.
_RATIO_SAMPLE = 2000


def _samples(files: Sequence[Path], catalogue: Table, gallery: int) -> dict[str, pa.Table]:
    """The absorbers of each gallery in its order, and those of the doublet-ratio figure, in one pass."""
    chosen = {
        "gallery_strongest": (gallery, pc.field("flags") == 0, "descending"),
        "gallery_doubtful": (gallery, pc.scalar(True), "ascending"),
        "doublet_ratios": (_RATIO_SAMPLE, pc.scalar(True), "descending"),
    }
    kept = dict.fromkeys(chosen, catalogue.arrow_schema.empty_table())
    for batch in read_batches(files, catalogue.columns):
        for name, (n, which, order) in chosen.items():
            rows = pa.concat_tables([kept[name], pa.Table.from_batches([batch]).filter(which)])
            kept[name] = rows.sort_by([("significance", order), ("absorber_id", "ascending")]).slice(0, n)
    return kept


def _ratios(absorbers: pa.Table, species: LineSpecies) -> RatioSample:
    names = f"ew_{species.primary.label}", "doublet_ratio", "doublet_ratio_err", "flags"
    ew, ratio, ratio_err, flags = (absorbers[name].to_numpy() for name in names)
    return RatioSample(ew=ew, ratio=ratio, ratio_err=ratio_err, flagged=flags != 0, thin_ratio=species.optically_thin_ratio)


# ---- the galleries


def gallery_items(store: Store, manifest: Manifest, settings: Settings, absorbers: Sequence[Mapping[str, Any]]) -> list[GalleryItem]:
    """Read what the pictures of a few rows of the absorbers table show, in their order.

    Raises
    ------
    StoreError
        Where the tables do not hold an absorber's spectrum or candidate.
    """
    read = partial(store.rows_with, manifest, parts=sorted({row["part"] for row in absorbers}))
    names = [row["spectrum_id"] for row in absorbers]
    targets = read(TARGETS, spectrum_id=names)
    spectra = normalized(read(SPECTRA_READ, path=targets["path"].to_pylist(), spectrum_id=names), targets, settings)
    candidates = read(CANDIDATES, candidate_id=[row["absorber_id"] for row in absorbers])
    candidate_of = {row["candidate_id"]: row for row in candidates.to_pylist()}
    items = []
    for absorber in absorbers:
        spectrum, candidate = spectra.get(absorber["spectrum_id"]), candidate_of.get(absorber["absorber_id"])
        if spectrum is None or candidate is None:
            raise StoreError(
                f"Absorber {absorber['absorber_id']} has no spectrum or no candidate in the tables any more: a stage was left out since "
                "the files changed. Run all stages."
            )
        items.append(gallery_item(absorber, spectrum, candidate, settings))
    return items


def _gallery(run: Run, rows: Mapping[str, int]) -> Gallery | None:
    """The page of all systems, of tables that are not published yet; none where there are none, or too many."""
    store, table = run.store, absorbers_table(run.settings.line_species)
    others, n = _listed_systems(run), rows["absorbers.parquet"]
    n_listed = sum(map(len, others.values()))
    if max(n, n_listed) > MOST_SYSTEMS:
        return None
    columns = table.select("spectrum_id", "flags", *shown_columns(run.settings.line_species))
    absorbers = pa.Table.from_batches(read_batches(store.unpublished_files(table), columns), _schema(columns)).to_pandas()
    concerned = pa.array({*absorbers["spectrum_id"], *(name for theirs in others.values() for name in theirs["spectrum_id"])}, pa.string())
    columns = SIGHTLINES.select("spectrum_id", "part", "path", "z_qso", "snr", "z_start", "z_stop", "covered")
    batches = (
        batch.filter(pc.is_in(batch["spectrum_id"], concerned)) for batch in read_batches(store.unpublished_files(SIGHTLINES), columns)
    )
    sightlines = pa.Table.from_batches(batches, _schema(columns)).to_pandas().drop_duplicates("spectrum_id", ignore_index=True)
    if not len(sightlines) or sightlines["part"].nunique() > MOST_PARTS:
        return None
    return make_gallery(Catalogue(Result(Path(store.root), run.manifest, run.settings), absorbers, sightlines), others)


def _schema(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([(column.name, column.arrow_type) for column in columns])


def _listed_systems(run: Run) -> dict[str, pd.DataFrame]:
    """The systems of each absorber catalogue in the spectra; of more than a gallery may have, some."""
    if not any(counted["kind"] == "absorbers" for counted in run.manifest.catalogues):
        return {}
    known = run.whole(MATCHES).where("n_systems > 0").select(*LISTED).limit(MOST_SYSTEMS + 1)
    return listed_systems(pd.DataFrame([row.asDict() for row in known.collect()], columns=list(LISTED)))


_COUNTED = ("catalogue", "rows", "rows_matched", "rows_unmatched", "spectra_by_id", "spectra_on_sky", "spectra_unmatched")


def _report_data(manifest: Manifest, settings: Settings, rows: dict[str, int], found: dict[str, dict[str, Any]]) -> ReportData:
    """What the chains found, and what the manifest knows."""
    species = settings.line_species
    histograms = {name: one for facts in found.values() for name, one in facts.pop("histograms", {}).items()}
    counts = {
        "files": manifest.rows(FILES.name)[0],
        "searched spectra": rows["sightlines.parquet"],
        "quasars searched": found["sightlines"].pop("n_objects"),
        "rejected": rows["rejections.parquet"],
        "candidates": manifest.rows("candidates")[0],
        "absorbers": rows["absorbers.parquet"],
    }
    return ReportData(
        title=f"{species.name} absorbers",
        species=species.name,
        version=manifest.version,
        settings={key: str(value) for key, value in flat(manifest.settings).items()},
        counts=counts,
        histograms=histograms,
        catalogue_matches=[CatalogueMatch(*(counted[name] for name in _COUNTED)) for counted in manifest.catalogues],
        **{name: value for facts in found.values() for name, value in facts.items()},
    )

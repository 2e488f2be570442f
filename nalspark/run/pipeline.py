"""The stages at work: what must be done again, in which waves, and the manifest.

A part of a table has a key: the digest of its stage's revision, the settings that matter to it, and the keys of the parts it was made from.
A part is made again when its key has changed, and only then. Parts are worked on in waves, and the manifest is written after each, so a
crash costs one wave.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property, partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.absorption import stages as absorption
from nalspark.errors import NalsparkError, StoreError, did_you_mean
from nalspark.learning.examples import Examples
from nalspark.learning.inference import load_keras, score
from nalspark.learning.models import PackedModel
from nalspark.mocks import stages as mocks
from nalspark.mocks.noise import sky_noise
from nalspark.mocks.recipes import SkyNoise
from nalspark.plots.training import training_figures
from nalspark.progress import Progress, now
from nalspark.run.plan import (
    STAGE_NAMES,
    STAGES,
    Stage,
    StageSummary,
    catalogue_digests,
    check_reads,
    check_stages,
    chosen_model,
    example_inputs,
    open_catalogues,
    reads,
)
from nalspark.run.publish import publish
from nalspark.session import load_ahead, narrow_reads, short_tasks, together
from nalspark.settings import Settings
from nalspark.spectra.eigenspectra import DrawnQuasars, Eigenspectra
from nalspark.spectra.grid import SDSS_GRID
from nalspark.spectra.stages import PART as ALL_QUASARS
from nalspark.spectra.stages import eigenspectra_of, fit_eigenspectra_by_bin
from nalspark.surveys import stages as surveys
from nalspark.surveys.catalogs import Catalog, equivalent_width_quantiles, open_catalog
from nalspark.surveys.crossmatch.stages import catalog_frame, crossmatch, find_sightlines, mark_duplicates, match_counts
from nalspark.surveys.sources import classify
from nalspark.tables.arrow import to_arrow
from nalspark.tables.changes import FileChanges, file_changes, value_changes
from nalspark.tables.manifest import Manifest, Part, digest
from nalspark.tables.schemas import CANDIDATES, EIGENSPECTRA, FILES, MATCHES, NORMALIZED, SCORES, TARGETS
from nalspark.tables.store import Store
from nalspark.tables.table import Table
from nalspark.tables.versions import keep_version
from nalspark.version import VERSION

_INGEST = next(stage for stage in STAGES if stage.name == "ingest")
#: What of a target matters to the search: a new absorber catalogue changes labels, not spectra.
_TARGET_CAUSES = ("spectrum_id", "path", "plate", "mjd", "fiber", "ra", "dec", "z_qso", "reason")
#: On more cores a small survey is scored by some of the workers, and keras takes half a gigabyte in each.
_FEW_CORES = 4
#: Making a mock spectrum takes some times as long as searching a real one: waves hold so many fewer.
_MOCK_WEIGHT = 5
#: Candidates of a task: half a second's work, so that the last task of a wave is not waited for.
_SCORED_PER_TASK = 5000
#: Candidates of a run that are worth another worker's loading of TensorFlow: to score them takes about as long.
_WORTH_LOADING = 20_000
#: Stages whose files are not shared out among tasks in the usual way.
_HOW_TO_READ = {"crossmatch": narrow_reads, "publish": narrow_reads, "infer": short_tasks, "measure": short_tasks}
#: What the system, and Java, say of a disk that is full, of a quota or of a limit on the size of files; the last where Parquet's
#: compression finds no room to unpack its library in.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "no snappyjava in java.library.path")


class Pipeline:
    """One run in one output directory.

    Parameters
    ----------
    spark : SparkSession
    settings : Settings
    progress : Progress
    """

    def __init__(self, spark: SparkSession, settings: Settings, progress: Progress) -> None:
        self.spark, self.settings, self.progress = spark, settings, progress
        self.store = Store(settings.out)
        self.manifest = Manifest()
        self.stages: Collection[str] = ()
        self.force: Collection[str] = ()
        self.only_parts: Collection[str] = ()

    def run(
        self,
        stages: Sequence[str] = STAGE_NAMES,
        parts: Collection[str] = (),
        *,
        force: bool = False,
        dry_run: bool = False,
        explain: bool = False,
    ) -> list[StageSummary]:
        """Bring the output directory up to date.

        Parameters
        ----------
        stages : sequence of str
            Stages to run; what they read must be there.
        parts : collection of str
            Only these parts; all by default.
        force : bool
            Make the stages' parts anew although nothing changed.
        dry_run : bool
            Say what would be done, and do nothing.
        explain : bool
            Say first what changed since the last run, and what will be done.

        Raises
        ------
        NalsparkError
            Of any kind; nothing that was there is lost.
        """
        check_stages(stages)
        self.stages, self.force, self.only_parts = stages, (stages if force else ()), parts
        self._listed: DataFrame | None = None
        self._parts_listed: tuple[dict[str, str], dict[str, int]] | None = None
        self._packed: PackedModel | None = None
        self._opened: dict[str, list[Catalog]] | None = None
        self._keras_ahead = False
        try:
            return self._look_ahead(stages, explain=explain) if dry_run else self._bring_up(stages, explain=explain)
        finally:
            with suppress(Exception):  # the session is gone: what ended it is told
                if self._listed is not None:
                    self._listed.unpersist()

    def _look_ahead(self, stages: Sequence[str], *, explain: bool) -> list[StageSummary]:
        self.store.check()
        self.manifest = self.store.manifest()
        if explain:
            self._explain(stages)
        return self._plan(stages)

    def _bring_up(self, stages: Sequence[str], *, explain: bool) -> list[StageSummary]:
        with self.store.lock(), self._told_where_full():
            self.manifest = self.store.manifest()
            self._keras_ahead = self._all_will_score()
            load_ahead(self.spark, load_keras if self._keras_ahead else None)
            self.store.prune(self.manifest)  # room, where the last run ended in the middle
            if explain:
                self._explain(stages)
                self._plan(stages)
            return self._work(stages)

    def _all_will_score(self) -> bool:
        """Whether every worker will certainly need keras, which takes the longest to load: in a first run on few cores."""
        return "infer" in self.stages and not self.manifest.version and self.spark.sparkContext.defaultParallelism <= _FEW_CORES

    @contextmanager
    def _told_where_full(self) -> Iterator[None]:
        """A full disk is a user's matter: the same sentence, whether the driver or an executor met it; what lay half written is removed.

        Raises
        ------
        StoreError
        """
        try:
            yield
        except Exception as error:
            if not any(word in str(error) for word in _FULL):
                raise
            self.store.prune(self.store.manifest())
            raise StoreError(
                f"There is no room left on the disk of {self.store.root}, or on that of Spark's or Java's temporary files, or these cannot "
                "be written. What was finished is kept: make room and run again; it goes on from there."
            ) from None

    def _work(self, stages: Sequence[str]) -> list[StageSummary]:
        if not self.manifest.version:
            self.manifest.settings = self.settings.model_dump(mode="json")
        self.manifest.version = VERSION
        summaries, earlier = list[StageSummary](), self.manifest.runs[-99:]
        for stage in STAGES:
            if stage.name not in stages:
                continue
            check_reads(stage, self.settings, {table for table, parts in self.manifest.tables.items() if parts})
            self._check_fresh(stage)
            started, began = time.monotonic(), now()
            self.progress.note("stage_started", stage=stage.name)
            self.spark.sparkContext.setJobDescription(f"nalspark {stage.name}")
            with self.progress.watch(self.spark.sparkContext, stage.name), _HOW_TO_READ.get(stage.name, nullcontext)(self.spark):
                summary = getattr(self, f"_{stage.name}")(stage)
            summary.seconds, summary.started = time.monotonic() - started, began
            self._record_settings(stage)
            self.progress.say(str(summary))
            self.progress.note("stage_done", **vars(summary))
            summaries.append(summary)
            if any(summary.parts_done for summary in summaries):
                self.manifest.runs = [*earlier, {summary.stage: vars(summary) for summary in summaries}]
                self.store.commit(self.manifest)
        self.store.prune(self.manifest)
        return summaries

    def _record_settings(self, stage: Stage) -> None:
        """What the manifest says was used: of a stage that is done its sections; everything where the catalogue is made whole."""
        used, whole = self.settings.model_dump(mode="json"), stage.name == "publish" and set(STAGE_NAMES) <= set(self.stages)
        self.manifest.settings |= used if whole else {section: used[section] for section in stage.sections}

    def _explain(self, stages: Sequence[str]) -> None:
        """Say what changed since the last run: files, settings, model, catalogues, version."""
        if not self.manifest.version:
            self.progress.say(f"first run in {self.store.root}")
            return
        if "ingest" in stages:
            self.progress.say(f"files       {self._file_changes()}")
        given = {"model": self._model().digest} if "infer" in stages else {}
        given |= catalogue_digests(self._catalogues()) if "crossmatch" in stages else {}
        used = self.settings.model_dump(mode="json")
        matter = {section for stage in STAGES if stage.name in stages for section in stage.sections}
        if set(STAGE_NAMES) <= set(stages):  # the whole catalogue: also the sources and catalogues, which no stage has for a section
            matter = set(used)
        changes = value_changes(*({key: tree[key] for key in matter & tree.keys()} for tree in (self.manifest.settings, used)))
        changes += value_changes({key: self.manifest.inputs.get(key, "none") for key in given}, given)
        changes += value_changes({"nalspark": self.manifest.version}, {"nalspark": VERSION})
        for change in changes or ["no setting, model or catalogue changed"]:
            self.progress.say(f"changed     {change}" if changes else f"            {change}")

    def _check_fresh(self, stage: Stage) -> None:
        """Refuse to build on parts that were made from something else than what is there now, or with other settings.

        A catalogue may be published with such parts, after work on some parts only; then it is said. That `spectra` is out of date is not
        seen here: only a listing of the files tells.
        """
        for earlier in STAGES:
            ours = earlier.table in reads(stage, self.settings) or (stage.name == "publish" and earlier.name in STAGE_NAMES)
            if not ours or earlier.name in ("ingest", "publish"):
                continue
            if earlier.name == "crossmatch":
                behind = sorted(set().union(*self._unmatched(earlier)))
            else:
                wanted, have = self._wanted(earlier), self.manifest.parts(earlier.table)
                chosen = [part for part in wanted if not self.only_parts or part in self.only_parts or stage.name == "publish"]
                behind = [part for part in chosen if part not in have or have[part].key != wanted[part]]
            if behind and stage.name == "publish":
                self.progress.say(
                    f"note: {len(behind)} part(s) of '{earlier.table}' are out of date; run stage '{earlier.name}' to mend it."
                )
            elif behind:
                raise NalsparkError(
                    f"Stage '{stage.name}' reads table '{earlier.table}', of which {len(behind)} part(s) are out of date. "
                    f"Run stage '{earlier.name}' first."
                )

    def _model(self) -> PackedModel:
        """The network of this run; read once, so that a run does not mix two."""
        if self._packed is None:
            self._packed = chosen_model(self.settings)
        return self._packed

    def _catalogues(self) -> dict[str, list[Catalog]]:
        """The catalogues of this run, by kind; opened once."""
        if self._opened is None:
            self._opened = open_catalogues(self.settings)
        return self._opened

    # ---- keys

    def _causes(self, stage: Stage) -> list[object]:
        sections = [self.settings.model_dump(mode="json", include={section}) for section in stage.sections]
        more: list[object] = [self._model().digest] if stage.name == "infer" else []
        if stage.name == "simulate":  # mocks go through the code of these stages
            more = [other.revision for other in STAGES if other.name in ("preprocess", "search")]
        return [stage.name, stage.revision, SDSS_GRID.fingerprint, sections, *more]

    def _wanted(self, stage: Stage) -> dict[str, str]:
        """Part → key it must have, from the tables that the stage reads."""
        if stage.name == "simulate":
            return self._wanted_examples(stage)
        if stage.name == "eigenspectra":
            made_from = {part: record.key for part, record in self.manifest.parts(NORMALIZED.name).items()}
            return {ALL_QUASARS: digest(self._causes(stage), made_from)}
        parts = [set(self.manifest.parts(table)) for table in stage.reads]
        return {part: digest(self._causes(stage), self.manifest.key_of(stage.reads, part)) for part in sorted(set.intersection(*parts))}

    def _stale(self, stage: Stage, wanted: dict[str, str]) -> list[str]:
        have = self.manifest.parts(stage.table)
        for part in self.only_parts:
            if part not in wanted:
                known = ", ".join([*list(wanted)[:5], *(["…"] if len(wanted) > 5 else [])])
                raise NalsparkError(f"There is no part '{part}' for stage '{stage.name}'; there are {known}.{did_you_mean(part, wanted)}")
        chosen = [part for part in wanted if not self.only_parts or part in self.only_parts]
        return [part for part in chosen if stage.name in self.force or part not in have or have[part].key != wanted[part]]

    # ---- a stage that works part by part

    def _by_part(
        self,
        stage: Stage,
        table: Table,
        wanted: dict[str, str],
        compute: Callable[[list[str]], DataFrame],
        expected: Callable[[list[str]], int],
        size: Callable[[list[str]], int] | None = None,
    ) -> StageSummary:
        """Make the stale parts in waves; `expected` counts the rows of some parts, or is negative where any number is right.

        Waves are bundled by `size`, by default the expected rows.
        """
        recorded = self.manifest.parts(stage.table)
        stale = self._stale(stage, wanted)
        rows_in = partial(self._rows_in, stage, size=size or expected)
        self.progress.expect(rows_in(stale))
        if gone := set(recorded) - set(wanted) if not self.only_parts else set():
            for part in gone:
                del recorded[part]
            self.store.commit(self.manifest)
        summary = StageSummary(stage.name, len(stale), len(wanted))
        done = 0
        for wave in self._waves(stale, size or expected):
            self.progress.begin(rows_in(wave))
            self.spark.sparkContext.setJobDescription(f"nalspark {stage.name}: {wave[0]} to {wave[-1]}, {done} of {len(stale)} parts done")
            keys = {part: wanted[part] for part in wave}
            run = self.store.new_run(self.manifest, table.name, digest(stage.name, keys))
            made = self.store.write(self._partitioned(compute(wave)), table, run, keys)
            rows, due = sum(part.rows for part in made.values()), expected(wave)
            if due >= 0 and rows != due:
                raise StoreError(
                    f"Stage '{stage.name}' wrote {rows} rows where {due} were due; the manifest is left as it was. Run it again."
                )
            recorded.update(made)
            self.store.commit(self.manifest)
            summary.rows += rows - sum(part.rejected for part in made.values())
            summary.rejected += sum(part.rejected for part in made.values())
            summary.rows_in += rows_in(wave)
            summary.spectra += self._rows("spectra", [part for part in wave if part in self.manifest.parts("spectra")], usable=False)
            summary.bytes += self.store.size(made.values())
            done += len(wave)
            self.progress.advance()
            self.progress.note("parts_done", stage=stage.name, parts=done, of=len(stale), rows=summary.rows, rejected=summary.rejected)
            if len(wave) < len(stale):
                self.progress.say(f"{stage.name:<11} {done} of {len(stale)} parts done, {summary.rows} rows{self.progress.pace.text()}")
        return summary

    def _rows_in(self, stage: Stage, parts: list[str], size: Callable[[list[str]], int]) -> int:
        """Usable rows that a stage reads of some parts; files where it reads none."""
        if not stage.reads:
            return max(size(parts), 0)
        table = stage.reads[-1]
        return self._rows(table, [part for part in parts if part in self.manifest.parts(table)], usable=True)

    def _waves(self, parts: list[str], size: Callable[[list[str]], int]) -> Iterator[list[str]]:
        """The parts in bundles that one write makes."""
        limits, wave, rows = self.settings.pipeline, list[str](), 0
        for part in parts:
            wave.append(part)
            rows += max(size([part]), 0)
            if len(wave) >= limits.parts_per_wave or rows >= limits.rows_per_wave:
                yield wave
                wave, rows = [], 0
        if wave:
            yield wave

    def _partitioned(self, frame: DataFrame) -> DataFrame:
        count = self.settings.pipeline.partitions
        return frame.repartition(count) if count else frame

    def _one_file_a_part(self, frame: DataFrame) -> DataFrame:
        """Narrow rows brought together by part: to make a file on a local disk Java starts three processes, for `chmod`."""
        return self._partitioned(frame) if self.settings.pipeline.partitions else frame.repartition("part")

    def _usable(self, table: Table, parts: list[str]) -> DataFrame:
        frame = self.store.read(self.spark, self.manifest, table, parts)
        return frame.where(F.col("reason").isNull()) if "reason" in table.names else frame

    def _rows(self, table: str, parts: list[str], *, usable: bool) -> int:
        recorded = self.manifest.parts(table)
        return sum(recorded[part].rows - (recorded[part].rejected if usable else 0) for part in parts)

    # ---- the stages

    def _files(self) -> DataFrame:
        """The list of files, made once a run."""
        if self._listed is None:
            self._listed = self._partitioned(surveys.list_files(self.spark, classify(self.settings.spectra), self.settings)).persist()
        return self._listed

    def _wanted_of_files(self) -> tuple[dict[str, str], dict[str, int]]:
        """Keys and numbers of files of the parts that the sources hold."""
        if self._parts_listed is None:
            fingerprint = F.sum(F.xxhash64("path", "size", "modified_ns").cast("decimal(38,0)")).cast("string")
            rows = sorted(self._files().groupBy("part").agg(F.count("*").alias("n"), fingerprint.alias("content")).collect())
            if not rows:
                raise NalsparkError("No spectrum files (*.fits, *.fit, also .gz) were found below the given spectra.")
            keys = {row["part"]: digest(self._causes(_INGEST), row["n"], row["content"]) for row in rows}
            self._parts_listed = keys, {row["part"]: row["n"] for row in rows}
        return self._parts_listed

    def _file_changes(self) -> FileChanges:
        """What the listing has that the last one had not; only parts whose key differs are compared file by file."""
        wanted, files = self._wanted_of_files()
        recorded = self.manifest.parts(FILES.name)
        same = {part for part, key in wanted.items() if part in recorded and recorded[part].key == key}
        n_same = sum(files[part] for part in same)
        if not (other := (recorded.keys() | wanted.keys()) - same):
            return FileChanges(0, 0, 0, n_same)
        before = self.store.read(self.spark, self.manifest, FILES, other)
        return file_changes(before, self._files().where(F.col("part").isin(other)), n_same)

    def _check_emptied(self, roots: Sequence[str]) -> None:
        """Refuse a folder that held spectra at the last run and holds none: more likely it is not mounted than empty."""
        places = self.spark.createDataFrame([(root, root.rstrip("/") + "/") for root in roots], "root string, above string")

        def filled(files: DataFrame) -> set[str]:
            below = files.join(F.broadcast(places), F.col("path").startswith(F.col("above")))
            return {row["root"] for row in below.select("root").distinct().collect()}

        if emptied := sorted(filled(self.store.read(self.spark, self.manifest, FILES)) - filled(self._files())):
            raise NalsparkError(
                f"'{emptied[0]}' held spectra at the last run and holds none now: is it mounted? The catalogue is left as it was. "
                "If they are gone for good, take the folder out of `spectra`."
            )

    def _ingest(self, stage: Stage) -> StageSummary:
        wanted, files = self._wanted_of_files()
        sources = classify(self.settings.spectra)
        if set(self.manifest.parts(FILES.name)) - set(wanted):
            self._check_emptied(sources.roots)
        has_urls = bool(sources.remote or sources.lists)
        cores = self.spark.sparkContext.defaultParallelism
        listing = self.store.new_run(self.manifest, FILES.name, "listing")
        listed = self.manifest.tables[FILES.name] = {p: record for p, record in self.manifest.parts(FILES.name).items() if p in wanted}
        # On disk, what will be read stays as it was found, and the next run is told what changed.
        if stale := self._stale(stage, wanted):
            due = self.store.write_rows(self._files().where(F.col("part").isin(stale)), FILES, listing)
        self._files().unpersist()  # nobody asks for it again

        def compute(parts: list[str]) -> DataFrame:
            listed.update({p: Part(wanted[p], self.store.place(FILES, listing, p), files[p]) for p in parts})
            wave = due.where(F.col("part").isin(parts)).select("path", "part")
            tasks = self.settings.pipeline.partitions or max(cores, sum(files[part] for part in parts) // 1000)
            # Neighbouring paths in one task: it writes few parts and reads few folders.
            wave = wave.repartitionByRange(tasks, "part", "path").sortWithinPartitions("part", "path")
            remote = F.col("path").rlike("^[A-Za-z][A-Za-z0-9+.-]*:/")
            frames = [surveys.ingest(wave.where(~remote))]
            if has_urls:
                frames.append(surveys.ingest(surveys.remote_contents(wave.where(remote))))
            return frames[0] if len(frames) == 1 else frames[0].unionByName(frames[1])

        return self._by_part(stage, surveys.SPECTRA_READ, wanted, compute, lambda parts: sum(files[part] for part in parts))

    def _crossmatch_keys(self, stage: Stage) -> dict[str, str]:
        """Part → digest of what its targets and matches are made from: the key of the matches; that of the targets tells their content."""
        known = {kind: [(catalog.name, catalog.digest) for catalog in found] for kind, found in self._catalogues().items()}
        causes = digest(self._causes(stage), known)
        return {part: digest(causes, record.key) for part, record in self.manifest.parts("spectra").items()}

    def _unmatched(self, stage: Stage) -> tuple[set[str], set[str]]:
        """Parts whose spectra, or what they are matched with, changed since they were matched; and parts that are gone."""
        wanted, have = self._crossmatch_keys(stage), self.manifest.parts(MATCHES.name)
        changed = {part for part, key in wanted.items() if part not in have or have[part].key != key}
        return changed, have.keys() - wanted.keys()

    def _with_duplicates(self, changed: set[str], gone: set[str]) -> set[str]:
        """These parts, and those with another row of a spectrum that lies in one of them or lay there: which row is kept may change."""
        parts = set(changed)
        while others := self.manifest.parts(TARGETS.name).keys() - parts - gone:
            now = self._usable(surveys.SPECTRA_READ, sorted(parts)).select("spectrum_id")
            before, elsewhere = (self.store.read(self.spark, self.manifest, TARGETS, sorted(some)) for some in (parts | gone, others))
            ids = now.unionByName(before.select("spectrum_id"))
            shared = elsewhere.select("spectrum_id", "part").join(ids, "spectrum_id", "left_semi").select("part").distinct().collect()
            if not shared:
                break
            parts |= {row["part"] for row in shared}
        return parts

    def _crossmatch(self, stage: Stage) -> StageSummary:
        """Parts that changed, and those with duplicates of their spectra. Downstream sees only the parts whose targets changed."""
        changed, gone = self._unmatched(stage)
        total = len(self.manifest.parts("spectra"))
        if stage.name in self.force:
            changed = set(self.manifest.parts("spectra"))
        if not changed and not gone:
            return StageSummary(stage.name, 0, total)
        parts = sorted(self._with_duplicates(changed, gone))
        catalogues = self._catalogues()
        targets, matches = self.manifest.parts(TARGETS.name), self.manifest.parts(MATCHES.name)
        for part in gone:
            targets.pop(part, None)
            matches.pop(part, None)
        if parts:
            made = self._match(stage, parts)
            targets.update(made[TARGETS.name])
            matches.update(made[MATCHES.name])
        named = [(kind, catalogue.name, catalogue.n_rows) for kind, found in catalogues.items() for catalogue in found]
        whole = partial(self.store.read, self.spark, self.manifest)
        self.manifest.catalogues = match_counts(whole(TARGETS), whole(MATCHES), named) if named else []
        self.manifest.inputs = {name: known for name, known in self.manifest.inputs.items() if name == "model"} | catalogue_digests(
            catalogues
        )
        self.manifest.keys.pop(stage.name, None)  # of results made when all parts had one key
        self._say_matches()
        self.store.commit(self.manifest)
        records, due = [targets[part] for part in parts], self._rows("spectra", parts, usable=True)
        rejected = sum(record.rejected for record in records)
        return StageSummary(
            stage.name, len(parts), total, due - rejected, rejected, rows_in=due, spectra=due, bytes=self.store.size(records)
        )

    def _match(self, stage: Stage, parts: list[str]) -> dict[str, dict[str, Part]]:
        """Write the targets and matches of some parts, which share no spectrum with others."""
        catalogues = self._catalogues()
        quasars, absorbers = ([(c.name, catalog_frame(self.spark, c)) for c in catalogues[kind]] for kind in ("quasars", "absorbers"))
        spectra = mark_duplicates(self._usable(surveys.SPECTRA_READ, parts)).persist()
        hits = find_sightlines(spectra, quasars, absorbers, self.settings).persist()
        targets, matches = crossmatch(spectra, hits, [name for name, _ in quasars], [name for name, _ in absorbers], self.settings)
        wanted = self._crossmatch_keys(stage)
        keys = {part: wanted[part] for part in parts}
        run = self.store.new_run(self.manifest, TARGETS.name, digest(keys))
        made = self.store.write(self._one_file_a_part(targets), TARGETS, run, keys)
        due = self._rows("spectra", parts, usable=True)
        if sum(part.rows for part in made.values()) != due:
            raise StoreError(f"Stage 'crossmatch' wrote another number of rows than the {due} spectra it read. Run it again.")
        content = F.sum(F.xxhash64(*_TARGET_CAUSES).cast("decimal(38,0)")).cast("string").alias("content")
        written = self.store.read(self.spark, Manifest(tables={TARGETS.name: made}), TARGETS)
        found = together(
            matches=lambda: self.store.write(self._one_file_a_part(matches), MATCHES, run, keys),
            contents=lambda: {row["part"]: row["content"] for row in written.groupBy("part").agg(content).collect()},
        )
        for frame in (spectra, hits):
            frame.unpersist()
        targets_made = {part: replace(record, key=digest(record.rows, found["contents"].get(part))) for part, record in made.items()}
        return {TARGETS.name: targets_made, MATCHES.name: found["matches"]}

    def _say_matches(self) -> None:
        for counts in self.manifest.catalogues:
            self.progress.say(
                "  {catalogue}: {rows_matched} of its {rows} rows have a spectrum; in it are {spectra_by_id} spectra by id and "
                "{spectra_on_sky} by position, {spectra_unmatched} are not".format(**counts)
            )

    def _preprocess(self, stage: Stage) -> StageSummary:
        def compute(parts: list[str]) -> DataFrame:
            spectra = self._usable(surveys.SPECTRA_READ, parts)
            return absorption.preprocess(spectra, self._usable(TARGETS, parts), self.settings)

        def due(parts: list[str]) -> int:
            return self._rows("targets", parts, usable=True)

        return self._by_part(stage, NORMALIZED, self._wanted(stage), compute, due)

    def _search(self, stage: Stage) -> StageSummary:
        def compute(parts: list[str]) -> DataFrame:
            return absorption.search(self._usable(NORMALIZED, parts), self.settings)

        return self._by_part(stage, CANDIDATES, self._wanted(stage), compute, lambda _: -1)

    def _infer(self, stage: Stage) -> StageSummary:
        packed, wanted = self._model(), self._wanted(stage)
        self.manifest.inputs["model"] = packed.digest

        def due(parts: list[str]) -> int:
            return self._rows("candidates", parts, usable=False)

        workers = sys.maxsize if self._keras_ahead else 1 + due(self._stale(stage, wanted)) // _WORTH_LOADING

        def compute(parts: list[str]) -> DataFrame:
            candidates = self._usable(CANDIDATES, parts)
            if packed.card.inputs == absorption.IMAGE_COLUMNS:
                tasks = min(1 + due(parts) // _SCORED_PER_TASK, workers)
                return score(candidates.coalesce(tasks), packed, self.settings.infer).select(*SCORES.names)
            spectra = score(absorption.whole_spectra(self._usable(NORMALIZED, parts), self.settings), packed, self.settings.infer)
            return candidates.join(F.broadcast(spectra.select("spectrum_id", "score")), "spectrum_id").select(*SCORES.names)

        return self._by_part(stage, SCORES, wanted, compute, due)

    def _measure(self, stage: Stage) -> StageSummary:
        def compute(parts: list[str]) -> DataFrame:
            return absorption.measure(self._usable(CANDIDATES, parts), self._usable(SCORES, parts), self.settings)

        return self._by_part(stage, absorption.measured_table(self.settings), self._wanted(stage), compute, lambda _: -1)

    def _publish_key(self, stage: Stage) -> str:
        tables = (*stage.reads, MATCHES.name)
        made_from = {table: {part: record.key for part, record in self.manifest.parts(table).items()} for table in tables}
        return digest(self._causes(stage), made_from, VERSION)

    def _is_published(self, stage: Stage, key: str) -> bool:
        complete = all(self.store.published(name).exists() for name in self.manifest.published)
        return self.manifest.keys.get(stage.name) == key and complete and stage.name not in self.force

    def _publish(self, stage: Stage) -> StageSummary:
        key = self._publish_key(stage)
        if self._is_published(stage, key):
            return StageSummary(stage.name, 0, 1)
        # Files are replaced one by one: if that is cut short, the next run must not take the mixture for a result.
        self.manifest.keys.pop(stage.name, None)
        self.store.commit(self.manifest)
        self._record_settings(stage)  # the report, and the version that is kept, tell of them
        self.manifest.published = publish(self.spark, self.store, self.manifest, self.settings)
        self.manifest.keys[stage.name] = key
        self.manifest.publication, self.manifest.published_on = self.manifest.publication + 1, now()
        keep_version(self.store, self.manifest, self.settings.pipeline.versions_kept)
        self.store.commit(self.manifest)
        rows_in, spectra = self._rows("measured", list(self.manifest.parts("measured")), usable=True), self.manifest.rows("targets")[0]
        found, size = self.manifest.published["absorbers.parquet"], self.store.published_size(self.manifest.published)
        return StageSummary(stage.name, 1, 1, found, rows_in=rows_in, spectra=spectra, bytes=size)

    # ---- learning

    def _eigenspectra(self, stage: Stage) -> StageSummary:
        """All parts together: a bin of redshift holds quasars of every part. The reconstruction errors are told."""

        def compute(_: list[str]) -> DataFrame:
            return fit_eigenspectra_by_bin(self._usable(NORMALIZED, list(self.manifest.parts(NORMALIZED.name))), self.settings)

        summary = self._by_part(stage, EIGENSPECTRA, self._wanted(stage), compute, lambda _: -1)
        for model in self._quasar_models():
            self.progress.say(
                f"  z {model.z_low:.1f} to {model.z_high:.1f}: {model.n_quasars} quasars, {len(model.variance)} eigenspectra, "
                f"reconstruction error {model.reconstruction_error:.3f} on {model.n_held_out} others"
            )
        return summary

    def _quasar_models(self) -> tuple[Eigenspectra, ...]:
        found = eigenspectra_of(to_arrow(self.store.read(self.spark, self.manifest, EIGENSPECTRA), EIGENSPECTRA))
        if not found:
            raise NalsparkError("No bin of redshift has two quasars to learn eigenspectra from. Give more spectra, or set wider bins.")
        return found

    @cached_property
    def _sky(self) -> SkyNoise | None:
        """Noise of real sky fibers, where it is asked for."""
        folder = self.settings.simulate.sky
        return sky_noise(folder) if folder else None

    @cached_property
    def _sample(self) -> tuple[float, ...]:
        """Quantiles of the equivalent widths of the catalogue of the empirical population."""
        chosen = self.settings.simulate
        if chosen.population != "empirical":
            return ()
        return equivalent_width_quantiles(open_catalog(chosen.catalogue, "absorbers", self.settings.species))

    def _wanted_examples(self, stage: Stage) -> dict[str, str]:
        made_from = self.manifest.key_of(reads(stage, self.settings), ALL_QUASARS)
        made_of = [self._sky.digest if self._sky else "", made_from or "", self._sample]
        return {part: digest(self._causes(stage), part, made_of) for part in mocks.example_parts(self.settings)}

    def _simulate(self, stage: Stage) -> StageSummary:
        """Artificial spectra, part by part; a part belongs to one split, and every spectrum is another quasar's."""
        learned = self.settings.simulate.continuum == "eigenspectra"
        continuum = DrawnQuasars(self._quasar_models()) if learned else None
        recipes = mocks.recipes(self.settings, self._sky, continuum, self._sample)

        def compute(parts: list[str]) -> DataFrame:
            return mocks.simulate(mocks.mock_names(self.spark, parts, self.settings), recipes, self.settings)

        def size(parts: list[str]) -> int:
            return len(parts) * self.settings.simulate.spectra_per_part * _MOCK_WEIGHT

        return self._by_part(stage, mocks.examples_table(self.settings), self._wanted(stage), compute, lambda _: -1, size)

    def _example_files(self) -> dict[str, tuple[str, ...]]:
        """The Parquet files of every split."""
        files: dict[str, list[str]] = {}
        for part, record in self.manifest.parts("training").items():
            if record.path:
                files.setdefault(part.rpartition("-")[0], []).extend(self.store.files(record))
        return {split: tuple(sorted(found)) for split, found in files.items()}

    def _train_key(self, stage: Stage) -> str:
        made_from = {part: record.key for part, record in self.manifest.parts("training").items()}
        return digest(self._causes(stage), made_from, VERSION)

    def _is_trained(self, stage: Stage, key: str) -> bool:
        return self.manifest.keys.get(stage.name) == key and self.store.published("model").is_dir() and stage.name not in self.force

    def _train(self, stage: Stage) -> StageSummary:
        key = self._train_key(stage)
        if self._is_trained(stage, key):
            return StageSummary(stage.name, 0, 1)
        columns, shape = example_inputs(self.settings)
        parts = {part: record.key for part, record in self.manifest.parts("training").items()}
        examples = Examples(self._example_files(), columns, shape, SDSS_GRID.fingerprint, self.settings.species, digest(parts))
        # The model is replaced before its key is: a run that is cut short between must not be taken for the old one.
        self.manifest.keys.pop(stage.name, None)
        self.store.commit(self.manifest)
        rows = self._fit_model(examples)
        self.manifest.keys[stage.name] = key
        self.store.commit(self.manifest)
        shutil.rmtree(self.store.checkpoints, ignore_errors=True)
        return StageSummary(stage.name, 1, 1, rows)

    def _fit_model(self, examples: Examples) -> int:
        """Train on the examples and put the model, with its pictures, in its place; how many were trained on."""
        # TensorFlow takes seconds and half a gigabyte: only who trains waits for it.
        from nalspark.learning.build import build_model
        from nalspark.learning.feed import Feed
        from nalspark.learning.training import Fitted, fit_on_spark, train_members

        how, checkpoints = self.settings.train, str(self.store.checkpoints)

        def fit(train: Feed, validation: Feed) -> list[Fitted]:
            if how.workers > 1:
                return fit_on_spark(self.spark, train, validation, how, checkpoints=checkpoints, progress=self.progress.say)
            return train_members(train, validation, how, checkpoints=checkpoints, progress=self.progress.say)

        folder = self.store.published("model")
        built = build_model(examples, self.settings, folder, fit, self.progress.say)
        for name, figure in training_figures(built.histories, built.labels, built.scores).items():
            figure.savefig(folder / f"{name}.png", dpi=110)
        return built.n_train

    # ---- dry run

    def _plan(self, stages: Sequence[str]) -> list[StageSummary]:
        """What a run would do. Which parts a stage with work will change for those after it is not known before it has run."""
        plan, upstream = [], False
        for stage in STAGES:
            if stage.name not in stages:
                continue
            stale, total = self._stale_count(stage)
            plan.append(StageSummary(stage.name, stale, total))
            work = [f"{stale} of {total} parts to do"] if stale else []
            work += ["what the stages before it change"] if upstream else []
            self.progress.say(f"{stage.name:<11} {', and '.join(work) or 'up to date'}")
            upstream = upstream or stale > 0
        return plan

    def _stale_count(self, stage: Stage) -> tuple[int, int]:
        if stage.name == "ingest":
            wanted, _ = self._wanted_of_files()
            return len(self._stale(stage, wanted)), len(wanted)
        if not all(self.manifest.parts(table) for table in reads(stage, self.settings)):
            return 1, 1
        if stage.name == "crossmatch":
            total = len(self.manifest.parts("spectra"))
            return total if stage.name in self.force else len(self._unmatched(stage)[0]), total
        if stage.name == "publish":
            return int(not self._is_published(stage, self._publish_key(stage))), 1
        if stage.name == "train":
            return int(not self._is_trained(stage, self._train_key(stage))), 1
        wanted = self._wanted(stage)
        return len(self._stale(stage, wanted)), len(wanted)

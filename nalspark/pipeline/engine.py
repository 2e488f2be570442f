"""The engine: which parts must be there with which key, in which waves they are made, and the manifest. It knows no stage.

A part of a table has a key: the digest of its stage's revision, the settings that matter to it, and the parts it was made from. A part is
made again when its key has changed, and only then. Parts are worked on in waves, and the manifest is written after each, so a crash costs
one wave.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.errors import INTERNAL_ERROR, NalsparkError, StoreError, did_you_mean
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Stage
from nalspark.progress import Progress, now
from nalspark.session import describe_jobs, lent, load_ahead, shuffles, together
from nalspark.settings import Settings, chosen_values
from nalspark.tables.changes import value_changes
from nalspark.tables.manifest import Manifest, Part, digest
from nalspark.tables.store import Store
from nalspark.tables.table import Table
from nalspark.version import VERSION

#: What the system, and Java, say of a disk that is full, of a quota or of a limit on the size of files; the last where Parquet's
#: compression finds no room to unpack its library in.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "no snappyjava in java.library.path")
#: What the system, and Java, say of a disk that fails or may not be written.
_FAILED = ("Input/output error", "Stale file handle", "Read-only file system", "Permission denied", "Mkdirs failed to create")


@dataclass
class StageSummary:
    """What a stage did: parts made anew, of all; rows that it read, wrote and rejected; bytes written; when it began (UTC).

    `faults` are those of the rejected that met a fault of nalspark itself, `spectra` the spectra in the parts.
    """

    stage: str
    parts_done: int
    parts: int
    rows: int = 0
    rejected: int = 0
    faults: int = 0
    seconds: float = 0.0
    rows_in: int = 0
    spectra: int = 0
    bytes: int = 0
    started: str = ""

    def add(self, records: Collection[Part], rows_in: int, spectra: int) -> None:
        """Count parts that were made."""
        rejected = sum(record.rejected for record in records)
        self.rows += sum(record.rows for record in records) - rejected
        self.rejected += rejected
        self.faults += sum(record.faults for record in records)
        self.rows_in += rows_in
        self.spectra += spectra

    def __str__(self) -> str:
        if not self.parts_done:
            return f"{self.stage:<11} up to date ({self.parts} parts)"
        done, what = (self.spectra, "spectra") if self.spectra else (self.rows, "rows")
        rate = f", {done / self.seconds:.0f} {what}/s" if self.seconds > 0 else ""
        rejected = f", {self.rejected} rejected" if self.rejected else ""
        faults = f" ({self.faults} by a fault of nalspark itself: internal_error)" if self.faults else ""
        return f"{self.stage:<11} {self.parts_done} of {self.parts} parts: {self.rows} rows{rejected}{faults} in {self.seconds:.1f} s{rate}"


def check_names(stages: Sequence[Stage], chosen: Collection[str]) -> None:
    """Refuse names that no stage has.

    Raises
    ------
    NalsparkError
    """
    known = [stage.name for stage in stages]
    for name in chosen:
        if name not in known:
            raise NalsparkError(f"There is no stage '{name}'; there are {', '.join(known)}.{did_you_mean(name, known)}")


def check_reads(stages: Sequence[Stage], stage: Stage, present: Collection[str]) -> None:
    """Refuse a stage that reads a table which is not present, and name all stages that have to run before.

    Raises
    ------
    NalsparkError
    """
    absent = [table for table in stage.reads if table not in present]
    if not absent:
        return
    wanted = list(absent)
    for table in wanted:  # grows: what makes a table reads tables of its own
        maker = next(other for other in stages if table in _tables(other))
        wanted += [other for other in maker.reads if other not in present and other not in wanted]
    first = [f"'{other.name}'" for other in stages if any(table in wanted for table in _tables(other))]
    raise NalsparkError(
        f"Stage '{stage.name}' reads table '{absent[0]}', which is not there yet. "
        f"Run stage{'s' if len(first) > 1 else ''} {', '.join(first)} first."
    )


def check_stages(stages: Sequence[Stage], settings: Settings, chosen: Collection[str], *, dry_run: bool = False) -> None:
    """Refuse what cannot work, before a session is started; for a dry run the output directory need not be writable.

    Raises
    ------
    NalsparkError
        Where a stage is unknown or lacks its input, something that it was given cannot be used, or the output directory cannot.
    """
    check_names(stages, chosen)
    store = Store(settings.out)
    store.check(writable=not dry_run)
    present = _present(store.manifest())
    for stage in stages:
        if stage.name in chosen:
            check_reads(stages, stage, present)
            present |= _tables(stage).keys()
    for stage in stages:
        if stage.name in chosen:
            stage.check()


def _tables(stage: Stage) -> dict[str, Table]:
    return {table.name: table for table in (stage.table, *stage.more)}


def _present(manifest: Manifest) -> set[str]:
    return {table for table, parts in manifest.tables.items() if parts}


class Engine:
    """Stages at work in one output directory.

    Parameters
    ----------
    spark, settings, progress
        Of the :class:`Run`.
    stages : sequence of Stage
        All that there are, in their order.
    usual : sequence of str
        Those that run where none is named; the last of them tells of the settings of all.
    """

    def __init__(self, spark: SparkSession, settings: Settings, progress: Progress, stages: Sequence[Stage], usual: Sequence[str]) -> None:
        self.stages, self.usual = stages, usual
        self._run = Run(spark, settings, progress)
        self.chosen: Collection[str] = ()
        self.force: Collection[str] = ()
        self.only_parts: Collection[str] = ()

    def run(
        self,
        stages: Collection[str] = (),
        parts: Collection[str] = (),
        *,
        force: bool = False,
        dry_run: bool = False,
        explain: bool = False,
        allow_removals: bool = False,
    ) -> list[StageSummary]:
        """Bring the output directory up to date.

        Parameters
        ----------
        stages : collection of str
            Stages to run, the usual ones by default; what they read must be there.
        parts : collection of str
            Only these parts; all by default.
        force : bool
            Make the stages' parts anew although nothing changed.
        dry_run : bool
            Say what would be done, and do nothing.
        explain : bool
            Say first what changed since the last run, and what will be done.
        allow_removals : bool
            Believe that files which are not there any more are gone for good, however many.

        Raises
        ------
        NalsparkError
            Of any kind; nothing that was there is lost.
        """
        self.chosen = stages or self.usual
        check_names(self.stages, self.chosen)
        self.force, self.only_parts = (self.chosen if force else ()), parts
        self._run.allow_removals = allow_removals
        try:
            with lent(self._run.spark):
                return self._look_ahead(explain=explain) if dry_run else self._bring_up(explain=explain)
        finally:
            for stage in self.stages:
                stage.close()

    def _look_ahead(self, *, explain: bool) -> list[StageSummary]:
        run = self._run
        run.store.check(writable=False)
        run.manifest = run.store.manifest()
        if explain:
            self._explain()
        plan = self._plan()
        if holder := run.store.holder():
            run.progress.say(f"note: {run.store.root} is in use by {holder}: until it ends the run is refused.")
        try:
            run.store.check()
        except StoreError as why:
            run.progress.say(f"note: {why} The run needs another user.")
        return plan

    def _bring_up(self, *, explain: bool) -> list[StageSummary]:
        run = self._run
        with run.store.lock(), self._sentence_where_disk_fails():
            run.manifest = run.store.manifest()
            load_ahead(run.spark)
            run.store.prune(run.manifest)  # room, where the last run ended in the middle
            if explain:
                self._explain()
                self._plan()
            return self._work()

    def _at_work(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.name in self.chosen]

    @contextmanager
    def _sentence_where_disk_fails(self) -> Iterator[None]:
        """Say the same of a disk that is full or fails, whether the driver or an executor met it; what lay half written is removed."""
        store = self._run.store
        try:
            yield
        except Exception as error:
            fault = next((word for word in _FAILED if word in str(error)), "")
            if fault and not isinstance(error, NalsparkError):
                raise StoreError(
                    f"The disk of {store.root}, or that of Spark's or Java's temporary files, fails ({fault}). What was finished is kept: "
                    "run again when it can be written and read; it goes on from there."
                ) from None
            if not any(word in str(error) for word in _FULL):
                raise
            store.prune(store.manifest())
            raise StoreError(
                f"There is no room left on the disk of {store.root}, or on that of Spark's or Java's temporary files, or these cannot "
                "be written. What was finished is kept: make room and run again; it goes on from there."
            ) from None

    # ---- the work

    def _work(self) -> list[StageSummary]:
        run = self._run
        if not run.manifest.version:
            run.manifest.settings = run.settings.model_dump(mode="json")
        run.manifest.version = VERSION
        summaries, earlier = list[StageSummary](), run.manifest.runs[-99:]
        for stage in self._at_work():
            check_reads(self.stages, stage, _present(run.manifest))
            self._check_fresh(stage)
            summary = self._timed(stage)
            self._record_settings(stage)
            run.progress.say(str(summary))
            run.progress.note("stage_done", **vars(summary))
            summaries.append(summary)
            if any(summary.parts_done for summary in summaries):
                run.manifest.runs = [*earlier, {summary.stage: vars(summary) for summary in summaries}]
                run.store.commit(run.manifest)
        run.store.prune(run.manifest)
        return summaries

    def _timed(self, stage: Stage) -> StageSummary:
        run = self._run
        started, began = time.monotonic(), now()
        run.progress.note("stage_started", stage=stage.name)
        describe_jobs(run.spark, f"nalspark {stage.name}")
        with run.progress.watch(run.spark, stage.name), stage.reading(run.spark):
            summary = self._make(stage)
        summary.seconds, summary.started = time.monotonic() - started, began
        return summary

    def _make(self, stage: Stage) -> StageSummary:
        """Make the stale parts of a stage in waves, and forget those that are gone."""
        run, wanted = self._run, stage.wanted(self._run)
        recorded = run.manifest.parts(stage.table.name)
        stale, gone = self._due(stage, wanted)
        stage.accept(run, {*stale, *gone})
        summary = StageSummary(stage.name, len(stale), len(wanted))
        if not stale and not gone:
            return summary
        for table in _tables(stage):
            for part in gone:
                run.manifest.parts(table).pop(part, None)
        if stage.in_place:  # until it is done, what is there must not be taken for a result
            self._record_settings(stage)
            for part in stale:
                recorded.pop(part, None)
            run.store.commit(run.manifest)
        run.stale, spectra = stale, self._spectra(stage, stale)
        run.progress.expect(spectra or self._rows_in(stage, stale), "spectra" if spectra else "rows")
        for wave in self._waves(stage, stale):
            self._wave(stage, wave, wanted, summary)
        stage.finish(run)
        run.manifest.inputs |= stage.given(run)
        run.store.commit(run.manifest)
        return summary

    def _wave(self, stage: Stage, wave: list[str], wanted: dict[str, str], summary: StageSummary) -> None:
        """Make some parts, count them, and write the manifest."""
        run, rows_in, of = self._run, self._rows_in(stage, wave), summary.parts_done
        done = run.stale.index(wave[0])
        run.progress.begin(self._spectra(stage, wave) or rows_in)
        describe_jobs(run.spark, f"nalspark {stage.name}: {wave[0]} to {wave[-1]}, {done} of {of} parts done")
        with shuffles(run.spark, max(rows_in, stage.weight(run, wave)), run.settings.pipeline.partitions):
            made = self._write(stage, {part: wanted[part] for part in wave})
        for name, parts in made.items():
            run.manifest.parts(name).update(parts)
        if len(wave) < of:  # else when the stage has finished
            run.store.commit(run.manifest)
        own = made[stage.table.name].values()
        summary.add(own, rows_in, sum(record.rows for record in own) if stage.spectra else self._spectra(stage, wave))
        summary.bytes += run.store.size(made[stage.table.name].values())
        done += len(wave)
        run.progress.advance()
        run.progress.note("parts_done", stage=stage.name, parts=done, of=of, rows=summary.rows, rejected=summary.rejected)
        if len(wave) < of:
            run.progress.say(f"{stage.name:<11} {done} of {of} parts done, {summary.rows} rows{run.progress.pace.text()}")

    def _write(self, stage: Stage, keys: dict[str, str]) -> dict[str, dict[str, Part]]:
        """Write what a stage makes of some parts; table → part → record. The manifest does not know of it yet."""
        run, own, tables = self._run, stage.table.name, _tables(stage)
        frames, made = dict[str, DataFrame](), dict[str, dict[str, Part]]()
        with run.after_wave:
            rows_of = stage.compute(run, list(keys))
            for name, rows in (rows_of if isinstance(rows_of, Mapping) else {own: rows_of}).items():
                if isinstance(rows, DataFrame):
                    frames[name] = rows
                else:
                    made[name] = {part: replace(record, key=keys[part]) for part, record in rows.items()}
            if own in frames:
                made[own] = self._write_table(stage, frames.pop(own), stage.table, keys)
                self._check_rows(stage, list(keys), made[own])
            jobs = {name: partial(self._write_table, stage, frame, tables[name], keys) for name, frame in frames.items()}
            if stage.content:
                jobs[own] = partial(self._with_content, stage, made[own])
            made |= together(**jobs) if jobs else {}
        run.after_wave = ExitStack()
        return made

    def _write_table(self, stage: Stage, frame: DataFrame, table: Table, keys: dict[str, str]) -> dict[str, Part]:
        run, count = self._run, self._run.settings.pipeline.partitions
        place = run.store.new_run(run.manifest, table.name, digest(stage.name, keys))
        made = run.store.write(frame.repartition(count) if count else frame, table, place, keys)
        return {part: replace(record, key=_key_when_made(record.key, record)) for part, record in made.items()}

    def _with_content(self, stage: Stage, made: dict[str, Part]) -> dict[str, Part]:
        """Note of each part a digest of the columns of its rows that matter to those who read them."""
        run = self._run
        content = F.sum(F.xxhash64(*stage.content).cast("decimal(38,0)")).cast("string").alias("content")
        written = run.store.read(run.spark, Manifest(tables={stage.table.name: made}), stage.table)
        contents = {row["part"]: row["content"] for row in written.groupBy("part").agg(content).collect()}
        return {part: replace(record, content=digest(record.rows, contents.get(part))) for part, record in made.items()}

    def _check_rows(self, stage: Stage, parts: list[str], made: dict[str, Part]) -> None:
        rows, due, least = sum(record.rows for record in made.values()), stage.due(self._run, parts), stage.least(self._run, parts)
        if rows < least or (due is not None and rows != due):
            owed = f"{due}" if due is not None else f"at least {least}"
            raise StoreError(f"Stage '{stage.name}' wrote {rows} rows where {owed} were due; the manifest is left as it was. Run it again.")

    def _rows_in(self, stage: Stage, parts: list[str]) -> int:
        """Usable rows that a stage reads of some parts; its own weight where it reads none."""
        return self._run.rows(stage.reads[-1], parts) if stage.reads else stage.weight(self._run, parts)

    def _spectra(self, stage: Stage, parts: list[str]) -> int:
        """Spectra in some parts, by which work is counted; 0 where it is on something else."""
        if stage.spectra:
            return stage.weight(self._run, parts)
        return sum(self._run.rows(other.table.name, parts, usable=False) for other in self.stages if other.spectra)

    def _waves(self, stage: Stage, parts: list[str]) -> Iterator[list[str]]:
        """The parts in bundles that one write makes."""
        limits, wave, rows = self._run.settings.pipeline, list[str](), 0
        for part in parts:
            wave.append(part)
            rows += stage.weight(self._run, [part])
            if not stage.at_once and (len(wave) >= limits.parts_per_wave or rows >= limits.rows_per_wave):
                yield wave
                wave, rows = [], 0
        if wave:
            yield wave

    # ---- what has to be done

    def _due(self, stage: Stage, wanted: dict[str, str]) -> tuple[list[str], set[str]]:
        """Parts that a stage has to make, and those that it has to forget."""
        gone = set() if self.only_parts else self._gone(stage, wanted)
        stale = self._stale(stage, wanted)
        if stale or gone:
            joined = stage.together(self._run, {*stale, *gone})
            stale = [part for part in wanted if part in joined or part in stale]
        return stale, gone

    def _stale(self, stage: Stage, wanted: dict[str, str]) -> list[str]:
        have = self._run.manifest.parts(stage.table.name)
        for part in self.only_parts:
            if part not in wanted:
                known = ", ".join([*list(wanted)[:5], *(["…"] if len(wanted) > 5 else [])])
                raise NalsparkError(f"There is no part '{part}' for stage '{stage.name}'; there are {known}.{did_you_mean(part, wanted)}")
        chosen = [part for part in wanted if not self.only_parts or part in self.only_parts]
        return [part for part in chosen if stage.name in self.force or not self._is_fresh(stage, part, wanted[part], have.get(part))]

    def _gone(self, stage: Stage, wanted: Collection[str]) -> set[str]:
        """Parts of a stage's own that are recorded and no longer wanted."""
        return {part for part in self._run.manifest.parts(stage.table.name) if stage.owns(part)} - set(wanted)

    def _is_fresh(self, stage: Stage, part: str, key: str, record: Part | None) -> bool:
        return record is not None and record.key == key and stage.present(self._run, part)

    def _check_fresh(self, stage: Stage) -> None:
        """Refuse to build on parts that were made from something else than what is there now, or with other settings.

        A tolerant stage may be made with such parts, after work on some parts only; then it is said. That a table is out of date whose
        parts follow from what lies outside is not seen here: only a listing tells.
        """
        run = self._run
        for earlier in self.stages:
            if earlier.outside or not _tables(earlier).keys() & stage.reads:
                continue
            wanted, have = earlier.wanted(run), run.manifest.parts(earlier.table.name)
            # What met a fault that may pass is as good as this run can have it.
            wanted = {part: _key_when_made(key, have[part]) if part in have else key for part, key in wanted.items()}
            some = self.only_parts if not stage.tolerant else ()
            behind = {part for part in wanted if not self._is_fresh(earlier, part, wanted[part], have.get(part))}
            behind = behind & set(some) if some else behind | self._gone(earlier, wanted)
            read = next(table for table in stage.reads if table in _tables(earlier))
            if behind and stage.tolerant:
                run.progress.say(f"note: {len(behind)} part(s) of '{read}' are out of date; run stage '{earlier.name}' to mend it.")
            elif behind:
                raise NalsparkError(
                    f"Stage '{stage.name}' reads table '{read}', of which {len(behind)} part(s) are out of date. "
                    f"Run stage '{earlier.name}' first."
                )

    # ---- what is told

    def _record_settings(self, stage: Stage) -> None:
        """Record in the manifest what was used: of a stage that is done its own settings; everything where all the usual stages ran."""
        used, manifest = self._run.settings.model_dump(mode="json"), self._run.manifest
        if stage.name == self.usual[-1] and set(self.usual) <= set(self.chosen):
            manifest.settings |= used
            return
        for name in stage.sections:
            section, _, leaf = name.partition(".")
            manifest.settings[section] = manifest.settings.get(section, {}) | {leaf: used[section][leaf]} if leaf else used[section]

    def _explain(self) -> None:
        """Say what changed since the last run: outside, settings, what the run was given, version."""
        run, say = self._run, self._run.progress.say
        if not run.manifest.version:
            say(f"first run in {run.store.root}")
            return
        given = dict[str, str]()
        for stage in self._at_work():
            given |= stage.given(run)
            for line in stage.news(run):
                say(line)
        used = run.settings.model_dump(mode="json")
        matter = {name for stage in self._at_work() for name in stage.sections}
        if set(self.usual) <= set(self.chosen):  # all of it: also the sources and catalogues, which no stage has for a section
            matter = set(used)
        changes = value_changes(*(chosen_values(tree, matter) for tree in (run.manifest.settings, used)))
        changes += value_changes({key: run.manifest.inputs.get(key, "none") for key in given}, given)
        changes += value_changes({"nalspark": run.manifest.version}, {"nalspark": VERSION})
        for change in changes or ["no setting, model or catalogue changed"]:
            say(f"changed     {change}" if changes else f"            {change}")

    def _plan(self) -> list[StageSummary]:
        """Say what a run will do, stage by stage; where that depends on what a stage before will find, at most.

        Raises
        ------
        NalsparkError
            As the run would, when all is said.
        """
        plan, refused = list[StageSummary](), list[NalsparkError]()
        least = [len(stale) for _, _, stale, _ in self._foresee(changes=False)]
        for at_least, (stage, wanted, stale, gone) in zip(least, self._foresee(changes=True), strict=True):
            work = [f"{'up to ' if at_least < len(stale) else ''}{len(stale)} of {len(wanted)} parts to do"] if stale else []
            work += [f"{len(gone)} part{'s' if len(gone) > 1 else ''} to remove"] if gone else []
            self._run.progress.say(f"{stage.name:<11} {', '.join(work) or 'up to date'}")
            plan.append(StageSummary(stage.name, len(stale), len(wanted)))
            try:
                stage.accept(self._run, {*stale, *gone})
            except NalsparkError as why:
                refused.append(why)
        if refused:
            raise refused[0]
        return plan

    def _foresee(self, *, changes: bool) -> Iterator[tuple[Stage, dict[str, str], list[str], set[str]]]:
        """Each stage with the parts that it will want, make and forget.

        A part that is made again has another key; where its content counts, `changes` tells whether that is supposed to be another too.
        Which other parts a new file's spectrum lies in only the run itself sees.
        """
        run, recorded = self._run, self._run.manifest
        foreseen = replace(recorded, tables={table: dict(parts) for table, parts in recorded.tables.items()})
        for stage in self._at_work():
            run.manifest = foreseen
            check_reads(self.stages, stage, _present(foreseen))
            if changes:
                self._check_fresh(stage)
            wanted = stage.wanted(run)
            stale, gone = self._due(stage, wanted)
            for parts in map(foreseen.parts, _tables(stage)):
                for part in gone:
                    parts.pop(part, None)
                for part in stale:
                    content = parts[part].content if part in parts and not changes else ""
                    parts[part] = Part(wanted[part], "", 0, content=content)
            run.manifest = recorded
            yield stage, wanted, stale, gone


def _key_when_made(key: str, made: Part) -> str:
    """Give the key of a part as it was made: where it met a fault that may pass never the one that is wanted, so it is made again."""
    return digest(key, INTERNAL_ERROR, *([made.passing] if made.passing else [])) if made.faults or made.passing else key

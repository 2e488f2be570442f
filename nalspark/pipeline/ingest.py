"""From files to spectra."""

from __future__ import annotations

from pyspark.sql import functions as F

from nalspark.pipeline.files import SpectrumFiles
from nalspark.pipeline.run import Run
from nalspark.pipeline.stage import Made, Stage
from nalspark.session import parallelism
from nalspark.settings import Settings
from nalspark.surveys import stages as surveys
from nalspark.tables.schemas import FILES

#: Spectra of a task.
_SPECTRA_PER_TASK = 1000


class Ingest(Stage):
    """Read every file. A part's key is made of the paths, sizes and times of its files."""

    name, table, more = "ingest", surveys.SPECTRA_READ, (FILES,)
    sections = ("ingest",)
    revision = 4
    outside = spectra = True

    def __init__(self, settings: Settings) -> None:
        self.files = SpectrumFiles(settings)

    def check(self) -> None:
        _ = self.files.sources

    def wanted(self, run: Run) -> dict[str, str]:
        return {part: run.key(self, part, files, content) for part, (files, _, content) in self.files.parts(run.spark).items()}

    def news(self, run: Run) -> list[str]:
        lines = [f"files       {self.files.changes(run, self.wanted(run))}"]
        if again := sum(record.passing > 0 for record in run.manifest.parts(self.table.name).values()):
            lines.append(f"            {again} part(s) hold files that could not be opened or read at the last run; they are tried again")
        return lines

    def least(self, run: Run, parts: list[str]) -> int:
        return self.files.count(parts)

    def weight(self, run: Run, parts: list[str]) -> int:
        return self.files.spectra(parts)

    def accept(self, run: Run, parts: set[str]) -> None:
        self.files.check_removals(run, parts)

    def compute(self, run: Run, parts: list[str]) -> Made:
        due = self.files.fix(run).where(F.col("part").isin(parts)).select("path", "part")
        tasks = run.settings.pipeline.partitions or max(parallelism(run.spark), self.files.spectra(parts) // _SPECTRA_PER_TASK)
        # Neighbouring paths in one task: it writes few parts and reads few folders.
        due = due.repartitionByRange(tasks, "part", "path").sortWithinPartitions("part", "path")
        remote = F.col("path").rlike("^[A-Za-z][A-Za-z0-9+.-]*:/")
        read = surveys.ingest(due.where(~remote))
        if self.files.any_remote:
            read = read.unionByName(surveys.ingest(surveys.remote_contents(due.where(remote))))
        return {self.table.name: read, FILES.name: self.files.records(run, parts)}

    def close(self) -> None:
        self.files.close()

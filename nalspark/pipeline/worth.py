"""What the catalogue is worth: absorbers put into its own spectra, doublets of a wrong separation, and the completeness function."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pyspark.sql import DataFrame, SparkSession

from nalspark.absorption.stages import measured_table
from nalspark.judging import stages as judging
from nalspark.judging.completeness import COUNTED, count, tabulate
from nalspark.pipeline.inputs import Inputs
from nalspark.pipeline.run import ALL, Run
from nalspark.pipeline.stage import Stage
from nalspark.session import short_tasks
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.arrow import encode, tally
from nalspark.tables.schemas import COMPLETENESS, DECOYS, INJECTIONS, SEARCHED
from nalspark.tables.table import Table

_MEASURED = "measured"


class _SearchedAgain(Stage):
    """Search the run's own spectra once more, with what the catalogue says of them at hand."""

    reads = (SPECTRA_READ.name, _MEASURED, SEARCHED.name)
    sections: tuple[str, ...] = ("preprocess", "search", "measure", "infer.min_score", "infer.measure_score", "species")

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.measured: Table = measured_table(inputs.settings)

    def check(self) -> None:
        _ = self.inputs.model

    def wanted(self, run: Run) -> dict[str, str]:
        return {part: run.key(self, part, self.inputs.model.digest) for part in run.common_parts(self.reads)}

    def weight(self, run: Run, parts: list[str]) -> int:
        return run.rows(SEARCHED.name, parts)

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        absorbers = run.usable(self.measured, parts).where("accepted").select("spectrum_id", "z_abs")
        spectra, searched = run.usable(SPECTRA_READ, parts), run.usable(SEARCHED, parts)
        return self.look(spectra, searched, absorbers)

    def look(self, spectra: DataFrame, searched: DataFrame, absorbers: DataFrame) -> DataFrame:
        """Give the rows of the stage's table."""
        raise NotImplementedError


class Inject(_SearchedAgain):
    """Put absorbers into the run's own spectra, and look for them."""

    name, table, revision = "inject", INJECTIONS, 2
    sections = (*_SearchedAgain.sections, "completeness")

    def look(self, spectra: DataFrame, searched: DataFrame, absorbers: DataFrame) -> DataFrame:
        return judging.inject(spectra, searched, absorbers, self.inputs.model, self.inputs.settings)


class Decoys(_SearchedAgain):
    """Search the run's own spectra for doublets of a wrong separation."""

    name, table = "decoys", DECOYS

    def look(self, spectra: DataFrame, searched: DataFrame, absorbers: DataFrame) -> DataFrame:
        return judging.decoys(spectra, searched, absorbers, self.inputs.model, self.inputs.settings)


class Completeness(Stage):
    """Count what was found of the absorbers that were put in, and make the completeness function of it."""

    name, table, revision = "completeness", COMPLETENESS, 3
    reads = (INJECTIONS.name,)

    def wanted(self, run: Run) -> dict[str, str]:
        return {ALL: run.key_of_all(self)}

    def compute(self, run: Run, parts: list[str]) -> DataFrame:
        records = [record for _, record in sorted(run.manifest.parts(INJECTIONS.name).items()) if record.path]
        files = [file for record in records for file in run.store.files(record)]
        table = tabulate(tally(files, INJECTIONS.select(*COUNTED), count))
        rows = encode({**table, "part": [ALL] * len(table["by"])}, COMPLETENESS).to_pylist()
        return run.spark.createDataFrame([tuple(row.values()) for row in rows], COMPLETENESS.spark_schema)

    def reading(self, spark: SparkSession) -> AbstractContextManager[None]:
        return short_tasks(spark)

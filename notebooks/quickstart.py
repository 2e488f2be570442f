# Databricks notebook source
# MAGIC %md
# MAGIC # From spectra to a catalogue
# MAGIC A small survey is simulated in SDSS's own file format, searched for Mg II 2796, 2803, and compared with what was put in.
# MAGIC
# MAGIC Widgets, or environment variables where there are none: `folder` (`NALSPARK_FOLDER`), seen by the driver and all workers under this
# MAGIC path; `spectra` (`NALSPARK_SPECTRA`), how many; `settings` (`NALSPARK_SETTINGS`), such as `search.min_significance=6`.

# COMMAND ----------

from pathlib import Path

from nalspark.judging.evaluate import evaluate_result
from nalspark.judging.page import evaluation_figures, evaluation_text
from nalspark.mocks.survey import simulate_survey
from nalspark.notebook import parameter, shower
from nalspark.pipeline.catalogue import pipeline
from nalspark.progress import Progress
from nalspark.session import spark_session
from nalspark.settings import load
from nalspark.tables.schemas import SIGHTLINES, absorbers_table
from nalspark.tables.store import Store

folder = Path(parameter(globals(), "folder", "nalspark-notebooks"))
n_spectra = int(parameter(globals(), "spectra", "300"))
overrides = parameter(globals(), "settings", "").split()
display = shower(globals())

# COMMAND ----------

# MAGIC %md
# MAGIC ## A survey
# MAGIC For real spectra: `nalspark fetch sdss_dr16 --quasars DR16Q_v4.fits --out FOLDER`, and that folder in place of the survey's below.

# COMMAND ----------

survey = folder / "survey"
simulated = simulate_survey(survey, n_spectra, seed=1)
display(f"{simulated.n_spectra} spectra with {simulated.n_absorbers} absorbers in {simulated.out}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The search
# MAGIC All stages from files to catalogue. Run this cell again and nothing is done; change a setting, and only what depends on it is.

# COMMAND ----------

spark = spark_session()
settings = load(
    overrides=overrides,
    spectra=[str(survey / "spectra")],
    quasars=[str(survey / "quasars.fits")],
    out=str(folder / "result"),
)
for summary in pipeline(spark, settings, Progress(None)).run():
    display(str(summary))

# COMMAND ----------

# MAGIC %md
# MAGIC ## What was found
# MAGIC Every column is described in `docs/data_model.md`; `report.html` in the result's folder draws it.

# COMMAND ----------

store = Store(settings.out)
absorbers = store.load(spark, absorbers_table(settings.line_species).spark_schema, store.published("absorbers.parquet"))
sightlines = store.load(spark, SIGHTLINES.spark_schema, store.published("sightlines.parquet"))
display(absorbers.orderBy("significance", ascending=False).limit(10).toPandas())
display(sightlines.select("spectrum_id", "z_qso", "snr", "z_start", "z_stop").limit(5).toPandas())

# COMMAND ----------

# MAGIC %md
# MAGIC ## How good it is
# MAGIC Against the truth of the simulation: completeness by equivalent width, purity, errors.

# COMMAND ----------

evaluation = evaluate_result(settings.out, survey / "truth.parquet")
display(evaluation_text(evaluation))
for figure, _ in list(evaluation_figures(evaluation).values())[:2]:
    display(figure)

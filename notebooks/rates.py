# Databricks notebook source
# MAGIC %md
# MAGIC # Rates of absorbers
# MAGIC How frequent absorbers are: dN/dz, f(W) and g(W, z) of a result, corrected for completeness. Only published files are read.
# MAGIC `nalspark completeness RUN.toml` measures the completeness.
# MAGIC
# MAGIC Widgets, or environment variables where there are none: `folder` (`NALSPARK_FOLDER`) holds the catalogue in `result`.

# COMMAND ----------

from pathlib import Path

import nalspark
from nalspark.judging.statistics import result_statistics
from nalspark.judging.statistics_files import statistics_figures
from nalspark.notebook import parameter, shower

display = shower(globals())

# COMMAND ----------

# MAGIC %md
# MAGIC ## From a result to dN/dz
# MAGIC Where the completeness was not measured, it is taken as 1, and the figure says so. `docs/statistics.md` has the formulae.

# COMMAND ----------

result = nalspark.open_result(Path(parameter(globals(), "folder", "nalspark-notebooks")) / "result")
tables = result_statistics(result, uncorrected=not result.has("completeness"))
figures = statistics_figures(tables)
display(f"rates of {tables.numbers['absorbers']} absorbers in {tables.numbers['sightlines']} sightlines")
display(figures["dndz.png"])

# COMMAND ----------

# MAGIC %md
# MAGIC ## The numbers
# MAGIC Each table is an astropy table with units, and what was assumed in its `meta`. The last rows are of all redshifts together.

# COMMAND ----------

columns = [
    "z_low",
    "z_high",
    "ew_low",
    "n_absorbers",
    "dndz",
    "dndz_lower",
    "dndz_upper",
    "dndz_jackknife",
    "dndz_uncorrected",
    "dndz_published",
]
display(tables.rates[[name for name in columns if name in tables.rates.colnames]].to_pandas().round(3))
display(tables.fit.to_pandas().round(3))

# COMMAND ----------

# MAGIC %md
# MAGIC ## f(W), and in how many sightlines an absorber would be seen

# COMMAND ----------

display(figures["ew_function.png"])
display(figures["g.png"])

# Databricks notebook source
# MAGIC %md
# MAGIC # Reviewing a catalogue
# MAGIC What is in it, what was left out and why, and the absorbers that are worth a look. `quickstart` makes a catalogue to try it on.
# MAGIC
# MAGIC Widgets, or environment variables where there are none: `folder` (`NALSPARK_FOLDER`) holds the catalogue in `result`; `cards`
# MAGIC (`NALSPARK_CARDS`), how many absorbers are drawn.

# COMMAND ----------

from pathlib import Path

import numpy as np

from nalspark.absorption.measure import AbsorberFlag
from nalspark.notebook import parameter, shower
from nalspark.pipeline.publish import gallery_items
from nalspark.plots.figures import absorber_figure, doublet_ratio_figure, histogram_figure
from nalspark.session import spark_session
from nalspark.settings import from_tree
from nalspark.tables.schemas import REJECTIONS, absorbers_table
from nalspark.tables.store import Store

folder = Path(parameter(globals(), "folder", "nalspark-notebooks"))
n_cards = int(parameter(globals(), "cards", "4"))
display = shower(globals())

spark = spark_session()
store = Store(folder / "result")
manifest = store.manifest()
settings = from_tree(manifest.settings, str(store.manifest_path))
species = settings.line_species
absorbers = store.load(spark, absorbers_table(species).spark_schema, store.published("absorbers.parquet"))
rejections = store.load(spark, REJECTIONS.spark_schema, store.published("rejections.parquet"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Everything accounted for
# MAGIC Rows of the published tables, and why spectra were not searched.

# COMMAND ----------

display(manifest.published)
display(rejections.groupBy("stage", "reason").count().orderBy("stage", "reason").toPandas())

# COMMAND ----------

# MAGIC %md
# MAGIC ## The absorbers
# MAGIC Up to 20,000 of them, the most significant. A flag is a remark, not a fault; `flags = 0` is a clean sample.

# COMMAND ----------

ew, ew_err = f"ew_{species.primary.label}", f"ew_{species.primary.label}_err"
columns = ["z_abs", ew, ew_err, "doublet_ratio", "doublet_ratio_err", "score", "flags"]
table = absorbers.orderBy("significance", ascending=False).select(*columns).limit(20_000).toPandas()
display(table.describe())
display({flag.name: int((table["flags"] & flag.value > 0).sum()) for flag in AbsorberFlag})

# COMMAND ----------

edges = np.geomspace(0.1, 10, 21)
display(histogram_figure(edges, np.histogram(table[ew], edges)[0], f"rest equivalent width of {species.primary}, Å"))
ratio = (table[name] for name in (ew, "doublet_ratio", "doublet_ratio_err"))
display(doublet_ratio_figure(*ratio, table["flags"] != 0, species.optically_thin_ratio))

# COMMAND ----------

# MAGIC %md
# MAGIC ## To look at
# MAGIC The least significant first: the spectrum above, its lines in velocity below. Then the strongest.

# COMMAND ----------

for chosen in (absorbers.orderBy("significance"), absorbers.orderBy("significance", ascending=False)):
    for item in gallery_items(store, manifest, settings, [row.asDict() for row in chosen.limit(n_cards).collect()]):
        display(absorber_figure(item))

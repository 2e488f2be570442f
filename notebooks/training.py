# Databricks notebook source
# MAGIC %md
# MAGIC # Training a model on a GPU cluster
# MAGIC Artificial spectra are made on all workers, then the networks are trained where this notebook runs: on its GPUs, if it has any.
# MAGIC What is trained is what `conf/runs/default_model.toml` says, unless `settings` says otherwise. The cluster needs the wheel, and what
# MAGIC `conf/databricks/gpu_requirements.txt` lists.
# MAGIC
# MAGIC Widgets, or environment variables where there are none: `folder` (`NALSPARK_FOLDER`), seen by the driver and all workers under this
# MAGIC path; `settings` (`NALSPARK_SETTINGS`), such as `simulate.n=20000 train.members=1 train.mixed_precision=true`.

# COMMAND ----------

from pathlib import Path

import pandas as pd

from nalspark.learning.models import read_model
from nalspark.notebook import parameter, shower
from nalspark.pipeline.catalogue import LEARNING, pipeline
from nalspark.progress import Progress
from nalspark.session import spark_session
from nalspark.settings import load
from nalspark.surveys.catalogs import conf_dir
from nalspark.tables.store import Store

folder = Path(parameter(globals(), "folder", "nalspark-notebooks"))
overrides = parameter(globals(), "settings", "").split()
display = shower(globals())

# COMMAND ----------

# MAGIC %md
# MAGIC ## Spectra, then networks
# MAGIC Interrupted, it goes on where it was: run the cell again.

# COMMAND ----------

settings = load(conf_dir() / "runs" / "default_model.toml", overrides, out=str(folder / "model-run"))
for summary in pipeline(spark_session(), settings, Progress(None)).run(LEARNING):
    display(str(summary))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The model
# MAGIC Its card: what it learned from and how well it does on spectra that it never saw. `curves.png` and `scores.png` lie beside it.
# MAGIC A search uses it with the setting `infer.model`.

# COMMAND ----------

model = Store(settings.out).published("model")
card = read_model(model).card
display(pd.Series(card.metrics, name=card.network).to_frame())
if card.doubt:
    display(f"warning: {card.doubt}")
display(f"infer.model={model}")

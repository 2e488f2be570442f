"""Say what changed since the last run (files, settings, model, catalogues), then do only that work: all stages of a run file.

spark-submit jobs/reprocess.py RUN.toml [--set key=value ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("reprocess"))

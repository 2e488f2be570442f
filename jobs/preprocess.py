"""Bring every target to the common grid with continuum, errors and searched path: the table `normalized`.

spark-submit jobs/preprocess.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("preprocess"))

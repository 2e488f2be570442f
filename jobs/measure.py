"""Fit every candidate: the table `measured`.

spark-submit jobs/measure.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("measure"))

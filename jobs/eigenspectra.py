"""Fit eigenspectra to the quasars of the run: the table `eigenspectra`.

spark-submit jobs/eigenspectra.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("eigenspectra"))

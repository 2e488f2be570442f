"""Make artificial spectra and the examples to learn from: the table `training`.

spark-submit jobs/simulate.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("simulate"))

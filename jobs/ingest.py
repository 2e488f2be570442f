"""Read every spectrum file below the run's sources into the table `spectra`.

spark-submit jobs/ingest.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("ingest"))

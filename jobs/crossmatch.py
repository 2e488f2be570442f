"""Find every spectrum's quasar and known absorbers: the tables `targets` and `matches`.

spark-submit jobs/crossmatch.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("crossmatch"))

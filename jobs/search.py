"""Find candidate doublets with the matched filter: the table `candidates`, with images.

spark-submit jobs/search.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("search"))

"""Score the candidates with the network: the table `scores`.

spark-submit jobs/infer.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("infer"))

"""Train the networks on the artificial spectra and write the model with its card: `model/`.

spark-submit jobs/train.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("train"))

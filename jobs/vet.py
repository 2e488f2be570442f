"""Look a second time at the measured candidates, with the second round that `vet.second_round` names; none is removed.

spark-submit jobs/vet.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("vet"))

"""Judge a published catalogue against known absorbers and other catalogues: evaluation/ in the result's directory.

spark-submit jobs/evaluate.py RUN.toml [--truth FILE] [--catalogues FILE ...] [--out DIR]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("evaluate"))

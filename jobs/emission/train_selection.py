"""Simulate detections of emission lines, train both rounds of their selection, and judge them.

spark-submit jobs/emission/train_selection.py RUN.toml [--set key=value ...]
"""

import sys

from nalspark.emission.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("train"))

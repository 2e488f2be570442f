"""Classify the emission-line detections that a run file names.

spark-submit jobs/emission/classify_detections.py RUN.toml [--set key=value ...]
"""

import sys

from nalspark.emission.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("run"))

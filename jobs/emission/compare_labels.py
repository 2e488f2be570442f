"""How far the reviewers of emission-line detections agree, and what they say together.

spark-submit jobs/emission/compare_labels.py RUN.toml [--set key=value ...]
"""

import sys

from nalspark.emission.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("labels"))

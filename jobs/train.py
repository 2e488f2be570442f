"""Make artificial spectra, train a network on them, calibrate and test it.

spark-submit jobs/train.py RUN.toml [--set key=value ...] [--force] [--dry-run]
"""

import sys

from nalspark.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

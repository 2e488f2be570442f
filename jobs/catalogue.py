"""Make the catalogue that a run file describes: all stages, as far as anything changed.

spark-submit jobs/catalogue.py RUN.toml [--set key=value ...] [--force] [--dry-run] [--allow-removals]
"""

import sys

from nalspark.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

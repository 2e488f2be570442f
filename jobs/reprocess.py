"""Say what changed since the last run, then do only that work.

spark-submit jobs/reprocess.py RUN.toml [--set key=value ...] [--force] [--dry-run] [--allow-removals]
"""

import sys

from nalspark.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["reprocess", *sys.argv[1:]]))

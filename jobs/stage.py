"""Run some stages of a run file: `ingest crossmatch search infer measure publish`, or `eigenspectra simulate train`, or
`label_examples train`.

spark-submit jobs/stage.py RUN.toml STAGE ... [--set key=value ...] [--part PART ...] [--force] [--dry-run] [--allow-removals]
"""

import sys

from nalspark.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

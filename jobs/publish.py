"""Write the catalogue: absorbers, sightlines, rejections, the FITS file and the report.

spark-submit jobs/publish.py RUN.toml [--set key=value ...] [--part PART ...] [--force] [--dry-run]
"""

import sys

from nalspark.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("publish"))

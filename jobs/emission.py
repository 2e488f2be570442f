"""Tell real emission-line detections from fakes: `train` a selection, `run` it on detections, or compare `labels`.

spark-submit jobs/emission.py train|run|labels RUN.toml [--set key=value ...]
"""

import sys

from nalspark.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["emission", *sys.argv[1:]]))

"""The command ``nalspark``: what an installation lacks is said in a sentence, before anything is loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> int:
    """Run the command line of this process, and give its exit status."""
    if find_spec("pyspark") is None:
        print("nalspark: Spark is not installed here: pip install 'nalspark[standard]'.", file=sys.stderr)
        return 2
    from nalspark.cli import main as run  # it loads Spark

    return run()


if __name__ == "__main__":
    sys.exit(main())

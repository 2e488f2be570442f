"""The command ``nalspark``, which a signal can stop from its first moment on; what an installation lacks is said in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from nalspark.stop import stoppable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and give its exit status; a signal ends the process."""
    if find_spec("pyspark") is None:
        print("nalspark: Spark is not installed here: pip install 'nalspark[standard]'.", file=sys.stderr)
        return 2

    def work() -> int:
        from nalspark.cli import main  # takes seconds

        return main(arguments)

    return stoppable(work)


if __name__ == "__main__":
    sys.exit(main())

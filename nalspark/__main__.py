"""The command ``nalspark``, which a signal can stop from its first moment on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nalspark.stop import stoppable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and give its exit status; a signal ends the process."""

    def work() -> int:
        from nalspark.cli import main  # takes seconds

        return main(arguments)

    return stoppable(work)


if __name__ == "__main__":
    sys.exit(main())

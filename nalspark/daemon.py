"""Spark's daemon of Python workers with the libraries in it: its workers are forked from it, and none loads them again."""

import gc
import os
import sys
from importlib.machinery import PathFinder

from nalspark.worker import load_shared

#: Where pip's pyspark has an archive of itself, which Spark puts before it on the path of every worker.
_ARCHIVE = "/pyspark/python/lib/pyspark.zip"


def unpacked(path: list[str]) -> list[str]:
    """Import paths without an archive of pyspark, where pyspark is then taken from the folder that the archive lies in.

    Python keeps no compiled files of an archive: to compile pyspark anew costs the daemon 0.7 s.
    """
    for place in path:
        if place.endswith(_ARCHIVE):
            rest = [other for other in path if other != place]
            found = PathFinder.find_spec("pyspark", rest)
            if found is not None and found.origin == f"{place.removesuffix(_ARCHIVE)}/pyspark/__init__.py":
                return rest
    return path


if __name__ == "__main__":
    sys.path[:] = unpacked(sys.path)
    from pyspark import daemon

    # Java reads from this output where the daemon listens: what a library prints while it is loaded must not come before.
    output = os.dup(1)
    os.dup2(2, 1)
    load_shared()
    sys.stdout.flush()
    os.dup2(output, 1)
    os.close(output)
    gc.freeze()  # to look through these objects for garbage would also copy them to every worker
    daemon.manager()

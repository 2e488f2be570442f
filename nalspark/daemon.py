"""Spark's daemon of Python workers with the libraries in it: its workers are forked from it, and none loads them again."""

import gc
import os
import sys

from nalspark.worker import load_shared

if __name__ == "__main__":
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

"""Spark's daemon of Python workers with the libraries of a search in it: its workers are forked from it, and none loads them again."""

import gc
from contextlib import suppress
from importlib import import_module

from pyspark import daemon

#: What tasks of most stages import, numba, pandas and astropy with it; what the report's cards do; and what keras does, which itself is
#: left to the workers that score: none of these starts threads, which a fork would lose.
SHARED = ("nalspark.surveys.stages", "nalspark.absorption.stages", "nalspark.plots.report", "sklearn")

if __name__ == "__main__":
    for module in SHARED:
        with suppress(Exception):  # a task that needs it tells what is wrong
            import_module(module)
    gc.freeze()  # to look through these objects for garbage would also copy them to every worker
    daemon.manager()

"""Loops over pixels, compiled by numba and kept on disk: a new worker loads them instead of compiling them again, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in machine code, made when it is first called.

    Divisions by zero give infinity, as in numpy: checks would keep loops from being done in vectors. What is made lies beside the module,
    else in the user's cache; where neither can be written, each process compiles for itself.
    """
    try:
        return njit(error_model="numpy", cache=True)(function)
    except RuntimeError:  # no place for a cache
        return njit(error_model="numpy")(function)

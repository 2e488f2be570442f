"""Loops over pixels, compiled by numba and kept on disk: a new worker loads them instead of compiling them again, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import llvmlite.binding as llvm
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator, _SourceFileBackedLocatorMixin
from numba.core.sigutils import normalize_signature


class _OurPlace(_SourceFileBackedLocatorMixin, _CacheLocator):  # type: ignore[misc]
    """Keeps what is compiled in nalspark's own cache; numba's place for other functions of the process stays as it is."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno
        # One for each kind of processor: machines that share a home must not take each other's code, should they write at the same moment.
        root = os.path.expanduser(f"~/.cache/nalspark/numba-{llvm.get_host_cpu_name()}")
        self._path = os.path.join(root, self.get_suitable_cache_subpath(file))

    def get_cache_path(self) -> str:
        if not os.path.isabs(self._path):
            raise FileNotFoundError("This user has neither a home nor a name that leads to one.")
        return self._path


class _Places(CompileResultCacheImpl):  # type: ignore[misc]
    """First where the user says (``NUMBA_CACHE_DIR``), then our place, then those of numba."""

    _users, *_others = CompileResultCacheImpl._locator_classes
    _locator_classes = [_users, _OurPlace, *_others]


class _Kept(FunctionCache):  # type: ignore[misc]
    """A cache that never ends a run, nor changes its result: what cannot be read, or is not what it is named, is made anew; what cannot be
    written is not kept.
    """

    _impl_class = _Places

    def load_overload(self, *key: Any) -> Any:
        try:
            made = super().load_overload(*key)
        except Exception:  # a file cut short unpickles to any of them
            made = None
            with suppress(OSError):
                self.flush()
        # Processes that compile for other types at the same moment give their files the same number: the last one stays under both names.
        return made if made is None or tuple(made.signature.args) == tuple(normalize_signature(key[0])[0]) else None

    def save_overload(self, *result: Any) -> None:
        with suppress(Exception):
            super().save_overload(*result)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function to machine code when it is first called.

    Divisions by zero give infinity, as in numpy: checks would keep loops from being done in vectors. What is made lies in the user's cache,
    ``~/.cache/nalspark`` (or ``NUMBA_CACHE_DIR``), else beside the module; where neither can be written, each process compiles for itself.
    """
    made = njit(error_model="numpy")(function)
    with suppress(RuntimeError, OSError, ValueError):  # no place for a cache
        made._cache = _Kept(function)  # type: ignore[attr-defined]
    return made

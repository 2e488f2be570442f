"""What a notebook needs of the place where it runs: Databricks, Jupyter or a plain Python."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Mapping
from typing import Any


def parameter(names: Mapping[str, Any], name: str, default: str) -> str:
    """A notebook's parameter: its widget on Databricks, else the environment's ``NALSPARK_<NAME>``, else the default.

    Parameters
    ----------
    names : mapping
        The notebook's ``globals()``: on Databricks they hold ``dbutils``.
    name, default : str
    """
    dbutils = names.get("dbutils")
    if dbutils is None:
        return os.environ.get(f"NALSPARK_{name.upper()}", default)
    dbutils.widgets.text(name, default)
    return str(dbutils.widgets.get(name))


def shower(names: Mapping[str, Any]) -> Callable[[Any], Any]:
    """What shows a table or a figure: the notebook's own ``display``, else ``print``."""
    shown: Callable[[Any], Any] = names.get("display", getattr(builtins, "display", print))
    return shown

"""What a notebook needs of the place where it runs: Databricks, Jupyter or a plain Python."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Mapping
from typing import Any


def parameter(names: Mapping[str, Any], name: str, default: str) -> str:
    """Read a notebook's parameter.

    Parameters
    ----------
    names : mapping
        The notebook's ``globals()``: on Databricks they hold ``dbutils``.
    name : str
    default : str
        Its value where nobody gave one.

    Returns
    -------
    str
        On Databricks what the widget of that name says, elsewhere the environment variable ``NALSPARK_<NAME>``.
    """
    dbutils = names.get("dbutils")
    if dbutils is None:
        return os.environ.get(f"NALSPARK_{name.upper()}", default)
    dbutils.widgets.text(name, default)
    return str(dbutils.widgets.get(name))


def shower(names: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Choose what shows a table or a figure: the notebook's own ``display``, else ``print``."""
    shown: Callable[[Any], Any] = names.get("display", getattr(builtins, "display", print))
    return shown

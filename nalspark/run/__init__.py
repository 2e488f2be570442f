"""Runs: which stages there are, what has to be done again, and in which order.

The room can be called: ``nalspark.run("RUN.toml")`` does what the command of that name does. A function beside it could not have its name.
"""

import sys
from os import PathLike
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    """A module that is a function too."""

    def __call__(self, path: str | PathLike[str], **settings: Any) -> Any:
        """Run the stages that a TOML file describes, and open the result.

        Parameters
        ----------
        path : path
        **settings
            Settings that differ from the file's, by dotted key: ``out="DIR"``, ``**{"infer.min_score": 0.9}``.

        Returns
        -------
        nalspark.tables.result.Result

        Raises
        ------
        NalsparkError
            As the command line says it in a sentence.
        """
        from nalspark.run.door import run

        return run(path, settings)


sys.modules[__name__].__class__ = _Run

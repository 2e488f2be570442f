"""nalspark: narrow absorption lines in every quasar spectrum of a survey.

Public functions are loaded when first used: importing nalspark loads neither Spark nor keras nor astropy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nalspark.version import VERSION as __version__

if TYPE_CHECKING:
    from nalspark.finder import find
    from nalspark.pipeline.door import run
    from nalspark.surveys.reader import read_spectra, read_spectrum
    from nalspark.tables.export import export_result
    from nalspark.tables.result import open_result

#: Public name → the module that has it. No module has a public name: importing such a module would replace the function.
_DOORS = {
    "export_result": "nalspark.tables.export",
    "find": "nalspark.finder",
    "open_result": "nalspark.tables.result",
    "read_spectra": "nalspark.surveys.reader",
    "read_spectrum": "nalspark.surveys.reader",
    "run": "nalspark.pipeline.door",
}

__all__ = ["__version__", "export_result", "find", "open_result", "read_spectra", "read_spectrum", "run"]


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'nalspark' has no attribute '{name}'")
    return getattr(import_module(_DOORS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""nalspark: narrow absorption lines in every quasar spectrum of a survey."""

from nalspark.version import VERSION as __version__

__all__ = ["__version__"]

"""nalspark: narrow absorption lines in every quasar spectrum of a survey."""

__version__ = "0.1.0"

"""Artificial spectra: what detectors are taught and tested with."""

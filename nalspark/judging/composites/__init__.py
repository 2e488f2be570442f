"""Composite spectra in the rest frame of absorbers, or at redshifts that a user gives: mean, median, lines, and dust against controls."""

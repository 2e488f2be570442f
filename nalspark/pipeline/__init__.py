"""Runs: which stages there are, what has to be done again, and in which order."""

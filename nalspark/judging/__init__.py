"""Catalogues judged: against the truth, against each other, against an earlier version."""

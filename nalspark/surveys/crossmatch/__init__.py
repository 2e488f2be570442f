"""Whose spectrum is it, and what is known of it? By identifier first, then on the sky.

``sky.py`` is the geometry, in numpy; ``stages.py`` moves the rows, in Spark.
"""

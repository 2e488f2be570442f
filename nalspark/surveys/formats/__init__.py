"""One file for each survey: its `ORDER` says when a reader is asked, its `read` reads, and its `identify` tells what a file is called.

See :mod:`nalspark.surveys.reader`.
"""

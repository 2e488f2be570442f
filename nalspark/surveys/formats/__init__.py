"""One file for each survey: its `ORDER` says when a reader is asked, its `read` reads: see :mod:`nalspark.surveys.reader`."""

"""The absorption-line method, in the order in which the data meets it."""

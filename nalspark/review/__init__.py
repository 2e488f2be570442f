"""People look at systems one by one; what they say is kept look by look, read back, compared, and put together."""

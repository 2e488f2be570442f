"""Review: people look at systems one by one, and what they say is kept, look by look."""

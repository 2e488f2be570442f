"""One file for each survey that can be simulated: its `LAYOUT` says how its files are written."""

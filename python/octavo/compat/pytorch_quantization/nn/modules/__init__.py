"""One file for each kind of module."""

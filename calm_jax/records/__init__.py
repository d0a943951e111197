"""Records that cross stages and disk. NumPy only."""

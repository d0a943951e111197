"""Dumps: run a split over a grid of thresholds, write it, read it.

    runner --partial--> <directory> --reader--> calibration, evaluation

All modules need NumPy only, but for `runner`, which needs JAX and is therefore
not imported here.
"""

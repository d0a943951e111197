"""Dumps: run a split over a grid of thresholds, write it, read it.

`writer` and `reader` need NumPy only; `runner` needs JAX and is therefore not
imported here.
"""

"""Decoding speed beside other engines and beside the hardware's limit.

python -m benchmarks.decode --help; docs/speed.md explains the results.
"""

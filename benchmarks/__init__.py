"""Decoding speed compared with other engines and the hardware's limit.

python -m benchmarks.decode --help; docs/speed.md explains the results.
"""

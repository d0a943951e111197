"""Metrics of output texts, each in [0, 1]. Pure Python."""

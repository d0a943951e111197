"""Decoding: token loops, beams, continuous batches, token rows and text."""

"""Decoding: requests, the token loop, beams, batches and text."""

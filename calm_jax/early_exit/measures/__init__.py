"""Confidence measures: how sure a decoder layer is of the next token."""

"""Thin entry points: parse flags, call one stage, write what it gives."""

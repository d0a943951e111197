"""Adapters that let T5X drive a model of this package."""

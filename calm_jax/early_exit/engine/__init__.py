"""The engine: one token through the layers, each row leaving when confident."""

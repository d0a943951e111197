"""Shows text with a number of layers per piece: terminal, HTML, colours.

Shared by the report, the command line and Python's display of generated text,
which look alike. NumPy-free strings in, strings out.
"""

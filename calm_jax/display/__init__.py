"""How text with a number of layers per piece looks: terminal, HTML, colours.

Above the report, the command line and Python's own display of generated text,
which all show the same thing alike. NumPy-free strings in, strings out.
"""

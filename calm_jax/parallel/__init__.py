"""Parameters and rows on many devices; processes that work as one."""

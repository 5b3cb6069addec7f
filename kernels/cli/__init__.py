"""The command line, `python -m kernels`; the only part that imports `backends`."""

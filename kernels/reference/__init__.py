"""The problems with committed digests, and training on them, for tests and the command line."""

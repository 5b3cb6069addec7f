"""The problems with committed digests, and training on them, for tests and for `verify`."""

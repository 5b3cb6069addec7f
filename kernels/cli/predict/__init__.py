"""`python -m kernels predict`: read `rows` of a file, and write the network's `answers`."""

from .command import predict

__all__ = ["predict"]

"""`python -m kernels predict`: `rows` of a file, the network's `answers` for them, and a file."""

from .command import predict

__all__ = ["predict"]

"""What a product, a sum and an elementary function are.

The network never multiplies matrices or adds along an axis itself: it asks the `Numerics`
it was given. `NATIVE` is the array library's own arithmetic.
"""

from __future__ import annotations

from typing import Protocol

from .._typing import Array
from .native import Native

__all__ = ["NATIVE", "Native", "Numerics"]


class Numerics(Protocol):
    """The operations whose rounding depends on how a library implements them."""

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply matrices of shapes (n, k) and (k, m), in the dtype of `a` and `b`."""
        ...

    def sum(self, a: Array, *, axis: int, keepdims: bool = False) -> Array:
        """Sum a two-dimensional array along `axis`."""
        ...

    def scale(self, a: Array, factor: float) -> Array:
        """Multiply `a` by one number, rounded to the dtype of `a`."""
        ...

    def exp(self, a: Array) -> Array:
        """Take the exponential of each element."""
        ...

    def log(self, a: Array) -> Array:
        """Take the natural logarithm of each element."""
        ...


NATIVE: Numerics = Native()

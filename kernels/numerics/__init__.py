"""What a product, a sum and an elementary function are.

The network never multiplies, adds or sums by itself: it asks the `Numerics` that it was given.
`NATIVE` is the array library's own arithmetic; `EXACT` gives the same bits on every library and
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .._typing import Array
from .compilers import check_compiler
from .exact import Exact
from .native import Native
from .team import Team

__all__ = ["EXACT", "NATIVE", "Exact", "Native", "Numerics", "Team", "check_compiler"]


class Numerics(Protocol):
    """The operations whose rounding depends on how a library implements them.

    They are hashable, and numerics that compute the same are equal: what was compiled with one then
    serves the other.
    """

    @property
    def team(self) -> Team:
        """Say which workers hold the samples of a batch."""
        ...

    def __hash__(self) -> int: ...

    def prepare(self, a: Array, *, samples: int | None = None) -> Any:
        """Prepare a matrix for `matmul` as `a`, once for several products.

        With `samples` it is for `over_samples`: its columns are this worker's part of that many
        samples.
        """
        ...

    def matmul(self, a: Any, b: Array) -> Array:
        """Multiply matrices of shapes (n, k), prepared or not, and (k, m)."""
        ...

    def sum(self, a: Array, *, axis: int, keepdims: bool = False) -> Array:
        """Sum a two-dimensional array along `axis`."""
        ...

    def over_samples(
        self, terms: Sequence[tuple[Any, Array, bool]], n: int
    ) -> list[tuple[Array, Array | None]]:
        """Multiply, and sum, over the n samples of all workers.

        For each term (left, right, summed) return left @ right, and the sum of `right` along axis 0
        if `summed`, else None. left and right, of shapes (p, own) and (own, q), hold this worker's
        own samples.
        """
        ...

    def add(self, a: Array, b: Array) -> Array:
        """Add arrays."""
        ...

    def subtract(self, a: Array, b: Array) -> Array:
        """Subtract arrays."""
        ...

    def factor(self, number: float | list[Any], *, like: Array) -> Array:
        """Make a 0-d array of a number: `multiply` by it gives the same bits as by the number.

        Of numbers in lists it makes a table of such. An array can be an argument of a compiled
        function, so that another number compiles nothing anew.
        """
        ...

    def multiply(self, a: Array, factor: Array | float) -> Array:
        """Multiply by a number or `factor`, or by an array of the same shape or of shape (n, 1)."""
        ...

    def divide(self, a: Array, b: Array) -> Array:
        """Divide an array by one of the same shape."""
        ...

    def exp(self, a: Array) -> Array:
        """Take the exponential of each element."""
        ...

    def log(self, a: Array) -> Array:
        """Take the natural logarithm of each element."""
        ...

    def expm1(self, a: Array) -> Array:
        """Take the exponential of each element, less 1."""
        ...

    def tanh(self, a: Array) -> Array:
        """Take the hyperbolic tangent of each element."""
        ...

    def logistic(self, a: Array) -> Array:
        """Take 1 / (1 + exp(-a)) of each element."""
        ...

    def softplus(self, a: Array) -> Array:
        """Take log(1 + exp(a)) of each element."""
        ...

    def sqrt(self, a: Array) -> Array:
        """Take the square root of each element."""
        ...

    def flush(self, a: Array) -> Array:
        """Replace numbers that these numerics take for zero, if any, by +0."""
        ...


NATIVE: Numerics = Native()
EXACT: Numerics = Exact()

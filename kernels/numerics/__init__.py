"""What a product, a sum and an elementary function are.

The network never multiplies, adds or sums by itself: it asks the `Numerics` it was given. `NATIVE`
is the array library's own arithmetic, `EXACT` gives the same bits on every library and device.
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

    Equal numerics are equal objects with one hash, so that what was compiled serves again.
    """

    @property
    def team(self) -> Team:
        """Say who has the samples of a batch."""
        ...

    def __hash__(self) -> int: ...

    def prepare(self, a: Array, *, samples: int | None = None) -> Any:
        """Prepare a matrix for `matmul` as `a`, once for several products.

        With `samples` for `over_samples`: its columns are this worker's of so many samples.
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
        """Multiply and sum over the n samples of all workers, of which this worker has its own.

        Of each term (left, right, summed), of shapes (p, own) and (own, q), it makes the product,
        and the sum of `right` along axis 0 if `summed`.
        """
        ...

    def add(self, a: Array, b: Array) -> Array:
        """Add arrays."""
        ...

    def subtract(self, a: Array, b: Array) -> Array:
        """Subtract arrays."""
        ...

    def factor(self, number: float, *, like: Array) -> Array:
        """Make a 0-d array of a number, by which `multiply` gives the bits of that number.

        To a compiled function it is an argument, so that another number compiles nothing anew.
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
        """Replace numbers that count as zero, if there are any, by +0."""
        ...


NATIVE: Numerics = Native()
EXACT: Numerics = Exact()

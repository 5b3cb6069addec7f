"""The array library's own arithmetic: as fast, and as reproducible, as that library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from array_api_compat import array_namespace

from .._host import placement
from .._typing import Array


@dataclass(frozen=True)
class Native:
    """Numerics that call the library's own `matmul`, `sum`, `exp` and so on."""

    def left(self, a: Array) -> Array:
        return a

    def matmul(self, a: Array, b: Array) -> Array:
        product = a @ b
        if product.dtype == a.dtype:
            return product
        # torch multiplies in another dtype where it is told to by `torch.autocast`.
        return cast(Array, array_namespace(a).astype(product, a.dtype))

    def sum(self, a: Array, *, axis: int, keepdims: bool = False) -> Array:
        return cast(Array, array_namespace(a).sum(a, axis=axis, keepdims=keepdims))

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def subtract(self, a: Array, b: Array) -> Array:
        return a - b

    def factor(self, number: float, *, like: Array) -> Array:
        xp = array_namespace(like)
        return cast(Array, xp.asarray(number, dtype=like.dtype, **placement(like)))

    def multiply(self, a: Array, factor: Array | float) -> Array:
        return a * factor

    def divide(self, a: Array, b: Array) -> Array:
        return a / b

    def exp(self, a: Array) -> Array:
        return cast(Array, array_namespace(a).exp(a))

    def log(self, a: Array) -> Array:
        return cast(Array, array_namespace(a).log(a))

    def expm1(self, a: Array) -> Array:
        return cast(Array, array_namespace(a).expm1(a))

    def tanh(self, a: Array) -> Array:
        return cast(Array, array_namespace(a).tanh(a))

    def logistic(self, a: Array) -> Array:
        xp = array_namespace(a)
        z = xp.exp(-xp.abs(a))
        return cast(Array, xp.where(a < 0.0, z, xp.ones_like(z)) / (1.0 + z))

    def softplus(self, a: Array) -> Array:
        xp = array_namespace(a)
        return cast(Array, xp.maximum(a, xp.zeros_like(a)) + xp.log1p(xp.exp(-xp.abs(a))))

    def sqrt(self, a: Array) -> Array:
        return cast(Array, array_namespace(a).sqrt(a))

    def flush(self, a: Array) -> Array:
        return a

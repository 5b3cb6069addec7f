"""The array library's own arithmetic: as fast, and as reproducible, as that library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from array_api_compat import array_namespace

from .._host import placement
from .._typing import Array
from .team import ALONE, Team


@dataclass(frozen=True)
class Native:
    """Numerics that call the library's own `matmul`, `sum`, `exp` and so on."""

    team: Team = field(default=ALONE, repr=False)

    def prepare(self, a: Array, *, samples: int | None = None) -> Array:  # noqa: ARG002
        return a

    def matmul(self, a: Array, b: Array) -> Array:
        product = a @ b
        if product.dtype == a.dtype:
            return product
        # Inside `torch.autocast` torch multiplies in another dtype.
        return cast(Array, array_namespace(a).astype(product, a.dtype))

    def sum(self, a: Array, *, axis: int, keepdims: bool = False) -> Array:
        return cast(Array, array_namespace(a).sum(a, axis=axis, keepdims=keepdims))

    def over_samples(
        self,
        terms: Sequence[tuple[Array, Array, bool]],
        n: int,  # noqa: ARG002
    ) -> list[tuple[Array, Array | None]]:
        if self.team is ALONE:
            return [
                (self.matmul(left, right), self.sum(right, axis=0) if summed else None)
                for left, right, summed in terms
            ]
        sums = (
            total
            for left, right, summed in terms
            for total in (
                (self.matmul(left, right), self.sum(right, axis=0))
                if summed
                else (self.matmul(left, right),)
            )
        )
        totals = iter(self.team.total(sums))
        return [(next(totals), next(totals) if summed else None) for _, _, summed in terms]

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def subtract(self, a: Array, b: Array) -> Array:
        return a - b

    def factor(self, number: float | list[Any], *, like: Array) -> Array:
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

"""Exact numerics have no derivatives that a library could find: it must not look for them."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, cast

from ._typing import Array


def undifferentiated(a: Array, xp: Any) -> Array:
    """Return an array as it is; raise TypeError where a library takes derivatives through it.

    For torch at once, for JAX when it comes to the derivative. Of other libraries it is not known.
    XLA does not learn the values of what JAX traces: it divides constants by reciprocals.
    """
    # A tensor made by an operation that is recorded.
    if getattr(a, "requires_grad", False):
        raise TypeError(_sentence("torch"))
    if xp.__name__ != "jax.numpy":
        return a
    # Not an import: whoever has an array of a library has the library.
    jax = sys.modules["jax"]
    if not isinstance(a, jax.core.Tracer):
        return a
    return cast(Array, jax.lax.optimization_barrier(_same(jax)(a)))


@cache
def _same(jax: Any) -> Any:
    """Make the identity with a derivative that raises."""

    def derivative(primals: Any, tangents: Any) -> Any:  # noqa: ARG001
        raise TypeError(_sentence("jax"))

    same = jax.custom_jvp(lambda a: a)
    same.defjvp(derivative)
    return same


def _sentence(library: str) -> str:
    return (
        "expected exact numerics without automatic differentiation, got arrays that are "
        f"differentiated: use backends.autograd.{library}, whose derivatives are the kernel's own"
    )

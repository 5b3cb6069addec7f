"""What libraries must not do with exact functions that they trace: differentiate, or simplify."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, cast

from ._typing import Array


def undifferentiated(a: Array, xp: Any) -> Array:
    """Return an array as it is; raise TypeError where a library takes derivatives through it.

    For torch at once, for JAX when it comes to the derivative. Of other libraries it is not known.
    """
    # A tensor made by an operation that is recorded.
    if getattr(a, "requires_grad", False):
        raise TypeError(_sentence("torch"))
    jax = _tracing(a, xp)
    return a if jax is None else cast(Array, _same(jax)(a))


def unknown(a: Array, xp: Any) -> Array:
    """Keep from XLA what it may know of an array that JAX traces: it divides by reciprocals."""
    jax = _tracing(a, xp)
    return a if jax is None else cast(Array, jax.lax.optimization_barrier(a))


def _tracing(a: Array, xp: Any) -> Any:
    """Give JAX if it traces an array; it is no import, as whoever has its array has JAX."""
    if xp.__name__ != "jax.numpy":
        return None
    jax = sys.modules["jax"]
    return jax if isinstance(a, jax.core.Tracer) else None


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

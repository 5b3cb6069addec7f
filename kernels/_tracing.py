"""Keep libraries that trace exact functions from differentiating or simplifying them."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, cast

from ._typing import Array


def undifferentiated(a: Array, xp: Any) -> Array:
    """Return an array as it is; raise TypeError where a library takes derivatives through it.

    With torch this raises at once, with JAX when the derivative is taken. Other libraries are not
    checked.
    """
    # A tensor made by an operation that is recorded.
    if getattr(a, "requires_grad", False):
        raise TypeError(_sentence("torch"))
    jax = _tracing(a, xp)
    return a if jax is None else cast(Array, _same(jax)(a))


def unknown(a: Array, xp: Any) -> Array:
    """Hide an array that JAX traces from XLA, which replaces division by known numbers."""
    jax = _tracing(a, xp)
    return a if jax is None else cast(Array, jax.lax.optimization_barrier(a))


def _tracing(a: Array, xp: Any) -> Any:
    """Give the module jax if it traces this array: with such an array it is imported already."""
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

"""Workers of JAX: devices of one process, each with a part of every batch.

JAX splits an array unevenly only inside a compiled function, so that is where batches are split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import backends
from kernels import Array

from .._backend import BackendUnavailable
from . import Workers


@contextmanager
def join(count: int | None = None, device: str | None = None) -> Iterator[Workers]:
    """Use `count` devices together, or all. On the CPU that many are made."""
    try:
        import jax
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'JAX is not installed: pip install "array-api-kernels[jax]"'
        ) from None
    import numpy
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    kind = device or "cpu"
    if kind == "cpu" and count is not None:
        # JAX refuses this once it has made its devices; their number is checked below.
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(count, jax.config.jax_num_cpu_devices))
    place = backends.get(f"jax:{kind}")
    found = jax.devices(kind)
    count = count or len(found)
    if count > len(found):
        raise ValueError(
            f"expected at most {len(found)} workers, as JAX {jax.__version__} has {len(found)} "
            f"{kind.upper()} device(s) here, got {count}"
        )
    mesh = Mesh(numpy.asarray(found[:count]), ("batch",))
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("batch")))

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = jax.device_put(place.asarray(host, dtype), whole)
        return a

    def shard(a: Any) -> Any:
        return jax.lax.with_sharding_constraint(a, split)

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = jax.jit(_split_batches(function, shard))
        return compiled

    compile.splits = True  # type: ignore[attr-defined]
    backend = place._replace(device=whole, asarray=asarray, compile=compile)
    yield Workers(backend, lambda a: a, lambda numerics: numerics, compile, count, first=True)


def _split_batches(
    function: Callable[..., Any], shard: Callable[[Array], Array]
) -> Callable[..., Any]:
    """Make a step (layers, x, y, rate, operands) -> result that splits x and y first.

    `operands`, prepared by `kernels.fit` from the whole x, are not used then. A function of one
    array stays as it is.
    """

    def call(first: Any, *batch: Any) -> Any:
        if not batch:
            return function(first)
        x, y, rate, _ = batch
        return function(first, shard(x), shard(y), rate, None)

    return call

"""JAX on the CPU and on CUDA."""

from __future__ import annotations

from typing import Any

from kernels._typing import Array

from ._backend import Backend, BackendUnavailable, device_index


def get(device: str | None) -> Backend:
    kind, _, index = (device or "cpu").partition(":")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the backend 'jax:cpu' or 'jax:cuda', got 'jax:{device}'")
    try:
        import jax
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            "JAX is not installed: pip install array-api-kernels[jax]."
        ) from None
    import jax.numpy as jnp

    try:
        found = jax.devices(kind)
    except RuntimeError:
        raise BackendUnavailable(
            f"JAX {jax.__version__} is installed but finds no {kind.upper()} device."
        ) from None
    place = found[device_index("JAX", kind, index, len(found))]

    def asarray(host: Any, dtype: str | None = None) -> Array:
        host = numpy.array(host, dtype=dtype)
        if host.dtype == numpy.float64 and not jax.config.jax_enable_x64:
            raise ValueError(
                "expected a dtype that JAX has enabled, got float64 without x64: set the "
                "environment variable JAX_ENABLE_X64=1, or call "
                "jax.config.update('jax_enable_x64', True) before any array is made"
            )
        a: Array = jnp.asarray(host, device=place)
        return a

    def synchronize() -> None:
        # JAX has no barrier for a device; nothing it computes is out of reach of a live array.
        jax.block_until_ready(jax.live_arrays())

    return Backend(
        name=f"jax:{kind}:{place.id}" if kind == "cuda" else "jax:cpu",
        version=jax.__version__,
        xp=jnp,
        device=place,
        devices=tuple(f"{kind}:{i} {d.device_kind}" for i, d in enumerate(found)),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=synchronize,
        compile=jax.jit,
    )

"""JAX on the CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, device_index

# A compiled loop writes the values of so many calls into one array.
_CALLS_PER_BUFFER = 256

# On CUDA a loop whose number of turns is not known when it is compiled asks the host before each
# turn, which takes as long as a small step. So turns are grouped by so many.
_CALLS_WITHOUT_HOST = 16


def get(device: str | None) -> Backend:
    kind, _, index = (device or "cpu").partition(":")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the backend 'jax:cpu' or 'jax:cuda', got 'jax:{device}'")
    try:
        # NumPy first, as without it JAX can end the process.
        import numpy  # noqa: I001
        import jax
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'JAX is not installed: pip install "array-api-kernels[jax]"'
        ) from None
    import jax.numpy as jnp

    try:
        found = jax.devices(kind)
    except RuntimeError:
        raise BackendUnavailable(
            f"JAX {jax.__version__} is installed but finds no {kind.upper()} device."
        ) from None
    chosen = found[device_index("JAX", kind, index, len(found))]

    def asarray(host: Any, dtype: str | None = None) -> Array:
        host = numpy.array(host, dtype=dtype)
        if not jax.config.jax_enable_x64 and not _stays(host):
            raise ValueError(
                f"expected a dtype that JAX has enabled, got {host.dtype} without x64: set the "
                "environment variable JAX_ENABLE_X64=1, or call "
                "jax.config.update('jax_enable_x64', True) before any array is made"
            )
        a: Array = jnp.asarray(host, device=chosen)
        return a

    def synchronize(*_: Any) -> None:
        # JAX cannot wait for a device, but all it computes belongs to a live array.
        jax.block_until_ready(jax.live_arrays())

    return Backend(
        name=f"jax:{kind}:{chosen.id}" if kind == "cuda" else "jax:cpu",
        version=jax.__version__,
        xp=jnp,
        device=chosen,
        devices=tuple(f"{kind}:{i} {d.device_kind}" for i, d in enumerate(found)),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=synchronize,
        compile=_Jit(1 if kind == "cpu" else _CALLS_WITHOUT_HOST),
    )


def _stays(host: Any) -> bool:
    """Say whether an array keeps its values in JAX without x64, where nothing has 64 bits."""
    narrow = {"int64": "int32", "uint64": "uint32"}.get(host.dtype.name)
    if narrow is None:
        return host.dtype.name not in ("float64", "complex128")
    return bool((host == host.astype(narrow)).all())


@dataclass(frozen=True)
class _Jit:
    """`jax.jit`, also for many calls of a function in one.

    Attributes
    ----------
    together
        Calls in a row for which the host is not asked.
    """

    together: int

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        compiled: Callable[..., Any] = jax.jit(function)
        return compiled

    def repeat(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile (state, *constants) -> (state, value) into (count, state, *constants) -> ...

        What it returns calls the function `count` times and returns the last state and all values.
        It is compiled once for any count.
        """
        import jax
        import jax.numpy as jnp

        def some(count: Any, state: Any, *constants: Any) -> Any:
            value = jax.eval_shape(function, state, *constants)[1]

            def call(i: Any, carry: Any) -> Any:
                state, value = function(carry[0], *constants)
                return state, carry[1].at[i].set(value)

            def calls(i: Any, carry: Any) -> Any:
                start = i * self.together
                return jax.lax.fori_loop(
                    0, self.together, lambda j, carry: call(start + j, carry), carry
                )

            carry: Any = (state, jnp.zeros((_CALLS_PER_BUFFER, *value.shape), value.dtype))
            done: Any = 0
            if self.together > 1:
                carry = jax.lax.fori_loop(0, count // self.together, calls, carry)
                done = count - count % self.together
            return jax.lax.fori_loop(done, count, call, carry)

        compiled = jax.jit(some)

        def many(count: int, state: Any, *constants: Any) -> Any:
            values = []
            for start in range(0, count, _CALLS_PER_BUFFER):
                now = min(count - start, _CALLS_PER_BUFFER)
                state, found = compiled(now, state, *constants)
                values.append(found[:now])
            return state, jnp.concat(values)

        return many

"""MLX on the CPU, since its GPUs have no float64.

Its arrays lack `.device` and its functions the parameter `device`
(https://github.com/data-apis/array-api-compat/issues/451, .../452); the kernel does without where
they are missing.
"""

from __future__ import annotations

from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("mlx", device)
    try:
        import mlx.core as xp
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'MLX is not installed: pip install "array-api-kernels[mlx]"'
        ) from None
    xp.set_default_device(xp.cpu)

    def asarray(host: Any, dtype: str | None = None) -> Array:
        host = numpy.array(host, dtype=dtype)
        # With a name, since MLX would make float32 of float64; it calls bool bool_.
        name = {"bool": "bool_"}.get(host.dtype.name, host.dtype.name)
        a: Array = xp.array(host, dtype=getattr(xp, name))
        return a

    return Backend(
        name="mlx",
        version=xp.__version__,
        xp=xp,
        device=None,
        devices=("cpu",),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=xp.eval,
        compile=xp.compile,
    )

"""CuPy: NumPy's functions on CUDA.

It has no compiler, nor a graph of a step to replay: CuPy refuses calls of cuBLAS, and so matrix
products, while a stream is captured (https://github.com/cupy/cupy/issues/6290).
"""

from __future__ import annotations

from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, device_index


def get(device: str | None) -> Backend:
    try:
        import cupy
    except ImportError as error:
        reason = "not installed" if error.name == "cupy" else f"not importable ({error})"
        raise BackendUnavailable(
            f"CuPy is {reason}: pip install cupy-cuda12x or cupy-cuda13x, as the driver's CUDA."
        ) from None
    from array_api_compat import cupy as xp

    try:
        # CuPy imports without a driver and fails at the first call that needs one.
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        count = 0
    if count == 0:
        raise BackendUnavailable(f"CuPy {cupy.__version__} is installed but finds no CUDA device.")
    place = cupy.cuda.Device(device_index("CuPy", "CUDA", device or "", count))
    # CuPy puts every result on the current device, wherever its operands are.
    place.use()

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = cupy.array(host, dtype=dtype)
        return a

    return Backend(
        name=f"cupy:{place.id}",
        version=cupy.__version__,
        xp=xp,
        device=place,
        devices=tuple(_describe(cupy, i) for i in range(count)),
        asarray=asarray,
        to_numpy=cupy.asnumpy,
        synchronize=lambda *_: place.synchronize(),
        compile=lambda function: function,
    )


def _describe(cupy: Any, index: int) -> str:
    name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
    return f"cuda:{index} {name}"

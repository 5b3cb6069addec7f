"""NumPy: no devices, no compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("numpy", device)
    try:
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'NumPy is not installed: pip install "array-api-kernels[numpy]"'
        ) from None
    from array_api_compat import numpy as xp

    # glibc returns large blocks to the system and page-faults them in again in every step, unless a
    # block of this size was freed before. The memory of this one is never touched.
    numpy.empty(2**25 - 2**16, dtype=numpy.uint8)

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.array(host, dtype=None if dtype is None else getattr(xp, dtype))
        return a

    return Backend(
        name="numpy",
        version=numpy.__version__,
        xp=xp,
        device="cpu",
        devices=("cpu",),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=lambda *_: None,
        compile=_unchanged,
    )


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function

"""array-api-strict: the standard and nothing else, to find where the kernel asks for more."""

from __future__ import annotations

from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("array-api-strict", device)
    try:
        import array_api_strict as xp
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'array-api-strict is not installed: pip install "array-api-kernels[array-api-strict]"'
        ) from None

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.asarray(
            numpy.array(host), dtype=None if dtype is None else getattr(xp, dtype), copy=True
        )
        return a

    return Backend(
        name="array-api-strict",
        version=xp.__version__,
        xp=xp,
        device=xp.Device("CPU_DEVICE"),
        devices=("cpu",),
        asarray=asarray,
        to_numpy=lambda a: numpy.array(numpy.from_dlpack(a)),  # type: ignore[arg-type]
        synchronize=lambda *_: None,
        compile=lambda function: function,
    )

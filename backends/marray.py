"""marray: masked arrays, here around NumPy's and with nothing masked."""

from __future__ import annotations

from functools import cache
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("marray", device)
    try:
        import marray
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'marray is not installed: pip install "array-api-kernels[marray]"'
        ) from None
    xp = _namespace()

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.asarray(numpy.array(host, dtype=dtype))
        return a

    def to_numpy(a: Any) -> Any:
        return numpy.array(a.data)

    return Backend(
        name="marray",
        version=marray.__version__,
        xp=xp,
        device="cpu",
        devices=("cpu",),
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=lambda *_: None,
        compile=lambda function: function,
    )


# Cached, since each call makes a namespace, and arrays of two namespaces do not mix.
@cache
def _namespace() -> Any:
    from array_api_compat import numpy
    from marray import masked_namespace

    return masked_namespace(numpy)

"""quantity-array: arrays with units, here around NumPy's and without a unit."""

from __future__ import annotations

from functools import cache
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("quantity-array", device)
    try:
        import numpy
        import quantity_array
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'quantity-array is not installed: pip install "array-api-kernels[quantity-array]"'
        ) from None
    xp = _namespace()

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.asarray(numpy.array(host, dtype=dtype))
        return a

    return Backend(
        name="quantity-array",
        version=quantity_array.__version__,
        xp=xp,
        device="cpu",
        devices=("cpu",),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=lambda *_: None,
        compile=lambda function: function,
    )


# Cached, since each call makes a namespace, and arrays of two namespaces do not mix.
@cache
def _namespace() -> Any:
    from array_api_compat import numpy
    from quantity_array import quantity_namespace

    xp = quantity_namespace(numpy)
    own = xp.asarray

    def asarray(obj: Any, /, *, device: Any = None, **rest: Any) -> Any:  # noqa: ARG001
        return own(obj, **rest)

    choose = xp.where

    def where(condition: Any, x: Any, y: Any, /) -> Any:
        return choose(condition, x, xp.full_like(x, y) if isinstance(y, float) else y)

    # Its own refuses every device, even its arrays' device.
    xp.asarray = asarray
    # Its own makes float64 from float32 and a Python number.
    xp.where = where
    # Its own warns that a unit is lost even where there is none.
    xp.ArrayUnitQuantity.__array__ = lambda a, dtype=None, copy=None: numpy.asarray(
        a.magnitude, dtype=dtype, copy=copy
    )
    return xp

"""Dask: arrays in blocks, on threads or on the workers of a cluster.

Nothing is computed before it is read, so training would end as one graph of all its steps, which
Dask computes anew for each array that is read. So `compile` computes what a function returns, and
keeps it: no graph is longer than a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("dask", device)
    try:
        import dask.array
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'Dask is not installed: pip install "array-api-kernels[dask]"'
        ) from None
    from array_api_compat.dask import array as xp

    def asarray(host: Any, dtype: str | None = None) -> Array:
        # A copy, since Dask keeps a reference to what it is given.
        host = numpy.array(host, dtype=dtype)
        # Two blocks of samples, so that sums are in another order than NumPy's.
        chunks = tuple(-(-n // 2) if axis == 0 else n for axis, n in enumerate(host.shape))
        a: Array = dask.array.from_array(host, chunks=chunks)
        return a

    def to_numpy(a: Any) -> Any:
        return numpy.array(a.compute())

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*arguments: Any) -> Any:
            (result,) = dask.persist(function(*arguments))
            return result

        return computed

    return Backend(
        name="dask",
        version=dask.__version__,
        xp=xp,
        device="cpu",
        devices=("cpu",),
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=lambda *_: None,
        compile=compile,
        slow=True,
    )

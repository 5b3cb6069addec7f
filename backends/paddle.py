"""Paddle on the CPU.

Its tensors have no `__array_namespace__`. Its functions are the standard's, except for those below
(https://github.com/PaddlePaddle/Paddle/issues/68618).
"""

from __future__ import annotations

import sys
import types
import warnings
from functools import cache
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("paddle", device)
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        raise BackendUnavailable(
            "Paddle crashes when it is imported after TensorFlow: import Paddle first."
        )
    try:
        import numpy

        with warnings.catch_warnings():
            # Paddle's extensions in C++ are not used here.
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'Paddle is not installed: pip install "array-api-kernels[paddle]"'
        ) from None
    xp = _namespace()
    place = paddle.CPUPlace()

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = paddle.to_tensor(numpy.array(host, dtype=dtype), place=place)
        return a

    return Backend(
        name="paddle",
        version=paddle.__version__,
        xp=xp,
        device=asarray(0.0).device,  # type: ignore[attr-defined]
        devices=("cpu",),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=lambda *_: None,
        compile=lambda function: function,
    )


@cache
def _namespace() -> Any:
    """Make the namespace, and give tensors what they lack."""
    import paddle

    def namespace(_: Any, *, api_version: str | None = None) -> Any:  # noqa: ARG001
        return xp

    def astype(a: Any, dtype: Any, /) -> Any:
        return a.astype(dtype)

    def isdtype(dtype: Any, kind: str) -> bool:
        kinds = {"real floating": ("float16", "float32", "float64"), "integral": ("int", "uint")}
        return str(dtype).removeprefix("paddle.").startswith(kinds[kind])

    def argsort(a: Any, /) -> Any:
        return paddle.argsort(a, stable=True)

    def take(a: Any, indices: Any, /, *, axis: int) -> Any:
        return paddle.index_select(a, indices, axis)

    def max(a: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return paddle.max(a, axis, keepdims)

    def sum(a: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return paddle.sum(a, axis, keepdim=keepdims)

    def where(condition: Any, x: Any, y: Any, /) -> Any:
        return paddle.where(condition, x, paddle.full_like(x, y) if isinstance(y, float) else y)

    xp = types.ModuleType("paddle")
    vars(xp).update(vars(paddle))
    vars(xp).update((f.__name__, f) for f in (astype, isdtype, argsort, take, max, sum, where))
    tensor = paddle.Tensor
    tensor.__array_namespace__ = namespace
    # The tensors' own do not take a Python number on the right.
    tensor.__and__ = lambda a, b: paddle.bitwise_and(a, _tensor(b, a))
    tensor.__xor__ = lambda a, b: paddle.bitwise_xor(a, _tensor(b, a))
    return xp


def _tensor(b: Any, like: Any) -> Any:
    import paddle

    return paddle.full_like(like, b) if isinstance(b, int) else b

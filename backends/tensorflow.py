"""TensorFlow on the CPU.

Its tensors have no `__array_namespace__`; the namespace made here has what
https://github.com/data-apis/array-api-compat/pull/441 would add, as far as the kernel asks for it.
"""

from __future__ import annotations

import logging
import os
import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices

# Functions of the standard that only TensorFlow's NumPy module has under these names.
_OF_NUMPY = ("all", "full_like", "isfinite", "log", "log2", "max", "min", "sum", "take")


def get(device: str | None) -> Backend:
    no_devices("tensorflow", device)
    # Otherwise it prints what the CPU can do when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import numpy
        import tensorflow
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'TensorFlow is not installed: pip install "array-api-kernels[tensorflow]"'
        ) from None
    # Otherwise it moves what it can to a GPU, and takes all of its memory.
    tensorflow.config.set_visible_devices([], "GPU")
    tensorflow.get_logger().addFilter(_is_not_of_retracing)
    xp = _namespace()

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = tensorflow.constant(numpy.array(host, dtype=dtype))
        return a

    return Backend(
        name="tensorflow",
        version=tensorflow.__version__,
        xp=xp,
        device=asarray(0.0).device,  # type: ignore[attr-defined]
        devices=("cpu",),
        asarray=asarray,
        to_numpy=numpy.array,
        synchronize=lambda *_: None,
        compile=partial(tensorflow.function, autograph=False),
    )


def _is_not_of_retracing(record: logging.LogRecord) -> bool:
    """Drop warnings that functions are traced often: each call of `fit` makes a new function."""
    return "tf.function retracing" not in str(record.msg)


@cache
def _namespace() -> Any:
    """Make the namespace, and give tensors what they lack."""
    import tensorflow as tf
    from tensorflow.experimental import numpy as tnp

    def namespace(_: Any, *, api_version: str | None = None) -> Any:  # noqa: ARG001
        return xp

    def placed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, device: str | None = None, **named: Any) -> Any:
            with tf.device(device):
                return function(*arguments, **named)

        return call

    def isdtype(dtype: Any, kind: str) -> bool:
        return bool({"real floating": dtype.is_floating, "integral": dtype.is_integer}[kind])

    xp = types.ModuleType("tensorflow")
    vars(xp).update(
        {
            **vars(tf),
            **{name: getattr(tnp, name) for name in _OF_NUMPY},
            "arange": placed(tf.range),
            "asarray": placed(tf.convert_to_tensor),
            "ones": placed(tf.ones),
            "zeros": placed(tf.zeros),
            "argsort": partial(tf.argsort, stable=True),
            "astype": tf.cast,
            "bitwise_left_shift": tf.bitwise.left_shift,
            "concat": tnp.concatenate,
            "isdtype": isdtype,
        }
    )
    tensor = tf.Tensor
    tensor.__array_namespace__ = namespace
    tensor.T = property(tf.transpose)
    tensor.__lshift__ = lambda a, b: tf.bitwise.left_shift(a, tf.cast(b, a.dtype))
    tensor.__rshift__ = lambda a, b: tf.bitwise.right_shift(a, tf.cast(b, a.dtype))
    return xp

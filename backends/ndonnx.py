"""ndonnx: arrays that are nodes of an ONNX graph, which onnxruntime runs.

Uncompiled, every operation runs at once as a model of its own, in milliseconds, and arrays carry
their values. `compile` traces a function into one model for each signature of its arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("ndonnx", device)
    try:
        import ndonnx as xp
        import numpy

        # Without it ndonnx would compute with the reference implementation of ONNX, which has gaps.
        importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f'{error.name} is not installed: pip install "array-api-kernels[ndonnx]"'
        ) from None

    # Its arrays have a method of their own instead of the usual one.
    xp.Array.__array__ = lambda a, dtype=None, copy=None: numpy.array(
        a.unwrap_numpy(), dtype, copy=copy
    )

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.asarray(numpy.array(host, dtype=dtype))
        return a

    def to_numpy(a: Any) -> Any:
        return numpy.array(a.unwrap_numpy())

    return Backend(
        name="ndonnx",
        version=xp.__version__,
        xp=xp,
        device=xp.asarray(0).device,
        devices=("cpu",),
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=lambda *_: None,
        compile=compile,
        slow=True,
    )


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a pure function of trees of arrays as an ONNX model, one for each signature.

    A tree is an array, a tuple or NamedTuple of trees, or None. A signature is the structure of
    the arguments, and the dtype and shape of each array.
    """
    models: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        signature = _signature(arguments)
        if signature not in models:
            models[signature] = _compiled(function, arguments)
        return models[signature](*_leaves(arguments))

    return call


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Trace a function into a model, and make a function of arrays that runs it."""
    import ndonnx as xp
    import onnxruntime

    inputs = [xp.argument(shape=a.shape, dtype=a.dtype) for a in _leaves(arguments)]
    result = function(*_filled(arguments, iter(inputs)))
    outputs = list(_leaves(result))
    model = xp.build(
        {f"x{i}": a for i, a in enumerate(inputs)},
        {f"y{i}": a for i, a in enumerate(outputs)},
    )
    options = onnxruntime.SessionOptions()
    # It warns of constants that it did not fold.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(*arrays: Any) -> Any:
        values = {f"x{i}": a.unwrap_numpy() for i, a in enumerate(arrays)}
        found = session.run([f"y{i}" for i in range(len(outputs))], values)
        return _filled(result, (xp.asarray(value) for value in found))

    return run


def _leaves(tree: Any) -> Iterator[Any]:
    """List the arrays of a tree."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from _leaves(branch)
    elif tree is not None:
        yield tree


def _filled(tree: Any, arrays: Iterator[Any]) -> Any:
    """Make a tree like this one with other arrays, in the order of `_leaves`."""
    if isinstance(tree, tuple):
        branches = [_filled(branch, arrays) for branch in tree]
        return tree._make(branches) if hasattr(tree, "_make") else tuple(branches)
    return None if tree is None else next(arrays)


def _signature(tree: Any) -> Any:
    """Describe a tree without the values of its arrays."""
    if isinstance(tree, tuple):
        return type(tree), tuple(_signature(branch) for branch in tree)
    return None if tree is None else (tree.dtype, tree.shape)

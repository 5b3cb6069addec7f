"""The kernel as ONNX models, traced by ndonnx.

A model's inputs and outputs are named as in the files of `kernels.save`: `layers.0.weight`, `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from array_api_compat import array_namespace

import kernels
from kernels import Array, Layer
from kernels.activations import Activation, relu
from kernels.losses import Loss
from kernels.numerics import NATIVE, Numerics

__all__ = ["forward_model", "step_model"]

# An ONNX file is a Protobuf, of at most 2 GiB; what is not weights fits into the difference.
_MAX_WEIGHTS = 2**31 - 2**24


def forward_model(
    layers: Sequence[Layer],
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
    before: Callable[[Array], Array] | None = None,
    after: Callable[[Array], Array] | None = None,
) -> Any:
    """Make a model of the prediction, `kernels.forward(layers, x)[-1]`.

    Its input is `x` of shape (batch, n_in) for any batch of at least one sample, its output
    `prediction` of shape (batch, n_out). The weights are initializers of the model.

    Parameters
    ----------
    layers
        A network of NumPy arrays.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are.
    before
        Makes the network's input from `x`, of as many columns; `x` is then float64.
    after
        Makes `prediction` from the network's output.

    Returns
    -------
    An onnx.ModelProto.

    Raises
    ------
    ValueError, TypeError
        As `kernels.forward`; also if the weights are too large for an ONNX file.
    """
    from onnx import numpy_helper

    size = sum(a.nbytes for a in cast(dict[str, Any], _named("", layers)).values())
    if size > _MAX_WEIGHTS:
        raise ValueError(
            f"expected weights of at most {_MAX_WEIGHTS} bytes, the most that fit in an ONNX "
            f"file, got {size}"
        )
    weights = _arguments(layers)
    dtype = layers[0].weight.dtype if before is None else "float64"
    x = _argument(("batch", layers[0].weight.shape[0]), dtype)
    settings: Any = {"activation": _of_one_unit(activation), "numerics": _Rows(numerics)}
    prediction = kernels.forward(weights, x if before is None else before(x), **settings)[-1]
    if after is not None:
        prediction = after(prediction)
    model = _build({"x": x} | _named("", weights), {"prediction": prediction})
    graph = model.graph
    del graph.input[1:]
    graph.initializer.extend(
        numpy_helper.from_array(a, name) for name, a in _named("", layers).items()
    )
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return _checked(model)


def _of_one_unit(activation: Activation) -> Activation:
    """Compute a layer of one unit in one dimension: ndonnx would broadcast a single column."""

    def value(a: Any, numerics: Numerics) -> Array:
        if a.shape[1] != 1:
            return activation.value(a, numerics)
        xp: Any = array_namespace(a)
        return cast(Array, xp.reshape(activation.value(xp.reshape(a, (-1,)), numerics), (-1, 1)))

    return replace(activation, value=value)


def step_model(
    layers: Sequence[Layer],
    *,
    batch_size: int,
    learning_rate: float,
    loss: Loss = kernels.squared_error,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> Any:
    """Make a model of a whole step of training, `kernels.step(layers, x, y, ...)`.

    Its inputs are `layers.0.weight`, `layers.0.bias`, ..., `x` of shape (batch_size, n_in) and `y`:
    classes of dtype int64 and shape (batch_size,) for `softmax_cross_entropy`, otherwise numbers of
    shape (batch_size, n_out). Its outputs are `new.layers.0.weight`, ... of the same shapes, and
    `loss`, a number. The learning rate is part of the model.

    Parameters
    ----------
    layers
        A network of NumPy arrays, which gives shapes and dtype.
    batch_size
        Samples in a batch.
    learning_rate, loss, activation, numerics
        As for `kernels.step`.

    Returns
    -------
    An onnx.ModelProto.

    Raises
    ------
    ValueError, TypeError
        As `kernels.step`.
    """
    weights = _arguments(layers)
    dtype = layers[0].weight.dtype
    x = _argument((batch_size, layers[0].weight.shape[0]), dtype)
    if loss is kernels.softmax_cross_entropy:
        y = _argument((batch_size,), "int64")
    else:
        y = _argument((batch_size, layers[-1].weight.shape[1]), dtype)
    settings: Any = {"loss": loss, "activation": activation, "numerics": numerics}
    new, value = kernels.step(weights, x, y, learning_rate=learning_rate, **settings)
    inputs = _named("", weights) | {"x": x, "y": y}
    # Names in a model are unique, so outputs have names of their own.
    return _checked(_build(inputs, _named("new.", new) | {"loss": value}))


@dataclass(frozen=True)
class _Rows:
    """The numerics of `forward` for matrices of an unknown number of rows.

    In ndonnx a product with such a matrix has an unknown number of columns as well, but exact
    numerics need to know the number of terms of the next product.
    """

    numerics: Numerics

    def matmul(self, a: Any, b: Array) -> Array:
        import ndonnx

        # Results of operations on a single column have an unknown number of columns, too.
        a = ndonnx.reshape(a, (-1, b.shape[0]))
        product = self.numerics.matmul(a, b)
        return cast(Array, ndonnx.reshape(product, (-1, b.shape[1])))

    def add(self, a: Any, b: Array) -> Array:
        import ndonnx

        # So has the sum of one column and one number.
        return cast(Array, ndonnx.reshape(self.numerics.add(a, b), (-1, a.shape[1])))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.numerics, name)


def _argument(shape: tuple[int | str, ...], dtype: Any) -> Array:
    import ndonnx
    import numpy

    a: Array = ndonnx.argument(shape=shape, dtype=ndonnx.from_numpy_dtype(numpy.dtype(dtype)))
    return a


def _arguments(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            _argument(weight.shape, weight.dtype),
            None if bias is None else _argument(bias.shape, bias.dtype),
        )
        for weight, bias in layers
    )


def _named(prefix: str, layers: Sequence[Layer]) -> dict[str, Array]:
    """Give the parameters by their names in a file of `kernels.save`."""
    return {
        f"{prefix}layers.{i}.{field}": a
        for i, layer in enumerate(layers)
        for field, a in zip(layer._fields, layer, strict=True)
        if a is not None
    }


def _build(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    import spox

    # Not by ndonnx, which would describe inputs that become initializers later.
    return spox.build(
        {name: a.unwrap_spox() for name, a in inputs.items()},
        {name: a.unwrap_spox() for name, a in outputs.items()},
    )


def _checked(model: Any) -> Any:
    import onnx

    model.producer_name = "array-api-kernels"
    onnx.checker.check_model(model, full_check=True)
    return model

"""A network as one vector, and its loss as a function of that vector, for L-BFGS."""

from __future__ import annotations

from typing import Any, cast

from array_api_compat import array_namespace

from .._optimized import penalized, squares_of
from .._typing import Array
from ..activations import Activation
from ..layer import Layer
from ..losses import Loss
from ..network import differentiated
from ..numerics import Numerics

__all__ = ["packed", "unpacked", "value_and_gradient"]


def value_and_gradient(
    vector: Array,
    x: Array,
    y: Any,
    operands: tuple[Any, Any],
    *,
    shapes: tuple[tuple[int, int], ...],
    l2: float,
    loss: Loss,
    activation: Activation,
    numerics: Numerics,
) -> tuple[Array, Array]:
    """Compute the loss over all samples, and its gradient, from parameters in one vector."""
    layers = unpacked(vector, shapes)
    value, gradients = differentiated(
        layers, x, y, operands, None, loss=loss, activation=activation, numerics=numerics
    )
    if l2 > 0.0:
        squares = squares_of(layers, None, numerics)
        value, gradients = penalized(layers, squares, value, gradients, l2, numerics)
    return value, packed(gradients)


def packed(layers: tuple[Layer, ...]) -> Array:
    """Write all parameters in one vector."""
    xp = array_namespace(layers[0].weight)
    return cast(Array, xp.concat([xp.reshape(a, (-1,)) for layer in layers for a in layer]))


def unpacked(vector: Array, shapes: tuple[tuple[int, int], ...]) -> tuple[Layer, ...]:
    """Read a network from such a vector."""
    xp, layers, first = array_namespace(vector), [], 0
    for n_in, n_out in shapes:
        middle = first + n_in * n_out
        weight = xp.reshape(vector[first:middle], (n_in, n_out))
        layers.append(Layer(weight, vector[middle : middle + n_out]))
        first = middle + n_out
    return tuple(layers)

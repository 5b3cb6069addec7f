"""A layer, and the layers that a network starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from array_api_compat import array_namespace

from ._checks import check_array, to_integer
from ._host import check_rounding, placement
from ._typing import Array
from .random import uniform

__all__ = ["Layer", "init"]


class Layer(NamedTuple):
    """The parameters of one linear layer, or their gradients.

    Attributes
    ----------
    weight
        Shape (n_in, n_out).
    bias
        Shape (n_out,), or None.
    """

    weight: Array
    bias: Array | None = None


def init(
    sizes: Sequence[int], *, like: Array, seed: int = 0, bias: bool = True
) -> tuple[Layer, ...]:
    """Draw the initial weights of a network: the same bits on every library and device.

    He uniform: weights of layer i are uniform in [-limit, limit) with limit = sqrt(6 / sizes[i]),
    so that ReLU layers keep the variance of their input; biases are zero.

    Parameters
    ----------
    sizes
        The numbers of inputs, of units in each hidden layer, and of outputs; (1000, 100, 10) is
        the network of "Learning PyTorch with examples".
    like
        A float32 or float64 array that gives the namespace, dtype and device.
    seed
        A Python integer in [0, 2**64).
    bias
        Whether layers have a bias.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, a size is below 1, or the seed is out of range.
    TypeError
        If `like` is not an array, or is neither float32 nor float64, or if a size or the seed is
        not an integer.
    RuntimeError
        If the thread does not round to nearest.

    References
    ----------
    He, Zhang, Ren, Sun 2015, "Delving deep into rectifiers", ICCV.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> layers = kernels.init((3, 2, 1), like=np.zeros(0, dtype=np.float32))
    >>> [layer.weight.shape for layer in layers]
    [(3, 2), (2, 1)]
    """
    check_array("like", like)
    check_rounding()
    if not hasattr(sizes, "__iter__"):
        raise TypeError(f"expected sizes such as (3, 2), got {sizes!r}")
    sizes = tuple(to_integer("every size", size) for size in sizes)
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"expected two or more positive sizes, got {sizes}")
    xp = array_namespace(like)
    layers = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        draw = uniform((n_in, n_out), seed=seed, stream=i, like=like)
        # 2 * draw - 1 is exact, so the product is the only rounding.
        weight = (2.0 * draw - 1.0) * math.sqrt(6.0 / n_in)
        zeros = xp.zeros((n_out,), dtype=like.dtype, **placement(like))
        layers.append(Layer(weight, zeros if bias else None))
    return tuple(layers)

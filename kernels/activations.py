"""Activations: functions of each element, with derivatives computed from their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from array_api_compat import array_namespace

from ._in_place import is_plain
from ._typing import Array
from .numerics import NATIVE, Numerics

__all__ = [
    "Activation",
    "elu",
    "identity",
    "leaky_relu",
    "logistic",
    "relu",
    "softplus",
    "tanh",
]

# The slope of leaky_relu below 0.
_SLOPE = 0.01


@dataclass(frozen=True)
class Activation:
    """A function of each element. What was compiled with one serves any that is equal.

    Parameters
    ----------
    name
        What it is called.
    value
        (a, numerics) -> f(a).
    back
        (f(a), gradient, numerics) -> gradient * f'(a). It may change its argument `gradient`.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> y = kernels.activations.tanh(np.asarray([-1e9, 0.0, 0.5]))
    >>> y, kernels.activations.tanh.derivative(y)
    (array([-1.        ,  0.        ,  0.46211716]), array([0.        , 1.        , 0.78644773]))
    """

    name: str
    value: Callable[[Array, Numerics], Array]
    back: Callable[[Array, Array, Numerics], Array]

    def __call__(self, a: Array, *, numerics: Numerics = NATIVE) -> Array:
        """Compute the function of each element."""
        return self.value(numerics.flush(a), numerics)

    def derivative(self, output: Array, *, numerics: Numerics = NATIVE) -> Array:
        """Compute the derivative from what the function returned."""
        ones = array_namespace(output).ones_like(output)
        return self.back(numerics.flush(output), ones, numerics)


def check_activation(activation: object) -> None:
    """Raise TypeError unless this is an activation."""
    if not isinstance(activation, Activation):
        raise TypeError(
            "expected an activation such as kernels.activations.tanh, got "
            f"{activation!r} of type {type(activation).__name__}"
        )


def _relu(a: Array, numerics: Numerics) -> Array:
    """Replace negative elements by 0, without `where`, which is slow in NumPy and torch.

    `maximum` of two zeros may be -0, which `abs` makes +0. Its derivative for equal arguments is a
    half in autograd, which the second `maximum` makes 0.
    """
    xp = array_namespace(a)
    a = xp.maximum(a, xp.zeros_like(a))
    if not is_plain(numerics, a):
        a = xp.maximum(a, -a)
    return cast(Array, xp.abs(a))


def _relu_back(y: Array, gradient: Array, _: Numerics) -> Array:
    # A product, since `where` is slow in NumPy; not with (y > 0), which XLA turns into `where`, so
    # that an infinite gradient would be hidden.
    gradient *= 1.0 - array_namespace(y).astype(y <= 0.0, gradient.dtype)
    return gradient


def _leaky_relu(a: Array, numerics: Numerics) -> Array:
    return cast(Array, array_namespace(a).maximum(a, numerics.multiply(a, _SLOPE)))


def _leaky_relu_back(y: Array, gradient: Array, numerics: Numerics) -> Array:
    flat = numerics.multiply(gradient, _SLOPE)
    return cast(Array, array_namespace(y).where(y > 0.0, gradient, flat))


def _elu(a: Array, numerics: Numerics) -> Array:
    xp = array_namespace(a)
    return cast(Array, xp.where(a > 0.0, a, numerics.expm1(xp.minimum(a, xp.zeros_like(a)))))


def _elu_back(y: Array, gradient: Array, numerics: Numerics) -> Array:
    xp = array_namespace(y)
    factor = numerics.add(xp.minimum(y, xp.zeros_like(y)), xp.ones_like(y))
    return numerics.multiply(gradient, factor)


def _softplus(a: Array, numerics: Numerics) -> Array:
    return numerics.softplus(a)


def _softplus_back(y: Array, gradient: Array, numerics: Numerics) -> Array:
    return numerics.multiply(gradient, -numerics.expm1(-y))


def _tanh(a: Array, numerics: Numerics) -> Array:
    return numerics.tanh(a)


def _tanh_back(y: Array, gradient: Array, numerics: Numerics) -> Array:
    # Not 1 - y * y, which loses digits where y is near 1.
    ones = array_namespace(y).ones_like(y)
    factor = numerics.multiply(numerics.subtract(ones, y), numerics.add(y, ones))
    return numerics.multiply(gradient, factor)


def _logistic(a: Array, numerics: Numerics) -> Array:
    return numerics.logistic(a)


def _logistic_back(y: Array, gradient: Array, numerics: Numerics) -> Array:
    ones = array_namespace(y).ones_like(y)
    return numerics.multiply(gradient, numerics.multiply(y, numerics.subtract(ones, y)))


def _same(a: Array, _: Numerics) -> Array:
    return a


def _same_back(_: Array, gradient: Array, __: Numerics) -> Array:
    return gradient


relu = Activation("relu", _relu, _relu_back)
leaky_relu = Activation("leaky_relu", _leaky_relu, _leaky_relu_back)
elu = Activation("elu", _elu, _elu_back)
softplus = Activation("softplus", _softplus, _softplus_back)
tanh = Activation("tanh", _tanh, _tanh_back)
logistic = Activation("logistic", _logistic, _logistic_back)
identity = Activation("identity", _same, _same_back)

"""Loss functions: each returns the loss and its gradient with respect to the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

from array_api_compat import array_namespace

from ._checks import check_alike, check_array, check_samples, check_shape, to_signed
from ._host import placement
from ._typing import Array
from .numerics import NATIVE, Numerics
from .numerics.exact import MAX_K as _MOST_TERMS

__all__ = ["Loss", "softmax_cross_entropy", "squared_error"]

Loss = Callable[..., tuple[Array, Array]]


def squared_error(
    prediction: Array, target: Array, *, numerics: Numerics = NATIVE
) -> tuple[Array, Array]:
    """Compute the tutorial's loss, the sum of squared differences.

    value = sum((prediction - target)**2); gradient = 2 * (prediction - target).

    Parameters
    ----------
    prediction, target
        Shape (n, n_out), of one dtype.
    numerics
        What products and sums are.

    Returns
    -------
    The value as a 0-d array, and the gradient of shape (n, n_out).

    Raises
    ------
    ValueError
        If shapes or devices differ, or the prediction is not two-dimensional.
    TypeError
        If libraries or dtypes differ, or the dtype is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> squared_error(np.asarray([[1.0, 2.0]]), np.asarray([[0.0, 4.0]]))
    (array(5.), array([[ 2., -4.]]))
    """
    _check_prediction("the prediction", prediction)
    check_alike("target", target, "the prediction", prediction)
    check_shape("target", target, tuple(prediction.shape))
    return _squared_error(prediction, target, numerics=numerics)


def softmax_cross_entropy(
    logits: Array, target: Array, *, numerics: Numerics = NATIVE
) -> tuple[Array, Array]:
    """Compute the mean cross-entropy of softmax(logits) against classes or probabilities.

    With s = logits - max(logits) and p the target's probabilities (one-hot for class indices),
    row by row: value = mean(sum(p) * log(sum(exp(s))) - sum(p * s)), and
    gradient = (exp(s) * sum(p) / sum(exp(s)) - p) / n.

    Parameters
    ----------
    logits
        Shape (n, c).
    target
        Class indices, integers of shape (n,) in [0, c), or probabilities of shape (n, c) and the
        logits' dtype. An index out of range makes the value and that row's gradient NaN; `fit`
        checks the range before it starts.
    numerics
        What products, sums, exponentials and logarithms are.

    Returns
    -------
    The value as a 0-d array, and the gradient of shape (n, c).

    Raises
    ------
    ValueError
        If shapes do not fit, devices differ, or there are no samples.
    TypeError
        If libraries or dtypes differ, or a dtype is none of those above.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = softmax_cross_entropy(np.zeros((1, 2)), np.asarray([1]))
    >>> round(float(value), 6), gradient
    (0.693147, array([[ 0.5, -0.5]]))
    """
    _check_prediction("the logits", logits)
    check_samples("target", target, "the logits", logits)
    if logits.shape[1] == 0:
        raise ValueError(f"expected at least one class, got logits of shape {tuple(logits.shape)}")
    if array_namespace(logits).isdtype(target.dtype, "integral"):
        check_shape("target", target, (logits.shape[0],))
    else:
        check_alike("target", target, "the logits", logits)
        check_shape("target", target, tuple(logits.shape))
    return _softmax_cross_entropy(logits, target, numerics=numerics)


def checked(loss: Loss) -> Loss:
    """Return a loss that checks what it returns; those of this module need not."""
    own = loss is squared_error or loss is softmax_cross_entropy
    return loss if own else _Checked(loss)


def unchecked(loss: Loss) -> Loss:
    """Return a loss without its checks, for input like that of an earlier call."""
    if loss is squared_error:
        return _squared_error
    if isinstance(loss, _Checked):
        return loss.loss
    return _softmax_cross_entropy if loss is softmax_cross_entropy else loss


@dataclass(frozen=True)
class _Checked:
    """A user's loss, which must return a 0-d value and a gradient like the prediction."""

    loss: Loss

    def __call__(self, prediction: Array, target: Array, *, numerics: Numerics) -> Any:
        result: Any = self.loss(prediction, target, numerics=numerics)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"expected a loss that returns (value, gradient), got {type(result).__name__}"
            )
        expected = (), tuple(prediction.shape)
        for name, a, shape in zip(("value", "gradient"), result, expected, strict=True):
            check_alike(f"the {name} that the loss returns", a, "the prediction", prediction)
            check_shape(f"the {name} that the loss returns", a, shape)
        return result


def _squared_error(prediction: Array, target: Array, *, numerics: Numerics) -> tuple[Array, Array]:
    difference = numerics.subtract(prediction, target)
    return _dot(difference, difference, numerics), 2.0 * difference


def _softmax_cross_entropy(
    logits: Array, target: Array, *, numerics: Numerics
) -> tuple[Array, Array]:
    xp = array_namespace(logits)
    n = logits.shape[0]
    p = numerics.flush(_probabilities(logits, target, xp))
    s = numerics.subtract(logits, xp.max(logits, axis=1, keepdims=True))
    e = numerics.exp(s)
    total = numerics.sum(e, axis=1, keepdims=True)
    mass = numerics.sum(p, axis=1, keepdims=True)
    # A logit of -inf has probability 0; where p is 0 as well, their product counts as 0.
    s = xp.where(p == 0.0, xp.zeros_like(s), s)
    value = numerics.subtract(_dot(mass, numerics.log(total), numerics), _dot(p, s, numerics))
    gradient = numerics.subtract(numerics.multiply(e, numerics.divide(mass, total)), p)
    return numerics.multiply(value, 1 / n), numerics.multiply(gradient, 1 / n)


def _check_prediction(name: str, prediction: Array) -> None:
    check_array(name, prediction)
    if prediction.ndim != 2:
        raise ValueError(
            f"expected {name} of shape (n, n_out), got shape {tuple(prediction.shape)}"
        )


def _probabilities(logits: Array, target: Array, xp: Any) -> Array:
    if not xp.isdtype(target.dtype, "integral"):
        return target
    target = xp.reshape(to_signed(target), (-1, 1))
    classes = xp.arange(logits.shape[1], dtype=target.dtype, **placement(logits))
    one_hot = xp.astype(target == xp.reshape(classes, (1, -1)), logits.dtype)
    valid = (target >= 0) & (target < logits.shape[1])
    # No array of NaN, which JAX's debug_nans would report for labels that are all in range.
    return cast(Array, xp.where(valid, one_hot, float("nan")))


def _dot(a: Array, b: Array, numerics: Numerics) -> Array:
    """Sum the products of all elements, as a matrix product with one row and one column."""
    xp = array_namespace(a)
    row = xp.reshape(a, (1, -1))
    column = row.T if b is a else xp.reshape(b, (-1, 1))
    n = row.shape[1]
    if n <= _MOST_TERMS:
        return cast(Array, xp.reshape(numerics.matmul(row, column), ()))
    parts = (slice(i, min(i + _MOST_TERMS, n)) for i in range(0, n, _MOST_TERMS))
    total = reduce(numerics.add, (numerics.matmul(row[:, part], column[part, :]) for part in parts))
    return cast(Array, xp.reshape(total, ()))

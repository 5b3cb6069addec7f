"""Loss functions: each returns the loss and its gradient with respect to the prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from inspect import signature
from typing import Any, cast

from array_api_compat import array_namespace

from ._checks import (
    check_alike,
    check_array,
    check_labels,
    check_numerics,
    check_samples,
    check_shape,
    to_signed,
)
from ._host import placement
from ._typing import Array
from .numerics import NATIVE, Numerics
from .numerics.exact import MAX_K as _MOST_TERMS

__all__ = [
    "Loss",
    "half_squared_error",
    "logistic_cross_entropy",
    "poisson",
    "softmax_cross_entropy",
    "squared_error",
]

Loss = Callable[..., tuple[Array, Array]]


def squared_error(
    prediction: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    numerics: Numerics = NATIVE,
) -> tuple[Array, Array]:
    """Compute the tutorial's loss, the sum of squared differences.

    value = sum((prediction - target)**2); gradient = 2 * (prediction - target).

    Parameters
    ----------
    prediction, target
        Shape (n, n_out), of one dtype.
    sample_weight
        What each sample's terms are multiplied by, of shape (n,) and the same dtype.
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
    _check_weight(sample_weight, prediction)
    check_numerics(numerics)
    return _squared_error(prediction, target, sample_weight=sample_weight, numerics=numerics)


def half_squared_error(
    prediction: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    numerics: Numerics = NATIVE,
) -> tuple[Array, Array]:
    """Compute the mean over samples of half the squared error, as scikit-learn does.

    value = mean over samples of sum((prediction - target)**2) / 2;
    gradient = (prediction - target) / n.

    Parameters
    ----------
    prediction, target
        Shape (n, n_out), of one dtype.
    sample_weight
        Shape (n,) and that dtype; the mean is then the weighted one.
    numerics
        What products and sums are.

    Returns
    -------
    The value as a 0-d array, and the gradient of shape (n, n_out).

    Raises
    ------
    ValueError
        If shapes or devices differ, the prediction is not two-dimensional, or there are no samples.
    TypeError
        If libraries or dtypes differ, or the dtype is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = half_squared_error(np.asarray([[1.0], [2.0]]), np.asarray([[0.0], [4.0]]))
    >>> float(value), gradient.tolist()
    (1.25, [[0.5], [-1.0]])
    """
    _check_numbers(prediction, target, sample_weight)
    check_numerics(numerics)
    return _half_squared_error(prediction, target, sample_weight=sample_weight, numerics=numerics)


def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    numerics: Numerics = NATIVE,
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
    sample_weight
        Shape (n,) and the logits' dtype; the mean is then the weighted one.
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
        If libraries or dtypes differ, or a dtype is not one of those above.

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
    _check_weight(sample_weight, logits)
    check_numerics(numerics)
    return _softmax_cross_entropy(logits, target, sample_weight=sample_weight, numerics=numerics)


def logistic_cross_entropy(
    logits: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    numerics: Numerics = NATIVE,
) -> tuple[Array, Array]:
    """Compute the mean cross-entropy of logistic(logits), for several labels or two classes.

    Each output stands for a label that a sample has or has not; a single output, for two classes.
    With z the logits and y the target, value = mean over samples of
    sum(max(z, 0) - y z + softplus(-abs(z))), and gradient = (logistic(z) - y) / n.

    Parameters
    ----------
    logits
        Shape (n, n_out).
    target
        Probabilities of shape (n, n_out) and the logits' dtype, or integers 0 and 1, or booleans,
        of shape (n, n_out), or (n,) if n_out is 1. `fit` checks the range before it starts.
    sample_weight
        Shape (n,) and the logits' dtype; the mean is then the weighted one.
    numerics
        What products, sums and elementary functions are.

    Returns
    -------
    The value as a 0-d array, and the gradient of shape (n, n_out).

    Raises
    ------
    ValueError
        If shapes do not fit, devices differ, or there are no samples.
    TypeError
        If libraries or dtypes differ, or a dtype is not one of those above.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = logistic_cross_entropy(np.zeros((1, 2)), np.asarray([[1, 0]]))
    >>> round(float(value), 6), gradient
    (1.386294, array([[-0.5,  0.5]]))
    """
    _check_prediction("the logits", logits)
    check_samples("target", target, "the logits", logits)
    if array_namespace(logits).isdtype(target.dtype, ("integral", "bool")):
        single = target.ndim == 1 and logits.shape[1] == 1
        check_shape("target", target, tuple(logits.shape)[: 1 if single else 2])
    else:
        check_alike("target", target, "the logits", logits)
        check_shape("target", target, tuple(logits.shape))
    _check_weight(sample_weight, logits)
    check_numerics(numerics)
    return _logistic_cross_entropy(logits, target, sample_weight=sample_weight, numerics=numerics)


def poisson(
    logarithm: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    numerics: Numerics = NATIVE,
) -> tuple[Array, Array]:
    """Compute the Poisson loss of counts, from predicted logarithms of their expectations.

    value = mean over samples of sum(exp(logarithm) - target * logarithm), the negative
    log-likelihood up to a constant; gradient = (exp(logarithm) - target) / n.

    Parameters
    ----------
    logarithm, target
        Shape (n, n_out), of one dtype. Targets are counts, or other numbers of 0 or more; `fit`
        checks that before it starts.
    sample_weight
        Shape (n,) and that dtype; the mean is then the weighted one.
    numerics
        What products, sums and exponentials are.

    Returns
    -------
    The value as a 0-d array, and the gradient of shape (n, n_out).

    Raises
    ------
    ValueError
        If shapes or devices differ, `logarithm` is not two-dimensional, or there are no samples.
    TypeError
        If libraries or dtypes differ, or the dtype is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = poisson(np.zeros((2, 1)), np.asarray([[3.0], [1.0]]))
    >>> float(value), gradient.tolist()
    (1.0, [[-1.0], [0.0]])
    """
    _check_numbers(logarithm, target, sample_weight)
    check_numerics(numerics)
    return _poisson(logarithm, target, sample_weight=sample_weight, numerics=numerics)


def expectation(loss: Loss, output: Array, *, numerics: Numerics) -> Array:
    """Compute the target's expectation from a network's output, shape (n, n_out).

    The loss decides: softmax(output) for classes, logistic(output) for labels, exp(output) for
    counts, and with any other loss the output itself.
    """
    if loss is poisson:
        return numerics.exp(output)
    if loss is logistic_cross_entropy:
        return numerics.logistic(output)
    if loss is not softmax_cross_entropy:
        return output
    xp = array_namespace(output)
    e = numerics.exp(numerics.subtract(output, xp.max(output, axis=1, keepdims=True)))
    total = numerics.sum(e, axis=1, keepdims=True)
    return numerics.multiply(e, numerics.divide(xp.ones_like(total), total))


def check_targets(loss: Loss, y: Array, outputs: int) -> None:
    """Raise ValueError if a target is out of a loss's range. This reads the values."""
    xp = array_namespace(y)
    whole = xp.isdtype(y.dtype, "integral")
    if loss is softmax_cross_entropy and whole:
        check_labels(y, outputs)
    most = {logistic_cross_entropy: 1.0, poisson: math.inf}
    if (loss is logistic_cross_entropy or loss is poisson) and not xp.isdtype(y.dtype, "bool"):
        values = to_signed(y) if whole else y
        low, high = float(xp.min(values)), float(xp.max(values))
        if not 0.0 <= low <= high <= most[loss]:
            wrong = high if low >= 0.0 else low
            said = "from 0 to 1" if loss is logistic_cross_entropy else "of 0 or more"
            raise ValueError(f"expected targets {said}, got {wrong:g}")


def checked(loss: Loss) -> Loss:
    """Return a loss that checks its results; the losses of this module need no check."""
    return loss if any(loss is own for own, _ in _OWN) else _Checked(loss)


def unchecked(loss: Loss) -> Loss:
    """Return a loss without checks, for input of the shapes and dtypes of an earlier call."""
    if isinstance(loss, _Checked):
        return loss.loss
    return next((same for own, same in _OWN if loss is own), loss)


@dataclass(frozen=True)
class Weighted:
    """A loss whose target is a pair, the target and the weights of the samples."""

    loss: Loss

    def __call__(self, prediction: Array, target: Any, *, numerics: Numerics) -> Any:
        y, weight = target
        return self.loss(prediction, y, sample_weight=weight, numerics=numerics)


def weighted(loss: Loss) -> Loss:
    """Make a loss of pairs (target, sample_weight); raise TypeError unless it takes the latter."""
    parameters = signature(loss).parameters.values()
    if not any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"expected a loss that takes sample_weight, since that is given, got {loss!r}"
        )
    return Weighted(loss)


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


def _squared_error(
    prediction: Array, target: Array, *, sample_weight: Array | None = None, numerics: Numerics
) -> tuple[Array, Array]:
    difference = numerics.subtract(prediction, target)
    if sample_weight is None:
        return _dot(difference, difference, numerics), 2.0 * difference
    scaled = numerics.multiply(difference, _column(sample_weight))
    return _dot(scaled, difference, numerics), 2.0 * scaled


def _half_squared_error(
    prediction: Array, target: Array, *, sample_weight: Array | None = None, numerics: Numerics
) -> tuple[Array, Array]:
    difference = numerics.subtract(prediction, target)
    factor = _share(prediction, sample_weight, numerics)
    scaled = difference
    if sample_weight is not None:
        scaled = numerics.multiply(difference, _column(sample_weight))
    gradient = numerics.multiply(scaled, factor)
    return numerics.multiply(_dot(gradient, difference, numerics), 0.5), gradient


def _softmax_cross_entropy(
    logits: Array, target: Array, *, sample_weight: Array | None = None, numerics: Numerics
) -> tuple[Array, Array]:
    xp = array_namespace(logits)
    p = numerics.flush(_probabilities(logits, target, xp))
    if sample_weight is not None:
        p = numerics.multiply(p, _column(sample_weight))
    s = numerics.subtract(logits, xp.max(logits, axis=1, keepdims=True))
    e = numerics.exp(s)
    total = numerics.sum(e, axis=1, keepdims=True)
    mass = numerics.sum(p, axis=1, keepdims=True)
    # A logit of -inf has probability 0; where p is 0 as well, their product counts as 0.
    s = xp.where(p == 0.0, xp.zeros_like(s), s)
    value = numerics.subtract(_dot(mass, numerics.log(total), numerics), _dot(p, s, numerics))
    gradient = numerics.subtract(numerics.multiply(e, numerics.divide(mass, total)), p)
    factor = _share(logits, sample_weight, numerics)
    return numerics.multiply(value, factor), numerics.multiply(gradient, factor)


def _logistic_cross_entropy(
    logits: Array, target: Array, *, sample_weight: Array | None = None, numerics: Numerics
) -> tuple[Array, Array]:
    xp = array_namespace(logits)
    y = xp.reshape(xp.astype(target, logits.dtype), tuple(logits.shape))
    hinge = xp.maximum(logits, xp.zeros_like(logits))
    terms = numerics.subtract(hinge, numerics.multiply(logits, y))
    terms = numerics.add(terms, numerics.softplus(-xp.abs(logits)))
    gradient = numerics.subtract(numerics.logistic(logits), y)
    return _mean(terms, gradient, sample_weight, numerics)


def _poisson(
    logarithm: Array, target: Array, *, sample_weight: Array | None = None, numerics: Numerics
) -> tuple[Array, Array]:
    expected = numerics.exp(logarithm)
    terms = numerics.subtract(expected, numerics.multiply(logarithm, target))
    return _mean(terms, numerics.subtract(expected, target), sample_weight, numerics)


def _mean(
    terms: Array, gradient: Array, sample_weight: Array | None, numerics: Numerics
) -> tuple[Array, Array]:
    """Sum each sample's terms, and take the mean over samples."""
    xp = array_namespace(terms)
    rows = numerics.sum(terms, axis=1, keepdims=True)
    if sample_weight is None:
        weights = xp.ones_like(rows)
    else:
        weights = _column(sample_weight)
        gradient = numerics.multiply(gradient, weights)
    factor = _share(terms, sample_weight, numerics)
    value = numerics.multiply(_dot(rows, weights, numerics), factor)
    return value, numerics.multiply(gradient, factor)


def _share(like: Array, sample_weight: Array | None, numerics: Numerics) -> Array | float:
    """Divide 1 by the number of samples, or by the sum of their weights."""
    if sample_weight is None:
        return 1 / like.shape[0]
    xp = array_namespace(like)
    total = xp.reshape(numerics.sum(_column(sample_weight), axis=0), ())
    # All weights of a batch may be zero; then there is nothing to learn from it.
    total = xp.where(total > 0.0, total, xp.ones_like(total))
    return numerics.divide(xp.ones_like(total), total)


def _column(sample_weight: Array) -> Array:
    return cast(Array, array_namespace(sample_weight).reshape(sample_weight, (-1, 1)))


def _check_numbers(prediction: Array, target: Array, sample_weight: Array | None) -> None:
    """Check targets of the shape and dtype of the predictions, for one sample or more."""
    _check_prediction("the prediction", prediction)
    check_samples("target", target, "the prediction", prediction)
    check_alike("target", target, "the prediction", prediction)
    check_shape("target", target, tuple(prediction.shape))
    _check_weight(sample_weight, prediction)


def _check_weight(sample_weight: Array | None, prediction: Array) -> None:
    if sample_weight is not None:
        check_alike("sample_weight", sample_weight, "the prediction", prediction)
        check_shape("sample_weight", sample_weight, (prediction.shape[0],))


def _check_prediction(name: str, prediction: Array) -> None:
    check_array(name, prediction)
    if prediction.ndim != 2:
        raise ValueError(
            f"expected {name} of shape (n, n_out), got shape {tuple(prediction.shape)}"
        )


def _probabilities(logits: Array, target: Array, xp: Any) -> Array:
    if target.ndim == 2:
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


# Each loss, and the same without its checks.
_OWN: tuple[tuple[Loss, Loss], ...] = (
    (squared_error, _squared_error),
    (half_squared_error, _half_squared_error),
    (softmax_cross_entropy, _softmax_cross_entropy),
    (logistic_cross_entropy, _logistic_cross_entropy),
    (poisson, _poisson),
)

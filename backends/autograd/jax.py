"""The kernel as functions that JAX differentiates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

import kernels
from kernels import NATIVE, Layer
from kernels.activations import Activation, relu
from kernels.losses import Loss, checked
from kernels.numerics import Numerics

__all__ = ["loss_of", "predict"]


def predict(
    layers: Sequence[Layer],
    x: Any,
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> Any:
    """Compute the network's prediction, differentiable with respect to its parameters and x.

    The forward pass is `kernels.forward(layers, x)[-1]`, the backward pass
    `kernels.backward_to_input`. It works under `jax.jit`, and under `jax.vmap` over batches of x or
    of networks.

    Parameters
    ----------
    layers
        The network, of JAX arrays.
    x
        Shape (n, n_in), of the layers' dtype and device.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are, in both directions.

    Returns
    -------
    An array of shape (n, n_out).

    Raises
    ------
    ValueError
        As `kernels.forward`.
    TypeError
        As `kernels.forward`; also when it is differentiated in forward mode, as by `jax.jvp` or, of
        its gradient, by `jax.hessian`.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> layers = (kernels.Layer(jnp.asarray([[3.0], [4.0]])),)
    >>> x = jnp.asarray([[1.0, 2.0]])
    >>> (gradient,) = jax.grad(lambda layers: predict(layers, x).sum())(layers)
    >>> gradient.weight.tolist()
    [[1.0], [2.0]]
    """
    return _predict(activation, numerics, tuple(layers), x)


def loss_of(
    prediction: Any, target: Any, *, loss: Loss = kernels.squared_error, numerics: Numerics = NATIVE
) -> Any:
    """Compute a loss of the kernel, differentiable with respect to the prediction.

    Its gradient is the one that `loss` returns, times the gradient with respect to the loss.

    Parameters
    ----------
    prediction, target
        As `loss` takes them.
    loss
        `kernels.squared_error`, `kernels.softmax_cross_entropy`, or another function
        `(prediction, target, *, numerics) -> (value, gradient)`.
    numerics
        What products and sums are.

    Returns
    -------
    A 0-d array.

    Raises
    ------
    ValueError
        If it is differentiated with respect to the target, for which `loss` gives no gradient;
        otherwise as `loss`.
    TypeError
        As `loss`.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> target = jnp.asarray([[0.0, 4.0]])
    >>> jax.grad(loss_of)(jnp.asarray([[1.0, 2.0]]), target).tolist()
    [[2.0, -4.0]]
    """
    return _loss_of(checked(loss), numerics, prediction, target)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _predict(activation: Activation, numerics: Numerics, layers: tuple[Layer, ...], x: Any) -> Any:
    return kernels.forward(layers, x, activation=activation, numerics=numerics)[-1]


def _predict_forward(
    activation: Activation, numerics: Numerics, layers: tuple[Layer, ...], x: Any
) -> tuple[Any, tuple[Any, Any]]:
    activations = kernels.forward(layers, x, activation=activation, numerics=numerics)
    return activations[-1], (layers, activations)


def _predict_backward(
    activation: Activation, numerics: Numerics, saved: tuple[Any, Any], gradient: Any
) -> Any:
    settings: dict[str, Any] = {"activation": activation, "numerics": numerics}
    return kernels.backward_to_input(*saved, gradient, **settings)


_predict.defvjp(_predict_forward, _predict_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss_of(loss: Loss, numerics: Numerics, prediction: Any, target: Any) -> Any:
    return loss(prediction, target, numerics=numerics)[0]


def _loss_forward(loss: Loss, numerics: Numerics, prediction: Any, target: Any) -> Any:
    if target.perturbed:
        raise ValueError(
            "expected a target that is a constant, got one to differentiate with respect to"
        )
    return loss(prediction.value, target.value, numerics=numerics)


def _loss_backward(_: Loss, numerics: Numerics, gradient: Any, factor: Any) -> tuple[Any, None]:
    return numerics.multiply(gradient, factor), None


# Symbolic zeros tell the forward function what it is differentiated with respect to.
_loss_of.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)

"""The kernel as functions of torch's autograd, and as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import kernels
from kernels import NATIVE, Layer
from kernels.activations import Activation, relu
from kernels.losses import Loss, checked
from kernels.numerics import Numerics

__all__ = ["Network", "loss_of", "predict"]


def predict(
    layers: Sequence[Layer],
    x: Any,
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> Any:
    """Compute the network's prediction, differentiable with respect to its parameters and x.

    The forward pass is `kernels.forward(layers, x)[-1]`, the backward pass `kernels.backward`, or
    `kernels.backward_to_input` where x needs a gradient. It works under `torch.compile`.

    Parameters
    ----------
    layers
        The network, of torch tensors; parameters that need a gradient get one.
    x
        Shape (n, n_in), of the layers' dtype and device.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are, in both directions.

    Returns
    -------
    A tensor of shape (n, n_out).

    Raises
    ------
    ValueError, TypeError
        As `kernels.forward`.
    RuntimeError
        When its gradient is differentiated again: it is computed, not recorded.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[3.0], [4.0]], requires_grad=True)
    >>> prediction = predict((kernels.Layer(weight),), torch.tensor([[1.0, 2.0]]))
    >>> prediction.sum().backward()
    >>> weight.grad
    tensor([[1.],
            [2.]])
    """
    parameters = [a for layer in layers for a in layer]
    return _Predict.apply(activation, numerics, x, *parameters)


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
    A 0-d tensor.

    Raises
    ------
    ValueError
        If the target needs a gradient, which `loss` does not give; otherwise as `loss`.
    TypeError
        As `loss`.
    RuntimeError
        When its gradient is differentiated again.

    Examples
    --------
    >>> import torch
    >>> prediction = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> loss_of(prediction, torch.tensor([[0.0, 4.0]])).backward()
    >>> prediction.grad
    tensor([[ 2., -4.]])
    """
    # What is no tensor the loss refuses.
    if getattr(target, "requires_grad", False):
        raise ValueError("expected a target that needs no gradient, got one with requires_grad")
    return _LossOf.apply(checked(loss), numerics, prediction, target)


class Network(torch.nn.Module):  # type: ignore[misc]
    """A network of the kernel as a module, with its parameters as `torch.nn.Parameter`.

    Its state has the names of the tensors that `kernels.save` writes: `layers.0.weight`, ...

    Parameters
    ----------
    layers
        The network to start from, of torch tensors, which are copied.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are, in both directions.

    Raises
    ------
    ValueError, TypeError
        When called, as `kernels.forward`.

    Examples
    --------
    >>> import torch
    >>> network = Network(kernels.init((3, 2, 1), like=torch.zeros(0)))
    >>> network(torch.ones(4, 3)).shape
    torch.Size([4, 1])
    >>> list(network.state_dict())
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        activation: Activation = relu,
        numerics: Numerics = NATIVE,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.numerics = numerics
        self.layers = torch.nn.ModuleList(_Parameters(layer) for layer in layers)

    def forward(self, x: Any) -> Any:
        """Compute the prediction, as `predict`."""
        layers = [Layer(layer.weight, layer.bias) for layer in self.layers]
        return predict(layers, x, activation=self.activation, numerics=self.numerics)

    def to_layers(self) -> tuple[Layer, ...]:
        """Return the parameters as a network of the kernel, which shares their memory."""
        return tuple(
            Layer(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
            for layer in self.layers
        )


class _Parameters(torch.nn.Module):  # type: ignore[misc]
    """What a `Layer` holds."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        for name, a in zip(layer._fields, layer, strict=True):
            tensor: Any = a
            own = None if a is None else torch.nn.Parameter(tensor.detach().clone())
            self.register_parameter(name, own)


class _Predict(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, activation: Activation, numerics: Numerics, x: Any, *parameters: Any
    ) -> Any:
        ctx.settings = {"activation": activation, "numerics": numerics}
        activations = kernels.forward(_pairs(parameters), x, **ctx.settings)
        ctx.save_for_backward(*activations, *parameters)
        # Dynamo of torch 2.11 gives wrong gradients if what is returned was changed in place:
        # https://github.com/pytorch/pytorch/issues/180642
        return torch.clone(activations[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        # n layers have n + 1 activations and 2 n parameters.
        count = len(saved) // 3 + 1
        activations, layers = saved[:count], _pairs(saved[count:])
        x_gradient: Any = None
        if ctx.needs_input_grad[2]:
            gradients, x_gradient = kernels.backward_to_input(
                layers, activations, gradient, **ctx.settings
            )
        else:
            gradients = kernels.backward(layers, activations, gradient, **ctx.settings)
        return None, None, x_gradient, *(a for layer in gradients for a in layer)


class _LossOf(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, loss: Loss, numerics: Numerics, prediction: Any, target: Any) -> Any:
        value, gradient = loss(prediction, target, numerics=numerics)
        ctx.numerics = numerics
        ctx.save_for_backward(gradient)
        return torch.clone(value)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, factor: Any) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return None, None, ctx.numerics.multiply(gradient, factor), None


def _pairs(parameters: Sequence[Any]) -> tuple[Layer, ...]:
    """Put weights and biases, which alternate, into layers."""
    return tuple(
        Layer(weight, bias) for weight, bias in zip(parameters[::2], parameters[1::2], strict=True)
    )

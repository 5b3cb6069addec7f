"""What the public functions ask of a network, and of what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence

from ._checks import check_alike, check_array, check_shape
from ._typing import Array
from .layer import Layer


def check_layers(layers: Sequence[Layer]) -> None:
    """Raise unless the layers chain and are of one library, dtype and device."""
    # A layer is itself a tuple, and easily taken for the network.
    if hasattr(layers, "weight") or not hasattr(layers, "__len__"):
        raise TypeError(f"expected layers to be a sequence of Layer, got {type(layers).__name__}")
    if len(layers) == 0:
        raise ValueError("expected at least one layer, got an empty network")
    for i, layer in enumerate(layers):
        if not hasattr(layer, "weight"):
            raise TypeError(f"expected layers[{i}] to be a Layer, got {type(layer).__name__}")
    first = layers[0].weight
    check_array("layers[0].weight", first)
    n_in = None
    for i, (weight, bias) in enumerate(layers):
        name = f"layers[{i}]"
        if i > 0:
            check_alike(f"{name}.weight", weight, "layers[0].weight", first)
        if weight.ndim != 2:
            raise ValueError(
                f"expected {name}.weight of shape (n_in, n_out), got shape {tuple(weight.shape)}"
            )
        if n_in is not None and weight.shape[0] != n_in:
            raise ValueError(
                f"expected {name}.weight of shape ({n_in}, n_out), as layers[{i - 1}] has {n_in} "
                f"outputs, got shape {tuple(weight.shape)}"
            )
        n_in = weight.shape[1]
        if bias is not None:
            check_alike(f"{name}.bias", bias, "layers[0].weight", first)
            check_shape(f"{name}.bias", bias, (n_in,))


def check_input(layers: Sequence[Layer], x: Array) -> None:
    """Raise unless `x` is a batch of inputs for the network."""
    weight = layers[0].weight
    check_alike("x", x, "layers[0].weight", weight)
    if x.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(
            f"expected x of shape (n, {weight.shape[0]}), as layers[0].weight has shape "
            f"{tuple(weight.shape)}, got shape {tuple(x.shape)}"
        )


def check_activations(
    layers: Sequence[Layer], activations: Sequence[Array], gradient: Array
) -> None:
    """Raise unless `forward` may have returned the activations, and a loss the gradient."""
    if len(activations) != len(layers) + 1:
        raise ValueError(
            f"expected {len(layers) + 1} activations (x and one for each of {len(layers)} layers), "
            f"got {len(activations)}"
        )
    check_input(layers, activations[0])
    n = activations[0].shape[0]
    for i, (layer, activation) in enumerate(zip(layers, activations[1:], strict=True), start=1):
        check_alike(f"activations[{i}]", activation, "layers[0].weight", layers[0].weight)
        check_shape(f"activations[{i}]", activation, (n, layer.weight.shape[1]))
    check_alike("gradient", gradient, "layers[0].weight", layers[0].weight)
    check_shape("gradient", gradient, tuple(activations[-1].shape))


def check_gradients(
    layers: Sequence[Layer], gradients: Sequence[Layer], *, name: str = "gradients"
) -> None:
    """Raise unless the gradients, or other arrays called `name`, have the layers' shapes."""
    if len(gradients) != len(layers):
        raise ValueError(f"expected {name} of {len(layers)} layers, got {len(gradients)}")
    reference = layers[0].weight
    for i, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
        check_alike(f"{name}[{i}].weight", gradient.weight, "layers[0].weight", reference)
        check_shape(f"{name}[{i}].weight", gradient.weight, tuple(layer.weight.shape))
        if (layer.bias is None) != (gradient.bias is None):
            expected, got = ("a", "no") if gradient.bias is None else ("no", "a")
            raise ValueError(
                f"expected {name}[{i}] with {expected} bias, as layers[{i}], got one with "
                f"{got} bias"
            )
        if layer.bias is not None and gradient.bias is not None:
            check_alike(f"{name}[{i}].bias", gradient.bias, "layers[0].weight", reference)
            check_shape(f"{name}[{i}].bias", gradient.bias, tuple(layer.bias.shape))

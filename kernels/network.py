"""The network: linear layers with an activation between them, their gradients and update.

Every function is pure: it never changes an array it was given. The array library is taken from
the arrays, and everything that multiplies or sums goes through `numerics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace

from ._checks import check_function, check_numerics, to_learning_rate
from ._in_place import in_place
from ._network_checks import check_activations, check_gradients, check_input, check_layers
from ._typing import Array
from .activations import Activation, check_activation, relu
from .layer import Layer
from .losses import Loss, checked, squared_error
from .numerics import NATIVE, Numerics

__all__ = [
    "backward",
    "backward_to_input",
    "differentiated",
    "differentiated_from",
    "forward",
    "step",
    "unchecked_step",
    "update",
]


def forward(
    layers: Sequence[Layer],
    x: Array,
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> tuple[Array, ...]:
    """Compute the activations of every layer.

    a[0] = x; a[i + 1] = f(a[i] @ weight[i] + bias[i]), where f is the activation. The last layer
    has none.

    Parameters
    ----------
    layers
        The network: weights of shapes (n_0, n_1), (n_1, n_2), ...
    x
        Shape (n, n_0), of the layers' dtype and device.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are.

    Returns
    -------
    (x, hidden activations ..., prediction), of shapes (n, n_0), (n, n_1), ...

    Raises
    ------
    ValueError
        If shapes do not chain, devices differ, or there is no layer.
    TypeError
        If libraries or dtypes differ, the dtype is not real floating, or `activation` is not one of
        `kernels.activations`.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> layers = (kernels.Layer(np.eye(2)), kernels.Layer(np.ones((2, 1))))
    >>> kernels.forward(layers, np.asarray([[3.0, -4.0]]))[-1]
    array([[3.]])
    """
    check_layers(layers)
    check_input(layers, x)
    check_activation(activation)
    check_numerics(numerics)
    return _forward(layers, x, numerics.matmul(x, layers[0].weight), activation, numerics)


def backward(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    gradient: Array,
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> tuple[Layer, ...]:
    """Compute the gradient of the loss with respect to every parameter.

    With g the gradient with respect to a layer's pre-activation and a its input, the gradients
    are a.T @ g for the weight, the sum of g over the batch for the bias, and
    f'(a) * (g @ weight.T) for the pre-activation of the layer before. The derivative f' is computed
    from the activation's output; that of relu is (a > 0). So where a pre-activation is exactly 0,
    the derivative of relu is 0, as in torch.relu and jax.nn.relu (PyTorch's tutorial has 1 there,
    by its mask `h < 0` and by `clamp`), and an infinite gradient becomes NaN.

    Parameters
    ----------
    layers
        The network.
    activations
        What `forward` returned.
    gradient
        The loss's gradient with respect to the prediction, shape (n, n_out). The result is linear
        in it.
    activation
        The one that `forward` used.
    numerics
        What products and sums are.

    Returns
    -------
    One `Layer` of gradients for each layer, with the shapes of its parameters.

    Raises
    ------
    ValueError
        If shapes or the number of activations do not fit the layers, or devices differ.
    TypeError
        If libraries or dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> layers = (kernels.Layer(np.ones((2, 1)), np.zeros(1)),)
    >>> activations = kernels.forward(layers, np.asarray([[1.0, 2.0]]))
    >>> kernels.backward(layers, activations, np.asarray([[10.0]]))
    (Layer(weight=array([[10.],
           [20.]]), bias=array([10.])),)
    """
    check_layers(layers)
    check_activations(layers, activations, gradient)
    check_activation(activation)
    check_numerics(numerics)
    return _differentiate(layers, activations, gradient, activation, numerics)[0]


def backward_to_input(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    gradient: Array,
    *,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> tuple[tuple[Layer, ...], Array]:
    """Compute the gradient of the loss with respect to every parameter and to the input x.

    A layer before this network needs the gradient of x. It is g @ weight[0].T, with g the gradient
    with respect to the first pre-activation.

    Parameters
    ----------
    layers, activations, gradient, activation, numerics
        As for `backward`.

    Returns
    -------
    The gradients that `backward` returns, and the gradient of x, of x's shape.

    Raises
    ------
    ValueError, TypeError
        As `backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> layers = (kernels.Layer(np.asarray([[3.0], [4.0]])),)
    >>> activations = kernels.forward(layers, np.asarray([[1.0, 2.0]]))
    >>> kernels.backward_to_input(layers, activations, np.asarray([[10.0]]))[1]
    array([[30., 40.]])
    """
    check_layers(layers)
    check_activations(layers, activations, gradient)
    check_activation(activation)
    check_numerics(numerics)
    gradients, first = _differentiate(layers, activations, gradient, activation, numerics)
    to_input = numerics.matmul(first, layers[0].weight.T)
    return gradients, numerics.team.whole(to_input, gradient.shape[0])


def update(
    layers: Sequence[Layer],
    gradients: Sequence[Layer],
    learning_rate: float,
    *,
    numerics: Numerics = NATIVE,
) -> tuple[Layer, ...]:
    """Take one step of gradient descent: parameter - learning_rate * gradient.

    Parameters
    ----------
    layers, gradients
        Parameters and their gradients, of the same shapes.
    learning_rate
        A finite number of 0 or more, of Python or a NumPy scalar.
    numerics
        What a product is.

    Returns
    -------
    New layers; those given are left as they were.

    Raises
    ------
    ValueError
        If shapes or devices differ, or the learning rate is negative or not finite.
    TypeError
        If libraries or dtypes differ, or the learning rate is not a number.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> kernels.update((kernels.Layer(np.ones((1, 1))),), (kernels.Layer(np.ones((1, 1))),), 0.25)
    (Layer(weight=array([[0.75]]), bias=None),)
    """
    check_layers(layers)
    check_gradients(layers, gradients)
    learning_rate = to_learning_rate(learning_rate)
    check_numerics(numerics)
    return _add(
        layers,
        [
            Layer(
                numerics.multiply(weight, -learning_rate),
                None if bias is None else numerics.multiply(bias, -learning_rate),
            )
            for weight, bias in gradients
        ],
        numerics,
    )


def step(
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    *,
    learning_rate: float,
    loss: Loss = squared_error,
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
) -> tuple[tuple[Layer, ...], Array]:
    """Train on one batch: forward, loss, backward, update.

    `backward` is linear in the loss's gradient, so the learning rate is applied to that small
    array of shape (n, n_out) instead of to every parameter's gradient.

    Parameters
    ----------
    layers
        The network.
    x, y
        Inputs of shape (n, n_in) and the targets that `loss` takes.
    learning_rate
        A finite number of 0 or more, of Python or a NumPy scalar.
    loss
        `squared_error`, `softmax_cross_entropy`, or another function
        `(prediction, target, *, numerics) -> (value, gradient)`.
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are.

    Returns
    -------
    The new layers, and the loss before the step as a 0-d array.

    Raises
    ------
    ValueError, TypeError
        As `forward` and the loss; also if the loss does not return a 0-d value and a gradient like
        the prediction.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> layers = (kernels.Layer(np.asarray([[3.0]])),)
    >>> layers, value = kernels.step(layers, np.ones((1, 1)), np.ones((1, 1)), learning_rate=0.5)
    >>> layers[0].weight, value
    (array([[1.]]), array(4.))
    """
    check_layers(layers)
    check_input(layers, x)
    check_activation(activation)
    learning_rate = to_learning_rate(learning_rate)
    check_function("a loss such as kernels.squared_error", loss)
    check_numerics(numerics)
    settings: dict[str, Any] = {"activation": activation, "numerics": numerics}
    return unchecked_step(layers, x, y, learning_rate, None, loss=checked(loss), **settings)


def differentiated(
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    operands: tuple[Any, Any] | None,
    factor: Array | float | None,
    *,
    loss: Loss,
    activation: Activation,
    numerics: Numerics,
) -> tuple[Array, tuple[Layer, ...]]:
    """Compute the loss, and its gradients times a factor; the rest is as for `unchecked_step`."""
    team, n = numerics.team, x.shape[0]
    x = team.own(x)
    forth, back = operands or (x, x.T)
    first = numerics.matmul(forth, layers[0].weight)
    return differentiated_from(
        layers,
        (x, first),
        y,
        back,
        factor,
        n,
        loss=loss,
        activation=activation,
        numerics=numerics,
    )[:2]


def differentiated_from(
    layers: Sequence[Layer],
    begun: tuple[Any, Array],
    y: Array,
    operand: Any,
    factor: Array | float | None,
    n: int,
    *,
    loss: Loss,
    activation: Activation,
    numerics: Numerics,
) -> tuple[Array, tuple[Layer, ...], Array]:
    """Do as `differentiated`, given x and its product with the first weight; n is of all workers.

    Also return the gradient of the first pre-activation. The first weight's gradient is `operand`
    times that. Nothing else uses x or the first weight.
    """
    team = numerics.team
    activations = _forward(layers, *begun, activation, numerics)
    # The loss may be any function of all predictions, so every worker computes all of it.
    value, gradient = loss(team.whole(activations[-1], n), y, numerics=numerics)
    gradient = team.own(gradient)
    if factor is not None:
        gradient = numerics.multiply(gradient, factor)
    return value, *_backward(layers, activations, operand, gradient, n, activation, numerics)


def unchecked_step(
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    learning_rate: Array | float,
    operands: tuple[Any, Any] | None,
    *,
    loss: Loss,
    numerics: Numerics,
    activation: Activation = relu,
    differentiate: Callable[..., tuple[Array, tuple[Layer, ...]]] = differentiated,
) -> tuple[tuple[Layer, ...], Array]:
    """Take one step as `step` does, without its checks.

    The learning rate is a number or `numerics.factor` of it. `operands` are x and x.T, prepared,
    of this worker's own samples. The dual form, where other arrays stand for layers and x, has its
    own `differentiate`.
    """
    settings: dict[str, Any] = {"loss": loss, "activation": activation, "numerics": numerics}
    value, changes = differentiate(layers, x, y, operands, -learning_rate, **settings)
    return _add(layers, changes, numerics), value


def _forward(
    layers: Sequence[Layer],
    x: Any,
    first: Array,
    activation: Activation,
    numerics: Numerics,
) -> tuple[Array, ...]:
    """Compute the activations from x and its product with the first weight."""
    xp = array_namespace(first)
    activations = [x]
    for i, (weight, bias) in enumerate(layers):
        a = numerics.matmul(activations[i], weight) if i > 0 else first
        if bias is not None:
            # Reshaped, since JAX can be told to refuse implicit changes of rank.
            a = numerics.add(a, xp.reshape(bias, (1, -1)))
        if i < len(layers) - 1:
            a = activation.value(a, numerics)
        activations.append(a)
    return tuple(activations)


def _differentiate(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    gradient: Array,
    activation: Activation,
    numerics: Numerics,
) -> tuple[tuple[Layer, ...], Array]:
    """Do as `_backward` with activations that may hold numbers that `forward` never returns."""
    own, n = numerics.team.own, gradient.shape[0]
    x, *others = map(own, activations)
    activations = (x, *(numerics.flush(a) for a in others))
    return _backward(layers, activations, x.T, own(gradient), n, activation, numerics)


def _backward(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    operand: Any,
    gradient: Array,
    n: int,
    activation: Activation,
    numerics: Numerics,
) -> tuple[tuple[Layer, ...], Array]:
    """Compute the gradients of the parameters, and that of the first pre-activation.

    `operand` is activations[0].T, prepared or not; n is how many samples all workers have.
    """
    terms: list[tuple[Any, Array, bool]] = []
    for i in reversed(range(len(layers))):
        weight, bias = layers[i]
        terms.append((operand if i == 0 else activations[i].T, gradient, bias is not None))
        if i > 0:
            gradient = numerics.matmul(gradient, weight.T)
            gradient = activation.back(activations[i], gradient, numerics)
    changes = numerics.over_samples(terms, n)
    return tuple(Layer(*change) for change in reversed(changes)), gradient


def _add(
    layers: Sequence[Layer], changes: Sequence[Layer], numerics: Numerics
) -> tuple[Layer, ...]:
    """Add the layers to the changes, which may be overwritten."""
    add, updated = in_place(numerics, layers[0].weight)[0], []
    for (weight, bias), (change, bias_change) in zip(layers, changes, strict=True):
        change = add(change, weight)
        if bias is not None:
            bias_change = add(bias_change, bias)
        updated.append(Layer(change, bias_change))
    return tuple(updated)

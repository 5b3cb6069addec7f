"""What the kernel is compared with: the same training, as the users of other programs write it.

Each function takes a problem in NumPy arrays and a backend of its library, and returns a function
that trains from the problem's initial weights for a number of steps and returns the losses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, NamedTuple

from backends import Backend
from kernels import Array
from kernels.layer import Layer
from kernels.losses import Loss, softmax_cross_entropy, squared_error
from kernels.minibatches import batches_of
from kernels.network import forward
from kernels.optimizers import Adam
from kernels.reference.problems import Problem

from .cases import sizes_of

__all__ = ["NUMPY_LOOP", "PEERS", "Peer", "Train", "matrix_products"]

Train = Callable[[int], Any]


class Peer(NamedTuple):
    """A program to compare with.

    Attributes
    ----------
    name
        For people.
    module
        What has to be importable.
    library
        That of the backends it is compared on; None is any one.
    make
        (problem, backend) -> train.
    losses, dtypes
        What it can train.
    biases
        Whether its layers have biases that are trained even if the problem's have none.
    optimizers
        Kinds of optimizers that it trains with, of which NoneType is gradient descent.
    adam_apart
        How far losses of its Adam may be from the kernel's, besides rounding.
    """

    name: str
    module: str
    library: str | None
    make: Callable[[Problem, Backend], Train]
    losses: tuple[Loss, ...] = (squared_error, softmax_cross_entropy)
    dtypes: tuple[str, ...] = ("float32", "float64")
    biases: bool = False
    optimizers: tuple[type, ...] = (NoneType,)
    adam_apart: float = 0.0

    def trains(self, problem: Problem, dtype: str) -> bool:
        """Say whether it can train a problem."""
        kind = type(problem.optimizer)
        return problem.loss in self.losses and dtype in self.dtypes and kind in self.optimizers


def matrix_products(layers: Sequence[Layer], x: Array) -> Train:
    """Make a function that does the matrix products of a network's steps and nothing else.

    It returns those of the last step.
    """
    weights = [layer.weight for layer in layers]
    activations = forward(layers, x)
    inputs, gradients = activations[:-1], activations[1:]

    def train(steps: int) -> Any:
        for _ in range(steps):
            products = [a @ w for a, w in zip(inputs, weights, strict=True)]
            for i in reversed(range(len(weights))):
                products.append(inputs[i].T @ gradients[i])
                if i > 0:
                    products.append(gradients[i] @ weights[i].T)
        return products

    return train


def _numpy_loop(problem: Problem, place: Backend) -> Train:
    """Train as the NumPy program of "Learning PyTorch with examples", with any number of layers."""
    import numpy as np

    x, y = place.to_numpy(problem.x), place.to_numpy(problem.y)

    def train(steps: int) -> Any:
        ws = [place.to_numpy(layer.weight) for layer in problem.layers]
        losses = []
        for _ in range(steps):
            hs, inputs = [], [x]
            for w in ws[:-1]:
                hs.append(inputs[-1].dot(w))
                inputs.append(np.maximum(hs[-1], 0))
            y_pred = inputs[-1].dot(ws[-1])
            losses.append(np.square(y_pred - y).sum())
            grad = 2.0 * (y_pred - y)
            grad_ws = [inputs[-1].T.dot(grad)]
            for i in reversed(range(len(hs))):
                grad = grad.dot(ws[i + 1].T).copy()
                grad[hs[i] < 0] = 0
                grad_ws.insert(0, inputs[i].T.dot(grad))
            for w, grad_w in zip(ws, grad_ws, strict=True):
                w -= problem.learning_rate * grad_w
        return losses

    return train


def _by_hand(problem: Problem, place: Backend) -> Train:
    """Train by the calls that the kernel makes, and nothing around them."""
    import numpy as np

    x, y = place.to_numpy(problem.x), place.to_numpy(problem.y)
    rate = -problem.learning_rate

    def train(steps: int) -> Any:
        ws = [place.to_numpy(layer.weight) for layer in problem.layers]
        losses = []
        for _ in range(steps):
            activations = [x]
            for w in ws[:-1]:
                a = activations[-1] @ w
                activations.append(np.abs(np.maximum(a, np.zeros_like(a))))
            difference = activations[-1] @ ws[-1] - y
            row = np.reshape(difference, (1, -1))
            losses.append(np.reshape(row @ row.T, ()))
            gradient = 2.0 * difference * rate
            changes: list[tuple[Any, Any]] = []
            for i in reversed(range(len(ws))):
                changes.insert(0, (activations[i], gradient))
                if i > 0:
                    gradient = gradient @ ws[i].T
                    gradient *= 1.0 - (activations[i] <= 0.0).astype(gradient.dtype)
            new = [a.T @ g for a, g in changes]
            for change, w in zip(new, ws, strict=True):
                change += w
            ws = new
        return losses

    return train


def _torch_loop(problem: Problem, place: Backend) -> Train:
    """Train as the tensor program of the same tutorial, with any number of layers."""
    x: Any = place.asarray(problem.x)
    y: Any = place.asarray(problem.y)
    initial: Any = [place.asarray(layer.weight) for layer in problem.layers]

    def train(steps: int) -> Any:
        ws = [w.clone() for w in initial]
        losses = []
        for _ in range(steps):
            hs, inputs = [], [x]
            for w in ws[:-1]:
                hs.append(inputs[-1].mm(w))
                inputs.append(hs[-1].clamp(min=0))
            y_pred = inputs[-1].mm(ws[-1])
            losses.append((y_pred - y).pow(2).sum().item())
            grad = 2.0 * (y_pred - y)
            grad_ws = [inputs[-1].t().mm(grad)]
            for i in reversed(range(len(hs))):
                grad = grad.mm(ws[i + 1].t()).clone()
                grad[hs[i] < 0] = 0
                grad_ws.insert(0, inputs[i].t().mm(grad))
            for w, grad_w in zip(ws, grad_ws, strict=True):
                w -= problem.learning_rate * grad_w
        return losses

    return train


def _torch_autograd(problem: Problem, place: Backend, *, compile: bool = False) -> Train:
    """Train as most torch programs do: modules, autograd and an optimiser."""
    import torch

    order = _order(problem, place.asarray)
    squared = problem.loss is squared_error
    # Its loss for classes takes no other integers than these.
    x, y = place.asarray(problem.x), place.asarray(problem.y, None if squared else "int64")
    modules: list[Any] = []
    for weight, bias in problem.layers:
        like = {"dtype": x.dtype, "device": place.device}
        modules += [torch.nn.Linear(*weight.shape, bias=bias is not None, **like), torch.nn.ReLU()]
    model, linear = torch.nn.Sequential(*modules[:-1]), modules[::2]
    loss_fn = torch.nn.MSELoss(reduction="sum") if squared else torch.nn.CrossEntropyLoss()
    if isinstance(problem.optimizer, Adam):
        rate = problem.optimizer.learning_rate
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=rate, foreach=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=problem.learning_rate)

    def loss_of(x: Any, y: Any) -> Any:
        return loss_fn(model(x), y)

    # Compiling the whole step, or the model alone, gave slower steps.
    loss_of = torch.compile(loss_of) if compile else loss_of
    update = optimizer.step
    if compile and isinstance(problem.optimizer, Adam):
        update = torch.compile(update)

    def train(steps: int) -> Any:
        with torch.no_grad():
            for layer, (weight, bias) in zip(linear, problem.layers, strict=True):
                layer.weight.copy_(place.asarray(weight.T))
                if bias is not None:
                    layer.bias.copy_(place.asarray(bias))
            # Moments and steps of an earlier run, in their place, so that nothing compiles anew.
            for state in optimizer.state.values():
                for slot in state.values():
                    slot.zero_()
        losses = []
        for x_batch, y_batch in _batches(x, y, order, steps):
            loss = loss_of(x_batch, y_batch)
            optimizer.zero_grad()
            loss.backward()
            update()
            losses.append(loss.detach())
        return losses

    return train


def _torch_compiled(problem: Problem, place: Backend) -> Train:
    return _torch_autograd(problem, place, compile=True)


def _jax_grad(problem: Problem, place: Backend) -> Train:
    """Train as most JAX programs do: the gradient of a loss, in a step compiled by jit."""
    import jax

    def descend(params: Any, grads: Any, state: Any) -> Any:
        return jax.tree.map(lambda p, g: p - problem.learning_rate * g, params, grads), state

    return _jax_steps(problem, place, lambda _: (), descend)


def _optax(problem: Problem, place: Backend) -> Train:
    """Train by optax.adam in a step compiled by jit."""
    import optax

    assert isinstance(problem.optimizer, Adam)
    optimizer = optax.adam(problem.optimizer.learning_rate)

    def descend(params: Any, grads: Any, state: Any) -> Any:
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    return _jax_steps(problem, place, optimizer.init, descend)


def _jax_steps(
    problem: Problem, place: Backend, init: Callable[..., Any], descend: Callable[..., Any]
) -> Train:
    import jax
    import jax.numpy as jnp

    order = _order(problem, place.to_numpy)
    # Batches are cut on the host, as JAX's examples do: indexing outside of jit is slow.
    move = place.asarray if problem.batch_size is None else place.to_numpy
    x, y = move(problem.x), move(problem.y)
    initial = jax.tree.map(place.asarray, [tuple(layer) for layer in problem.layers])

    def loss(params: Any, x: Any, y: Any) -> Any:
        for i, (weight, bias) in enumerate(params):
            x = x @ weight if bias is None else x @ weight + bias[None, :]
            x = jax.nn.relu(x) if i < len(params) - 1 else x
        if problem.loss is squared_error:
            return jnp.sum((x - y) ** 2)
        return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(len(y)), y])

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return *descend(params, grads, state), value

    step = jax.jit(step)

    def train(steps: int) -> Any:
        params, state, losses = initial, init(initial), []
        for x_batch, y_batch in _batches(x, y, order, steps):
            params, state, value = step(params, state, x_batch, y_batch)
            losses.append(value)
        return losses

    return train


def _sklearn(problem: Problem, place: Backend) -> Train:
    """Train by scikit-learn's partial_fit, one a step, without momentum, penalty and shuffling."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    order = _order(problem, place.to_numpy)
    x: Any = problem.x
    y: Any = problem.y
    n = len(x) if problem.batch_size is None else problem.batch_size
    squared = problem.loss is squared_error
    # Its squared error is half the mean over samples and outputs, its gradient over samples.
    scale = 2.0 * n if squared else 1.0
    adam = isinstance(problem.optimizer, Adam)
    rate: Any = problem.learning_rate * scale
    if isinstance(problem.optimizer, Adam):
        rate = problem.optimizer.learning_rate
    model = (MLPRegressor if squared else MLPClassifier)(
        hidden_layer_sizes=sizes_of(problem)[1:-1],
        solver="adam" if adam else "sgd",
        alpha=0.0,
        batch_size=n,
        learning_rate_init=rate,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
    )
    arguments = {} if squared else {"classes": range(sizes_of(problem)[-1])}
    model.partial_fit(x[:n], y[:n], **arguments)
    own: Any = model._optimizer

    def train(steps: int) -> Any:
        for i, (weight, bias) in enumerate(problem.layers):
            model.coefs_[i][:] = weight
            model.intercepts_[i][:] = 0.0 if bias is None else bias
        if adam:
            own.t = 0
            for slot in (*own.ms, *own.vs):
                slot[:] = 0.0
        factor = scale * y.shape[1] if squared else 1.0
        return [
            model.set_params(batch_size=len(xb)).partial_fit(xb, yb).loss_ * factor
            for xb, yb in _batches(x, y, order, steps)
        ]

    return train


def _thinc(problem: Problem, place: Backend) -> Train:
    """Train with the layers and the optimiser of thinc."""
    from thinc.api import SGD, L2Distance, Linear, Relu, chain

    x: Any = problem.x
    y: Any = problem.y
    kinds = [Relu] * (len(problem.layers) - 1) + [Linear]
    layers = [
        kind(nI=layer.weight.shape[0], nO=layer.weight.shape[1])
        for kind, layer in zip(kinds, problem.layers, strict=True)
    ]
    model = chain(*layers).initialize()
    # Its gradient is half that of the sum of squares.
    optimizer = SGD(2.0 * problem.learning_rate, grad_clip=0.0, use_averages=False)
    distance = L2Distance(normalize=False)

    def train(steps: int) -> Any:
        for own, layer in zip(layers, problem.layers, strict=True):
            own.set_param("W", place.to_numpy(layer.weight.T))
            own.set_param("b", place.to_numpy(layer.weight[0, :] * 0.0))
        losses = []
        for _ in range(steps):
            prediction, backprop = model.begin_update(x)
            gradient, loss = distance(prediction, y)
            backprop(gradient)
            model.finish_update(optimizer)
            losses.append(loss)
        return losses

    return train


def _keras(problem: Problem, place: Backend) -> Train:
    """Train by train_on_batch of Keras, one a step, on the library of `place`."""
    library = place.name.partition(":")[0]
    os.environ.setdefault("KERAS_BACKEND", library if library in ("jax", "torch") else "tensorflow")
    import keras

    order = _order(problem, place.to_numpy)
    *hidden, last = problem.layers
    dense = [
        keras.layers.Dense(weight.shape[1], activation=activation, use_bias=bias is not None)
        for layers, activation in ((hidden, "relu"), ([last], None))
        for weight, bias in layers
    ]
    model = keras.Sequential([keras.Input((problem.x.shape[1],)), *dense])
    squared = problem.loss is squared_error
    # Its squared error is a mean over outputs.
    scale = problem.y.shape[1] if squared else 1
    loss = (
        keras.losses.MeanSquaredError(reduction="sum")
        if squared
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.compile(optimizer=keras.optimizers.SGD(problem.learning_rate * scale), loss=loss)

    def train(steps: int) -> Any:
        for own, layer in zip(dense, problem.layers, strict=True):
            own.set_weights([a for a in layer if a is not None])
        losses = []
        for x, y in _batches(problem.x, problem.y, order, steps):
            # It returns the mean of the losses since the last reset.
            model.reset_metrics()
            losses.append(model.train_on_batch(x, y) * scale)
        return losses

    return train


NUMPY_LOOP = Peer("tutorial's NumPy loop", "numpy", "numpy", _numpy_loop, (squared_error,))

_BOTH = (NoneType, Adam)

PEERS = (
    NUMPY_LOOP,
    Peer("the same calls by hand", "numpy", "numpy", _by_hand, (squared_error,)),
    Peer("tutorial's torch loop", "torch", "torch", _torch_loop, (squared_error,)),
    Peer("torch autograd + optim", "torch", "torch", _torch_autograd, optimizers=_BOTH),
    Peer(
        "torch autograd + optim, torch.compile",
        "torch",
        "torch",
        _torch_compiled,
        optimizers=_BOTH,
        # Compiled, it corrects bias by numbers of float32.
        adam_apart=1e-6,
    ),
    Peer("JAX grad + jit", "jax", "jax", _jax_grad),
    Peer("optax.adam + jit", "optax", "jax", _optax, optimizers=(Adam,)),
    # Its epsilon is added to a root without the correction of bias.
    Peer(
        "scikit-learn partial_fit",
        "sklearn",
        "numpy",
        _sklearn,
        biases=True,
        optimizers=_BOTH,
        adam_apart=1e-4,
    ),
    Peer("thinc", "thinc", "numpy", _thinc, (squared_error,), ("float32",), biases=True),
    Peer("Keras train_on_batch", "keras", None, _keras, dtypes=("float32",)),
)


def _order(problem: Problem, asarray: Callable[[Any], Any]) -> list[Any] | None:
    """Make the indices of the batches of one epoch, in the order in which `fit` takes them."""
    import numpy as np

    if problem.batch_size is None:
        return None
    n = problem.x.shape[0]
    index: Any = np.arange(n)
    batches = batches_of(n, epochs=1, batch_size=problem.batch_size)
    return [asarray(chosen) for chosen, _ in batches.of(index, index, None)]


def _batches(x: Any, y: Any, order: Sequence[Any] | None, steps: int) -> Iterator[tuple[Any, Any]]:
    for i in range(steps):
        if order is None:
            yield x, y
        else:
            chosen = order[i % len(order)]
            yield x[chosen], y[chosen]

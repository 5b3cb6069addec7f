"""Problems: data, a network and how to train it, for the command line, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from .. import random
from .._typing import Array
from ..activations import Activation, relu, tanh
from ..layer import Layer, init
from ..losses import Loss, softmax_cross_entropy, squared_error
from ..optimizers import SGD, Adam
from ..schedules import cosine

__all__ = [
    "Problem",
    "digits",
    "digits_adam",
    "split",
    "tall",
    "tutorial",
    "tutorial_dual",
    "tutorial_momentum",
]


class Problem(NamedTuple):
    """Data, a network to start from, and how to train it.

    Attributes
    ----------
    name
        As on the command line.
    x, y
        The training samples and their targets.
    layers
        The initial weights.
    loss
        The loss function.
    learning_rate, steps, epochs, batch_size
        Arguments of `kernels.fit`.
    held_out
        (x, y) to measure accuracy on, or None.
    optimizer
        Used instead of the learning rate, or None.
    activation, l2, sample_weight, dual
        Arguments of `kernels.fit`.
    """

    name: str
    x: Array
    y: Array
    layers: tuple[Layer, ...]
    loss: Loss
    learning_rate: float
    steps: int | None
    epochs: int | None
    batch_size: int | None
    held_out: tuple[Array, Array] | None
    optimizer: SGD | Adam | None = None
    activation: Activation = relu
    l2: float = 0.0
    sample_weight: Array | None = None
    dual: bool = False


def tutorial(*, like: Array, hidden: tuple[int, ...] = (100,), seed: int = 0) -> Problem:
    """Make the problem that opens "Learning PyTorch with examples".

    A (1000, 100, 10) network without biases, inputs, targets and weights standard normal, 64
    samples, summed squared error, learning rate 1e-6, 500 steps. The numbers are drawn by
    `kernels.random.normal`, so they are the same on every library.

    Parameters
    ----------
    like
        A float32 or float64 array that gives the namespace, dtype and device.
    hidden
        Units of the hidden layers.
    seed
        Of all random numbers.
    """

    def draw(shape: tuple[int, int], stream: int) -> Array:
        return random.normal(shape, seed=seed, stream=stream, like=like)

    return Problem(
        name="tutorial",
        x=draw((64, 1000), 0),
        y=draw((64, 10), 1),
        layers=tuple(
            Layer(draw(shape, stream))
            for stream, shape in enumerate(pairwise((1000, *hidden, 10)), start=2)
        ),
        loss=squared_error,
        learning_rate=1e-6,
        steps=500,
        epochs=None,
        batch_size=None,
        held_out=None,
    )


def tutorial_momentum(*, like: Array) -> Problem:
    """Make the tutorial's problem with momentum 0.9 and a rate that falls along a cosine."""
    optimizer = SGD(cosine(1e-7, steps=500), momentum=0.9)
    return tutorial(like=like)._replace(name="tutorial-momentum", optimizer=optimizer)


def tutorial_dual(*, like: Array) -> Problem:
    """Make the tutorial's problem, trained in dual form."""
    return tutorial(like=like)._replace(name="tutorial-dual", dual=True)


def tall(*, like: Array) -> Problem:
    """Make a problem with sums of more terms than exact numerics take with one product of slices.

    5,000 samples of 6 features, a (6, 8, 3) network with biases, summed squared error, learning
    rate 1e-5, 500 steps. The numbers are drawn as those of `tutorial`.
    """
    x, y = (
        random.normal((5000, size), seed=0, stream=2**31 - 2 - stream, like=like)
        for stream, size in enumerate((6, 3))
    )
    return Problem(
        name="tall",
        x=x,
        y=y,
        layers=init((6, 8, 3), like=like),
        loss=squared_error,
        learning_rate=1e-5,
        steps=500,
        epochs=None,
        batch_size=None,
        held_out=None,
    )


def digits(
    *, asarray: Callable[..., Array], dtype: str, hidden: tuple[int, ...] = (100,), seed: int = 0
) -> Problem:
    """Load the UCI handwritten digits that scikit-learn ships: 1797 images of 8 by 8 pixels.

    Pixels are divided by 16, which is exact. A fifth of the samples, chosen by
    `kernels.random.permutation`, is held out.

    Parameters
    ----------
    asarray
        (host, dtype) -> array: a backend's.
    dtype
        "float32" or "float64".
    hidden
        Units of the hidden layers.
    seed
        Of the split and the initial weights.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    train, test = split(len(data.target), seed=seed)
    x, y = data.data / 16.0, data.target
    first = asarray(x[train], dtype)
    return Problem(
        name="digits",
        x=first,
        y=asarray(y[train].astype(np.int32)),
        layers=init((64, *hidden, 10), like=first, seed=seed),
        loss=softmax_cross_entropy,
        learning_rate=0.5,
        steps=None,
        epochs=30,
        batch_size=64,
        held_out=(asarray(x[test], dtype), asarray(y[test].astype(np.int32))),
    )


def digits_adam(*, asarray: Callable[..., Array], dtype: str) -> Problem:
    """Make the problem of the digits with Adam, tanh and l2 = 1e-4."""
    made = digits(asarray=asarray, dtype=dtype)
    return made._replace(name="digits-adam", optimizer=Adam(1e-3), activation=tanh, l2=1e-4)


def split(n: int, *, seed: int) -> tuple[Any, Any]:
    """Choose four fifths of n samples for training and hold the rest out, as NumPy indices."""
    import numpy as np

    # The streams of the layers count up from 0 and those of the epochs from 2**31.
    order: Any = random.permutation(n, seed=seed, stream=2**31 - 1, like=np.zeros(0))
    held_out = n // 5
    return order[held_out:], order[:held_out]

"""The parts of the check.

Each part is a function of a dtype, numerics and `make`, which copies a NumPy array to the library
or to a pair; it returns arrays or digests.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .. import random
from ..digest import digest
from ..layer import Layer, init
from ..losses import softmax_cross_entropy, squared_error
from ..network import backward, forward, update
from ..numerics import EXACT, NATIVE, Numerics
from ..reference.problems import Problem, digits_adam, tutorial, tutorial_momentum
from ..reference.training import method_of
from ..training import fit

__all__ = ["COMMITTED", "CREATE", "PARTS", "STEPS", "Make", "draw", "train_problem"]

# (NumPy array) -> array of the library, of NumPy or of both.
Make = Callable[[Any], Any]

# Steps of training whose digest is compared with the committed one.
STEPS = 10

# The parts that train so, and their problems.
COMMITTED = {
    "committed digest": "tutorial",
    "of momentum": "tutorial-momentum",
    "of Adam": "digits-adam",
}

# Above 256 some libraries sum in another way, and one byte is too short for an index.
_MANY = 260


class _Shape(NamedTuple):
    samples: int
    sizes: tuple[int, ...]


_LONG = _Shape(_MANY, (5, 7, 3))
_WIDE = _Shape(6, (_MANY, 7, _MANY))


def draw(shape: tuple[int, ...], stream: int, dtype: str) -> Any:
    """Draw normal numbers as a NumPy array."""
    return random.normal(shape, seed=0, stream=stream, like=np.zeros(0, dtype))


def _network(make: Make, dtype: str, shape: _Shape) -> tuple[Layer, ...]:
    layers = init(shape.sizes, like=np.zeros(0, dtype))
    biases = (draw((layer.weight.shape[1],), 9, dtype) for layer in layers)
    return tuple(
        Layer(make(layer.weight), make(bias)) for layer, bias in zip(layers, biases, strict=True)
    )


def _data(make: Make, dtype: str, shape: _Shape) -> tuple[Any, Any, Any]:
    """Make samples, and targets of two kinds."""
    inputs, classes = shape.sizes[0], shape.sizes[-1]
    # The last class first.
    labels = np.arange(-1, shape.samples - 1, dtype=np.int32) % classes
    probabilities = np.eye(classes, dtype=dtype)[labels] * 0.75 + np.asarray(0.125, dtype)
    return make(draw((shape.samples, inputs), 8, dtype)), make(labels), make(probabilities)


def _create(dtype: str, _: Numerics, make: Make) -> list[Any]:
    x, labels, probabilities = _data(make, dtype, _LONG)
    xp = array_namespace(x, labels, probabilities)
    made = [
        # As `kernels.load` does.
        xp.asarray(array.array({"float32": "f"}.get(dtype, "d"), [0.5, -1.5]), dtype=x.dtype),
        xp.asarray((1, 2**40 + 1, -3), dtype=xp.int64),
        xp.asarray(0.5, dtype=xp.float64),
    ]
    return [x, labels, probabilities, *made, xp.astype(x, xp.float64)]


def _random(dtype: str, _: Numerics, make: Make) -> list[Any]:
    like = make(draw((1,), 0, dtype))
    uniform = random.uniform(_LONG.sizes[:2], seed=2**40 + 1, stream=5, like=like)
    normal = random.normal(_LONG.sizes[1:2], seed=1, stream=2**31, like=like)
    order = random.permutation(_MANY, seed=1, stream=0, like=like)
    # Its dtype is the library's choice.
    xp = array_namespace(order)
    return [uniform, normal, xp.astype(order, xp.int32)]


def _init(dtype: str, _: Numerics, make: Make) -> list[Any]:
    return _parameters(init(_WIDE.sizes, like=make(draw((1,), 0, dtype))))


def _forward(dtype: str, numerics: Numerics, make: Make, shape: _Shape = _WIDE) -> list[Any]:
    x, _, _ = _data(make, dtype, shape)
    return list(forward(_network(make, dtype, shape), x, numerics=numerics))


def _backward(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    # Computed by NumPy, so that this part does not depend on the one before.
    activations = [make(a) for a in _forward(dtype, numerics, np.array, _LONG)]
    gradient = make(draw(activations[-1].shape, 7, dtype))
    layers = _network(make, dtype, _LONG)
    return _parameters(backward(layers, activations, gradient, numerics=numerics))


def _update(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    layers = _network(make, dtype, _LONG)
    return [*_parameters(update(layers, layers, 0.1, numerics=numerics)), *_parameters(layers)]


def _losses(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    _, labels, probabilities = _data(make, dtype, _WIDE)
    prediction = make(draw(probabilities.shape, 6, dtype))
    return [
        *squared_error(prediction, probabilities, numerics=numerics),
        *softmax_cross_entropy(prediction, labels, numerics=numerics),
        *softmax_cross_entropy(prediction, probabilities, numerics=numerics),
    ]


def _fit(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    layers = _network(make, dtype, _LONG)
    x, labels, probabilities = _data(make, dtype, _LONG)
    whole = fit(layers, x, probabilities, learning_rate=0.01, steps=2, numerics=numerics)
    batches = fit(
        layers,
        x,
        labels,
        learning_rate=0.1,
        epochs=2,
        batch_size=_LONG.samples // 2,
        loss=softmax_cross_entropy,
        numerics=numerics,
    )
    results = [*_parameters(whole.layers), whole.losses]
    return [*results, *_parameters(batches.layers), batches.losses, *_parameters(layers)]


def _digest(dtype: str, _: Numerics, make: Make) -> list[Any]:
    return [digest(_network(make, dtype, _LONG))]


def _products(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    a, b = draw((5, _MANY), 1, dtype), draw((_MANY, 3), 2, dtype)
    # Rows of other scales, of zeros, and of subnormal numbers.
    a = a * np.asarray([[1.0], [2.0**30], [0.0], [2.0**-30], [1.0]], dtype)
    a[4] = np.finfo(dtype).smallest_subnormal
    a, b = make(a), make(b)
    return [
        numerics.matmul(a, b),
        numerics.matmul(numerics.prepare(a), b),
        *(numerics.sum(a, axis=axis, keepdims=axis == 1) for axis in (0, 1)),
        numerics.multiply(a, 0.1),
        numerics.multiply(a, a),
        numerics.subtract(a, numerics.multiply(a, 3)),
        numerics.add(numerics.multiply(a, 1 / 3), a),
    ]


def _elementary(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    inf = float("inf")
    special = [
        0.0,
        -0.0,
        1.0,
        2.0,
        0.7,
        -0.3,
        1e-30,
        1e-300,
        80.0,
        -80.0,
        1e3,
        -1e3,
        inf,
        -inf,
        float("nan"),
    ]
    a = np.asarray(special, dtype)
    b = make(np.abs(a[:10]) + np.asarray(1, dtype))
    functions = (
        numerics.exp,
        numerics.log,
        numerics.expm1,
        numerics.tanh,
        numerics.logistic,
        numerics.softplus,
        numerics.sqrt,
    )
    return [*(function(make(a)) for function in functions), numerics.divide(make(a[:10]), b)]


def train_problem(name: str, dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    """Train on one of the problems with committed digests, and return the digest."""
    made: Problem
    if name == "digits-adam":
        made = digits_adam(asarray=np.asarray, dtype=dtype)
    else:
        made = {"tutorial": tutorial, "tutorial-momentum": tutorial_momentum}[name](
            like=np.zeros(0, dtype)
        )
    layers = [Layer(make(w), None if b is None else make(b)) for w, b in made.layers]
    arrays = layers, make(made.x), make(made.y)
    trained = fit(*arrays, steps=STEPS, numerics=numerics, **method_of(made))
    return [digest(trained.layers)]


def _parameters(layers: tuple[Layer, ...]) -> list[Any]:
    return [a for layer in layers for a in layer if a is not None]


CREATE = "create"

# What each part computes, and its numerics; with EXACT the results must be NumPy's to the bit.
PARTS: dict[str, tuple[Callable[..., list[Any]], Numerics]] = {
    CREATE: (_create, EXACT),
    "random": (_random, EXACT),
    "init": (_init, EXACT),
    "forward": (_forward, NATIVE),
    "backward": (_backward, NATIVE),
    "update": (_update, NATIVE),
    "losses": (_losses, NATIVE),
    "training": (_fit, NATIVE),
    "digest": (_digest, EXACT),
    "exact products": (_products, EXACT),
    "exact functions": (_elementary, EXACT),
    "exact losses": (_losses, EXACT),
    "exact training": (_fit, EXACT),
}

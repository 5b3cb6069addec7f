"""What `python -m kernels check` computes, part by part.

Each part is a function of a dtype, numerics and `make`, which copies a NumPy array to a library or
to two at once; it returns arrays or digests.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import random
from ..digest import digest
from ..losses import softmax_cross_entropy, squared_error
from ..network import Layer, backward, forward, init, update
from ..numerics import EXACT, NATIVE, Numerics
from ..training import fit
from .problems import tutorial

__all__ = ["CREATE", "PARTS", "STEPS", "Make", "draw", "train_tutorial"]

# (NumPy array) -> array of the library, of NumPy or of both.
Make = Callable[[Any], Any]

# Of the tutorial's training, whose digest is compared with the committed one.
STEPS = 10

_SIZES = (5, 7, 3)
_SAMPLES = 6


def draw(shape: tuple[int, ...], stream: int, dtype: str) -> Any:
    """Draw normal numbers as a NumPy array."""
    return random.normal(shape, seed=0, stream=stream, like=np.zeros(0, dtype))  # type: ignore[arg-type]


def _network(make: Make, dtype: str) -> tuple[Layer, ...]:
    layers = init(_SIZES, like=np.zeros(0, dtype))  # type: ignore[arg-type]
    biases = (draw((layer.weight.shape[1],), 9, dtype) for layer in layers)
    return tuple(
        Layer(make(layer.weight), make(bias)) for layer, bias in zip(layers, biases, strict=True)
    )


def _data(make: Make, dtype: str) -> tuple[Any, Any, Any]:
    """Make samples, and targets of two kinds."""
    labels = np.arange(_SAMPLES, dtype=np.int32) % _SIZES[-1]
    probabilities = np.eye(_SIZES[-1], dtype=dtype)[labels] * 0.75 + np.asarray(0.125, dtype)
    return make(draw((_SAMPLES, _SIZES[0]), 8, dtype)), make(labels), make(probabilities)


def _create(dtype: str, _: Numerics, make: Make) -> list[Any]:
    x, labels, probabilities = _data(make, dtype)
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
    uniform = random.uniform(_SIZES[:2], seed=2**40 + 1, stream=5, like=like)
    normal = random.normal(_SIZES[1:2], seed=1, stream=2**31, like=like)
    order = random.permutation(_SAMPLES, seed=1, stream=0, like=like)
    # Which integers it consists of is the library's choice.
    xp = array_namespace(order)
    return [uniform, normal, xp.astype(order, xp.int32)]


def _init(dtype: str, _: Numerics, make: Make) -> list[Any]:
    return _parameters(init(_SIZES, like=make(draw((1,), 0, dtype))))


def _forward(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    return list(forward(_network(make, dtype), _data(make, dtype)[0], numerics=numerics))


def _backward(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    # Those of NumPy, so that this part does not depend on the one before.
    activations = [make(a) for a in _forward(dtype, numerics, np.array)]
    gradient = make(draw((_SAMPLES, _SIZES[-1]), 7, dtype))
    return _parameters(backward(_network(make, dtype), activations, gradient, numerics=numerics))


def _update(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    layers = _network(make, dtype)
    return [*_parameters(update(layers, layers, 0.1, numerics=numerics)), *_parameters(layers)]


def _losses(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    _, labels, probabilities = _data(make, dtype)
    prediction = make(draw((_SAMPLES, _SIZES[-1]), 6, dtype))
    return [
        *squared_error(prediction, probabilities, numerics=numerics),
        *softmax_cross_entropy(prediction, labels, numerics=numerics),
        *softmax_cross_entropy(prediction, probabilities, numerics=numerics),
    ]


def _fit(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    layers = _network(make, dtype)
    x, labels, probabilities = _data(make, dtype)
    whole = fit(layers, x, probabilities, learning_rate=0.01, steps=3, numerics=numerics)
    batches = fit(
        layers,
        x,
        labels,
        learning_rate=0.1,
        epochs=2,
        batch_size=_SAMPLES // 2,
        loss=softmax_cross_entropy,
        numerics=numerics,
    )
    results = [*_parameters(whole.layers), whole.losses]
    return [*results, *_parameters(batches.layers), batches.losses, *_parameters(layers)]


def _digest(dtype: str, _: Numerics, make: Make) -> list[Any]:
    return [digest(_network(make, dtype))]


def _products(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    a, b = draw((5, 4), 1, dtype), draw((4, 3), 2, dtype)
    # Rows of other scales, of zeros, and of numbers that are not normal.
    a = a * np.asarray([[1.0], [2.0**30], [0.0], [2.0**-30], [1.0]], dtype)
    a[4] = np.finfo(dtype).smallest_subnormal
    a, b = make(a), make(b)
    return [
        numerics.matmul(a, b),
        numerics.matmul(numerics.left(a), b),
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
        80.0,
        -80.0,
        1e3,
        -1e3,
        inf,
        -inf,
        float("nan"),
    ]
    a = np.asarray(special, dtype)
    b = make(np.abs(a[:9]) + np.asarray(1, dtype))
    return [numerics.exp(make(a)), numerics.log(make(a)), numerics.divide(make(a[:9]), b)]


def train_tutorial(dtype: str, numerics: Numerics, make: Make) -> list[Any]:
    """Train the tutorial's network and return its digest."""
    problem = tutorial(like=np.zeros(0, dtype))  # type: ignore[arg-type]
    trained = fit(
        [Layer(make(layer.weight)) for layer in problem.layers],
        make(problem.x),
        make(problem.y),
        learning_rate=problem.learning_rate,
        steps=STEPS,
        numerics=numerics,
    )
    return [digest(trained.layers)]


def _parameters(layers: tuple[Layer, ...]) -> list[Any]:
    return [a for layer in layers for a in layer if a is not None]


CREATE = "create"

# What the parts compute, and whether the results must be NumPy's to the bit.
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
    "exact exp and log": (_elementary, EXACT),
    "exact losses": (_losses, EXACT),
    "exact training": (_fit, EXACT),
}

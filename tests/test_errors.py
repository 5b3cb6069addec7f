"""Every mistake gets one exception that names what was given and what was expected.

It comes before anything is computed, and leaves everything as it was.
"""

import math
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from _assert import bits, parameters
from _params import half

import kernels
from kernels import Layer
from kernels.minibatches import steps_of


class Refuse:
    """Numerics that must not be reached."""

    def __getattr__(self, name):
        raise AssertionError(f"numerics.{name} was asked for before the mistake was found")


REFUSE: Any = Refuse()


class Good(NamedTuple):
    """Arguments without a mistake, in float32: 5 samples, layers of 3, 4 and 2 units."""

    asarray: Any
    layers: tuple[Layer, ...]
    x: Any
    y: Any
    labels: Any
    activations: tuple[Any, ...]
    gradient: Any
    gradients: tuple[Layer, ...]

    def new(self, *shape, dtype="float32"):
        """Make another array of ones."""
        return self.asarray(np.ones(shape), dtype)

    def arrays(self):
        """List every array."""
        return [
            *parameters(self.layers + self.gradients),
            *self.activations,
            self.x,
            self.y,
            self.labels,
            self.gradient,
        ]

    def with_layer(self, i, **fields):
        """Replace fields of one layer."""
        return replaced(self.layers, i, self.layers[i]._replace(**fields))

    def with_gradient(self, i, **fields):
        """Replace fields of one layer of the gradients."""
        return replaced(self.gradients, i, self.gradients[i]._replace(**fields))


def replaced(items, i, new):
    return (*items[:i], new, *items[i + 1 :])


@pytest.fixture
def good(asarray):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return asarray(rng.normal(size=shape), "float32")

    layers = (Layer(draw(3, 4), draw(4)), Layer(draw(4, 2), draw(2)))
    x, y, gradient = draw(5, 3), draw(5, 2), draw(5, 2)
    activations = kernels.forward(layers, x)
    return Good(
        asarray=asarray,
        layers=layers,
        x=x,
        y=y,
        labels=asarray(np.asarray([0, 1, 1, 0, 1], dtype=np.int32)),
        activations=activations,
        gradient=gradient,
        gradients=kernels.backward(layers, activations, gradient),
    )


def check(good, call, error, message):
    """Assert that a call raises just that exception and changes no array."""
    before = [bits(a) for a in good.arrays()]
    with pytest.raises(error, match=message) as caught:
        call(good)
    # Neither a subclass from a library, nor a second exception on top of a first.
    assert caught.type is error
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for a, was in zip(good.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


def test_without_a_mistake(good):
    """The arguments that the mistakes are made in are right."""
    kernels.forward(good.layers, good.x)
    kernels.backward(good.layers, good.activations, good.gradient)
    kernels.update(good.layers, good.gradients, 0.1)
    kernels.step(good.layers, good.x, good.y, learning_rate=0.1)
    kernels.fit(good.layers, good.x, good.y, learning_rate=0.1, steps=1)
    for target in (good.labels, good.y):
        loss = kernels.softmax_cross_entropy
        kernels.fit(good.layers, good.x, target, learning_rate=0.1, steps=1, loss=loss)
    with pytest.raises(AssertionError, match="was asked for before the mistake was found"):
        kernels.forward(good.layers, good.x, numerics=REFUSE)


# What is not a network: every function that takes one has to say so.
NETWORKS = {
    "no layers": (
        lambda _: (),
        ValueError,
        "expected at least one layer, got an empty network",
    ),
    "a layer, not a tuple of layers": (
        lambda g: g.layers[0],
        TypeError,
        r"expected .*layers.* Layer.*, got ",
    ),
    "a pair for a layer": (
        lambda g: (tuple(g.layers[0]), g.layers[1]),
        TypeError,
        r"expected layers\[0\] to be a .*Layer.*, got tuple",
    ),
    "no weight": (
        lambda g: g.with_layer(0, weight=None),
        TypeError,
        r"expected layers\[0\].weight to be an array of a library that follows the Array API "
        r"standard, got NoneType",
    ),
    "no second weight": (
        lambda g: g.with_layer(1, weight=None),
        TypeError,
        r"expected layers\[1\].weight to be an array, got NoneType",
    ),
    "a list for a weight": (
        lambda g: g.with_layer(0, weight=[[1.0]]),
        TypeError,
        r"expected layers\[0\].weight to be an array .*, got list",
    ),
    "a number for a bias": (
        lambda g: g.with_layer(0, bias=0.0),
        TypeError,
        r"expected layers\[0\].bias to be an array, got float",
    ),
    "integer weights": (
        lambda g: g.with_layer(0, weight=g.new(3, 4, dtype="int32")),
        TypeError,
        r"expected layers\[0\].weight of a real floating dtype such as float32, got .*int32",
    ),
    "complex weights": (
        lambda g: g.with_layer(0, weight=g.new(3, 4, dtype="complex64")),
        TypeError,
        r"expected layers\[0\].weight of a real floating dtype such as float32, got .*complex64",
    ),
    "Boolean weights": (
        lambda g: g.with_layer(0, weight=g.new(3, 4, dtype="bool")),
        TypeError,
        r"expected layers\[0\].weight of a real floating dtype such as float32, got .*bool",
    ),
    "weights of two dtypes": (
        lambda g: g.with_layer(1, weight=g.new(4, 2, dtype="float64")),
        TypeError,
        r"expected layers\[1\].weight of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "second weight of integers": (
        lambda g: g.with_layer(1, weight=g.new(4, 2, dtype="int32")),
        TypeError,
        r"expected layers\[1\].weight of dtype .*float32, as layers\[0\].weight, got .*int32",
    ),
    "bias of another dtype": (
        lambda g: g.with_layer(1, bias=g.new(2, dtype="float64")),
        TypeError,
        r"expected layers\[1\].bias of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "a vector for the first weight": (
        lambda g: g.with_layer(0, weight=g.new(3)),
        ValueError,
        r"expected layers\[0\].weight of shape \(n_in, n_out\), got shape \(3,\)",
    ),
    "three dimensions": (
        lambda g: g.with_layer(1, weight=g.new(1, 4, 2)),
        ValueError,
        r"expected layers\[1\].weight of shape \(n_in, n_out\), got shape \(1, 4, 2\)",
    ),
    "a number for a weight": (
        lambda g: g.with_layer(0, weight=g.new()),
        ValueError,
        r"expected layers\[0\].weight of shape \(n_in, n_out\), got shape \(\)",
    ),
    "weights that do not chain": (
        lambda g: g.with_layer(1, weight=g.new(5, 2)),
        ValueError,
        r"expected layers\[1\].weight of shape \(4, n_out\), as layers\[0\] has 4 outputs, "
        r"got shape \(5, 2\)",
    ),
    "bias too long": (
        lambda g: g.with_layer(0, bias=g.new(5)),
        ValueError,
        r"expected layers\[0\].bias of shape \(4,\), got shape \(5,\)",
    ),
    # It would broadcast.
    "bias of one": (
        lambda g: g.with_layer(1, bias=g.new(1)),
        ValueError,
        r"expected layers\[1\].bias of shape \(2,\), got shape \(1,\)",
    ),
    "bias with two dimensions": (
        lambda g: g.with_layer(1, bias=g.new(1, 2)),
        ValueError,
        r"expected layers\[1\].bias of shape \(2,\), got shape \(1, 2\)",
    ),
}
OF_A_NETWORK = {
    "forward": lambda g, layers: kernels.forward(layers, g.x, numerics=REFUSE),
    "backward": lambda g, layers: kernels.backward(
        layers, g.activations, g.gradient, numerics=REFUSE
    ),
    "update": lambda g, layers: kernels.update(layers, g.gradients, 0.1, numerics=REFUSE),
    "step": lambda g, layers: kernels.step(layers, g.x, g.y, learning_rate=0.1, numerics=REFUSE),
    "fit": lambda g, layers: kernels.fit(
        layers, g.x, g.y, learning_rate=0.1, steps=1, numerics=REFUSE
    ),
    "digest": lambda _, layers: kernels.digest(layers),
}


@pytest.mark.parametrize("function", OF_A_NETWORK)
@pytest.mark.parametrize("mistake", NETWORKS)
def test_what_is_no_network(good, function, mistake):
    layers, error, message = NETWORKS[mistake]
    check(good, lambda g: OF_A_NETWORK[function](g, layers(g)), error, message)


# Inputs of every function that takes x.
INPUTS = {
    "too few features": (
        lambda g: g.new(5, 2),
        ValueError,
        r"expected x of shape \(n, 3\), as layers\[0\].weight has shape \(3, 4\), "
        r"got shape \(5, 2\)",
    ),
    "transposed": (
        lambda g: g.x.T,
        ValueError,
        r"expected x of shape \(n, 3\), .*got shape \(3, 5\)",
    ),
    "one sample without a batch": (
        lambda g: g.x[0, :],
        ValueError,
        r"expected x of shape \(n, 3\), .*got shape \(3,\)",
    ),
    "three dimensions": (
        lambda g: g.new(2, 5, 3),
        ValueError,
        r"expected x of shape \(n, 3\), .*got shape \(2, 5, 3\)",
    ),
    "no dimensions": (
        lambda g: g.new(),
        ValueError,
        r"expected x of shape \(n, 3\), .*got shape \(\)",
    ),
    "float64": (
        lambda g: g.new(5, 3, dtype="float64"),
        TypeError,
        r"expected x of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "integers": (
        lambda g: g.new(5, 3, dtype="int64"),
        TypeError,
        r"expected x of dtype .*float32, as layers\[0\].weight, got .*int64",
    ),
    "complex": (
        lambda g: g.new(5, 3, dtype="complex64"),
        TypeError,
        r"expected x of dtype .*float32, as layers\[0\].weight, got .*complex64",
    ),
    "a list": (
        lambda _: [[1.0, 2.0, 3.0]],
        TypeError,
        "expected x to be an array, got list",
    ),
    "nothing": (
        lambda _: None,
        TypeError,
        "expected x to be an array, got NoneType",
    ),
}
OF_X = {
    "forward": lambda g, x: kernels.forward(g.layers, x, numerics=REFUSE),
    "backward": lambda g, x: kernels.backward(
        g.layers, (x, *g.activations[1:]), g.gradient, numerics=REFUSE
    ),
    "step": lambda g, x: kernels.step(g.layers, x, g.y, learning_rate=0.1, numerics=REFUSE),
    "fit": lambda g, x: kernels.fit(g.layers, x, g.y, learning_rate=0.1, steps=1, numerics=REFUSE),
}


@pytest.mark.parametrize("function", OF_X)
@pytest.mark.parametrize("mistake", INPUTS)
def test_what_is_no_input(good, function, mistake):
    x, error, message = INPUTS[mistake]
    check(good, lambda g: OF_X[function](g, x(g)), error, message)


def backward(g, activations=None, gradient=None):
    return kernels.backward(
        g.layers,
        g.activations if activations is None else activations,
        g.gradient if gradient is None else gradient,
        numerics=REFUSE,
    )


def update(g, gradients):
    return kernels.update(g.layers, gradients, 0.1, numerics=REFUSE)


def squared_error(g, prediction, target):
    return kernels.squared_error(prediction, target, numerics=REFUSE)


def cross_entropy(g, logits, target):
    return kernels.softmax_cross_entropy(logits, target, numerics=REFUSE)


def fit(g, **arguments):
    given = {"x": g.x, "y": g.y, "learning_rate": 0.1, "numerics": REFUSE}
    given |= arguments
    if "steps" not in given and "epochs" not in given:
        given["steps"] = 1
    return kernels.fit(g.layers, given.pop("x"), given.pop("y"), **given)


def init(g, sizes=(3, 2), **arguments):
    return kernels.init(sizes, **({"like": g.x} | arguments))


ONE_OF = "expected exactly one of steps and epochs, got "
MISTAKES = {
    "backward, too few activations": (
        lambda g: backward(g, activations=g.activations[:-1]),
        ValueError,
        r"expected 3 activations \(x and one for each of 2 layers\), got 2",
    ),
    "backward, too many activations": (
        lambda g: backward(g, activations=(*g.activations, g.gradient)),
        ValueError,
        r"expected 3 activations \(x and one for each of 2 layers\), got 4",
    ),
    "backward, activations of another network": (
        lambda g: backward(g, activations=replaced(g.activations, 1, g.new(5, 7))),
        ValueError,
        r"expected activations\[1\] of shape \(5, 4\), got shape \(5, 7\)",
    ),
    # It would broadcast.
    "backward, activations of another batch": (
        lambda g: backward(g, activations=replaced(g.activations, 1, g.new(1, 4))),
        ValueError,
        r"expected activations\[1\] of shape \(5, 4\), got shape \(1, 4\)",
    ),
    "backward, prediction of another shape": (
        lambda g: backward(g, activations=replaced(g.activations, 2, g.new(5, 1))),
        ValueError,
        r"expected activations\[2\] of shape \(5, 2\), got shape \(5, 1\)",
    ),
    "backward, activations of another dtype": (
        lambda g: backward(g, activations=replaced(g.activations, 2, g.new(5, 2, dtype="float64"))),
        TypeError,
        r"expected activations\[2\] of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "backward, a list of activations": (
        lambda g: backward(g, activations=replaced(g.activations, 1, [1.0])),
        TypeError,
        r"expected activations\[1\] to be an array, got list",
    ),
    "backward, gradient of another shape": (
        lambda g: backward(g, gradient=g.new(5, 1)),
        ValueError,
        r"expected gradient of shape \(5, 2\), got shape \(5, 1\)",
    ),
    "backward, gradient without dimensions": (
        lambda g: backward(g, gradient=g.new()),
        ValueError,
        r"expected gradient of shape \(5, 2\), got shape \(\)",
    ),
    "backward, gradient of another dtype": (
        lambda g: backward(g, gradient=g.new(5, 2, dtype="float64")),
        TypeError,
        r"expected gradient of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "backward, integer gradient": (
        lambda g: backward(g, gradient=g.new(5, 2, dtype="int32")),
        TypeError,
        r"expected gradient of dtype .*float32, as layers\[0\].weight, got .*int32",
    ),
    "backward, a number for the gradient": (
        lambda g: backward(g, gradient=1.0),
        TypeError,
        "expected gradient to be an array, got float",
    ),
    "update, too few gradients": (
        lambda g: update(g, g.gradients[:1]),
        ValueError,
        "expected gradients of 2 layers, got 1",
    ),
    "update, too many gradients": (
        lambda g: update(g, g.gradients * 2),
        ValueError,
        "expected gradients of 2 layers, got 4",
    ),
    "update, gradient of another shape": (
        lambda g: update(g, g.with_gradient(1, weight=g.new(4, 1))),
        ValueError,
        r"expected gradients\[1\].weight of shape \(4, 2\), got shape \(4, 1\)",
    ),
    "update, gradient of another dtype": (
        lambda g: update(g, g.with_gradient(0, weight=g.new(3, 4, dtype="float64"))),
        TypeError,
        r"expected gradients\[0\].weight of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "update, no gradient": (
        lambda g: update(g, g.with_gradient(0, weight=None)),
        TypeError,
        r"expected gradients\[0\].weight to be an array, got NoneType",
    ),
    "update, gradient of a bias of another shape": (
        lambda g: update(g, g.with_gradient(1, bias=g.new(1))),
        ValueError,
        r"expected gradients\[1\].bias of shape \(2,\), got shape \(1,\)",
    ),
    "update, gradient of a bias of another dtype": (
        lambda g: update(g, g.with_gradient(1, bias=g.new(2, dtype="float64"))),
        TypeError,
        r"expected gradients\[1\].bias of dtype .*float32, as layers\[0\].weight, got .*float64",
    ),
    "update, no gradient of a bias": (
        lambda g: update(g, g.with_gradient(1, bias=None)),
        ValueError,
        r"expected gradients\[1\] with a bias, as layers\[1\], got .*no",
    ),
    "update, gradient of no bias": (
        lambda g: kernels.update(g.with_layer(0, bias=None), g.gradients, 0.1, numerics=REFUSE),
        ValueError,
        r"expected gradients\[0\] with no bias, as layers\[0\], got .*a bias",
    ),
    "squared_error, one target for all": (
        lambda g: squared_error(g, g.y, g.new(1, 2)),
        ValueError,
        r"expected target of shape \(5, 2\), got shape \(1, 2\)",
    ),
    # (5,) against (5, 1) would broadcast to (5, 5).
    "squared_error, a vector of targets": (
        lambda g: squared_error(g, g.new(5, 1), g.new(5)),
        ValueError,
        r"expected target of shape \(5, 1\), got shape \(5,\)",
    ),
    "squared_error, a vector of predictions": (
        lambda g: squared_error(g, g.new(5), g.new(5)),
        ValueError,
        r"expected the prediction of shape \(n, n_out\), got shape \(5,\)",
    ),
    "squared_error, two dtypes": (
        lambda g: squared_error(g, g.y, g.new(5, 2, dtype="float64")),
        TypeError,
        "expected target of dtype .*float32, as the prediction, got .*float64",
    ),
    "squared_error, integers": (
        lambda g: squared_error(g, g.new(5, 2, dtype="int32"), g.new(5, 2, dtype="int32")),
        TypeError,
        "expected the prediction of a real floating dtype such as float32, got .*int32",
    ),
    "squared_error, complex numbers": (
        lambda g: squared_error(g, g.new(5, 2, dtype="complex64"), g.y),
        TypeError,
        "expected the prediction of a real floating dtype such as float32, got .*complex64",
    ),
    "squared_error, lists": (
        lambda g: squared_error(g, [[1.0]], [[1.0]]),
        TypeError,
        "expected the prediction to be an array of a library .*, got list",
    ),
    "squared_error, a list of targets": (
        lambda g: squared_error(g, g.y, [[1.0]]),
        TypeError,
        "expected target to be an array, got list",
    ),
    "softmax_cross_entropy, too few labels": (
        lambda g: cross_entropy(g, g.y, g.labels[:4]),
        ValueError,
        r"expected as many targets as samples, got .*\(5, 2\) and .*\(4,\)",
    ),
    "softmax_cross_entropy, one label": (
        lambda g: cross_entropy(g, g.y, g.labels[0]),
        ValueError,
        r"expected as many targets as samples, got .*\(5, 2\) and .*\(\)",
    ),
    "softmax_cross_entropy, a column of labels": (
        lambda g: cross_entropy(g, g.y, g.new(5, 1, dtype="int32")),
        ValueError,
        r"expected target of shape \(5,\), got shape \(5, 1\)",
    ),
    "softmax_cross_entropy, labels as floating numbers": (
        lambda g: cross_entropy(g, g.y, g.new(5)),
        ValueError,
        r"expected target of shape \(5, 2\), got shape \(5,\)",
    ),
    "softmax_cross_entropy, too few probabilities": (
        lambda g: cross_entropy(g, g.y, g.new(5, 1)),
        ValueError,
        r"expected target of shape \(5, 2\), got shape \(5, 1\)",
    ),
    "softmax_cross_entropy, two dtypes": (
        lambda g: cross_entropy(g, g.y, g.new(5, 2, dtype="float64")),
        TypeError,
        "expected target of dtype .*float32, as the logits, got .*float64",
    ),
    "softmax_cross_entropy, Boolean targets": (
        lambda g: cross_entropy(g, g.y, g.new(5, 2, dtype="bool")),
        TypeError,
        "expected target of dtype .*float32, as the logits, got .*bool",
    ),
    "softmax_cross_entropy, complex targets": (
        lambda g: cross_entropy(g, g.y, g.new(5, 2, dtype="complex64")),
        TypeError,
        "expected target of dtype .*float32, as the logits, got .*complex64",
    ),
    "softmax_cross_entropy, integer logits": (
        lambda g: cross_entropy(g, g.new(5, 2, dtype="int32"), g.labels),
        TypeError,
        "expected the logits of a real floating dtype such as float32, got .*int32",
    ),
    "softmax_cross_entropy, a vector of logits": (
        lambda g: cross_entropy(g, g.new(5), g.labels),
        ValueError,
        r"expected the logits of shape \(n, n_out\), got shape \(5,\)",
    ),
    "softmax_cross_entropy, a list of labels": (
        lambda g: cross_entropy(g, g.y, [0, 1, 1, 0, 1]),
        TypeError,
        "expected target to be an array, got list",
    ),
    "softmax_cross_entropy, no samples": (
        lambda g: cross_entropy(g, g.new(0, 2), g.labels[:0]),
        ValueError,
        r"expected at least one sample, got .*\(0, 2\)",
    ),
    "softmax_cross_entropy, no classes": (
        lambda g: cross_entropy(g, g.new(5, 0), g.labels),
        ValueError,
        r"expected at least one class, got .*\(5, 0\)",
    ),
    "fit, too few targets": (
        lambda g: fit(g, y=g.y[:4, :]),
        ValueError,
        r"expected as many targets as samples, got x of shape \(5, 3\) and y of shape \(4, 2\)",
    ),
    "fit, a target without dimensions": (
        lambda g: fit(g, y=g.new()),
        ValueError,
        r"expected as many targets as samples, got x of shape \(5, 3\) and y of shape \(\)",
    ),
    "fit, a list of targets": (
        lambda g: fit(g, y=[[1.0, 2.0]] * 5),
        TypeError,
        "expected y to be an array, got list",
    ),
    "fit, no samples": (
        lambda g: fit(g, x=g.new(0, 3), y=g.new(0, 2)),
        ValueError,
        r"expected at least one sample, got x of shape \(0, 3\)",
    ),
    "fit, a label too large": (
        lambda g: fit(
            g, y=g.asarray(np.asarray([0, 1, 7, 0, 1])), loss=kernels.softmax_cross_entropy
        ),
        ValueError,
        r"expected labels in \[0, 2\), as the network has 2 outputs, got 7",
    ),
    "fit, a label of just too many": (
        lambda g: fit(
            g, y=g.asarray(np.asarray([0, 1, 2, 0, 1])), loss=kernels.softmax_cross_entropy
        ),
        ValueError,
        r"expected labels in \[0, 2\), as the network has 2 outputs, got 2",
    ),
    "fit, a negative label": (
        lambda g: fit(
            g, y=g.asarray(np.asarray([0, 1, -1, 0, 1])), loss=kernels.softmax_cross_entropy
        ),
        ValueError,
        r"expected labels in \[0, 2\), as the network has 2 outputs, got -1",
    ),
    "fit, neither steps nor epochs": (
        lambda g: fit(g, steps=None, epochs=None),
        ValueError,
        ONE_OF + "steps=None and epochs=None",
    ),
    "fit, steps and epochs": (
        lambda g: fit(g, steps=3, epochs=2),
        ValueError,
        ONE_OF + "steps=3 and epochs=2",
    ),
    "fit, the name of a loss": (
        lambda g: fit(g, loss="squared_error"),
        TypeError,
        "expected a loss such as kernels.squared_error, got 'squared_error'",
    ),
    "fit, the name of a loss and weights": (
        lambda g: fit(g, loss="squared_error", sample_weight=g.new(5)),
        TypeError,
        "expected a loss such as kernels.squared_error, got 'squared_error'",
    ),
    "step, the name of a loss": (
        lambda g: kernels.step(g.layers, g.x, g.y, learning_rate=0.1, loss="poisson"),
        TypeError,
        "expected a loss such as kernels.squared_error, got 'poisson'",
    ),
    "fit, whether to compile": (
        lambda g: fit(g, compile=True, numerics=kernels.EXACT),
        TypeError,
        "expected a compiler such as jax.jit or the compile of a backend, got True",
    ),
    "init, a number of sizes": (
        lambda g: init(g, 3),
        TypeError,
        "expected sizes such as .3, 2., got 3",
    ),
    "init, no sizes": (
        lambda g: init(g, ()),
        ValueError,
        r"expected two or more positive sizes, got \(\)",
    ),
    "init, one size": (
        lambda g: init(g, (3,)),
        ValueError,
        r"expected two or more positive sizes, got \(3,\)",
    ),
    "init, a size of zero": (
        lambda g: init(g, [3, 0, 2]),
        ValueError,
        r"expected two or more positive sizes, got \(3, 0, 2\)",
    ),
    "init, a negative size": (
        lambda g: init(g, (3, -2)),
        ValueError,
        r"expected two or more positive sizes, got \(3, -2\)",
    ),
    "init, a size that is no integer": (
        lambda g: init(g, (3, 2.5)),
        TypeError,
        r"expected .*integer.*, got .*2\.5",
    ),
    "init, a negative seed": (
        lambda g: init(g, seed=-1),
        ValueError,
        r"expected a seed in \[0, 2\*\*64\), got -1",
    ),
    "init, a seed too large": (
        lambda g: init(g, seed=2**64),
        ValueError,
        r"expected a seed in \[0, 2\*\*64\), got 18446744073709551616",
    ),
    "init, a seed that is no integer": (
        lambda g: init(g, seed=0.5),
        TypeError,
        r"expected .*seed.*, got 0\.5",
    ),
    "init, like a list": (
        lambda g: init(g, like=[1.0]),
        TypeError,
        "expected like to be an array of a library that follows the Array API standard, got list",
    ),
    "init, like integers": (
        lambda g: init(g, like=g.labels),
        TypeError,
        "expected like of a real floating dtype such as float32, got .*int32",
    ),
    "init, like complex numbers": (
        lambda g: init(g, like=g.new(1, dtype="complex128")),
        TypeError,
        "expected like of a real floating dtype such as float32, got .*complex128",
    ),
}


@pytest.mark.parametrize("numerics", ["exact", kernels.Exact, None])
@pytest.mark.parametrize(
    "function",
    [
        lambda g, n: kernels.forward(g.layers, g.x, numerics=n),
        lambda g, n: kernels.backward(g.layers, g.activations, g.gradient, numerics=n),
        lambda g, n: kernels.backward_to_input(g.layers, g.activations, g.gradient, numerics=n),
        lambda g, n: kernels.update(g.layers, g.gradients, 0.1, numerics=n),
        lambda g, n: kernels.step(g.layers, g.x, g.y, learning_rate=0.1, numerics=n),
        lambda g, n: kernels.squared_error(g.y, g.y, numerics=n),
        lambda g, n: kernels.half_squared_error(g.y, g.y, numerics=n),
        lambda g, n: kernels.softmax_cross_entropy(g.y, g.labels, numerics=n),
        lambda g, n: kernels.logistic_cross_entropy(g.y, g.y, numerics=n),
        lambda g, n: kernels.poisson(g.y, g.y, numerics=n),
        lambda g, n: kernels.SGD(0.1).update(
            g.layers, g.gradients, kernels.SGD(0.1).init(g.layers), numerics=n
        ),
        lambda g, n: kernels.lbfgs.minimize(lambda x: (x @ x, x), g.layers[0].bias, numerics=n),
        lambda g, n: fit(g, numerics=n),
    ],
)
def test_what_is_no_numerics(good, function, numerics):
    """Likely mistakes are the class, and the name that the estimators take."""
    message = "expected numerics such as kernels.NATIVE or kernels.EXACT, got " + re.escape(
        repr(numerics)
    )
    check(good, lambda g: function(g, numerics), TypeError, message)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(good, mistake):
    check(good, *MISTAKES[mistake])


@half
def test_init_like_half_precision(asarray, xp):
    like = xp.astype(asarray(np.zeros(1), "float32"), xp.float16)
    with pytest.raises(TypeError, match=r"expected .*like.* float32 or float64, got .*float16"):
        kernels.init((3, 2), like=like)


# The target is the loss's to judge, after the forward pass; nothing has been changed by then.
@pytest.mark.parametrize("function", ["step", "fit"])
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (
            lambda g: g.new(5, 1),
            ValueError,
            r"expected target of shape \(5, 2\), got shape \(5, 1\)",
        ),
        (
            lambda g: g.new(5, 2, dtype="float64"),
            TypeError,
            "expected target of dtype .*float32, as the prediction, got .*float64",
        ),
        (
            # Not labels, so their range does not matter.
            lambda g: g.asarray(np.full((5, 2), 7), "int32"),
            TypeError,
            "expected target of dtype .*float32, as the prediction, got .*int32",
        ),
    ],
    ids=["shape", "float64", "integers"],
)
def test_target_that_the_loss_refuses(good, function, target, error, message):
    called = []
    call = {
        "step": lambda g: kernels.step(g.layers, g.x, target(g), learning_rate=0.1),
        "fit": lambda g: kernels.fit(
            g.layers,
            g.x,
            target(g),
            learning_rate=0.1,
            steps=2,
            progress=lambda *args: called.append(args),
        ),
    }[function]
    check(good, call, error, message)
    assert called == []


@pytest.mark.parametrize("argument", ["steps", "epochs", "batch_size"])
@pytest.mark.parametrize("number", [0, -3])
def test_number_that_is_not_positive(good, argument, number):
    message = f"expected {argument} of 1 or more, got {number}"
    check(good, lambda g: fit(g, **{argument: number}), ValueError, message)
    arguments = {"steps": None, "epochs": None, "batch_size": None, argument: number}
    if argument == "batch_size":
        arguments["epochs"] = 1
    with pytest.raises(ValueError, match=message):
        steps_of(10, **arguments)


@pytest.mark.parametrize("argument", ["steps", "epochs", "batch_size"])
@pytest.mark.parametrize("number", [2.5, "2", True])
def test_number_that_is_no_integer(good, argument, number):
    message = f"expected {argument} .*integer.*, got {number!r}"
    check(good, lambda g: fit(g, **{argument: number}), TypeError, message)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_of_the_order_out_of_range(good, seed):
    message = rf"expected a seed in \[0, 2\*\*64\), got {seed}"
    for batch_size in (2, None):
        arguments = {"seed": seed, "batch_size": batch_size}
        check(good, lambda g, given=arguments: fit(g, **given), ValueError, message)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (-1, ValueError, "expected start of 0 or more, got -1"),
        (1.5, TypeError, r"expected start to be an integer, got 1\.5"),
    ],
)
def test_start_out_of_range(good, start, error, message):
    check(good, lambda g: fit(g, start=start), error, message)


OF_A_RATE = {
    "update": lambda g, rate: kernels.update(g.layers, g.gradients, rate, numerics=REFUSE),
    "step": lambda g, rate: kernels.step(g.layers, g.x, g.y, learning_rate=rate, numerics=REFUSE),
    "fit": lambda g, rate: fit(g, learning_rate=rate),
}


@pytest.mark.parametrize("function", OF_A_RATE)
@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, -0.1])
def test_learning_rate_out_of_range(good, function, rate):
    message = f"expected a finite learning rate of 0 or more, got {rate}"
    check(good, lambda g: OF_A_RATE[function](g, rate), ValueError, message)


@pytest.mark.parametrize("function", OF_A_RATE)
@pytest.mark.parametrize("rate", ["fast", 1j, True, np.True_, np.asarray(0.1)])
def test_learning_rate_that_is_no_number(good, function, rate):
    message = f"expected .*learning rate.*, got {re.escape(repr(rate))}"
    check(good, lambda g: OF_A_RATE[function](g, rate), TypeError, message)


def test_learning_rate_in_an_array_of_the_library(good):
    rate = good.asarray(np.asarray(0.1), "float32")
    message = "expected a learning rate that is a real number, got "
    check(good, lambda g: OF_A_RATE["step"](g, rate), TypeError, message)


# One argument of each kind, for what can be wrong with any array: its library, its device.
MIXED = {
    "forward, x": (
        lambda g, to: kernels.forward(g.layers, to(g.x), numerics=REFUSE),
        ("x", "layers[0].weight"),
    ),
    "forward, weight": (
        lambda g, to: kernels.forward(
            g.with_layer(1, weight=to(g.layers[1].weight)), g.x, numerics=REFUSE
        ),
        ("layers[1].weight", "layers[0].weight"),
    ),
    "forward, bias": (
        lambda g, to: kernels.forward(
            g.with_layer(0, bias=to(g.layers[0].bias)), g.x, numerics=REFUSE
        ),
        ("layers[0].bias", "layers[0].weight"),
    ),
    "backward, x": (
        lambda g, to: backward(g, activations=replaced(g.activations, 0, to(g.x))),
        ("x", "layers[0].weight"),
    ),
    "backward, activations": (
        lambda g, to: backward(g, activations=replaced(g.activations, 1, to(g.activations[1]))),
        ("activations[1]", "layers[0].weight"),
    ),
    "backward, gradient": (
        lambda g, to: backward(g, gradient=to(g.gradient)),
        ("gradient", "layers[0].weight"),
    ),
    "update, weight": (
        lambda g, to: update(g, g.with_gradient(0, weight=to(g.gradients[0].weight))),
        ("gradients[0].weight", "layers[0].weight"),
    ),
    "update, bias": (
        lambda g, to: update(g, g.with_gradient(1, bias=to(g.gradients[1].bias))),
        ("gradients[1].bias", "layers[0].weight"),
    ),
    "step, x": (
        lambda g, to: kernels.step(g.layers, to(g.x), g.y, learning_rate=0.1, numerics=REFUSE),
        ("x", "layers[0].weight"),
    ),
    # After the forward pass, as above.
    "step, y": (
        lambda g, to: kernels.step(g.layers, g.x, to(g.y), learning_rate=0.1),
        ("target", "the prediction"),
    ),
    "fit, x": (lambda g, to: fit(g, x=to(g.x)), ("x", "layers[0].weight")),
    "fit, y": (lambda g, to: fit(g, y=to(g.y)), ("y", "")),
    "fit, labels": (
        lambda g, to: fit(g, y=to(g.labels), loss=kernels.softmax_cross_entropy),
        ("y", ""),
    ),
    "squared_error": (
        lambda g, to: squared_error(g, g.y, to(g.y)),
        ("target", "the prediction"),
    ),
    "softmax_cross_entropy, labels": (
        lambda g, to: cross_entropy(g, g.y, to(g.labels)),
        ("target", "the logits"),
    ),
    "softmax_cross_entropy, probabilities": (
        lambda g, to: cross_entropy(g, g.y, to(g.y)),
        ("target", "the logits"),
    ),
}


def mixed_message(mixed, kind, expected, got):
    name, reference = MIXED[mixed][1]
    return (
        rf"expected {re.escape(name)} {kind} {re.escape(expected)}, "
        rf"as {re.escape(reference)}.*, got {re.escape(got)}"
    )


def library_name(xp):
    return xp.__name__.removeprefix("array_api_compat.")


@pytest.fixture
def other_library(request, backend):
    """(array) -> array of another library, and the name of that library."""
    return (lambda a: backend.to_numpy(a)), "numpy"


# NumPy is the other library.
@pytest.mark.not_library("numpy")
@pytest.mark.parametrize("mixed", MIXED)
def test_two_libraries(good, xp, other_library, mixed):
    to, name = other_library
    message = mixed_message(mixed, "from", library_name(xp), name)
    check(good, lambda g: MIXED[mixed][0](g, to), TypeError, message)


@pytest.fixture
def elsewhere(backend):
    """(array) -> array on another device of the same library, and that device."""
    library, _, kind = backend.name.partition(":")
    if library == "array-api-strict":
        device = backend.xp.Device("device1")
        return (lambda a: backend.xp.asarray(a, device=device, copy=True)), device
    if library == "torch":
        import torch

        # Torch has this device everywhere. It holds no elements, so nothing can be computed or
        # read by accident either.
        device = torch.device("cpu" if kind.startswith("cuda") else "meta")
        return (lambda a: a.to(device)), device
    if library == "jax":
        import jax

        others = [d for d in (*jax.devices(), *jax.devices("cpu")) if d != backend.device]
        if others:
            return (lambda a: jax.device_put(a, others[0])), others[0]
    pytest.skip(f"{backend.name} has one device here")


# JAX has a second device beside CUDA, and on a host that is divided, below.
@pytest.mark.library("array-api-strict", "torch", "jax:cuda")
@pytest.mark.parametrize("mixed", MIXED)
def test_two_devices(good, backend, elsewhere, mixed):
    to, device = elsewhere
    message = mixed_message(mixed, "on device", str(good.x.device), str(device))
    check(good, lambda g: MIXED[mixed][0](g, to), ValueError, message)


@pytest.mark.library("jax")
def test_two_devices_of_the_host(backend):
    """JAX divides the host into devices, but only before it starts."""
    code = """
import jax, jax.numpy as jnp
import kernels
first, second = jax.devices("cpu")
x = jnp.ones((2, 3), device=first)
layers = kernels.init((3, 2), like=x)
labels = jnp.zeros(2, dtype="int32")
print(first)
print(second)
for call in (
    lambda: kernels.forward(layers, jax.device_put(x, second)),
    lambda: kernels.fit(layers, x, jax.device_put(labels, second), learning_rate=0.1, steps=1,
                        loss=kernels.softmax_cross_entropy),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, *messages = done.stdout.splitlines()
    assert first != second
    assert [message.partition(" on device ")[0] for message in messages] == [
        "expected x",
        "expected y",
    ]
    for message in messages:
        assert f" on device {first}, as " in message
        assert message.endswith(f", got {second}")


@pytest.mark.library("jax")
def test_arrays_that_jax_splits_among_devices(backend):
    """They have one place, however each is split; those that are elsewhere are refused."""
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import kernels
mesh = Mesh(np.asarray(jax.devices("cpu")), ("part",))
def split(a, *axes):
    return jax.device_put(a, NamedSharding(mesh, PartitionSpec(*axes)))
x = kernels.random.normal((6, 4), seed=0, stream=2, like=jnp.zeros(0))
layers = kernels.init((4, 2), like=x)
(weight, bias), = layers
parted = kernels.Layer(split(weight, "part"), split(bias)),
def train(layers, x, y):
    settings = {"steps": 3, "batch_size": 4, "numerics": kernels.EXACT}
    for compile in (None, jax.jit):
        layers, _, _ = kernels.fit(
            layers, x, y, learning_rate=0.1, compile=compile, check_compiler=False, **settings
        )
    return kernels.digest(layers)
print(train(layers, x, x[:, :2]))
print(train(parted, split(x, "part"), split(x[:, :2], None, "part")))
try:
    train(layers, split(x, "part"), x[:, :2])
except ValueError as error:
    print(error)
"""
    env = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, parted, message = done.stdout.splitlines()
    assert parted == whole
    assert message.startswith("expected x on device ")
    assert "NamedSharding" in message


@pytest.mark.library("numpy")
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_numpy_matrix_is_no_array(good):
    """Its `*` is a product of matrices, so results would be wrong without a word."""
    check(
        good,
        lambda g: kernels.forward(g.layers, np.matrix(g.x)),
        TypeError,
        "expected x to be an array, got matrix",
    )
    check(
        good,
        lambda g: kernels.squared_error(np.matrix(g.y), np.matrix(g.y)),
        TypeError,
        "expected the prediction to be an array .*, got matrix",
    )


@pytest.mark.library("numpy")
def test_masked_array_is_no_array(good):
    """What is masked would count."""
    masked = np.ma.masked_array(good.x, mask=np.asarray(good.x) > 0.0)
    check(
        good,
        lambda g: kernels.forward(g.layers, masked),
        TypeError,
        "expected x to be an array, got MaskedArray",
    )
    check(
        good,
        lambda _: kernels.squared_error(masked, masked),
        TypeError,
        "expected the prediction to be an array .*, got MaskedArray",
    )

"""Activations: values, derivatives from the output, and the same bits everywhere."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from _assert import assert_alike, assert_identical, assert_networks_identical, bits, fetch
from _params import thorough, where

import kernels
from kernels import EXACT, NATIVE, activations

NAMES = ("relu", "leaky_relu", "elu", "softplus", "tanh", "logistic", "identity")
every = pytest.mark.parametrize("name", NAMES)

# On the host, as one writes them down.
VALUES = {
    "relu": lambda a: np.maximum(a, 0.0),
    "leaky_relu": lambda a: np.where(a > 0.0, a, 0.01 * a),
    "elu": lambda a: np.where(a > 0.0, a, np.expm1(a)),
    "softplus": lambda a: np.logaddexp(a, 0.0),
    "tanh": np.tanh,
    "logistic": lambda a: 1.0 / (1.0 + np.exp(-a)),
    "identity": lambda a: a,
}


def points(dtype):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=40), [0.0, 5.0, -5.0, 30.0, -30.0]]).astype(dtype)


@every
@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
def test_values_and_derivatives(asarray, dtype, name, numerics):
    x = points(dtype)
    activation = getattr(activations, name)
    a = asarray(x, dtype)
    y = activation(a, numerics=numerics)
    derivative = activation.derivative(y, numerics=numerics)
    assert_alike(y, a)
    assert_alike(derivative, a)
    # MLX's own functions of float64 are as accurate as float32.
    atol = 1e-5 if dtype == "float32" or "mlx" in type(y).__module__ else 1e-12
    host = x.astype("float64")
    value = VALUES[name]
    np.testing.assert_allclose(fetch(y), value(host), rtol=0, atol=atol)
    away = np.abs(host) > 1e-3
    slope = (value(host + 1e-6) - value(host - 1e-6)) / 2e-6
    np.testing.assert_allclose(fetch(derivative)[away], slope[away], atol=max(atol, 1e-8))


@every
def test_derivative_at_0(name):
    """Where left and right derivative differ it is the left one."""
    expected = {"relu": 0.0, "leaky_relu": 0.01, "softplus": 0.5, "logistic": 0.25}.get(name, 1.0)
    activation = getattr(activations, name)
    assert float(activation.derivative(activation(np.zeros(1)))[0]) == pytest.approx(expected)


@every
def test_what_counts_as_zero(asarray, name):
    """Some libraries flush these numbers to zero, and others keep them."""
    small = asarray(np.asarray([1e-40, -1e-40, 2.0**-102, -0.0]), "float32")
    zeros = asarray(np.zeros(4), "float32")
    activation = getattr(activations, name)
    for function in (activation, activation.derivative):
        got, expected = function(small, numerics=EXACT), function(zeros, numerics=EXACT)
        assert_identical(got, expected)


@pytest.mark.library("torch")
def test_autograd_of_torch(asarray):
    from backends.autograd import torch as autograd

    layers, x, _ = network(asarray, "float64")
    module = autograd.Network(layers, activation=activations.tanh)
    module(x).sum().backward()
    x.requires_grad_()
    a = x
    for i, layer in enumerate(module.layers):
        weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
        a = a @ weight + bias
        a = a.tanh() if i == 0 else a
    a.sum().backward()
    np.testing.assert_allclose(module.layers[-1].weight.grad, weight.grad, rtol=1e-12)


@pytest.mark.library("jax")
def test_autograd_of_jax(asarray):
    import jax

    from backends.autograd import jax as autograd

    layers, x, _ = network(asarray, "float64")

    def plain(layers):
        (w, b), (v, c) = layers
        return ((jax.numpy.tanh(x @ w + b[None, :])) @ v + c[None, :]).sum()

    def own(layers):
        return autograd.predict(layers, x, activation=activations.tanh).sum()

    for a, b in zip(*(jax.tree.leaves(jax.grad(f)(layers)) for f in (own, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.library("torch")
@every
def test_those_of_torch(asarray, name):
    """The derivative at 0 too."""
    import torch

    functions = {"logistic": torch.sigmoid, "identity": lambda a: a, "tanh": torch.tanh}
    function = functions.get(name) or getattr(torch.nn.functional, name)
    a = asarray(points("float64")).requires_grad_()
    y = function(a)
    y.sum().backward()
    got = getattr(activations, name)(a.detach())
    np.testing.assert_allclose(got, y.detach(), rtol=1e-12, atol=1e-13)
    derivative = getattr(activations, name).derivative(got)
    np.testing.assert_allclose(derivative, a.grad, rtol=1e-9, atol=1e-12)


def network(asarray, dtype):
    rng = np.random.default_rng(1)
    x = asarray(rng.normal(size=(6, 5)), dtype)
    y = asarray(rng.normal(size=(6, 2)), dtype)
    layers = kernels.init((5, 4, 2), like=x, seed=3)
    return [kernels.Layer(w, b + 0.1) for w, b in layers], x, y


@every
def test_gradients_are_those_of_finite_differences(name):
    layers, x, y = network(np.asarray, "float64")
    activation = getattr(activations, name)

    def loss(layers, x):
        return kernels.squared_error(kernels.forward(layers, x, activation=activation)[-1], y)

    found = kernels.forward(layers, x, activation=activation)
    gradients, of_input = kernels.backward_to_input(
        layers, found, loss(layers, x)[1], activation=activation
    )
    again = kernels.backward(layers, found, loss(layers, x)[1], activation=activation)
    assert_networks_identical(again, gradients)
    direction = [
        kernels.Layer(*(np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate(layer)))
        for layer in layers
    ]

    def at(size):
        moved = [
            kernels.Layer(w + size * dw, b + size * db)
            for (w, b), (dw, db) in zip(layers, direction, strict=True)
        ]
        return loss(moved, x)[0]

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    expected = sum(
        np.sum(g * d)
        for pair in zip(gradients, direction, strict=True)
        for g, d in zip(*pair, strict=True)
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    step = np.random.default_rng(9).normal(size=x.shape) * 1e-6
    slope = (loss(layers, x + step)[0] - loss(layers, x - step)[0]) / 2
    np.testing.assert_allclose(slope, np.sum(of_input * step), rtol=1e-6)


def train(asarray, dtype, name, compile=None):
    layers, x, y = network(asarray, dtype)
    return kernels.fit(
        layers,
        x,
        y,
        learning_rate=0.01,
        steps=3,
        activation=getattr(activations, name),
        numerics=EXACT,
        compile=compile,
    )


# JAX compiles every operation, and is asked below for all of them at once.
@pytest.mark.not_library("jax")
@pytest.mark.parametrize("name", ["tanh", *thorough(*(name for name in NAMES if name != "tanh"))])
def test_exact_training_has_the_bits_of_numpy(asarray, dtype, name):
    got, expected = (train(make, dtype, name) for make in (asarray, np.asarray))
    assert kernels.digest(got.layers) == kernels.digest(expected.layers)
    np.testing.assert_array_equal(bits(got.losses), bits(expected.losses))
    # Each trains another network.
    others = {kernels.digest(train(np.asarray, dtype, other).layers) for other in NAMES}
    assert len(others) == len(NAMES)


@pytest.mark.parametrize(
    "name",
    [
        *where(pytest.mark.library("jax"), "tanh"),
        *[
            pytest.param(name, marks=[pytest.mark.library("jax", "torch"), pytest.mark.thorough])
            for name in ("elu", "softplus")
        ],
    ],
)
def test_compiled_exact_training_has_the_bits_of_numpy(backend, asarray, name):
    got = train(asarray, "float32", name, backend.compile)
    assert kernels.digest(got.layers) == kernels.digest(train(np.asarray, "float32", name).layers)


def test_step_is_what_fit_does():
    layers, x, y = network(np.asarray, "float64")
    settings = {"learning_rate": 0.01, "activation": activations.tanh}
    fitted = kernels.fit(layers, x, y, steps=1, **settings)
    assert_networks_identical(fitted.layers, kernels.step(layers, x, y, **settings)[0])


def test_exact_results_have_no_negative_zeros(asarray, dtype):
    tiny = np.finfo(dtype).tiny
    a = EXACT.flush(asarray([-0.0, 0.0, -tiny, tiny, -1e3], dtype))
    for name in NAMES:
        y = fetch(getattr(activations, name)(a, numerics=EXACT))
        assert not np.any(np.signbit(y[y == 0.0])), name


@every
def test_equal_ones_are_found_again(name):
    activation = getattr(activations, name)
    assert activation.name == name
    assert hash(activation) == hash(getattr(activations, name))
    assert pickle.loads(pickle.dumps(activation)) == activation


@pytest.mark.parametrize("wrong", ["tanh", np.tanh, None])
def test_what_is_no_activation(wrong):
    layers, x, y = network(np.asarray, "float64")
    found = kernels.forward(layers, x)
    calls = [
        lambda: kernels.forward(layers, x, activation=wrong),
        lambda: kernels.backward(layers, found, y, activation=wrong),
        lambda: kernels.backward_to_input(layers, found, y, activation=wrong),
        lambda: kernels.step(layers, x, y, learning_rate=0.1, activation=wrong),
        lambda: kernels.fit(layers, x, y, learning_rate=0.1, steps=1, activation=wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"expected an activation such as .*tanh, got "):
            call()


def test_a_derivative_of_another_dtype():
    """A number of NumPy's makes float64 of float32, and a bias with it."""

    def back(y, gradient, _):
        return gradient * (y > 0.0) * np.float64(1.0)

    case = network(np.asarray, "float32")
    own = replace(activations.relu, back=back)
    with pytest.raises(TypeError, match=r"layers\[0\]\.bias of dtype float32, .*, got float64"):
        kernels.fit(*case, learning_rate=0.1, steps=1, activation=own)

"""Gradients agree with finite differences and with the libraries' own differentiation."""

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
from _assert import assert_close, assert_networks_close, fetch
from _params import thorough
from hypothesis import given, strategies

import kernels
from kernels import Layer

LOSSES = ("squared_error", "labels", "probabilities")


class Case(NamedTuple):
    """A network and a batch, on the host in float64."""

    layers: tuple[Layer, ...]
    x: np.ndarray
    y: np.ndarray
    loss: str

    def on(self, asarray, dtype):
        """Place the case on a device: layers, x, y, loss function."""
        layers = tuple(
            Layer(asarray(w, dtype), None if b is None else asarray(b, dtype))
            for w, b in self.layers
        )
        y = asarray(self.y) if self.loss == "labels" else asarray(self.y, dtype)
        squared = self.loss == "squared_error"
        loss = kernels.squared_error if squared else kernels.softmax_cross_entropy
        return layers, asarray(self.x, dtype), y, loss


def make(sizes, n, biases, loss, seed):
    """Draw a case whose hidden pre-activations are all away from the kink of relu."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        layers = tuple(
            Layer(
                rng.normal(size=(n_in, n_out)) / math.sqrt(n_in),
                rng.normal(size=n_out) if bias else None,
            )
            for n_in, n_out, bias in zip(sizes, sizes[1:], biases, strict=False)
        )
        x = rng.normal(size=(n, sizes[0]))
        if all(np.all(np.abs(h) > 1e-3) for h in host_forward(layers, x)[:-1]):
            break
    else:
        raise AssertionError("every draw had a pre-activation at the kink")
    c = sizes[-1]
    y = {
        "squared_error": lambda: rng.normal(size=(n, c)),
        "labels": lambda: rng.integers(c, size=n).astype(np.int32),
        "probabilities": lambda: rng.dirichlet(np.ones(c), size=n),
    }[loss]()
    return Case(layers, x, y, loss)


# A network, since JAX compiles every operation for every shape, and any: sizes, samples, biases.
FEW = strategies.just(((3, 4, 2, 3), 3, (True, False, True)))
ANY = strategies.tuples(
    strategies.lists(strategies.integers(1, 4), min_size=2, max_size=5),
    strategies.integers(1, 4),
    strategies.lists(strategies.booleans(), min_size=4, max_size=4),
)
SHAPES = pytest.mark.parametrize("shapes", [FEW, *thorough(ANY)], ids=["few", "any"])


def draw_case(data, shapes):
    loss = data.draw(strategies.sampled_from(LOSSES))
    return make(*data.draw(shapes), loss, data.draw(strategies.integers(0, 2**32 - 1)))


def host_forward(layers, x):
    """Compute the pre-activations of every layer."""
    h, result = x, []
    for w, b in layers:
        result.append(h @ w + (0.0 if b is None else b))
        h = np.maximum(result[-1], 0.0)
    return result


def host_loss(layers, x, y, loss):
    prediction = host_forward(layers, x)[-1]
    if loss == "squared_error":
        return np.sum((prediction - y) ** 2)
    log_p = prediction - np.logaddexp.reduce(prediction, axis=1, keepdims=True)
    p = np.eye(prediction.shape[1])[y] if loss == "labels" else y
    return -np.mean(np.sum(p * log_p, axis=1))


def central_differences(case, h=1e-5):
    """Differentiate `host_loss` with respect to every parameter."""
    copies = tuple(Layer(w.copy(), None if b is None else b.copy()) for w, b in case.layers)

    def differentiate(a):
        result = np.empty_like(a)
        for i in np.ndindex(a.shape):
            middle = a[i]
            a[i] = middle + h
            above = host_loss(copies, *case[1:])
            a[i] = middle - h
            below = host_loss(copies, *case[1:])
            a[i] = middle
            result[i] = (above - below) / (2 * h)
        return result

    return tuple(
        Layer(differentiate(w), None if b is None else differentiate(b)) for w, b in copies
    )


def gradients_of(layers, x, y, loss):
    activations = kernels.forward(layers, x)
    value, gradient = loss(activations[-1], y)
    return value, kernels.backward(layers, activations, gradient)


def check_differences(case, asarray):
    value, gradients = gradients_of(*case.on(asarray, "float64"))
    assert math.isclose(float(value), host_loss(*case), rel_tol=1e-12, abs_tol=1e-14)
    numerical = Case(central_differences(case), *case[1:]).on(asarray, "float64")[0]
    # With h = 1e-5: truncation h**2 = 1e-10 and rounding 2**-53 / h = 1e-11, of losses near 10.
    assert_networks_close(gradients, numerical, rtol=1e-6, atol=1e-7)


@pytest.mark.thorough("jax")
@SHAPES
@given(data=strategies.data())
def test_central_differences(asarray, shapes, data):
    check_differences(draw_case(data, shapes), asarray)


EDGES = {
    "one of everything": ((1, 1), 1, (True,)),
    "batch of one": ((3, 4, 2), 1, (True, True)),
    "width of one": ((3, 1, 1, 2), 3, (True, False, True)),
    "one layer": ((5, 3), 4, (True,)),
    "one layer without bias": ((5, 3), 4, (False,)),
    "four layers": ((3, 5, 4, 6, 2), 5, (True, True, False, True)),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("edge", thorough(*EDGES))
def test_central_differences_at_the_edges(asarray, edge, loss):
    sizes, n, biases = EDGES[edge]
    check_differences(make(sizes, n, biases, loss, seed=0), asarray)


def tolerance(dtype):
    # Sums of at most 6 terms, through at most 4 layers and back.
    return {"rtol": 200 * np.finfo(dtype).eps, "atol": 200 * np.finfo(dtype).eps}


def torch_oracle(layers, x, y, loss):
    """Compute the loss and its gradients with torch's own functions and autograd."""
    import torch

    leaves = [
        Layer(w.clone().requires_grad_(), None if b is None else b.clone().requires_grad_())
        for w, b in layers
    ]
    h = x
    for i, (w, b) in enumerate(leaves):
        h = torch.nn.functional.linear(h, w.T, b)
        if i < len(leaves) - 1:
            h = torch.relu(h)
    if loss == "squared_error":
        value = torch.nn.functional.mse_loss(h, y, reduction="sum")
    else:
        value = torch.nn.functional.cross_entropy(h, y.long() if loss == "labels" else y)
    value.backward()
    return value.detach(), tuple(Layer(w.grad, None if b is None else b.grad) for w, b in leaves)


def torch_through_the_kernel(layers, x, y, loss):
    """Differentiate the kernel's own forward pass and loss by autograd."""
    leaves = tuple(
        Layer(w.clone().requires_grad_(), None if b is None else b.clone().requires_grad_())
        for w, b in layers
    )
    value = loss(kernels.forward(leaves, x)[-1], y)[0]
    value.backward()
    return value.detach(), tuple(Layer(w.grad, None if b is None else b.grad) for w, b in leaves)


@pytest.mark.library("torch")
@SHAPES
@given(data=strategies.data())
def test_torch_autograd(asarray, dtype, shapes, data):
    case = draw_case(data, shapes)
    placed = case.on(asarray, dtype)
    value, gradients = gradients_of(*placed)
    for oracle, loss in ((torch_oracle, case.loss), (torch_through_the_kernel, placed[3])):
        own_value, own_gradients = oracle(*placed[:3], loss)
        assert_close(value, own_value, **tolerance(dtype))
        assert_networks_close(gradients, own_gradients, **tolerance(dtype))


def jax_loss(layers, x, y, loss):
    import jax

    h = x
    for i, (w, b) in enumerate(layers):
        h = h @ w if b is None else h @ w + b[None, :]
        if i < len(layers) - 1:
            h = jax.nn.relu(h)
    if loss == "squared_error":
        return ((h - y) ** 2).sum()
    p = jax.nn.one_hot(y, h.shape[1], dtype=h.dtype) if loss == "labels" else y
    return -(p * jax.nn.log_softmax(h)).sum(axis=1).mean()


def jax_through_the_kernel(layers, x, y, loss):
    return loss(kernels.forward(layers, x)[-1], y)[0]


@functools.cache
def jax_gradient(function):
    import jax

    return jax.jit(jax.value_and_grad(function), static_argnums=3)


@pytest.mark.library("jax")
@SHAPES
@given(data=strategies.data())
def test_jax_grad(asarray, dtype, shapes, data):
    case = draw_case(data, shapes)
    placed = case.on(asarray, dtype)
    value, gradients = gradients_of(*placed)
    for oracle, loss in ((jax_loss, case.loss), (jax_through_the_kernel, placed[3])):
        differentiate = jax_gradient(oracle)
        own_value, own_gradients = differentiate(*placed[:3], loss)
        assert_close(value, own_value, **tolerance(dtype))
        assert_networks_close(gradients, own_gradients, **tolerance(dtype))


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_derivative_of_relu_at_zero_is_zero(asarray, dtype, zero):
    # The hidden pre-activations are exactly 0, -1 and 1.
    layers = (
        Layer(asarray([[zero, -1.0, 1.0]], dtype), asarray([zero, 0.0, 0.0], dtype)),
        Layer(asarray([[5.0], [5.0], [5.0]], dtype)),
    )
    activations = kernels.forward(layers, asarray([[1.0]], dtype))
    gradients = kernels.backward(layers, activations, asarray([[1.0]], dtype))
    np.testing.assert_array_equal(fetch(gradients[0].weight), [[0.0, 0.0, 5.0]])
    np.testing.assert_array_equal(fetch(gradients[0].bias), [0.0, 0.0, 5.0])
    np.testing.assert_array_equal(fetch(gradients[1].weight), [[0.0], [0.0], [1.0]])


@pytest.mark.library("torch", "jax")
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_derivative_of_relu_at_zero_by_autograd(backend, asarray, dtype, zero):
    """That of `maximum` is a half there, and of `clip` may be 1."""
    x, identity = asarray([[zero, -1.0, 1.0]], dtype), asarray(np.eye(3), dtype)

    def total(x):
        return kernels.forward((Layer(identity), Layer(identity)), x)[-1].sum()

    if backend.name.startswith("jax"):
        import jax

        gradient = jax.grad(total)(x)
    else:
        x.requires_grad_()
        total(x).backward()
        gradient = x.grad
    np.testing.assert_array_equal(fetch(gradient), [[0.0, 0.0, 1.0]])


@pytest.mark.parametrize("loss", LOSSES)
def test_step_is_update_along_the_gradient(asarray, dtype, loss):
    layers, x, y, function = make((5, 7, 3), 6, (True, False), loss, seed=1).on(asarray, dtype)
    value, gradients = gradients_of(layers, x, y, function)
    stepped, step_value = kernels.step(layers, x, y, learning_rate=0.03, loss=function)
    assert_close(step_value, value, rtol=0.0)
    updated = kernels.update(layers, gradients, 0.03)
    assert_networks_close(stepped, updated, **tolerance(dtype))
    for before, after, gradient in zip(layers, updated, gradients, strict=True):
        desired = fetch(before.weight) - 0.03 * fetch(gradient.weight).astype(np.float64)
        assert_close(after.weight, asarray(desired, dtype), **tolerance(dtype))


def test_backward_is_linear(asarray, dtype):
    layers, x, y, loss = make((4, 6, 3), 5, (True, True), "squared_error", seed=2).on(
        asarray, dtype
    )
    activations = kernels.forward(layers, x)
    _, gradient = loss(activations[-1], y)
    once = kernels.backward(layers, activations, gradient)
    # A power of two, so that no product rounds differently.
    half = kernels.backward(layers, activations, gradient * 0.5)
    doubled = tuple(Layer(w * 2.0, None if b is None else b * 2.0) for w, b in half)
    assert_networks_close(doubled, once, rtol=0.0)


def test_forward_by_hand(asarray, dtype):
    layers = (
        Layer(asarray([[1.0, -1.0], [2.0, 0.5]], dtype), asarray([0.5, 1.0], dtype)),
        Layer(asarray([[2.0, 0.0], [3.0, -1.0]], dtype), None),
    )
    x = asarray([[1.0, 2.0], [-4.0, 1.0]], dtype)
    activations = kernels.forward(layers, x)
    # Rows times columns, then the bias: 1*1 + 2*2 + 0.5 = 5.5; -1 + 1 + 1 = 1; ...
    np.testing.assert_array_equal(fetch(activations[0]), fetch(x))
    np.testing.assert_array_equal(fetch(activations[1]), [[5.5, 1.0], [0.0, 5.5]])
    np.testing.assert_array_equal(fetch(activations[2]), [[14.0, -1.0], [16.5, -5.5]])

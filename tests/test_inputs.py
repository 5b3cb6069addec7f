"""Whatever way inputs lie in memory, whoever traces them, and whatever they hold."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from _assert import (
    assert_close,
    assert_identical,
    assert_networks_close,
    bits,
    fetch,
    parameters,
)
from _params import one_dtype, thorough, where
from array_api_compat import array_namespace

import kernels
from kernels import Layer
from kernels.numerics import Native

TARGETS = ("squared_error", "labels", "probabilities")


def tolerance(dtype):
    # Sums of at most 13 terms of size 1, in another order, through two layers and back. Nothing
    # cancels below the terms' size by more than the absolute tolerance allows for.
    return {"rtol": 200 * np.finfo(dtype).eps, "atol": 200 * np.finfo(dtype).eps}


# These tests do not depend on the dtype, and JAX compiles for many seconds for each.
float32 = pytest.mark.parametrize("dtype", ["float32"])


class Case(NamedTuple):
    """A network and a batch of one backend."""

    layers: tuple[Layer, ...]
    x: Any
    y: Any
    loss: Any

    def arrays(self):
        """List every array."""
        return [*parameters(self.layers), self.x, self.y]

    def map(self, function):
        """Replace every array."""
        return Case(
            tuple(Layer(*(None if a is None else function(a) for a in la)) for la in self.layers),
            function(self.x),
            function(self.y),
            self.loss,
        )


def make(asarray, dtype, target="squared_error", sizes=(13, 8, 4), n=6, biases=(True, False)):
    rng = np.random.default_rng(7)
    layers = tuple(
        Layer(
            asarray(rng.normal(size=(n_in, n_out)) / math.sqrt(n_in), dtype),
            asarray(rng.normal(size=n_out), dtype) if bias else None,
        )
        for n_in, n_out, bias in zip(sizes, sizes[1:], biases, strict=False)
    )
    x = asarray(rng.normal(size=(n, sizes[0])), dtype)
    c = sizes[-1]
    if target == "labels":
        y = asarray(rng.integers(c, size=n).astype(np.int32))
    elif target == "probabilities":
        y = asarray(rng.dirichlet(np.ones(c), size=n), dtype)
    else:
        y = asarray(rng.normal(size=(n, c)), dtype)
    loss = kernels.squared_error if target == "squared_error" else kernels.softmax_cross_entropy
    return Case(layers, x, y, loss)


def everything(case):
    """Call every function of a network: the networks and the other arrays that come out."""
    layers, x, y, loss = case
    activations = kernels.forward(layers, x)
    value, gradient = loss(activations[-1], y)
    gradients = kernels.backward(layers, activations, gradient)
    updated = kernels.update(layers, gradients, 0.01)
    stepped, step_value = kernels.step(layers, x, y, learning_rate=0.01, loss=loss)
    whole = kernels.fit(layers, x, y, learning_rate=0.01, steps=2, loss=loss)
    batches = kernels.fit(layers, x, y, learning_rate=0.01, epochs=2, batch_size=3, loss=loss)
    networks = (gradients, updated, stepped, whole.layers, batches.layers)
    return networks, (*activations, value, gradient, step_value, whole.losses, batches.losses)


def assert_results_close(actual, desired, *, rtol, atol=0.0):
    for got, expected in zip(actual[0], desired[0], strict=True):
        assert_networks_close(got, expected, rtol=rtol, atol=atol)
    for got, expected in zip(actual[1], desired[1], strict=True):
        assert_close(got, expected, rtol=rtol, atol=atol)


@float32
@pytest.mark.parametrize("target", TARGETS)
def test_inputs_are_never_changed(asarray, dtype, target):
    case = make(asarray, dtype, target, biases=(True, True))
    before = [bits(a) for a in case.arrays()]
    everything(case)
    kernels.digest(case.layers)
    kernels.init((3, 2), like=case.x)
    for a, was in zip(case.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


def test_intermediate_results_are_never_changed(asarray, dtype):
    """Nor are results of one function that another takes."""
    layers, x, y, loss = make(asarray, dtype, biases=(True, True))
    activations = kernels.forward(layers, x)
    _, gradient = loss(activations[-1], y)
    gradients = kernels.backward(layers, activations, gradient)
    given = [*activations, gradient, *parameters(gradients)]
    before = [bits(a) for a in given]
    kernels.backward(layers, activations, gradient)
    kernels.update(layers, gradients, 0.1)
    loss(activations[-1], y)
    for a, was in zip(given, before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


@pytest.mark.library("numpy")
def test_results_share_no_memory_with_parameters(asarray, dtype):
    """Whoever writes to a result does not write to the network it came from."""
    case = make(asarray, dtype, biases=(True, True))
    networks, _ = everything(case)
    for result in (a for network in networks for a in parameters(network)):
        assert not any(np.shares_memory(result, a) for a in case.arrays())


@pytest.mark.library("numpy")
@pytest.mark.parametrize("target", TARGETS)
def test_read_only_inputs(asarray, dtype, target):
    case = make(asarray, dtype, target)
    desired = everything(case)
    for a in case.arrays():
        a.flags.writeable = False
    networks, arrays = everything(case)
    # The layout is the same, so the bits are.
    for got, expected in zip(arrays, desired[1], strict=True):
        assert_identical(got, expected)
    for got, expected in zip(networks, desired[0], strict=True):
        for a, b in zip(parameters(got), parameters(expected), strict=True):
            assert_identical(a, b)
            assert a.flags.writeable


def transposed(a, asarray, name):
    return asarray(fetch(a).T.copy(), name).T if a.ndim == 2 else a


def strided(a, asarray, name):
    host = fetch(a)
    for axis in range(host.ndim):
        host = np.repeat(host, 2, axis=axis)
    # What lies between must not be read.
    host[(slice(1, None, 2),) * host.ndim] = 99
    return asarray(host, name)[(slice(None, None, 2),) * host.ndim]


def reversed_(a, asarray, name):
    backwards = (slice(None, None, -1),) * a.ndim
    return asarray(fetch(a)[backwards].copy(), name)[backwards]


def offset(a, asarray, name):
    host = np.pad(fetch(a), 1, constant_values=99)
    return asarray(host, name)[(slice(1, -1),) * a.ndim]


LAYOUTS = {
    "Fortran": transposed,
    "strided": strided,
    "offset": offset,
    "reversed": reversed_,
}
# torch has no negative strides.
LAYOUT_NAMES = (
    *("Fortran", "strided", "offset"),
    *where(pytest.mark.not_library("torch"), "reversed"),
)


@float32
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_layout(backend, asarray, dtype, layout, target):
    case = make(asarray, dtype, target)

    def lay(a):
        host = fetch(a)
        other = LAYOUTS[layout](a, asarray, host.dtype.name)
        assert_identical(other, a)
        return other

    laid = case.map(lay)
    if backend.name == "numpy":
        # The layouts are what they are called: a copy would test nothing.
        assert not laid.x.flags.c_contiguous
        assert not laid.layers[0].weight.flags.c_contiguous
    before = [bits(a) for a in laid.arrays()]
    # Not the bits: a library may choose another routine, and another order, for each layout.
    assert_results_close(everything(laid), everything(case), **tolerance(dtype))
    for a, was in zip(laid.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


@pytest.mark.library("numpy")
def test_inputs_that_are_not_aligned(asarray, dtype):
    case = make(asarray, dtype)

    def misalign(a):
        raw = np.frombuffer(b"\0" + a.tobytes(), dtype=np.uint8)[1:]
        other = raw.view(a.dtype).reshape(a.shape)
        assert not other.flags.aligned
        return other

    assert_results_close(everything(case.map(misalign)), everything(case), **tolerance(dtype))


@float32
def test_rows_of_one_sample(asarray, xp, dtype):
    """A batch of one sample repeated without a copy, where the library can."""
    case = make(asarray, dtype)
    x = xp.broadcast_to(case.x[:1, :], case.x.shape)
    copied = asarray(fetch(x), dtype)
    assert_results_close(
        everything(case._replace(x=x)), everything(case._replace(x=copied)), **tolerance(dtype)
    )


EDGES = {
    "batch of one": {"n": 1},
    "width of one": {"sizes": (5, 1, 3)},
    "one feature": {"sizes": (1, 4, 3)},
    "one output": {"sizes": (5, 4, 1)},
    "one of everything": {"sizes": (1, 1), "n": 1, "biases": (True,)},
    "one layer": {"sizes": (5, 3), "biases": (True,)},
    "one layer without a bias": {"sizes": (5, 3), "biases": (False,)},
}


def host_step(case, learning_rate):
    """Train one step in NumPy, in float64."""
    layers = [
        [None if a is None else fetch(a).astype(np.float64) for a in layer] for layer in case.layers
    ]
    x, y = fetch(case.x).astype(np.float64), fetch(case.y)
    h, inputs = x, []
    for i, (w, b) in enumerate(layers):
        inputs.append(h)
        h = h @ w + (0.0 if b is None else b)
        h = np.maximum(h, 0.0) if i < len(layers) - 1 else h
    if case.loss is kernels.squared_error:
        value, g = ((h - y) ** 2).sum(), 2.0 * (h - y)
    else:
        p = np.eye(h.shape[1])[y] if y.ndim == 1 else y.astype(np.float64)
        log_q = h - np.logaddexp.reduce(h, axis=1, keepdims=True)
        value = -(p * log_q).sum() / len(h)
        g = (np.exp(log_q) * p.sum(axis=1, keepdims=True) - p) / len(h)
    result = []
    for (w, b), a in zip(reversed(layers), reversed(inputs), strict=True):
        result.append(
            (w - learning_rate * a.T @ g, None if b is None else b - learning_rate * g.sum(0))
        )
        g = np.where(a > 0.0, g @ w.T, 0.0)
    return result[::-1], value


@float32
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("edge", ["width of one", *thorough(*sorted({*EDGES} - {"width of one"}))])
def test_edge(asarray, dtype, edge, target):
    case = make(asarray, dtype, target, **EDGES[edge])
    stepped, value = kernels.step(*case[:3], learning_rate=0.1, loss=case.loss)
    oracle, oracle_value = host_step(case, 0.1)
    assert_close(value, asarray(np.asarray(oracle_value), dtype), **tolerance(dtype))
    desired = tuple(
        Layer(asarray(w, dtype), None if b is None else asarray(b, dtype)) for w, b in oracle
    )
    assert_networks_close(stepped, desired, **tolerance(dtype))
    _, losses, _ = kernels.fit(*case[:3], learning_rate=0.1, steps=1, loss=case.loss)
    assert tuple(losses.shape) == (1,)
    assert_identical(losses[0], value)


# Labels are integers, and a unit that relu cuts off is as good as absent.
SPOILT = [
    (place, bad, target)
    for place in ("x", "first weight", "first bias", "last weight", "target")
    for bad in (math.nan, math.inf, -math.inf)
    for target in TARGETS
    if (place, target) != ("target", "labels") and (place, bad) != ("first bias", -math.inf)
]


# NumPy warns where infinities cancel or divide.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("place", "bad", "target"), SPOILT)
def test_what_is_not_finite_is_seen(asarray, dtype, bad, place, target):
    case = make(asarray, dtype, target, n=20, biases=(True, True))

    def spoil(a, index):
        host = fetch(a)
        host[index] = bad
        return asarray(host, dtype)

    (w, b), last = case.layers
    if place == "x":
        # The sample's hidden units become infinite where their weight has the sign of it.
        assert np.ptp(np.sign(fetch(w)[0, :])) == 2.0
        case = case._replace(x=spoil(case.x, (3, 0)))
    elif place == "first weight":
        # Relu cuts off minus infinity, but some sample makes it plus infinity.
        assert np.ptp(np.sign(fetch(case.x)[:, 0])) == 2.0
        case = case._replace(layers=(Layer(spoil(w, (0, 0)), b), last))
    elif place == "first bias":
        case = case._replace(layers=(Layer(w, spoil(b, 0)), last))
    elif place == "last weight":
        assert np.any(fetch(kernels.forward(*case[:2])[1])[:, 0] > 0.0)
        case = case._replace(layers=(case.layers[0], Layer(spoil(last.weight, (0, 0)), last.bias)))
    else:
        case = case._replace(y=spoil(case.y, (3, 0)))
    value = case.loss(kernels.forward(*case[:2])[-1], case.y)[0]
    assert not math.isfinite(float(value))
    stepped, step_value = kernels.step(*case[:3], learning_rate=0.1, loss=case.loss)
    assert not math.isfinite(float(step_value))
    # So the next loss is not finite either, though the data might be.
    assert not all(np.all(np.isfinite(fetch(a))) for a in parameters(stepped))
    _, losses, _ = kernels.fit(*case[:3], learning_rate=0.1, steps=3, loss=case.loss)
    assert not np.any(np.isfinite(fetch(losses)))


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_bad_sample_leaves_the_others_alone(asarray, dtype, bad):
    case = make(asarray, dtype)
    host = fetch(case.x)
    host[3, 0] = bad
    prediction = fetch(kernels.forward(case.layers, asarray(host, dtype))[-1])
    clean = fetch(kernels.forward(*case[:2])[-1])
    others = np.arange(len(host)) != 3
    assert not np.any(np.isfinite(prediction[3]))
    np.testing.assert_allclose(prediction[others], clean[others], **tolerance(dtype))


@float32
@pytest.mark.parametrize("target", TARGETS)
def test_negative_zeros_are_zeros(asarray, dtype, target):
    case = make(asarray, dtype, target, biases=(True, True))

    def zeros(sign):
        def fill(a):
            host = fetch(a)
            if host.dtype.kind == "f":
                host[..., ::2] = sign * 0.0
            return asarray(host, host.dtype.name)

        return case.map(fill)

    positive, negative = zeros(1.0), zeros(-1.0)
    assert np.any(np.signbit(fetch(negative.x)) != np.signbit(fetch(positive.x)))
    # The sign of a zero changes no other number, so nothing is rounded differently.
    assert_results_close(everything(negative), everything(positive), rtol=0.0)


class NegativeZeros(Native):
    """A library whose zero products are all -0, as products of one term may be."""

    def matmul(self, a, b):
        product = a @ b
        xp = array_namespace(product)
        return xp.where(product == 0.0, -xp.zeros_like(product), product)


def test_relu_returns_no_negative_zero(asarray, dtype):
    # maximum(-0, 0) is -0 in torch and 0 elsewhere.
    layers = (
        Layer(asarray([[0.0, 1.0, -1.0, math.nan]], dtype)),
        Layer(asarray(np.eye(4), dtype)),
    )
    (hidden,) = fetch(kernels.forward(layers, asarray([[1.0]], dtype), numerics=NegativeZeros())[1])
    assert not np.any(np.signbit(hidden[:3]))
    np.testing.assert_array_equal(hidden, [0.0, 1.0, 0.0, math.nan])
    # The zero of the first layer was negative: the last, which has no relu, returns it.
    (last,) = fetch(
        kernels.forward(layers[:1], asarray([[1.0]], dtype), numerics=NegativeZeros())[1]
    )
    assert np.signbit(last[0])


def test_relu_of_infinity(asarray, dtype):
    layers = (
        Layer(asarray([[-math.inf, math.inf]], dtype)),
        Layer(asarray(np.ones((2, 1)), dtype)),
    )
    hidden = kernels.forward(layers, asarray([[1.0]], dtype))[1]
    np.testing.assert_array_equal(fetch(hidden), [[0.0, math.inf]])


def differentiated(case):
    """Compute the loss and `backward`'s gradients."""
    activations = kernels.forward(*case[:2])
    value, gradient = case.loss(activations[-1], case.y)
    return value, kernels.backward(case.layers, activations, gradient)


@pytest.mark.library("torch")
@pytest.mark.parametrize("target", TARGETS)
def test_torch_autograd_through_forward(asarray, dtype, target):
    """Also where the parameters of a torch.nn.Module are the layers, and none is changed."""
    import torch

    case = make(asarray, dtype, target)
    parameters_ = case._replace(
        layers=tuple(
            Layer(*(None if a is None else torch.nn.Parameter(a.clone()) for a in layer))
            for layer in case.layers
        )
    )
    before = [bits(a) for a in case.arrays()]
    value = parameters_.loss(kernels.forward(*parameters_[:2])[-1], case.y)[0]
    value.backward()
    own = tuple(
        Layer(*(None if a is None else a.grad for a in layer)) for layer in parameters_.layers
    )
    expected_value, expected = differentiated(case)
    assert_close(value.detach(), expected_value, **tolerance(dtype))
    assert_networks_close(own, expected, **tolerance(dtype))
    for a, was in zip(parameters_.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a.detach()), was, strict=True)


@pytest.mark.library("torch")
def test_torch_gradient_of_the_inputs(asarray, dtype):
    """Differentiation reaches x too, as adversarial examples and attributions need."""
    case = make(asarray, dtype, n=1)
    x = case.x.clone().requires_grad_()
    case.loss(kernels.forward(case.layers, x)[-1], case.y)[0].backward()
    # With one sample, the gradient of the first bias is that of the first pre-activation.
    _, gradients = differentiated(case)
    expected = gradients[0].bias @ case.layers[0].weight.T
    assert_close(x.grad[0, :], expected, **tolerance(dtype))


@float32
@pytest.mark.library("jax")
@pytest.mark.parametrize("target", TARGETS)
def test_jax_grad_through_forward(asarray, dtype, target):
    import jax

    case = make(asarray, dtype, target)

    def value_of(layers):
        return case.loss(kernels.forward(layers, case.x)[-1], case.y)[0]

    value, own = jax.value_and_grad(value_of)(case.layers)
    expected_value, expected = differentiated(case)
    assert_close(value, expected_value, **tolerance(dtype))
    assert_networks_close(own, expected, **tolerance(dtype))


def check_traced(case, compile, dtype):
    """Compare compiled `forward` and `step` with what they do uncompiled."""
    step = functools.partial(kernels.step, learning_rate=0.1, loss=case.loss)
    activations = compile(kernels.forward)(*case[:2])
    for a, b in zip(activations, kernels.forward(*case[:2]), strict=True):
        assert_close(a, b, **tolerance(dtype))
    layers, value = compile(step)(*case[:3])
    expected, expected_value = step(*case[:3])
    assert_close(value, expected_value, **tolerance(dtype))
    assert_networks_close(layers, expected, **tolerance(dtype))


@pytest.mark.library("jax")
@pytest.mark.parametrize("target", TARGETS)
def test_jax_jit(asarray, dtype, target):
    import jax

    case = make(asarray, dtype, target)
    before = [bits(a) for a in case.arrays()]
    check_traced(case, jax.jit, dtype)
    jitted = jax.jit(kernels.step, static_argnames=("learning_rate", "loss"))
    layers, value = jitted(*case[:3], learning_rate=0.1, loss=case.loss)
    assert isinstance(layers[0], Layer)
    assert_close(
        value, kernels.step(*case[:3], learning_rate=0.1, loss=case.loss)[1], **tolerance(dtype)
    )
    for a, was in zip(case.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


@pytest.mark.library("jax")
def test_jax_loop_of_steps(asarray, dtype):
    """Many steps in one `fori_loop`: the carried network keeps its dtypes and its structure."""
    import jax

    case = make(asarray, dtype)

    def body(_, layers):
        return kernels.step(layers, case.x, case.y, learning_rate=0.01)[0]

    looped = jax.jit(lambda layers: jax.lax.fori_loop(0, 5, body, layers))(case.layers)
    expected = kernels.fit(*case[:3], learning_rate=0.01, steps=5).layers
    assert_networks_close(looped, expected, **tolerance(dtype))


@float32
@pytest.mark.library("jax")
def test_jax_vmap_over_networks(asarray, dtype):
    """An ensemble: several networks at once on one batch."""
    import jax

    case = make(asarray, dtype)
    networks = [case.layers, kernels.init((13, 8, 4), like=case.x)]
    networks = [tuple(Layer(layer.weight) for layer in layers) for layers in networks]
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *networks)
    steps, values = jax.vmap(
        lambda layers: kernels.step(layers, case.x, case.y, learning_rate=0.01)
    )(stacked)
    for i, layers in enumerate(networks):
        expected, value = kernels.step(layers, case.x, case.y, learning_rate=0.01)
        assert_close(values[i], value, **tolerance(dtype))
        assert_networks_close(
            jax.tree.map(lambda a, i=i: a[i], steps), expected, **tolerance(dtype)
        )


@pytest.mark.library("jax")
def test_jax_finds_mistakes_while_tracing(asarray, dtype):
    import jax

    case = make(asarray, dtype)
    with pytest.raises(ValueError, match=r"expected x of shape \(n, 13\), .*got shape \(6, 12\)"):
        jax.jit(kernels.forward)(case.layers, case.x[:, :12])
    with pytest.raises(TypeError, match=r"expected x of dtype float\d\d, .*got int32"):
        jax.jit(kernels.forward)(case.layers, case.x.astype("int32"))


@pytest.mark.library("torch")
@one_dtype
@pytest.mark.parametrize("target", TARGETS)
def test_torch_has_no_graph_breaks(asarray, dtype, target):
    """One graph of all of forward, and one of all of step; run by eager torch, for speed."""
    import torch

    torch.compiler.reset()
    compile = functools.partial(torch.compile, fullgraph=True, dynamic=False, backend="eager")
    check_traced(make(asarray, dtype, target), compile, dtype)


@pytest.mark.library("torch")
@pytest.mark.parametrize("target", ["squared_error", "labels"])
def test_torch_compile(asarray, target):
    """The same through inductor's own arithmetic, in the dtype it is tuned for."""
    import torch

    torch.compiler.reset()
    compile = functools.partial(torch.compile, fullgraph=True, dynamic=False)
    case = make(asarray, "float32", target)
    before = [bits(a) for a in case.arrays()]
    check_traced(case, compile, "float32")
    for a, was in zip(case.arrays(), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)

"""Exact numerics: the same bits everywhere, as accurate as they say, and nothing lost in silence.

Bits are compared with those that NumPy computes in the same test, and with those of the same
numbers in another order, which is what libraries, threads and workers change. Errors are measured
against integers of Python, which hold every float exactly.
"""

import contextlib
import ctypes
import functools
import itertools
import math
import operator
import os
import platform
import re
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from _assert import (
    assert_alike,
    assert_identical,
    assert_networks_identical,
    bits,
    fetch,
    parameters,
)
from _params import one_dtype, thorough, where
from array_api_compat import array_namespace
from hypothesis import given, strategies
from test_inputs import LAYOUT_NAMES, LAYOUTS

import backends
import kernels
from kernels import EXACT, Exact, Layer
from kernels.network import unchecked_step
from kernels.numerics.exact import _bits, _half_bits, _kept

# `None` takes 1 to 3 of float32, and more of float64.
PRODUCTS = (None, 5, *thorough(1, 2, 3))
LOSSES = ("squared_error", "labels", "probabilities")

# Below the first an element of a matrix counts as zero, below the second any result.
SMALLEST = {"float32": 2.0**-126, "float64": 2.0**-510}
ZERO_BELOW = {"float32": 2.0**-101, "float64": 2.0**-850}

# The ends of the range, as exponents of ten.
FAR = {"float32": 30.0, "float64": 150.0}

# NumPy warns where numbers overflow or are not finite.
silent = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="session")
def on_numpy():
    """The backend whose bits are the others' oracle."""
    return backends.get("numpy")


def seen(a):
    """Copy an array to the host, with one NaN for all."""
    host = fetch(a)
    if host.dtype.kind == "f":
        host[np.isnan(host)] = np.nan
    return host


def assert_same_bits(actual, desired):
    """Assert that arrays of any two libraries hold the same bits; NaN is NaN."""
    for a, b in zip(actual, desired, strict=True):
        a, b = seen(a), seen(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(bits(a), bits(b), strict=True)


def assert_same_numbers(actual, desired):
    """Assert that arrays hold the same bits, or that neither is all finite."""
    for a, b in zip(actual, desired, strict=True):
        if np.all(np.isfinite(fetch(b))):
            assert_same_bits([a], [b])
        else:
            assert fetch(a).shape == fetch(b).shape
            assert not np.all(np.isfinite(fetch(a)))


# Training.


class Problem(NamedTuple):
    """A network, a batch and how to train on it, on the host."""

    layers: tuple[Layer, ...]
    x: np.ndarray
    y: np.ndarray
    loss: str
    learning_rate: float

    def on(self, backend):
        """Place the arrays: layers, x, y."""
        place = backend.asarray
        layers = tuple(Layer(*(None if a is None else place(a) for a in la)) for la in self.layers)
        return layers, place(self.x), place(self.y)

    def named(self):
        """Return what the functions of `kernels` take by name."""
        squared = self.loss == "squared_error"
        loss = kernels.squared_error if squared else kernels.softmax_cross_entropy
        return {"learning_rate": self.learning_rate, "loss": loss, "numerics": EXACT}

    def train(self, backend, steps=3):
        """Take some steps and return all parameters and losses on the way."""
        layers, x, y = self.on(backend)
        results = []
        for _ in range(steps):
            layers, value = kernels.step(layers, x, y, **self.named())
            results += [*parameters(layers), value]
        return results

    def orders(self, seed):
        """Draw an order of the samples, and one of the features, hidden units and outputs each."""
        rng = np.random.default_rng(seed)
        sizes = [*self.x.shape, *(layer.weight.shape[1] for layer in self.layers)]
        return [rng.permutation(size) for size in sizes]

    def reorder(self, orders):
        """Put samples, features, hidden units and outputs into other orders."""
        samples, *units = orders
        layers = tuple(
            Layer(w[before][:, after], None if b is None else b[after])
            for (w, b), before, after in zip(self.layers, units, units[1:], strict=False)
        )
        y = self.y[samples]
        y = np.argsort(units[-1])[y] if self.loss == "labels" else y[:, units[-1]]
        return self._replace(layers=layers, x=self.x[samples][:, units[0]], y=y)


def make(dtype, sizes, n, *, loss="squared_error", bias=True, learning_rate=0.01, seed=0):
    """Draw a problem of normal size."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    layers = tuple(
        Layer(
            (normal(n_in, n_out) / math.sqrt(n_in)).astype(dtype), normal(n_out) if bias else None
        )
        for n_in, n_out in itertools.pairwise(sizes)
    )
    y = {
        "squared_error": lambda: normal(n, sizes[-1]),
        "labels": lambda: rng.integers(sizes[-1], size=n),
        "probabilities": lambda: rng.dirichlet(np.ones(sizes[-1]), size=n).astype(dtype),
    }[loss]()
    return Problem(layers, normal(n, sizes[0]), y, loss, learning_rate)


class Texture(NamedTuple):
    """How an array of normal size is changed."""

    scale: float
    spread: float
    zeros: str
    subnormal: bool

    def apply(self, a, rng):
        """Scale by powers of ten, all as one and each on its own, and put in special numbers."""
        powers = 10.0 ** (self.scale + rng.uniform(-self.spread, self.spread, a.shape))
        b = (a * powers).astype(a.dtype)
        if self.subnormal:
            tiny = rng.integers(1, 2**20, a.shape) * np.finfo(a.dtype).smallest_subnormal
            b = np.where(rng.random(a.shape) < 0.2, np.copysign(tiny, b), b).astype(a.dtype)
        zero = rng.choice([0.0, -0.0], a.shape).astype(a.dtype)
        if self.zeros == "rows":
            where = rng.random(a.shape[:1])[(..., *(None,) * (a.ndim - 1))] < 0.3
        elif self.zeros == "columns":
            where = rng.random(a.shape[-1:]) < 0.3
        else:
            where = rng.random(a.shape) < {"none": 0.0, "some": 0.3, "all": 1.0}[self.zeros]
        return np.where(where, zero, b)


def textures(far):
    """From one end of the range to the other; `far` is its exponent of ten."""
    return strategies.builds(
        Texture,
        scale=strategies.sampled_from([0.0, 0.0, 0.0, -far / 3, far / 3, -far, far]),
        spread=strategies.sampled_from([0.0, 0.0, 4.0, far / 3]),
        zeros=strategies.sampled_from(["none", "none", "some", "rows", "columns", "all"]),
        subnormal=strategies.booleans(),
    )


# Within a factor of a hundred.
MODEST = strategies.builds(
    Texture,
    scale=strategies.sampled_from([-1.0, 0.0, 1.0]),
    spread=strategies.sampled_from([0.0, 1.0]),
    zeros=strategies.just("none"),
    subnormal=strategies.just(False),
)


# The network of other tests, since JAX compiles every operation for every shape, and any.
FEW = strategies.just(((7, 3, 2), 7))
WIDTHS = strategies.sampled_from([1, 7, 300])
ANY = strategies.tuples(
    strategies.builds(
        lambda widths, outputs: (*widths, outputs),
        strategies.lists(WIDTHS, min_size=1, max_size=4),
        strategies.sampled_from([1, 7]),
    ),
    strategies.sampled_from([1, 64]),
)


@strategies.composite
def problems(draw, dtype, texture, shapes):
    sizes, n = draw(shapes)
    problem = make(
        dtype,
        sizes=sizes,
        n=n,
        loss=draw(strategies.sampled_from(LOSSES)),
        bias=draw(strategies.booleans()),
        learning_rate=draw(strategies.sampled_from([0.1, 1e-6, 1.0])),
        seed=draw(strategies.integers(0, 2**32 - 1)),
    )
    rng = np.random.default_rng(draw(strategies.integers(0, 2**32 - 1)))

    def treat(a):
        return None if a is None else draw(texture).apply(a, rng)

    layers = tuple(Layer(*map(treat, layer)) for layer in problem.layers)
    y = problem.y if problem.loss == "labels" else treat(problem.y)
    # Probabilities are not negative.
    y = np.abs(y) if problem.loss == "probabilities" else y
    return problem._replace(layers=layers, x=treat(problem.x), y=y)


@silent
@pytest.mark.every_dtype
@pytest.mark.parametrize("shapes", [FEW, *thorough(ANY)], ids=["few", "any"])
@given(data=strategies.data())
def test_training_gives_the_bits_of_numpy(backend, on_numpy, dtype, shapes, data):
    """For any network and numbers, even if they overflow."""
    problem = data.draw(problems(dtype, textures(FAR[dtype]), shapes))
    assert_same_numbers(problem.train(backend), problem.train(on_numpy))


def check_order(data, drawn, on_numpy):
    """Assert that training does not depend on orders of samples and units, and so of sums."""
    problem = data.draw(drawn)
    orders = problem.orders(data.draw(strategies.integers(0, 2**32 - 1)))
    back = [np.argsort(order) for order in orders]
    layers, x, y = problem.reorder(orders).on(on_numpy)
    moved = []
    for _ in range(3):
        layers, value = kernels.step(layers, x, y, **problem.named())
        restored = problem._replace(layers=layers, x=x, y=y).reorder(back)
        moved += [*parameters(restored.layers), value]
    assert_same_numbers(moved, problem.train(on_numpy))


@silent
@given(data=strategies.data())
def test_training_does_not_depend_on_an_order(on_numpy, dtype, data):
    """Of samples, features, hidden units or outputs."""
    check_order(data, problems(dtype, MODEST, ANY), on_numpy)


@pytest.mark.parametrize("n", [7, *thorough(1, 64, 5000)])
def test_batch_sizes(backend, on_numpy, dtype, n):
    """A few batches of any size, the last of an epoch being smaller where it is 7."""
    problem = make(dtype, (7, 3, 2), 17 if n == 7 else 2 * n)

    def fitted(place):
        layers, losses, _ = kernels.fit(
            *problem.on(place), steps=3, batch_size=n, **problem.named()
        )
        return [*parameters(layers), losses]

    assert_same_bits(fitted(backend), fitted(on_numpy))


@pytest.mark.parametrize(
    "loss", ["squared_error", *where(pytest.mark.thorough("jax"), "labels", "probabilities")]
)
def test_order_of_the_samples(backend, dtype, loss):
    """No bit of a gradient or of the loss depends on it."""
    problem = make(dtype, (300, 64, 7), 64, loss=loss)

    def differentiate(problem):
        layers, x, y = problem.on(backend)
        activations = kernels.forward(layers, x, numerics=EXACT)
        value, gradient = problem.named()["loss"](activations[-1], y, numerics=EXACT)
        gradients = kernels.backward(layers, activations, gradient, numerics=EXACT)
        return (*gradients, Layer(value))

    samples = np.random.default_rng(1).permutation(64)
    moved = problem._replace(x=problem.x[samples], y=problem.y[samples])
    assert_networks_identical(differentiate(moved), differentiate(problem))


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_layout(backend, dtype, layout):
    """However the arrays lie in memory."""
    problem = make(dtype, (300, 64, 7), 64, loss="probabilities")
    layers, x, y = problem.on(backend)

    def lay(a):
        return LAYOUTS[layout](a, backend.asarray, dtype)

    laid = tuple(Layer(*map(lay, layer)) for layer in layers)
    if backend.name == "numpy":
        assert not laid[0].weight.flags.c_contiguous
    got, value = kernels.step(laid, lay(x), lay(y), **problem.named())
    desired, desired_value = kernels.step(layers, x, y, **problem.named())
    assert_networks_identical(got, desired)
    assert_identical(value, desired_value)


@contextlib.contextmanager
def threads(backend, count):
    """Let the library multiply matrices with so many threads."""
    if backend.name.startswith("torch"):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            assert torch.get_num_threads() == count
            yield
        finally:
            torch.set_num_threads(before)
        return
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(count, user_api="blas"):
        info = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
        if not info:
            pytest.skip("NumPy's BLAS is not one that threadpoolctl knows")
        assert all(i["num_threads"] == count for i in info)
        yield


@pytest.mark.library("numpy", "array-api-strict", "torch")
def test_threads(backend, dtype):
    """Several threads give the bits of one."""
    # Large enough for a library to share the work out.
    problem = make(dtype, (1000, 300, 10), 300)

    def trained(count):
        with threads(backend, count):
            return problem.train(backend, steps=2)

    assert_same_bits(trained(2), trained(1))


COMPILERS = pytest.mark.library("torch", "jax")


@COMPILERS
@one_dtype
def test_compiled_products(backend, dtype):
    """A compiler changes no bit of a product."""

    def multiply(a, b):
        return [Exact(products=p).matmul(a, b) for p in (1, 2, 3, 5)]

    rng = np.random.default_rng(0)
    a, b = (backend.asarray(rng.normal(size=s), dtype) for s in ((7, 64), (64, 3)))
    assert_same_bits(backend.compile(multiply)(a, b), multiply(a, b))


@COMPILERS
@one_dtype
@pytest.mark.parametrize(
    ("sizes", "loss", "bias"),
    [
        # The committed digests are of a squared error and of labels, with sizes that are even.
        pytest.param((7, 3, 2), "squared_error", True, marks=pytest.mark.thorough),
        ((7, 2), "labels", False),
    ],
)
def test_compiled_step(backend, dtype, sizes, loss, bias):
    """Nor of a step."""
    problem = make(dtype, sizes, 7, loss=loss, bias=bias)
    step = functools.partial(kernels.step, **problem.named())
    got, value = backend.compile(step)(*problem.on(backend))
    desired, desired_value = step(*problem.on(backend))
    assert_networks_identical(got, desired)
    assert_identical(value, desired_value)


@pytest.mark.library("torch")
@pytest.mark.parametrize("loss", ["squared_error", "labels"])
def test_no_rounding_to_float32_is_widened_at_once(backend, loss):
    """torch 2.11 drops both conversions together (inductor's pass pointless_convert)."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    problem = make("float32", (7, 3, 2), 7, loss=loss, bias=True)
    step = functools.partial(kernels.step, **problem.named())
    graph = make_fx(step)(*problem.on(backend)).graph
    aten = torch.ops.aten

    def dtype_of(node):
        return node.meta["val"].dtype

    views = {aten.view.default, aten.unsqueeze.default, aten.t.default, aten.permute.default}
    widened = 0
    for node in graph.nodes:
        if node.target is aten._to_copy.default and dtype_of(node) == torch.float64:
            source = node.args[0]
            while source.target in views:
                source = source.args[0]
            widened += dtype_of(source) == torch.float32
            rounded = source.target is aten._to_copy.default
            assert not rounded or dtype_of(source.args[0]) != torch.float64, (source, node)
    assert widened > 0


KNOWN = {
    "divide": EXACT.divide,
    "multiply": EXACT.multiply,
    "add": EXACT.add,
    "subtract": EXACT.subtract,
    "matmul": lambda a, b: EXACT.matmul(a, b.T),
    "log": lambda a, _: EXACT.log(a),
    "exp": lambda _, b: EXACT.exp(b),
    "forward": lambda a, b: kernels.forward(
        (Layer(b.T, b[:, 0]), Layer(b[:, :4])), a, numerics=EXACT
    )[-1],
}


@silent
@pytest.mark.library("jax")
@pytest.mark.every_dtype
@pytest.mark.parametrize("size", ["small", *thorough("ordinary", "large", "tiny")])
@pytest.mark.parametrize("name", KNOWN)
def test_operands_known_when_compiling(backend, dtype, name, size):
    """No subset of operands that a compiler knows, or makes itself, changes a bit at any size."""
    exponents = {"ordinary": 0.0, "small": -1.0, "large": 1.0, "tiny": -1.2}
    scale = 10.0 ** (exponents[size] * {"float32": 30, "float64": 140}[dtype])
    rng = np.random.default_rng(0)
    a, b = ((np.abs(rng.normal(size=(4, 4))) * scale).astype(dtype) for _ in range(2))
    b = (b / scale).astype(dtype) if name != "add" else b
    function = KNOWN[name]
    for known in itertools.product([False, True], repeat=2):

        def program(*arguments):
            operands = [
                backend.asarray(x) if is_known else argument
                for x, argument, is_known in zip((a, b), arguments, known, strict=True)  # noqa: B023
            ]
            return function(*operands)

        got = backend.compile(program)(backend.asarray(a), backend.asarray(b))
        assert_same_numbers([got], [function(a, b)])
    three = np.full_like(b, 3.0)
    got = backend.compile(lambda x: function(x, 0.0 * x + 3.0))(backend.asarray(a))
    assert_same_numbers([got], [function(a, three)])


@silent
@pytest.mark.library("jax")
@pytest.mark.parametrize("name", ["divide", "expm1", "tanh", "logistic", "softplus", "sqrt"])
def test_constants_made_when_compiling(backend, name):
    """Nor does it if a compiler knows all operands, which XLA folds one operation at a time."""
    numbers = np.random.default_rng(0).uniform(0.1, 2.0, size=(16, 2))

    def program(xp):
        function = getattr(EXACT, name)
        count = 2 if name == "divide" else 1
        return [
            function(*(xp.full((2, 3), float(v), dtype=xp.float64) for v in row[:count]))
            for row in numbers
        ]

    got = backend.compile(lambda: program(backend.xp))()
    assert_same_numbers(got, program(np))


@COMPILERS
def test_large_numbers_by_a_column(backend):
    """XLA would apply the powers of two of both factors to the smaller one."""
    a = np.asarray([[1.0, 3.0], [2.0**-100, -0.5]])
    column = np.asarray([[2.0**1005], [2.0**1020]])
    expected = [[2.0**1005, 3 * 2.0**1005], [2.0**920, -(2.0**1019)]]
    known = backend.asarray(a)
    for multiply in (EXACT.multiply, lambda _, c: EXACT.multiply(known, c)):
        got = backend.compile(multiply)(known, backend.asarray(column))
        assert fetch(got).tolist() == expected


@pytest.mark.library("jax")
@pytest.mark.every_dtype
def test_default_precision_of_jax(backend, dtype):
    """It may be an algorithm that rounds the operands of every product, also of float64."""
    import jax

    a, b = np.random.default_rng(0).normal(size=(2, 9, 9)).astype(dtype)
    with jax.default_matmul_precision("F32_F32_F32"):
        got = EXACT.matmul(backend.asarray(a), backend.asarray(b))
    assert_identical(fetch(got), EXACT.matmul(a, b))


# Down, up and towards zero, as the C library's fesetround takes them.
DIRECTIONS = {
    "x86_64": (0x400, 0x800, 0xC00),
    "aarch64": (0x800000, 0x400000, 0xC00000),
}.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()), ())


@contextlib.contextmanager
def rounded(direction):
    """Round in a direction, as a library might leave this thread."""
    library = ctypes.CDLL(None)
    assert library.fesetround(direction) == 0
    try:
        yield
    finally:
        library.fesetround(0)


@pytest.mark.library("numpy")
@pytest.mark.skipif(os.name == "nt" or not DIRECTIONS, reason="the C library has other numbers")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_direction_of_rounding(direction):
    """It is seen before anything is computed, also where a compiler computes all."""
    a = np.ones((2, 2))
    layers = (Layer(a),)
    calls = (
        lambda: EXACT.matmul(a, a),
        lambda: EXACT.sum(a, axis=0),
        lambda: kernels.init((2, 2), like=a),
        lambda: kernels.numerics.check_compiler(lambda function: function, like=a),
        lambda: kernels.fit(
            layers, a, a, learning_rate=0.1, steps=1, numerics=EXACT,
            compile=lambda _: pytest.fail("compiled"), check_compiler=False, batch_size=1,
        ),
    )  # fmt: skip
    for call in calls:
        with rounded(direction), pytest.raises(RuntimeError, match="to be rounded to nearest, got"):
            call()


def test_predictions_do_not_depend_on_the_batch(backend, dtype):
    """A sample alone, in a part of a batch and in all of it has one prediction."""
    layers, x, _ = make(dtype, (300, 64, 7), 64).on(backend)
    whole = fetch(kernels.forward(layers, x, numerics=EXACT)[-1])
    for part in (slice(0, 1), slice(5, 6), slice(10, 40)):
        got = kernels.forward(layers, x[part, :], numerics=EXACT)[-1]
        np.testing.assert_array_equal(bits(got), bits(whole[part]), strict=True)


@COMPILERS
@one_dtype
def test_compiled_update(backend, dtype):
    """Nor of an update, whose product and difference compilers like to fuse."""
    rng = np.random.default_rng(0)

    def network():
        weight, bias = rng.normal(size=(64, 33)), rng.normal(size=33)
        return (Layer(backend.asarray(weight, dtype), backend.asarray(bias, dtype)),)

    def update(layers, gradients):
        return kernels.update(layers, gradients, 0.1, numerics=EXACT)

    layers, gradients = network(), network()
    got = backend.compile(update)(layers, gradients)
    assert_networks_identical(got, update(layers, gradients))


# Products and sums.


def integers(a):
    """Convert numbers to integers of 2**-1074, exactly."""

    def convert(x):
        numerator, denominator = float(x).as_integer_ratio()
        return numerator * (2**1074 // denominator)

    return np.frompyfunc(convert, 1, 1)(a)


def exact_product(a, b):
    """Multiply matrices exactly, into integers of 2**-2148."""
    return integers(a) @ integers(b)


def errors(got, exact):
    """The errors of `got`, as fractions."""
    differences = np.abs(integers(got) * 2**1074 - exact)
    return np.frompyfunc(lambda d: Fraction(d, 2**2148), 1, 1)(differences)


def half_ulp(a):
    return np.spacing(np.abs(a)).astype(np.float64) / 2


def spread(rng, shape, low, high):
    return 10.0 ** rng.uniform(low, high, shape) * rng.choice([-1.0, 1.0], shape)


def halves(rng, shape, digits):
    """Odd multiples of all small powers of two: half way between two multiples of any unit."""
    return (2 * rng.integers(0, 8, shape) + 1) * 2.0 ** -rng.integers(4, digits, shape)


def powers(rng, shape, epsilon):
    """Powers of two and their neighbours, and the largest numbers below a power."""
    near = [1.0, 1.0 + epsilon, 1.0 - epsilon / 2, 2.0 - epsilon, 0.5, 0.5 - epsilon / 4]
    return rng.choice(near, shape) * rng.choice([-1.0, 1.0], shape)


def cancelling(a, b):
    """Make the second half of each sum the negative of the first, but for one ulp in column 0."""
    h = a.shape[1] // 2
    a[:, h : 2 * h], b[h : 2 * h] = -a[:, :h], b[:h]
    a[:, 2 * h :] = 0.0
    if h:
        b[0, 0] = np.nextafter(b[0, 0], b.dtype.type(np.inf))
    return a, b


HARD = (
    "normal",
    "rows by e",
    "rows by 1e30",
    "cancelling",
    "one huge",
    "halves",
    "powers",
    "largest",
    "alternating",
    "wide",
    "tiny",
    "small right",
)


@functools.cache
def hard(kind, dtype, k, n=3):
    """Make matrices (n, k), (k, n) that are hard to multiply, with the exact product."""
    rng = np.random.default_rng(k)
    left, right = (n, k), (k, n)
    a, b = rng.normal(size=left), rng.normal(size=right)
    limits = np.finfo(dtype)
    scales = np.resize([-1.0, 0.0, 1.0], n)
    if kind == "rows by e":
        a, b = a * np.exp(9 * scales)[:, None], b * np.exp(9 * scales)
    elif kind == "rows by 1e30":
        a = a * (10.0 ** (30 * scales))[:, None]
    elif kind == "one huge":
        a[0, 0] = b[-1, -1] = {"float32": 1e15, "float64": 1e100}[dtype]
    elif kind == "halves":
        a, b = halves(rng, left, limits.nmant), halves(rng, right, limits.nmant)
    elif kind == "powers":
        a, b = powers(rng, left, limits.eps), powers(rng, right, limits.eps)
    elif kind in ("largest", "alternating"):
        # The longest partial sums; a few other elements use the low bits of the slices.
        a = np.where(rng.random(left) < 0.1, a / 4, 2.0 - limits.eps)
        b = np.where(rng.random(right) < 0.1, b / 4, 2.0 - limits.eps)
        if kind == "alternating":
            a = a * (-1.0) ** np.arange(k)
    elif kind == "wide":
        far = {"float32": 17, "float64": 150}[dtype]
        a, b = spread(rng, left, -far, far), spread(rng, right, -far, far)
    elif kind == "tiny":
        low, high = {"float32": (-44, -36), "float64": (-165, -135)}[dtype]
        a, b = spread(rng, left, low, high), spread(rng, right, low, high)
        a[0, 0] = b[-1, -1] = 10.0**high
    elif kind == "small right":
        b = b * 2.0 ** {"float32": -115, "float64": -464}[dtype]
    with np.errstate(under="ignore"):
        a, b = a.astype(dtype), b.astype(dtype)
    if kind == "cancelling":
        a, b = cancelling(a, b)
    return a, b, exact_product(a, b)


def assert_within_bound(got, a, b, exact, numerics):
    """Assert what the docstring of `Exact` says of every element."""
    dtype = got.dtype.name
    k = a.shape[1]
    rows, columns = np.abs(a.astype(np.longdouble)), np.abs(b.astype(np.longdouble))
    scheme = numerics._scheme(dtype, k)
    one = len(scheme.pairs) == 1
    # No scale is smaller.
    left, right = (
        SMALLEST[dtype] * 2.0 ** (_kept(bits, count) + (_half_bits(k) if one else 0))
        for bits, count in zip(_bits(scheme.slices, k), scheme.slices, strict=True)
    )
    if one:
        sizes = np.sqrt(np.sum(rows**2, axis=1)), np.max(np.sqrt(np.sum(columns**2, axis=0)))
    else:
        sizes = np.max(rows, axis=1), np.max(columns)
    sizes = np.maximum(sizes[0], left), np.maximum(sizes[1], right)
    to_fraction = np.frompyfunc(lambda x: Fraction(*x.as_integer_ratio()), 1, 1)
    bound = to_fraction(sizes[0][:, None]) * Fraction(*sizes[1].as_integer_ratio())
    bound = bound * Fraction(numerics.error_bound(dtype, k)) * (1 if one else k)
    assert np.all((got == 0.0) | (np.abs(got) >= ZERO_BELOW[dtype]))
    rounding = np.where(got == 0.0, ZERO_BELOW[dtype], half_ulp(got))
    rounding = np.frompyfunc(Fraction, 1, 1)(rounding)
    worst = np.max(errors(got, exact) / (bound + rounding))
    assert worst <= 1, f"{float(worst)} times the bound"


@pytest.mark.every_dtype
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("k", [1, 1000, *thorough(2, 3, 64, 100)])
def test_error_of_a_product(asarray, dtype, k, products, kind):
    """Every element is within the bound of the docstring."""
    a, b, exact = hard(kind, dtype, k)
    numerics = Exact(products=products)
    got = numerics.matmul(asarray(a), asarray(b))
    assert_alike(got, asarray(np.zeros((3, 3)), dtype))
    assert_within_bound(fetch(got), a, b, exact, numerics)


@pytest.mark.parametrize("dtype", ["float16", np.float64])
def test_error_bound_of_another_dtype(dtype):
    """It is not taken for float32."""
    with pytest.raises(ValueError, match="expected a dtype of 'float32' or 'float64', got"):
        EXACT.error_bound(dtype, 10)


def test_error_bound_by_hand():
    """64 terms, two slices each of 23 and 24 bits: the rests, and the product left out."""
    left, right, product = 2.0 ** -(23 + 24), 2.0 ** -(24 + 25), 2.0 ** -(24 + 25 - 2)
    expected = left + right + left * right + product + 3 * 2.0**-52
    assert Exact(products=3).error_bound("float64", 64) == expected


@pytest.mark.parametrize("k", [1000, *thorough(2, 64)])
def test_terms_that_cancel(asarray, dtype, k):
    """What is exactly zero comes out as zero, and one unit in the last place is seen."""
    a, b, exact = hard("cancelling", dtype, k)
    got = fetch(EXACT.matmul(asarray(a), asarray(b)))
    assert np.all(exact[:, 1:] == 0)
    assert np.all(exact[:, 0] != 0)
    np.testing.assert_array_equal(bits(got[:, 1:]), 0)


def cut(numerics, a, b):
    """Cut the operands of a @ b."""
    xp = array_namespace(a)
    return numerics.prepare(a), numerics._cut(b, 1, xp)


@pytest.mark.parametrize("kind", ["normal", "halves", "powers", "largest", "alternating", "wide"])
@pytest.mark.parametrize("products", [1, 3, *thorough(2, 5)])
@pytest.mark.parametrize("k", [1024, *thorough(1, 64, 100)])
def test_no_order_of_summation_can_round(asarray, dtype, k, products, kind):
    """Every partial sum of a product of slices is a whole number of units below 2**53.

    The unit is the greatest common divisor of all terms of a row. So any way to cut k into
    parts gives the same number, and the library's product is the exact one.
    """
    a, b, _ = hard(kind, dtype, k)
    left, right = (
        operand.slices for operand in cut(Exact(products=products), asarray(a), asarray(b))
    )
    parts = np.array_split(np.random.default_rng(k).permutation(k), min(k, 2))
    for s, t in itertools.product(left, right):
        host_s, host_t = fetch(s), fetch(t)
        exact_s, exact_t = integers(host_s), integers(host_t)
        unit = math.gcd(*exact_t.flat)
        for row in exact_s:
            assert np.max(np.abs(row) @ np.abs(exact_t)) <= 2**53 * math.gcd(*row) * unit
        whole = exact_s @ exact_t
        np.testing.assert_array_equal(integers(fetch(s @ t)) * 2**1074, whole)
        sums = (asarray(host_s[:, part]) @ asarray(host_t[part]) for part in parts)
        total = functools.reduce(operator.add, sums)
        np.testing.assert_array_equal(integers(fetch(total)) * 2**1074, whole)


@pytest.mark.thorough("jax")
@pytest.mark.parametrize("k", [1000, *thorough(64, 100, 512, 700, 1024)])
def test_error_compared_with_the_library(backend, asarray, dtype, k):
    """On normal numbers, no worse than the library's own product; on CUDA, than twice that.

    Compared are the norm of all errors of products of shapes (16, k) and (k, 16), and the largest
    of them, over scales between two powers of two, of which the slices of some are twice as fine.
    cuBLAS adds the sums of parts, whose errors are smaller.
    """
    a, b, _ = hard("normal", "float64", k, n=16)
    ours, own = [], []
    for scale in 2.0 ** np.arange(0.0, 1.0, 0.25):
        left, right = (a * scale).astype(dtype), (b * scale).astype(dtype)
        exact = exact_product(left, right)
        for numerics, found in ((EXACT, ours), (kernels.NATIVE, own)):
            got = fetch(numerics.matmul(asarray(left), asarray(right)))
            found.append(errors(got, exact).astype(np.float64) / scale**2)
    most = 2.0 if any(name in backend.name for name in ("cuda", "cupy")) else 1.0
    assert np.linalg.norm(np.stack(ours)) <= most * np.linalg.norm(np.stack(own))
    assert np.max(ours) <= most * np.max(own)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_sum(asarray, dtype, axis, keepdims, products):
    """Sums have the shape asked for, and the error of a product with ones."""
    numerics = Exact(products=products)
    for kind in ("normal", "rows by e", "cancelling", "largest", "wide", "tiny"):
        a, _, _ = hard(kind, dtype, 64)
        got = fetch(numerics.sum(asarray(a), axis=axis, keepdims=keepdims))
        assert got.shape == np.sum(a, axis=axis, keepdims=keepdims).shape
        assert got.dtype == dtype
        ones = np.ones((1, a.shape[axis]), dtype)
        left, right = (ones, a) if axis == 0 else (a, ones.T)
        exact = exact_product(left, right)
        assert_within_bound(np.reshape(got, exact.shape), left, right, exact, numerics)


def test_order_of_a_sum(asarray, dtype):
    a, _, _ = hard("normal", dtype, 1000)
    order = np.random.default_rng(0).permutation(1000)
    for moved, unmoved, axis in ((a[:, order], a, 1), (a.T[order], a.T, 0)):
        total = EXACT.sum(asarray(unmoved), axis=axis)
        assert_identical(EXACT.sum(asarray(moved), axis=axis), total)


# Preparation.


@pytest.mark.parametrize("products", PRODUCTS)
def test_operands_prepared_once(asarray, dtype, products):
    """A left operand gives the same product prepared or not."""
    numerics = Exact(products=products)
    a, b, _ = hard("normal", dtype, 64)
    a, b = asarray(a), asarray(b)
    assert_identical(numerics.matmul(numerics.prepare(a), b), numerics.matmul(a, b))
    assert_identical(numerics.matmul(numerics.prepare(b.T), a.T), numerics.matmul(b.T, a.T))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("k", [1000, *thorough(1, 64)])
def test_slices_add_up(asarray, dtype, k, products):
    """The slices of an operand leave at most what the error bound allows."""
    numerics = Exact(products=products)
    a, b, _ = hard("normal", dtype, k)
    one = len(numerics._scheme(dtype, k).pairs) == 1
    for operand, host, axis, signs in zip(
        cut(numerics, asarray(a), asarray(b)), (a, b), (1, 0), ((1, -1, 1), (1, 1)), strict=True
    ):
        scale = fetch(operand.scale)
        assert scale.shape == ((3, 1) if axis == 1 else ())
        np.testing.assert_array_equal(np.frexp(scale)[0], 0.5)
        rest = host.astype(np.float64)
        for sign, s in zip(signs, operand.slices, strict=False):
            rest -= sign * fetch(s)
        size = np.linalg.norm(host.astype(np.float64), axis=axis)
        if not one:
            size = math.sqrt(k) * np.max(np.abs(host).astype(np.float64), axis=axis)
        size = size if axis == 1 else np.max(size)
        left_out = np.linalg.norm(rest, axis=axis)
        assert np.all(left_out <= size * numerics.error_bound(dtype, k))


@pytest.mark.library("numpy")
@pytest.mark.parametrize("error", [-(2.0**-52), 2.0**-52])
def test_roots_that_are_not_rounded_correctly(asarray, dtype, error, monkeypatch):
    """Even if the norm is a power of two, as of 4**h equal numbers, or just below one."""
    numbers = np.arange(2.0**11, 2.0**12)[:, None]
    rows = [np.repeat(numbers, k, axis=1) for k in (1, 4, 64)]
    rows.append(np.concatenate([rows[-1][:, :-1], numbers - 1.0], axis=1))
    rows.append(np.random.default_rng(0).integers(2**11, 2**12, (10_000, 4)))
    operands = [asarray((row * 2.0**-9).astype(dtype)) for row in rows]
    numerics = Exact(products=1)
    expected = [numerics.prepare(a).scale for a in operands]
    xp = array_namespace(operands[0])
    root, calls = xp.sqrt, []
    monkeypatch.setattr(xp, "sqrt", lambda a: calls.append(a) or root(a) * (1.0 + error))
    for a, scale in zip(operands, expected, strict=True):
        assert_identical(numerics.prepare(a).scale, scale)
    assert len(calls) == len(rows)


@pytest.mark.library("numpy")
def test_norms_are_not_rounded_down(asarray, dtype):
    """A scale is more than half of norm / 2**h, even for norms just above powers of two."""
    rows = np.random.default_rng(0).normal(size=(100, 4))
    rows *= 2.0 * (1.0 + 2.0**-20) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows.astype(dtype)
    scale = fetch(Exact(products=1).prepare(asarray(rows)).scale)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert np.all(norms / 2.0 > 1.0)
    assert np.all(norms / 2.0 < 2.0 * scale)


@pytest.mark.library("numpy")
@pytest.mark.parametrize("error", [-3 * 2.0**-53, 2.0**-52])
def test_roots_of_very_many_squares(asarray, dtype, error, monkeypatch):
    """The unit of the norm is coarser, so that no sum is near to a power of two.

    In the unit for fewer squares, with each magnitude rounded up by 8 units, these squares would
    add up to 2**50 - 1.
    """
    numerics = Exact(products=1)
    units = np.full((1, 2**22 + 3), 2**14 - 8)
    units[0, :4] = np.asarray([9, 97, 298, 16381]) - 8
    assert np.sum((units + 8) ** 2) == 2**50 - 1
    a = asarray((units * 2.0**-13).astype(dtype))
    expected = numerics.prepare(a).scale
    xp = array_namespace(a)
    root = xp.sqrt
    monkeypatch.setattr(xp, "sqrt", lambda squares: root(squares) * (1.0 + error))
    assert_identical(numerics.prepare(a).scale, expected)


# Element by element.


def ordinary(dtype, seed=0):
    """Normal numbers of all sizes whose sums and products are normal too, and small integers."""
    rng = np.random.default_rng(seed)
    far = {"float32": 8, "float64": 60}[dtype]
    some = [rng.normal(size=100), spread(rng, 100, -far, far), powers(rng, 50, np.finfo(dtype).eps)]
    return np.concatenate([*some, rng.integers(-9, 10, 50)]).astype(dtype)


def fractions(a):
    return [Fraction(float(x)) for x in np.ravel(a)]


def ulp(x, dtype):
    """A unit in the last place of a fraction that is not zero."""
    exponent = math.frexp(x)[1] - 1
    return Fraction(2) ** (exponent - np.finfo(dtype).nmant)


SUMS = {"add": operator.add, "subtract": operator.sub}


@pytest.mark.parametrize("name", SUMS)
def test_error_of_sums_and_differences(asarray, dtype, name):
    """Rounded correctly, to even, also half way between two numbers and after cancellation."""
    eps = np.finfo(dtype).eps
    a, b = ordinary(dtype, 0), ordinary(dtype, 1)
    ties = np.resize([1.0, 1.0 + eps, 1.0, -1.0 - eps], 300), np.resize([eps / 2, -eps / 4], 300)
    pairs = [(a, b), (a, a), (a, -a), (a, a * (1.0 + 9 * eps)), (a, a * (-1.0 - 9 * eps)), ties]
    a, b = (np.concatenate(column).astype(dtype) for column in zip(*pairs, strict=True))
    got = fetch(getattr(EXACT, name)(asarray(a), asarray(b)))
    for x, y, z, unit in zip(*map(fractions, (a, b, got, half_ulp(got))), strict=True):
        assert abs(z - SUMS[name](x, y)) <= unit
    np.testing.assert_array_equal(got, SUMS[name](a, b), strict=True)
    assert not np.any(np.signbit(got[got == 0.0]))


@pytest.mark.parametrize("name", SUMS)
def test_broadcast_sums_and_differences(asarray, dtype, name):
    """A bias is added to every row."""
    a, b = ordinary(dtype, 0).reshape(50, 6), ordinary(dtype, 1)[:6].reshape(1, 6)
    got = getattr(EXACT, name)(asarray(a), asarray(b))
    np.testing.assert_array_equal(fetch(got), SUMS[name](a, b), strict=True)


def test_error_of_multiplication(asarray, dtype):
    """Below 0.51 units in the last place, by a number, a column and an array."""
    a, b = ordinary(dtype, 0).reshape(50, 6), ordinary(dtype, 1).reshape(50, 6)
    factors = [0.1, -1e-6, 1 / 3, 3, 0.0, 1.0, 2.0**-20, b[:, :1], b]
    for factor in factors:
        scalar = isinstance(factor, int | float)
        got = fetch(EXACT.multiply(asarray(a), factor if scalar else asarray(factor)))
        wide = np.broadcast_to(factor, a.shape)
        for x, y, z in zip(fractions(a), fractions(wide), fractions(got), strict=True):
            exact = x * y
            assert z == 0 if exact == 0 else abs(z - exact) < ulp(exact, dtype) * 51 / 100
        assert not np.any(np.signbit(got[got == 0.0]))


def around(smallest, dtype):
    """Numbers of both signs below a power of two, that power, and above it."""
    a = np.asarray([smallest, smallest * 3, smallest / 8], dtype)
    a = np.concatenate([a, np.nextafter(a[:1], np.zeros(1, dtype)), np.zeros(1, dtype)])
    a = np.concatenate([a, np.asarray([np.finfo(dtype).tiny / 2], dtype)])
    return np.concatenate([a, -a])


@one_dtype
def test_given_activations_that_count_as_zero(asarray, dtype):
    """`forward` never returns such numbers, another program may; relu's derivative is 0 there."""
    rng = np.random.default_rng(0)
    x, gradient = (asarray(rng.normal(size=(7, n)), dtype) for n in (7, 2))
    layers = kernels.init((7, 3, 2), like=x)
    small = {"float32": 2.0**-110, "float64": 2.0**-900}[dtype]
    first, second = (
        kernels.backward(
            layers, (x, asarray(given, dtype), gradient), gradient, numerics=kernels.EXACT
        )
        for given in (np.full((7, 3), small), np.zeros((7, 3)))
    )
    assert_networks_identical(first, second)
    assert np.all(fetch(first[0].weight) == 0.0)


def test_elements_that_libraries_flush_are_zero(asarray, dtype):
    """Even if their products would be large enough."""
    tiny, large = {"float32": (2.0**-126, 2.0**100), "float64": (2.0**-510, 2.0**480)}[dtype]
    for element, expected in ((4 * tiny, 4 * tiny * large), (tiny / 2, 0.0)):
        a, b = asarray(np.full((1, 1), element, dtype)), asarray(np.full((1, 1), large, dtype))
        for got in (EXACT.matmul(a, b), EXACT.matmul(b, a)):
            assert fetch(got).item() == expected


def test_products_too_small_are_zero(asarray, dtype):
    """Small operands and small products become zero before a library may flush them."""
    a = around(ZERO_BELOW[dtype], dtype)
    operand = np.where(np.abs(a) < ZERO_BELOW[dtype], 0.0, a).astype(dtype)
    for factor in (1.0, 0.5, -0.25, 2.0, -(2.0**40)):
        expected = operand * np.dtype(dtype).type(factor)
        expected = np.where(np.abs(expected) < ZERO_BELOW[dtype], 0.0, expected).astype(dtype)
        for number in (factor, asarray([factor], dtype)):
            got = fetch(EXACT.multiply(asarray(a), number))
            np.testing.assert_array_equal(bits(got), bits(expected), strict=True)


def test_large_factors(asarray, dtype):
    """Up to the largest numbers, where halving a number must not overflow."""
    largest = np.finfo(dtype).max / 4
    a = np.asarray([largest, -largest / 3, 1.0], dtype)
    for factor in (1.0, 0.75, -1 / 3, 1e-30):
        got = fetch(EXACT.multiply(asarray(a), float(factor)))
        for x, z in zip(fractions(a), fractions(got), strict=True):
            exact = x * Fraction(float(factor))
            if abs(exact) >= ZERO_BELOW[dtype]:
                assert abs(z - exact) < ulp(exact, dtype) * 51 / 100
    got = fetch(EXACT.multiply(asarray([0.5, 1.0], dtype), asarray(a[:2])))
    np.testing.assert_array_equal(got, a[:2] * np.asarray([0.5, 1.0], dtype), strict=True)


def test_numbers_that_count_as_infinite(asarray):
    for factor, is_finite in ((2.0**999, True), (2.0**1000, False)):
        got = fetch(EXACT.multiply(asarray([2.0**-60], "float64"), factor))
        assert np.isfinite(got).item() == is_finite


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_small_numbers(asarray, dtype, name):
    """Sums so small that a library could flush them, or an operand, are zero."""
    a = around(ZERO_BELOW[dtype], dtype)
    a, b = (m.reshape(-1) for m in np.meshgrid(a, a))
    expected = SUMS[name](a, b)
    expected = np.where(np.abs(expected) < ZERO_BELOW[dtype], 0.0, expected).astype(dtype)
    got = fetch(getattr(EXACT, name)(asarray(a), asarray(b)))
    np.testing.assert_array_equal(bits(got), bits(expected), strict=True)


def test_quotients_too_small_are_zero(asarray, dtype):
    """Small operands and quotients become zero before a library may flush them."""
    tiny = ZERO_BELOW[dtype]
    numerators = np.asarray([tiny, tiny * 3, tiny / 2, -tiny * 3, 1.0, -tiny / 4], dtype)
    denominators = np.asarray([2.0, 8.0, 2.0**-10, 5.0, 3.0, 0.5], dtype)
    got = fetch(EXACT.divide(asarray(numerators), asarray(denominators)))
    np.testing.assert_array_equal(got[[0, 1, 2, 3, 5]], 0.0)
    assert got[4] == np.dtype(dtype).type(1.0) / denominators[4]
    assert not np.any(np.signbit(got))


def test_quotients_are_rounded_correctly(asarray, dtype):
    """Also those that lie close to the middle of two numbers."""
    a, b = ordinary(dtype, 0), ordinary(dtype, 1)
    near = (1.0 + np.arange(50) * np.finfo(dtype).eps).astype(dtype)
    a, b = np.concatenate([a, near, near[::-1]]), np.concatenate([b, near[::-1], b[:50]])
    b = np.where(b == 0.0, np.ones_like(b), b)
    got = fetch(EXACT.divide(asarray(a), asarray(b)))
    # Adding zero makes +0 of -0.
    np.testing.assert_array_equal(bits(got), bits(a / b + np.zeros_like(a)), strict=True)
    for x, y, z, unit in zip(*map(fractions, (a, b, got, half_ulp(got))), strict=True):
        assert abs(z - x / y) <= unit


# Zeros, and what is empty.


ZEROS = {
    "matmul": lambda a, b: EXACT.matmul(a, b.T),
    "sum over rows": lambda a, b: EXACT.sum(a + b, axis=0),
    "sum over columns": lambda a, b: EXACT.sum(a + b, axis=1),
    "add": EXACT.add,
    "subtract": EXACT.subtract,
    "multiply": EXACT.multiply,
    "multiply by a number": lambda a, b: EXACT.multiply(a + b, -2.0),
}


@pytest.mark.parametrize("name", ZEROS)
@pytest.mark.parametrize("shape", [(7, 7), *thorough((1, 1), (3, 1), (1, 3))])
def test_no_zero_is_negative(asarray, dtype, name, shape):
    """Zeros of any sign, and terms whose product or sum is a negative zero."""
    signs = np.where(np.arange(math.prod(shape)).reshape(shape) % 2, -0.0, 0.0)
    ones = np.ones(shape)
    for a, b in itertools.product((signs, -signs, ones * 0.0, ones * -0.0), repeat=2):
        got = fetch(ZEROS[name](asarray(a, dtype), asarray(b, dtype)))
        np.testing.assert_array_equal(bits(got), 0)
    if name in ("matmul", "multiply"):
        # A relu's zero times a negative weight.
        got = fetch(ZEROS[name](asarray(ones * 0.0, dtype), asarray(-ones, dtype)))
        np.testing.assert_array_equal(bits(got), 0)
    if name in SUMS:
        other = ones if name == "add" else -ones
        got = fetch(ZEROS[name](asarray(-ones, dtype), asarray(other, dtype)))
        np.testing.assert_array_equal(bits(got), 0)


@pytest.mark.parametrize("products", PRODUCTS)
def test_rows_and_columns_of_zeros(asarray, dtype, products):
    """They give zeros, and leave the other numbers as they are."""
    numerics = Exact(products=products)
    a, b, _ = hard("normal", dtype, 64)
    whole = fetch(numerics.matmul(asarray(a), asarray(b)))
    a, b = a.copy(), b.copy()
    # Not a column with the largest element or norm, which sets the scale.
    row, scales = 1, (np.max(np.abs(b), axis=0), np.linalg.norm(b, axis=0))
    (column, *_) = {0, 1, 2} - {int(np.argmax(scale)) for scale in scales}
    a[row], b[:, column] = -0.0, 0.0
    got = fetch(numerics.matmul(asarray(a), asarray(b)))
    whole[row], whole[:, column] = 0.0, 0.0
    np.testing.assert_array_equal(bits(got), bits(whole))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(
    "shape", [(2, 0, 3), (0, 2, 3), *thorough((2, 3, 0), (0, 0, 0), (0, 1, 0), (1, 0, 1))]
)
def test_empty_matrices(asarray, dtype, shape, products):
    """No terms give zeros; no rows or columns give nothing."""
    n, k, m = shape
    numerics = Exact(products=products)
    a, b = asarray(np.ones((n, k)), dtype), asarray(np.ones((k, m)), dtype)
    assert_identical(numerics.matmul(a, b), asarray(np.full((n, m), float(k)), dtype))
    assert_identical(numerics.sum(a, axis=0), asarray(np.full(k, float(n)), dtype))
    assert_identical(
        numerics.sum(a, axis=1, keepdims=True), asarray(np.full((n, 1), float(k)), dtype)
    )


@pytest.mark.parametrize("shape", [(0, 3), *thorough((0,), (3, 0))])
def test_elementwise_operations_on_nothing(asarray, dtype, shape):
    a = asarray(np.ones(shape), dtype)
    for got in (EXACT.add(a, a), EXACT.subtract(a, a), EXACT.divide(a, a)):
        assert_identical(got, a)
    for got in (EXACT.multiply(a, 2.0), EXACT.multiply(a, a), EXACT.exp(a), EXACT.log(a)):
        assert_identical(got, a)


def test_batch_without_samples(backend, dtype):
    """Gradients are zero, and so is the loss that is a sum."""
    problem = make(dtype, (3, 2, 1), 0)
    layers, x, y = problem.on(backend)
    stepped, value = kernels.step(layers, x, y, **problem.named())
    assert_networks_identical(stepped, layers)
    assert_identical(value, backend.asarray(np.asarray(0.0), dtype))


# What is not finite.


@silent
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
def test_product_with_what_is_not_finite(asarray, dtype, bad, products):
    """No element that depends on it is finite, wherever it is and whatever it is multiplied by."""
    numerics = Exact(products=products)
    rng = np.random.default_rng(0)
    for n, k, m in ((3, 7, 2), (64, 64, 64)):
        a, b = rng.normal(size=(n, k)), rng.normal(size=(k, m))
        # Zero times infinity is not zero.
        a[:, 0] = b[0] = 0.0
        for place in (0, -1):
            spoilt_a, spoilt_b = a.copy(), b.copy()
            spoilt_a[place, place] = spoilt_b[place, place] = bad
            clean = asarray(a, dtype), asarray(b, dtype)
            row = fetch(numerics.matmul(asarray(spoilt_a, dtype), clean[1]))[place]
            column = fetch(numerics.matmul(clean[0], asarray(spoilt_b, dtype)))[:, place]
            both = fetch(numerics.matmul(asarray(spoilt_a, dtype), asarray(spoilt_b, dtype)))
            for dependent in (row, column, both[place], both[:, place]):
                assert not np.any(np.isfinite(dependent))
            for axis in (0, 1):
                total = fetch(numerics.sum(asarray(spoilt_a, dtype), axis=axis))
                assert not np.isfinite(total[place])


@silent
def test_large_numbers_of_float64(asarray):
    """A matrix product of 2**500 or more is not finite; elementwise products go up to overflow."""
    below, above = np.nextafter(2.0**500, 0.0), 2.0**500
    one = asarray([[1.0]])
    for a, finite in ((below, True), (above, False), (2.0**600, False)):
        for got in (EXACT.matmul(asarray([[a]]), one), EXACT.matmul(one, asarray([[-a]]))):
            assert np.isfinite(fetch(got)).all() == finite
        got = EXACT.matmul(asarray([[a], [1.0]]), one)
        np.testing.assert_array_equal(np.isfinite(fetch(got))[:, 0], [finite, True])
    largest = np.finfo(np.float64).max
    for a, b in (((2 - 2.0**-30) * 2.0**511, 2.0**512), (largest, 0.5), (largest, 1.0)):
        for factor in (b, asarray([b])):
            np.testing.assert_array_equal(fetch(EXACT.multiply(asarray([a]), factor)), [a * b])


@silent
@pytest.mark.parametrize("dtype", ["float32"])
def test_gradient_that_is_infinite(backend, dtype):
    """It stays visible, although XLA turns products with zeros and ones into `where`."""
    layers = tuple(Layer(backend.asarray(np.ones((2, 2)), dtype)) for _ in range(2))
    activations = tuple(backend.asarray(np.zeros((1, 2)), dtype) for _ in range(3))
    gradient = backend.asarray([[3e38, 3e38]], dtype)

    def differentiate(layers, activations, gradient):
        return kernels.backward_to_input(layers, activations, gradient, numerics=EXACT)[1]

    for function in (differentiate, backend.compile(differentiate)):
        assert not np.any(np.isfinite(fetch(function(layers, activations, gradient))))


@silent
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
def test_elements_that_are_not_finite(asarray, dtype, bad):
    """They stay so in elementwise operations, and other elements are not affected."""
    a, b = np.asarray([bad, 1.0, bad, 2.0]), np.asarray([1.0, 2.0, 0.5, 4.0])
    for x, y in ((a, b), (b, a), (a[1:], b[1:]), (b[1:], a[1:])):
        for operation in (EXACT.add, EXACT.subtract, EXACT.multiply):
            got = fetch(operation(asarray(x, dtype), asarray(y, dtype)))
            expected = np.isfinite(x) & np.isfinite(y)
            np.testing.assert_array_equal(np.isfinite(got), expected)
    got = fetch(EXACT.divide(asarray(a, dtype), asarray(b, dtype)))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(a))


@silent
@pytest.mark.parametrize("loss", ["squared_error", "probabilities"])
@pytest.mark.parametrize("place", ["x", "first weight", "last weight", "last bias", "target"])
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
def test_step_with_what_is_not_finite(backend, dtype, bad, place, loss):
    """Neither the loss nor any array of the new network is all finite."""
    problem = make(dtype, (7, 3, 2), 7, loss=loss)
    (w, _), (last_w, last_b) = problem.layers
    spoilt = {
        "x": problem.x,
        "first weight": w,
        "last weight": last_w,
        "last bias": last_b,
        "target": problem.y,
    }[place]
    spoilt[(0,) * spoilt.ndim] = bad
    layers, value = kernels.step(*problem.on(backend), **problem.named())
    assert not math.isfinite(float(value))
    for a in parameters(layers):
        assert not np.all(np.isfinite(fetch(a)))


@silent
@pytest.mark.parametrize("products", PRODUCTS)
def test_overflow(asarray, dtype, products):
    """A product or sum above the largest number is not finite, in any library."""
    numerics = Exact(products=products)
    largest = np.finfo(dtype).max
    for a, b in (
        ([[largest, largest]], [[1.0], [1.0]]),
        ([[-largest, -largest]], [[1.0], [1.0]]),
        ([[math.sqrt(largest) * 2]], [[math.sqrt(largest)]]),
    ):
        a, b = asarray(a, dtype), asarray(b, dtype)
        assert not np.any(np.isfinite(fetch(numerics.matmul(a, b))))
    total = numerics.sum(asarray([[largest], [largest]], dtype), axis=0)
    assert not np.any(np.isfinite(fetch(total)))
    a = asarray([largest], dtype)
    for got in (
        EXACT.subtract(a, -a),
        EXACT.multiply(a, 2.0),
        EXACT.multiply(a, a),
        EXACT.add(a, asarray([largest], dtype)),
    ):
        assert not np.any(np.isfinite(fetch(got)))


# Mistakes.


def test_number_of_products_of_numpy():
    exact = Exact(products=np.int64(2))
    assert exact == Exact(products=2)
    assert type(exact.products) is int


@pytest.mark.parametrize("products", [0, 4, 6, -1, 2.5, 2.0, True, False, np.True_, "2", [2]])
def test_number_of_products(products):
    message = f"expected products of 1, 2, 3, 5 or None, got {products!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Exact(products=products)


def test_terms_above_the_limit(asarray, dtype):
    """The largest number of terms that is allowed leaves bits for every slice."""
    a = asarray(np.ones((0, 2**24 + 1)), dtype)
    message = "expected sums of at most 16777216 terms for exact numerics, got 16777217"
    for multiply in (lambda: EXACT.prepare(a), lambda: EXACT.matmul(a, a.T)):
        with pytest.raises(ValueError, match=message):
            multiply()
    with pytest.raises(ValueError, match=message):
        EXACT.error_bound(dtype, 2**24 + 1)
    allowed = asarray(np.ones((0, 2**24)), dtype)
    assert EXACT.prepare(allowed).array is allowed
    for products in (None, 1, 2, 3, 5):
        assert Exact(products=products).error_bound(dtype, 2**24) < 1e-2


@pytest.mark.parametrize("wrong", ["int32", "int64", "bool", "complex64", "complex128"])
def test_dtype_that_is_not_real_floating(asarray, wrong):
    a = asarray(np.ones((2, 2)), wrong)
    message = f"expected float32 or float64 for exact numerics, got .*{wrong}"
    with pytest.raises(TypeError, match=message):
        EXACT.prepare(a)
    with pytest.raises(TypeError, match=message):
        EXACT.matmul(a, a)
    with pytest.raises(TypeError, match=message):
        EXACT.sum(a, axis=0)


def test_operands_of_two_dtypes(asarray):
    """Two dtypes have different slices, and some libraries flush a small float32 when widening."""
    a, b = asarray(np.ones((2, 2)), "float64"), asarray(np.ones((2, 2)), "float32")
    message = "expected operands of one dtype, got .*float(32|64) and .*float(64|32)"
    for one, other in ((a, b), (b, a)):
        for operation in (
            EXACT.add,
            EXACT.subtract,
            EXACT.matmul,
            lambda one, other: EXACT.matmul(EXACT.prepare(one), other),
            lambda one, other: EXACT.over_samples([(one, other, False)], 2),
        ):
            with pytest.raises(TypeError, match=message):
                operation(one, other)


def test_what_is_no_matrix(asarray, dtype):
    a, row = asarray(np.ones((2, 2, 2)), dtype), asarray(np.ones(2), dtype)
    for wrong, shape in ((a, r"\(2, 2, 2\)"), (row, r"\(2,\)")):
        message = f"expected a matrix, got an array of shape {shape}"
        for operation in (
            lambda a: EXACT.sum(a, axis=0),
            EXACT.prepare,
            lambda a: EXACT.matmul(a, a),
        ):
            with pytest.raises(ValueError, match=message):
                operation(wrong)
    for axis in (2, -3, None):
        with pytest.raises(ValueError, match=f"expected an axis .* from -2 to 1, got {axis}"):
            EXACT.sum(a[0, ...], axis=axis)


def test_axes_from_the_last(asarray, dtype):
    a = asarray(np.asarray([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]), dtype)
    for axis in (0, 1):
        assert_identical(EXACT.sum(a, axis=axis - 2), EXACT.sum(a, axis=axis))
    assert fetch(EXACT.sum(a, axis=-2)).tolist() == [9.0, 18.0, 36.0]


@pytest.mark.library("jax")
def test_jax_without_float64(backend):
    code = """
import jax.numpy as jnp
import kernels
ones = jnp.ones((1, 1))
def cross_entropy(a, b):
    return kernels.softmax_cross_entropy(a, b, numerics=kernels.EXACT)
exact = kernels.EXACT
for operation in (exact.matmul, exact.multiply, exact.divide, cross_entropy):
    try:
        print("no error:", operation(ones, ones))
    except TypeError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_ENABLE_X64": "0"},
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("expected a library with float64 for exact numerics, got float32")
        assert line.endswith("with JAX set JAX_ENABLE_X64=1")


@pytest.mark.library("numpy")
def test_memory_of_a_step(asarray, dtype):
    """At most three float64 arrays as large as the largest weight beyond native numerics."""
    x, y = asarray(np.ones((64, 1000)), dtype), asarray(np.ones((64, 10)), dtype)
    layers = kernels.init((1000, 100, 10), like=x)

    def peak(numerics):
        # x is prepared once for all steps.
        operands = (numerics.prepare(x), numerics.prepare(x.T))
        settings = {"loss": kernels.squared_error, "numerics": numerics}
        tracemalloc.start()
        try:
            unchecked_step(layers, x, y, 1e-6, operands, **settings)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(EXACT) - peak(kernels.NATIVE) < 3 * 8 * 1000 * 100

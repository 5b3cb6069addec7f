"""`fit` is the loop that one would write by hand, batch by batch."""

import functools
import itertools
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from _assert import (
    assert_alike,
    assert_close,
    assert_identical,
    assert_networks_close,
    assert_networks_identical,
    bits,
    fetch,
    parameters,
)
from _params import one_dtype, thorough
from array_api_compat import array_namespace

import kernels
from kernels import EXACT
from kernels.minibatches import batches_of, steps_of

# As in test_inputs.py, since JAX compiles for seconds for every other shape.
N = 6
SIZES = (13, 8, 4)
# Documented as part of the generator's streams: those below belong to the layers.
FIRST_EPOCH = 2**31


def data(asarray, dtype, loss=kernels.squared_error, n=N):
    """Make a network and samples whose first feature is their number."""
    rng = np.random.default_rng(3)
    layers = kernels.init(SIZES, like=asarray(np.zeros(0), dtype), seed=5)
    x = rng.normal(size=(n, SIZES[0]))
    x[:, 0] = np.arange(n) / n
    if loss is kernels.softmax_cross_entropy:
        y = asarray(rng.integers(SIZES[-1], size=n).astype(np.int32))
    else:
        y = asarray(rng.normal(size=(n, SIZES[-1])), dtype)
    return layers, asarray(x, dtype), y


# What these tests are about does not depend on the dtype, and JAX compiles for seconds for every
# other dtype and shape.
float32 = pytest.mark.parametrize("dtype", ["float32"])
LOSSES = pytest.mark.parametrize(
    "loss", [kernels.squared_error, kernels.softmax_cross_entropy], ids=lambda f: f.__name__
)


def by_hand(layers, x, y, batches, **arguments):
    """Train on the given batches by `step` alone."""
    values = []
    for chosen in batches:
        batch = (x, y) if chosen is None else chosen
        layers, value = kernels.step(layers, *batch, **arguments)
        values.append(value)
    return layers, values


def minibatches(xp, x, y, batch_size, epochs, seed):
    """Choose batches as the docstring of `fit` says."""
    n = x.shape[0]
    for epoch in range(epochs):
        order = kernels.random.permutation(n, seed=seed, stream=FIRST_EPOCH + epoch, like=x)
        for start in range(0, n, batch_size):
            chosen = order[start : min(start + batch_size, n)]
            yield xp.take(x, chosen, axis=0), xp.take(y, chosen, axis=0)


def assert_fit_is(fit, layers, values):
    assert isinstance(fit, kernels.Fit)
    assert_networks_identical(fit.layers, layers)
    assert tuple(fit.losses.shape) == (len(values),)
    for i, value in enumerate(values):
        assert_identical(fit.losses[i], value)


@float32
@LOSSES
def test_full_batch_is_repeated_steps(asarray, dtype, loss):
    layers, x, y = data(asarray, dtype, loss)
    arguments = {"learning_rate": 0.01, "loss": loss}
    expected = by_hand(layers, x, y, [None] * 6, **arguments)
    assert_fit_is(kernels.fit(layers, x, y, steps=6, **arguments), *expected)
    # Without batches, an epoch is a step.
    assert_fit_is(kernels.fit(layers, x, y, epochs=6, **arguments), *expected)
    assert float(expected[1][-1]) < float(expected[1][0])


@float32
@LOSSES
@pytest.mark.parametrize("batch_size", [4, N + 5, *thorough(1, N)])
def test_minibatches_are_the_documented_loop(asarray, xp, dtype, loss, batch_size):
    layers, x, y = data(asarray, dtype, loss)
    arguments = {"learning_rate": 0.01, "loss": loss}
    batches = minibatches(xp, x, y, batch_size, epochs=2, seed=2**40 + 1)
    expected = by_hand(layers, x, y, batches, **arguments)
    assert len(expected[1]) == 2 * math.ceil(N / batch_size)
    fit = kernels.fit(layers, x, y, epochs=2, batch_size=batch_size, seed=2**40 + 1, **arguments)
    assert_fit_is(fit, *expected)


@float32
def test_samples_in_their_own_order(asarray, dtype):
    """With shuffle=False, in every epoch."""
    layers, x, y = data(asarray, dtype)
    # A slice that ends beyond its array is one that the standard does not know.
    cuts = [slice(i, min(i + 4, N)) for i in range(0, N, 4)]
    batches = [(x[cut, ...], y[cut, ...]) for cut in cuts]
    expected = by_hand(layers, x, y, [*batches, *batches], learning_rate=0.01)
    fit = kernels.fit(layers, x, y, learning_rate=0.01, epochs=2, batch_size=4, shuffle=False)
    assert_fit_is(fit, *expected)


@float32
def test_steps_end_in_the_middle_of_an_epoch(asarray, xp, dtype):
    layers, x, y = data(asarray, dtype)
    batches = itertools.islice(minibatches(xp, x, y, 4, epochs=3, seed=0), 5)
    expected = by_hand(layers, x, y, batches, learning_rate=0.01)
    assert_fit_is(kernels.fit(layers, x, y, learning_rate=0.01, steps=5, batch_size=4), *expected)


@float32
@pytest.mark.parametrize("batch_size", [None, 4])
def test_fits_that_start_where_another_ended_are_one(asarray, xp, dtype, batch_size):
    layers, x, y = data(asarray, dtype)
    arguments = {"learning_rate": 0.01, "batch_size": batch_size, "seed": 9}
    whole = kernels.fit(layers, x, y, steps=7, **arguments)
    # Between epochs, in the middle of one, and one step at a time.
    for lengths in ((4, 3), (3, 4), (1,) * 7):
        start, losses, parts = 0, [], layers
        for steps in lengths:
            parts, found, _ = kernels.fit(parts, x, y, steps=steps, start=start, **arguments)
            losses += [found[i] for i in range(steps)]
            start += steps
        assert_fit_is(whole, parts, losses)


@pytest.mark.library("numpy")
def test_batches_from_any_step_on():
    """In the middle of an epoch too."""
    x = np.arange(7.0)[:, np.newaxis]

    def batches(start, steps):
        made = batches_of(7, steps=steps, epochs=None, batch_size=2, seed=1, start=start)
        return [batch.tolist() for batch, _ in made.of(x, x, None)]

    whole = batches(0, 12)
    for start in range(9):
        assert batches(start, 3) == whole[start : start + 3]


def record(asarray, **arguments):
    """Fit and return the numbers of the samples of every batch, as the loss saw them."""
    layers, x, _ = data(asarray, "float32")
    numbers = asarray(np.repeat(np.arange(N)[:, None], SIZES[-1], axis=1), "float32")
    seen = []

    def loss(prediction, target, *, numerics):
        assert prediction.shape == target.shape
        seen.append(fetch(target)[:, 0].astype(int).tolist())
        return kernels.squared_error(prediction, target, numerics=numerics)

    kernels.fit(layers, x, numbers, learning_rate=1e-6, loss=loss, **arguments)
    return seen


def test_every_epoch_takes_every_sample_once_in_a_new_order(asarray):
    batches = record(asarray, epochs=3, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 2] * 3
    epochs = [list(itertools.chain(*batches[i : i + 2])) for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in (*epochs, range(N))}) == 4


def test_order_is_the_same_everywhere(asarray):
    # The stable order of the first words of Threefry-2x32 with key (1, 0) and counters (i, 2**31),
    # from an implementation in Python integers.
    expected = [1, 5, 3, 4, 2, 0]
    assert record(asarray, epochs=1, batch_size=N, seed=1) == [expected]


def test_seed_sets_the_order(asarray):
    orders = [
        record(asarray, epochs=1, batch_size=4, seed=seed) for seed in (0, 1, 2**32, 2**64 - 1)
    ]
    assert len({str(order) for order in orders}) == 4
    assert record(asarray, epochs=1, batch_size=4, seed=1) == orders[1]
    # 0 is the default.
    assert record(asarray, epochs=1, batch_size=4) == orders[0]


def test_batch_size_does_not_change_the_order(asarray):
    def order(batch_size):
        return list(itertools.chain(*record(asarray, epochs=2, batch_size=batch_size)))

    assert order(3) == order(4) == order(N)


def test_full_batch_keeps_the_order(asarray):
    assert record(asarray, steps=2) == [list(range(N))] * 2


def test_losses_are_of_the_samples_kind(asarray, xp, dtype):
    layers, x, y = data(asarray, dtype)
    for arguments in ({"steps": 1}, {"steps": 4}, {"epochs": 2, "batch_size": 4}):
        _, losses, _ = kernels.fit(layers, x, y, learning_rate=0.01, **arguments)
        # Of the namespace, dtype and device of x, one for each step.
        assert_alike(losses, xp.reshape(x, (-1,))[: arguments.get("steps", 4)])


@float32
@pytest.mark.parametrize("arguments", [{"steps": 5}, {"epochs": 2, "batch_size": 4}])
def test_progress(asarray, dtype, arguments):
    layers, x, y = data(asarray, dtype)
    calls = []
    fit = kernels.fit(
        layers,
        x,
        y,
        learning_rate=0.01,
        progress=lambda *call: calls.append(call),
        **arguments,
    )
    assert [count for count, _ in calls] == list(range(1, len(calls) + 1))
    assert len(calls) == fit.losses.shape[0] == arguments.get("steps", 4)
    for i, (_, value) in enumerate(calls):
        assert tuple(value.shape) == ()
        assert_identical(fit.losses[i], value)
    silent = kernels.fit(layers, x, y, learning_rate=0.01, **arguments)
    assert_networks_identical(fit.layers, silent.layers)


def test_progress_may_change_what_it_is_given(asarray):
    layers, x, y = data(asarray, "float32")

    def progress(_, value):
        value /= 2.0

    arguments = {"learning_rate": 0.01, "steps": 2}
    fit = kernels.fit(layers, x, y, progress=progress, **arguments)
    assert_identical(fit.losses, kernels.fit(layers, x, y, **arguments).losses)


def test_loss_may_use_its_array_again():
    layers, x, y = data(np.asarray, "float32")
    kept = np.zeros((), dtype="float32")

    def loss(prediction, target, *, numerics):
        value, gradient = kernels.squared_error(prediction, target, numerics=numerics)
        kept[...] = value
        return kept, gradient

    arguments = {"learning_rate": 0.01, "steps": 3}
    fit = kernels.fit(layers, x, y, loss=loss, **arguments)
    assert_identical(fit.losses, kernels.fit(layers, x, y, **arguments).losses)


@float32
@pytest.mark.parametrize("last", [1, 4])
def test_progress_ends_training(asarray, dtype, last):
    layers, x, y = data(asarray, dtype)

    def stop(count, value):
        if count == last:
            raise StopIteration

    arguments = {"learning_rate": 0.01, "batch_size": 4}
    fit = kernels.fit(layers, x, y, epochs=10, progress=stop, **arguments)
    # After that step, as though no more steps had been asked for.
    expected = kernels.fit(layers, x, y, steps=last, **arguments)
    assert_networks_identical(fit.layers, expected.layers)
    assert_identical(fit.losses, expected.losses)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_other_exceptions_of_progress_are_not_swallowed(asarray, error):
    layers, x, y = data(asarray, "float32")
    before = [bits(a) for a in (*parameters(layers), x, y)]

    def fail(count, value):
        raise error("stop here")

    with pytest.raises(error, match="stop here"):
        kernels.fit(layers, x, y, learning_rate=0.01, steps=3, progress=fail)
    for a, was in zip((*parameters(layers), x, y), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


@float32
@pytest.mark.parametrize("batch_size", [None, 4])
def test_what_was_given_is_unchanged(asarray, dtype, batch_size):
    layers, x, y = data(asarray, dtype)
    given = list(layers)
    before = [bits(a) for a in (*parameters(given), x, y)]
    fit = kernels.fit(given, x, y, learning_rate=0.01, epochs=3, batch_size=batch_size)
    assert given == list(layers)
    for a, was in zip((*parameters(given), x, y), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)
    for a, was in zip(parameters(fit.layers), before, strict=False):
        assert not np.array_equal(bits(a), was)


@float32
def test_compile_is_given_the_step_and_its_result_is_used(asarray, dtype):
    layers, x, y = data(asarray, dtype)
    compiled, called = [], []

    def identity(function):
        compiled.append(function)

        def counted(*args):
            called.append(args)
            return function(*args)

        return counted

    # With batches also what computes each epoch's order; the step is compiled once.
    for arguments, functions, calls in (
        ({"steps": 3}, 1, 3),
        ({"epochs": 2, "batch_size": 4}, 1, 4 + 2),
        ({"steps": 3}, 0, 3),
    ):
        compiled.clear()
        called.clear()
        fit = kernels.fit(layers, x, y, learning_rate=0.01, compile=identity, **arguments)
        assert len(compiled) == functions
        assert len(called) == calls
        plain = kernels.fit(layers, x, y, learning_rate=0.01, **arguments)
        assert_networks_identical(fit.layers, plain.layers)
        assert_identical(fit.losses, plain.losses)


@pytest.fixture
def counted(backend):
    """A loss, and a function that counts what was compiled of networks trained with it."""
    traced = []

    def loss(prediction, target, *, numerics):
        if backend.name.startswith("jax"):
            traced.append(prediction)
        return kernels.squared_error(prediction, target, numerics=numerics)

    def compilations():
        if backend.name.startswith("jax"):
            return len(traced)
        from torch._dynamo.utils import counters

        return counters["stats"]["unique_graphs"]

    return loss, compilations


@pytest.mark.library("torch")
def test_numbers_of_a_step_are_traced_once(backend, asarray):
    """torch would trace a step twice if it got a 0-d float64 array."""
    import torch

    # A new number, as torch would not trace again what an earlier run has compiled and cached.
    new = float(time.time_ns() % 2**20)
    traced = []

    @torch.compiler.assume_constant_result
    def called():
        traced.append(None)
        return new

    def step(layers, numbers):
        return kernels.NATIVE.multiply(layers[0].weight, numbers[0]) + called(), numbers[1]

    layers = (kernels.Layer(asarray(np.ones((3, 2)), "float32")),)
    numbers = asarray(2.0, "float64"), asarray([4.0], "float64")
    found, other = backend.compile(step)(layers, numbers)
    np.testing.assert_array_equal(fetch(found), np.full((3, 2), 2.0 + new, "float32"), strict=True)
    np.testing.assert_array_equal(fetch(other), np.asarray([4.0]), strict=True)
    assert len(traced) == 1


@float32
@pytest.mark.library("jax", "torch")
@pytest.mark.parametrize("batch_size", [None, 3])
def test_second_fit_compiles_nothing(backend, asarray, counted, dtype, batch_size):
    layers, x, y = data(asarray, dtype)
    loss, compilations = counted
    made = []

    def compile(function):
        made.append(function)
        return backend.compile(function)

    def fit(learning_rate):
        return kernels.fit(
            layers,
            x,
            y,
            learning_rate=learning_rate,
            steps=2,
            batch_size=batch_size,
            loss=loss,
            compile=compile,
        )

    start = compilations()
    first = fit(0.01)
    count = len(made), compilations()
    assert count > (0, start)
    second = fit(0.01)
    assert (len(made), compilations()) == count
    assert_networks_identical(second.layers, first.layers)
    # The learning rate is an argument of what was compiled.
    for rate in (0.02, 0.04, 0.08):
        assert_networks_close(
            fit(rate).layers,
            kernels.fit(
                layers, x, y, learning_rate=rate, steps=2, batch_size=batch_size, loss=loss
            ).layers,
            rtol=1e-4,
            atol=1e-5,
        )
    assert len(made) == count[0]


@pytest.mark.parametrize(
    ("costly", "start", "epochs", "expected"),
    [
        (True, 0, 100, {2}),
        (True, 0, 101, {1, 2}),
        (True, 199, 1, {2}),
        (True, 200, 1, {1, 2}),
        (False, 0, 3, {1, 2}),
    ],
)
def test_last_batch_is_compiled_from_the_hundredth_epoch(costly, start, epochs, expected):
    """Where compiling takes long; whether the epochs before were in this run or another."""
    sizes = set()

    class Compiler:
        def __init__(self):
            self.costly = costly

        def __call__(self, function):
            def call(*arguments):
                if len(arguments) > 1:
                    sizes.add(arguments[1].shape[0])
                return function(*arguments)

            return call

    layers, x, y = data(np.asarray, "float64")
    x, y = x[:3, :], y[:3, :]
    arguments = {
        "learning_rate": 0.01,
        "epochs": epochs,
        "start": start,
        "batch_size": 2,
        "numerics": kernels.EXACT,
    }
    fitted = kernels.fit(layers, x, y, compile=Compiler(), check_compiler=False, **arguments)
    assert sizes == expected
    assert_networks_identical(fitted.layers, kernels.fit(layers, x, y, **arguments).layers)


@LOSSES
def test_compiled_by_the_backend(backend, asarray, loss):
    layers, x, y = data(asarray, "float32", loss)
    arguments = {"learning_rate": 0.01, "loss": loss, "epochs": 3, "batch_size": 4}
    before = [bits(a) for a in (*parameters(layers), x, y)]
    calls = []
    fit = kernels.fit(
        layers,
        x,
        y,
        compile=backend.compile,
        progress=lambda _, value: calls.append(float(value)),
        **arguments,
    )
    plain = kernels.fit(layers, x, y, **arguments)
    # Six steps with sums of at most 13 terms near 1.
    tolerance = 500 * np.finfo("float32").eps
    assert_networks_close(fit.layers, plain.layers, rtol=tolerance, atol=tolerance)
    assert_close(fit.losses, plain.losses, rtol=tolerance, atol=tolerance)
    # Memory that a compiler uses again would change values that were kept.
    np.testing.assert_array_equal(calls, fetch(fit.losses))
    for a, was in zip((*parameters(layers), x, y), before, strict=True):
        np.testing.assert_array_equal(bits(a), was, strict=True)


@pytest.mark.library("jax", "torch:cuda")
@pytest.mark.parametrize(
    ("numerics", "batch_size"),
    [
        *((kernels.NATIVE, None), (kernels.EXACT, 2)),
        pytest.param(kernels.NATIVE, 2, marks=pytest.mark.thorough),
        pytest.param(kernels.EXACT, None, marks=pytest.mark.thorough),
    ],
    ids=["native, whole", "exact, batches", "native, batches", "exact, whole"],
)
def test_many_steps_in_one_call(backend, asarray, counted, numerics, batch_size):
    """More steps than one call holds; another number of steps compiles nothing anew."""
    layers, x, y = data(asarray, "float32")
    # An epoch is two batches and a smaller one.
    x, y = x[:5, :], y[:5, :]
    how = {"numerics": numerics, "batch_size": batch_size, "dual": False}
    arguments = {"learning_rate": 0.001, **how}
    loss, compilations = counted

    def fit(steps, compile=backend.compile, **more):
        return kernels.fit(
            layers, x, y, steps=steps, loss=loss, compile=compile, **arguments, **more
        )

    def plain(steps, **more):
        """Train uncompiled; exact numerics with NumPy, since JAX would compile each operation."""
        if numerics is kernels.NATIVE:
            return fit(steps, compile=None, **more)
        layers, x, y = data(np.asarray, "float32")
        done = kernels.fit(layers, x[:5], y[:5], steps=steps, loss=loss, **arguments, **more)
        layers = tuple(
            kernels.Layer(asarray(layer.weight), asarray(layer.bias)) for layer in done.layers
        )
        return done._replace(layers=layers, losses=asarray(done.losses))

    start = compilations()
    fit(3)
    compiled = compilations()
    assert compiled > start
    for steps, seed, first in ((1, 0, 0), (300, 0, 0), (4, 2**40 + 1, 4)):
        more = {"seed": seed, "start": first}
        many = fit(steps, **more)
        assert compilations() == compiled
        assert tuple(many.losses.shape) == (steps,)
        # One step in a call, since progress is called after each.
        single = fit(steps, progress=lambda *_: None, **more)
        others = [single] if steps > 4 else [single, plain(steps, **more)]
        compiled = compilations()
        for other in others:
            if numerics is kernels.EXACT:
                assert_networks_identical(many.layers, other.layers)
                assert_identical(many.losses, other.losses)
            else:
                assert_networks_close(many.layers, other.layers, rtol=1e-4, atol=1e-5)
                assert_close(many.losses, other.losses, rtol=1e-4, atol=1e-5)


WEIGHT = 1.0


def weighted(prediction, target, *, numerics):
    value, gradient = kernels.squared_error(prediction, target, numerics=numerics)
    return WEIGHT * value, WEIGHT * gradient


@pytest.mark.library("torch")
def test_compiled_loss_follows_its_globals(backend, asarray, monkeypatch):
    """What torch checks before a call is left out for this project's modules alone."""
    torch_backend = pytest.importorskip("backends.torch")
    if not hasattr(pytest.importorskip("torch").compiler, "skip_guard_on_globals_unsafe"):
        pytest.skip("this torch cannot leave checks out")
    left_out = []

    def guards_kept(guards, original=torch_backend._guards_kept):
        kept = original(guards)
        left_out.extend(guard.name for guard, keep in zip(guards, kept, strict=True) if not keep)
        return kept

    monkeypatch.setattr(torch_backend, "_guards_kept", guards_kept)
    layers, x, y = data(asarray, "float32")
    for weight in (1.0, 3.0):
        monkeypatch.setitem(globals(), "WEIGHT", weight)
        compiled, plain = (
            kernels.fit(
                layers,
                x,
                y,
                learning_rate=0.01,
                steps=1,
                loss=weighted,
                compile=compile,
                progress=lambda *_: None,
            )
            for compile in (backend.compile, None)
        )
        assert_networks_close(compiled.layers, plain.layers, rtol=1e-4, atol=1e-5)
        assert_close(compiled.losses, plain.losses, rtol=1e-4, atol=1e-5)
    assert any("_forward" in name for name in left_out)


@pytest.mark.library("jax", "torch")
@one_dtype
def test_other_networks_between_many_steps(backend, asarray, dtype):
    """What is kept for one network does not leak into another, or into its own inputs."""
    arguments = {"learning_rate": 0.001, "steps": 3}
    layers, x, y = data(asarray, dtype)
    small = kernels.init((3, 2), like=x)
    cases = [(layers, x, y), (small, x[:, :3], y[:, :2]), (layers, x, y), (layers, -x, y)]
    trained = [kernels.fit(*case, compile=backend.compile, **arguments) for case in cases]
    for case, fit in zip(cases, trained, strict=True):
        plain = kernels.fit(*case, **arguments)
        assert_networks_close(fit.layers, plain.layers, rtol=1e-4, atol=1e-5)
        assert_close(fit.losses, plain.losses, rtol=1e-4, atol=1e-5)


@pytest.fixture
def graphs(backend, monkeypatch):
    """(compile) -> compiler for CUDA on any device, and the list of its graphs: calls instead."""
    from backends import _cuda_graphs

    recorded = []

    class Calls:
        def __init__(self, _, function, *arguments):
            self.replay = functools.partial(function, *arguments)
            recorded.append(self)

    monkeypatch.setattr(_cuda_graphs, "_record", Calls)
    return functools.partial(_cuda_graphs.Graphs, backend.device), recorded


@pytest.mark.library("torch")
@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("inside", [None, *thorough("inductor")])
def test_graphs_with_calls_in_their_place(asarray, graphs, batch_size, inside):
    """What CUDA's graphs read and write, on any device."""
    from backends import torch as torch_backend

    compile = graphs[0](torch_backend.compile if inside else same)
    arguments = {"learning_rate": 0.001, "batch_size": batch_size}
    layers, x, y = data(asarray, "float32")
    x, y = x[:5, :], y[:5, :]
    small = kernels.init((3, 2), like=x, bias=False)
    cases = [
        ((layers, x, y), {"steps": 300}),
        ((small, x[:, :3], y[:, :2]), {"steps": 1, "seed": 3}),
        ((layers, -x, y), {"steps": 4, "start": 2}),
    ]
    for case, more in cases:
        got = kernels.fit(*case, compile=compile, **arguments, **more)
        plain = kernels.fit(*case, **arguments, **more)
        assert_networks_close(got.layers, plain.layers, rtol=1e-4, atol=1e-5)
        assert_close(got.losses, plain.losses, rtol=1e-4, atol=1e-5)


def same(function):
    return function


@pytest.mark.library("torch")
def test_learning_rates_share_a_graph(asarray, graphs):
    """And its copy of the data."""
    graphs_of, recorded = graphs
    compile = graphs_of(same)
    layers, x, y = data(asarray, "float32")
    for rate in (0.001, 0.002, 0.003, 0.004, 0.005):
        arguments = {"learning_rate": rate, "steps": 3, "numerics": kernels.EXACT}
        got = kernels.fit(layers, x, y, compile=compile, **arguments)
        assert_networks_identical(got.layers, kernels.fit(layers, x, y, **arguments).layers)
    assert len(recorded) == 1


@pytest.mark.library("torch")
def test_a_graph_is_of_one_thread_at_a_time(asarray, graphs):
    graphs_of, recorded = graphs
    compile = graphs_of(same)
    layers, x, y = data(asarray, "float32")
    arguments = {"steps": 100, "numerics": kernels.EXACT}
    rates = [0.0005, 0.001, 0.0015, 0.002]
    expected = [kernels.fit(layers, x, y, learning_rate=rate, **arguments) for rate in rates]

    def fit(rate):
        return kernels.fit(layers, x, y, learning_rate=rate, compile=compile, **arguments)

    fit(rates[0])
    with ThreadPoolExecutor(len(rates)) as pool:
        found = list(pool.map(fit, rates))
    assert len(recorded) == 1
    for got, alone in zip(found, expected, strict=True):
        assert_networks_identical(got.layers, alone.layers)
        assert_identical(got.losses, alone.losses)


@pytest.mark.parametrize("numerics", [kernels.NATIVE, kernels.EXACT], ids=["native", "exact"])
def test_a_number_or_its_factor(asarray, dtype, numerics):
    """A learning rate is a number if uncompiled and a 0-d array if compiled: the same bits."""
    numbers = [0.1, 1.0, 1 / 3, 0.0, 1e-300, 2.0**-1000, 2.0**900, 2.0**1001, -0.7]
    if numerics is kernels.NATIVE:
        numbers = [number for number in numbers if number == 0.0 or 1e-30 < abs(number) < 1e30]
    host = np.asarray([[1.1, -2.5, 1e-3, 1e-20], [3.3, 1e20, 0.0, np.inf]])
    a = asarray(host, dtype)
    for number in numbers:
        factor = numerics.factor(number, like=a)
        assert tuple(factor.shape) == ()
        with np.errstate(all="ignore"):
            got, expected = numerics.multiply(a, factor), numerics.multiply(a, number)
            assert_alike(got, a)
            np.testing.assert_array_equal(fetch(got), fetch(expected))
    # As those of the steps of a run are.
    table = numerics.factor([[number, number] for number in numbers], like=a)
    assert tuple(table.shape) == (len(numbers), 2)
    singles = [float(numerics.factor(number, like=a)) for number in numbers]
    np.testing.assert_array_equal(fetch(table), [[number, number] for number in singles])


def test_integers_of_numpy_are_integers(asarray):
    layers, x, y = data(asarray, "float32")
    arguments = {"learning_rate": 0.01}
    given = kernels.fit(
        layers, x, y, epochs=np.int64(2), batch_size=np.int32(4), seed=np.int64(3), **arguments
    )
    plain = kernels.fit(layers, x, y, epochs=2, batch_size=4, seed=3, **arguments)
    assert_networks_identical(given.layers, plain.layers)
    assert kernels.fit(layers, x, y, steps=np.uint8(2), **arguments).losses.shape[0] == 2


@pytest.mark.parametrize("kind", [np.float64, np.float32, Fraction, Decimal])
def test_learning_rates_are_pythons_numbers(asarray, dtype, kind):
    """Whatever number it was, the network keeps its dtype and the steps their bits."""
    layers, x, y = data(asarray, dtype)
    gradients = kernels.backward(layers, kernels.forward(layers, x), y)
    results = [
        (
            kernels.step(layers, x, y, learning_rate=rate)[0],
            kernels.update(layers, gradients, rate),
            kernels.fit(layers, x, y, learning_rate=rate, steps=2).layers,
        )
        for rate in (kind(0.0625), 0.0625)
    ]
    for given, plain in zip(*results, strict=True):
        assert_networks_identical(given, plain)


def test_integer_targets_of_a_loss_of_ones_own(asarray, dtype):
    """Integers that are not labels, such as counts, may have any range."""
    layers, x, _ = data(asarray, dtype)
    counts = asarray(np.full((N, SIZES[-1]), 12), "int32")

    def loss(prediction, target, *, numerics):
        return kernels.squared_error(prediction, asarray(fetch(target), dtype), numerics=numerics)

    fit = kernels.fit(layers, x, counts, learning_rate=0.001, steps=2, loss=loss)
    plain = kernels.fit(layers, x, asarray(fetch(counts), dtype), learning_rate=0.001, steps=2)
    assert_networks_identical(fit.layers, plain.layers)


@pytest.mark.parametrize("n", [1, 4, 10, 12])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_steps_of(n, batch_size):
    assert steps_of(n, steps=7, epochs=None, batch_size=batch_size) == 7
    batches = 1 if batch_size is None else len(range(0, n, batch_size))
    assert steps_of(n, steps=None, epochs=3, batch_size=batch_size) == 3 * batches


def compiler(backend):
    """Compile hundreds of steps on JAX, slow without; torch would compile longer than it runs."""
    return backend.compile if backend.name.startswith("jax") else None


def test_network_without_hidden_layers_finds_the_line(backend, asarray, dtype):
    """Least squares has one solution, which the normal equations give."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = x @ [[1.0], [-2.0], [0.5]] + 4.0 + 0.1 * rng.normal(size=(40, 1))
    like = asarray(np.zeros(0), dtype)
    fit = kernels.fit(
        kernels.init((3, 1), like=like),
        asarray(x, dtype),
        asarray(y, dtype),
        learning_rate=0.005,
        steps=200,
        compile=compiler(backend),
    )
    solution = np.linalg.lstsq(np.hstack([x, np.ones((40, 1))]), y, rcond=None)[0]
    # Each step shrinks the error by at least 1 - 0.01 * (smallest singular value)**2 = 0.8.
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        fetch(fit.layers[0].weight), solution[:3], rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        fetch(fit.layers[0].bias), solution[3], rtol=tolerance, atol=tolerance
    )


@pytest.mark.thorough("jax")
@float32
def test_exclusive_or_is_learned(backend, asarray, dtype):
    """The smallest problem that no network without a hidden layer can solve."""
    x = asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype)
    y = asarray(np.asarray([0, 1, 1, 0], dtype=np.int32))
    arguments = {"learning_rate": 0.5, "steps": 300, "loss": kernels.softmax_cross_entropy}
    arguments["compile"] = compiler(backend)
    layers, losses, _ = kernels.fit(kernels.init((2, 8, 2), like=x), x, y, **arguments)
    losses = fetch(losses)
    assert losses[0] > 0.5
    assert losses[-1] < 0.05
    predicted = fetch(kernels.forward(layers, x)[-1]).argmax(axis=1)
    np.testing.assert_array_equal(predicted, [0, 1, 1, 0])
    # Without a hidden layer the best guess is a half for each: the mean loss is log 2.
    _, losses, _ = kernels.fit(kernels.init((2, 2), like=x), x, y, **arguments)
    np.testing.assert_allclose(fetch(losses)[-1], math.log(2), rtol=1e-3)


@pytest.mark.thorough("jax")
def test_handwritten_digits_are_learned(backend, asarray):
    reason = "scikit-learn, which holds the data, is not installed"
    datasets = pytest.importorskip("sklearn.datasets", reason=reason)
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = asarray(images / 16.0, "float32"), asarray(labels.astype(np.int32))
    layers, losses, _ = kernels.fit(
        kernels.init((64, 32, 10), like=x),
        x[:1500, :],
        y[:1500],
        learning_rate=0.5,
        epochs=5,
        batch_size=50,
        loss=kernels.softmax_cross_entropy,
        compile=compiler(backend),
    )
    losses = fetch(losses)
    assert losses.shape == (150,)
    assert losses[0] > 2.0  # near log 10, a guess
    predicted = fetch(kernels.forward(layers, x[1500:, :])[-1]).argmax(axis=1)
    # Digits of other writers; guesses would be right in 1 of 10.
    assert np.mean(predicted == labels[1500:]) > 0.85


@pytest.mark.parametrize("unsigned", ["uint8", "uint16", "uint32", "uint64"])
def test_minibatches_of_unsigned_labels(backend, unsigned):
    """They train like signed ones, though torch cannot index most of them."""
    x = backend.asarray(np.ones((3, 2)), "float32")
    layers = kernels.init((2, 3), like=x)
    settings = {"learning_rate": 0.1, "steps": 2, "batch_size": 2}
    got, expected = (
        kernels.fit(
            layers,
            x,
            backend.asarray([2, 0, 1], kind),
            loss=kernels.softmax_cross_entropy,
            **settings,
        )
        for kind in (unsigned, "int64")
    )
    assert_networks_identical(got.layers, expected.layers)


class Unhashable:
    """A compiler or a loss without a hash."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, *arguments, **named):
        return arguments[0] if len(arguments) == 1 else kernels.squared_error(*arguments, **named)


@pytest.mark.parametrize("name", ["compile", "loss"])
def test_what_cannot_be_hashed(asarray, name):
    """It is refused only if something is compiled."""
    x = asarray(np.ones((2, 1)), "float32")
    layers = (kernels.Layer(asarray(np.ones((1, 1)), "float32")),)
    settings = {"learning_rate": 0.1, "steps": 1, "compile": lambda f: f} | {name: Unhashable()}
    message = f"expected {name} to be hashable, .*, got Unhashable"
    with pytest.raises(TypeError, match=message):
        kernels.fit(layers, x, x, **settings)
    kernels.fit(layers, x, x, learning_rate=0.1, steps=1, loss=Unhashable())


@pytest.mark.library("torch")
def test_native_numerics_under_autocast(backend):
    """Products may have fewer bits there, but every array has the dtype of the network."""
    import torch

    from backends.autograd.torch import Network

    x = backend.asarray(np.ones((4, 3)), "float32")
    layers = kernels.init((3, 5, 2), like=x)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        got = kernels.fit(layers, x, x[:, :2], learning_rate=0.1, steps=2)
        network = Network(layers)
        prediction = network(x)
        prediction.sum().backward()
    for a in (*(a for layer in got.layers for a in layer), got.losses, prediction):
        assert a.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())


def changes_quotients(function):
    """Compile as if every last number of an array were a little larger."""

    def call(*arguments):
        result = function(*arguments)
        if isinstance(result, tuple):
            return result
        xp = array_namespace(result)
        return xp.concat([result[:-1], result[-1:] * (1.0 + 2.0**-52)])

    return call


def test_compiler_that_changes_bits(asarray):
    """It is refused before anything is trained, unless check_compiler=False."""
    x = asarray(np.ones((3, 2)), "float64")
    layers = kernels.init((2, 1), like=x)
    run = functools.partial(kernels.fit, layers, x, x[:, :1], learning_rate=0.1, steps=1)
    with pytest.raises(RuntimeError, match="changes the bits of quotients: look for settings"):
        run(numerics=EXACT, compile=changes_quotients)
    run(compile=changes_quotients)
    run(numerics=EXACT, compile=changes_quotients, check_compiler=False)


@pytest.mark.library("mlx")
def test_compiler_without_shapes(xp, asarray):
    """What it makes for one number of terms it would take for another."""
    compile = functools.partial(xp.compile, shapeless=True)
    with pytest.raises(ValueError, match="cannot infer output shapes"):
        kernels.numerics.check_compiler(compile, like=asarray(np.zeros(0), "float32"))


UNSAFE = {
    "torch": """
import torch, backends, torch._inductor.config as inductor
inductor.cpp.enable_unsafe_math_opt_flag = True
# Made once for each set of flags, it takes longer than the one file that would use it.
inductor.cpp_cache_precompile_headers = False
compile, like = backends.get("torch:cpu").compile, torch.zeros(0)
""",
    # Early versions of XLA keep the bits whatever is set, and then there is nothing to tell.
    "jax": """
import jax, kernels, numpy
compile, like = jax.jit, jax.numpy.zeros(0)
x = kernels.random.normal((20, 30), seed=0, stream=2, like=numpy.zeros(0))
plain = kernels.init((30, 5), like=x), x, x[:, :5]
run = {"steps": 2, "numerics": kernels.EXACT, "learning_rate": 1e-3, "check_compiler": False}
fits = (
    kernels.fit(*plain, **run),
    kernels.fit(*jax.tree.map(jax.numpy.asarray, plain), compile=jax.jit, **run),
)
if len({kernels.digest(fit.layers) for fit in fits}) == 1:
    print("the same bits")
""",
}


@pytest.mark.library("torch", "jax")
# A process in which torch begins to compile takes 20 seconds, and one of JAX 4.
@pytest.mark.thorough("torch", "jax")
def test_settings_that_let_compilers_change_bits(backend):
    """In a process of its own: XLA reads its own once, and what g++ makes flushes small numbers."""
    prepare = UNSAFE[backend.name.partition(":")[0]]
    check = "from kernels.numerics import check_compiler; check_compiler(compile, like=like)"
    env = os.environ | {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", f"{prepare}\n{check}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("changes the bits of sums" in done.stderr) != ("the same bits" in done.stdout)

"""The dual form: the same training, in the space of the samples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from _assert import assert_networks_close, assert_networks_identical, fetch
from _params import one_dtype, thorough

import kernels
from kernels import EXACT, NATIVE, SGD, Adam
from kernels.dual import PERIOD, parts, use_dual
from kernels.minibatches import batches_of
from kernels.numerics.team import Alone

# As in test_training.py, since JAX compiles for seconds for every other shape.
N, SIZES = 6, (13, 8, 4)
ALL = SGD(kernels.schedules.cosine(5e-3, steps=12), momentum=0.9, nesterov=True, weight_decay=0.1)
METHODS = {
    "plain": {"learning_rate": 5e-3},
    "momentum": {"optimizer": SGD(1e-3, momentum=0.9)},
    "l2": {"learning_rate": 5e-3, "l2": 0.1},
    "all": {"optimizer": ALL, "l2": 0.01},
    "clipped": {"optimizer": SGD(0.1, max_norm=0.5)},
    "clipped all": {"optimizer": replace(ALL, learning_rate=0.1, max_norm=0.5), "l2": 0.1},
}


def problem(asarray, dtype, sizes=SIZES, *, bias=True):
    """Make a network and samples with more features, of numbers that float32 has."""
    rng = np.random.default_rng(0)
    layers = kernels.init(sizes, like=asarray(np.zeros(0), dtype), bias=bias)
    x, y = (
        asarray(rng.normal(size=(N, size)).astype(np.float32).astype(dtype), dtype)
        for size in (sizes[0], sizes[-1])
    )
    return layers, x, y


def assert_fits_close(actual, desired, *, rtol):
    """Assert that no number differs by more than so much of the largest of its network."""
    for a, b in ((actual.layers, desired.layers), (actual.state.velocity, desired.state.velocity)):
        scale = max((float(np.max(np.abs(fetch(layer.weight)))) for layer in b), default=0.0)
        assert_networks_close(a, b, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(fetch(actual.losses), fetch(desired.losses), rtol=rtol)
    assert actual.state.steps == desired.state.steps


def error(layers, oracle):
    """Measure the largest error of a weight against the largest weight, layer by layer."""
    pairs = [(fetch(a.weight), fetch(b.weight)) for a, b in zip(layers, oracle, strict=True)]
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


@pytest.mark.thorough("jax")
@pytest.mark.parametrize("batch_size", [4, *thorough(None)])
@pytest.mark.parametrize(
    "method", ["all", "clipped all", *thorough("plain", "momentum", "l2", "clipped")]
)
def test_weights_are_those_of_the_primal_form(asarray, backend, batch_size, method):
    """With all that SGD may have, in whole batches and others, the algebra is the same."""
    case = problem(asarray, "float64")
    settings = {"steps": 2 if backend.slow else 9, "batch_size": batch_size, **METHODS[method]}
    primal = kernels.fit(*case, dual=False, **settings)
    assert_fits_close(kernels.fit(*case, dual=True, **settings), primal, rtol=1e-12)


@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
def test_clipping_where_gradients_cancel(numerics):
    """Rounding may make the square of their norm negative, and it has to have a root."""
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(2, 50)).astype("float32")
        x = np.concat([x, -(x[:1] + x[1:])])
        layers = kernels.init((50, 1), like=x, bias=False)
        y = kernels.forward(layers, x)[-1] + np.float32(3.5)
        settings = {"optimizer": SGD(0.1, max_norm=1.0), "steps": 1, "numerics": numerics}
        dual = kernels.fit(layers, x, y, dual=True, **settings)
        assert_networks_close(dual.layers, layers, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "none"])
@pytest.mark.parametrize("sizes", [(13, 4), (13, 8, 5, 4)], ids=["linear", "deep"])
@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy", "poisson"])
def test_any_network(numerics, bias, sizes, loss):
    """Depth, bias, loss, activation and weights of samples make no difference."""
    layers, x, y = problem(np.asarray, "float64", sizes, bias=bias)
    settings = {"loss": getattr(kernels, loss), "sample_weight": np.arange(N, dtype="float64")}
    settings |= {"activation": kernels.activations.tanh, "numerics": numerics, "steps": 7}
    settings |= {"batch_size": 4, **METHODS["momentum"]}
    primal = kernels.fit(layers, x, abs(y), dual=False, **settings)
    assert_fits_close(kernels.fit(layers, x, abs(y), dual=True, **settings), primal, rtol=1e-12)


def relu_in_place():
    """Compute all derivatives in one array."""
    gradients = np.zeros((N, 8))

    def value(a, _):
        a[a < 0.0] = 0.0
        return a

    def back(y, gradient, _):
        return np.multiply(gradient, y > 0.0, out=gradients)

    return kernels.activations.Activation("own", value, back)


@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
@pytest.mark.parametrize("sizes", [(13, 4), (13, 8, 4)], ids=["loss", "activation"])
def test_functions_that_change_what_they_are_given(numerics, sizes):
    """A loss and an activation may compute in place, and use what they returned again."""
    layers, x, y = problem(np.asarray, "float64", sizes, bias=False)

    def loss(prediction, target, *, numerics):
        prediction -= target
        return np.sum(prediction * prediction), 2.0 * prediction

    changing = {"loss": loss, "activation": relu_in_place()}
    settings = {"learning_rate": 5e-3, "steps": 5, "numerics": numerics}
    primal, dual = (
        kernels.fit(layers, x, y, dual=dual, **changing, **settings) for dual in (False, True)
    )
    assert_fits_close(dual, primal, rtol=1e-12)


@pytest.mark.thorough("jax")
@one_dtype
@pytest.mark.parametrize("batch_size", [4, *thorough(None)])
def test_exact_bits_are_those_of_numpy(asarray, backend, dtype, batch_size):
    """Exact training has one digest on every library, with all that an optimizer may have."""
    settings = {"steps": 2, "batch_size": batch_size, "numerics": EXACT}
    settings |= METHODS["plain" if backend.slow else "clipped all"]
    here, numpy = (
        kernels.fit(*problem(make, dtype), dual=True, **settings) for make in (asarray, np.asarray)
    )
    assert kernels.digest(here.layers) == kernels.digest(numpy.layers)
    for slots in zip(here.state.velocity, numpy.state.velocity, strict=True):
        assert len({kernels.digest([slot]) for slot in slots}) == 1
    np.testing.assert_array_equal(fetch(here.losses), numpy.losses, strict=True)


@pytest.mark.library("torch", "jax")
@pytest.mark.parametrize("batch_size", [None, *thorough(4)])
@pytest.mark.parametrize("progress", [None, *thorough(lambda *_: None)])
def test_compiled(backend, asarray, batch_size, progress):
    """Compiled steps, and many of them as one call, train the same network."""
    case = problem(asarray, "float32")
    settings = {"steps": 5, "batch_size": batch_size, "dual": True, **METHODS["plain"]}
    compiled = kernels.fit(*case, compile=backend.compile, progress=progress, **settings)
    assert_fits_close(compiled, kernels.fit(*case, **settings), rtol=2e-5)


@pytest.mark.library("jax")
def test_exact_compiled_is_exact(backend, asarray):
    """A compiler, and many steps as one call, give the bits of NumPy."""
    settings = {"steps": 5, "batch_size": 4, "dual": True, "numerics": EXACT, **METHODS["plain"]}
    compiled = kernels.fit(*problem(asarray, "float32"), compile=backend.compile, **settings)
    expected = kernels.fit(*problem(np.asarray, "float32"), **settings)
    assert kernels.digest(compiled.layers) == kernels.digest(expected.layers)


@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
@pytest.mark.parametrize("batch_size", [None, 4], ids=["whole", "batches"])
def test_a_run_goes_on_from_the_end_of_a_period(numerics, batch_size):
    """A second fit from a multiple of the period ends on the bits of one that was not stopped."""
    layers, x, y = problem(np.asarray, "float32", (13, 4))
    settings = {"batch_size": batch_size, "numerics": numerics, "dual": True, **METHODS["all"]}
    whole = kernels.fit(layers, x, y, steps=PERIOD + 5, **settings)
    first = kernels.fit(layers, x, y, steps=PERIOD, **settings)
    then = kernels.fit(first.layers, x, y, start=PERIOD, state=first.state, steps=5, **settings)
    assert_networks_identical(then.layers, whole.layers)
    assert_networks_identical(then.state.velocity, whole.state.velocity)
    assert then.state.steps == whole.state.steps
    np.testing.assert_array_equal(np.concat([first.losses, then.losses]), whole.losses)


def test_exact_runs_do_not_go_on_from_other_steps():
    """What would end on other bits than a run that is not stopped is refused."""
    layers, x, y = problem(np.asarray, "float32")
    match = "expected start to be a multiple of 256 for dual=True .* got 10"
    with pytest.raises(ValueError, match=match):
        kernels.fit(layers, x, y, learning_rate=1.0, steps=1, start=10, dual=True, numerics=EXACT)


@pytest.mark.parametrize("last", [PERIOD, PERIOD + 2])
def test_progress_counts_all_steps_and_may_end_it(last):
    """`progress` does not notice periods, even at their ends."""
    layers, x, y = problem(np.asarray, "float64", (13, 4))
    seen = []

    def progress(done, value):
        seen.append((done, value))
        if done == last:
            raise StopIteration

    settings = {"dual": True, **METHODS["all"]}
    ended = kernels.fit(layers, x, y, steps=3 * PERIOD, progress=progress, **settings)
    whole = kernels.fit(layers, x, y, steps=last, **settings)
    assert [done for done, _ in seen] == [*range(1, last + 1)]
    assert [value for _, value in seen] == ended.losses.tolist() == whole.losses.tolist()
    assert_networks_identical(ended.layers, whole.layers)
    assert ended.state.steps == last


def test_periods():
    """They end at multiples of the period, counted from the first of all steps."""
    batches = batches_of(9, steps=PERIOD + 10, batch_size=2, start=PERIOD - 3)
    assert [(part.start, part.steps) for part in parts(batches)] == [
        (PERIOD - 3, 3),
        (PERIOD, PERIOD),
        (2 * PERIOD, 7),
    ]


def test_error_of_float32_after_10_000_steps():
    """Compared with float64 it is not larger than the primal form's."""
    layers, x, y = problem(np.asarray, "float32", (300, 6, 2))
    wide = [kernels.Layer(*(a.astype("float64") for a in layer)) for layer in layers]
    settings = {"learning_rate": 2e-4, "steps": 10_000, "activation": kernels.activations.tanh}
    oracle = kernels.fit(wide, x.astype("float64"), y.astype("float64"), dual=False, **settings)
    errors = [
        error(kernels.fit(layers, x, y, dual=dual, **settings).layers, oracle.layers)
        for dual in (True, False)
    ]
    assert errors[0] <= errors[1] < 1e-3


def test_auto_is_the_cheaper_form():
    """With many features the dual form, to the bit; with few features or steps the primal one."""
    layers, x, y = problem(np.asarray, "float32", (300, 8, 4))
    arguments = {"learning_rate": 1e-4, "steps": 50}
    auto, dual, primal = (
        kernels.fit(layers, x, y, dual=dual, **arguments).layers for dual in ("auto", True, False)
    )
    assert_networks_identical(auto, dual)
    assert kernels.digest(dual) != kernels.digest(primal)
    sgd, batches = SGD(1e-4), batches_of(N, steps=50)
    assert use_dual("auto", sgd, NATIVE, layers, batches)
    few = kernels.init((4, 8, 4), like=x)
    assert not use_dual("auto", sgd, NATIVE, few, batches)
    assert not use_dual("auto", sgd, NATIVE, layers, batches_of(N, steps=1))
    assert not use_dual("auto", sgd, EXACT, layers, batches)
    assert not use_dual("auto", sgd, replace(NATIVE, team=Others()), layers, batches)
    assert not use_dual("auto", Adam(1e-4), NATIVE, layers, batches)
    assert use_dual("auto", SGD(1e-4, max_norm=1.0), NATIVE, layers, batches)
    assert not use_dual("auto", sgd, NATIVE, layers, batches, splitting)
    wide = kernels.init((300, 8, 4000, 4), like=x)
    assert not use_dual("auto", sgd, NATIVE, wide, batches)


def splitting(function):
    """A compiler of more than one worker."""
    return function


splitting.splits = True


@dataclass(frozen=True)
class Others(Alone):
    """A team of more than one worker."""


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dual": "yes"}, "expected dual of 'auto', True or False, got 'yes'"),
        ({"optimizer": Adam()}, r"expected kernels.SGD\(...\) for dual=True, .*, got Adam\("),
        (
            {"optimizer": SGD(1.0), "numerics": replace(EXACT, team=Others())},
            r"expected one worker for dual=True, got the team Others\(\)",
        ),
        (
            {"compile": splitting},
            "expected one worker for dual=True, got a compiler that splits batches",
        ),
    ],
    ids=["value", "Adam", "workers", "split"],
)
def test_what_cannot_be_trained_in_dual_form(arguments, match):
    """It is said before anything is computed."""
    layers, x, y = problem(np.asarray, "float32")
    given = {"dual": True, **arguments}
    if "optimizer" not in given:
        given["learning_rate"] = 1.0
    with pytest.raises(ValueError, match=match):
        kernels.fit(layers, x, y, steps=1, **given)

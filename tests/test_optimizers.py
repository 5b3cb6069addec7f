"""Optimizers: the steps that torch takes, and the same bits on every library."""

import dataclasses
import math

import numpy as np
import pytest
from _assert import assert_close, assert_identical, assert_networks_identical, bits
from _params import thorough, where

import kernels
from kernels import EXACT, NATIVE, SGD, Adam, activations, optimizers, schedules
from kernels.numerics import Native

SGDS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "decay": {"weight_decay": 0.1},
    "all": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "max_norm": 0.5},
}
ADAMS = {
    "adam": {},
    "betas": {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3},
    "adamw": {"weight_decay": 0.1, "max_norm": 0.5},
}
OPTIMIZERS = {name: SGD(0.05, **given) for name, given in SGDS.items()} | {
    name: Adam(0.05, **given) for name, given in ADAMS.items()
}
every = pytest.mark.parametrize("name", OPTIMIZERS)
N, SIZES = 6, (5, 4, 2)


def data(asarray, dtype):
    rng = np.random.default_rng(1)
    x = asarray(rng.normal(size=(N, SIZES[0])), dtype)
    y = asarray(rng.normal(size=(N, SIZES[-1])), dtype)
    return kernels.init(SIZES, like=x, seed=3), x, y


def fit(case, optimizer, *, steps=7, **arguments):
    settings = {"activation": activations.tanh, "batch_size": 4} | arguments
    return kernels.fit(*case, optimizer=optimizer, steps=steps, **settings)


@every
def test_numerics_of_ones_own_are_asked(name):
    """Also by NumPy, which computes native ones in place."""

    class Counting(Native):
        calls = 0

        def add(self, a, b):
            Counting.calls += 1
            return super().add(a, b)

    layers, x, _ = data(np.asarray, "float64")
    optimizer, gradients = OPTIMIZERS[name], kernels.init(SIZES, like=x, seed=4)
    state = optimizer.init(layers)
    new, _ = optimizer.update(layers, gradients, state, numerics=Counting())
    assert_networks_identical(new, optimizer.update(layers, gradients, state)[0])
    assert Counting.calls >= 4


@pytest.mark.library("numpy")
@every
def test_update_changes_nothing_that_it_was_given(asarray, dtype, name):
    """NumPy computes in place only in arrays that the optimizer has made itself."""
    layers, x, _ = data(asarray, dtype)
    optimizer, gradients = OPTIMIZERS[name], kernels.init(SIZES, like=x, seed=4)
    _, state = optimizer.update(layers, gradients, optimizer.init(layers))
    expected, _ = optimizer.update(layers, gradients, state)
    for network in (layers, gradients, *state[1:]):
        for a in (a for layer in network for a in layer):
            a.flags.writeable = False
    assert_networks_identical(optimizer.update(layers, gradients, state)[0], expected)


@pytest.mark.library("numpy")
@pytest.mark.parametrize(
    ("name", "dual"),
    [(name, False) for name in OPTIMIZERS] + [(name, True) for name in SGDS if name != "all"],
)
def test_fit_changes_nothing_that_it_was_given(asarray, dtype, name, dual):
    """Nor does it change what the loss returned."""
    layers, x, y = data(asarray, dtype)

    def loss(prediction, target, *, numerics):
        value, gradient = kernels.squared_error(prediction, target, numerics=numerics)
        gradient.flags.writeable = False
        return value, gradient

    case = (layers, x, y)
    settings = {"loss": loss, "l2": 0.1, "dual": dual, "batch_size": None}
    expected = fit(case, OPTIMIZERS[name], **settings)
    for a in (x, y, *(a for layer in layers for a in layer)):
        a.flags.writeable = False
    assert_networks_identical(fit(case, OPTIMIZERS[name], **settings).layers, expected.layers)


@pytest.mark.library("torch")
@every
def test_vmap_over_networks(asarray, name):
    """Several networks from one state."""
    import torch

    layers, x, _ = data(asarray, "float64")
    optimizer, gradients = OPTIMIZERS[name], kernels.init(SIZES, like=x, seed=4)
    networks = [layers, kernels.init(SIZES, like=x, seed=5)]
    stacked = tuple(
        kernels.Layer(*(torch.stack(pair) for pair in zip(*two, strict=True)))
        for two in zip(*networks, strict=True)
    )
    state = optimizer.init(layers)

    def update(layers):
        return optimizer.update(layers, gradients, state)[0]

    found = torch.vmap(update)(stacked)
    for i, network in enumerate(networks):
        for layer, expected in zip(found, update(network), strict=True):
            for a, b in zip(layer, expected, strict=True):
                assert_close(a[i, ...], b, rtol=1e-14)


@pytest.mark.library("torch")
@pytest.mark.parametrize("l2", [0.0, 0.3])
@every
def test_hundred_steps_are_those_of_torch(asarray, name, l2):
    import torch

    layers, x, y = data(asarray, "float64")
    own = OPTIMIZERS[name]
    parameters = [a.clone().requires_grad_() for layer in layers for a in layer]
    groups = [
        {"params": parameters[0::2], "weight_decay": own.weight_decay},
        {"params": parameters[1::2], "weight_decay": 0.0},
    ]
    schedule = schedules.cosine(0.05, steps=100)
    if isinstance(own, SGD):
        settings = {"momentum": own.momentum, "nesterov": own.nesterov}
        optimizer = torch.optim.SGD(groups, lr=0.05, **settings)
    else:
        settings = {"betas": (own.beta1, own.beta2), "eps": own.epsilon}
        optimizer = torch.optim.AdamW(groups, lr=0.05, **settings)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    losses = []
    for _ in range(100):
        w, b, v, c = parameters
        value = ((torch.tanh(x @ w + b) @ v + c - y) ** 2).sum()
        value = value + l2 / 2 * ((w**2).sum() + (v**2).sum())
        optimizer.zero_grad()
        value.backward()
        if own.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, own.max_norm)
        optimizer.step()
        rates.step()
        losses.append(value.detach())
    own = dataclasses.replace(own, learning_rate=schedule)
    trained = fit((layers, x, y), own, steps=100, batch_size=None, l2=l2)
    flat = [a for layer in trained.layers for a in layer]
    for a, expected in zip(flat, parameters, strict=True):
        np.testing.assert_allclose(a, expected.detach(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(trained.losses, torch.stack(losses), rtol=1e-10, atol=1e-12)
    assert trained.state.steps == 100


@pytest.mark.library("jax")
@pytest.mark.parametrize(
    "name", ["all", "adamw", *thorough("plain", "momentum", "nesterov", "decay", "adam", "betas")]
)
def test_hundred_steps_are_those_of_optax(asarray, name):
    """Without clipping: optax divides by the norm, torch and the kernel by a little more."""
    import jax
    import jax.numpy as jnp

    optax = pytest.importorskip("optax", reason="optax is not installed")

    layers, x, y = data(asarray, "float64")
    own = dataclasses.replace(OPTIMIZERS[name], max_norm=None)
    rate = optax.cosine_decay_schedule(0.05, 100)
    decay = {"weight_decay": own.weight_decay, "mask": jax.tree.map(lambda a: a.ndim == 2, layers)}
    if isinstance(own, SGD):
        moving = {"momentum": own.momentum or None, "nesterov": own.nesterov}
        optimizer = optax.chain(optax.add_decayed_weights(**decay), optax.sgd(rate, **moving))
    else:
        betas = {"b1": own.beta1, "b2": own.beta2, "eps": own.epsilon}
        optimizer = optax.adamw(rate, **betas, **decay)

    def loss(layers):
        (w, b), (v, c) = layers
        value = jnp.sum((jnp.tanh(x @ w + b[None, :]) @ v + c[None, :] - y) ** 2)
        return value + 0.3 / 2 * (jnp.sum(w**2) + jnp.sum(v**2))

    def step(_, carried):
        layers, state = carried
        updates, state = optimizer.update(jax.grad(loss)(layers), state, layers)
        return optax.apply_updates(layers, updates), state

    run = jax.jit(lambda *begun: jax.lax.fori_loop(0, 100, step, begun)[0])
    expected = run(layers, optimizer.init(layers))
    own = dataclasses.replace(own, learning_rate=schedules.cosine(0.05, steps=100))
    trained = fit((layers, x, y), own, steps=100, batch_size=None, l2=0.3)
    for a, b in zip(jax.tree.leaves(trained.layers), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@every
def test_fit_is_updates_by_hand(asarray, xp, name):
    layers, x, y = data(asarray, "float32")
    optimizer = dataclasses.replace(OPTIMIZERS[name], learning_rate=schedules.inverse(0.05))
    given = {"activation": activations.tanh}
    trained = fit((layers, x, y), optimizer, steps=3, batch_size=None)
    state = optimizer.init(layers)
    for step in range(3):
        found = kernels.forward(layers, x, **given)
        value, gradient = kernels.squared_error(found[-1], y)
        assert_close(trained.losses[step], value, rtol=1e-5)
        gradients = kernels.backward(layers, found, gradient, **given)
        before = [bits(a) for layer in layers for a in layer]
        new, state = optimizer.update(layers, gradients, state)
        for a, was in zip((a for layer in layers for a in layer), before, strict=True):
            np.testing.assert_array_equal(bits(a), was)
        layers = new
    assert type(trained.state) is type(state)
    assert trained.state.steps == state.steps == 3
    for got, own in zip([trained.layers, *trained.state[1:]], [layers, *state[1:]], strict=True):
        for a, b in zip(got, own, strict=True):
            assert_close(a.weight, b.weight, rtol=1e-4, atol=1e-6)
            assert_close(a.bias, b.bias, rtol=1e-4, atol=1e-6)


def test_a_rate_alone_is_plain_gradient_descent(asarray):
    case = data(asarray, "float32")
    got = kernels.fit(*case, learning_rate=0.01, steps=4)
    for optimizer in (SGD(0.01), SGD(schedules.constant(0.01))):
        again = kernels.fit(*case, optimizer=optimizer, steps=4)
        assert_networks_identical(again.layers, got.layers)
        assert_identical(again.losses, got.losses)
        assert again.state == (4, ())
    by_schedule = kernels.fit(*case, learning_rate=schedules.constant(0.01), steps=4)
    assert_networks_identical(by_schedule.layers, got.layers)


@every
@pytest.mark.parametrize("numerics", [NATIVE, *thorough(EXACT)], ids=["native", "exact"])
def test_what_goes_on_ends_on_the_same_bits(asarray, name, numerics):
    case = data(asarray, "float32")
    optimizer = dataclasses.replace(OPTIMIZERS[name], learning_rate=schedules.cosine(0.05, steps=9))
    whole = fit(case, optimizer, numerics=numerics, l2=0.1)
    first = fit(case, optimizer, steps=3, numerics=numerics, l2=0.1)
    rest = fit(
        (first.layers, *case[1:]),
        optimizer,
        steps=4,
        start=3,
        state=first.state,
        numerics=numerics,
        l2=0.1,
    )
    assert_networks_identical(rest.layers, whole.layers)
    assert rest.state.steps == whole.state.steps == 7
    for a, b in zip(rest.state[1:], whole.state[1:], strict=True):
        assert_networks_identical(a, b)


def exact(asarray, dtype, name, compile=None, steps=5):
    optimizer = dataclasses.replace(
        OPTIMIZERS[name], learning_rate=schedules.warmup(schedules.cosine(0.05, steps=9), steps=2)
    )
    return fit(
        data(asarray, dtype), optimizer, steps=steps, numerics=EXACT, compile=compile, l2=0.1
    )


# Of Adam with weight decay and clipping, tanh, l2 and a schedule.
DIGESTS = {"float32": "c02123f215200278", "float64": "f9b3c51fc292df9b"}


@pytest.mark.not_library("jax")
@pytest.mark.parametrize("name", ["adamw", *thorough("all", "adam", "betas", "momentum", "decay")])
def test_exact_training_has_the_bits_of_numpy(asarray, dtype, name):
    got, expected = (exact(make, dtype, name) for make in (asarray, np.asarray))
    assert kernels.digest(got.layers) == kernels.digest(expected.layers)
    np.testing.assert_array_equal(bits(got.losses), bits(expected.losses))
    if name == "adamw":
        assert kernels.digest(got.layers)[:16] == DIGESTS[dtype]


@pytest.mark.parametrize(
    "dtype",
    [
        *where(pytest.mark.library("jax"), "float32"),
        # Its compiler takes a minute for each dtype.
        *[
            pytest.param(dtype, marks=[pytest.mark.library("torch"), pytest.mark.thorough])
            for dtype in ("float32", "float64")
        ],
    ],
)
def test_compiled_exact_training_has_the_bits_of_numpy(backend, asarray, dtype):
    got = exact(asarray, dtype, "adamw", backend.compile)
    assert kernels.digest(got.layers)[:16] == DIGESTS[dtype]
    expected = exact(np.asarray, dtype, "adamw")
    np.testing.assert_array_equal(bits(got.losses), bits(expected.losses))


@pytest.mark.parametrize("small", [0, 3, 8])
@pytest.mark.parametrize("name", ["all", "adamw"])
def test_parameters_alone_and_together_have_one_digest(monkeypatch, name, small):
    """Weights of 20 and 8 elements, biases of 4 and 2."""
    expected = exact(np.asarray, "float32", name)
    sizes = []
    joined = optimizers._joined

    def note(arrays):
        sizes.append(len(arrays))
        return joined(arrays)

    monkeypatch.setattr(optimizers, "_joined", note)
    monkeypatch.setattr(optimizers, "_SMALL", small)
    got = exact(np.asarray, "float32", name)
    assert max(sizes) == {0: 1, 3: 1, 8: 3}[small]
    assert kernels.digest(got.layers) == kernels.digest(expected.layers)
    for a, b in zip(got.state[1:], expected.state[1:], strict=True):
        assert_networks_identical(a, b)


class Repeats:
    """A compiler that repeats, without compiling."""

    def __init__(self):
        self.counts = []

    def __call__(self, function):
        return function

    def repeat(self, function):
        def many(count, state, *constants):
            self.counts.append(count)
            values = []
            for _ in range(count):
                state, value = function(state, *constants)
                values.append(value)
            return state, np.stack(values)

        return many


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("name", ["plain", "all", "adamw"])
def test_runs_of_steps_have_the_bits_of_single_ones(name, batch_size):
    """Also where a run has more steps than a table has rows, and with every step reported."""
    case = data(np.asarray, "float64")
    optimizer = dataclasses.replace(
        OPTIMIZERS[name], learning_rate=schedules.linear(0.01, steps=600)
    )
    given = {"numerics": EXACT if batch_size else NATIVE, "batch_size": batch_size, "steps": 300}
    given["check_compiler"] = False
    plain = fit(case, optimizer, **given)
    compile = Repeats()
    got = fit(case, optimizer, compile=compile, **given)
    assert compile.counts == ([256, 44] if batch_size is None else [1] * 300)
    assert_networks_identical(got.layers, plain.layers)
    assert_identical(got.losses, plain.losses)
    each = fit(case, optimizer, compile=compile, progress=lambda *_: None, **given)
    assert_networks_identical(each.layers, plain.layers)
    assert got.state.steps == each.state.steps == 300


@pytest.mark.library("jax")
@pytest.mark.parametrize("progress", [None, lambda *_: None], ids=["runs", "steps"])
def test_another_rate_or_schedule_compiles_nothing(backend, asarray, progress):
    traced = []

    def loss(prediction, target, *, numerics):
        traced.append(prediction)
        return kernels.squared_error(prediction, target, numerics=numerics)

    case = data(asarray, "float32")
    given = {"loss": loss, "compile": backend.compile, "progress": progress, "batch_size": None}
    fit(case, Adam(schedules.linear(0.1, steps=9)), **given)
    count = len(traced)
    for rate in (schedules.linear(0.2, steps=9), schedules.cosine(0.1, steps=5), 0.3):
        fit(case, Adam(rate), steps=5, **given)
    assert len(traced) == count


def test_progress_ends_training_with_a_state():
    def stop(count, _):
        if count == 2:
            raise StopIteration

    case = data(np.asarray, "float64")
    got = fit(case, Adam(0.1), progress=stop)
    assert got.state.steps == 2
    rest = fit((got.layers, *case[1:]), Adam(0.1), steps=5, start=2, state=got.state)
    assert_networks_identical(rest.layers, fit(case, Adam(0.1)).layers)


def test_clipped_gradients_have_the_norm():
    layers = (kernels.Layer(np.zeros((2, 1)), np.zeros(1)),)
    gradients = (kernels.Layer(np.asarray([[2.0], [3.0]]), np.asarray([6.0])),)
    for norm, size in ((0.7, 0.7), (7.0, 7.0), (8.0, 7.0)):
        optimizer = SGD(1.0, max_norm=norm)
        new, _ = optimizer.update(layers, gradients, optimizer.init(layers), numerics=EXACT)
        found = math.sqrt(sum(np.sum(a * a) for a in new[0]))
        assert found == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD("a"), TypeError, "expected a learning rate that is a real number, got 'a'"),
        (lambda: SGD(math.inf), ValueError, "finite learning rate of 0 or more, got inf"),
        (lambda: SGD(0.1, 1.0), ValueError, "finite momentum of at least 0 and below 1, got 1.0"),
        (lambda: SGD(0.1, -0.1), ValueError, "finite momentum of at least 0 and below 1, got -0.1"),
        (lambda: SGD(0.1, True), TypeError, "expected momentum to be a real number, got True"),
        (lambda: SGD(0.1, nesterov=True), ValueError, "nesterov with a momentum above 0, got"),
        (lambda: SGD(0.1, weight_decay=-1), ValueError, "weight_decay of at least 0, got -1"),
        (lambda: SGD(0.1, weight_decay=10**400), ValueError, "weight_decay of at least 0, got 10"),
        (lambda: SGD(0.1, max_norm=0), ValueError, "finite max_norm above 0, got 0"),
        (lambda: Adam(beta1=1), ValueError, "finite beta1 of at least 0 and below 1, got 1"),
        (lambda: Adam(beta2=-1), ValueError, "finite beta2 of at least 0 and below 1, got -1"),
        (lambda: Adam(epsilon=0), ValueError, "expected a finite epsilon above 0, got 0"),
        (lambda: Adam(weight_decay=math.nan), ValueError, "weight_decay of at least 0, got nan"),
    ],
)
def test_bad_numbers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def wrong_layers():
    return kernels.init((5, 3, 2), like=np.zeros(0))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "exactly one of optimizer and learning_rate, got optimizer=None and lea"),
        (
            {"optimizer": SGD(0.1), "learning_rate": 0.1},
            ValueError,
            r"expected exactly one of optimizer and learning_rate, got optimizer=SGD\(",
        ),
        ({"optimizer": "adam"}, TypeError, r"kernels\.SGD\(\.\.\.\) or kernels\.Adam.*got 'adam'"),
        ({"optimizer": Adam}, TypeError, r"expected kernels\.SGD\(\.\.\.\) or .*, got <class"),
        (
            {"optimizer": type("Own", (SGD,), {})(0.1)},
            TypeError,
            r"expected kernels\.SGD\(\.\.\.\) or .*, got Own\(learning_rate=0\.1",
        ),
        (
            {"optimizer": Adam(), "start": 3},
            ValueError,
            "expected the state of Adam after 3 steps, as start=3 goes on from there, got state=No",
        ),
        (
            {"optimizer": Adam(), "state": kernels.SGDState(0, ())},
            TypeError,
            "expected a state of Adam, got SGDState",
        ),
        (
            {"optimizer": SGD(0.1, 0.9), "state": kernels.SGDState(1, ())},
            ValueError,
            "expected a state of SGD.* for 2 layers, got one with 0 layers of velocity",
        ),
        (
            {"optimizer": SGD(0.1, 0.9), "state": SGD(0.1, 0.9).init(wrong_layers())},
            ValueError,
            r"expected state\.velocity\[0\]\.weight of shape \(5, 4\), got shape \(5, 3\)",
        ),
        (
            {"optimizer": Adam(), "state": Adam().init(wrong_layers())._replace(steps=1.5)},
            ValueError,
            r"expected state\.mean\[0\]\.weight of shape",
        ),
        ({"learning_rate": 0.1, "l2": -1.0}, ValueError, "finite l2 of at least 0, got -1.0"),
        ({"learning_rate": 0.1, "l2": "a"}, TypeError, "expected l2 to be a real number, got 'a'"),
    ],
)
def test_bad_arguments_of_fit(given, error, message):
    with pytest.raises(error, match=message):
        kernels.fit(*data(np.asarray, "float64"), steps=1, **given)


@pytest.mark.parametrize("steps", [1.5, "3", -1])
def test_steps_of_a_state(steps):
    case = data(np.asarray, "float64")
    state = Adam().init(case[0])._replace(steps=steps)
    with pytest.raises((TypeError, ValueError), match=r"expected state\.steps .*, got"):
        kernels.fit(*case, optimizer=Adam(), state=state, steps=1)


def test_update_checks_what_it_is_given():
    layers, _, _ = data(np.asarray, "float64")
    optimizer = Adam()
    with pytest.raises(TypeError, match="expected a state of Adam, got SGDState"):
        optimizer.update(layers, layers, SGD(0.1).init(layers))
    with pytest.raises(ValueError, match=r"expected gradients\[0\]\.weight of shape"):
        optimizer.update(layers, wrong_layers(), optimizer.init(layers))
    with pytest.raises(ValueError, match="expected at least one layer"):
        optimizer.init(())


def test_a_schedule_that_ends_in_no_number():
    optimizer = SGD(schedules.Schedule(lambda _: math.nan, ()))
    with pytest.raises(ValueError, match="expected a finite learning rate of 0 or more, got nan"):
        kernels.fit(*data(np.asarray, "float64"), optimizer=optimizer, steps=1)

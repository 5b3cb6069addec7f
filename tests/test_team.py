"""However samples are split among however many workers, the bits are those of one worker.

The team here is one of threads. The engines' own teams are in test_workers.py.
"""

from dataclasses import replace

import numpy as np
import pytest
from _assert import assert_alike, assert_identical
from _params import thorough
from _team import SPLITS, by_team
from array_api_compat import array_namespace

import kernels

pytestmark = pytest.mark.library("numpy", "torch:cpu")


def own_loss(prediction, target, *, numerics):
    """A user's loss, which needs all predictions at once and not a sum over workers."""
    xp = array_namespace(prediction)
    largest = xp.max(xp.abs(prediction))
    return largest, numerics.subtract(prediction, xp.flip(target, axis=0))


def batch(backend, dtype, n, seed=0):
    """Samples of many magnitudes, also tiny ones and zeros, and their targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)) * 2.0 ** rng.integers(-20, 3, size=(n, 1))
    x[rng.random((n, 5)) < 0.2] = 0.0
    x[:, 4] *= 2.0**-110
    y = rng.normal(size=(n, 3))
    return (backend.asarray(np.ascontiguousarray(a), dtype) for a in (x, y))


@pytest.fixture(params=[2, 3, 5, *thorough(1, 4)])
def size(request):
    return request.param


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("loss", [kernels.squared_error, kernels.softmax_cross_entropy, own_loss])
def test_bits_of_one_worker(backend, dtype, size, split, loss):
    """Batches of 7, 7 and 2 samples; the last has fewer than most teams have workers."""
    x, y = batch(backend, dtype, 16)
    y = abs(y)
    layers = kernels.init((5, 4, 3), like=x)

    def train(numerics, batch_size):
        settings = {"batch_size": batch_size, "steps": 4, "loss": loss, "numerics": numerics}
        return kernels.fit(layers, x, y, learning_rate=1e-3, **settings)

    for batch_size in (7, None):
        expected = train(kernels.EXACT, batch_size)
        found, _ = by_team(
            size,
            split,
            backend.xp,
            lambda team, batch_size=batch_size: train(
                replace(kernels.EXACT, team=team), batch_size
            ),
        )
        for fit in found:
            assert kernels.digest(fit.layers) == kernels.digest(expected.layers)
            assert_identical(fit.losses, expected.losses)


@pytest.mark.parametrize("products", [None, 1, 3])
@pytest.mark.parametrize("n", [1, 1030])
def test_gradients(backend, dtype, n, products):
    """One sample; and more than a float32 product has with one slice, though no worker has as many.

    Each is given all samples, and the gradients of all are returned.
    """
    x, y = batch(backend, dtype, n)
    layers = kernels.init((5, 4, 3), like=x)

    def differentiate(numerics):
        activations = kernels.forward(layers, x, numerics=numerics)
        return kernels.network.backward_to_input(layers, activations, y, numerics=numerics)

    numerics = kernels.Exact(products)
    expected, to_input = differentiate(numerics)
    found, _ = by_team(
        3, "even", backend.xp, lambda team: differentiate(replace(numerics, team=team))
    )
    for gradients, to_x in found:
        assert kernels.digest(gradients) == kernels.digest(expected)
        assert_identical(to_x, to_input)


def test_native_gradients(backend, dtype, size):
    """Of positive terms, so that each of two sums is within n units of the last place."""
    n = 9
    x, y = (abs(a) for a in batch(backend, dtype, n))

    def products(numerics):
        a, b = (numerics.team.own(samples) for samples in (x, y))
        (weight, bias), (alone, none) = numerics.over_samples([(a.T, b, True), (b.T, a, False)], n)
        assert none is None
        return weight, bias, alone

    expected = products(kernels.NATIVE)
    found, calls = by_team(
        size, "even", backend.xp, lambda team: products(replace(kernels.NATIVE, team=team))
    )
    assert calls == [3]
    for arrays in found:
        for got, one in zip(arrays, expected, strict=True):
            assert_alike(got, one)
            got, one = (backend.to_numpy(a).astype("float64") for a in (got, one))
            assert (abs(got - one) <= 2 * n * np.finfo(dtype).eps * one).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2.0**501])
def test_what_is_not_finite(backend, dtype, wrong):
    """One element of one worker makes the same gradients not finite as without a team."""
    if dtype == "float32" and np.isfinite(wrong):
        wrong = np.float32(3e38)
    x, y = batch(backend, "float64", 6)
    x, y = backend.to_numpy(x).copy(), backend.to_numpy(y).copy()
    for a, place in ((x, (1, 0)), (y, (5, 1))):
        changed = a.copy()
        changed[place] = wrong
        left, right = (backend.asarray(changed if a is other else other, dtype) for other in (x, y))

        def products(numerics, left=left, right=right):
            own = numerics.team.own
            with np.errstate(all="ignore"):
                (found,) = numerics.over_samples([(own(left).T, own(right), True)], 6)
            return [backend.to_numpy(a) for a in found]

        expected = products(kernels.EXACT)
        found, _ = by_team(
            3, "even", backend.xp, lambda team: products(replace(kernels.EXACT, team=team))
        )
        for arrays in found:
            for got, alone in zip(arrays, expected, strict=True):
                np.testing.assert_array_equal(np.isfinite(got), np.isfinite(alone))
                finite = np.isfinite(alone)
                np.testing.assert_array_equal(got[finite], alone[finite])


@pytest.mark.parametrize(
    ("numerics", "expected"),
    [(kernels.NATIVE, 2), (kernels.EXACT, {"float32": 4, "float64": 3})],
    ids=["native", "exact"],
)
def test_number_of_exchanges(backend, dtype, numerics, expected):
    """A step exchanges its prediction, its scales in one or two, and what it sums, each in one."""
    x, y = batch(backend, dtype, 8)
    layers = kernels.init((5, 6, 4, 3), like=x)

    def step(team):
        return kernels.step(layers, x, y, learning_rate=1e-3, numerics=replace(numerics, team=team))

    _, calls = by_team(2, "even", backend.xp, step)
    assert sum(map(bool, calls)) == (expected[dtype] if isinstance(expected, dict) else expected)

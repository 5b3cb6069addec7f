"""The programs that the kernel is compared with train as the kernel does."""

import importlib.util

import numpy as np
import pytest
from _assert import fetch

import backends
import kernels
from benchmarks.cases import CASES, generated, sizes_of
from benchmarks.peers import PEERS, matrix_products
from kernels.reference.problems import Problem
from kernels.reference.training import method_of

SIZES = (12, 8, 6, 3)
STEPS = 4


def regression(asarray, dtype):
    like = asarray(np.zeros(1), dtype)
    return generated("small", 10, SIZES, like=like, learning_rate=1e-3)


def classification(asarray, dtype):
    """Batches of 4, 4 and 2, and layers with biases."""
    like = asarray(np.zeros(1), dtype)
    # As the digits have them.
    labels = asarray(np.arange(10) % SIZES[-1], "int32")
    layers = [kernels.Layer(weight, bias + 0.25) for weight, bias in kernels.init(SIZES, like=like)]
    return regression(asarray, dtype)._replace(
        y=labels, layers=tuple(layers), loss=kernels.softmax_cross_entropy, batch_size=4
    )


def adam(asarray, dtype):
    return classification(asarray, dtype)._replace(optimizer=kernels.Adam(0.01))


@pytest.fixture(params=[regression, classification, adam])
def make(request):
    return request.param


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name.replace(" ", "_"))
def peer(request, backend):
    peer = request.param
    if importlib.util.find_spec(peer.module) is None:
        pytest.skip(f"{peer.module} is not installed")
    if peer.library is None and backend.name == "numpy":
        pytest.skip(f"{peer.name} does not train on NumPy")
    if peer.library not in (None, backend.name.partition(":")[0]):
        pytest.skip(f"{peer.name} is compared on {peer.library}")
    return peer


def test_losses_are_the_kernels(backend, peer, make, dtype):
    """Three steps are two updates of every parameter, so every gradient is checked."""
    problem = make(backends.get("numpy").asarray, dtype)
    if not peer.trains(problem, dtype):
        pytest.skip(f"{peer.name} does not train this")
    train = peer.make(problem, backend)
    layers = problem.layers
    if peer.biases:
        layers = tuple(
            kernels.Layer(weight, np.zeros_like(weight[0]) if bias is None else bias)
            for weight, bias in layers
        )
    expected = kernels.fit(
        layers,
        problem.x,
        problem.y,
        steps=3,
        **method_of(problem),
    ).losses
    assert expected[0] != expected[1] != expected[2]
    # Sums of at most 12 terms, in three steps.
    tolerance = 200 * np.finfo(dtype).eps
    tolerance += peer.adam_apart if problem.optimizer is not None else 0.0
    # Training starts anew each time.
    for _ in range(2):
        losses = train(3)
        assert len(losses) == 3
        np.testing.assert_allclose([float(v) for v in losses], expected, rtol=tolerance)


def test_matrix_products_are_those_of_a_step(asarray, make, dtype):
    """The shapes of forward, then of the gradients from the last layer to the first."""
    problem = make(asarray, dtype)
    n = problem.batch_size or 10
    products = matrix_products(problem.layers, problem.x[:n, :])(STEPS)
    forward = [(n, size) for size in SIZES[1:]]
    backward = [(6, 3), (n, 6), (8, 6), (n, 8), (12, 8)]
    assert [tuple(a.shape) for a in products] == forward + backward
    x, (first, *_) = fetch(problem.x), problem.layers
    np.testing.assert_allclose(fetch(products[0]), x[:n] @ fetch(first.weight), rtol=1e-4)


def test_sizes(asarray, dtype):
    assert sizes_of(regression(asarray, dtype)) == SIZES


@pytest.mark.parametrize("name", CASES)
def test_cases_train(asarray, dtype, name):
    """Each is what it is called, and its learning rate makes the loss fall."""
    if name.startswith("digits"):
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    shapes = {
        "tutorial": (64, (1000, 100, 10)),
        "tutorial-dual": (64, (1000, 100, 10)),
        "features": (100, (20_000, 100, 1)),
        "wide": (1024, (1024, 1024, 1024, 128)),
        "deep": (256, (512, 512, 512, 512, 512, 512, 512, 10)),
        "digits": (1438, (64, 100, 10)),
    }
    shapes |= {f"{own}-adam": shapes[own] for own in ("tutorial", "digits")}
    problem = CASES[name].make(asarray, dtype)
    assert isinstance(problem, Problem)
    assert (problem.x.shape[0], sizes_of(problem)) == shapes[name]
    losses = fetch(
        kernels.fit(
            problem.layers,
            problem.x,
            problem.y,
            steps=3,
            **method_of(problem) | {"batch_size": None},
        ).losses
    )
    assert losses[0] > losses[1] > losses[2] > 0

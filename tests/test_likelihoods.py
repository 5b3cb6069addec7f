"""The cross-entropy of labels, the loss of counts, and the weights of samples in every loss."""

import numpy as np
import pytest
from _assert import assert_close, assert_identical, assert_networks_close, bits, fetch

import kernels
from kernels import EXACT, NATIVE

N, OUT = 5, 3
LOSSES = {
    loss.__name__: loss
    for loss in (
        kernels.squared_error,
        kernels.half_squared_error,
        kernels.softmax_cross_entropy,
        kernels.logistic_cross_entropy,
        kernels.poisson,
    )
}
every = pytest.mark.parametrize("name", LOSSES)
both = pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])


def case(name, dtype):
    """Draw predictions and targets on the host."""
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=(N, OUT)) * 3.0
    target = {
        "squared_error": rng.normal(size=(N, OUT)),
        "half_squared_error": rng.normal(size=(N, OUT)),
        "softmax_cross_entropy": rng.integers(OUT, size=N).astype("int32"),
        "logistic_cross_entropy": rng.uniform(size=(N, OUT)),
        "poisson": rng.integers(4, size=(N, OUT)).astype("float64"),
    }[name]
    return prediction.astype(dtype), target.astype(dtype) if target.ndim == 2 else target


def place(asarray, a, dtype):
    return asarray(a, dtype) if a.dtype.kind == "f" else asarray(a)


def oracle(name, z, y):
    """Compute the loss and its gradient in float64."""
    z, y = z.astype("float64"), y.astype("float64")
    if name == "half_squared_error":
        return np.sum((z - y) ** 2) / 2 / N, (z - y) / N
    if name == "poisson":
        return np.sum(np.exp(z) - y * z) / N, (np.exp(z) - y) / N
    value = np.sum(np.logaddexp(z, 0.0) - y * z) / N
    return value, (1.0 / (1.0 + np.exp(-z)) - y) / N


@both
@pytest.mark.parametrize("name", ["half_squared_error", "logistic_cross_entropy", "poisson"])
def test_values_and_gradients(asarray, dtype, name, numerics):
    z, y = case(name, dtype)
    placed = asarray(z, dtype)
    value, gradient = LOSSES[name](placed, place(asarray, y, dtype), numerics=numerics)
    tolerance = {"rtol": 2e-6 if dtype == "float32" else 1e-13, "atol": 1e-6}
    if dtype == "float64":
        # MLX's own exp of float64 is as accurate as float32.
        tolerance["atol"] = 1e-6 if "mlx" in type(placed).__module__ else 1e-14
    desired, desired_gradient = oracle(name, z, y)
    assert_close(value, asarray(np.asarray(desired), dtype), **tolerance)
    assert_close(gradient, asarray(desired_gradient, dtype), **tolerance)


@pytest.mark.not_library("jax")
@every
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_exact_bits_are_those_of_numpy(asarray, dtype, name, weighted):
    z, y = case(name, dtype)
    weight = np.asarray([0.0, 1.0, 2.5, 0.3, 1e-3], dtype) if weighted else None
    results = [
        LOSSES[name](
            make(z, dtype),
            place(make, y, dtype),
            sample_weight=None if weight is None else make(weight, dtype),
            numerics=EXACT,
        )
        for make in (asarray, np.asarray)
    ]
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(bits(got), bits(expected), strict=True)


@pytest.mark.parametrize("target", ["labels", "booleans", "one output"])
def test_labels_are_probabilities_of_0_and_1(asarray, target):
    z, _ = case("poisson", "float32")
    y = (z > 0.5).astype("int32")
    if target == "one output":
        z, y = z[:, :1], y[:, :1]
    expected = kernels.logistic_cross_entropy(asarray(z), asarray(y, "float32"))
    if target == "booleans":
        y = y == 1
    got = kernels.logistic_cross_entropy(asarray(z), asarray(y[:, 0] if y.shape[1] == 1 else y))
    for a, b in zip(got, expected, strict=True):
        assert_identical(a, b)


def test_large_logits_have_no_rounding_of_their_size():
    """The loss of confident right predictions is small, and not a difference of large numbers."""
    z = np.asarray([[800.0, -800.0], [40.0, -40.0]])
    value, gradient = kernels.logistic_cross_entropy(z, np.asarray([[1, 0], [1, 0]]))
    assert float(value) == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0.0)
    np.testing.assert_allclose(gradient[:, 1], [0.0, np.exp(-40.0) / 2], rtol=1e-12)


@pytest.mark.thorough("jax")
@both
@every
def test_weights_are_repeated_samples(asarray, name, numerics):
    """A sample of weight 2 counts as two copies of it, and of weight 0 as none."""
    z, y = case(name, "float32")
    counts = np.asarray([2, 0, 1, 3, 1])
    once = {"sample_weight": asarray(counts, "float32"), "numerics": numerics}
    value, gradient = LOSSES[name](asarray(z), asarray(y), **once)
    again, parts = LOSSES[name](
        asarray(np.repeat(z, counts, axis=0)),
        asarray(np.repeat(y, counts, axis=0)),
        numerics=numerics,
    )
    assert_close(value, again, rtol=1e-5)
    first = np.cumsum(counts) - counts
    kept = counts > 0
    expected = fetch(parts)[first[kept]] * counts[kept][:, None]
    np.testing.assert_allclose(fetch(gradient)[kept], expected, rtol=1e-5, atol=1e-7)
    assert not np.any(fetch(gradient)[~kept])


@every
def test_fit_with_weights(asarray, name):
    """A weight of 0 leaves a sample out, and of 2 takes it twice."""
    x = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
    _, y = case(name, "float32")
    layers = kernels.init((4, OUT), like=asarray(x))
    given = {"learning_rate": 0.01, "epochs": 2, "loss": LOSSES[name]}
    counts = np.asarray([2, 0, 1, 3, 1])
    weight = asarray(counts, "float32")
    got = kernels.fit(layers, asarray(x), asarray(y), sample_weight=weight, **given)
    repeated = (asarray(np.repeat(a, counts, axis=0)) for a in (x, y))
    expected = kernels.fit(layers, *repeated, **given)
    assert_networks_close(got.layers, expected.layers, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@every
def test_batches_in_which_nothing_counts(asarray, name):
    """Their loss is 0, and they change nothing."""
    x = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
    _, y = case(name, "float32")
    layers = kernels.init((4, OUT), like=asarray(x))
    one = asarray([1.0] + [0.0] * (N - 1), "float32")
    given = {"learning_rate": 0.01, "epochs": 2, "loss": LOSSES[name], "batch_size": 2}
    fit = kernels.fit(layers, asarray(x), asarray(y), sample_weight=one, **given)
    assert fetch(fit.losses).tolist().count(0.0) == 4


@pytest.mark.library("jax")
def test_weights_in_a_compiled_run(backend, asarray):
    x = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
    _, y = case("poisson", "float32")
    weight = np.asarray([0.5, 1.0, 0.0, 2.0, 1.0], "float32")
    given = {"learning_rate": 0.01, "epochs": 2, "loss": kernels.poisson, "numerics": EXACT}

    def fit(make, compile=None):
        layers = kernels.init((4, OUT), like=make(x))
        arrays = {"sample_weight": make(weight), "compile": compile, "batch_size": 5}
        return kernels.fit(layers, make(x), make(y), **arrays, **given)

    got, expected = fit(asarray, backend.compile), fit(np.asarray)
    assert kernels.digest(got.layers) == kernels.digest(expected.layers)
    np.testing.assert_array_equal(bits(got.losses), bits(expected.losses))


@pytest.mark.library("torch")
def test_those_of_torch(asarray):
    import torch

    functions = {
        "logistic_cross_entropy": torch.nn.functional.binary_cross_entropy_with_logits,
        "poisson": torch.nn.functional.poisson_nll_loss,
    }
    for name, function in functions.items():
        z, y = (asarray(a) for a in case(name, "float64"))
        z.requires_grad_()
        # Theirs are means over elements.
        expected = function(z, y) * OUT
        expected.backward()
        value, gradient = LOSSES[name](z.detach(), y)
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-12)
        np.testing.assert_allclose(gradient, z.grad, rtol=1e-12, atol=1e-15)


X, Y = np.ones((2, 3)), np.zeros((2, 2))
LAYERS = kernels.init((3, 2), like=X)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight of shape \(2,\), got shape"),
        ({"sample_weight": np.ones(2, "float32")}, TypeError, "sample_weight of dtype float64, as"),
        ({"sample_weight": [1.0, 1.0]}, TypeError, "sample_weight to be an array, got list"),
        ({"sample_weight": np.zeros(2)}, ValueError, "a number above 0, got only zeros"),
        (
            {"sample_weight": np.full(2, 2.0**-851), "numerics": kernels.EXACT},
            ValueError,
            "that does not count as zero in exact numerics, got 6.65999e-257 as the largest",
        ),
        ({"sample_weight": np.asarray([1, -2.0])}, ValueError, "0 or more, got -2"),
        ({"sample_weight": np.asarray([1, np.inf])}, ValueError, "0 or more, got inf"),
        (
            {"sample_weight": np.ones(2), "loss": divmod},
            TypeError,
            "expected a loss that takes sample_weight, since that is given, got <built",
        ),
        (
            {"loss": kernels.logistic_cross_entropy, "y": Y + 1.5},
            ValueError,
            r"expected targets from 0 to 1, got 1\.5",
        ),
        (
            {"loss": kernels.logistic_cross_entropy, "y": np.asarray([[0, 2], [0, 0]])},
            ValueError,
            "expected targets from 0 to 1, got 2",
        ),
        (
            {"loss": kernels.logistic_cross_entropy, "y": np.zeros(2, int)},
            ValueError,
            r"expected target of shape \(2, 2\), got shape \(2,\)",
        ),
        (
            {"loss": kernels.poisson, "y": Y - 1.0},
            ValueError,
            "expected targets of 0 or more, got -1",
        ),
        (
            {"loss": kernels.poisson, "y": Y.astype(int)},
            TypeError,
            "expected target of dtype float64, as the prediction, got int64",
        ),
    ],
)
def test_bad_input_of_fit(given, error, message):
    given = {"y": Y} | given
    with pytest.raises(error, match=message):
        kernels.fit(LAYERS, X, given.pop("y"), learning_rate=0.1, steps=1, **given)


@every
def test_bad_weights_of_a_loss(name):
    z, y = case(name, "float64")
    with pytest.raises(ValueError, match=r"expected sample_weight of shape \(5,\), got shape"):
        LOSSES[name](z, y, sample_weight=np.ones(4))

"""Losses and their gradients against formulas in NumPy float64, up to the extremes."""

import math

import numpy as np
import pytest
from _assert import assert_close, bits, fetch
from _params import thorough
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays

import kernels
from kernels import losses


def tolerance(dtype):
    # exp and log are good to a few units in the last place, and sums have at most 6 terms.
    return {"rtol": 20 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}


def cross_entropy_oracle(logits, p):
    """Compute the mean over rows of -sum(p * log_softmax(logits)) and its gradient."""
    logits = logits.astype(np.float64)
    total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_q = logits - total
    terms = np.where(p == 0.0, 0.0, p * np.where(p == 0.0, 0.0, log_q))
    gradient = (np.exp(log_q) * p.sum(axis=1, keepdims=True) - p) / len(logits)
    return -terms.sum() / len(logits), gradient


def one_hot(labels, c):
    return np.eye(c)[labels]


def check_cross_entropy(asarray, dtype, logits, target):
    logits = logits.astype(dtype)
    p = one_hot(target, logits.shape[1]) if target.ndim == 1 else target.astype(dtype)
    desired, desired_gradient = cross_entropy_oracle(logits, p.astype(np.float64))
    placed = asarray(target) if target.ndim == 1 else asarray(target, dtype)
    value, gradient = kernels.softmax_cross_entropy(asarray(logits, dtype), placed)
    # A loss is a difference of terms as large as the logits.
    atol = tolerance(dtype)["atol"] * max(1.0, np.abs(np.where(np.isinf(logits), 0, logits)).max())
    assert_close(
        value, asarray(np.asarray(desired), dtype), rtol=tolerance(dtype)["rtol"], atol=atol
    )
    assert_close(
        gradient,
        asarray(desired_gradient, dtype),
        rtol=tolerance(dtype)["rtol"],
        # exp(s) has the relative error of s, at most a unit in its last place.
        atol=atol,
    )


def finite(bound):
    return strategies.floats(-bound, bound, width=32, allow_subnormal=False)


# One shape, since JAX compiles every operation for every shape, and several.
SHAPES = pytest.mark.parametrize(
    "shapes",
    [
        strategies.just((5, 6)),
        *thorough(strategies.sampled_from([(1, 1), (1, 4), (3, 2)])),
    ],
    ids=["one", "several"],
)


@pytest.mark.parametrize("numerics", [kernels.NATIVE, kernels.EXACT], ids=["native", "exact"])
def test_sum_in_parts(asarray, dtype, monkeypatch, numerics):
    """Of 4, 4 and 2 elements; exact numerics in the same order everywhere."""
    monkeypatch.setattr(losses, "_MOST_TERMS", 4)
    prediction, target = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(dtype)
    value, _ = kernels.squared_error(asarray(prediction), asarray(target), numerics=numerics)
    whole = np.asarray(np.sum((prediction.astype("float64") - target) ** 2))
    assert_close(value, asarray(whole, dtype), **tolerance(dtype))
    if numerics is kernels.EXACT:
        same, _ = kernels.squared_error(prediction, target, numerics=numerics)
        np.testing.assert_array_equal(bits(value), bits(same), strict=True)


@pytest.mark.library("numpy", "torch", "jax", "cupy")
@pytest.mark.thorough("jax")
def test_more_terms_than_exact_numerics_sum(asarray):
    ones = np.ones((4097, 4096), "float32")
    value, _ = kernels.squared_error(asarray(ones), asarray(0 * ones), numerics=kernels.EXACT)
    assert fetch(value) == 4097 * 4096


@SHAPES
@given(data=strategies.data())
def test_squared_error(asarray, dtype, shapes, data):
    shape = data.draw(shapes)
    prediction, target = (
        data.draw(arrays.arrays(dtype, shape, elements=finite(1e3))) for _ in range(2)
    )
    value, gradient = kernels.squared_error(asarray(prediction, dtype), asarray(target, dtype))
    difference = prediction - target
    # One product and one doubling: no rounding of its own in the gradient.
    assert_close(gradient, asarray(2 * difference, dtype), rtol=0.0)
    desired = math.fsum(difference.astype(np.float64).ravel() ** 2)
    # Squares of numbers near 2**-126 and below it may be flushed to zero.
    tiny = float(np.finfo(dtype).tiny) * difference.size
    assert_close(
        value,
        asarray(np.asarray(desired), dtype),
        rtol=(difference.size + 1) * np.finfo(dtype).eps,
        atol=tiny,
    )


@SHAPES
@given(data=strategies.data())
def test_cross_entropy_of_labels(asarray, dtype, shapes, data):
    n, c = data.draw(shapes)
    logits = data.draw(arrays.arrays(dtype, (n, c), elements=finite(50)))
    labels = data.draw(arrays.arrays("int32", n, elements=strategies.integers(0, c - 1)))
    check_cross_entropy(asarray, dtype, logits, labels)


@SHAPES
@given(data=strategies.data())
def test_cross_entropy_of_probabilities(asarray, dtype, shapes, data):
    n, c = data.draw(shapes)
    logits = data.draw(arrays.arrays(dtype, (n, c), elements=finite(50)))
    # Whatever their sum: the formula holds for any weights.
    p = data.draw(arrays.arrays(dtype, (n, c), elements=strategies.floats(0, 1, width=16)))
    check_cross_entropy(asarray, dtype, logits, p)


INF = math.inf
EXTREMES = {
    "large": [[1e4, -1e4, 0.0], [-1e4, 1e4, 9e3]],
    "all large": [[1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]],
    "ties": [[0.0, 0.0, 0.0], [7.0, 7.0, -7.0]],
    "a class excluded": [[0.0, 1.0, -INF], [-INF, 1.0, 2.0]],
    "one class left": [[-INF, 5.0, -INF], [-INF, 5.0, -INF]],
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("as_probabilities", [False, True], ids=["labels", "probabilities"])
def test_cross_entropy_at_the_extremes(asarray, dtype, extreme, as_probabilities):
    labels = np.asarray([1, 1], dtype=np.int32)
    target = one_hot(labels, 3) if as_probabilities else labels
    check_cross_entropy(asarray, dtype, np.asarray(EXTREMES[extreme]), target)


def test_cross_entropy_by_hand(asarray, dtype):
    # Row 1: softmax is (1/4, 3/4), the label is 0: log 4. Row 2: (1/2, 1/2), label 1: log 2.
    logits = asarray([[0.0, math.log(3.0)], [5.0, 5.0]], dtype)
    value, gradient = kernels.softmax_cross_entropy(logits, asarray(np.asarray([0, 1])))
    assert_close(value, asarray(np.asarray(math.log(8.0) / 2), dtype), **tolerance(dtype))
    desired = [[-0.375, 0.375], [0.25, -0.25]]
    assert_close(gradient, asarray(desired, dtype), **tolerance(dtype))


def test_squared_error_is_a_sum_as_in_the_tutorial(asarray, dtype):
    value, gradient = kernels.squared_error(
        asarray([[1.0, 2.0], [3.0, 5.0]], dtype), asarray([[0.0, 2.0], [5.0, 1.0]], dtype)
    )
    assert value.shape == ()
    assert float(value) == 1 + 4 + 16
    np.testing.assert_array_equal(fetch(gradient), [[2.0, 0.0], [-4.0, 8.0]])


@pytest.mark.parametrize("integer", ["int8", "uint8", "int16", "int32", "int64"])
def test_labels_of_any_integer_dtype(asarray, dtype, integer):
    logits = np.arange(12.0).reshape(3, 4) % 5
    check_cross_entropy(asarray, dtype, logits, np.asarray([3, 0, 2], dtype=integer))


@pytest.mark.parametrize("classes", [300, *thorough(100)])
@pytest.mark.parametrize(
    "integer", ["int8", "uint8", "uint64", *thorough("uint16", "uint32", "int64")]
)
def test_labels_of_a_dtype_that_does_not_hold_every_class(asarray, integer, classes):
    """Neither classes nor labels wrap: not 256 to 0, and not 2**40, -1 or 2**64 - 1 into range."""
    logits = asarray(np.arange(3.0 * classes).reshape(3, -1) % 7, "float32")
    valid, desired = (
        kernels.softmax_cross_entropy(logits, asarray(np.asarray([3, 99, 40], dtype=name)))
        for name in (integer, "int32")
    )
    for a, b in zip(valid, desired, strict=True):
        assert_close(a, b, rtol=0.0)
    limits = np.iinfo(integer)
    for label in {limits.min, limits.max, 2**40, 2**32 + 3}:
        if 0 <= label < classes or label > limits.max:
            continue
        labels = asarray(np.asarray([3, label, 40], dtype=integer))
        value, gradient = kernels.softmax_cross_entropy(logits, labels)
        assert math.isnan(float(value))
        np.testing.assert_array_equal(np.isnan(fetch(gradient)).any(axis=1), [False, True, False])
        layers = kernels.init((2, classes), like=logits)
        with pytest.raises(ValueError, match=rf"expected labels in .*, got {label}$"):
            kernels.fit(
                layers,
                asarray(np.ones((3, 2)), "float32"),
                labels,
                learning_rate=0.1,
                steps=1,
                loss=kernels.softmax_cross_entropy,
            )


@pytest.mark.library("jax")
def test_labels_in_range_make_no_nan(asarray):
    import jax

    with jax.debug_nans(True):
        kernels.softmax_cross_entropy(asarray(np.zeros((2, 3)), "float32"), asarray([0, 2]))


def test_labels_and_their_one_hot_probabilities_agree(asarray, dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(7, size=20)
    logits = asarray(rng.normal(size=(20, 7)), dtype)
    from_labels = kernels.softmax_cross_entropy(logits, asarray(labels))
    from_one_hot = kernels.softmax_cross_entropy(logits, asarray(one_hot(labels, 7), dtype))
    for a, b in zip(from_labels, from_one_hot, strict=True):
        assert_close(a, b, rtol=0.0)


def test_a_class_that_cannot_be_right_costs_infinitely_much(asarray, dtype):
    logits = asarray([[0.0, -INF]], dtype)
    for target in (asarray(np.asarray([1])), asarray([[0.0, 1.0]], dtype)):
        value, gradient = kernels.softmax_cross_entropy(logits, target)
        assert float(value) == INF
        np.testing.assert_array_equal(fetch(gradient), [[1.0, -1.0]])


@pytest.mark.parametrize("wrong", [-1, 3, 100])
def test_a_label_out_of_range_makes_nan(asarray, dtype, wrong):
    logits = asarray(np.zeros((2, 3)), dtype)
    value, gradient = kernels.softmax_cross_entropy(logits, asarray(np.asarray([0, wrong])))
    assert math.isnan(float(value))
    gradient = fetch(gradient)
    assert np.all(np.isfinite(gradient[0]))
    assert np.all(np.isnan(gradient[1]))


# NumPy warns of the infinity minus infinity that makes the NaN.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [math.nan, INF], ids=["nan", "inf"])
def test_logits_that_are_not_numbers_are_seen(asarray, dtype, bad):
    for target in (np.asarray([0, 1]), one_hot([0, 1], 3)):
        placed = asarray(target, None if target.ndim == 1 else dtype)
        logits = asarray([[1.0, 2.0, bad], [1.0, 2.0, 3.0]], dtype)
        assert not math.isfinite(float(kernels.softmax_cross_entropy(logits, placed)[0]))
        p = asarray([[0.5, 0.5, bad], [0.0, 1.0, 0.0]], dtype)
        ok = asarray(np.zeros((2, 3)), dtype)
        assert not math.isfinite(float(kernels.softmax_cross_entropy(ok, p)[0]))
    value, gradient = kernels.squared_error(
        asarray([[bad, 1.0]], dtype), asarray([[0.0, 1.0]], dtype)
    )
    assert not math.isfinite(float(value))
    assert not np.isfinite(fetch(gradient)[0, 0])
    assert fetch(gradient)[0, 1] == 0.0


def test_squared_error_of_nothing_is_zero(asarray, dtype):
    value, gradient = kernels.squared_error(
        asarray(np.zeros((0, 3)), dtype), asarray(np.zeros((0, 3)), dtype)
    )
    assert float(value) == 0.0
    assert gradient.shape == (0, 3)


def test_a_sample_without_weight_counts_nothing(asarray, dtype):
    logits = asarray([[1.0, 2.0], [0.0, math.log(3.0)]], dtype)
    value, gradient = kernels.softmax_cross_entropy(
        logits, asarray([[0.0, 0.0], [1.0, 0.0]], dtype)
    )
    assert_close(value, asarray(np.asarray(math.log(4.0) / 2), dtype), **tolerance(dtype))
    assert_close(gradient, asarray([[0.0, 0.0], [-0.375, 0.375]], dtype), **tolerance(dtype))


def test_a_loss_cannot_change_the_targets(asarray, dtype):
    """Whatever it does with them through the numerics."""

    def loss(prediction, target, *, numerics):
        gradient = numerics.add(target, prediction)
        return numerics.sum(numerics.sum(gradient, axis=0, keepdims=True), axis=1)[0], gradient

    x, y = asarray(np.ones((2, 1)), dtype), asarray(np.zeros((2, 1)), dtype)
    for numerics in (kernels.NATIVE, kernels.EXACT):
        layers = (kernels.Layer(asarray(np.ones((1, 1)), dtype)),)
        kernels.fit(layers, x, y, learning_rate=0.1, steps=5, loss=loss, numerics=numerics)
        np.testing.assert_array_equal(fetch(y), np.zeros((2, 1)))


RETURNED = {
    "value of shape (1, 1)": (
        lambda p: (p[:1, :1], p),
        ValueError,
        r"expected the value that the loss returns of shape \(\), got shape \(1, 1\)",
    ),
    "gradient of one row": (
        lambda p: (p[0, 0], p[:1, :]),
        ValueError,
        r"expected the gradient that the loss returns of shape \(2, 1\), got shape \(1, 1\)",
    ),
    "number": (
        lambda p: (1.0, p),
        TypeError,
        "expected the value that the loss returns to be an array, got float",
    ),
    "no gradient": (
        lambda p: p[0, 0],
        TypeError,
        r"expected a loss that returns \(value, gradient\), got ",
    ),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_loss_must_return(backend, name):
    make, error, message = RETURNED[name]
    x = backend.asarray(np.ones((2, 1)), "float32")
    layers = (kernels.Layer(backend.asarray(np.ones((1, 1)), "float32")),)

    def loss(prediction, target, *, numerics):
        return make(prediction)

    with pytest.raises(error, match=message):
        kernels.step(layers, x, x, learning_rate=0.1, loss=loss)
    with pytest.raises(error, match=message):
        kernels.fit(layers, x, x, learning_rate=0.1, steps=2, loss=loss)

"""L-BFGS: it finds minima, with the same bits on every library, and says why it ended."""

import math

import numpy as np
import pytest
from _assert import assert_alike, assert_identical, fetch
from array_api_compat import array_namespace

import kernels
from kernels import EXACT, NATIVE
from kernels.lbfgs import minimize

# Squares of the axes of the ellipses on which the sum of squares is constant: 1 to 10,000.
A = np.random.default_rng(0).normal(size=(12, 6)) * np.logspace(0, 2, 6)
SOLUTION = np.asarray([1.0, -2.0, 0.5, 3.0, -0.25, 0.125])


def squares(asarray, dtype, numerics):
    """The squared error of A x, whose least is 0 at SOLUTION."""
    a, b = asarray(A, dtype), asarray((A @ SOLUTION)[:, np.newaxis], dtype)
    xp = array_namespace(a)

    def function(x):
        prediction = numerics.matmul(a, xp.reshape(x, (-1, 1)))
        value, gradient = kernels.squared_error(prediction, b, numerics=numerics)
        return value, xp.reshape(numerics.matmul(a.T, gradient), (-1,))

    return function, asarray(np.zeros(6), dtype)


def valley(x):
    """Rosenbrock's function in two dimensions, whose least is 0 at (1, 1)."""
    a, b = x[0], x[1]
    slope = np.stack([-400.0 * a * (b - a * a) - 2.0 * (1.0 - a), 200.0 * (b - a * a)])
    return 100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2, slope


# JAX compiles for each number of corrections that are kept.
@pytest.mark.thorough("jax")
@pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
def test_least_squares(asarray, dtype, numerics):
    function, x = squares(asarray, dtype, numerics)
    found = minimize(function, x, numerics=numerics, value_tolerance=0.0, max_steps=100)
    assert_alike(found.x, x)
    error = {"float32": 1e-3, "float64": 1e-7}[dtype]
    np.testing.assert_allclose(fetch(found.x), SOLUTION, rtol=0.0, atol=error)
    # The gradient at the minimum is only rounded to zero in float64.
    assert found.reason == "gradient" or dtype == "float32"
    assert found.steps < 60


def test_bits_are_those_of_numpy(asarray, backend, dtype):
    # As above.
    steps = 2 if backend.name.startswith("jax") else 4
    function, x = squares(asarray, dtype, EXACT)
    found = minimize(function, x, numerics=EXACT, max_steps=steps)
    expected = minimize(*squares(np.asarray, dtype, EXACT), numerics=EXACT, max_steps=steps)
    assert_identical(found.x, asarray(expected.x))
    assert found[1:] == expected[1:]
    assert expected.steps == steps


def test_a_curved_valley_is_followed():
    seen = []
    found = minimize(
        valley,
        np.asarray([-1.2, 1.0]),
        gradient_tolerance=1e-9,
        value_tolerance=0.0,
        progress=lambda step, value: seen.append((step, value)),
    )
    np.testing.assert_allclose(found.x, [1.0, 1.0], rtol=1e-8)
    assert [step for step, _ in seen] == list(range(1, found.steps + 1))
    values = [value for _, value in seen]
    assert values == sorted(values, reverse=True)
    assert values[-1] == found.value
    # SciPy's takes 38 steps and 46 calls.
    assert found.steps <= 45
    assert found.calls <= 60


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"max_steps": 3}, "steps"),
        ({"max_calls": 4}, "calls"),
        ({"gradient_tolerance": 1e3}, "gradient"),
        ({"value_tolerance": 1.0}, "value"),
    ],
)
def test_why_it_ended(given, reason):
    found = minimize(valley, np.asarray([-1.2, 1.0]), **given)
    assert found.reason == reason
    assert found.steps <= given.get("max_steps", math.inf)


def test_no_lower_point():
    """The gradient says that the function falls where it rises."""
    x = np.asarray([1.0, 2.0])
    found = minimize(lambda x: (np.sum(x * x), -2.0 * x), x)
    assert (found.reason, found.steps) == ("line", 0)
    assert_identical(found.x, x)


def test_gradient_near_the_largest_number():
    x = np.asarray([1.0, 2.0])
    with np.errstate(all="ignore"):
        found = minimize(lambda x: (np.sum(x), np.full_like(x, 1.5e308)), x)
    assert (found.reason, found.steps) == ("line", 0)


def test_what_is_not_finite_is_not_entered():
    """A logarithm ends at 0."""

    def function(x):
        with np.errstate(all="ignore"):
            return np.sum(x - np.log(x)), 1.0 - 1.0 / x

    found = minimize(function, np.asarray([20.0, 0.01]))
    np.testing.assert_allclose(found.x, [1.0, 1.0], rtol=1e-4)


def test_arrays_of_the_function_may_be_used_again():
    """It may compute in the place of x, and in one array for all gradients."""
    gradient = np.zeros(2)

    def function(x):
        value, gradient[...] = valley(x)
        x -= 1.0
        return value, gradient

    x = np.asarray([-1.2, 1.0])
    found, expected = minimize(function, x), minimize(valley, x)
    assert_identical(found.x, expected.x)
    assert found[1:] == expected[1:]
    np.testing.assert_array_equal(x, [-1.2, 1.0])


def test_numbers_of_numpy_are_numbers():
    """Unsigned ones have no negative."""
    x = np.asarray([-1.2, 1.0])
    found = minimize(valley, x, memory=np.uint8(3))
    assert found[1:] == minimize(valley, x, memory=3)[1:]


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (lambda x: np.sum(x), ValueError, r"the gradient that .* shape \(2,\), got shape \(\)"),
        (lambda x: x[:1], ValueError, r"the gradient that .* shape \(2,\), got shape \(1,\)"),
        (lambda x: x.astype("float32"), TypeError, "the gradient that .* float64, .* got float32"),
    ],
)
def test_no_gradient(gradient, error, message):
    """Of another shape it would be taken for that of each element."""
    with pytest.raises(error, match=message):
        minimize(lambda x: (np.sum(x * x), gradient(x)), np.asarray([1.0, 2.0]))


@pytest.mark.parametrize(
    ("x", "given", "error", "message"),
    [
        (np.zeros((2, 1)), {}, ValueError, r"expected x of shape \(n,\), got shape \(2, 1\)"),
        (np.zeros(2), {"max_steps": 0}, ValueError, "expected max_steps of 1 or more, got 0"),
        (np.zeros(2), {"memory": 0}, ValueError, "expected memory of 1 or more, got 0"),
        (np.zeros(2), {"value_tolerance": -1.0}, ValueError, "value_tolerance"),
        (np.zeros(2, "int64"), {}, TypeError, "int64"),
    ],
)
def test_mistakes(x, given, error, message):
    with pytest.raises(error, match=message):
        minimize(valley, x, **given)

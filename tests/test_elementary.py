"""The elementary functions: the same bits everywhere, and as accurate as they say."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from _assert import assert_alike, bits, fetch
from _params import thorough, where

from kernels.numerics import elementary

pytestmark = pytest.mark.every_dtype

FUNCTIONS = {
    name: getattr(elementary, name)
    for name in ("exp", "log", "expm1", "tanh", "logistic", "softplus", "sqrt")
}

# Below the first exp is 0, above the second infinite, as its docstring says.
RANGE = {"float32": (-86.0, 88.7228), "float64": (-707.0, 709.7827)}


def neighbours(x, dtype):
    """Each number, the one below and the one above."""
    x = np.asarray(x).astype(dtype)
    return np.concatenate([np.nextafter(x, dtype(-np.inf)), x, np.nextafter(x, dtype(np.inf))])


def exp_points(dtype):
    """Normal, tiny, near the middles between entries of the table, and the ends of the range."""
    low, high = RANGE[dtype]
    kind = np.dtype(dtype).type
    rng = np.random.default_rng(0)
    tiny = 10.0 ** rng.uniform(-30, 0, 300) * rng.choice([-1.0, 1.0], 300)
    k = np.concatenate([np.arange(-260, 261), rng.integers(low * 369, high * 369, 300)])
    steps = (k / 2.0) * math.log(2) / 256
    ends = [low, high - 1e-4, -1.0, 1.0, 0.5, -math.log(2), math.log(2)]
    x = np.concatenate(
        [
            rng.normal(size=300).astype(kind),
            rng.uniform(low, high, 300).astype(kind),
            tiny.astype(kind),
            neighbours(steps, kind),
            neighbours(ends, kind),
        ]
    )
    return x[(x >= low) & (x <= high)]


def log_points(dtype):
    """Normal, tiny, huge, near 1, near entries of the table, near sqrt(2), and powers of two."""
    kind = np.dtype(dtype).type
    limits = np.finfo(dtype)
    rng = np.random.default_rng(1)
    low, high = math.log(limits.tiny), math.log(limits.max)
    near = 1.0 + 2.0 ** rng.uniform(-limits.nmant, -2, 300) * rng.choice([-1.0, 1.0], 300)
    table = (1.0 + np.arange(257) / 256) * 2.0 ** rng.integers(-3, 4, 257)
    marks = [1.0, math.sqrt(2), math.sqrt(0.5), (256 + 107) / 256, math.e, 2.0, 0.5]
    powers = 2.0 ** np.arange(limits.minexp + 1, limits.maxexp, 7)
    x = np.concatenate(
        [
            np.exp(rng.uniform(low + 1, high - 1, 300)).astype(kind),
            rng.uniform(0.1, 10.0, 300).astype(kind),
            near.astype(kind),
            neighbours(table, kind),
            neighbours(marks, kind),
            neighbours(powers, kind),
            np.asarray([limits.tiny, limits.max], kind),
        ]
    )
    return x[(x >= limits.tiny) & np.isfinite(x)]


def near_points(dtype):
    """Of all sizes near 0, where one way of computing ends and another begins, and near the end."""
    kind = np.dtype(dtype).type
    rng = np.random.default_rng(3)
    edges = [2.0**-15, 2.0**-16, 2.0**-4, 2.0**-3, math.log(16), 31 * math.log(2), 20.0, 40.0, 1e-3]
    near = np.multiply.outer(edges, 1.0 + rng.uniform(-0.02, 0.02, 60)).ravel()
    sizes = np.concatenate([near, 2.0 ** rng.uniform(-60, 6, 300)])
    x = np.concatenate(
        [sizes.astype(kind), -sizes.astype(kind), neighbours(edges, kind), exp_points(dtype)]
    )
    # Subnormal numbers are taken for 0.
    return x[(np.abs(x) >= np.finfo(dtype).tiny) | (x == 0.0)]


POINTS = {"exp": exp_points, "log": log_points, "sqrt": log_points} | dict.fromkeys(
    ("expm1", "tanh", "logistic", "softplus"), near_points
)

# Units in the last place.
BOUNDS = {
    "exp": (0.55, 0.55),
    "log": (0.51, 1.0),
    "expm1": (0.51, 2.0),
    "tanh": (0.51, 2.0),
    "logistic": (0.51, 2.7),
    "softplus": (0.51, 2.5),
    "sqrt": (0.5, 0.5),
}


def exact_value(name, x):
    """Compute to many digits."""
    if name in ("exp", "sqrt"):
        return getattr(x, name)()
    if name == "log":
        return x.ln()
    if name == "expm1":
        return x.exp() - 1
    if name == "tanh":
        return ((2 * x).exp() - 1) / ((2 * x).exp() + 1)
    z = x.exp()
    if name == "logistic":
        return z / (1 + z)
    return z - z * z / 2 if z < Decimal("1e-40") else (1 + z).ln()


# At least as many as the points of a test.
LENGTH = 8000


def evaluate(name, x, asarray, dtype):
    """Compute a function of numbers in an array of one length, since JAX compiles for each."""
    a = asarray(np.resize(x, LENGTH), dtype)
    result = FUNCTIONS[name](a)
    assert_alike(result, a)
    return fetch(result)[: len(x)]


def special(dtype):
    """What lies at and outside the ends."""
    limits = np.finfo(dtype)
    low, high = RANGE[dtype]
    outside = [np.nextafter(np.dtype(dtype).type(low), -np.inf), high + 1e-4, -1e9, 1e9]
    zeros = [0.0, -0.0, limits.smallest_subnormal, -limits.smallest_subnormal, -limits.tiny]
    rest = [np.inf, -np.inf, np.nan, -1.0, limits.max, -limits.max]
    return np.asarray([*outside, *zeros, *rest], dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_equal_those_of_numpy(asarray, dtype, name):
    """Every backend gives the bits that NumPy gives, whatever comes in."""
    x = np.concatenate([near_points(dtype), log_points(dtype), special(dtype)])
    got = evaluate(name, x, asarray, dtype)
    np.testing.assert_array_equal(bits(got), bits(FUNCTIONS[name](x)), strict=True)


@pytest.mark.library("jax")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_compiled(backend, asarray, dtype, name):
    """A compiler changes none. Those of other libraries, which take long, compile training."""
    x = np.resize(np.concatenate([near_points(dtype), log_points(dtype), special(dtype)]), LENGTH)
    got = backend.compile(FUNCTIONS[name])(asarray(x, dtype))
    np.testing.assert_array_equal(bits(got), bits(FUNCTIONS[name](x)), strict=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_do_not_depend_on_the_neighbours(asarray, dtype, name):
    """An element's result is the same at another place of an array."""
    x = POINTS[name](dtype)
    order = np.random.default_rng(2).permutation(len(x))
    result = bits(evaluate(name, x, asarray, dtype))
    moved = bits(evaluate(name, x[order], asarray, dtype))
    np.testing.assert_array_equal(result[order], moved, strict=True)


@pytest.mark.thorough
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(asarray, dtype, name):
    """The error in units in the last place is within what the docstring says."""
    x = POINTS[name](dtype)
    got = evaluate(name, x, asarray, dtype)
    digits = np.finfo(dtype).nmant
    worst = Decimal(0)
    with localcontext(prec=90):
        for a, y in zip(x.tolist(), got.tolist(), strict=True):
            exact = exact_value(name, Decimal(a))
            if exact == 0:
                assert y == 0.0
                continue
            unit = Decimal(math.ldexp(1.0, math.frexp(exact)[1] - 1 - digits))
            error = abs(Decimal(y) - exact)
            if (name, dtype) == ("log", "float64"):
                error = max(Decimal(0), error - Decimal(2) ** -56)
            worst = max(worst, error / unit)
    assert worst < BOUNDS[name][dtype == "float64"]
    # The points are hard enough to be worth the test.
    assert worst > 0.45


def test_special_values_of_exp(asarray, dtype):
    """Zero gives one, and outside the range comes 0, infinity or NaN."""
    limits = np.finfo(dtype)
    low, high = RANGE[dtype]
    below = np.nextafter(np.dtype(dtype).type(low), -np.inf)
    x = [0.0, -0.0, np.inf, -np.inf, np.nan, high + 1e-4, below, limits.max, -limits.max]
    x += [limits.smallest_subnormal, -limits.smallest_subnormal]
    desired = [1.0, 1.0, np.inf, 0.0, np.nan, np.inf, 0.0, np.inf, 0.0, 1.0, 1.0]
    got = evaluate("exp", x, asarray, dtype)
    np.testing.assert_array_equal(got, np.asarray(desired, dtype), strict=True)
    assert not np.any(np.signbit(got[np.isfinite(got)]))


def test_special_values_of_log(asarray, dtype):
    """One gives +0, zeros and subnormals minus infinity, negative numbers NaN."""
    limits = np.finfo(dtype)
    x = [1.0, 0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -limits.tiny, -limits.max]
    x += [limits.smallest_subnormal, np.nextafter(limits.tiny, np.dtype(dtype).type(0))]
    nan = np.nan
    desired = [0.0, -np.inf, -np.inf, np.inf, nan, nan, nan, nan, nan, -np.inf, -np.inf]
    got = evaluate("log", x, asarray, dtype)
    np.testing.assert_array_equal(got, np.asarray(desired, dtype), strict=True)
    assert not np.signbit(got[0])


@pytest.mark.parametrize("name", ["expm1", "tanh", "logistic", "softplus", "sqrt"])
def test_special_values_of_the_others(asarray, dtype, name):
    """What is too small gives what 0 does, NaN stays NaN, and what is too large ends somewhere."""
    limits = np.finfo(dtype)
    tiny = limits.smallest_subnormal
    x = [0.0, -0.0, tiny, -tiny, np.nan, np.inf, -np.inf, limits.max, -limits.max]
    at_zero, high, low = {
        "expm1": (0.0, np.inf, -1.0),
        "tanh": (0.0, 1.0, -1.0),
        "logistic": (0.5, 1.0, 0.0),
        "softplus": (np.log(np.asarray(2.0, dtype)), np.inf, 0.0),
        "sqrt": (0.0, np.inf, np.nan),
    }[name]
    desired = [*[at_zero] * 4, np.nan, high, low, high, low]
    if name == "softplus":
        desired[7] = limits.max
    if name == "sqrt":
        desired[7] = np.sqrt(limits.max)
    got = evaluate(name, x, asarray, dtype)
    np.testing.assert_array_equal(got, np.asarray(desired, dtype), strict=True)
    assert not np.any(np.signbit(got[:4]))


@pytest.mark.parametrize("off", [-1.0, 1.0])
def test_roots_of_libraries_may_be_a_unit_off(off):
    """Next to powers of four too, where units below are half as large."""
    x = np.concatenate([neighbours(4.0 ** np.arange(-3, 4), np.float64), log_points("float64")])
    x = x[(x > 2.0**-500) & (x < 2.0**500)]
    wrong = np.nextafter(np.sqrt(x), off * np.inf)
    np.testing.assert_array_equal(elementary._rounded_root(x, wrong, np), np.sqrt(x))


@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 3),
        *where(pytest.mark.thorough("jax"), ()),
        *thorough((0,), (0, 3), (1, 1), (2, 3)),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shape_is_kept(asarray, dtype, name, shape):
    """Any shape, with or without elements, comes out as it went in."""
    a = asarray(np.ones(shape), dtype)
    assert_alike(FUNCTIONS[name](a), a)

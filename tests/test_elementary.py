"""The exponential and the logarithm: the same bits everywhere, and as accurate as they say."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from _assert import assert_alike, bits, fetch
from _params import thorough

from kernels.numerics import elementary

pytestmark = pytest.mark.every_dtype

FUNCTIONS = {"exp": elementary.exp, "log": elementary.log}

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


POINTS = {"exp": exp_points, "log": log_points}


# At least as many as the points of a test.
LENGTH = 6000


def evaluate(name, x, asarray, dtype):
    """Compute exp or log of numbers in an array of one length, since JAX compiles for each."""
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
    x = np.concatenate([POINTS["exp"](dtype), POINTS["log"](dtype), special(dtype)])
    got = evaluate(name, x, asarray, dtype)
    np.testing.assert_array_equal(bits(got), bits(FUNCTIONS[name](x)), strict=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_do_not_depend_on_the_neighbours(asarray, dtype, name):
    """An element's result is the same at another place of an array."""
    x = POINTS[name](dtype)
    order = np.random.default_rng(2).permutation(len(x))
    result = bits(evaluate(name, x, asarray, dtype))
    moved = bits(evaluate(name, x[order], asarray, dtype))
    np.testing.assert_array_equal(result[order], moved, strict=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(asarray, dtype, name):
    """The error in units in the last place is within what the docstring says."""
    x = POINTS[name](dtype)
    got = evaluate(name, x, asarray, dtype)
    digits = np.finfo(dtype).nmant
    worst = Decimal(0)
    with localcontext(prec=60):
        for a, y in zip(x.tolist(), got.tolist(), strict=True):
            exact = Decimal(a).exp() if name == "exp" else Decimal(a).ln()
            if exact == 0:
                assert y == 0.0
                continue
            unit = Decimal(math.ldexp(1.0, math.frexp(exact)[1] - 1 - digits))
            error = abs(Decimal(y) - exact)
            if (name, dtype) == ("log", "float64"):
                error = max(Decimal(0), error - Decimal(2) ** -56)
            worst = max(worst, error / unit)
    bound = {"exp": 0.55, "log": 0.51 if dtype == "float32" else 1.0}[name]
    assert worst < bound
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


@pytest.mark.parametrize("shape", [(), (2, 1, 3), *thorough((0,), (0, 3), (1, 1), (2, 3))])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shape_is_kept(asarray, dtype, name, shape):
    """Any shape, with or without elements, comes out as it went in."""
    a = asarray(np.ones(shape), dtype)
    assert_alike(FUNCTIONS[name](a), a)

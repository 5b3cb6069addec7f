"""Exponential and logarithm with the same bits everywhere.

The work is done on integers, in int64 fixed point with 60 fractional bits, where nothing depends
on a library or a compiler. Arguments are brought near 0 or 1 with tables of 256 entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any, cast

from array_api_compat import array_namespace

from .._derivatives import undifferentiated
from .._host import placement
from .._typing import Array

_BITS = 60
_HALF = 2 ** (_BITS - 1)
_MASK = 2**30 - 1

# The first entry above sqrt(2), from where a logarithm counts down from the next power of two.
_UPPER = 107

with localcontext(prec=30):
    _LN2 = Decimal(2).ln()
    _STEPS = int(256 / _LN2 * 2**20)
    # ln 2 / 256 in parts of 34 bits, ln 2 in parts of 42: products with whole numbers are exact.
    _STEP = int(_LN2 * 2**34) * 2.0**-42, int(_LN2 * 2**68) % 2**34 * 2.0**-76
    _OCTAVE = int(_LN2 * 2**42) * 2.0**-42, int(_LN2 * 2**84) % 2**42 * 2.0**-84
    # 2**(i / 256)
    _POWERS = tuple(round((i * _LN2 / 256).exp() * 2**_BITS) for i in range(256))
    # 1 / (1 + i / 256) with 9 fractional bits, and minus its logarithm, from _UPPER on less ln 2.
    _RECIPROCALS = tuple(512 * 256 // (256 + i) for i in range(256))
    _LOGARITHMS = tuple(
        round(((512 / Decimal(c)).ln() - (i >= _UPPER) * _LN2) * 2**_BITS)
        for i, c in enumerate(_RECIPROCALS)
    )
_OCTAVES = tuple(2.0 ** (1022 - 32 * i) for i in range(64))


def exp(a: Array) -> Array:
    """Take the exponential of each element.

    With k = round(256 a / ln 2) and r = a - k ln 2 / 256, exp(a) = 2**(k / 256) * exp(r): the
    first factor is a power of two and an entry of a table, the second a polynomial. The error is
    below 0.55 units in the last place. Below -86 (float32) and -707 (float64), near the smallest
    normal number, the result is 0; above the range it is infinite; NaN stays NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> exp(np.asarray([0.0, 1.0]))
    array([1.        , 2.71828183])
    """
    xp = array_namespace(a)
    lowest, highest = (-707.0, 709.7827) if a.dtype == xp.float64 else (-86.0, 88.7228)
    x = float64_of(a, xp)
    inside = (x >= lowest) & (x <= highest)
    x = xp.where(inside, x, xp.zeros_like(x))
    k = (xp.astype(x * 2.0**14, xp.int64) * _STEPS + 2**33) >> 34
    steps = xp.astype(k, xp.float64)
    r = xp.astype(((x - steps * _STEP[0]) - steps * _STEP[1]) * 2.0**_BITS, xp.int64)
    tail = _polynomial(r, (720, 120, 24, 6))
    r = r + _multiply(_square(r), _HALF + _multiply(r, tail))
    power = _look_up(_POWERS, k & 255, xp.int64, xp)
    y = _to_float(power + _multiply(power, r), xp)
    n = (k >> 8) + 1022
    y = y * xp.astype(xp.bitwise_left_shift(xp.ones_like(n), n & 31), xp.float64)
    # A quotient, since XLA computes all else anew wherever it is used. Rounded before a choice, so
    # that no compiler takes this and a later widening for nothing.
    y = xp.astype(y / _look_up(_OCTAVES, n >> 5, xp.float64, xp), a.dtype)
    outside = xp.where(a < 0.0, xp.zeros_like(y), xp.full_like(y, float("inf")))
    return cast(Array, xp.where(inside, y, xp.where(a == a, outside, a)))


def log(a: Array) -> Array:
    """Take the natural logarithm of each element.

    With a = 2**e * m, m in [1, 2), c near 1 / m from a table and u = c m - 1,
    log(a) = e ln 2 - log(c) + log(1 + u), the last a polynomial. The error is below 0.51 units in
    the last place of a float32, and for float64 below 1 unit plus 2**-56. Zero and subnormal
    numbers give -infinity, a negative number NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> log(np.asarray([1.0, 10.0]))
    array([0.        , 2.30258509])
    """
    xp = array_namespace(a)
    tiny = 2.0**-1022 if a.dtype == xp.float64 else 2.0**-126
    normal = (a >= tiny) & (a < float("inf"))
    x = float64_of(xp.where(normal, a, xp.ones_like(a)), xp)
    # Nearer to 1, so that the reciprocal of a power of two, by which XLA may multiply, is normal.
    far = xp.astype(x < 2.0**-500, xp.float64) - xp.astype(x > 2.0**500, xp.float64)
    x = x * xp.where(far > 0.0, xp.full_like(x, 2.0**600), xp.ones_like(x))
    x = x * xp.where(far < 0.0, xp.full_like(x, 2.0**-600), xp.ones_like(x))
    power = power_of_two(x)
    # log2 of a power of two is an integer, and no library is wrong by half.
    e = xp.round(xp.log2(power)) - far * 600.0
    m = xp.astype(x / power * 2.0**52, xp.int64)
    i = (m >> 44) - 256
    e = e + xp.astype(i >= _UPPER, xp.float64)
    u = ((m * _look_up(_RECIPROCALS, i, xp.int64, xp)) >> 1) - 2**_BITS
    tail = _polynomial(u, (-8, 7, -6, 5, -4, 3))
    y = u - _multiply(_square(u), _HALF - _multiply(u, tail))
    y = _to_float(y + _look_up(_LOGARITHMS, i, xp.int64, xp), xp)
    # These change nothing. XLA computes all but a quotient anew wherever it is used; and if it knew
    # e and not y, it would add the two products first.
    y = y / xp.where(y == y, xp.ones_like(y), y)
    e = xp.where(y == y, e, y)
    y = xp.astype(e * _OCTAVE[0] + (y + e * _OCTAVE[1]), a.dtype)
    infinity = xp.full_like(y, float("inf"))
    outside = xp.where(xp.abs(a) < tiny, -infinity, infinity)
    # No array of NaN, which JAX can be told to look for.
    outside = xp.where((a > -tiny) & (a == a), outside, float("nan"))
    return cast(Array, xp.where(normal, y, outside))


def float64_of(a: Array, xp: Any) -> Array:
    """Copy to float64; raise TypeError if the library has none, or differentiates through it."""
    a = undifferentiated(xp.astype(a, xp.float64), xp)
    if a.dtype != xp.float64:
        raise TypeError(
            f"expected a library with float64 for exact numerics, got {a.dtype} from "
            f"{xp.__name__}; with JAX set JAX_ENABLE_X64=1"
        )
    return a


def power_of_two(m: Array) -> Array:
    """Find the power of two in (m / 2, m].

    Without frexp, which the standard lacks: the difference of m * 2**52 + m, rounded, and the
    float64 below it is that power (Rump, Ogita, Oishi 2008, "Accurate floating-point summation
    part I", SIAM J. Sci. Comput. 31). Each product is by a power of two.
    """
    q = m * 2.0**52 + m
    return q - (q - q * 2.0**-53)


def _polynomial(x: Array, inverses: Sequence[int]) -> Array:
    """Evaluate the polynomial with these inverse coefficients, highest first, to 34 bits."""
    x = x >> 26
    total: Any = 2**34 // inverses[0]
    for inverse in inverses[1:]:
        total = ((total * x) >> 34) + 2**34 // inverse
    return cast(Array, total << 26)


def _multiply(a: Array, b: Array) -> Array:
    """Multiply fixed-point numbers of magnitude below 2; the error is below 2**-58."""
    a_high, b_high = a >> 30, b >> 30
    return a_high * b_high + ((a_high * (b & _MASK) + (a & _MASK) * b_high) >> 30)


def _square(a: Array) -> Array:
    """Multiply as `_multiply` does, an array by itself."""
    high = a >> 30
    return high * high + ((high * (a & _MASK)) >> 29)


def _to_float(a: Array, xp: Any) -> Array:
    """Convert fixed point to float64 with one rounding."""
    high, low = xp.astype(a >> 30, xp.float64), xp.astype(a & _MASK, xp.float64)
    return cast(Array, high * 2.0**-30 + low * 2.0**-60)


def _look_up(table: Sequence[float], index: Array, dtype: Any, xp: Any) -> Array:
    values = xp.asarray(table, dtype=dtype, **placement(index))
    found = xp.take(values, xp.reshape(index, (-1,)), axis=0)
    return cast(Array, xp.reshape(found, index.shape))

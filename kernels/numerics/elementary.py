"""Exponential and logarithm with the same bits everywhere.

The work is done on integers, in int64 fixed point, where nothing depends on a library or a
compiler: addition, multiplication and shifts that cannot overflow.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from typing import Any, cast

from array_api_compat import array_namespace

from .._typing import Array

_MASK = 2**30 - 1


def exp(a: Array) -> Array:
    """Take the exponential of each element.

    With n = round(a / ln 2) and r = a - n ln 2, exp(a) = 2**n * exp(r), and exp(r) is its Taylor
    polynomial, with 30 fractional bits for float32 and 60 for float64. The error is below 0.52
    units in the last place for float32 and 1 unit for float64. Below -86 (float32) and -707
    (float64), near the smallest normal number, the result is 0; above the range it is infinite; NaN
    stays NaN.

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
    double = a.dtype == xp.float64
    lowest, highest = (-707.0, 709.7827) if double else (-86.0, 88.7228)
    x = xp.astype(a, xp.float64)
    inside = (x >= lowest) & (x <= highest)
    x = xp.where(inside, x, xp.zeros_like(x))
    whole = xp.floor(x * 2.0**52)
    fixed = xp.astype(whole, xp.int64)
    n = ((fixed >> 30) * _constant("1/ln2", 24) + 2**45) >> 46
    # ln 2 in two parts: n times the first stays below 2**62, the second continues it to 70 bits.
    ln2 = _constant("ln2", 70)
    r = ((fixed - n * (ln2 >> 18)) << 8) - ((n * (ln2 & (2**18 - 1))) >> 10)
    r = r + xp.astype(xp.floor((x * 2.0**52 - whole) * 256.0), xp.int64)
    if double:
        y = _polynomial(r, _inverse_factorials(16, 60), 60)
        y = _to_float(y, 60, xp)
    else:
        y = _polynomial(r >> 30, _inverse_factorials(9, 30), 30)
        y = xp.astype(y, xp.float64) * 2.0**-30
    half = n >> 1
    y = y * _power_of_two(half, xp) * _power_of_two(n - half, xp)
    y = xp.where(inside, y, xp.where(a < 0.0, xp.zeros_like(y), xp.full_like(y, float("inf"))))
    return cast(Array, xp.astype(xp.where(a == a, y, xp.full_like(y, float("nan"))), a.dtype))


def log(a: Array) -> Array:
    """Take the natural logarithm of each element.

    With a = 2**e * m, m in [3/4, 3/2), and z = (m - 1) / (m + 1),
    log(a) = e ln 2 + 2 (z + z**3 / 3 + z**5 / 5 + ...), the series with 60 fractional bits. The
    error is below 1 unit in the last place of a float32, and for float64 below 1 unit plus 2**-54.
    Zero gives -infinity, a negative number NaN; subnormal numbers count as zero.

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
    m = xp.astype(xp.where(normal, a, xp.ones_like(a)), xp.float64)
    small = m < 1.0
    m = xp.where(small, m * 2.0**1022, m)
    e = xp.where(small, xp.full_like(m, -1022.0), xp.zeros_like(m))
    for power in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        large = m >= 2.0**power
        m = xp.where(large, m * 2.0**-power, m)
        e = xp.where(large, e + power, e)
    large = m >= 1.5
    m = xp.where(large, m * 0.5, m)
    e = xp.where(large, e + 1.0, e)
    z = xp.astype(xp.floor((m - 1.0) / (m + 1.0) * 2.0**60), xp.int64)
    series = _polynomial(_multiply(z, z, 60), _odd_inverses(13, 60), 60)
    # Parts of ln 2 with 42 bits each: their products with e are exact.
    high = (_constant("ln2", 84) >> 42) * 2.0**-42
    low = (_constant("ln2", 84) & (2**42 - 1)) * 2.0**-84
    y = e * high + (2.0 * _to_float(_multiply(z, series, 60), 60, xp) + e * low)
    outside = xp.where(
        a == float("inf"),
        xp.full_like(y, float("inf")),
        xp.where(
            (a > -tiny) & (a < tiny), xp.full_like(y, -float("inf")), xp.full_like(y, float("nan"))
        ),
    )
    return cast(Array, xp.astype(xp.where(normal, y, outside), a.dtype))


def _polynomial(x: Array, coefficients: tuple[int, ...], bits: int) -> Array:
    """Evaluate a polynomial in fixed point (Horner); the highest coefficient first."""
    total = x * 0 + coefficients[0]
    for coefficient in coefficients[1:]:
        total = _multiply(total, x, bits) + coefficient
    return total


def _multiply(a: Array, b: Array, bits: int) -> Array:
    """Multiply numbers below 2 in magnitude, with 30 or 60 fractional bits, rounding down."""
    if bits == 30:
        return (a * b) >> 30
    a_high, b_high = a >> 30, b >> 30
    return a_high * b_high + ((a_high * (b & _MASK) + (a & _MASK) * b_high) >> 30)


def _to_float(a: Array, bits: int, xp: Any) -> Array:
    """Convert fixed point to float64 with one rounding."""
    high, low = xp.astype(a >> 30, xp.float64), xp.astype(a & _MASK, xp.float64)
    return cast(Array, high * 2.0 ** (30 - bits) + low * 2.0**-bits)


def _power_of_two(n: Array, xp: Any) -> Array:
    """Compute 2.0**n for integers in [-512, 512), by squaring powers that fit an integer."""
    n = n + 512
    coarse = xp.astype(xp.bitwise_left_shift(xp.ones_like(n), n >> 5), xp.float64) * 2.0**-16
    for _ in range(5):
        coarse = coarse * coarse
    return cast(
        Array, coarse * xp.astype(xp.bitwise_left_shift(xp.ones_like(n), n & 31), xp.float64)
    )


@cache
def _constant(name: str, bits: int) -> int:
    """Round ln 2 or its inverse to an integer multiple of 2**-bits."""
    with localcontext() as context:
        context.prec = 60
        ln2 = Decimal(2).ln()
        return int(((ln2 if name == "ln2" else 1 / ln2) * 2**bits).to_integral_value())


@cache
def _inverse_factorials(degree: int, bits: int) -> tuple[int, ...]:
    total, coefficients = 1, []
    for i in range(degree + 1):
        total *= max(i, 1)
        coefficients.append((2**bits + total // 2) // total)
    return tuple(reversed(coefficients))


@cache
def _odd_inverses(terms: int, bits: int) -> tuple[int, ...]:
    return tuple((2**bits + i // 2) // i for i in range(2 * terms - 1, 0, -2))

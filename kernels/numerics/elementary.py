"""Exponential, logarithm, functions made of them, and square root, with the same bits everywhere.

The work is done on integers, in int64 fixed point with 60 fractional bits, where nothing depends
on a library or a compiler. Arguments are brought near 0 or 1 with tables of 256 entries. Results
near 0, of which fixed point keeps too few bits, are x over a series near 1: a quotient is rounded
once, and no compiler fuses it with a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from typing import Any, cast

from array_api_compat import array_namespace

from .._host import placement
from .._tracing import undifferentiated, unknown
from .._typing import Array

_BITS = 60
_HALF = 2 ** (_BITS - 1)
_ONE = 2**_BITS
_MASK = 2**30 - 1

# The first entry above sqrt(2), from where a logarithm counts down from the next power of two.
_UPPER = 107

# Our own, as the program may have set another.
with localcontext(
    Context(prec=30, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, clamp=0, traps=[])
):
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
    _LN2_FIXED = round(_LN2 * 2**_BITS)
_OCTAVES = tuple(2.0 ** (1022 - 32 * i) for i in range(64))

# Inverse coefficients, highest first, of the ends of series in w = x**2, from w**3 on: x coth(x),
# and s / atanh(s) with the other sign.
_OF_COTANGENT = Fraction(93555, 2), -4725, Fraction(945, 2)
_OF_ATANH = Fraction(467775, 10196), Fraction(14175, 428), Fraction(945, 44)


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
    lowest, highest = _range(a, xp)
    x = float64_of(a, xp)
    inside = (x >= lowest) & (x <= highest)
    x = xp.where(inside, x, xp.zeros_like(x))
    power, n = _exponential(x, xp)
    # Rounded before `where`, so that no compiler drops the rounding and a later widening together.
    y = xp.astype(_scaled(_to_float(power, xp), n, xp), a.dtype)
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
    tiny = _tiny(a, xp)
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
    y = _to_float(_logarithm(u, i, xp), xp)
    # These change nothing. XLA computes all but a quotient anew wherever it is used; and if it knew
    # e and not y, it would add the two products first.
    y = y / xp.where(y == y, xp.ones_like(y), y)
    e = xp.where(y == y, e, y)
    y = xp.astype(e * _OCTAVE[0] + (y + e * _OCTAVE[1]), a.dtype)
    infinity = xp.full_like(y, float("inf"))
    outside = xp.where(xp.abs(a) < tiny, -infinity, infinity)
    # NaN is no array here, since JAX's debug_nans would report one.
    outside = xp.where((a > -tiny) & (a == a), outside, float("nan"))
    return cast(Array, xp.where(normal, y, outside))


def expm1(a: Array) -> Array:
    """Take the exponential of each element, less 1.

    The difference is taken in fixed point, and near 0 it is x / (x / 2 coth(x / 2) - x / 2). The
    error is below 0.51 units in the last place of a float32 and below 2 units of a float64. It is
    infinite where `exp` is; subnormal numbers give 0; NaN stays NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> expm1(np.asarray([-1.0, 1e-10]))
    array([-6.32120559e-01,  1.00000000e-10])
    """
    xp = array_namespace(a)
    x, size = _normal(a, xp)
    below = x <= _range(a, xp)[1]
    # -1 to all digits below -40.
    t = xp.where(below & (x > -40.0), x, xp.full_like(x, -40.0))
    power, n = _exponential(t, xp)
    up, down = xp.where(n > 0, n, xp.zeros_like(n)), xp.where(n < 0, -n, xp.zeros_like(n))
    ones = xp.full_like(n, _ONE)
    y = (power >> down) - (ones >> xp.where(up < 62, up, xp.full_like(up, 62)))
    y = _scaled(_to_float(y, xp), up, xp)
    half = x * 0.5
    edge = 2.0**-3 if a.dtype == xp.float64 else 2.0**-15
    near = xp.where(size < edge, half, xp.zeros_like(x))
    fixed = xp.astype(near * 2.0**_BITS, xp.int64)
    small = x / _to_float(_times_cotangent(fixed, a, xp) - fixed, xp)
    y = xp.astype(xp.where(size < edge, small, y), a.dtype)
    y = xp.where(below, y, xp.full_like(y, float("inf")))
    return cast(Array, xp.where(a == a, y, a))


def tanh(a: Array) -> Array:
    """Take the hyperbolic tangent of each element.

    (1 - z) / (1 + z) with z = exp(-2 |a|) in fixed point, and near 0 x / (x coth(x)). The error is
    below 0.51 units in the last place of a float32 and below 2 units of a float64. Subnormal
    numbers give 0; NaN stays NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.asarray([-1e9, 0.5]))
    array([-1.        ,  0.46211716])
    """
    xp = array_namespace(a)
    x, size = _normal(a, xp)
    # 1 to all digits above 20.
    t = xp.where(size < 20.0, size, xp.full_like(size, 20.0))
    power, n = _exponential(t * -2.0, xp)
    z = power >> -n
    y = _to_float(_ONE - z, xp) / _to_float(z + _ONE, xp)
    y = xp.where(x < 0.0, -y, y)
    edge = 2.0**-4 if a.dtype == xp.float64 else 2.0**-15
    near = xp.where(size < edge, x, xp.zeros_like(x))
    fixed = xp.astype(near * 2.0**_BITS, xp.int64)
    small = x / _to_float(_times_cotangent(fixed, a, xp), xp)
    y = xp.astype(xp.where(size < edge, small, y), a.dtype)
    return cast(Array, xp.where(a == a, y, a))


def logistic(a: Array) -> Array:
    """Take the logistic function of each element, 1 / (1 + exp(-a)).

    With z = exp(-|a|) it is 1 / (1 + z), or z / (1 + z) of a negative number. The error is below
    0.51 units in the last place of a float32 and below 2.7 units of a float64. It is 0 where `exp`
    is; NaN stays NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> logistic(np.asarray([-1e9, 0.0, 2.0]))
    array([0.        , 0.5       , 0.88079708])
    """
    xp = array_namespace(a)
    x = float64_of(a, xp)
    z = exp(-xp.abs(x))
    y = xp.where(x < 0.0, z, xp.where(z == z, xp.ones_like(z), z)) / (z + 1.0)
    y = xp.where(x < _range(a, xp)[0], xp.zeros_like(y), y)
    return cast(Array, xp.where(a == a, xp.astype(y, a.dtype), a))


def softplus(a: Array) -> Array:
    """Take the softplus function of each element, log(1 + exp(a)).

    With z = exp(-|a|) it is max(a, 0) + log(1 + z). The logarithm is taken in fixed point, and of a
    small z it is z / ((1 + z / 2) s / atanh(s)) with s = z / (2 + z). The error is below 0.51 units
    in the last place of a float32 and below 2.5 units of a float64. It is 0 where `exp` is; NaN
    stays NaN.

    Parameters
    ----------
    a
        float32 or float64, any shape.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([-1e9, 0.0, 50.0]))
    array([ 0.        ,  0.69314718, 50.        ])
    """
    xp = array_namespace(a)
    x = float64_of(a, xp)
    lowest = _range(a, xp)[0]
    size = xp.abs(x)
    inside = size <= -lowest
    power, n = _exponential(xp.where(inside, -size, xp.zeros_like(x)), xp)
    z = _scaled(_to_float(power, xp), n, xp)
    z = xp.where(inside, z, xp.zeros_like(z))
    fixed = power >> xp.where(n > -62, -n, xp.full_like(n, 62))
    m = fixed + _ONE
    i = xp.where(fixed < _ONE, (m >> 52) - 256, xp.full_like(m, 255))
    c = _look_up(_RECIPROCALS, i, xp.int64, xp)
    u = (m >> 9) * c + (((m & 511) * c) >> 9) - _ONE
    y = _logarithm(u, i, xp)
    y = _to_float(y + xp.where(i >= _UPPER, xp.full_like(y, _LN2_FIXED), xp.zeros_like(y)), xp)
    if a.dtype == xp.float64:
        edge = 2.0**-4
        near = xp.where(z < edge, z, xp.zeros_like(z))
        w = _square(xp.astype(near / (near + 2.0) * 2.0**_BITS, xp.int64))
        ratio = _multiply(w, _multiply(w, _polynomial(w, _OF_ATANH)) + 4 * _ONE // 45)
        ratio = _ONE - _multiply(w, ratio + _ONE // 3)
        half = xp.astype(near * 2.0 ** (_BITS - 1), xp.int64) + _ONE
        small = z / _to_float(_multiply(half, ratio), xp)
    else:
        edge, small = 2.0**-31, z
    y = xp.where(z < edge, small, y) + xp.where(x > 0.0, x, xp.zeros_like(x))
    y = xp.where(x < lowest, xp.zeros_like(y), y)
    return cast(Array, xp.where(a == a, xp.astype(y, a.dtype), a))


def sqrt(a: Array) -> Array:
    """Take the square root of each element, rounded correctly.

    Libraries' own roots may be a unit in the last place off. For float32 the float64 root is
    rounded: the square of a number midway between two of float32 has 49 bits or more and a float32
    has 24, so no root of a float32 is within three units of float64 of such a midpoint. For float64
    the library's root is compared with the midpoints to its neighbours: a, less the square of the
    root in exact parts, with the root times half a unit.

    Parameters
    ----------
    a
        float32 or float64, any shape. Subnormal numbers give 0, a negative number NaN.

    Examples
    --------
    >>> import numpy as np
    >>> sqrt(np.asarray([2.0, 0.0]))
    array([1.41421356, 0.        ])
    """
    xp = array_namespace(a)
    tiny = _tiny(a, xp)
    normal = (a >= tiny) & (a < float("inf"))
    x = float64_of(xp.where(normal, a, xp.ones_like(a)), xp)
    if a.dtype == xp.float64:
        # Nearer to 1, where no part of a square is subnormal or infinite.
        small, large = x < 2.0**-500, x > 2.0**500
        ones = xp.ones_like(x)
        x = x * xp.where(small, ones * 2.0**600, ones) * xp.where(large, ones * 2.0**-600, ones)
        y = _rounded_root(x, xp.sqrt(x), xp)
        y = y * xp.where(small, ones * 2.0**-300, ones) * xp.where(large, ones * 2.0**300, ones)
    else:
        y = xp.astype(xp.sqrt(x), a.dtype)
    zero = xp.zeros_like(a)
    outside = xp.where((a > -tiny) & (a < tiny), zero, xp.where(a > 0.0, a, float("nan")))
    return cast(Array, xp.where(normal, y, xp.where(a == a, outside, a)))


def float64_of(a: Array, xp: Any) -> Array:
    """Copy to float64; raise TypeError if the library has none, or differentiates through this."""
    a = unknown(undifferentiated(xp.astype(a, xp.float64), xp), xp)
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


def leading_half(a: Any) -> Any:
    """Round a number below 2**996 to 26 bits (Veltkamp), with a product by a power of two only."""
    c = a * 2.0**27 + a
    return c - (c - a)


def _tiny(a: Array, xp: Any) -> float:
    """Give the smallest normal number."""
    return 2.0**-1022 if a.dtype == xp.float64 else 2.0**-126


def _range(a: Array, xp: Any) -> tuple[float, float]:
    """Give the numbers below which an exponential is 0 and above which it is infinite."""
    return (-707.0, 709.7827) if a.dtype == xp.float64 else (-86.0, 88.7228)


def _normal(a: Array, xp: Any) -> tuple[Array, Array]:
    """Widen to float64, with 0 for NaN and subnormal numbers; also give the magnitude."""
    x = float64_of(xp.where(xp.abs(a) >= _tiny(a, xp), a, xp.zeros_like(a)), xp)
    return x, xp.abs(x)


def _exponential(x: Array, xp: Any) -> tuple[Array, Array]:
    """Compute exp(x) as a fixed-point number in [1, 2), or nearly, and a power of two."""
    k = (xp.astype(x * 2.0**14, xp.int64) * _STEPS + 2**33) >> 34
    steps = xp.astype(k, xp.float64)
    r = xp.astype(((x - steps * _STEP[0]) - steps * _STEP[1]) * 2.0**_BITS, xp.int64)
    tail = _polynomial(r, (720, 120, 24, 6))
    r = r + _multiply(_square(r), _HALF + _multiply(r, tail))
    power = _look_up(_POWERS, k & 255, xp.int64, xp)
    return power + _multiply(power, r), k >> 8


def _scaled(y: Array, n: Array, xp: Any) -> Array:
    """Multiply by 2**n, n from -1022; a quotient, since XLA computes all else wherever it is used.

    No part of it is subnormal or infinite.
    """
    n = n + 1022
    y = y * xp.astype(xp.bitwise_left_shift(xp.ones_like(n), n & 31), xp.float64)
    return y / _look_up(_OCTAVES, n >> 5, xp.float64, xp)


def _logarithm(u: Array, i: Array, xp: Any) -> Array:
    """Compute log(1 + u) less that of an entry of the table of reciprocals."""
    tail = _polynomial(u, (-8, 7, -6, 5, -4, 3))
    y = u - _multiply(_square(u), _HALF - _multiply(u, tail))
    return y + _look_up(_LOGARITHMS, i, xp.int64, xp)


def _times_cotangent(x: Array, like: Array, xp: Any) -> Array:
    """Compute x coth(x) of fixed-point numbers below 2**-4, and for float32 2**-15, where it is 1.

    1 + w / 3 - w**2 / 45 + 2 w**3 / 945 ... with w = x**2.
    """
    if like.dtype != xp.float64:
        return cast(Array, xp.full_like(x, _ONE))
    w = _square(x)
    ratio = _multiply(w, _ONE // 45 - _multiply(w, _polynomial(w, _OF_COTANGENT)))
    return cast(Array, _multiply(w, _ONE // 3 - ratio) + _ONE)


def _rounded_root(x: Array, root: Array, xp: Any) -> Array:
    """Round a root that is less than one and a half units off; x in [2**-500, 2**500]."""
    power = power_of_two(root)
    # root in [1, 2) and x in [1, 4), or next to it.
    root, x = root / power, x / power / power
    high = leading_half(root)
    low = root - high
    # Exact, as the square of the high half is near x and each difference near the next part.
    rest = (x - high * high) - high * low * 2.0
    half = root * 2.0**-52
    above, below = rest - half > low * low, rest + half <= low * low
    # Below 1 units are half as large.
    down = xp.where(x < 1.0, xp.full_like(x, 2.0**-53), xp.full_like(x, 2.0**-52))
    zero = xp.zeros_like(x)
    change = xp.where(above, xp.full_like(x, 2.0**-52), zero)
    change = change - xp.where(below | (x < 1.0), down, zero)
    return cast(Array, (root + change) * power)


def _polynomial(x: Array, inverses: Sequence[int | Fraction]) -> Array:
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
    # In an ONNX model one size may be unknown.
    shape = tuple(-1 if size is None else size for size in index.shape)
    return cast(Array, xp.reshape(found, shape))

"""Arithmetic whose results are the same bits on every library, device, thread count and compiler.

Each matrix is cut into slices of so few bits that every partial sum of a product of two slices is a
53-bit integer times a power of two. Then no order of summation can round (Ozaki, Ogita, Oishi, Rump
2012), and the few roundings that remain are done one element at a time, in a fixed order.

What keeps compilers from changing a bit: every product below is exact or is rounded on its own, so
that contraction to a fused multiply-add changes nothing; products of slices are subtracted, never
added, since compilers turn `total + a @ b` into one call that starts summing from `total`; numbers
so small that what some libraries flush to zero could matter are made zero by comparison; the shift
of `(a + shift) - shift` is made of the largest element of `a` itself, since XLA drops a shift that
it knows; a divisor and a factor are known only together with what they meet, since XLA multiplies
by reciprocals and onnxruntime drops factors near 1; and no constant is added, since onnxruntime
drops those that are 0 in float32. `docs/exact.md` has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from numbers import Integral
from typing import Any, NamedTuple, cast

from array_api_compat import array_namespace

from .._host import check_rounding, placement
from .._typing import Array
from . import elementary
from .elementary import float64_of, leading_half, power_of_two
from .team import ALONE, Team

# The most terms of a sum.
MAX_K = 2**24

# Up to so many terms the error of one product of slices is below that of a float32 sum.
_MAX_K_OF_ONE = 1024


class _Scheme(NamedTuple):
    """How many slices there are of the left and the right operand, and which are multiplied.

    The products (left, right) are in the order in which they are summed, smallest first. Those of
    the left slice 1 have the other sign, so that each can be subtracted from the next.
    """

    slices: tuple[int, int]
    pairs: tuple[tuple[int, int], ...]


_SCHEMES = {
    1: _Scheme((1, 1), ((0, 0),)),
    2: _Scheme((2, 1), ((1, 0), (0, 0))),
    3: _Scheme((2, 2), ((0, 1), (1, 0), (0, 0))),
    5: _Scheme((3, 2), ((2, 0), (1, 1), (0, 1), (1, 0), (0, 0))),
}

# Smaller elements of a matrix count as zero in its products. Below the first some libraries flush a
# float32 to zero; below the second the products of slices of float64 would be subnormal.
_TINY = {"float32": 2.0**-126, "float64": 2.0**-510}

# Smaller numbers count as zero everywhere else, results included. A subnormal number, which a
# library may flush, changes no sum as large as the first; the parts of a product of two float64
# numbers are normal if it is as large as the second.
_SMALLEST = {"float32": 2.0**-101, "float64": 2.0**-850}

# From here on a matrix of float64 gives results that are not finite, so that no sum can overflow.
_LARGEST = 2.0**500

# Larger factors that are Python numbers count as infinite.
_LARGEST_FACTOR = 2.0**1000


class Operand(NamedTuple):
    """A matrix cut into slices.

    Attributes
    ----------
    array
        The matrix itself, shape (n, m).
    slices
        float64 arrays of shape (n, m), largest first, that add up to nearly the matrix, where the
        second of a left operand is negated.
    scale
        Powers of two, one for each row of a left operand and one for a right operand.
    """

    array: Array
    slices: tuple[Array, ...]
    scale: Array


@dataclass(frozen=True)
class Exact:
    """Numerics with the same bits everywhere, for float32 and float64 networks.

    A matrix product over k terms is computed as a fixed number of exact products of slices. With
    B = 53 - 2 ceil(log4 k) bits for a product, and powers of two for scales, one for each row of
    the left operand and one for the right operand:

    ========  ===================  ========================  =============================
    products  slices, left, right  bits of a left slice      used by default for
    ========  ===================  ========================  =============================
    1         1, 1                 floor(B / 2)              float32, k of at most 1024
    2         2, 1                 floor((B - 1) / 3)        float32, k above that
    3         2, 2                 floor(B / 2)
    5         3, 2                 floor((2 B - 1) / 5)      float64
    ========  ===================  ========================  =============================

    A slice of the right operand has the rest of the B bits.

    The error of an element of a @ b is at most a unit in the last place of the result plus
    `error_bound(dtype, k)` times, for one product, the Euclidean norm of its row of a and the
    largest norm of a column of b; for more products, k times the largest magnitudes in its row of
    a and in b. A norm or magnitude below 2**-61 (float32) or 2**-445 (float64) counts as that
    number there, since slices go down to 2**-126 and 2**-510: smaller elements count as zero.

    A result below 2**-101 (float32) or 2**-850 (float64), of a product or of any other operation
    but `exp`, is +0; `multiply`, `divide` and `sqrt` take such operands for zero. If the row or b
    holds NaN, infinity or a float64 of 2**500 or more, or a result overflows, the result is not
    finite.

    Parameters
    ----------
    products
        1, 2, 3 or 5; None is 1 or 2 for float32 and 5 for float64.
    team
        The workers that hold the samples of a batch.

    Raises
    ------
    ValueError
        If `products` is none of these; in use, if k is above 2**24, or an operand of a product or
        sum is not a matrix.
    TypeError
        In use, if a dtype is neither float32 nor float64, operands differ in dtype, the library has
        no float64, or it would differentiate through this.
    RuntimeError
        In products and sums, if the thread does not round to nearest.

    References
    ----------
    Ozaki, Ogita, Oishi, Rump 2012, "Error-free transformations of matrix multiplication by using
    fast routines of matrix multiplication and its applications", Numerical Algorithms 59.
    Demmel, Nguyen 2013, "Fast reproducible floating-point summation", ARITH 21.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> a = np.asarray([[1.0, 1e-30, -1.0]])
    >>> kernels.EXACT.matmul(a, np.ones((3, 1)))
    array([[0.]])
    """

    products: int | None = None
    team: Team = field(default=ALONE, repr=False)

    def __post_init__(self) -> None:
        given: Any = self.products
        if given is None:
            return
        # True and 2.0 equal numbers of products, and are none.
        is_integer = isinstance(given, Integral) and not isinstance(given, bool)
        if not is_integer or given not in _SCHEMES:
            raise ValueError(f"expected products of 1, 2, 3, 5 or None, got {given!r}")
        object.__setattr__(self, "products", int(given))

    def prepare(self, a: Array, *, samples: int | None = None) -> Operand:
        """Cut the left operand of products; see `Numerics.prepare`."""
        xp = array_namespace(a)
        if samples is None:
            return self._cut(a, 0, xp)
        return self._cut_all([(a, 0)], samples, self.team, xp)[0]

    def matmul(self, a: Array | Operand, b: Array) -> Array:
        """Multiply matrices of shapes (n, k) and (k, m); the result has the dtype of `a`."""
        xp = array_namespace(b)
        left = a if isinstance(a, Operand) else self._cut(a, 0, xp)
        right = self._cut(b, 1, xp)
        _check_dtypes(left.array, b)
        return _rounded(_combined(self._products(left, right, b.shape[0], xp)), left.array, xp)

    def sum(self, a: Array, *, axis: int, keepdims: bool = False) -> Array:
        """Sum a two-dimensional array along `axis`: the bits of its product with ones.

        All slices of ones but the first are zero, so what remains are the sums of the slices.
        """
        xp = array_namespace(a)
        if axis not in (-2, -1, 0, 1):
            raise ValueError(f"expected an axis of a matrix, from -2 to 1, got {axis}")
        side = 1 - axis % 2
        slices = self._cut(a, side, xp).slices
        sums = (xp.sum(part, axis=1 - side, keepdims=keepdims) for part in slices)
        return _rounded(_added(sums, side), a, xp)

    def over_samples(
        self, terms: Sequence[tuple[Array | Operand, Array, bool]], n: int
    ) -> list[tuple[Array, Array | None]]:
        """Multiply, and sum, over the n samples of all workers; see `Numerics.over_samples`."""
        if self.team == ALONE:
            # One after the other takes less memory, and no worker waits for another.
            return [self._over_samples([term], n)[0] for term in terms]
        return self._over_samples(terms, n)

    def _over_samples(
        self, terms: Sequence[tuple[Array | Operand, Array, bool]], n: int
    ) -> list[tuple[Array, Array | None]]:
        xp = array_namespace(terms[0][1])
        matrices = [(left, 0) for left, _, _ in terms if not isinstance(left, Operand)]
        matrices += [(right, 1) for _, right, _ in terms]
        cut = iter(self._cut_all(matrices, n, self.team, xp))
        lefts = [left if isinstance(left, Operand) else next(cut) for left, _, _ in terms]
        rights = list(cut)
        parts = (
            part
            for left, right, (_, _, summed) in zip(lefts, rights, terms, strict=True)
            for part in chain(
                self._products(left, right, n, xp),
                (xp.sum(piece, axis=0) for piece in right.slices if summed),
            )
        )
        totals = iter(self.team.total(parts))
        found = []
        for right, (_, _, summed) in zip(rights, terms, strict=True):
            pairs = self._scheme(_dtype_name(right.array, xp), n).pairs
            product = _rounded(_combined(islice(totals, len(pairs))), right.array, xp)
            sums = islice(totals, len(right.slices))
            found.append((product, _rounded(_added(sums, 1), right.array, xp) if summed else None))
        return found

    def _products(self, left: Operand, right: Operand, k: int, xp: Any) -> Iterator[Array]:
        """Multiply the slices of operands, in the order in which `_combined` takes them."""
        pairs = self._scheme(_dtype_name(left.array, xp), k).pairs
        return (_product(left.slices[i], right.slices[j], xp) for i, j in pairs)

    def add(self, a: Array, b: Array) -> Array:
        """Add arrays of one dtype, rounded correctly."""
        _check_dtypes(a, b)
        return _flush(a + b, array_namespace(a))

    def subtract(self, a: Array, b: Array) -> Array:
        """Subtract arrays of one dtype, rounded correctly."""
        _check_dtypes(a, b)
        return _flush(a - b, array_namespace(a))

    def factor(self, number: float | list[Any], *, like: Array) -> Array:
        """Make an array of a number or lists, float64 as `multiply` takes a number itself."""
        xp = array_namespace(like)
        numbers = _all_in_range(number)
        return float64_of(xp.asarray(numbers, dtype=xp.float64, **placement(like)), xp)

    def multiply(self, a: Array, factor: Array | float) -> Array:
        """Multiply by a number or an array; the error is below 0.51 units in the last place.

        A number of 2**1000 or more counts as infinite.
        """
        return _multiply(a, factor)

    def divide(self, a: Array, b: Array) -> Array:
        """Divide by an array of the same shape, rounded correctly."""
        xp = array_namespace(a)
        a64, b64 = _tied(a, b, xp)
        return _flush(xp.astype(a64 / b64, a.dtype), xp)

    def flush(self, a: Array) -> Array:
        """Replace numbers that count as zero by +0."""
        return _flush(a, array_namespace(a))

    def exp(self, a: Array) -> Array:
        """Take the exponential of each element; see `elementary.exp` for the error."""
        return elementary.exp(a)

    def log(self, a: Array) -> Array:
        """Take the natural logarithm of each element; see `elementary.log` for the error."""
        return elementary.log(a)

    def expm1(self, a: Array) -> Array:
        """Take the exponential less 1; see `elementary.expm1` for the error."""
        return self.flush(elementary.expm1(a))

    def tanh(self, a: Array) -> Array:
        """Take the hyperbolic tangent; see `elementary.tanh` for the error."""
        return self.flush(elementary.tanh(a))

    def logistic(self, a: Array) -> Array:
        """Take 1 / (1 + exp(-a)); see `elementary.logistic` for the error."""
        return self.flush(elementary.logistic(a))

    def softplus(self, a: Array) -> Array:
        """Take log(1 + exp(a)); see `elementary.softplus` for the error."""
        return self.flush(elementary.softplus(a))

    def sqrt(self, a: Array) -> Array:
        """Take the square root, rounded correctly, of numbers that do not count as zero."""
        return self.flush(elementary.sqrt(self.flush(a)))

    def error_bound(self, dtype: str, k: int) -> float:
        """Bound the error of an element of a @ b, relative to the sizes that the class names.

        It sums what is left out: of each operand after its slices, the products of slices that are
        not computed, and the roundings where products are added.

        Parameters
        ----------
        dtype
            "float32" or "float64".
        k
            The number of terms.

        Raises
        ------
        ValueError
            If the dtype is none of these, or k is over 2**24.

        Examples
        --------
        >>> Exact().error_bound("float32", 1000) < 2.0**-20
        True
        """
        if dtype not in list(_TINY):
            raise ValueError(f"expected a dtype of 'float32' or 'float64', got {dtype!r}")
        slices, pairs = self._scheme(dtype, k)
        bits = _bits(slices, k)
        above = 1 + 3.01 * 2.0 ** (_half_bits(k) - 11) if pairs == ((0, 0),) else 1.0
        left, right = (above * 2.0 ** -_kept(b, n) for b, n in zip(bits, slices, strict=True))
        dropped = sum(
            2.0 ** -(i * (bits[0] + 1) + j * (bits[1] + 1) - 2)
            for i in range(slices[0])
            for j in range(slices[1])
            if (i, j) not in pairs
        )
        return left + right + left * right + dropped + len(pairs) * 2.0**-52

    def _scheme(self, dtype: str, k: int) -> _Scheme:
        if self.products is not None:
            return _SCHEMES[self.products]
        if dtype == "float64":
            return _SCHEMES[5]
        return _SCHEMES[1 if k <= _MAX_K_OF_ONE else 2]

    def _cut(self, a: Array, side: int, xp: Any) -> Operand:
        _check_matrix(a)
        return self._cut_all([(a, side)], a.shape[1 - side], ALONE, xp)[0]

    def _cut_all(
        self, matrices: Sequence[tuple[Array, int]], k: int, team: Team, xp: Any
    ) -> list[Operand]:
        """Cut left (0) and right (1) operands of sums over the k terms that a team holds."""
        check_rounding()
        for a, _ in matrices:
            _check_matrix(a)
            _check_dtypes(matrices[0][0], a)
        slices_of = self._scheme(_dtype_name(matrices[0][0], xp), k).slices
        bits = _bits(slices_of, k)
        # astype makes a copy, which may be changed in place.
        rests = [float64_of(a, xp) for a, _ in matrices]
        sides = [side for _, side in matrices]
        # Half a unit of the last slice is then no less than what counts as zero.
        tiny = _TINY[_dtype_name(matrices[0][0], xp)]
        floors = [tiny * 2.0 ** _kept(b, n) for b, n in zip(bits, slices_of, strict=True)]
        scales = _scales(rests, sides, slices_of, floors, k, team, xp)
        return [
            Operand(a, _slices(rest, scale, side, slices_of[side], bits[side]), scale)
            for (a, side), rest, scale in zip(matrices, rests, scales, strict=True)
        ]


def _slices(rest: Array, scale: Array, side: int, count: int, bits: int) -> tuple[Array, ...]:
    """Cut a matrix of float64, in place."""
    slices = []
    for i in range(count):
        # 1.5 * 2**52 units: adding it rounds to multiples of the unit.
        shift = scale * (1.5 * 2.0 ** (52 - _kept(bits, i + 1) + 1))
        last = i == count - 1
        if last:
            rest += shift
            cut = rest
        else:
            cut = rest + shift
        cut -= shift
        if not last:
            rest -= cut
        slices.append(-cut if side == 0 and i == 1 else cut)
    return tuple(slices)


def _product(a: Array, b: Array, xp: Any) -> Array:
    """Multiply slices in float64, also where JAX's default precision makes less of it."""
    if xp.__name__ == "jax.numpy":
        return cast(Array, xp.matmul(a, b, precision="highest"))
    return a @ b


def _combined(products: Iterator[Array]) -> Array:
    """Add products of slices by subtracting each from the next, in place."""
    total = next(products)
    for product in products:
        product -= total
        total = product
    return total


def _added(sums: Iterable[Array], side: int) -> Array:
    """Add the sums of a matrix's slices, smallest first."""
    *others, total = sums
    for other in reversed(others):
        total = other - total if side == 0 else other + total
    return total


def _bits(slices: tuple[int, int], k: int) -> tuple[int, int]:
    """Share the bits so that the slices of both operands keep equally many."""
    if k > MAX_K:
        raise ValueError(f"expected sums of at most {MAX_K} terms for exact numerics, got {k}")
    total = 53 - 2 * _half_bits(k)
    n_left, n_right = slices
    left = (n_right * total + n_right - n_left) // (n_left + n_right)
    return left, total - left


def _kept(bits: int, count: int) -> int:
    """Count the bits below the leading one that `count` slices keep of the largest element."""
    return bits + (count - 1) * (bits + 1)


def _half_bits(k: int) -> int:
    """Find the smallest integer h with sqrt(k) <= 2**h."""
    return ((max(k, 1) - 1).bit_length() + 1) // 2


def _scales(
    matrices: Sequence[Array],
    sides: Sequence[int],
    counts: tuple[int, int],
    floors: Sequence[float],
    k: int,
    team: Team,
    xp: Any,
) -> list[Array]:
    """Find a power of two in (s / 2, s] for each row of a left operand, or for a right operand.

    It is infinite where an element is NaN, infinite or too large.

    For more slices than one, which have bits to spare, s is the largest magnitude, or the floor.
    For one, s = norm / 2**h, or the floor, where sqrt(k) <= 2**h, and norm is the Euclidean norm,
    of the row or of any column, of magnitudes that were rounded up to whole numbers of a unit, at
    most 2**-11 of the largest. So the squares and their sums are exact, whole numbers of its
    square, and no error of a few units in a root decides which powers of two it lies between.
    """
    magnitudes = [xp.abs(a) for a in matrices]
    rows = [{"axis": 1, "keepdims": True} if side == 0 else {} for side in sides]
    largest = [*team.largest(_max(a, xp, **axis) for a, axis in zip(magnitudes, rows, strict=True))]
    one = [i for i, side in enumerate(sides) if counts[side] == 1]
    squares = team.total(_squares(magnitudes[i], largest[i], sides[i], k, xp) for i in one)
    sizes = list(largest)
    for i, total in zip(one, squares, strict=True):
        norm = xp.sqrt(total if sides[i] == 0 else _max(total, xp))
        sizes[i] = norm * (2.0 ** -_half_bits(k) * (1 + 2.0**-51))
    scales = []
    for size, most, side in zip(sizes, largest, sides, strict=True):
        # `maximum`, not a sum, which a compiler that takes the floor for 0 would leave out.
        scale = power_of_two(xp.maximum(size, xp.full_like(size, floors[side])))
        scales.append(xp.where(most < _LARGEST, scale, xp.full_like(scale, float("inf"))))
    return scales


def _max(a: Array, xp: Any, **axis: Any) -> Array:
    """Find the largest of magnitudes; 0 if there are none."""
    if 0 in a.shape:
        return cast(Array, xp.zeros((a.shape[0], 1) if axis else (), dtype=a.dtype, **placement(a)))
    return cast(Array, xp.max(a, **axis))


def _squares(magnitudes: Array, largest: Array, side: int, k: int, xp: Any) -> Array:
    """Sum the squares of each row or column for `_scales`; the magnitudes are overwritten."""
    if 0 in magnitudes.shape:
        shape = (magnitudes.shape[0], 1) if side == 0 else (magnitudes.shape[1],)
        return cast(Array, xp.zeros(shape, dtype=xp.float64, **placement(magnitudes)))
    # Whole numbers of 15 bits, or of 13 where there are so many squares that they need 2**48.
    shift = largest * (2.0**39 if k <= 2**20 else 2.0**41)
    magnitudes += shift
    # Some units less: no magnitude may lose by rounding, here or to slices.
    shift = shift - largest * 2.0**-11
    magnitudes -= shift
    magnitudes *= magnitudes
    return cast(Array, xp.sum(magnitudes, axis=1 - side, keepdims=side == 0))


def _dtype_name(a: Array, xp: Any) -> str:
    for name in _TINY:
        if a.dtype == getattr(xp, name):
            return name
    raise TypeError(f"expected float32 or float64 for exact numerics, got {a.dtype}")


def _check_matrix(a: Array) -> None:
    if a.ndim != 2:
        raise ValueError(f"expected a matrix, got an array of shape {tuple(a.shape)}")


def _check_dtypes(a: Array, b: Any) -> None:
    """Raise unless both have one dtype: another has other slices, and other numbers that flush."""
    if getattr(b, "dtype", a.dtype) != a.dtype:
        raise TypeError(f"expected operands of one dtype, got {a.dtype} and {b.dtype}")


def _rounded(total: Array, like: Array, xp: Any) -> Array:
    """Round float64 to the dtype of `like`, and flush."""
    return _flush(total if like.dtype == xp.float64 else xp.astype(total, like.dtype), xp)


def _flush(a: Array, xp: Any) -> Array:
    """Replace numbers so small that some libraries flush them to zero by +0.

    This also is an operation on float32 between rounding to it and widening: torch 2.11 would drop
    the two together.
    """
    smallest = _SMALLEST[_dtype_name(a, xp)]
    return cast(Array, xp.where(xp.abs(a) < smallest, xp.zeros_like(a), a))


def _tied(a: Array, b: Array, xp: Any) -> tuple[Array, Array]:
    """Flush and widen two arrays, and make both unknown to a compiler if one of them is.

    Where one is NaN the other becomes NaN, which changes no product and no quotient.
    """
    a, b = (float64_of(_flush(operand, xp), xp) for operand in (a, b))
    return cast(Array, xp.where(b == b, a, b)), cast(Array, xp.where(a == a, b, a))


def _multiply(a: Array, factor: Array | float) -> Array:
    xp = array_namespace(a)
    # Operands are made smaller by powers of two: so no part of a product overflows before it does,
    # and no part of a number is near 1. Parts are not made larger again before they are multiplied,
    # since XLA would make a factor of shape (n, 1) larger by the powers of both.
    if isinstance(factor, int | float):
        x = float64_of(_flush(a, xp), xp)
        factor, exponent = math.frexp(_in_range(factor))
        factor, power = factor * 2.0**20, 2.0 ** (exponent + 8)
    else:
        x, factor = _tied(a, factor, xp)
        factor, power = factor * 2.0**-28, 2.0**56
    x = x * 2.0**-28
    # Parts of few enough bits for exact products: 24 of a float32, 26 of a float64 (Dekker).
    factor_high = leading_half(factor)
    factor_low = factor - factor_high
    if a.dtype == xp.float32:
        product = x * factor_low + x * factor_high
    else:
        high = leading_half(x)
        low = x - high
        product = (high * factor_low + low * factor_high) + low * factor_low
        product = product + high * factor_high
    return _flush(xp.astype(product * power, a.dtype), xp)


def _in_range(factor: float) -> float:
    """Replace a number that counts as zero or as infinite."""
    if abs(factor) < _SMALLEST["float64"]:
        return 0.0
    return factor * math.inf if abs(factor) >= _LARGEST_FACTOR else factor


def _all_in_range(factors: float | list[Any]) -> float | list[Any]:
    if isinstance(factors, list):
        return [_all_in_range(factor) for factor in factors]
    return _in_range(factors)

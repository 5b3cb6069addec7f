"""Numbers that are hard to compute with, made from the operands of an operation.

Ties, neighbours, and what is not finite are rare in a small problem and certain in a large one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["harder"]

_SPECIAL = (np.nan, np.inf, -np.inf, -0.0)


def harder(a: Any, operands: Sequence[Any], *, to_integers: bool) -> Iterator[tuple[str, Any]]:
    """Make arrays to replace one, each with what is hard about it, in words.

    Integers stay within the range of the given ones, and so do floats that become integers: the
    kernel goes no further, and the standard does not say what happens where something overflows.

    Parameters
    ----------
    a
        A NumPy array, an operand of the operation.
    operands
        All its operands, arrays and numbers.
    to_integers
        Whether the operation returns integers.

    Examples
    --------
    >>> a = np.asarray([10, 20, 30, 40, 50, 60])
    >>> for words, b in harder(a, [a], to_integers=False):
    ...     print(words, b)
    ties and neighbours [40 39 41 40 39 41]
    one that is less [60 60 60 60 60 10]
    one that is greater [10 10 10 10 10 60]
    """
    if a.size == 0:
        return
    bounded = a.dtype.kind in "iu" or (a.dtype.kind == "f" and to_integers)
    for b in _ties_and_neighbours(a, operands):
        yield "ties and neighbours", np.clip(b, a.min(), a.max()) if bounded else b
    if a.dtype.kind in "biu":
        least, greatest = (False, True) if a.dtype.kind == "b" else (a.min(), a.max())
        yield "one that is less", _all_but_the_last(a, greatest, least)
        yield "one that is greater", _all_but_the_last(a, least, greatest)
    elif not to_integers:
        for number in _SPECIAL:
            b = a.copy()
            b.flat[[a.size // 2, -1]] = number
            yield str(number), b


def _all_but_the_last(a: Any, value: Any, last: Any) -> Any:
    b = np.full_like(a, value)
    b.flat[-1] = last
    return b


def _ties_and_neighbours(a: Any, operands: Sequence[Any]) -> Iterator[Any]:
    """Mix some of the elements, those of other operands, and the nearest to each of them."""
    others = [
        b
        for b in operands
        if b is not a and np.result_type(a, b) == a.dtype and _fits(np.shape(b), a.shape)
    ]
    count = 3 * (1 + len(others))
    width = max(1, a.size // (2 * count))
    values = np.unique(a)
    own = np.resize(values[np.arange(1, 2 * width, 2) * values.size // (2 * width)], a.shape)
    with np.errstate(over="ignore"):
        fit = [np.broadcast_to(np.asarray(b, a.dtype), a.shape) for b in others]
    choices = [near for b in (own, *fit) for near in (b, *_nearest(b))]
    places = np.arange(a.size).reshape(a.shape) // width
    # An array with fewer elements than there are choices is made several times.
    for first in range(0, count, a.size):
        chosen = (places[None] + first) % count
        yield np.take_along_axis(np.stack(choices), chosen, axis=0).reshape(a.shape)


def _fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    return len(shape) <= len(into) and all(
        n in (1, m) for n, m in zip(shape[::-1], into[::-1], strict=False)
    )


def _nearest(a: Any) -> tuple[Any, Any]:
    """Find the numbers below and above each element."""
    if a.dtype.kind == "b":
        return ~a, a
    if a.dtype.kind != "f":
        limits = np.iinfo(a.dtype)
        return a - (a > limits.min), a + (a < limits.max)
    # A library may take subnormal numbers for zero.
    normal = np.isfinite(a) & (np.abs(a) > np.finfo(a.dtype).smallest_normal)
    return (
        np.where(normal, np.nextafter(a, a.dtype.type(-np.inf)), a),
        np.where(normal, np.nextafter(a, a.dtype.type(np.inf)), a),
    )

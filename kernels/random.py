"""A counter-based generator: the same seed gives the same bits on every library and device.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as
easy as 1, 2, 3") is a function of a key and a counter and keeps no state. Here the key is the
seed and the counter is the pair (element, stream), so every element can be drawn on its own, in
any order, on any worker.

A 32-bit word is kept as two 16-bit halves in int32 arrays. No operation on halves can overflow,
so nothing is used that the Array API standard leaves open, and neither unsigned nor 64-bit
integers are needed: some libraries lack operators of unsigned integers, some 64-bit integers.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

from array_api_compat import array_namespace

from ._checks import to_integer
from ._host import placement
from ._typing import Array

__all__ = ["normal", "permutation", "threefry2x32", "uniform"]

Half = TypeVar("Half", Any, int)

_MASK = 0xFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 20


def threefry2x32(
    key: tuple[tuple[Half, Half], tuple[Half, Half]],
    counter: tuple[tuple[Half, Half], tuple[Half, Half]],
) -> tuple[tuple[Half, Half], tuple[Half, Half]]:
    """Encrypt a counter of two 32-bit words under a key of two 32-bit words.

    Parameters
    ----------
    key, counter
        Two words each, and each word a pair (high, low) of 16-bit halves: Python integers, or int32
        arrays of shapes that broadcast.

    Returns
    -------
    Two words, as pairs (high, low) like the counter's.

    References
    ----------
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11.

    Examples
    --------
    >>> [f"{high:04x}{low:04x}" for high, low in threefry2x32(((0, 0),) * 2, ((0, 0),) * 2)]
    ['6b200159', '99ba4efe']
    """
    schedule = (*key, _xor(_xor(key[0], key[1]), _halves(_PARITY)))
    first = _add(counter[0], schedule[0])
    second = _add(counter[1], schedule[1])
    for number in range(1, _ROUNDS + 1):
        first = _add(first, second)
        second = _xor(first, _rotate_left(second, _ROTATIONS[(number - 1) % 8]))
        if number % 4 == 0:
            injection = number // 4
            first = _add(first, schedule[injection % 3])
            second = _add(second, _add(schedule[(injection + 1) % 3], (0, injection)))
    return first, second


def uniform(shape: tuple[int, ...], *, seed: int, stream: int, like: Array) -> Array:
    """Draw uniform numbers in [0, 1): multiples of 2**-24 in float32, of 2**-53 in float64.

    Both dtypes use the same counters, so a float32 draw is the float64 draw cut to 24 bits.

    Parameters
    ----------
    shape
        The shape of the result, at most 2**31 - 1 elements.
    seed
        An integer in [0, 2**64).
    stream
        An integer in [0, 2**32). Streams of one seed are independent of each other.
    like
        A float32 or float64 array that gives the namespace, dtype and device.

    Raises
    ------
    ValueError
        If the seed, the stream or the number of elements is out of range.
    TypeError
        If `like` is neither float32 nor float64, or a size, the seed or the stream is not an
        integer.

    Examples
    --------
    >>> import numpy as np
    >>> uniform((2,), seed=0, stream=0, like=np.zeros(0, dtype=np.float32))
    array([0.4184571, 0.3146817], dtype=float32)
    """
    _check_like(like)
    xp = array_namespace(like)
    (high, low), (high2, low2) = _words(_count(shape), numbers_of(seed, stream), like)
    if like.dtype == xp.float32:
        draw = xp.astype(high * 256 + (low >> 8), xp.float32) * 2.0**-24
    else:
        high, low, high2, low2 = (xp.astype(half, xp.float64) for half in (high, low, high2, low2))
        # 32 bits of the first word and the top 21 of the second: 53 in all.
        tail = xp.floor((high2 * 65536.0 + low2) * 2.0**-11)
        draw = (high * 65536.0 + low) * 2.0**-32 + tail * 2.0**-53
    return cast(Array, xp.reshape(draw, shape))


def normal(shape: tuple[int, ...], *, seed: int, stream: int, like: Array) -> Array:
    """Draw nearly normal numbers, with the same bits everywhere.

    Each is the sum of twelve uniform numbers minus 6 (the Irwin-Hall distribution): mean 0,
    variance 1, support (-6, 6). Libraries round the logarithms and cosines of the usual methods
    differently; a sum of twelve 16-bit integers is exact in every one.

    Parameters and errors are those of `uniform`, with at most (2**31 - 1) // 3 elements.

    Examples
    --------
    >>> import numpy as np
    >>> x = normal((10_000,), seed=0, stream=0, like=np.zeros(0))
    >>> bool(abs(x.mean()) < 0.03), bool(abs(x.std() - 1) < 0.03)
    (True, True)
    """
    _check_like(like)
    xp = array_namespace(like)
    (a, b), (c, d) = _words(3 * _count(shape), numbers_of(seed, stream), like)
    total = xp.reshape(a + b + c + d, (-1, 3))
    # Adding 6 centres the twelve integers of 16 bits on their range: the mean is 0 exactly.
    total = total[:, 0] + total[:, 1] + total[:, 2] + 6
    draw = xp.astype(total, like.dtype) * 2.0**-16 - 6.0
    return cast(Array, xp.reshape(draw, shape))


def permutation(n: int, *, seed: int, stream: int, like: Array) -> Array:
    """Order the integers 0 to n - 1 at random: the stable argsort of n 32-bit draws.

    Two draws are equal with probability about n**2 / 2**33; such a pair keeps its order.

    Parameters
    ----------
    n
        How many, at most 2**31 - 1.
    seed, stream
        As in `uniform`.
    like
        An array that gives the namespace and device.

    Returns
    -------
    An array of shape (n,) in the library's index dtype.

    Raises
    ------
    ValueError
        If n, the seed or the stream is out of range.
    TypeError
        If one is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> permutation(5, seed=0, stream=0, like=np.zeros(0)).tolist()
    [1, 2, 0, 4, 3]
    """
    return shuffle(numbers_of(seed, stream), n=to_integer("n", n), like=like)


def shuffle(numbers: Any, *, n: int, like: Array | None = None) -> Array:
    """Make a `permutation` from the `numbers_of` its seed and stream.

    They may be an int32 array, which then gives the namespace and device as well. So the function,
    compiled once, serves every seed and stream.
    """
    like = numbers if like is None else like
    xp = array_namespace(like)
    (high, low), _ = _words(n, numbers, like)
    # The standard's argsort is stable by default; not every library has the argument.
    return cast(Array, xp.argsort((high - 32768) * 65536 + low))


def numbers_of(seed: int, stream: int) -> tuple[int, ...]:
    """Write a seed and a stream as the halves of their words, six numbers below 2**16.

    Raises
    ------
    ValueError
        If one is out of the range that `uniform` names.
    TypeError
        If one is not an integer.
    """
    seed, stream = to_seed(seed), to_integer("the stream", stream)
    if not 0 <= stream < 2**32:
        raise ValueError(f"expected a stream in [0, 2**32), got {stream}")
    return *_halves(seed & 0xFFFFFFFF), *_halves(seed >> 32), *_halves(stream)


def to_seed(seed: Any) -> int:
    """Convert an integer in [0, 2**64), of NumPy too, to Python's; raise as `numbers_of`."""
    seed = to_integer("the seed", seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"expected a seed in [0, 2**64), got {seed}")
    return cast(int, seed)


def _count(shape: tuple[int, ...]) -> int:
    """Count the elements of an array of a shape, whose integers may be NumPy's."""
    return math.prod(to_integer("every size", size) for size in shape)


def _check_like(like: Array) -> None:
    xp = array_namespace(like)
    if like.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"expected `like` of dtype float32 or float64, got {like.dtype}")


def _words(n: int, numbers: Any, like: Array) -> tuple[tuple[Any, Any], ...]:
    """Draw two words for each of the counters (0, stream) to (n - 1, stream)."""
    if not 0 <= n < 2**31:
        raise ValueError(f"expected from 0 to 2**31 - 1 draws, got {n}")
    xp = array_namespace(like)
    index = xp.arange(n, dtype=xp.int32, **placement(like))
    a, b, c, d, *stream = (numbers[i] for i in range(6))
    return threefry2x32(((a, b), (c, d)), ((index >> 16, index & _MASK), tuple(stream)))


def _halves(word: int) -> tuple[int, int]:
    return (word >> 16) & _MASK, word & _MASK


def _add(a: tuple[Half, Half], b: tuple[Half, Half]) -> tuple[Half, Half]:
    low = a[1] + b[1]
    return (a[0] + b[0] + (low >> 16)) & _MASK, low & _MASK


def _xor(a: tuple[Half, Half], b: tuple[Half, Half]) -> tuple[Half, Half]:
    return a[0] ^ b[0], a[1] ^ b[1]


def _rotate_left(word: tuple[Half, Half], distance: int) -> tuple[Half, Half]:
    high, low = word if distance < 16 else (word[1], word[0])
    distance %= 16
    return (
        ((high << distance) & _MASK) | (low >> (16 - distance)),
        ((low << distance) & _MASK) | (high >> (16 - distance)),
    )

"""Where arrays lie, what they hold in the host's memory, and how the host rounds."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

from array_api_compat import array_namespace, device

from ._typing import Array

_TYPECODES: dict[str, Literal["f", "d"]] = {"float32": "f", "float64": "d"}

# Names, as Python would add two numbers in the code when it compiles that.
_ONE, _QUARTER_UNIT = 1.0, 2.0**-54


def check_rounding() -> None:
    """Raise RuntimeError unless this thread rounds to nearest, which a library can change."""
    if _ONE + _QUARTER_UNIT > _ONE or _ONE + 3.0 * _QUARTER_UNIT == _ONE:
        raise RuntimeError(
            "expected floating-point numbers to be rounded to nearest, got a thread in which they "
            "are rounded up, down or towards zero: look for a library that calls fesetround"
        )


def dtype_name(a: Array) -> str:
    """Name the dtype of a float32 or float64 array; raise TypeError for any other."""
    xp = array_namespace(a)
    for name in _TYPECODES:
        if a.dtype == getattr(xp, name):
            return name
    raise TypeError(f"expected float32 or float64 weights, got {a.dtype}")


def to_host(a: Array) -> array.array[float]:
    """Copy the elements of a float32 or float64 array, little-endian and in C order."""
    typecode = _TYPECODES[dtype_name(a)]
    flat: Any = array_namespace(a).reshape(a, (-1,))
    # The standard promises float() of each element; nearly every library has a shorter way.
    ways: tuple[Callable[[], Any], ...] = (lambda: flat, lambda: flat.__array__())
    for way in ways:
        try:
            values: array.array[float] = array.array(typecode)
            view = memoryview(way())
            values.frombytes(view.cast("B") if view.c_contiguous else view.tobytes())
            return _little_endian(values)
        except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
            pass
    items = flat.tolist() if hasattr(flat, "tolist") else (float(v) for v in _elements(flat))
    return _little_endian(array.array(typecode, items))


def from_host(data: bytes, dtype: str, shape: Sequence[int], *, like: Array) -> Array:
    """Build an array from the bytes of `to_host`, with the namespace and device of `like`."""
    xp = array_namespace(like)
    if 0 in shape:
        # torch makes no array of an empty buffer.
        return cast(Array, xp.zeros(tuple(shape), dtype=getattr(xp, dtype), **placement(like)))
    values: array.array[float] = array.array(_TYPECODES[dtype])
    values.frombytes(data)
    a = xp.asarray(_little_endian(values), dtype=getattr(xp, dtype), **placement(like))
    return cast(Array, xp.reshape(a, tuple(shape)))


def placement(like: Array) -> dict[str, Any]:
    """Make the keyword `device` of a creation function; none if the library has no devices."""
    try:
        place = device(like)
    except AttributeError:
        return {}
    # An array that JAX splits has its sharding as its device, which fits no other shape.
    return {"device": place} if getattr(place, "is_fully_replicated", True) else {}


def _elements(flat: Array) -> Iterator[Array]:
    return (flat[i] for i in range(flat.shape[0]))


def _little_endian(values: array.array[float]) -> array.array[float]:
    if sys.byteorder == "big":
        values.byteswap()
    return values

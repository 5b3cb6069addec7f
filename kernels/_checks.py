"""What the public functions ask of their input, checked before anything is computed."""

from __future__ import annotations

import math
import operator
from decimal import Decimal
from numbers import Real
from typing import Any, cast

from array_api_compat import array_namespace, is_array_api_obj, is_numpy_array

from ._typing import Array
from .numerics import Numerics


def check_array(name: str, array: Array) -> None:
    """Raise TypeError unless `array` is an array of a real floating dtype."""
    if not _is_array(array):
        raise TypeError(
            f"expected {name} to be an array of a library that follows the Array API standard, "
            f"got {type(array).__name__}"
        )
    if not array_namespace(array).isdtype(array.dtype, "real floating"):
        raise TypeError(
            f"expected {name} of a real floating dtype such as float32, got {array.dtype}"
        )


def check_alike(name: str, array: Array, reference_name: str, reference: Array) -> None:
    """Raise unless both arrays are of one library, dtype and device."""
    if type(array) is not type(reference):
        _check_library(name, array, reference_name, reference)
    if array.dtype != reference.dtype:
        raise TypeError(
            f"expected {name} of dtype {reference.dtype}, as {reference_name}, got {array.dtype}"
        )
    check_device(name, array, reference_name, reference)


def check_device(name: str, array: Array, reference_name: str, reference: Array) -> None:
    """Raise unless both arrays are of one library and on one device."""
    if type(array) is not type(reference):
        _check_library(name, array, reference_name, reference)
    # Tracers, and arrays of libraries without devices, have none to compare.
    expected = getattr(reference, "device", None)
    got = getattr(array, "device", expected)
    if expected is not None and got != expected and not _shared(got, expected):
        raise ValueError(f"expected {name} on device {expected}, as {reference_name}, got {got}")


def _shared(device: Any, other: Any) -> bool:
    """Say whether both are shardings of JAX over the same devices."""
    devices = getattr(device, "device_set", None)
    return devices is not None and devices == getattr(other, "device_set", None)


def _check_library(name: str, array: Array, reference_name: str, reference: Array) -> None:
    if not _is_array(array):
        raise TypeError(f"expected {name} to be an array, got {type(array).__name__}")
    expected, got = array_namespace(reference), array_namespace(array)
    if got is not expected:
        raise TypeError(
            f"expected {name} from {_library(expected)}, as {reference_name}, got {_library(got)}"
        )


def _is_array(a: Any) -> bool:
    """Tell an array from what only looks like one.

    A subclass of NumPy's array with a priority, such as a masked array, has its own arithmetic.
    """
    return is_array_api_obj(a) and not (is_numpy_array(a) and a.__array_priority__ > 0.0)


def _library(xp: Any) -> str:
    name: str = xp.__name__
    return name.removeprefix("array_api_compat.")


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` has `shape`."""
    if tuple(array.shape) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got shape {tuple(array.shape)}")


def check_samples(name: str, y: Array, reference_name: str, x: Array) -> None:
    """Raise unless `x` and `y` are alike and hold the same number of samples, at least one."""
    check_device(name, y, reference_name, x)
    if y.ndim == 0 or y.shape[0] != x.shape[0]:
        raise ValueError(
            f"expected as many targets as samples, got {reference_name} of shape {tuple(x.shape)} "
            f"and {name} of shape {tuple(y.shape)}"
        )
    if x.shape[0] == 0:
        raise ValueError(
            f"expected at least one sample, got {reference_name} of shape {tuple(x.shape)}"
        )


def check_labels(y: Array, classes: int) -> None:
    """Raise ValueError if a class index is out of range. This reads the labels' values."""
    xp = array_namespace(y)
    labels = to_signed(y)
    low, high = int(xp.min(labels)), int(xp.max(labels))
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        if "uint" in str(y.dtype):
            wrong %= 2**64 if labels.dtype == xp.int64 else 2**32
        raise ValueError(
            f"expected labels in [0, {classes}), as the network has {classes} outputs, got {wrong}"
        )


def check_sample_weight(sample_weight: Array, x: Array, numerics: Numerics) -> None:
    """Raise unless these are finite weights of 0 or more, not all 0. This reads the values."""
    check_alike("sample_weight", sample_weight, "x", x)
    check_shape("sample_weight", sample_weight, (x.shape[0],))
    xp = array_namespace(sample_weight)
    low, high = float(xp.min(sample_weight)), float(xp.max(sample_weight))
    if not 0.0 <= low <= high < math.inf:
        wrong = high if low >= 0.0 else low
        raise ValueError(f"expected sample_weight of finite numbers of 0 or more, got {wrong:g}")
    if high == 0.0:
        raise ValueError("expected sample_weight with a number above 0, got only zeros")
    if float(xp.max(numerics.flush(sample_weight))) == 0.0:
        raise ValueError(
            "expected sample_weight with a number that does not count as zero in exact numerics, "
            f"got {high:g} as the largest"
        )


def to_signed(labels: Array) -> Array:
    """Convert integers to int32 or int64, since some libraries do not compare unsigned ones.

    An integer too large to convert becomes negative: out of the range of classes, as before.
    """
    xp = array_namespace(labels)
    wide = labels.dtype in (xp.int64, getattr(xp, "uint64", None))
    return cast(Array, xp.astype(labels, xp.int64 if wide else xp.int32))


def check_numerics(numerics: object) -> None:
    """Raise TypeError unless this is a numerics object: not its class, and not its name."""
    if isinstance(numerics, type) or not hasattr(numerics, "matmul"):
        raise TypeError(
            f"expected numerics such as kernels.NATIVE or kernels.EXACT, got {numerics!r}"
        )


def check_function(name: str, value: object) -> None:
    """Raise TypeError unless this can be called."""
    if not callable(value):
        raise TypeError(f"expected {name}, got {value!r}")


def check_hashable(name: str, value: object) -> None:
    """Raise TypeError unless `value` can be hashed, to find what was compiled with it."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"expected {name} to be hashable, as what was compiled with it is looked up by its "
            f"hash, got {type(value).__name__}"
        ) from None


def to_learning_rate(number: Any) -> float:
    """Convert a number of 0 or more, of NumPy too, to Python's float, which changes no dtype."""
    if isinstance(number, bool) or not isinstance(number, (Real, Decimal)):
        raise TypeError(f"expected a learning rate that is a real number, got {number!r}")
    rate = _to_float(number)
    if not 0.0 <= rate < math.inf:
        raise ValueError(f"expected a finite learning rate of 0 or more, got {number}")
    return rate


def to_real(
    name: str,
    number: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Convert a real number to Python's float; raise unless it is finite and within limits."""
    if isinstance(number, bool) or not isinstance(number, (Real, Decimal)):
        raise TypeError(f"expected {name} to be a real number, got {number!r}")
    value = _to_float(number)
    if not (math.isfinite(value) and least <= value and above < value < below):
        limits = {"of at least": least, "above": above, "below": below}
        said = " and ".join(f"{k} {v:g}" for k, v in limits.items() if math.isfinite(v))
        raise ValueError(f"expected a finite {name} {said}, got {number}")
    return value


def _to_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        # An integer with more digits than a float has room for.
        return math.inf


def to_positive(name: str, number: Any) -> int:
    """Convert an integer of 1 or more to Python's int; raise for any other."""
    value = to_integer(name, number)
    if value < 1:
        raise ValueError(f"expected {name} of 1 or more, got {value}")
    return value


def to_integer(name: str, number: Any) -> int:
    """Convert an integer, of NumPy too, to Python's int, which cannot overflow."""
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, got {number!r}") from None

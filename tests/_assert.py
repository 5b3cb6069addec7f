"""Assertions that compare what arrays are before what they hold."""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

# By name of the namespace; the fixture `backend` adds its own.
FETCH: dict[str, Callable[[Any], np.ndarray]] = {}


def fetch(a):
    """Copy an array of any library to the host."""
    return FETCH.get(array_namespace(a).__name__, np.array)(a)


def bits(a):
    """View an array's elements as unsigned integers, so that -0 is not +0 and NaN is NaN."""
    host = np.ascontiguousarray(fetch(a))
    return host.view(f"u{host.dtype.itemsize}") if host.dtype.kind == "f" else host


def parameters(layers):
    """List the arrays of a network."""
    return [a for layer in layers for a in layer if a is not None]


def assert_alike(actual, desired):
    """Assert one namespace, shape, dtype and device."""
    assert array_namespace(actual) is array_namespace(desired)
    assert tuple(actual.shape) == tuple(desired.shape)
    assert actual.dtype == desired.dtype
    assert getattr(actual, "device", None) == getattr(desired, "device", None)


def assert_identical(actual, desired):
    """Assert the same namespace, shape, dtype, device and bit pattern."""
    assert_alike(actual, desired)
    np.testing.assert_array_equal(bits(actual), bits(desired), strict=True)


def assert_close(actual, desired, *, rtol, atol=0.0):
    """Assert the same namespace, shape, dtype and device, and values that differ by little."""
    assert_alike(actual, desired)
    np.testing.assert_allclose(fetch(actual), fetch(desired), rtol=rtol, atol=atol)


def assert_networks_close(actual, desired, *, rtol, atol=0.0):
    """Assert that two networks have the same parameters, with values that differ by little."""
    assert_same_structure(actual, desired)
    for a, b in zip(parameters(actual), parameters(desired), strict=True):
        assert_close(a, b, rtol=rtol, atol=atol)


def assert_networks_identical(actual, desired):
    """Assert that two networks are the same to the bit."""
    assert_same_structure(actual, desired)
    for a, b in zip(parameters(actual), parameters(desired), strict=True):
        assert_identical(a, b)


def assert_same_structure(actual, desired):
    """Assert the same number of layers, with biases in the same places."""
    assert isinstance(actual, tuple)
    assert [layer.bias is None for layer in actual] == [layer.bias is None for layer in desired]

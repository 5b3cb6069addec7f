"""The SHA-256 of a network."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Sequence

from array_api_compat import array_namespace

from ._host import dtype_name, to_host
from ._network_checks import check_layers
from .layer import Layer

__all__ = ["digest"]


def digest(layers: Sequence[Layer]) -> str:
    """Hash the parameters of a network: equal digests mean equal bits.

    The SHA-256 of, in this order: the line `N layers`; then for each layer i its weight and, if
    it has one, its bias, each as the line `layers.I.weight DTYPE N_IN,N_OUT` or
    `layers.I.bias DTYPE N_OUT` followed by the elements in C order as little-endian IEEE 754
    numbers, with -0 written as +0. Lines are ASCII and end with a line feed.

    Parameters
    ----------
    layers
        A network of float32 or float64 parameters on any library and device.

    Returns
    -------
    64 hexadecimal digits.

    Raises
    ------
    ValueError
        If a parameter is infinite or NaN, or the layers are not a network.
    TypeError
        If the dtype is neither float32 nor float64.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> kernels.digest(kernels.init((3, 2), like=np.zeros(0)))[:16]
    '5a3a565d745bf572'
    """
    check_layers(layers)
    sha = hashlib.sha256(f"{len(layers)} layers\n".encode())
    for i, layer in enumerate(layers):
        for field, a in zip(layer._fields, layer, strict=True):
            if a is None:
                continue
            name = f"layers.{i}.{field}"
            dtype = dtype_name(a)
            xp = array_namespace(a)
            if not bool(xp.all(xp.isfinite(a))):
                raise ValueError(f"expected finite weights, got infinity or NaN in {name}")
            shape = ",".join(str(size) for size in a.shape)
            sha.update(f"{name} {dtype} {shape}\n".encode())
            sha.update(_positive_zeros(to_host(a)))
    return sha.hexdigest()


def _positive_zeros(values: array.array[float]) -> bytes:
    """Write -0 as +0, by bits, since libraries that flush subnormals take those for zeros."""
    words: array.array[int] = array.array({"f": "I", "d": "Q"}[values.typecode], values.tobytes())
    # The little-endian bytes of -0, as this machine reads them.
    negative = array.array(words.typecode, bytes(words.itemsize - 1) + b"\x80")[0]
    i = 0
    for _ in range(words.count(negative)):
        i = words.index(negative, i)
        words[i] = 0
    return words.tobytes()

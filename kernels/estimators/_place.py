"""Where an estimator computes, and how arrays get there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from array_api_compat import array_namespace, device
from scipy.sparse import issparse
from sklearn.utils._array_api import get_namespace_and_device, move_to

import backends
from backends import Backend

from .._host import dtype_name
from .._typing import Array, Compiler
from ..layer import Layer

__all__ = ["Place", "place_of", "to_numpy"]

# Sets up malloc for large NumPy arrays that come and go; see the backend.
backends.get("numpy")


class Place(NamedTuple):
    """The library and device that compute, and those of the user's arrays.

    Attributes
    ----------
    xp, device
        Those of the user's arrays; the device is None if X is no array.
    backend
        What computes; None for the library of the user's arrays.
    """

    xp: Any
    device: Any
    backend: Backend | None

    @property
    def dtypes(self) -> tuple[Any, ...]:
        """The dtypes that input keeps; others are converted."""
        return (self.xp.float64, self.xp.float32)

    def take(self, a: Any, dtype: str | None = None) -> Array:
        """Bring an array to where it is computed with, in `dtype` if that is given."""
        if issparse(a):
            a = a.toarray()
        if self.backend is not None:
            return self.backend.asarray(to_numpy(a), dtype or dtype_name(a))
        if self.device is not None:
            a = move_to(a, xp=self.xp, device=self.device)
        if dtype is None:
            return cast(Array, a)
        xp = array_namespace(a)
        return cast(Array, xp.astype(a, getattr(xp, dtype), copy=False))

    def back(self, a: Any) -> Any:
        """Bring an array, computed here or NumPy's, back to the user's library and device."""
        if self.backend is not None and not isinstance(a, np.ndarray):
            a = self.backend.to_numpy(a)
        labels = issparse(a) or (isinstance(a, np.ndarray) and a.dtype.kind not in "biuf")
        if self.device is None or labels:
            return a
        return move_to(a, xp=self.xp, device=self.device)

    def host(self, a: Any) -> Any:
        """Copy what was computed here to NumPy."""
        return to_numpy(a) if self.backend is None else self.backend.to_numpy(a)

    def take_layers(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Do as `take` with the parameters of a network."""
        return tuple(Layer(*map(self.take, layer)) for layer in layers)

    def back_layers(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Do as `back` with the parameters of a network."""
        return tuple(Layer(*map(self.back, layer)) for layer in layers)

    def compiler(self, like: Array) -> Compiler:
        """Find the compiler of the library that computes."""
        if self.backend is not None:
            return self.backend.compile
        return backends.get(_backend_name(like)).compile


def place_of(x: Any, backend: str | None) -> Place:
    """Find where to compute with X, which need not be an array."""
    xp, is_array, where = get_namespace_and_device(x)
    chosen = None if backend is None else backends.get(backend)
    return Place(xp, where if is_array else None, chosen)


def to_numpy(a: Any) -> Any:
    """Copy an array of any library to NumPy."""
    return a if isinstance(a, np.ndarray) else move_to(a, xp=np, device="cpu")


def _backend_name(a: Array) -> str:
    """Name the backend of an array."""
    library = array_namespace(a).__name__.removeprefix("array_api_compat.").partition(".")[0]
    where = device(a)
    kind = getattr(where, "type", getattr(where, "platform", None))
    name = library.replace("_", "-")
    return next((n for n in backends.names() if n == f"{name}:{kind}"), name)

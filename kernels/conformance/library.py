"""An array library that is no backend: its namespace, and copies to the host and back."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

__all__ = ["DTYPES", "Library", "find", "name_of"]

# The most frequent first.
DTYPES = (
    *("float64", "float32", "int32", "int64", "bool"),
    *("int8", "int16", "uint8", "uint16", "uint32", "uint64"),
)

# Modules that array_api_compat wraps, since they do not fully follow the standard.
_WRAPPED = ("numpy", "torch", "cupy", "dask.array")


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Name a NumPy dtype; kept, since NumPy makes the name slowly each time."""
    return dtype.name


class Library(NamedTuple):
    """A library on a device.

    Attributes
    ----------
    name, version
        The module to check, and the version of its package.
    xp
        The array namespace.
    device
        As the standard's `device=` arguments take it; None for the library's default.
    """

    name: str
    version: str
    xp: Any
    device: Any

    def dtype(self, name: str) -> Any:
        """Find the dtype object of a name of `DTYPES`; raise AttributeError if there is none."""
        if name == "bool" and not hasattr(self.xp, name):
            # MLX has another name for it, which the kernel never uses.
            return self.xp.asarray([True]).dtype
        return getattr(self.xp, name)

    def dtype_name(self, a: Any) -> str:
        """Name the dtype of an array; `str` of it if it is none of `DTYPES`."""
        for name in DTYPES:
            try:
                if a.dtype == self.dtype(name):
                    return name
            except AttributeError:
                continue
        return str(a.dtype)

    def placement(self) -> dict[str, Any]:
        """Make the keyword `device` of a creation function."""
        return {} if self.device is None else {"device": self.device}

    def put(self, host: Any) -> Any:
        """Copy a NumPy array to the library, as nested lists, which the standard promises."""
        dtype = self.dtype(name_of(host.dtype))
        return self.xp.asarray(host.tolist(), dtype=dtype, **self.placement())

    def fetch(self, a: Any) -> Any:
        """Copy an array to NumPy, by the shortest way that the library has."""
        name, shape = self.dtype_name(a), tuple(a.shape)
        for way in _WAYS:
            try:
                host = np.asarray(way(a, name))
            except Exception:
                continue
            # NumPy makes an array of one object of what it does not know.
            if host.dtype.kind in "biuf" and host.shape == shape:
                return host.astype(name)
        raise TypeError(f"expected an array whose elements can be read, got {type(a).__name__}")


def _elements(a: Any, name: str) -> Any:
    """Read element by element, which is all that the standard promises."""
    host = np.empty(a.shape, dtype=name)
    convert = {"b": bool, "f": float}.get(host.dtype.kind, int)
    for index in product(*map(range, a.shape)):
        host[index] = convert(a[index])
    return host


_WAYS: tuple[Callable[[Any, str], Any], ...] = (
    lambda a, _: a,
    lambda a, _: a.tolist(),
    lambda a, _: a.todense(),
    lambda a, _: a[()],
    _elements,
)


def find(module: str, device: str | None) -> Library:
    """Import an array namespace; raise ValueError if there is none, or no such device."""
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"expected a module that Python can import, got {module!r}: there is no "
                f"{error.name!r} here"
            ) from error
        raise ValueError(f"{module} fails to load: {error}") from error
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{module} fails to load: {text}") from error
    if not _has_asarray(imported):
        inside = _namespaces_inside(imported)
        raise ValueError(
            f"expected an array namespace, which has a function asarray, got the module {module!r}"
            + (f": {' and '.join(inside)} inside it may be meant" if inside else "")
        )
    name = module.partition(".")[0]
    xp = _namespace(module, imported)
    return Library(module, _version(name), xp, None if device is None else _device(xp, device))


def _has_asarray(module: object) -> bool:
    return callable(getattr(module, "asarray", None))


def _namespaces_inside(module: ModuleType) -> list[str]:
    """Name the modules inside a package, as far as it imports them, that look like a namespace."""
    inside = {
        each.__name__
        for each in vars(module).values()
        if isinstance(each, ModuleType) and each.__name__.startswith(f"{module.__name__}.")
    }
    return sorted(name for name in inside if _has_asarray(sys.modules.get(name)))


def _namespace(module: str, imported: Any) -> Any:
    """Find the namespace that the kernel will find."""
    if module in _WRAPPED:
        return importlib.import_module(f"array_api_compat.{module}")
    try:
        found = array_namespace(imported.asarray([0.0]))
    except Exception:
        # The check will find what is wrong.
        return imported
    if found.__name__.startswith("array_api_compat.") and found is not imported:
        raise ValueError(
            f"expected arrays whose namespace is {module}, got arrays of "
            f"{found.__name__.removeprefix('array_api_compat.')}"
        )
    return found


def _device(xp: Any, name: str) -> Any:
    """Find a device by its name or, for JAX, platform and number."""
    try:
        known = list(xp.__array_namespace_info__().devices())
    except Exception:
        known = []
    for device in known:
        numbered = f"{getattr(device, 'platform', '')}:{getattr(device, 'id', '')}"
        # Or as `Device('gpu')` writes it.
        if name in (str(device), numbered) or f"'{name}'" in str(device):
            return device
    try:
        # Some libraries take names that they do not list.
        xp.asarray([0.0], device=name)
    except Exception as error:
        listed = ", ".join(str(device) for device in known) or "unknown names"
        raise ValueError(f"expected a device of {xp.__name__} ({listed}), got {name!r}") from error
    return name


def _version(package: str) -> str:
    version = getattr(importlib.import_module(package), "__version__", None)
    if version is None:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown version"
    return str(version)

"""Array libraries by name: what the Array API standard leaves out, one file per library.

Nothing is imported until a backend is asked for.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points

from ._backend import Backend, BackendUnavailable
from ._known import Known, known

__all__ = ["Backend", "BackendUnavailable", "Known", "available", "get", "known", "names"]

_ENTRY_POINTS = "array_api_kernels.backends"


def names() -> tuple[str, ...]:
    """Name every known backend, whether or not it can run here.

    Another package adds backends through the entry point group `array_api_kernels.backends`. The
    name of an entry is the backend's. Its object is a function of a device name or None, which
    returns a `Backend` or raises `BackendUnavailable`.

    Examples
    --------
    >>> names()[:3]
    ('numpy', 'array-api-strict', 'torch:cpu')
    """
    return tuple(each.name for each in known()) + tuple(
        entry.name for entry in entry_points(group=_ENTRY_POINTS)
    )


def available() -> tuple[str, ...]:
    """Name the backends that can run here.

    Examples
    --------
    >>> "numpy" in available()
    True
    """
    return tuple(name for name in names() if _runs(name))


def get(name: str) -> Backend:
    """Find a backend: a name of `names()`, with a device number where there are several.

    Parameters
    ----------
    name
        Such as "numpy", "torch:cpu", "torch:cuda" or "torch:cuda:1". "torch" or "jax" alone means
        its CPU.

    Raises
    ------
    ValueError
        If the library or the kind of device is not known.
    BackendUnavailable
        If the library is not installed or has no such device here.

    Examples
    --------
    >>> backend = get("numpy")
    >>> backend.asarray([1, 2], "float32")
    array([1., 2.], dtype=float32)
    """
    for entry in entry_points(group=_ENTRY_POINTS):
        # The entry's name may have a colon, too.
        if f"{name}:".startswith(f"{entry.name}:"):
            return _of_entry(entry, name[len(entry.name) + 1 :])
    library, _, device = name.partition(":")
    if library not in {each.name.partition(":")[0] for each in known()}:
        raise ValueError(f"expected a backend of {', '.join(names())}, got {name!r}")
    module = importlib.import_module(f"backends.{library.replace('-', '_')}")
    found: Backend = module.get(device or None)
    return found


def _of_entry(entry: EntryPoint, device: str) -> Backend:
    try:
        function = entry.load()
    except Exception as error:
        raise BackendUnavailable(
            f"The backend {entry.name!r} of another package, {entry.value}, cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    backend: Backend = function(device or None)
    return backend


def _runs(name: str) -> bool:
    try:
        get(name)
    # A library whose installation is broken fails in its import.
    except (BackendUnavailable, ImportError, OSError):
        return False
    return True

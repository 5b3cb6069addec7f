"""What a backend is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kernels import Array, Compiler


class BackendUnavailable(RuntimeError):
    """The backend cannot run here; the message is one sentence that says why."""


class Backend(NamedTuple):
    """What the Array API standard leaves out about one library on one device.

    Attributes
    ----------
    name
        As given to `backends.get`, with the device: "torch:cuda:0".
    version
        The library's version.
    xp
        The array namespace.
    device
        The device object, as the standard's `device=` arguments take it; None where a library has
        no such arguments.
    devices
        Every device that this library has of this kind here, described for people.
    asarray
        (host, dtype=None) -> array: copy a NumPy array or nested list to the device; `dtype` is a
        name such as "float32".
    to_numpy
        (array) -> numpy.ndarray: copy an array to the host.
    synchronize
        `(*results) -> None`: wait until the device has done all its work. MLX, which is lazy,
        computes only the arrays in `results`, which may be nested tuples.
    compile
        (function) -> function: the library's own compiler of pure functions, or the identity.
    slow
        Whether operations take so long, whatever their size, that a step takes a tenth of a second
        or more. `verify` and the tests then train fewer steps.
    """

    name: str
    version: str
    xp: Any
    device: Any
    devices: tuple[str, ...]
    asarray: Callable[..., Array]
    to_numpy: Callable[[Array], Any]
    synchronize: Callable[..., None]
    compile: Compiler
    slow: bool = False


def no_devices(library: str, device: str | None) -> None:
    """Raise ValueError if a device was named for a library that has only the host."""
    if device is not None:
        raise ValueError(f"expected the backend {library!r} without a device, got {device!r}")


def device_index(library: str, kind: str, index: str, count: int) -> int:
    """Parse the number in a name such as "torch:cuda:1"; the first device if there is none."""
    if index == "":
        return 0
    if not index.isdecimal() or int(index) >= count:
        raise BackendUnavailable(
            f"{library} has {count} {kind} device(s) here, numbered from 0: there is no {index!r}."
        )
    return int(index)

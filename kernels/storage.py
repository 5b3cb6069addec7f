"""Networks in files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ._checks import check_array, check_layers
from ._host import dtype_name, from_host, to_host
from ._typing import Array
from .network import Layer

__all__ = ["load", "save"]

_DTYPES = {"float32": "F32", "float64": "F64"}


def save(path: str | os.PathLike[str], layers: Sequence[Layer]) -> None:
    """Write a network to a safetensors file, with tensors `layers.0.weight`, `layers.0.bias`, ...

    The file is written under a temporary name in the same folder and then renamed, so that a
    crash leaves an older file of that name whole.

    Parameters
    ----------
    path
        The file.
    layers
        A network of float32 or float64 parameters on any library and device.

    Raises
    ------
    ValueError
        If the layers are not a network.
    TypeError
        If the dtype is neither float32 nor float64.
    OSError
        If the file cannot be written.
    ModuleNotFoundError
        If safetensors is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import kernels
    >>> layers = kernels.init((3, 2), like=np.zeros(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kernels.save(f"{folder}/net.safetensors", layers)
    ...     again = kernels.load(f"{folder}/net.safetensors", like=np.zeros(0))
    >>> kernels.digest(again) == kernels.digest(layers)
    True
    """
    check_layers(layers)
    write_tensors(path, tensors_of(layers))


def load(path: str | os.PathLike[str], *, like: Array) -> tuple[Layer, ...]:
    """Read a network that `save` wrote.

    Parameters
    ----------
    path
        The file.
    like
        An array that gives the namespace, dtype and device.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a safetensors file, or does not hold a network of the dtype of `like`.
    TypeError
        If the dtype of `like` is neither float32 nor float64.
    ModuleNotFoundError
        If safetensors is not installed.

    Examples
    --------
    See `save`.
    """
    check_array("like", like)
    tensors, _ = read_tensors(path)
    return layers_of(tensors, path, like=like)


def tensors_of(layers: Sequence[Layer]) -> dict[str, Array]:
    """Name the parameters as `save` does."""
    return {
        f"layers.{i}.{field}": a
        for i, layer in enumerate(layers)
        for field, a in zip(layer._fields, layer, strict=True)
        if a is not None
    }


def layers_of(
    tensors: Mapping[str, Any], path: str | os.PathLike[str], *, like: Array
) -> tuple[Layer, ...]:
    """Make a network of the tensors that `read_tensors` read from `path`; see `load`."""
    expected = dtype_name(like)
    rest = dict(tensors)
    layers: list[Layer] = []
    while f"layers.{len(layers)}.weight" in rest:
        parameters: list[Array | None] = []
        for field in Layer._fields:
            name = f"layers.{len(layers)}.{field}"
            tensor = rest.pop(name, None)
            if tensor is not None and tensor["dtype"] != _DTYPES[expected]:
                raise ValueError(
                    f"expected {expected} weights, as `like`, got {tensor['dtype']} for {name} "
                    f"in {path}"
                )
            parameters.append(
                None
                if tensor is None
                else from_host(tensor["data"], expected, tensor["shape"], like=like)
            )
        layers.append(Layer(cast(Array, parameters[0]), parameters[1]))
    if rest or not layers:
        raise ValueError(
            f"expected a network of tensors layers.0.weight, layers.0.bias, ..., got "
            f"{sorted(rest) or 'no tensors'} in {path}"
        )
    check_layers(layers)
    return tuple(layers)


def write_tensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write float32 and float64 arrays by name, and texts, to a safetensors file: all or nothing.

    Until it is whole and on the disk the file lies beside `path`, under the name `.NAME.*`.
    """
    import safetensors

    # The specifications hold addresses, so these have to live until the bytes are made.
    host = {name: to_host(a) for name, a in arrays.items()}
    data = safetensors.serialize(
        {
            name: safetensors.TensorSpec(
                dtype=dtype_name(a),
                shape=list(a.shape),
                data_ptr=host[name].buffer_info()[0],
                data_len=len(host[name]) * host[name].itemsize,
            )
            for name, a in arrays.items()
        },
        metadata,
    )
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename outlast a power cut, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tensors, as safetensors describes them, and the texts of a file; see `load`."""
    import safetensors

    data = Path(path).read_bytes()
    try:
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected a safetensors file, got {path}: {error}") from error
    # The length of the header, the header, the tensors.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})

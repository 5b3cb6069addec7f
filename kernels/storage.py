"""Networks in files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ._checks import check_array
from ._host import dtype_name, from_host, to_host
from ._network_checks import check_layers
from ._typing import Array
from .layer import Layer

__all__ = ["load", "save"]

_DTYPES = {"float32": "F32", "float64": "F64"}

# The name of the text that holds the SHA-256 of the file, computed with zeros for its digits.
_SEAL = "sha256_of_file"
_NO_DIGITS = b"0" * 64


def save(path: str | os.PathLike[str], layers: Sequence[Layer]) -> None:
    """Write a network to a safetensors file, with tensors `layers.0.weight`, `layers.0.bias`, ...

    The file's metadata has one text, `sha256_of_file`: the SHA-256 of all bytes of the file, header
    and numbers, with its own 64 digits as zeros. `load` checks it. It covers infinities, NaN and
    the signs of zeros, and equal networks give equal files.

    The path works as in `open(path, "w")`: symbolic links stay and what they name is written, a
    file keeps its mode, and a pipe or a device is written to. A plain file is written under a
    temporary name in its folder and then renamed, so that a crash leaves an older file whole. This
    needs permission to write into the folder, and other hard links keep the older file.

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
    """Read a network that `save` wrote, if not a byte of the file has changed.

    Files of other programs or older versions, without `sha256_of_file`, are read unchecked.

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
        If it is not a safetensors file, is damaged, or does not hold a network of the dtype of
        `like`. The message names the file.
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
    """Give the parameters by their names in a file of `save`."""
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
    try:
        return _layers_of(tensors, expected, like)
    except ValueError as error:
        raise ValueError(f"{error} in {path}") from error


def _layers_of(tensors: Mapping[str, Any], expected: str, like: Array) -> tuple[Layer, ...]:
    rest = dict(tensors)
    layers: list[Layer] = []
    while f"layers.{len(layers)}.weight" in rest:
        parameters: list[Array | None] = []
        for field in Layer._fields:
            name = f"layers.{len(layers)}.{field}"
            tensor = rest.pop(name, None)
            if tensor is not None and tensor["dtype"] != _DTYPES[expected]:
                raise ValueError(
                    f"expected {expected} weights, as `like`, got {tensor['dtype']} for {name}"
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
            f"{sorted(rest) or 'no tensors'}"
        )
    check_layers(layers)
    return tuple(layers)


def write_tensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write float32 and float64 arrays and texts by name to a safetensors file; see `save`.

    Until it is whole the file has a temporary name in its folder: a dot, its own name without the
    last ten characters, and random digits, so that a long name stays within the system's limit.
    Equal arrays and texts give equal files.
    """
    import safetensors

    # The specifications hold addresses of these, so they have to live until the bytes are made.
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
        {**(texts or {}), _SEAL: _NO_DIGITS.decode()},
    )
    if texts:
        data = _in_order(data)
    # Quotation marks inside texts are escaped, so that no text holds this.
    name = f'"{_SEAL}":"'.encode()
    _write(path, data, data.index(name) + len(name))


def _in_order(data: bytes) -> bytes:
    """Sort the texts of a file: safetensors writes them in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The numbers stay where they are, after spaces that fill the header.
    return b"".join((data[:8], written.ljust(end - 8), memoryview(data)[end:]))


def _write(path: str | os.PathLike[str], data: bytes, seal: int) -> None:
    """Write bytes, with their hash at `seal`, to what `open(path, "w")` opens: all or nothing."""

    def write(file: BinaryIO) -> None:
        view = memoryview(data)
        file.writelines((view[:seal], digits, view[seal + len(digits) :]))

    digits = _hash(data, seal).encode()
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        # Pipes and devices are written directly; folders raise.
        with open(path, "wb") as file:
            write(file)
        return
    target = Path(os.path.realpath(path))
    if before is not None:
        # Renaming over a file needs no permission to write it, so that is checked here.
        os.close(os.open(target, os.O_WRONLY))
    temporary = target.with_name(f".{target.name[:-10]}.{secrets.token_hex(4)}")
    # Outside the `try` that removes the file: another file of this name must stay.
    try:
        file = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        # The user gave another name than the temporary one.
        error.filename = os.fspath(path)
        raise
    try:
        with file:
            if before is not None:
                _pass_on(before, file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush_folder(target.parent)


def _pass_on(before: os.stat_result, file: BinaryIO) -> None:
    """Give a file the mode of another, and its owner as far as that is permitted."""
    now = os.fstat(file.fileno())
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        for owner in ((-1, before.st_gid), (before.st_uid, -1)):
            with suppress(PermissionError):
                os.chown(file.name, *owner)
    # After the owner, whose change clears bits; some file systems have only one mode.
    if os.fstat(file.fileno()).st_mode != before.st_mode:
        os.chmod(file.name, stat.S_IMODE(before.st_mode))


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

    with _named(path):
        data = Path(path).read_bytes()
    try:
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected a safetensors file, got {path}: {error}") from error
    # The length of the header, the header, the tensors.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    texts: dict[str, str] = header.get("__metadata__") or {}
    _check_seal(data, texts, path)
    return tensors, {name: text for name, text in texts.items() if name != _SEAL}


def _check_seal(data: bytes, texts: Mapping[str, str], path: str | os.PathLike[str]) -> None:
    """Raise ValueError if a file that `write_tensors` wrote has changed since."""
    # By lengths, which damage does not change: a damaged name must not skip the check.
    sealed = (len(_SEAL), len(_NO_DIGITS))
    for name, written in texts.items():
        if (len(name), len(written)) == sealed:
            found = _hash(data, data.find(written.encode()))
            if found != written:
                raise ValueError(
                    f"expected the SHA-256 {written} that {path} was written with, got {found}: it "
                    "has changed since"
                )


def _hash(data: bytes, seal: int) -> str:
    """Hash a file with zeros for the digits at `seal`."""
    view, sha = memoryview(data), hashlib.sha256()
    for part in (view[:seal], _NO_DIGITS, view[seal + len(_NO_DIGITS) :]):
        sha.update(part)
    return sha.hexdigest()


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the name of a file into errors without one, such as a disk's."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise

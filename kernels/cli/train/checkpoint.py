"""Checkpoints of training: files in a folder. Training goes on from the last undamaged one.

A checkpoint is one safetensors file, `step-00000040.safetensors`: the network, the losses of all
steps so far, the settings that decide how training goes on, and hashes that reveal damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..._host import to_host
from ..._typing import Array
from ...digest import digest
from ...layer import Layer
from ...optimizers import AdamState, SGDState
from ...storage import layers_of, read_tensors, tensors_of, write_tensors
from ..common import CliError, as_cli_error, warn
from .method import TO_AN_END
from .settings import Settings

__all__ = ["Checkpoint", "agree", "newest", "owned", "write"]

_NAME = re.compile(r"step-(\d+)\.safetensors")

# Settings that may change when training goes on.
_FREE: tuple[str, ...] = ("epochs", "steps", "backend", "compile", "every")

_STATES = {"sgd": SGDState, "adam": AdamState}


class Checkpoint(NamedTuple):
    """Training up to some step.

    Attributes
    ----------
    layers
        The network: arrays of any library for `write`, NumPy's from `newest`.
    losses
        The loss before each step from the first, a NumPy array of shape (steps,).
    settings
        How it was trained.
    state
        The optimizer's, with arrays of the same library; None if it has no arrays.
    """

    layers: tuple[Layer, ...]
    losses: Any
    settings: Settings
    state: SGDState | AdamState | None = None


def newest(folder: Path) -> Checkpoint:
    """Read the last undamaged checkpoint in a folder, and warn of damaged ones after it.

    Raises
    ------
    CliError
        If there is none.
    """
    damaged: list[str] = []
    for path in reversed(_files(folder)):
        try:
            checkpoint = _read(path)
        except OSError as error:
            damaged.append(f"cannot read {path}: {error.strerror or error}")
        except ValueError as error:
            damaged.append(str(error).splitlines()[0])
        else:
            for reason in damaged:
                warn(f"Damaged checkpoint: {reason}; going on from step {len(checkpoint.losses)}.")
            return checkpoint
    if not damaged:
        raise CliError(f"expected a checkpoint to go on from in {folder}, got none")
    raise CliError(f"expected a whole checkpoint in {folder}, got none: {'; '.join(damaged)}")


def agree(given: dict[str, Any], before: Settings, folder: Path) -> Settings:
    """Complete what is given on the command line with the settings of a checkpoint.

    Raises
    ------
    CliError
        If they differ in a setting that decides the result.
    """
    # The file may have moved: its hash tells whether it is the same.
    free = _FREE if before.data is None else (*_FREE, "data")
    if before.schedule in TO_AN_END:
        other = "epochs" if "epochs" in given else "steps"
        if other in given and (other, given[other]) != ("steps", before.steps):
            raise CliError(
                f"expected --steps {before.steps}, over which the schedule {before.schedule} of "
                f"the checkpoint in {folder} falls, got --{other} {given[other]}"
            )
    for name, value in given.items():
        saved = getattr(before, name)
        if name not in free and value != saved:
            option = name.replace("_", "-")
            expected, got = f"--{option} {_shown(saved)}", _shown(value)
            if isinstance(saved, bool):
                flags = (f"--no-{option}", f"--{option}")
                expected, got = flags[saved], flags[value]
            elif saved in (None, ()):
                expected = f"no --{option}"
            raise CliError(f"expected {expected}, as in the checkpoint in {folder}, got {got}")
    if "epochs" in given:
        before = before._replace(steps=None)
    return before._replace(**given)


@contextmanager
def owned(folder: Path, *, resumed: bool) -> Iterator[None]:
    """Make a folder to write checkpoints into, and keep other runs out of it.

    Files that a killed run left unfinished are removed.

    Raises
    ------
    CliError
        If another run writes there, it holds checkpoints and the run is not resumed from them, or
        files cannot be written there.
    """
    with as_cli_error(OSError, prefix=f"cannot write into {folder}: "):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    try:
        with as_cli_error(OSError, prefix=f"cannot write into {folder}: "):
            _prepare(folder, resumed)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed, or this process ends."""
    try:
        import fcntl
    except ModuleNotFoundError:
        # On Windows.
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CliError(f"another run writes checkpoints into {folder}") from None
    except OSError:
        # Some file systems have no locks.
        pass
    return lock


def _prepare(folder: Path, resumed: bool) -> None:
    found = _files(folder)
    if found and not resumed:
        raise CliError(
            f"expected a folder without checkpoints as --checkpoint, got {folder} with one of "
            f"step {_step(found[-1])}: go on from it with --resume {folder}"
        )
    # Temporary files of `write_tensors`, of this version and older ones.
    for path in folder.glob(".step-[0-9]*.s*.*"):
        path.unlink()
    tempfile.TemporaryFile(dir=folder).close()


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and remove all but this one and the last undamaged one before it.

    That one is read, to know that it is undamaged.

    Raises
    ------
    OSError
        If it cannot be written; those before it stay.
    """
    step = len(checkpoint.losses)
    settings = json.dumps(checkpoint.settings._asdict())
    slots = _slots(checkpoint.state)
    write_tensors(
        folder / f"step-{step:08}.safetensors",
        {**tensors_of(checkpoint.layers), **slots, "losses": checkpoint.losses},
        _sealed(checkpoint.layers, checkpoint.losses, slots, settings),
    )
    files = _files(folder)
    before = (path for path in reversed(files) if _step(path) < step and _is_whole(path))
    kept = next(before, None)
    # Those after it were damaged, or training would have gone on from them.
    for path in files:
        if path != kept and _step(path) != step:
            path.unlink()


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except (OSError, ValueError):
        return False
    return True


def _read(path: Path) -> Checkpoint:
    """Read a checkpoint; raise ValueError unless it is as it was written."""
    import numpy as np

    tensors, texts = read_tensors(path)
    try:
        fields = json.loads(texts["settings"])
        drop = tuple(fields.get("drop", ()))
        settings = Settings(**fields)._replace(hidden=tuple(fields["hidden"]), drop=drop)
        dtype = np.dtype(settings.dtype)
        losses = np.frombuffer(tensors.pop("losses")["data"], dtype.newbyteorder("<"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a checkpoint, got another file in {path}") from error
    losses, like = losses.astype(dtype), np.zeros(0, dtype)
    kind: Any = _STATES.get(settings.optimizer, SGDState)
    nets = []
    for field in kind._fields[1:]:
        names = [name for name in tensors if name.startswith(f"{field}.")]
        net = {name.removeprefix(f"{field}."): tensors.pop(name) for name in names}
        nets.append(layers_of(net, path, like=like) if net else ())
    layers = layers_of(tensors, path, like=like)
    state = kind(len(losses), *nets) if any(nets) else None
    if texts != _sealed(layers, losses, _slots(state), texts["settings"]):
        raise ValueError(f"expected content that fits its hashes, got other content in {path}")
    return Checkpoint(layers, losses, settings, state)


def _slots(state: SGDState | AdamState | None) -> dict[str, Array]:
    """Name the arrays of a state: `velocity.layers.0.weight`, ..."""
    return (
        {
            f"{field}.{name}": a
            for field, net in zip(state._fields[1:], state[1:], strict=True)
            for name, a in tensors_of(net).items()
        }
        if state is not None
        else {}
    )


def _sealed(
    layers: tuple[Layer, ...], losses: Any, slots: dict[str, Array], settings: str
) -> dict[str, str]:
    """Make the texts: settings, the network's digest, and a hash of these and all other arrays."""
    texts = {"settings": settings, "digest": digest(layers)}
    rest = json.dumps(texts).encode() + to_host(losses).tobytes()
    rest += b"".join(to_host(slots[name]).tobytes() for name in sorted(slots))
    return texts | {"sha256": hashlib.sha256(rest).hexdigest()}


def _files(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, oldest first."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)

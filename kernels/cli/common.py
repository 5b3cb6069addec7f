"""What the commands share: errors, consoles, and checks of options."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import backends
from backends.workers import WorkerLost

from ..numerics import EXACT, NATIVE, Numerics

__all__ = [
    "DTYPES",
    "NUMERICS",
    "CliError",
    "as_cli_error",
    "check_output",
    "choose",
    "compiles",
    "console",
    "device_of",
    "find_backend",
    "is_same",
    "require",
    "use_float64",
    "warn",
]

NUMERICS: dict[str, Numerics] = {"native": NATIVE, "exact": EXACT}

# A dtype that numerics need besides that of the network.
_WORKING_DTYPE = {"exact": "float64"}

DTYPES = ("float32", "float64")


class CliError(Exception):
    """An error that ends a command, in one sentence; `status` is the exit status."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def as_cli_error(*kinds: type[Exception], prefix: str = "", status: int = 2) -> Iterator[None]:
    """Turn exceptions whose message is meant for people into a `CliError`."""
    try:
        yield
    except (CliError, WorkerLost):
        raise
    except kinds as error:
        # The first line: libraries append hints for programmers and whole logs.
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise CliError(prefix + text, status=status) from error


def choose(option: str, name: str, known: tuple[str, ...]) -> str:
    """Return `name` if it is one of `known`, else raise `CliError`."""
    if name not in known:
        raise CliError(f"expected {option} to be {' or '.join(known)}, got {name!r}")
    return name


def require(module: str, purpose: str, *, extra: str = "cli") -> None:
    """Raise `CliError` if an optional dependency is not installed."""
    if importlib.util.find_spec(module) is None:
        package = {"sklearn": "scikit-learn"}.get(module, module)
        raise CliError(
            f"{purpose} needs {package}, which is not installed: "
            f'pip install "array-api-kernels[{extra}]"'
        )


def is_same(path: Path, other: Path) -> bool:
    """Say whether two paths are of one file, which may have several names."""
    try:
        return path.samefile(other)
    except OSError:
        # Unlike `resolve`, this takes links that lead in a circle.
        return os.path.realpath(path) == os.path.realpath(other)


def check_output(option: str, path: Path, *, in_place: bool) -> None:
    """Raise `CliError` unless a file can be written, in place or by a rename; it is not touched."""
    cannot = f"cannot write {option} {path}: "
    if not os.path.isdir(path.parent):
        raise CliError(f"{cannot}there is no folder {path.parent}")
    if os.path.isdir(path):
        raise CliError(f"{cannot}it is a folder")
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Such as a name that is too long.
        raise CliError(f"{cannot}{error.strerror or error}") from error
    else:
        if not os.access(path, os.W_OK):
            raise CliError(f"{cannot}no permission to change it")
        # Pipes and devices are written in place.
        if in_place or not os.path.isfile(path):
            return
    # Permissions do not tell, for instance, of a read-only file system.
    try:
        tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent).close()
    except OSError as error:
        raise CliError(f"{cannot}{error.strerror or error}") from error


def find_backend(name: str, dtype: str, numerics: str = "native") -> backends.Backend:
    """Find a backend and check that it has the dtypes."""
    use_float64(dtype, numerics)
    # A broken installation of a library fails in its import.
    with (
        as_cli_error(ValueError, backends.BackendUnavailable),
        as_cli_error(ImportError, OSError, prefix=f"{name} fails to load: "),
    ):
        backend = backends.get(name)
    with as_cli_error(ValueError, TypeError, AttributeError, prefix=f"{name} has no {dtype}: "):
        backend.asarray([0.0], dtype)
    return backend


def compiles(place: backends.Backend) -> bool:
    """Say whether the library has a compiler."""

    def unchanged() -> None:
        pass

    function: Callable[..., Any] = unchanged
    return place.compile(function) is not function


def device_of(place: backends.Backend) -> str:
    """Describe the device that a backend uses."""
    index = place.name.rpartition(":")[2]
    return place.devices[int(index) if index.isdecimal() else 0]


def use_float64(dtype: str, numerics: str) -> None:
    """Enable float64 in JAX where it is needed: JAX reads this once, when it is imported."""
    if "float64" in (dtype, _WORKING_DTYPE.get(numerics)):
        os.environ.setdefault("JAX_ENABLE_X64", "1")


def console() -> Console:
    """Make a console for plain text, which does not break lines when piped."""
    plain = Console(markup=False, highlight=False, emoji=False)
    if not plain.is_terminal:
        # So that grep finds a digest or a sentence in one line.
        plain.width = 1000
    return plain


def warn(message: str) -> None:
    """Write one line to stderr."""
    typer.echo(message, err=True)

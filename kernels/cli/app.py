"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from .backends import backends
from .bench import bench
from .check import check
from .common import CliError, warn
from .export import export
from .record import record
from .train import train
from .verify import verify

__all__ = ["app", "run"]


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """Tell Ctrl-C here, since some versions of typer make an exit status of it, some an Abort."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            raise CliError("stopped by Ctrl-C", status=130) from error

    return run


app = typer.Typer(
    name="array-api-kernels",
    help="Train a neural network with any array library of the Python Array API standard.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (train, export, verify, check, bench, record, backends):
    app.command()(_stoppable(_command))

# The base of every mistake in an option; no other name for it is exported by every typer.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            number = importlib.metadata.version("array-api-kernels")
        except importlib.metadata.PackageNotFoundError:
            number = "(run from its source, not installed)"
        typer.echo(f"array-api-kernels {number}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        # With rich, get_help prints the help itself and returns nothing.
        typer.echo(context.get_help(), nl=False)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 2 for a mistake in the input, 130 for Ctrl-C, else 1."""
    try:
        status = app(arguments, standalone_mode=False)
    except CliError as error:
        return _fail(str(error), error.status)
    except _USAGE_ERROR as error:
        return _fail(getattr(error, "format_message", error.__str__)(), 2)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    sentence = " ".join(message.split())
    warn(f"Error: {sentence.rstrip('.')}.")
    return status

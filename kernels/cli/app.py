"""The program of all commands."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

from . import entry
from .backends import backends
from .check import check
from .common import CliError
from .export import export
from .predict import predict
from .train import train
from .verify import verify

__all__ = ["app", "run"]

app = typer.Typer(
    name="array-api-kernels",
    help="Train a neural network with any array library of the Python Array API standard.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (train, predict, export, verify, check, backends):
    entry.add(app, _command)


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def bench(_: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Say where the command went."""
    raise CliError("bench is `python -m benchmarks` now, in a clone of the repository")


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def record(_: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Say where the command went."""
    raise CliError("record is `python -m benchmarks.record` now, in a clone of the repository")


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
    """Run the command line and return its exit status; see `entry.run`."""
    return entry.run(_program(), arguments)


@cache
def _program() -> Any:
    """Put the commands together, once in a process."""
    return typer.main.get_command(app)

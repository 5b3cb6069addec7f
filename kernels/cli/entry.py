"""Make programs of commands, run them, and print their errors."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, get_type_hints

import typer

from .common import CliError, warn

__all__ = ["add", "entry", "of_fields", "run"]

# The base class of mistakes in options. Not every version of typer exports it by name.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def entry(name: str, command: Callable[..., None]) -> Callable[..., int]:
    """Make a function like `run` for a program of one command."""
    app = typer.Typer(name=name, add_completion=False, pretty_exceptions_enable=False)
    add(app, command)

    def main(arguments: Sequence[str] | None = None) -> int:
        return run(app, arguments)

    return main


def add(app: typer.Typer, command: Callable[..., None], **settings: object) -> None:
    """Add a command to a program."""

    @functools.wraps(command)
    def stoppable(*arguments: object, **options: object) -> None:
        # Caught here, since versions of typer differ in what they make of it.
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            raise CliError("stopped by Ctrl-C", status=130) from error

    # Paragraphs without the line breaks of the source, which typer would keep.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    options: dict[str, Any] = {"context_settings": _SETTINGS, "help": text, **settings}
    app.command(**options)(stoppable)


def of_fields(kind: type[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Make a command of a function of a NamedTuple, whose annotated fields are the options."""
    hints = get_type_hints(kind, include_extras=True)

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            function(kind(**given))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = hints
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=kind._field_defaults[name],
                    annotation=hint,
                )
                for name, hint in hints.items()
            ]
        )
        return command

    return decorate


def run(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Run a program; return 0, 2 for a mistake in the input, 130 for Ctrl-C, else 1."""
    if sys.stdout is None:
        # It is None if it was closed before the start.
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            return run(app, arguments)
    try:
        with redirect_stdout(_Output(sys.stdout)):
            status = app(arguments, standalone_mode=False)
            sys.stdout.flush()
    except _OutputError as error:
        # Python flushes what is left when it ends, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(str(error), error.status)
    except CliError as error:
        return _fail(str(error), error.status)
    except _USAGE_ERROR as error:
        return _fail(getattr(error, "format_message", error.__str__)(), 2)
    return status if isinstance(status, int) else 0


class _OutputError(CliError):
    """Standard output cannot be written to."""


class _Output:
    """Standard output whose errors become `_OutputError`, except for a reader that has gone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._told():
            return self._file.write(text)

    def flush(self) -> None:
        with self._told():
            self._file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise _OutputError(f"cannot write to standard output: {reason}", status=1) from error
        except UnicodeEncodeError as error:
            wrong = error.object[error.start : error.end]
            raise CliError(
                f"cannot write {wrong!r} to standard output, which is in {self._file.encoding}: "
                "set the environment variable PYTHONIOENCODING=utf-8",
                status=1,
            ) from error


def _fail(message: str, status: int) -> int:
    sentence = " ".join(message.split()).rstrip(".")
    # A command to type, which ends in a quotation mark, has no full stop.
    stop = "" if sentence.endswith('"') else "."
    warn(f"Error: {sentence}{stop}")
    return status

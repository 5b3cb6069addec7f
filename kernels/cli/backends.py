"""`python -m kernels backends`: list what can run here."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

import backends as known

from .common import DTYPES, console
from .tables import make_table, print_table

__all__ = ["Found", "backends", "find"]


class Found(NamedTuple):
    """What is known of one backend on this machine.

    Attributes
    ----------
    backend
        Its name.
    runs
        Whether it can run here.
    version, devices
        The library's version and the devices of this kind; None and () if it cannot run.
    dtypes
        Those it can make arrays of.
    notes
        Sentences: why it cannot run, or why a dtype is missing.
    """

    backend: str
    runs: bool
    version: str | None
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...]


def backends(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the array libraries and devices to train on: which run here, and why others do not."""
    found = [find(name) for name in known.names()]
    if json:
        typer.echo(json_format.dumps([each._asdict() for each in found], indent=2))
    else:
        _print_table(console(), found)


def find(name: str) -> Found:
    """Try a backend and each dtype on it."""
    try:
        backend = known.get(name)
    except known.BackendUnavailable as error:
        return Found(name, False, None, (), (), (str(error),))
    except Exception as error:
        # A broken installation can fail in any way, and must not hide the other backends.
        return Found(name, False, None, (), (), (f"It fails to load: {error!r}.",))
    refused = {dtype: _refusal(backend, dtype) for dtype in DTYPES}
    return Found(
        name,
        True,
        backend.version,
        backend.devices,
        tuple(dtype for dtype, reason in refused.items() if reason is None),
        tuple(f"no {dtype}: {reason}." for dtype, reason in refused.items() if reason is not None),
    )


def _refusal(backend: Any, dtype: str) -> str | None:
    try:
        backend.asarray([0.0], dtype)
    except (AttributeError, TypeError, ValueError) as error:
        return str(error)
    return None


def _print_table(console: Console, found: list[Found]) -> None:
    """Print what can run here, and below it why the rest cannot."""
    table = make_table("backend", "runs here", "version", "devices", "dtypes")
    for each in found:
        table.add_row(
            each.backend,
            "yes" if each.runs else "no",
            each.version or "",
            "\n".join(each.devices),
            ", ".join(each.dtypes),
        )
    print_table(console, table)
    notes = [(each.backend, note) for each in found for note in each.notes]
    if notes:
        console.print()
        reasons = make_table()
        for backend, note in notes:
            reasons.add_row(backend, note)
        print_table(console, reasons)

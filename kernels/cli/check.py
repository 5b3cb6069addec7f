"""`python -m kernels check MODULE`: whether a library that nobody registered can train."""

from __future__ import annotations

import json as json_format
import os
from typing import Annotated

import typer

from .common import DTYPES, choose, console, warn
from .report import check_report

__all__ = ["check"]


def check(
    module: Annotated[
        str, typer.Argument(help="An array namespace, such as mylib or mylib.array_api.")
    ],
    device: Annotated[
        str | None, typer.Option(help="A device of the library. Default: its own choice.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64. Default: one after the other.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check that an array library can train, and name the functions that are in the way.

    Every operation of the kernel is done by the library and by NumPy, and compared. The exit
    status is 1 if something failed.
    """
    dtypes = DTYPES if dtype is None else (choose("--dtype", dtype, DTYPES),)
    # Exact numerics compute in float64, which JAX asks to be enabled before it is imported.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    # These import NumPy, which other commands do without.
    from .checkup import examine
    from .library import find

    checked = examine(find(module, device), dtypes)
    if json:
        fields = checked._asdict() | {
            name: [each._asdict() for each in getattr(checked, name)]
            for name in ("parts", "differences")
        }
        typer.echo(json_format.dumps(fields, indent=2))
    else:
        check_report(console(), checked)
    if not checked.passed:
        failed = sum(each.result != "passed" for each in checked.parts)
        warn(f"{module}: {failed} of {len(checked.parts)} parts did not pass")
        raise typer.Exit(1)

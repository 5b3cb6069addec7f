"""`python -m kernels check MODULE`: whether a library that is no backend yet can train."""

from __future__ import annotations

import json as json_format
import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..reference import training as reference
from .common import DTYPES, as_cli_error, choose, console, require, warn
from .tables import make_table, print_table

if TYPE_CHECKING:
    from ..conformance import Checked, Library, Part

__all__ = ["check"]

# The longest name of a part.
_WIDTH = len("exact functions")


def check(
    module: Annotated[
        str, typer.Argument(help="An array namespace, such as mylib or mylib.array_api.")
    ],
    device: Annotated[
        str | None, typer.Option(help="A device of the library. Default: its own choice.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64. Default: both.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check whether an array library can train, and name functions that are missing or wrong.

    Every operation of the kernel is done by the library and by NumPy, and compared. The exit
    status is 1 if something failed.
    """
    dtypes = DTYPES if dtype is None else (choose("--dtype", dtype, DTYPES),)
    require("sklearn", "check")
    # Exact numerics compute in float64, which JAX asks to be enabled before it is imported.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    # Imported here, since this imports NumPy.
    from ..conformance import examine, find

    with as_cli_error(ValueError):
        library = find(module, device)
    if json:
        checked = examine(library, dtypes)
        fields = checked._asdict() | {
            name: [each._asdict() for each in getattr(checked, name)]
            for name in ("parts", "differences")
        }
        typer.echo(json_format.dumps(fields, indent=2))
    else:
        out = console()
        _print_library(out, library)
        out.print()
        checked = examine(
            library, dtypes, begin=partial(_print_part, out), end=partial(_print_result, out)
        )
        _print_findings(out, checked)
    if not checked.passed:
        failed = sum(each.result != "passed" for each in checked.parts)
        warn(f"{module}: {failed} of {len(checked.parts)} parts did not pass")
        raise typer.Exit(1)


def _print_library(out: Console, library: Library) -> None:
    facts = make_table()
    facts.add_row("namespace", library.xp.__name__)
    facts.add_row("version", library.version)
    facts.add_row("device", str(library.device or "the library's choice"))
    print_table(out, facts)


def _print_part(out: Console, part: str, dtype: str) -> None:
    """Begin a line, which shows what a slow library is busy with."""
    out.out(f"{part:{_WIDTH}}  {dtype}  ", end="", highlight=False)


def _print_result(out: Console, part: Part) -> None:
    blamed = f": {part.function}" if part.function else ""
    out.out(f"{part.result}{blamed}", highlight=False)


def _print_findings(out: Console, checked: Checked) -> None:
    """Print what is missing or wrong, a program that shows it, and the digests."""
    for each in checked.differences:
        out.print()
        out.print(f"{each.function}: expected {each.expected}, got {each.got}.")
        out.print(f"First seen in {each.where}: {each.call}.")
        if each.program:
            out.print("This program shows it:")
        for line in each.program:
            out.print(f"    {line}", soft_wrap=True)
    out.print()
    if checked.flushes_subnormals:
        out.print("Subnormal numbers count as zero here, which changes no digest.")
    for problem, by_dtype in checked.digests.items():
        for dtype, digest in by_dtype.items():
            same = reference.committed()[problem][dtype][checked.steps] == digest
            verdict = "the committed one" if same else "not the committed one"
            what = f"Digest of {problem} after {checked.steps} exact steps, {dtype}"
            out.print(f"{what}: {digest}, {verdict}.")

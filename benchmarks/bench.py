"""`python -m benchmarks`: the kernel's speed and memory beside those of other programs."""

from __future__ import annotations

import json as json_format
import os
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import backends
from backends import Backend
from kernels.cli.common import (
    DTYPES,
    as_cli_error,
    choose,
    compiles,
    console,
    device_of,
    find_backend,
    require,
)

from .cases import CASES
from .contest import BENCH_NUMERICS, Contest, Plan, hold
from .growth import EXPECTED, Growth, grow
from .machine import describe
from .tables import (
    contest_tables,
    growth_tables,
    machine_table,
    plot_contests,
    plot_growth,
)

__all__ = ["bench", "for_speed"]

MODES = ("eager", "compiled")

_QUICK_ROUNDS = 3


def bench(
    case: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What to train: {', '.join(CASES)}, or all; may be given again. "
            "Default: tutorial."
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="A backend; may be given again. Default: all that run here except "
            "array-api-strict and slow libraries; with --growth, numpy."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32 or float64; may be given again. Default: float32."),
    ] = None,
    numerics: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(BENCH_NUMERICS)}; may be given again. exact-1 is the cheaper "
            "setting with one product, for float32. Default: all; with --growth, native and exact."
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help="eager or compiled; may be given again. Default: both; with --growth, eager."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps in one measurement. Default: the case's.", min=2)
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="Measurements of each program, instead of --seconds.", min=1),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{_QUICK_ROUNDS} rounds, for a first look.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(
            help="Time for the rounds of one case in one dtype, at least 5; with --growth, for the "
            "sizes of one series.",
            min=0.0,
        ),
    ] = 40.0,
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Time steps of growing batch, width and depth instead."),
    ] = False,
    largest: Annotated[
        int | None, typer.Option(help="The largest size in --growth.", min=1)
    ] = None,
    memory_fraction: Annotated[
        float,
        typer.Option(help="The part of memory that --growth may fill.", min=0.0, max=1.0),
    ] = 0.5,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the numbers as JSON and a chart as PNG into this folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Time the kernel beside programs that others would write, interleaved in one process.

    Every program must first compute the kernel's losses. Then all programs train once in each
    round, and ratios of times are taken within each round; medians and quartiles over the rounds
    are shown. A ratio below 1 means that the program on the left is the faster one.
    """
    # Exact numerics compute in float64, which JAX asks to be enabled before it is imported.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    require("numpy", "bench")
    for module in ("cpuinfo", "psutil", "threadpoolctl"):
        require(module, "bench", extra="bench")
    if output is not None:
        _check_output(output)
    cases = _chosen("--case", case, (*CASES, "all"), ("tutorial",))
    cases = tuple(CASES) if "all" in cases else cases
    if any(name.startswith("digits") for name in cases):
        require("sklearn", "the case digits")
    dtypes = _chosen("--dtype", dtype, DTYPES, ("float32",))
    usual = ("native", "exact") if growth else tuple(BENCH_NUMERICS)
    names = _chosen("--numerics", numerics, tuple(BENCH_NUMERICS), usual)
    modes = _chosen("--mode", mode, MODES, ("eager",) if growth else MODES)
    places = _find(backend or (["numpy"] if growth else _usual_backends()), dtypes)
    contests: list[Contest] = []
    growths: list[Growth] = []
    with Console(stderr=True).status("") as status:
        if growth:
            for place, kind, how, varied in product(places, dtypes, modes, EXPECTED):
                compiled = how == "compiled"
                if compiled and not compiles(place):
                    continue
                growths += grow(
                    varied,
                    place,
                    kind,
                    numerics=names,
                    compiled=compiled,
                    seconds=seconds,
                    memory_fraction=memory_fraction,
                    largest=largest,
                    progress=status.update,
                )
        else:
            rounds = _QUICK_ROUNDS if quick and rounds is None else rounds
            plan = Plan(places, names, modes, steps, rounds, seconds)
            for name, kind in product(cases, dtypes):
                contests.append(hold(name, CASES[name], kind, plan, status.update))
    machine = describe() | {"devices": [f"{place.name}: {device_of(place)}" for place in places]}
    found = {"machine": machine, "cases": contests, "growth": growths}
    text = json_format.dumps(_plain(found), indent=2, allow_nan=False)
    if output is not None:
        _write(output, text, contests, growths)
    if json:
        typer.echo(text)
        return
    out = console()
    machine_table(out, machine)
    for contest in contests:
        out.print()
        contest_tables(out, contest)
    growth_tables(out, growths)


def _chosen(
    option: str, given: list[str] | None, known: tuple[str, ...], usual: tuple[str, ...]
) -> tuple[str, ...]:
    """Check the values of an option that may be given again."""
    return tuple(dict.fromkeys(choose(option, name, known) for name in given or usual))


def for_speed(place: Backend) -> bool:
    """Say whether a library is used for speed: array-api-strict is for tests."""
    return not place.slow and place.name != "array-api-strict"


def _usual_backends() -> list[str]:
    return [name for name in backends.available() if for_speed(backends.get(name))]


def _find(names: list[str], dtypes: tuple[str, ...]) -> tuple[Backend, ...]:
    for dtype in dtypes:
        places = tuple(find_backend(name, dtype) for name in dict.fromkeys(names))
    return places


def _check_output(folder: Path) -> None:
    """Make the folder and check that files can be written there, before anything is timed."""
    require("matplotlib", "--output")
    with as_cli_error(OSError, prefix=f"cannot write into --output {folder}: "):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _write(folder: Path, text: str, contests: list[Contest], growths: list[Growth]) -> None:
    name = "growth" if growths else "bench"
    with as_cli_error(OSError, prefix=f"cannot write into --output {folder}: ", status=1):
        (folder / f"{name}.json").write_text(text + "\n")
        if growths:
            plot_growth(folder / f"{name}.png", growths)
        else:
            plot_contests(folder / f"{name}.png", contests)


def _plain(value: Any) -> Any:
    """Convert NamedTuples and tuples to dictionaries and lists, for JSON."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value

"""`python -m kernels verify`: the same weights, to the bit, on every library that runs here."""

from __future__ import annotations

import json as json_format
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

import backends
from backends.workers import ENGINES

from ..reference import training as reference
from ..reference.problems import Problem
from .common import DTYPES, NUMERICS, CliError, as_cli_error, compiles, console, require, warn
from .tables import duration, make_table, print_table

__all__ = ["Verified", "verify", "verify_table"]

_COUNTS = (1, 2, 3, 4)

# Steps of workers: enough to see a difference, as each step may take a while.
_STEPS = 10


class Verified(NamedTuple):
    """One training run and its result.

    Attributes
    ----------
    numerics, problem, dtype
        What was trained.
    backend, device, version, compiled
        Where and how.
    steps
        How many; fewer on slow libraries unless asked for.
    seconds_per_step
        The mean between the last two numbers of steps with digests; None if it failed.
    digest
        Of the weights after the last step; None if training failed.
    result
        "same", "different" or "failed", which may be followed by where or why; "reference" for
        the first native run, which the others are compared with.
    """

    numerics: str
    problem: str
    dtype: str
    backend: str
    device: str
    version: str
    compiled: bool
    steps: int
    seconds_per_step: float | None
    digest: str | None
    result: str

    @property
    def same(self) -> bool:
        """Whether the digests are those expected."""
        return self.result == "same"


def verify(
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend to verify; may be given again. Default: all that run here."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="How many steps to train: 1, 10 or 500. Default: 500; on slow libraries 10, or 1 "
            "uncompiled."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Train with exact numerics on every backend and compare the weights to the last bit.

    The digests must be those that come with this package, also with each batch split among up to
    four workers where the library has an engine for that. Then the same is done with native
    numerics, whose weights may differ. The exit status is 1 if an exact digest differs.
    """
    require("sklearn", "verifying the training on digits")
    # Exact numerics compute in float64, which JAX asks to be enabled before it is imported.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    if steps not in (None, *reference.CHECKPOINTS[1:]):
        raise CliError(f"expected --steps to be 1, 10 or 500, got {steps}")
    with as_cli_error(ValueError, backends.BackendUnavailable):
        places = [backends.get(name) for name in backend or backends.available()]
    libraries = {place.name.partition(":")[0] for place in places}
    engines = [engine for engine in ENGINES if engine in libraries]
    by_name = {place.name: place for place in places}

    @cache
    def make(problem: str, dtype: str, name: str) -> Problem:
        # With ndonnx random numbers take a minute.
        return reference.make(problem, by_name[name], dtype)

    exact, native = (
        [*_all(numerics, places, steps, make), *_by_workers(numerics, engines, steps or _STEPS)]
        for numerics in ("exact", "native")
    )
    if json:
        typer.echo(json_format.dumps([row._asdict() for row in (*exact, *native)], indent=2))
    else:
        out = console()
        for title, rows in (("exact", exact), ("native", native)):
            out.print(f"{title} numerics")
            verify_table(out, rows)
            out.print()
    wrong = [row for row in exact if not row.same]
    for row in wrong:
        warn(f"{row.backend}, {row.problem}, {row.dtype}: {row.result}")
    if wrong:
        raise typer.Exit(1)
    if not json:
        out.print(f"All {len(exact)} exact runs gave the committed digests.")
        last = reference.CHECKPOINTS[-1]
        if any(row.steps < last for row in exact):
            out.print(f"Some took fewer than {last} steps; --steps {last} makes all take them.")


def _all(
    numerics: str,
    places: list[backends.Backend],
    steps: int | None,
    make: Callable[[str, str, str], Problem],
) -> list[Verified]:
    rows: list[Verified] = []
    with Console(stderr=True).status("") as status:
        for problem, dtype in product(reference.PROBLEMS, DTYPES):
            native: dict[int, str] | None = None
            for place, compiled in _modes(places):
                how = "compiled" if compiled else "eager"
                status.update(f"{numerics} {problem} {dtype} on {place.name}, {how}")
                checkpoints = reference.checkpoints(place, compiled=compiled, steps=steps)
                try:
                    trained = reference.train(
                        make(problem, dtype, place.name),
                        place,
                        numerics=NUMERICS[numerics],
                        compiled=compiled,
                        checkpoints=checkpoints,
                    )
                except Exception as error:
                    # One library's failure must not hide what the others do.
                    seconds, last = None, None
                    result = (
                        f"failed: {type(error).__name__}: {(str(error) or '-').splitlines()[0]}"
                    )
                else:
                    seconds, last = trained.seconds_per_step, trained.digests[checkpoints[-1]]
                    if numerics == "exact":
                        result = _compare(problem, dtype, place, compiled, trained.digests)
                    elif native is None:
                        native, result = trained.digests, "reference"
                    else:
                        shared = native.keys() & trained.digests.keys()
                        same = all(native[n] == trained.digests[n] for n in shared)
                        result = "same" if same else "different"
                rows.append(
                    Verified(
                        numerics,
                        problem,
                        dtype,
                        place.name,
                        place.devices[0] if len(place.devices) == 1 else str(place.device),
                        place.version,
                        compiled,
                        checkpoints[-1],
                        seconds,
                        last,
                        result,
                    )
                )
    return rows


def _by_workers(numerics: str, engines: list[str], steps: int) -> list[Verified]:
    """Train a few steps of the tutorial's network on each engine with each number of workers."""
    rows: list[Verified] = []
    expected = reference.committed()["tutorial"]["float32"]
    with Console(stderr=True).status("") as status:
        for engine, count in product(engines, _COUNTS):
            name = f"{engine} x {count} worker{'s' if count > 1 else ''}"
            status.update(f"{numerics} tutorial float32, {steps} steps on {name}")
            options = (
                f"--problem tutorial --steps {steps} --numerics {numerics} --engine {engine} "
                f"--workers {count} --json"
            )
            done = subprocess.run(
                [sys.executable, "-m", "kernels", "train", *options.split()],
                capture_output=True,
                text=True,
                check=False,
            )
            report = json_format.loads(done.stdout) if done.returncode == 0 else {}
            digest = report.get("digest")
            if digest is None:
                result = f"failed: {(done.stderr.splitlines() or ['-'])[-1]}"
            elif numerics == "native" and count == _COUNTS[0]:
                result, native = "reference", digest
            else:
                same = digest == (expected[steps] if numerics == "exact" else native)
                result = "same" if same else "different"
            rows.append(
                Verified(
                    numerics,
                    "tutorial",
                    "float32",
                    name,
                    report.get("device", ""),
                    report.get("version", ""),
                    report.get("compiled", False),
                    steps,
                    report.get("seconds_per_step"),
                    digest,
                    result,
                )
            )
    return rows


def _modes(places: list[backends.Backend]) -> Iterator[tuple[backends.Backend, bool]]:
    for place in places:
        yield place, False
        if compiles(place):
            yield place, True


def _compare(
    problem: str, dtype: str, place: backends.Backend, compiled: bool, digests: dict[int, str]
) -> str:
    expected = reference.committed()[problem][dtype]
    wrong = [number for number, digest in digests.items() if digest != expected[number]]
    if not wrong:
        return "same"
    numpy = backends.get("numpy")
    where = reference.first_difference(
        problem, dtype, place, numpy, compiled=compiled, steps=wrong[0]
    )
    if where is None:
        return f"different after step {wrong[0]}, where NumPy {numpy.version} here agrees"
    return f"different from NumPy {numpy.version} here: first in {where}"


def verify_table(console: Console, rows: Sequence[Verified]) -> None:
    """Print what was trained where, and whether the digests are those expected."""
    table = make_table(
        "problem",
        "dtype",
        "backend",
        "device",
        "version",
        "mode",
        "steps",
        "per step",
        "digest",
        "result",
    )
    for row in rows:
        table.add_row(
            row.problem,
            row.dtype,
            row.backend,
            row.device,
            row.version,
            "compiled" if row.compiled else "eager",
            str(row.steps),
            "" if row.seconds_per_step is None else duration(row.seconds_per_step),
            "" if row.digest is None else row.digest[:12],
            row.result,
        )
    print_table(console, table)

"""`python -m benchmarks.collectives`: a step of a thousand workers, simulated from one of them.

The numerics of a step run with a team that records what it is asked to send. This shows how many
collectives wait for each other, how large they are, and how long the arithmetic of a worker takes.
The time of a collective comes from a model of two numbers, the latency a and the time b of a byte.
For n bytes and p workers it is the least of

    ring             2 (p - 1) a + 2 (p - 1) / p n b
    tree             log2(p) (a + n b)
    halving          2 log2(p) a + 2 (p - 1) / p n b

with logarithms rounded up. Thakur, Rabenseifner, Gropp 2005, "Optimization of collective
communication operations in MPICH", Int. J. of High Performance Computing Applications 19.
"""

from __future__ import annotations

import json as json_format
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, log2, prod
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer
from array_api_compat import array_namespace, device

import backends
from backends import workers
from backends.workers.torch import is_launched, launch
from kernels import Array
from kernels.cli.common import DTYPES, as_cli_error, choose, console, require
from kernels.cli.entry import entry
from kernels.cli.tables import duration, make_table, print_table
from kernels.numerics import EXACT, NATIVE, Numerics
from kernels.reference.problems import Problem
from kernels.reference.training import method_of
from kernels.training import fit

from .cases import CASES
from .timing import timed

__all__ = ["Link", "collectives", "exchanges"]

_NUMERICS: dict[str, Any] = {"native": NATIVE, "exact": EXACT}

_MEASURED = (1, 2, 3, 4)
_SIMULATED = (1, 2, 4, 10, 30, 100, 300, 1000)

# Bytes of the small and the large message whose times give latency and bandwidth, and how often
# they are sent.
_SMALL, _LARGE, _TIMES = 8, 2**20, 50
_ROUNDS = 7


@dataclass(frozen=True, eq=False)
class _Recorder:
    """The first worker of a `kernels.numerics.Team`, without the others.

    It computes what that worker would, and records the bytes of each exchange. It gets its own part
    back, so the results are not those of a training.

    Attributes
    ----------
    size
        How many workers there would be.
    sent
        The bytes of each exchange.
    """

    size: int
    sent: list[int] = field(default_factory=list)

    def own(self, a: Array) -> Array:
        return a[: ceil(a.shape[0] / self.size), ...]

    def whole(self, a: Array, n: int) -> Array:
        xp = array_namespace(a)
        rest = xp.zeros((n - a.shape[0], *a.shape[1:]), dtype=a.dtype, device=device(a))
        whole: Array = xp.concat([a, rest])
        self._note([whole])
        return whole

    def largest(self, arrays: Iterable[Array]) -> list[Array]:
        return self._note(arrays)

    def total(self, arrays: Iterable[Array]) -> list[Array]:
        return self._note(arrays)

    def _note(self, arrays: Iterable[Array]) -> list[Array]:
        given = list(arrays)
        if given:
            info = array_namespace(given[0]).finfo
            self.sent.append(sum(prod(a.shape) * info(a.dtype).bits // 8 for a in given))
        return given


class Link(NamedTuple):
    """The link between two workers: seconds until the first byte, and seconds for each byte."""

    latency: float
    byte: float

    def all_reduce(self, size: float, count: int) -> float:
        """Estimate the seconds in which `count` workers reduce `size` bytes, in the best way.

        Examples
        --------
        >>> network = Link(latency=5e-6, byte=1 / 50e9)
        >>> f"{network.all_reduce(8, 1000):.1e} {network.all_reduce(8e9, 1000):.2f}"
        '5.0e-05 0.32'
        >>> network.all_reduce(8, 1)
        0.0
        """
        latency, byte = self
        if count == 1:
            return 0.0
        levels = ceil(log2(count))
        shares = 2 * (count - 1) / count * size * byte
        ring = 2 * (count - 1) * latency + shares
        tree = levels * (latency + size * byte)
        return min(ring, tree, 2 * levels * latency + shares)

    def step(self, sizes: Iterable[int], count: int) -> float:
        """Estimate the seconds of exchanges that wait for each other."""
        return sum(self.all_reduce(size, count) for size in sizes)


def exchanges(problem: Problem, numerics: Any, count: int) -> list[int]:
    """List the bytes of each exchange of a step by so many workers; one exchanges nothing."""
    if count == 1:
        return []
    first, two = (_recorded(problem, numerics, count, steps) for steps in (1, 2))
    # Leaves out what is sent once, before the first step.
    return two[len(first) :]


def collectives(
    case: Annotated[str, typer.Option(help=f"What to train: {', '.join(CASES)}.")] = "tutorial",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    numerics: Annotated[str, typer.Option(help=f"{' or '.join(_NUMERICS)}.")] = "exact",
    latency: Annotated[
        float, typer.Option(help="Of the simulated network, in seconds.", min=0.0)
    ] = 5e-6,
    bandwidth: Annotated[
        float, typer.Option(help="Of the simulated network, in bytes per second.", min=1.0)
    ] = 50e9,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Simulate a step of 1 to 1000 workers, and compare 1 to 4 with real workers of torch.

    For the comparison the link between two processes of this machine is measured. Every worker
    computes with one thread; more workers than cores take turns.
    """
    for module in ("typer", "rich"):
        require(module, "benchmarks.collectives", extra="bench")
    choose("--case", case, tuple(CASES))
    choose("--dtype", dtype, DTYPES)
    choose("--numerics", numerics, tuple(_NUMERICS))
    os.environ["OMP_NUM_THREADS"] = "1"
    if is_launched():
        assert into is not None
        _work(case, dtype, _NUMERICS[numerics], into)
        return
    with as_cli_error(backends.BackendUnavailable):
        place = backends.get("torch:cpu")
    problem, kind = CASES[case].make(place.asarray, dtype), _NUMERICS[numerics]
    options = ("--case", case, "--dtype", dtype, "--numerics", numerics)
    measured = {count: _measured(count, options) for count in _MEASURED}
    small, large = (measured[2][name] for name in ("small", "large"))
    here = Link(small, max(0.0, large - small) / (_LARGE - _SMALL))
    with _one_thread():
        own = {
            count: _seconds(problem, kind, count, CASES[case].steps)
            for count in sorted({*_MEASURED, *_SIMULATED})
        }
    sent = {count: exchanges(problem, kind, count) for count in own}
    cores = os.cpu_count() or 1
    found = {
        "link": here._asdict(),
        "measured": [
            {
                "workers": count,
                "seconds": own[count] * max(1.0, count / cores) + here.step(sent[count], count),
                "measured": measured[count]["step"],
            }
            for count in _MEASURED
        ],
        "simulated": [
            {
                "workers": count,
                "exchanges": len(sent[count]),
                "bytes": sum(sent[count]),
                "computing": own[count],
                "sending": Link(latency, 1 / bandwidth).step(sent[count], count),
            }
            for count in _SIMULATED
        ],
    }
    if json:
        sys.stdout.write(json_format.dumps(found) + "\n")
        return
    _print(found, f"{case}, {dtype}, {numerics}", Link(latency, 1 / bandwidth))


def _recorded(problem: Problem, numerics: Any, count: int, steps: int) -> list[int]:
    recorder = _Recorder(count)
    _train(problem, replace(numerics, team=recorder), steps)
    return recorder.sent


def _train(problem: Problem, numerics: Numerics, steps: int) -> None:
    method = method_of(problem) | {"dual": False}
    fit(problem.layers, problem.x, problem.y, steps=steps, numerics=numerics, **method)


def _seconds(problem: Problem, numerics: Any, count: int, steps: int) -> float:
    """Time a step of one of so many workers, without sending."""
    if count > 1:
        numerics = replace(numerics, team=_Recorder(count))
    return _step(lambda: _train(problem, numerics, steps), steps)


def _step(program: Callable[[], Any], steps: int) -> float:
    program()
    return median(timed(program)[0] for _ in range(_ROUNDS)) / steps


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(count: int, options: tuple[str, ...]) -> dict[str, float]:
    """Measure with so many workers of torch."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        module = ("-m", "benchmarks.collectives")
        ended = launch(count, [*module, *options, "--into", str(file)], lost=1)
        if ended is not None:
            raise workers.WorkerLost(f"worker {ended[0] + 1} ended with status {ended[1]}")
        found: dict[str, float] = json_format.loads(file.read_text())
        return found


def _work(case: str, dtype: str, numerics: Any, into: Path) -> None:
    """Be a worker: time a step, and a small and a large exchange."""
    with workers.join("torch") as team, _one_thread():
        problem = CASES[case].make(team.backend.asarray, dtype)
        split, steps = team.numerics(numerics), CASES[case].steps
        seconds = {"step": _step(lambda: _train(problem, split, steps), steps)}
        for name, size in (("small", _SMALL), ("large", _LARGE)):
            message = team.backend.xp.zeros(size // 8, dtype=team.backend.xp.float64)
            seconds[name] = _step(partial(_send, split.team, message), _TIMES)
        if team.first:
            into.write_text(json_format.dumps(seconds))


def _send(team: Any, message: Array) -> None:
    for _ in range(_TIMES):
        team.total([message])


def _print(found: dict[str, Any], title: str, network: Link) -> None:
    out = console()
    link = found["link"]
    out.print(
        f"{title}. Between two processes here: {duration(link['latency'])}, "
        f"{link['byte'] * 1e6 * 1e3:.3g} ms for a megabyte.\n"
    )
    table = make_table("workers", "step, simulated", "step, measured", "ratio")
    for row in found["measured"]:
        ratio = row["seconds"] / row["measured"]
        times = (duration(row[name]) for name in ("seconds", "measured"))
        table.add_row(str(row["workers"]), *times, f"{ratio:.2f}")
    print_table(out, table)
    out.print(
        f"\nWith {duration(network.latency)} and {1 / network.byte / 1e9:.3g} GB/s between workers "
        "of one such core each:\n"
    )
    table = make_table("workers", "exchanges", "bytes", "computing", "sending", "step")
    for row in found["simulated"]:
        counts = (f"{row[name]:,}" for name in ("workers", "exchanges", "bytes"))
        seconds = row["computing"], row["sending"], row["computing"] + row["sending"]
        table.add_row(*counts, *map(duration, seconds))
    print_table(out, table)


main = entry("benchmarks.collectives", collectives)

if __name__ == "__main__":
    sys.exit(main())

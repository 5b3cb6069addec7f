"""One case of `bench`: the kernel, its peers and the floor, checked, timed and measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import backends
from backends import Backend
from kernels.cli.common import NUMERICS, CliError, compiles
from kernels.layer import Layer
from kernels.numerics import Exact, Numerics
from kernels.reference.problems import Problem
from kernels.reference.training import method_of
from kernels.training import fit

from .cases import Case, sizes_of
from .memory import allocated
from .peers import NUMPY_LOOP, PEERS, Peer, Train, matrix_products
from .timing import Spread, interleave, ratios, rounds_for, spread, timed

__all__ = ["BENCH_NUMERICS", "Contest", "Contestant", "Plan", "Ratio", "Timed", "hold"]

BENCH_NUMERICS: dict[str, Numerics] = NUMERICS | {"exact-1": Exact(products=1)}


class Plan(NamedTuple):
    """What is timed, and for how long.

    Attributes
    ----------
    places
        The backends.
    numerics
        Names in `BENCH_NUMERICS`.
    modes
        "eager", "compiled" or both.
    steps
        Of one measurement; None for the case's own.
    rounds
        How many; None for as many as fit into `seconds`.
    seconds
        The time for the rounds of one case in one dtype.
    """

    places: tuple[Backend, ...]
    numerics: tuple[str, ...]
    modes: tuple[str, ...]
    steps: int | None
    rounds: int | None
    seconds: float


class Contestant(NamedTuple):
    """A program to time.

    Attributes
    ----------
    name
        Unique, for people.
    kind
        "kernel", "peer" or "floor".
    backend
        The name of the backend whose library it uses.
    numerics, compiled
        Of the kernel; None for the others.
    make
        () -> train, where train(steps) returns the losses.
    synchronize
        (losses) -> None: wait until they are computed.
    biases
        Whether it trains biases that the problem lacks.
    apart
        The relative difference that its losses may have from the kernel's, besides rounding.
    """

    name: str
    kind: str
    backend: str
    numerics: str | None
    compiled: bool | None
    make: Callable[[], Train]
    synchronize: Callable[..., None]
    biases: bool = False
    apart: float = 0.0


class Timed(NamedTuple):
    """What was measured of a contestant; the first five fields are those of `Contestant`.

    Attributes
    ----------
    first_run_seconds
        Of the first run of all steps, compilation included.
    per_step
        Seconds.
    rounds
        Seconds per step in each round.
    allocated_bytes
        The peak of memory that a run allocated; None where it cannot be counted.
    weights
        That peak divided by the size of the largest weight.
    """

    name: str
    kind: str
    backend: str
    numerics: str | None
    compiled: bool | None
    first_run_seconds: float
    per_step: Spread
    rounds: list[float]
    allocated_bytes: int | None
    weights: float | None


class Ratio(NamedTuple):
    """How many times as long a contestant takes as another, round by round."""

    name: str
    against: str
    ratio: Spread


class Contest(NamedTuple):
    """One case in one dtype.

    Attributes
    ----------
    case, dtype, batch, sizes
        What was trained.
    steps, rounds
        Steps in a measurement, and measurements of each contestant.
    contestants, ratios
        The results.
    not_run
        The name of each contestant that could not run, and why.
    """

    case: str
    dtype: str
    batch: int
    sizes: tuple[int, ...]
    steps: int
    rounds: int
    contestants: list[Timed]
    ratios: list[Ratio]
    not_run: list[tuple[str, str]]


def hold(
    name: str, case: Case, dtype: str, plan: Plan, progress: Callable[[str], object]
) -> Contest:
    """Check that all contestants compute the same, then time them in rounds.

    Raises
    ------
    CliError
        If the first two losses of one are not the kernel's, or no contestant runs.
    """
    steps = plan.steps or case.steps
    host = case.make(backends.get("numpy").asarray, dtype)
    ready: list[tuple[Contestant, Train]] = []
    first_runs, second_runs, not_run = [], [], []
    for contestant in _contestants(case, host, dtype, plan):
        progress(f"{name} {dtype}: first run of {contestant.name}")
        try:
            # Drawing and moving the weights is not part of the first run.
            train = contestant.make()
            first, losses = timed(_program(contestant, train, steps))
            second, _ = timed(_program(contestant, train, steps))
        except Exception as error:
            # One library's failure must not hide what the others do.
            not_run.append((contestant.name, _reason(error)))
            continue
        if contestant.kind != "floor":
            _check(contestant, losses, host, dtype)
        ready.append((contestant, train))
        first_runs.append(first)
        second_runs.append(second)
    if not ready:
        raise CliError(f"nothing of {name} runs: {not_run[0][1] if not_run else 'none is chosen'}")
    programs = [_program(contestant, train, steps) for contestant, train in ready]
    rounds = plan.rounds or rounds_for(plan.seconds, second_runs)
    seconds = interleave(
        programs, rounds, lambda done: progress(f"{name} {dtype}: round {done} of {rounds}")
    )
    largest = max(_bytes(layer) for layer in host.layers)
    rows = []
    for (contestant, _), program, first, run in zip(
        ready, programs, first_runs, seconds, strict=True
    ):
        progress(f"{name} {dtype}: memory of {contestant.name}")
        peak = allocated(program, contestant.backend)
        per_step = [each / steps for each in run]
        weights = None if peak is None else peak / largest
        rows.append(Timed(*contestant[:5], first, spread(per_step), per_step, peak, weights))
    return Contest(
        name,
        dtype,
        host.batch_size or host.x.shape[0],
        sizes_of(host),
        steps,
        rounds,
        rows,
        list(_ratios(rows)),
        not_run,
    )


def _program(contestant: Contestant, train: Train, steps: int) -> Callable[[], Any]:
    def program() -> Any:
        losses = train(steps)
        contestant.synchronize(losses)
        return losses

    return program


def _contestants(case: Case, host: Problem, dtype: str, plan: Plan) -> Iterator[Contestant]:
    for place in plan.places:
        problem = case.make(place.asarray, dtype)
        for numerics in plan.numerics:
            # One product is not enough for float64.
            if numerics == "exact-1" and dtype == "float64":
                continue
            for mode in plan.modes:
                compiled = mode == "compiled"
                if compiled and not compiles(place):
                    continue
                yield Contestant(
                    f"kernel {numerics}, {place.name}" + (" compiled" if compiled else ""),
                    "kernel",
                    place.name,
                    numerics,
                    compiled,
                    _kernel(problem, place, numerics, compiled),
                    place.synchronize,
                )
        yield Contestant(
            f"matrix products alone, {place.name}",
            "floor",
            place.name,
            None,
            None,
            _later(_products, problem, place),
            place.synchronize,
        )
    for peer, place in _peers(host, dtype, plan.places):
        several = sum(_library(p.name) == peer.library for p in plan.places) > 1
        yield Contestant(
            f"{peer.name}, {place.name}" if several else peer.name,
            "peer",
            place.name,
            None,
            None,
            _later(peer.make, host, place) if _installed(peer.module) else _missing(peer.module),
            place.synchronize,
            peer.biases,
            0.0 if host.optimizer is None else peer.adam_apart,
        )


def _products(problem: Problem, _: Backend) -> Train:
    return matrix_products(problem.layers, problem.x[: problem.batch_size, :])


def _peers(host: Problem, dtype: str, places: Sequence[Backend]) -> Iterator[tuple[Peer, Backend]]:
    for peer in PEERS:
        if not peer.trains(host, dtype):
            continue
        if peer.library is None:
            # One place is enough, of a library that this peer can use.
            usable = [place for place in places if _library(place.name) in ("jax", "torch")]
            chosen = usable[:1] or [backends.get("numpy")]
        else:
            chosen = [place for place in places if _library(place.name) == peer.library]
        # All libraries are compared with the loop in NumPy.
        if peer is NUMPY_LOOP:
            chosen = [backends.get("numpy")]
        for place in chosen:
            yield peer, place


def _kernel(problem: Problem, place: Backend, numerics: str, compiled: bool) -> Callable[[], Train]:
    def train(steps: int) -> Any:
        trained = fit(
            problem.layers,
            problem.x,
            problem.y,
            steps=steps,
            **method_of(problem),
            numerics=BENCH_NUMERICS[numerics],
            compile=place.compile if compiled else None,
        )
        place.synchronize(trained)
        return trained.losses

    return lambda: train


def _later(
    make: Callable[[Problem, Backend], Train], problem: Problem, place: Backend
) -> Callable[[], Train]:
    return lambda: make(problem, place)


def _missing(module: str) -> Callable[[], Train]:
    def make() -> Train:
        raise ModuleNotFoundError("not installed", name=module)

    return make


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _library(backend: str) -> str:
    return backend.partition(":")[0]


def _reason(error: Exception) -> str:
    text = (str(error) or "-").splitlines()[0]
    return text if text == "not installed" else f"{type(error).__name__}: {text}"


def _check(contestant: Contestant, losses: Any, host: Problem, dtype: str) -> None:
    """Raise unless the first two losses are the kernel's in NumPy, to rounding.

    The second depends on every gradient of the first step.
    """
    import numpy as np

    layers = host.layers
    if contestant.biases:
        layers = tuple(Layer(w, w[0, :] * 0.0 if b is None else b) for w, b in host.layers)
    expected = fit(layers, host.x, host.y, steps=2, **method_of(host) | {"dual": False}).losses
    # Not `len`, which the standard's arrays lack.
    count = losses.shape[0] if hasattr(losses, "shape") else len(losses)
    got = [float(losses[i]) for i in range(min(2, count))]
    want = [float(expected[i]) for i in range(len(got))]
    # Sums of about a thousand terms, in another order.
    tolerance = 1000 * float(np.finfo(dtype).eps) + contestant.apart
    if not np.allclose(got, want, rtol=tolerance, atol=0.0):
        raise CliError(
            f"{contestant.name} does not compute what the kernel does: its first losses are "
            f"{got}, the kernel's {want}",
            status=1,
        )


def _ratios(rows: Sequence[Timed]) -> Iterator[Ratio]:
    """Compare native numerics with programs of the same library, and exact with native."""
    for row in rows:
        if row.kind != "kernel":
            continue
        for other in rows:
            same_library = _library(other.backend) == _library(row.backend)
            if row.numerics == "native":
                chosen = other.kind != "kernel" and same_library
            else:
                chosen = other.numerics == "native" and (other.backend, other.compiled) == (
                    row.backend,
                    row.compiled,
                )
            if chosen or other.name == NUMPY_LOOP.name:
                yield Ratio(row.name, other.name, ratios(row.rounds, other.rounds))


def _bytes(layer: Layer) -> int:
    weight: Any = layer.weight
    return int(weight.nbytes)

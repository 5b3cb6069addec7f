"""Training on the problems, and the digests that it must give on every library."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import resources
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from .._typing import Array
from ..digest import digest
from ..network import Layer, step
from ..numerics import EXACT, Numerics
from ..training import batches
from .problems import Problem, digits, tutorial

if TYPE_CHECKING:
    from backends import Backend

__all__ = [
    "CHECKPOINTS",
    "PROBLEMS",
    "Run",
    "checkpoints",
    "committed",
    "first_difference",
    "make",
    "train",
]

PROBLEMS = ("tutorial", "digits")

# Steps after which there are digests. The first tells a difference in the data from one in
# arithmetic.
CHECKPOINTS = (0, 1, 10, 500)


class Run(NamedTuple):
    """A training run.

    Attributes
    ----------
    digests
        Of the weights, by the number of steps done.
    seconds_per_step
        The median, so that compilation does not count.
    """

    digests: dict[int, str]
    seconds_per_step: float


def checkpoints(backend: Backend, *, compiled: bool, steps: int | None = None) -> tuple[int, ...]:
    """Choose the checkpoints that a backend reaches in time, or those up to `steps`.

    All of them, unless it is slow: then 10 steps, or 1 uncompiled.
    """
    if steps is None:
        steps = (10 if compiled else 1) if backend.slow else CHECKPOINTS[-1]
    return tuple(number for number in CHECKPOINTS if number <= steps)


def make(problem: str, backend: Backend, dtype: str) -> Problem:
    """Make one of `PROBLEMS` on a backend."""
    if problem == "tutorial":
        return tutorial(like=backend.asarray([0.0], dtype))
    return digits(asarray=backend.asarray, dtype=dtype)


def train(
    problem: Problem,
    backend: Backend,
    *,
    numerics: Numerics,
    compiled: bool,
    checkpoints: tuple[int, ...],
) -> Run:
    """Train up to the last of the checkpoints."""
    digests, seconds = {}, []
    started = time.perf_counter()
    steps = checkpoints[-1]
    for number, layers in enumerate(_trajectory(problem, backend, numerics, compiled, steps)):
        backend.synchronize(layers)
        seconds.append(time.perf_counter() - started)
        if number in checkpoints:
            digests[number] = digest(layers)
        started = time.perf_counter()
    return Run(digests, median(seconds[1:]))


def committed() -> dict[str, dict[str, dict[int, str]]]:
    """Read the digests of exact training, by problem, dtype and number of steps."""
    text = resources.files(__package__).joinpath("digests.json").read_text()
    return {
        problem: {
            dtype: {int(number): value for number, value in digests.items()}
            for dtype, digests in by_dtype.items()
        }
        for problem, by_dtype in json.loads(text).items()
    }


def first_difference(
    problem: str, dtype: str, backend: Backend, reference: Backend, *, compiled: bool, steps: int
) -> str | None:
    """Name the first step and array in which exact training differs from the reference's."""
    places = (backend, reference)
    runs = [
        _trajectory(make(problem, place, dtype), place, EXACT, how, steps)
        for place, how in zip(places, (compiled, False), strict=True)
    ]
    for number, networks in enumerate(zip(*runs, strict=True)):
        for i, pair in enumerate(zip(*networks, strict=True)):
            for field, *arrays in zip(Layer._fields, *pair, strict=True):
                if _bits(arrays[0], backend) != _bits(arrays[1], reference):
                    return f"step {number}, layers[{i}].{field}"
    return None


def _bits(a: Array | None, place: Backend) -> bytes | None:
    # Adding zero makes +0 of -0.
    return None if a is None else (place.to_numpy(a) + 0.0).tobytes()


def _trajectory(
    problem: Problem, backend: Backend, numerics: Numerics, compiled: bool, steps: int
) -> Iterator[tuple[Layer, ...]]:
    """Yield the weights before training and after each step."""

    def train_batch(
        layers: tuple[Layer, ...], x: Array, y: Array
    ) -> tuple[tuple[Layer, ...], Array]:
        return step(
            layers,
            x,
            y,
            learning_rate=problem.learning_rate,
            loss=problem.loss,
            numerics=numerics,
        )

    x, y, compile = problem.x, problem.y, None
    if compiled:
        compile = backend.compile
        train_batch = compile(train_batch)
        # Lazy libraries would draw them anew in each step.
        x, y = map(compile(lambda a: a), (x, y))
    layers = problem.layers
    yield layers
    for x_batch, y_batch in batches(x, y, steps, problem.batch_size, 0, compile=compile):
        layers, _ = train_batch(layers, x_batch, y_batch)
        yield layers

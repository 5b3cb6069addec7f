"""Training on the problems, and the digests it must give on every library."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .._typing import Array
from ..digest import digest
from ..layer import Layer
from ..numerics import EXACT, Numerics
from ..training import Fit, fit
from .problems import (
    Problem,
    digits,
    digits_adam,
    tall,
    tutorial,
    tutorial_dual,
    tutorial_momentum,
)

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
    "method_of",
    "train",
]

PROBLEMS = ("tutorial", "digits", "tall", "tutorial-momentum", "digits-adam", "tutorial-dual")

# Steps after which there are digests. Step 0 tells whether the data or the arithmetic differ.
CHECKPOINTS = (0, 1, 10, 500)


class Run(NamedTuple):
    """A training run.

    Attributes
    ----------
    digests
        Of the weights, by the number of steps done.
    seconds_per_step
        The mean on the way to the last checkpoint, so that compiling in the first step is left out.
    """

    digests: dict[int, str]
    seconds_per_step: float


def checkpoints(backend: Backend, *, compiled: bool, steps: int | None = None) -> tuple[int, ...]:
    """Choose the checkpoints that a backend reaches soon enough, or those up to `steps`.

    All of them, unless it is slow: then 10 steps, or 1 uncompiled.
    """
    if steps is None:
        steps = (10 if compiled else 1) if backend.slow else CHECKPOINTS[-1]
    return tuple(number for number in CHECKPOINTS if number <= steps)


def make(problem: str, backend: Backend, dtype: str) -> Problem:
    """Make one of `PROBLEMS` on a backend."""
    drawn = {
        "tutorial": tutorial,
        "tall": tall,
        "tutorial-momentum": tutorial_momentum,
        "tutorial-dual": tutorial_dual,
    }
    if problem in drawn:
        return drawn[problem](like=backend.asarray([0.0], dtype))
    of_digits = digits_adam if problem == "digits-adam" else digits
    return of_digits(asarray=backend.asarray, dtype=dtype)


def train(
    problem: Problem,
    backend: Backend,
    *,
    numerics: Numerics,
    compiled: bool,
    checkpoints: tuple[int, ...],
) -> Run:
    """Train with `fit` from one checkpoint to the next."""
    trained = None
    digests, seconds = {0: digest(problem.layers)}, math.nan
    for start, stop in pairwise(checkpoints):
        if problem.dual:
            # From most steps it would not go on to the same bits.
            trained, start = None, 0
        started = time.perf_counter()
        trained = _fit(problem, backend, numerics, compiled, trained, start, stop)
        backend.synchronize(trained.layers)
        seconds = (time.perf_counter() - started) / (stop - start)
        digests[stop] = digest(trained.layers)
    return Run(digests, seconds)


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
    trained = None
    yield problem.layers
    for start in range(steps):
        if problem.dual:
            trained = _fit(problem, backend, numerics, compiled, None, 0, start + 1)
        else:
            trained = _fit(problem, backend, numerics, compiled, trained, start, start + 1)
        yield trained.layers


def _fit(
    problem: Problem,
    backend: Backend,
    numerics: Numerics,
    compiled: bool,
    before: Fit | None,
    start: int,
    stop: int,
) -> Fit:
    """Take some of a problem's steps, after what was trained before."""
    return fit(
        problem.layers if before is None else before.layers,
        problem.x,
        problem.y,
        steps=stop - start,
        start=start,
        state=None if before is None else before.state,
        numerics=numerics,
        compile=backend.compile if compiled else None,
        **method_of(problem),
    )


def method_of(problem: Problem) -> dict[str, Any]:
    """Give the arguments of `fit` that say how a problem is trained."""
    names = ("optimizer", "batch_size", "loss", "activation", "l2", "sample_weight", "dual")
    method = {name: getattr(problem, name) for name in names}
    rate = problem.learning_rate if problem.optimizer is None else None
    return method | {"learning_rate": rate}

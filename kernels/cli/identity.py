"""The same bits everywhere: what is trained, and the digests that it must give."""

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

__all__ = ["CHECKPOINTS", "PROBLEMS", "Trained", "committed", "first_difference", "make", "train"]

PROBLEMS = ("tutorial", "digits")

# Steps after which there are digests. The first tells a difference in the data from one in
# arithmetic.
CHECKPOINTS = (0, 1, 10, 500)


class Trained(NamedTuple):
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


def make(problem: str, backend: Backend, dtype: str) -> Problem:
    """Make one of `PROBLEMS` on a backend."""
    if problem == "tutorial":
        return tutorial(like=backend.asarray([0.0], dtype))
    return digits(asarray=backend.asarray, dtype=dtype)


def train(problem: Problem, backend: Backend, *, numerics: Numerics, compiled: bool) -> Trained:
    """Train up to the last checkpoint."""
    digests, seconds = {}, []
    started = time.perf_counter()
    for number, layers in enumerate(_trajectory(problem, backend, numerics, compiled)):
        backend.synchronize()
        seconds.append(time.perf_counter() - started)
        if number in CHECKPOINTS:
            digests[number] = digest(layers)
        started = time.perf_counter()
    return Trained(digests, median(seconds[1:]))


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
    problem: str, dtype: str, backend: Backend, reference: Backend, *, compiled: bool
) -> str | None:
    """Name the first step and array in which exact training differs from the reference's."""
    places = (backend, reference)
    runs = [
        _trajectory(make(problem, place, dtype), place, EXACT, how)
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
    problem: Problem, backend: Backend, numerics: Numerics, compiled: bool
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

    evaluate = None
    if compiled:
        train_batch = backend.compile(train_batch)
        evaluate = None if problem.batch_size is None else backend.compile(lambda a: a)
    layers = problem.layers
    yield layers
    for x, y in batches(
        problem.x, problem.y, CHECKPOINTS[-1], problem.batch_size, 0, evaluate=evaluate
    ):
        layers, _ = train_batch(layers, x, y)
        yield layers

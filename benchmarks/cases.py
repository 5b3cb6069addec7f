"""What is timed: networks and data of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kernels import Array, random
from kernels.layer import init
from kernels.losses import squared_error
from kernels.optimizers import Adam
from kernels.reference.problems import Problem, digits, tutorial, tutorial_dual

__all__ = ["CASES", "Case", "generated", "sizes_of"]

AsArray = Callable[..., Array]


class Case(NamedTuple):
    """A problem to time, and how many steps of it are one measurement.

    Attributes
    ----------
    make
        (asarray, dtype) -> Problem: the problem on the backend that `asarray` belongs to.
    steps
        Enough to make what happens once in a run negligible.
    """

    make: Callable[[AsArray, str], Problem]
    steps: int


def generated(
    name: str, batch: int, sizes: Sequence[int], *, like: Array, learning_rate: float = 1e-7
) -> Problem:
    """Make a problem of standard normal data for a network without biases.

    Parameters
    ----------
    name
        As on the command line.
    batch
        The number of samples.
    sizes
        Inputs, units of each hidden layer, outputs.
    like
        A float32 or float64 array that gives the namespace, dtype and device.
    learning_rate
        Suited to a summed squared error.
    """
    # The streams of the layers count up from 0.
    x, y = (
        random.normal((batch, size), seed=0, stream=len(sizes) + i, like=like)
        for i, size in enumerate((sizes[0], sizes[-1]))
    )
    return Problem(
        name=name,
        x=x,
        y=y,
        layers=init(sizes, like=like, bias=False),
        loss=squared_error,
        learning_rate=learning_rate,
        steps=None,
        epochs=None,
        batch_size=None,
        held_out=None,
    )


def sizes_of(problem: Problem) -> tuple[int, ...]:
    """List inputs, units of each hidden layer and outputs."""
    shapes = [layer.weight.shape for layer in problem.layers]
    return (shapes[0][0], *(n_out for _, n_out in shapes))


def _generated_case(name: str, batch: int, sizes: Sequence[int], steps: int) -> Case:
    def make(asarray: AsArray, dtype: str) -> Problem:
        return generated(name, batch, sizes, like=asarray([0.0], dtype))

    return Case(make, steps)


def _dual(case: Case) -> Case:
    def make(asarray: AsArray, dtype: str) -> Problem:
        return case.make(asarray, dtype)._replace(dual=True)

    return case._replace(make=make)


CASES = {
    "tutorial": Case(lambda asarray, dtype: tutorial(like=asarray([0.0], dtype)), 30),
    "wide": _generated_case("wide", 1024, (1024, 1024, 1024, 128), 5),
    "deep": _generated_case("deep", 256, (512,) * 7 + (10,), 10),
    # In dual form, with the 256 steps of a period.
    "tutorial-dual": Case(lambda asarray, dtype: tutorial_dual(like=asarray([0.0], dtype)), 256),
    "features": _dual(_generated_case("features", 100, (20_000, 100, 1), 256)),
    # Two epochs of 23 batches, each with a smaller last batch.
    "digits": Case(lambda asarray, dtype: digits(asarray=asarray, dtype=dtype), 46),
    "tutorial-adam": Case(
        lambda asarray, dtype: tutorial(like=asarray([0.0], dtype))._replace(optimizer=Adam(1e-3)),
        30,
    ),
    "digits-adam": Case(
        lambda asarray, dtype: digits(asarray=asarray, dtype=dtype)._replace(optimizer=Adam(1e-3)),
        46,
    ),
}

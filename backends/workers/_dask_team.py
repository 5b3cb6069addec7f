"""What a task of Dask does in a step: the work of one worker up to a join of all.

Where a step needs the others' results, the task ends, and the worker's next task begins the step
anew with all that was joined so far. So each task is a function of its input, which Dask may run on
any worker, and again if one is lost. Matrix products are kept from task to task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import numpy

__all__ = ["NO_SAMPLES", "Block", "Given", "Step", "take_step"]


class Block(NamedTuple):
    """Samples of a batch from `begin` to `end`, and the task of Dask that reads or takes them."""

    begin: int
    end: int
    task: Any


# The block of the task that ends a step, after all joins.
NO_SAMPLES = Block(0, 0, None)


class Step(NamedTuple):
    """What the tasks of a step share.

    Attributes
    ----------
    name
        Unique to the step.
    shape, dtype
        Of x.
    numbers
        The numbers of this step, as `kernels.fit` passes them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    numbers: Any


class Given(NamedTuple):
    """Arrays that workers give to be joined by the `place`-th call of their teams."""

    place: int
    how: str
    arrays: list[Any]


class _Ended(BaseException):
    """The early end of a task; not an Exception, so that no user's function catches it."""

    def __init__(self, given: Given) -> None:
        self.given = given


class _Samples(NamedTuple):
    """Stands for all samples of a batch; holds a worker's own."""

    shape: tuple[int, ...]
    own: Any


class _DaskTeam:
    """A `kernels.numerics.Team` of tasks.

    Parameters
    ----------
    block
        The samples of this task.
    before
        The joined arrays, by the place of the call.
    kept
        Matrix products, by the place of the call.
    """

    def __init__(self, block: Block, before: Mapping[int, Any], kept: dict[Any, Any]) -> None:
        self.block, self.before, self.kept = block, before, kept
        self.calls = self.products = 0
        self.gives = False

    def own(self, a: Any) -> Any:
        return a.own if isinstance(a, _Samples) else a[self.block.begin : self.block.end]

    def whole(self, a: Any, n: int) -> Any:  # noqa: ARG002
        (whole,) = self._join("whole", [a])
        return whole

    def largest(self, arrays: Iterable[Any]) -> Any:
        return self._join("largest", arrays)

    def total(self, arrays: Iterable[Any]) -> Any:
        return self._join("total", arrays)

    def _join(self, how: str, arrays: Iterable[Any]) -> Any:
        place = self.calls
        self.calls += 1
        if place <= max(self.before, default=-1):
            # A call without arrays joins nothing.
            return self.before.get(place, [])
        self.gives = True
        given = list(arrays)
        if given:
            raise _Ended(Given(place, how, given))
        self.gives = False
        return given

    def multiply(self, matmul: Callable[..., Any], a: Any, b: Any) -> Any:
        """Multiply matrices, unless an earlier task of the step did so in this process."""
        if a.shape[0] == 0:
            return numpy.empty((0, b.shape[1]), b.dtype)
        if self.gives or self.block == NO_SAMPLES:
            return matmul(a, b)
        place = self.block.begin, self.products
        self.products += 1
        if place not in self.kept:
            self.kept[place] = matmul(a, b)
        # A copy, since derivatives of activations may change it in place.
        return self.kept[place].copy()


def take_step(
    step: Step,
    take: Any,
    trained: Any,
    y: Any,
    blocks: Sequence[Block],
    values: Mapping[Any, Any],
    before: Sequence[Sequence[Given]],
) -> Any:
    """Take a step with some blocks, one after the other, as far as they can.

    Parameters
    ----------
    step, take, trained, y
        The step, the function that takes it, what it trains with the last loss, and all targets.
    blocks, values
        Blocks of the batch, and the results that their tasks need.
    before
        For each earlier join, what the workers gave.

    Returns
    -------
    The trained arrays and the loss at the end of the step; else a `Given` to join with the others'.
    """
    kept = _kept(step.name)
    numerics, loss = (take.keywords[name] for name in ("numerics", "loss"))
    joined = {given.place: given.arrays for given in map(_joined, before)}

    def loss_once(*batch: Any, **_: Any) -> Any:
        if "loss" not in kept:
            kept["loss"] = loss(*batch, numerics=numerics)
        return kept["loss"]

    found = []
    for block in blocks:
        team = _DaskTeam(block, joined, kept)
        own = replace(numerics, team=team)
        # Frozen, but this copy is the task's own.
        object.__setattr__(own, "matmul", partial(team.multiply, own.matmul))
        x = _Samples(step.shape, _samples(step, block, values))
        try:
            return take(trained[0], x, y, step.numbers, None, loss=loss_once, numerics=own)
        except _Ended as ended:
            found.append(ended.given)
    return _joined(found)


def _samples(step: Step, block: Block, values: Mapping[Any, Any]) -> Any:
    if block == NO_SAMPLES:
        return numpy.empty((0, *step.shape[1:]), step.dtype)
    return block.task(values)


def _joined(found: Sequence[Given]) -> Given:
    (place, how, _), *_ = found
    columns = zip(*(given.arrays for given in found), strict=True)
    ways: dict[str, Callable[..., Any]] = {
        "whole": numpy.concatenate,
        # NumPy's maximum returns NaN if there is one.
        "largest": partial(reduce, numpy.maximum),
        # New arrays, since the kernel may change them while Dask keeps those that were given.
        "total": lambda arrays: reduce(numpy.add, arrays, 0.0),
    }
    return Given(place, how, [ways[how](column) for column in columns])


@lru_cache(maxsize=1)
def _kept(name: str) -> dict[Any, Any]:  # noqa: ARG001
    """Give the dictionary in which this process keeps results of a step."""
    return {}

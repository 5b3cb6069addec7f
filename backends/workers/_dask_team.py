"""What a task of Dask does in a step: the work of one worker up to what all of them join.

Where a step needs the others' part, the task ends, and the worker's next task begins the step anew
with what all have given so far. So each task is a function of its input, which Dask may run on any
worker, and again where one is lost. Products of matrices are kept from task to task.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import numpy

__all__ = ["NO_SAMPLES", "Block", "Given", "Step", "memory_used", "take_step"]


class Block(NamedTuple):
    """Samples of a batch from `begin` to `end`, and the task of Dask's that reads or takes them."""

    begin: int
    end: int
    task: Any


# What takes a step in which all is joined.
NO_SAMPLES = Block(0, 0, None)


class Step(NamedTuple):
    """What the tasks of a step share.

    Attributes
    ----------
    name
        No other step has it.
    shape, dtype
        Of x.
    numbers
        Those of this step.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    numbers: Any


class Given(NamedTuple):
    """What workers give to be joined by the `place`-th call of their teams."""

    place: int
    how: str
    arrays: list[Any]


class _Ended(BaseException):
    """The end of a task before that of its step, which no function of the user's catches."""

    def __init__(self, given: Given) -> None:
        self.given = given


class _Samples(NamedTuple):
    """Stand for all samples of a batch, of which there are a worker's own."""

    shape: tuple[int, ...]
    own: Any


class _DaskTeam:
    """A `kernels.numerics.Team` of tasks.

    Parameters
    ----------
    block
        The samples of this one.
    before
        What all have given, joined, by the place of its call.
    kept
        Products of matrices, by the place of their calls.
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
            # Of nothing there is nothing to join.
            return self.before.get(place, [])
        self.gives = True
        given = list(arrays)
        if given:
            raise _Ended(Given(place, how, given))
        self.gives = False
        return given

    def multiply(self, matmul: Callable[..., Any], a: Any, b: Any) -> Any:
        """Multiply matrices, unless that was done by an earlier task of the step here."""
        if a.shape[0] == 0:
            return numpy.empty((0, b.shape[1]), b.dtype)
        if self.gives or self.block == NO_SAMPLES:
            return matmul(a, b)
        place = self.block.begin, self.products
        self.products += 1
        if place not in self.kept:
            self.kept[place] = matmul(a, b)
        # Derivatives of activations may change it.
        return self.kept[place].copy()


def take_step(
    step: Step,
    function: bytes,
    trained: Any,
    y: Any,
    blocks: Sequence[Block],
    values: Mapping[Any, Any],
    before: Sequence[Sequence[Given]],
) -> Any:
    """Take a step with some blocks, one after the other, as far as they can.

    Parameters
    ----------
    step, function, trained, y
        The step, what takes it, pickled, what it trains with the last loss, and all targets.
    blocks, values
        Of the batch, and what they are made of.
    before
        What was given before, each time by all workers.

    Returns
    -------
    What is trained and the loss; or what the blocks give to all, joined.
    """
    take, kept = _loaded(function), _kept(step.name)
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
        # This copy is the task's own.
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
        # Its NaN is larger than any number.
        "largest": partial(reduce, numpy.maximum),
        # Always new arrays, since the kernel may change them, and Dask keeps those that were given.
        "total": lambda arrays: reduce(numpy.add, arrays, 0.0),
    }
    return Given(place, how, [ways[how](column) for column in columns])


@lru_cache(maxsize=64)
def _loaded(function: bytes) -> Any:
    return pickle.loads(function)


@lru_cache(maxsize=1)
def _kept(name: str) -> dict[Any, Any]:  # noqa: ARG001
    """Give what this process keeps of a step, which starts empty."""
    return {}


def memory_used() -> int:
    """Measure the bytes of this process, now that it has imported what a step needs."""
    import psutil

    used: int = psutil.Process().memory_info().rss
    return used

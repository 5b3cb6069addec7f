"""Minibatches: the order of the samples in each epoch, and how it is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from array_api_compat import array_namespace

from ._checks import to_integer, to_positive
from ._compiled import compiled, repeats
from ._host import placement
from ._typing import Array, Compiler
from .random import numbers_of, shuffle, to_seed

__all__ = ["Batches", "Run", "batches_of", "steps_of", "take"]

# The streams below this are those of the layers' initial weights.
_FIRST_EPOCH_STREAM = 2**31


class Run(NamedTuple):
    """Batches of one size that follow each other in an epoch.

    Attributes
    ----------
    order
        The indices of the samples; None if every batch is all samples as they are.
    first
        The place in the order where the first batch begins.
    size
        Samples in a batch; 0 where there is no order.
    steps
        How many batches.
    """

    order: Array | None
    first: int
    size: int
    steps: int


class Batches(NamedTuple):
    """Which samples the steps of a `fit` take.

    Attributes
    ----------
    n
        How many samples there are.
    size
        Samples in a batch; None for all, as they are.
    seed, start, steps
        The seed of the order, how many batches were taken before, and how many to take.
    shuffle
        Whether every epoch has an order of its own.
    """

    n: int
    size: int | None
    seed: int
    start: int
    steps: int
    shuffle: bool

    def of(self, x: Array, y: Any, compile: Compiler | None) -> Iterator[tuple[Array, Any]]:
        """Give one batch (x, y) after the other."""
        in_compiler = repeats(compile)
        for run in self.runs(x, compile):
            for i in range(run.steps):
                if run.order is None:
                    yield x, y
                    continue
                first = run.first + i * run.size
                if in_compiler:
                    yield compiled(compile, take, size=run.size)(x, y, run.order, first)
                else:
                    yield _take(x, y, run.order[first : first + run.size])

    def runs(self, like: Array, compile: Compiler | None) -> Iterator[Run]:
        """Divide the steps into runs: an epoch's full batches, and its last if that is smaller."""
        if self.size is None:
            yield Run(None, 0, 0, self.steps)
            return
        size = self.size
        full, rest = divmod(self.n, size)
        now, end = self.start, self.start + self.steps
        while now < end:
            epoch, batch = divmod(now, full + (rest > 0))
            order = self._order(epoch, like, compile)
            steps = min(full - batch, end - now)
            if steps > 0:
                yield Run(order, batch * size, size, steps)
                now += steps
            if rest > 0 and now < end:
                yield Run(order, full * size, rest, 1)
                now += 1

    def _order(self, epoch: int, like: Array, compile: Compiler | None) -> Array:
        if self.shuffle:
            return _order(self.n, self.seed, epoch, like, compile)
        xp = array_namespace(like)
        return cast(Array, xp.arange(self.n, dtype=xp.int32, **placement(like)))


def batches_of(
    n: int,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    start: int = 0,
    shuffle: bool = True,
) -> Batches:
    """Check the arguments of `fit` that decide its batches of n samples.

    Raises
    ------
    ValueError, TypeError
        As `fit`.
    """
    total = steps_of(n, steps=steps, epochs=epochs, batch_size=batch_size)
    size = None if batch_size is None else min(to_integer("batch_size", batch_size), n)
    seed, start = to_seed(seed), to_integer("start", start)
    if start < 0:
        raise ValueError(f"expected start of 0 or more, got {start}")
    return Batches(n, size, seed, start, total, shuffle)


def steps_of(n: int, *, steps: int | None, epochs: int | None, batch_size: int | None) -> int:
    """Count the batches of a `fit` over n samples, from its arguments.

    Raises
    ------
    ValueError
        If not exactly one of steps and epochs is given, or a number is below 1.
    TypeError
        If a number is not an integer.

    Examples
    --------
    >>> steps_of(10, steps=None, epochs=3, batch_size=4)
    9
    """
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"expected exactly one of steps and epochs, got steps={steps} and epochs={epochs}"
        )
    steps, epochs, batch_size = (
        None if number is None else to_positive(name, number)
        for name, number in (("steps", steps), ("epochs", epochs), ("batch_size", batch_size))
    )
    if steps is not None:
        return steps
    assert epochs is not None
    return epochs * (1 if batch_size is None else -(-n // batch_size))


def take(x: Array, y: Any, order: Array, first: Any, *, size: int) -> tuple[Array, Any]:
    """Take `size` samples of an order from the place `first` on, which may be an array.

    y is an array, or a pair (targets, weights) if samples have weights.
    """
    xp = array_namespace(x)
    places = first + xp.arange(size, dtype=order.dtype, **placement(order))
    return _take(x, y, xp.take(order, places, axis=0))


def _take(x: Array, y: Any, chosen: Array) -> tuple[Array, Any]:
    xp = array_namespace(x)
    if isinstance(y, tuple):
        return xp.take(x, chosen, axis=0), tuple(xp.take(a, chosen, axis=0) for a in y)
    return xp.take(x, chosen, axis=0), xp.take(y, chosen, axis=0)


def _order(n: int, seed: int, epoch: int, like: Array, compile: Compiler | None) -> Array:
    """Draw the order of an epoch."""
    numbers: Any = numbers_of(seed, _FIRST_EPOCH_STREAM + epoch)
    if repeats(compile):
        xp = array_namespace(like)
        numbers = xp.asarray(list(numbers), dtype=xp.int32, **placement(like))
        return cast(Array, compiled(compile, shuffle, n=n)(numbers))
    order = shuffle(numbers, n=n, like=like)
    # Lazy libraries draw it once, and not again for each batch.
    return order if compile is None else cast(Array, compiled(compile, _unchanged)(order))


def _unchanged(a: Array) -> Array:
    return a

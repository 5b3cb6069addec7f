"""Who computes: a team of workers, each with some samples of a batch, and all with the weights.

What a step computes for each sample is local. Only the batch, the prediction, and the products and
sums of `Numerics.over_samples` are those of the whole team.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from .._typing import Array

__all__ = ["ALONE", "Alone", "Team"]


class Team(Protocol):
    """What workers tell each other. Every worker calls the same methods in the same order."""

    def __hash__(self) -> int: ...

    def own(self, a: Array) -> Array:
        """Take this worker's part of all samples, which may be none."""
        ...

    def whole(self, a: Array, n: int) -> Array:
        """Put together the n samples of all workers; `a` holds this worker's."""
        ...

    def largest(self, arrays: Iterable[Array]) -> Iterable[Array]:
        """Take for each element the largest that any worker has; NaN counts as infinity."""
        ...

    def total(self, arrays: Iterable[Array]) -> Iterable[Array]:
        """Add each element over the workers."""
        ...


@dataclass(frozen=True)
class Alone:
    """One worker, which has all samples."""

    def own(self, a: Array) -> Array:
        return a

    def whole(self, a: Array, n: int) -> Array:  # noqa: ARG002
        return a

    def largest(self, arrays: Iterable[Array]) -> Iterable[Array]:
        return arrays

    def total(self, arrays: Iterable[Array]) -> Iterable[Array]:
        return arrays


ALONE = Alone()

"""What processes tell each other, packed into few arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

from array_api_compat import array_namespace

__all__ = ["PackedTeam"]


@dataclass(frozen=True)
class PackedTeam:
    """A `kernels.numerics.Team` of processes, each with consecutive samples.

    `reduce(packed, largest)` combines in place what each has: NaN counts as infinity in a maximum.
    """

    rank: int
    size: int
    reduce: Callable[[Any, bool], object]

    def own(self, a: Any) -> Any:
        # The last workers may have fewer than the others, or none.
        part = -(-a.shape[0] // self.size)
        return a[self.rank * part : (self.rank + 1) * part, ...]

    def whole(self, a: Any, n: int) -> Any:
        # By sums with zeros, which would only change -0; exact numerics have none.
        xp = array_namespace(a)
        padded = xp.zeros((n, *a.shape[1:]), dtype=a.dtype, device=a.device)
        self.own(padded)[...] = a
        return self.total([padded])[0]

    def largest(self, arrays: Iterable[Any]) -> list[Any]:
        return self._packed(arrays, largest=True)

    def total(self, arrays: Iterable[Any]) -> list[Any]:
        return self._packed(arrays, largest=False)

    def _packed(self, arrays: Iterable[Any], *, largest: bool) -> list[Any]:
        given = list(arrays)
        if not given:
            return []
        xp = array_namespace(*given)
        packed = xp.concat([xp.reshape(a, (-1,)) for a in given])
        self.reduce(packed, largest)
        ends = accumulate(prod(a.shape) for a in given)
        return [
            xp.reshape(packed[end - prod(a.shape) : end], a.shape)
            for end, a in zip(ends, given, strict=True)
        ]

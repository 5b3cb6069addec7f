"""What processes of torch.distributed tell each other, packed into few tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
import torch.distributed as dist

from . import WorkerLost

__all__ = ["TorchTeam"]


@dataclass(frozen=True)
class TorchTeam:
    """A `kernels.numerics.Team` of processes, each with consecutive samples."""

    rank: int
    size: int

    def own(self, a: Any) -> Any:
        # The last workers may have fewer than the others, or none.
        part = -(-a.shape[0] // self.size)
        return a[self.rank * part : (self.rank + 1) * part]

    def whole(self, a: Any, n: int) -> Any:
        # By sums with zeros, which would only change -0; exact numerics have none.
        padded = a.new_zeros((n, *a.shape[1:]))
        self.own(padded)[:] = a
        return self.total([padded])[0]

    def largest(self, arrays: Iterable[Any]) -> list[Any]:
        return _packed(arrays, largest=True)

    def total(self, arrays: Iterable[Any]) -> list[Any]:
        return _packed(arrays, largest=False)


def _packed(arrays: Iterable[Any], *, largest: bool) -> list[Any]:
    given = list(arrays)
    if not given:
        return []
    packed = torch.cat([torch.reshape(a, (-1,)) for a in given])
    (_operator if torch.compiler.is_compiling() else _reduce)(packed, largest)
    parts = torch.split(packed, [a.numel() for a in given])
    return [torch.reshape(part, a.shape) for part, a in zip(parts, given, strict=True)]


def _reduce(packed: Any, largest: bool) -> None:
    """Combine what each worker has, in place."""
    if largest:
        # Libraries differ in which of NaN and a number is larger.
        packed.nan_to_num_(nan=inf, posinf=inf)
    try:
        dist.all_reduce(packed, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    except RuntimeError as error:
        # Gloo's errors have no class of their own.
        raise WorkerLost("the connection to another worker was lost") from error


# torch.compile calls an operator as it is, in the middle of compiled code. Used only there, as its
# first call imports the compiler, which takes a second.
_operator = torch.library.custom_op(
    "array_api_kernels::reduce",
    _reduce,
    mutates_args=("packed",),
    schema="(Tensor(a!) packed, bool largest) -> ()",
)

"""How processes of torch.distributed combine what each of them has."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
import torch.distributed as dist

from . import WorkerLost

__all__ = ["reduce"]


def reduce(packed: Any, largest: bool) -> None:
    """Combine what each worker has, in place."""
    (_operator if torch.compiler.is_compiling() else _reduce)(packed, largest)


def _reduce(packed: Any, largest: bool) -> None:
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

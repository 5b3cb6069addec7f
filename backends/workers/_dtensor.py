"""What torch's DTensor does otherwise than the kernel relies on, put right in one mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.overrides import TorchFunctionMode

_CREATORS = {torch.arange, torch.asarray, torch.empty, torch.full, torch.ones, torch.zeros}

_TO_HOST = {torch.Tensor.__array__, torch.Tensor.tolist}

# DTensor takes functions whose names end in an underscore for ones that change their operand, and
# returns that as it was.
_BY_OPERATOR = {
    torch.Tensor.__lshift__: torch.bitwise_left_shift,
    torch.Tensor.__rshift__: torch.bitwise_right_shift,
}


class WorkersMode(TorchFunctionMode):  # type: ignore[misc]
    """The mode in which arrays are those of all workers, and no sum over them is left pending.

    Parameters
    ----------
    whole
        (tensor) -> DTensor: of a tensor that is the same on every worker.
    """

    def __init__(self, whole: Callable[[Any], Any]) -> None:
        super().__init__()
        self.whole = whole

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = _BY_OPERATOR.get(func, func)
        if func in _CREATORS:
            return self.whole(func(*args, **(kwargs or {})))
        a: Any = args[0] if args else None
        if func in _TO_HOST and isinstance(a, DTensor):
            args = (a.full_tensor(), *args[1:])
        elif _is_split(a):
            if func is torch.Tensor.__getitem__ and _is_origin(args[1]):
                return _first_element(a)
            # DTensor flattens no array whose parts are not equal.
            if func is torch.reshape and a.shape[0] % a.device_mesh.size():
                args = (_whole(a), *args[1:])
        result = func(*args, **(kwargs or {}))
        if isinstance(result, DTensor) and result.placements[0].is_partial():
            # Added to another, what is still to be summed would be rounded before it is.
            return _whole(result)
        return result


def _is_split(a: Any) -> bool:
    return isinstance(a, DTensor) and a.placements[0].is_shard()


def _is_origin(key: Any) -> bool:
    return isinstance(key, tuple) and all(isinstance(i, int) and i == 0 for i in key)


def _whole(a: Any) -> Any:
    return a.redistribute(placements=[Replicate()])


def _first_element(a: Any) -> Any:
    """Read a[0, ...], for which DTensor would send the whole array to every worker."""
    element = a.to_local()[(0,) * a.ndim]
    if a.device_mesh.get_local_rank() > 0:
        element = torch.zeros_like(element)
    return _whole(DTensor.from_local(element, a.device_mesh, [Partial()], run_check=False))

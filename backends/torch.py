"""PyTorch on the CPU and on CUDA."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

from kernels._typing import Array

from ._backend import Backend, BackendUnavailable, device_index


def get(device: str | None) -> Backend:
    kind, _, index = (device or "cpu").partition(":")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the backend 'torch:cpu' or 'torch:cuda', got 'torch:{device}'")
    try:
        import numpy
        import torch
    except ModuleNotFoundError:
        raise BackendUnavailable(
            "PyTorch is not installed: pip install array-api-kernels[torch]."
        ) from None
    from array_api_compat import torch as xp
    from torch.utils._pytree import tree_map

    devices: tuple[str, ...] = ("cpu",)
    if kind == "cpu":
        place = torch.device("cpu")
        device_index("PyTorch", kind, index, 1)
    else:
        if not torch.cuda.is_available():
            raise BackendUnavailable(
                f"PyTorch {torch.__version__} is installed but finds no CUDA device."
            )
        count = torch.cuda.device_count()
        place = torch.device("cuda", device_index("PyTorch", kind, index, count))
        devices = tuple(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))

    def asarray(host: Any, dtype: str | None = None) -> Array:
        # torch.asarray cannot convert a 0-d NumPy array, and makes float32 of a list.
        a: Array = torch.from_numpy(numpy.array(host, dtype=dtype)).to(place)
        return a

    def to_numpy(a: Any) -> Any:
        return a.detach().cpu().numpy().copy()

    def synchronize(*_: Any) -> None:
        if kind == "cuda":
            torch.cuda.synchronize(place)

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        # Tracing array_api_compat's cached look-ups of namespaces is sound: they depend on types.
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_")
        # Symbolic shapes take minutes to compile exact numerics; a training run has two shapes.
        # Expressions that are used several times are copied into each use up to this many
        # operations (30 if not set), which made the compilation of exact numerics 3 times longer.
        # On CUDA a step this small takes longer to launch than to compute, unless it is one graph.
        options = {"realize_opcount_threshold": 8, "triton.cudagraphs": kind == "cuda"}

        def call(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

        # Dynamo counts recompilations by code object, and after 8 of them runs it uncompiled: a
        # function made in a loop, such as that of `fit`, needs a code object for each turn.
        own = types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
        compiled: Callable[..., Any] = torch.compile(own, dynamic=False, options=options)
        if kind == "cpu":
            return compiled

        def replay(*arguments: Any, **named: Any) -> Any:
            # A graph leaves its results where it will leave the next ones.
            torch.compiler.cudagraph_mark_step_begin()
            results = compiled(*arguments, **named)
            return tree_map(lambda a: a.clone() if isinstance(a, torch.Tensor) else a, results)

        return replay

    return Backend(
        name=f"torch:{place}",
        version=torch.__version__,
        xp=xp,
        device=place,
        devices=devices,
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=synchronize,
        compile=compile,
    )

"""PyTorch on the CPU and on CUDA."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernels import Array

from ._backend import Backend, BackendUnavailable, device_index
from ._cuda_graphs import Graphs


def get(device: str | None) -> Backend:
    kind, _, index = (device or "cpu").partition(":")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the backend 'torch:cpu' or 'torch:cuda', got 'torch:{device}'")
    try:
        import numpy
        import torch
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'PyTorch is not installed: pip install "array-api-kernels[torch]"'
        ) from None
    from array_api_compat import torch as xp

    devices: tuple[str, ...] = ("cpu",)
    if kind == "cpu":
        chosen = torch.device("cpu")
        device_index("PyTorch", kind, index, 1)
    else:
        if not torch.cuda.is_available():
            raise BackendUnavailable(
                f"PyTorch {torch.__version__} is installed but finds no CUDA device."
            )
        count = torch.cuda.device_count()
        chosen = torch.device("cuda", device_index("PyTorch", kind, index, count))
        devices = tuple(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))

    def asarray(host: Any, dtype: str | None = None) -> Array:
        # torch.asarray cannot convert a 0-d NumPy array, and makes float32 of a list.
        a: Array = torch.from_numpy(numpy.array(host, dtype=dtype)).to(chosen)
        return a

    def to_numpy(a: Any) -> Any:
        return a.detach().cpu().numpy().copy()

    def synchronize(*_: Any) -> None:
        if kind == "cuda":
            torch.cuda.synchronize(chosen)

    return Backend(
        name=f"torch:{chosen}",
        version=torch.__version__,
        xp=xp,
        device=chosen,
        devices=devices,
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=synchronize,
        compile=_Inductor() if kind == "cpu" else Graphs(chosen, compile),
    )


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with inductor, anew for each shape of an argument."""
    import torch

    # Tracing array_api_compat's cached look-ups of namespaces is sound: they depend on types.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_")
    # Hints on CUDA of what might be faster.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    warnings.filterwarnings("ignore", message=r"\s*Online softmax is disabled")
    # Symbolic shapes take minutes to compile exact numerics; a training run has two shapes.
    # Expressions that are used several times are copied into each use if they have at most so many
    # operations. With torch's own limit of 30 exact numerics took 3 times as long to compile.
    options: dict[str, Any] = {"realize_opcount_threshold": 8}
    # Older versions of torch cannot leave guards out.
    if hasattr(torch.compiler, "skip_guard_on_globals_unsafe"):
        options["guard_filter_fn"] = _guards_kept

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*_without_axes(arguments), **named)

    # Dynamo counts compilations by code object, and after 8 runs it uncompiled. So each function
    # gets a code object of its own.
    own = types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    compiled = torch.compile(own, dynamic=False, options=options)

    def call_compiled(*arguments: Any, **named: Any) -> Any:
        return compiled(*_with_axes(arguments), **named)

    return call_compiled


class _Number(NamedTuple):
    """A number as an array of one axis.

    Of a 0-d array torch also makes a symbol, finds that nothing uses it, and traces the whole
    function again without it: a quarter of the time besides the C++ compiler's.
    """

    array: Any


def _with_axes(a: Any) -> Any:
    """Replace 0-d float64 arrays on the CPU, in nested tuples."""
    if isinstance(a, tuple):
        return _filled(a, [_with_axes(part) for part in a])
    is_number = getattr(a, "is_cpu", False) and a.ndim == 0 and str(a.dtype) == "torch.float64"
    return _Number(a.reshape(1)) if is_number else a


def _without_axes(a: Any) -> Any:
    """Put back what `_with_axes` replaced."""
    if isinstance(a, _Number):
        return a.array.reshape(())
    if isinstance(a, tuple):
        return _filled(a, [_without_axes(part) for part in a])
    return a


def _filled(like: tuple[Any, ...], parts: Sequence[Any]) -> tuple[Any, ...]:
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def _guards_kept(guards: Sequence[Any]) -> list[bool]:
    """Leave out guards that these modules are unchanged: two thirds of all guards."""
    modules = ("import_kernels_dot_", "import_array_api_compat", "builtins")
    unchanged = tuple(f"G['__{name}" for name in modules)
    return [not guard.name.startswith(unchanged) for guard in guards]


@dataclass(frozen=True)
class _Inductor:
    """`torch.compile`, which takes many seconds for each shape that it meets."""

    costly = True

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return compile(function)

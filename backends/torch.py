"""PyTorch on the CPU and on CUDA."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

from kernels._typing import Array

from ._backend import Backend, BackendUnavailable, device_index

# Values of so many calls have room beside a graph.
_MOST_CALLS = 256


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

    return Backend(
        name=f"torch:{place}",
        version=torch.__version__,
        xp=xp,
        device=place,
        devices=devices,
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=synchronize,
        compile=_Inductor() if kind == "cpu" else _Graphs(place),
    )


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    # Tracing array_api_compat's cached look-ups of namespaces is sound: they depend on types.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_")
    # On CUDA, of what it might do faster.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    warnings.filterwarnings("ignore", message=r"\s*Online softmax is disabled")
    # Symbolic shapes take minutes to compile exact numerics; a training run has two shapes.
    # Expressions that are used several times are copied into each use up to this many
    # operations (30 if not set), which made the compilation of exact numerics 3 times longer.
    options: dict[str, Any] = {"realize_opcount_threshold": 8}
    # Older versions of torch cannot leave guards out.
    if hasattr(torch.compiler, "skip_guard_on_globals_unsafe"):
        options["guard_filter_fn"] = _guards_kept

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    # Dynamo counts recompilations by code object, and after 8 of them runs it uncompiled: a
    # function made in a loop, such as that of `fit`, needs a code object for each turn.
    own = types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, dynamic=False, options=options)
    return compiled


def _guards_kept(guards: Sequence[Any]) -> list[bool]:
    """Leave out that these modules are as they were: two thirds of what a call checks first."""
    modules = ("import_kernels_dot_", "import_array_api_compat", "builtins")
    unchanged = tuple(f"G['__{name}" for name in modules)
    return [not guard.name.startswith(unchanged) for guard in guards]


@dataclass(frozen=True)
class _Inductor:
    """`torch.compile`, which takes many seconds for each shape that it meets."""

    costly = True

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return _compile(function)


@dataclass(frozen=True)
class _Graphs:
    """Compilers for a CUDA device, on which a small step is launched more slowly than computed.

    So the kernels of one that is repeated are recorded in a graph, which is launched as one.
    """

    place: Any

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from torch.utils._pytree import tree_map

        compiled = _compile(function)

        def call(*arguments: Any, **named: Any) -> Any:
            return compiled(*tree_map(self._array, arguments), **named)

        return call

    def repeat(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile (state, *constants) -> (state, value) into (count, state, *constants) -> ...

        What it returns calls the function `count` times and returns the last state and all values.
        A graph is kept for arguments of the shapes of the last call. Calls from several threads
        wait for each other, since a graph has one memory for what it reads and writes.
        """
        import torch
        from torch.utils._pytree import tree_flatten, tree_map

        def advance(state: Any, constants: Any, values: Any, place: Any) -> None:
            new, value = function(state, *constants)
            for old, a in zip(tree_flatten(state)[0], tree_flatten(new)[0], strict=True):
                if a is not None:
                    old.copy_(a)
            values.index_copy_(0, place, torch.unsqueeze(value, 0))
            place += 1

        compiled = _compile(advance)
        recorded: list[_Recorded] = []

        def record(given: Any) -> _Recorded:
            state, constants = own = tree_map(_copy, given)
            _, value = function(state, *constants)
            shape = _MOST_CALLS, *value.shape
            values = torch.empty(shape, dtype=value.dtype, device=self.place)
            place = torch.zeros((1,), dtype=torch.int64, device=self.place)
            graph = _record(self.place, compiled, state, constants, values, place)
            return _Recorded(_layout(given), graph, own, values, place)

        def many(count: int, state: Any, *constants: Any) -> Any:
            with _turn(self.place):
                return replay(count, state, *constants)

        def replay(count: int, state: Any, *constants: Any) -> Any:
            given = tree_map(self._array, (state, constants))
            if not recorded or recorded[0].layout != _layout(given):
                recorded[:] = [record(given)]
            _, graph, own, values, place = recorded[0]
            for old, new in zip(tree_flatten(own)[0], tree_flatten(given)[0], strict=True):
                if new is not None:
                    old.copy_(new.detach())
            found = []
            for start in range(0, count, _MOST_CALLS):
                now = min(count - start, _MOST_CALLS)
                place.zero_()
                for _ in range(now):
                    graph.replay()
                found.append(values[:now].clone())
            return tree_map(_copy, own[0]), torch.cat(found)

        return many

    def _array(self, a: Any) -> Any:
        """Make an array of an integer, for which inductor would compile anew."""
        import torch

        return torch.asarray(a, device=self.place) if isinstance(a, int) else a


@dataclass
class _Device:
    """The one graph of a device that may run, and the stream on which the last one ran."""

    free: Lock = field(default_factory=Lock)
    stream: Any = None


_DEVICES: dict[Any, _Device] = {}


@contextmanager
def _turn(place: Any) -> Iterator[None]:
    """Wait until no graph of a device runs, since they share memory; those that come later wait."""
    import torch

    device = _DEVICES.setdefault(place, _Device())
    with device.free:
        stream = torch.get_device_module(place).current_stream(place)
        # The host may be done with a graph before the device is.
        if device.stream is not None:
            stream.wait_stream(device.stream)
        device.stream = stream
        yield


class _Recorded(NamedTuple):
    """Calls of a function, recorded.

    Attributes
    ----------
    layout
        Of the arguments.
    graph
        The kernels of one call.
    own
        The state, which a call replaces, and the constants, in memory that the graph knows.
    values, place
        What it returns besides the state, and where it writes the next.
    """

    layout: Any
    graph: Any
    own: Any
    values: Any
    place: Any


def _record(place: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Record the kernels of a call in a graph."""
    import torch

    # What is compiled, and what libraries prepare in a first call, cannot be recorded.
    function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(place):
        pool = _pool(place).pool()
        # What other threads do meanwhile is not recorded, and not refused.
        options = {"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, pool=pool, **options):
            function(*arguments)
    return graph


@cache
def _pool(place: Any) -> Any:
    """Make a graph whose memory others use too: none runs beside another or leaves results there.

    The memory is lost with the last graph that has it, so this one is kept.
    """
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        torch.zeros((), device=place)
    return graph


def _copy(a: Any) -> Any:
    return a.detach().clone() if hasattr(a, "detach") else a


def _layout(tree: Any) -> Any:
    """Describe nested arrays: what a graph recorded with some can be replayed with."""
    from torch.utils._pytree import tree_flatten

    leaves, structure = tree_flatten(tree)
    return structure, [None if a is None else (a.shape, a.stride(), a.dtype) for a in leaves]

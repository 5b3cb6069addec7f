"""CUDA graphs: the kernels of a step, recorded once and launched together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

__all__ = ["Graphs"]

# A graph writes the values of so many calls into one array.
_CALLS_PER_BUFFER = 256


@dataclass(frozen=True)
class Graphs:
    """A compiler for a CUDA device, where the launches of a small step take longest.

    So `repeat` records the kernels of a step in a graph, which is launched as one.

    Attributes
    ----------
    device
        A torch.device.
    compile
        The compiler of functions, also of those that are recorded.
    """

    device: Any
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from torch.utils._pytree import tree_map

        compiled = self.compile(function)

        def call(*arguments: Any, **named: Any) -> Any:
            return compiled(*tree_map(self._array, arguments), **named)

        return call

    def repeat(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile (state, *constants) -> (state, value) into (count, state, *constants) -> ...

        What it returns calls the function `count` times and returns the last state and all values.
        A graph is kept for arguments of the shapes of the last call. Calls from several threads
        wait for each other, since a graph reads and writes memory of its own.
        """
        import torch
        from torch.utils._pytree import tree_flatten, tree_map

        def advance(state: Any, constants: Any, values: Any, index: Any) -> None:
            new, value = function(state, *constants)
            for old, a in zip(tree_flatten(state)[0], tree_flatten(new)[0], strict=True):
                if a is not None:
                    old.copy_(a)
            values.index_copy_(0, index, torch.unsqueeze(value, 0))
            index += 1

        compiled = self.compile(advance)
        recorded: list[_Recorded] = []

        def record(given: Any) -> _Recorded:
            state, constants = own = tree_map(_copy, given)
            _, value = function(state, *constants)
            shape = _CALLS_PER_BUFFER, *value.shape
            values = torch.empty(shape, dtype=value.dtype, device=self.device)
            index = torch.zeros((1,), dtype=torch.int64, device=self.device)
            graph = _record(self.device, compiled, state, constants, values, index)
            return _Recorded(_layout(given), graph, own, values, index)

        def many(count: int, state: Any, *constants: Any) -> Any:
            with _turn(self.device):
                return replay(count, state, *constants)

        def replay(count: int, state: Any, *constants: Any) -> Any:
            given = tree_map(self._array, (state, constants))
            if not recorded or recorded[0].layout != _layout(given):
                recorded[:] = [record(given)]
            _, graph, own, values, index = recorded[0]
            for old, new in zip(tree_flatten(own)[0], tree_flatten(given)[0], strict=True):
                if new is not None:
                    old.copy_(new.detach())
            found = []
            for start in range(0, count, _CALLS_PER_BUFFER):
                now = min(count - start, _CALLS_PER_BUFFER)
                index.zero_()
                for _ in range(now):
                    graph.replay()
                found.append(values[:now].clone())
            return tree_map(_copy, own[0]), torch.cat(found)

        return many

    def _array(self, a: Any) -> Any:
        """Make an array of an integer, since inductor would compile anew for each integer."""
        import torch

        return torch.asarray(a, device=self.device) if isinstance(a, int) else a


@dataclass
class _Turns:
    """The lock of a device's graphs, and the stream that used them last."""

    free: Lock = field(default_factory=Lock)
    stream: Any = None


_TURNS: dict[Any, _Turns] = {}


@contextmanager
def _turn(device: Any) -> Iterator[None]:
    """Hold the lock of a device's graphs, which share memory, after the last one has run."""
    import torch

    turns = _TURNS.setdefault(device, _Turns())
    with turns.free:
        stream = torch.get_device_module(device).current_stream(device)
        # The host may have launched a graph that the device still runs.
        if turns.stream is not None:
            stream.wait_stream(turns.stream)
        turns.stream = stream
        yield


class _Recorded(NamedTuple):
    """Calls of a function, recorded.

    Attributes
    ----------
    layout
        That of the arguments, from `_layout`.
    graph
        The kernels of one call.
    own
        The state, which a call replaces, and the constants, in the graph's memory.
    values, index
        What it returns besides the state, and where it writes the next.
    """

    layout: Any
    graph: Any
    own: Any
    values: Any
    index: Any


def _record(device: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Record the kernels of a call in a graph."""
    import torch

    # Compiling, and what libraries prepare in a first call, cannot be recorded.
    function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        pool = _pool(device).pool()
        # Other threads may go on meanwhile, and are not recorded.
        options = {"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, pool=pool, **options):
            function(*arguments)
    return graph


@cache
def _pool(device: Any) -> Any:
    """Make a graph whose memory all others share: no two run at once or leave results there.

    The memory is freed with the last graph that uses it, so this one is kept.
    """
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        torch.zeros((), device=device)
    return graph


def _copy(a: Any) -> Any:
    return a.detach().clone() if hasattr(a, "detach") else a


def _layout(tree: Any) -> Any:
    """Describe nested arrays: a graph can be replayed with any of the same layout."""
    from torch.utils._pytree import tree_flatten

    leaves, structure = tree_flatten(tree)
    return structure, [None if a is None else (a.shape, a.stride(), a.dtype) for a in leaves]

"""Dask: arrays in blocks, on threads or on the workers of a cluster.

Nothing is computed before it is read, so training would end as one graph of all its steps, which
Dask computes anew for each array that is read. So `compile` computes what a function returns, and
keeps it: no graph is longer than a step. It also makes the graph only once, as Dask takes longer to
make the graph of small arrays than to compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any
from uuid import uuid4

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("dask", device)
    try:
        import dask.array
        import numpy
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'Dask is not installed: pip install "array-api-kernels[dask]"'
        ) from None
    from array_api_compat.dask import array as xp

    def asarray(host: Any, dtype: str | None = None) -> Array:
        # A copy, since Dask keeps a reference to what it is given.
        host = numpy.array(host, dtype=dtype)
        # Two blocks of samples, so that sums are in another order than NumPy's.
        chunks = tuple(-(-n // 2) if axis == 0 else n for axis, n in enumerate(host.shape))
        a: Array = dask.array.from_array(host, chunks=chunks)
        return a

    def to_numpy(a: Any) -> Any:
        return numpy.array(a.compute())

    return Backend(
        name="dask",
        version=dask.__version__,
        xp=xp,
        device="cpu",
        devices=("cpu",),
        asarray=asarray,
        to_numpy=to_numpy,
        synchronize=lambda *_: None,
        compile=compile,
        slow=True,
    )


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute and keep what a pure function of trees of arrays returns, by a graph made once.

    A tree is an array, or a tuple, NamedTuple, list or dictionary of trees. There is a graph for
    each signature: the trees, the dtype and blocks of each array, and whatever is no array.
    """
    from dask.base import tokenize, unpack_collections

    graphs: dict[str, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        arrays, filled = unpack_collections(*arguments)
        forms = [(i, str(a.dtype), a.chunks, type(a._meta)) for i, a in enumerate(arrays)]
        signature = tokenize(filled(forms))
        if signature not in graphs:
            graphs[signature] = _traced(function, arrays, filled)
        return graphs[signature](arrays)

    return call


def _traced(
    function: Callable[..., Any], like: Sequence[Any], filled: Callable[..., Any]
) -> Callable[..., Any]:
    """Make the graph of a function of arrays like these, and a function of arrays that runs it."""
    import dask
    from dask.array import Array as DaskArray
    from dask.array.optimization import optimize
    from dask.base import unpack_collections
    from dask.highlevelgraph import HighLevelGraph

    inputs = [_input(a) for a in like]
    # Copies, since a function that changes an array in place gives it other blocks.
    outputs, refilled = unpack_collections(function(*filled([copy(a) for a in inputs])))
    given = [key for a in inputs for key in _keys(a)]
    wanted = [key for a in outputs for key in _keys(a)]
    graph = HighLevelGraph.merge(*(a.dask for a in (*outputs, *inputs)))
    # Inputs are wanted too, so that they do not become parts of other tasks.
    with dask.config.set({"optimization.fuse.active": True}):
        tasks = optimize(graph, [*wanted, *given])
    for key in given:
        del tasks[key]
    needed = {key for task in tasks.values() for key in task.dependencies}
    used = [i for i, a in enumerate(inputs) if not needed.isdisjoint(_keys(a))]
    places = {a.name: i for i, a in enumerate(inputs)}
    fixed = {a.name for a in outputs if set(given).isdisjoint(a.dask)}

    def run(arrays: Sequence[Any]) -> Any:
        # Tasks of one name are one task to a cluster, so each call has names of its own.
        own = f"-{uuid4().hex}"
        names = {key: _renamed(key, own) for key in tasks}
        for i in used:
            names |= zip(_keys(inputs[i]), _keys(arrays[i]), strict=True)
        graph = HighLevelGraph.from_collections(
            f"call{own}",
            {names[key]: task.substitute(names, key=names[key]) for key, task in tasks.items()},
            dependencies=[arrays[i] for i in used],
        )

        def made(a: Any) -> Any:
            if a.name in places:
                return arrays[places[a.name]]
            if a.name in fixed:
                return a
            return DaskArray(graph, _renamed(a.name, own), a.chunks, meta=a._meta)

        (result,) = refilled(dask.persist(*map(made, outputs), optimize_graph=False))
        return result

    return run


def _input(like: Any) -> Any:
    """Make an array whose blocks are not known."""
    from dask.array import Array as DaskArray

    name = f"input-{uuid4().hex}"
    keys = _keys(DaskArray({}, name, like.chunks, meta=like._meta))
    return DaskArray(dict.fromkeys(keys, (_read,)), name, like.chunks, meta=like._meta)


def _read() -> None:
    raise TypeError(
        "expected a function that reads no value of an array, as Dask's graph of it is made once "
        "for all values, got one that does: give compile=None"
    )


def _keys(a: Any) -> list[Any]:
    from dask.core import flatten

    return list(flatten(a.__dask_keys__()))


def _renamed(key: Any, own: str) -> Any:
    return (key[0] + own, *key[1:]) if isinstance(key, tuple) else key + own

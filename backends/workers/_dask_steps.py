"""A training step on Dask's workers, in few tasks, since each takes a millisecond or more."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Iterator
from itertools import accumulate, count, pairwise
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle
import dask.array
import numpy
from array_api_compat.dask import array as xp
from dask._task_spec import Alias, Dict, List, Task, TaskRef, convert_legacy_graph
from dask.core import flatten
from dask.optimization import cull
from distributed import Future

from kernels import Array

from . import WorkerLost
from ._dask_team import NO_SAMPLES, Block, Given, Step, take_step

__all__ = ["READ", "Cluster", "compile_step", "computed", "persisted", "to_numpy"]

# The names of arrays whose blocks are read from a file begin so.
READ = "read-"

# Steps after which the weights are sent anew. What is lost with a worker is computed again from
# there, for which the scheduler must remember all steps since.
_STEPS_TO_REPEAT = 20

# A step has at least two: of predictions and of gradients.
_LEAST_JOINS = 2

_SECONDS_BETWEEN_LOOKS = 10.0
_LOOKS_WITHOUT_PROGRESS = 3
# The states of tasks that a worker, even a paused one, runs or receives.
_BUSY = "executing", "flight"


class Cluster(NamedTuple):
    """A client of Dask's scheduler, and the addresses of the workers to use."""

    client: Any
    addresses: list[str]


class _Batch(NamedTuple):
    """A batch: the blocks of each worker, and the held blocks that their tasks need."""

    shape: tuple[int, ...]
    dtype: Any
    blocks: list[list[Block]]
    held: dict[Any, Any]


def compile_step(
    function: Callable[..., Any], cluster: Cluster, shard: Callable[[Array], Any]
) -> Callable[..., Any]:
    """Make a step (trained, x, y, numbers, operands) -> (trained, loss) that runs on workers.

    trained, y and numbers are arrays or nested tuples of arrays. `operands`, prepared by
    `kernels.fit` from the whole x, are not used: they are larger than x. The result of a function
    of one array is computed and kept.
    """
    name, numbers = f"step-{uuid4().hex}", count(1)
    # How many joins a step has, by number of samples and dtype.
    joins: dict[Any, int] = {}
    latest: dict[str, tuple[list[str], Any]] = {}

    def once(role: str, make: Callable[[], Any], tree: Any) -> Any:
        """Make something from arrays, or reuse it if the last step made it from the same."""
        names = [a.name for a in _leaves(tree)]
        if role not in latest or latest[role][0] != names:
            latest[role] = names, make()
        return latest[role][1]

    def call(first: Any, *given: Any) -> Any:
        if not given:
            return persisted(function(first), cluster)
        x, y, now, _ = given
        number = next(numbers)
        literals = map(to_numpy, _leaves(now))
        batch = once("x", lambda: _batch(shard(x), cluster), x)
        inputs = [
            # The result of a task, as plain data would be lost with the worker that holds them.
            once("function", lambda: cluster.client.submit(pickle.loads, _pickled(function)), ()),
            once("trained", lambda: _whole((first, None), cluster), first),
            once("y", lambda: _whole(y, cluster), y),
        ]
        step = Step(f"{name}-{number}", batch.shape, batch.dtype, _filled(now, literals))
        kind = batch.shape[0], batch.dtype
        joins[kind] = joins.get(kind, _LEAST_JOINS)
        while True:
            future = _submit(step, batch, inputs, joins[kind], cluster)
            end = _wait_for(future, cluster)
            if not isinstance(end, Given):
                break
            joins[kind] += 1
        trained, value = end
        results = [_array(a) for a in _leaves(trained)]
        if number % _STEPS_TO_REPEAT != 0:
            latest["trained"] = [a.name for a in results], future
        return _filled(first, iter(results)), _array(value)

    return call


def _submit(step: Step, batch: _Batch, inputs: list[Any], joins: int, cluster: Cluster) -> Any:
    """Submit a step with so many joins, and return the future of its end."""
    graph = {future.key: future for future in inputs} | batch.held
    common = [TaskRef(future.key) for future in inputs]
    before: list[Any] = []
    for i in range(joins):
        given = []
        for j, blocks in enumerate(batch.blocks):
            key = step.name, i, j
            needs = set().union(*(block.task.dependencies for block in blocks))
            values = Dict({need: TaskRef(need) for need in needs})
            graph[key] = Task(key, take_step, step, *common, blocks, values, List(*before))
            given.append(TaskRef(key))
        before.append(List(*given))
    end = step.name, joins
    graph[end] = Task(end, take_step, step, *common, [NO_SAMPLES], {}, List(*before))
    return cluster.client.get(graph, end, sync=False)


def _batch(x: Any, cluster: Cluster) -> _Batch:
    """Give each worker some consecutive blocks."""
    x = x.rechunk({1: -1})
    lengths = x.chunks[0]
    blocks: list[Block] = []
    held: dict[Any, Any] = {}
    for key, length, end in zip(_keys(x), lengths, accumulate(lengths), strict=True):
        task, given = _task(x, key)
        blocks.append(Block(end - length, end, task))
        held |= given
    workers = min(len(cluster.addresses), len(blocks))
    ends = [len(blocks) * i // workers for i in range(workers + 1)]
    return _Batch(x.shape, x.dtype, [blocks[i:j] for i, j in pairwise(ends)], held)


def _task(a: Any, key: Any) -> tuple[Any, dict[Any, Any]]:
    """Fuse the tasks that compute a block into one, and find the held blocks that it needs."""
    graph, _ = cull(a.dask, [key])
    held = {k: task for k, task in graph.items() if _is_future(task)}
    tasks = convert_legacy_graph({k: graph[k] for k in graph.keys() - held.keys()}, graph.keys())
    return Task.fuse(*tasks.values(), key=key) if tasks else Alias(key), held


def _whole(tree: Any, cluster: Cluster) -> Any:
    """Gather nested tuples of whole arrays in the result of one task."""
    arrays = [persisted(a.rechunk(-1), cluster) for a in _leaves(tree)]
    futures = [future for a in arrays for future in a.dask.values()]
    places = _filled(tree, iter(range(len(arrays))))
    return cluster.client.submit(_filled_from, places, futures, pure=False)


def _filled_from(places: Any, leaves: list[Any]) -> Any:
    return _filled(places, iter(leaves))


def persisted(a: Any, cluster: Cluster) -> Any:
    """Compute an array, unless that is done, and keep its blocks on the workers in turn.

    Each block is one task: Dask takes many times longer for the graph of random numbers.
    """
    if _is_held(a):
        return a
    client, addresses = cluster
    name = f"values-{uuid4().hex}"
    blocks = {}
    for i, key in enumerate(_keys(a)):
        task, held = _task(a, key)
        where = addresses[i % len(addresses)]
        block = name, *key[1:]
        graph = held | {block: task}
        blocks[block] = client.get(
            graph, block, sync=False, workers=where, allow_other_workers=True
        )
    return dask.array.Array(blocks, name, a.chunks, dtype=a.dtype)


def computed(graph: Any, keys: list[Any], cluster: Cluster, **_: Any) -> list[Any]:
    """Do as `Client.get`, which would wait for ever for workers that are paused."""
    futures = cluster.client.get(graph, keys, sync=False)
    return [_wait_for(future, cluster) for future in futures]


def to_numpy(a: Any) -> Any:
    """Copy an array to the host; compute it here if it needs nothing that workers hold or read."""
    here = not any(_is_future(task) or READ in str(key) for key, task in a.dask.items())
    return numpy.array(a.compute(scheduler="synchronous") if here else a.compute())


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Replace Dask's arrays and namespace inside a user's loss by NumPy's."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, dask.array.Array):
            return numpy.asarray, (obj.compute(),)
        if obj is xp:
            return importlib.import_module, ("array_api_compat.numpy",)
        return super().reducer_override(obj)


def _pickled(function: Any) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(function)
        return file.getvalue()


def _is_held(a: Any) -> bool:
    return all(_is_future(task) for task in a.dask.values())


def _is_future(task: Any) -> bool:
    return isinstance(task, Future)


def _array(host: Any) -> Any:
    return dask.array.from_array(host, chunks=-1, name=False)


def _wait_for(future: Any, cluster: Cluster) -> Any:
    """Wait for a value and fetch it; raise WorkerLost if no worker can compute it."""
    client = cluster.client
    looks, before, failed = 0, None, None

    def look(dask_scheduler: Any) -> tuple[int, str | None]:
        task = dask_scheduler.tasks.get(future.key)
        cause = task and (task.exception_blame or task)
        return dask_scheduler.transition_counter, cause and cause.exception_text

    while True:
        try:
            return future.result(timeout=_SECONDS_BETWEEN_LOOKS)
        except TimeoutError:
            if future.status == "error":
                # It raises the task's TimeoutError, which may be the user's own.
                return future.result()
            transitions, error = client.run_on_scheduler(look)
            if error and error == failed:
                # A client does not notice an error whose traceback is too deep to be pickled.
                raise RuntimeError(f"a task of Dask failed: {error}") from None
            failed = error
            if not client.nthreads():
                raise WorkerLost("the Dask scheduler has no worker left") from None
            workers = client.scheduler_info(n_workers=-1).get("workers", {}).values()
            # Dask pauses a worker that uses 0.8 of its memory limit, and its tasks, until it uses
            # less, for instance after spilling to disk.
            paused = [worker for worker in workers if worker["status"] == "paused"]
            metrics = [worker["metrics"] for worker in workers]
            busy = any(of_one["task_counts"].get(state) for of_one in metrics for state in _BUSY)
            progress = transitions, [of_one["spilled_bytes"] for of_one in metrics]
            looks = looks + 1 if paused and not busy and progress == before else 0
            before = progress
            if looks == _LOOKS_WITHOUT_PROGRESS:
                limit = min(worker["memory_limit"] for worker in paused)
                raise WorkerLost(
                    f"{len(paused)} of {len(workers)} workers of Dask are paused and nothing "
                    f"advances, since their memory limit, {limit / 1e6:.0f} MB, is too small for "
                    "the program and its data"
                ) from None


def _keys(a: Any) -> list[Any]:
    return list(flatten(a.__dask_keys__()))


def _leaves(tree: Any) -> list[Any]:
    """List the arrays in nested tuples, without None."""
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in _leaves(part)]
    return [] if tree is None else [tree]


def _filled(tree: Any, leaves: Iterator[Any]) -> Any:
    """Make nested tuples like these, with other arrays."""
    if not isinstance(tree, tuple):
        return None if tree is None else next(leaves)
    parts = [_filled(part, leaves) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)

"""A training step on Dask's workers: its graph made once, cut down to few tasks, and run anew.

Dask takes longer to make a graph of a step, and to schedule its hundreds of tasks, than they take.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle
import dask.array
from dask.core import flatten
from distributed import Future

from kernels import Array

from . import WorkerLost
from ._phases import ANY, Key, Phase, Program, one, phases, pick, run

__all__ = ["READ", "Cluster", "compile_step", "computed", "memory_used", "persisted", "sent"]

# How the names of arrays begin whose blocks are read from a file.
READ = "read-"

# Then the weights are fetched and sent anew: what is lost with a worker is computed again, and how
# to do that the scheduler must remember since the last time.
_STEPS_TO_REPEAT = 20

_SECONDS_BETWEEN_LOOKS = 10.0
_LOOKS_WITHOUT_PROGRESS = 3
# The states of tasks that a worker, even a paused one, runs or receives.
_BUSY = "executing", "flight"


class Cluster(NamedTuple):
    """A client of Dask's scheduler, and the addresses of the workers to use."""

    client: Any
    addresses: list[str]


class _Given(NamedTuple):
    """What a step is given: what is trained, the numbers of the step, and x and y in parts."""

    trained: list[Any]
    numbers: list[Any]
    batch: list[Any]

    @property
    def held(self) -> list[Any]:
        return [*self.trained, *self.batch]

    @property
    def all(self) -> list[Any]:
        return [*self.trained, *self.numbers, *self.batch]


class _Step(NamedTuple):
    """A step on arrays of some shapes.

    Attributes
    ----------
    given
        The keys of the blocks that it was made for, and of what these are computed from.
    phases, programs
        What runs, and where the workers have the programs.
    results
        The arrays that it returned, the last of them the loss.
    """

    given: list[Key]
    phases: list[Phase]
    programs: list[Any]
    results: list[Any]


def compile_step(
    function: Callable[..., Any], cluster: Cluster, shard: Callable[[Array], Any]
) -> Callable[..., Any]:
    """Make of (trained, x, y, numbers, operands) -> (trained, loss) one that runs it on workers.

    What is trained, y and the numbers are arrays or tuples of such. `operands`, what `kernels.fit`
    prepared of a whole x, are not used: they are larger than x. Of a function of one array what it
    returns is computed and kept.
    """
    steps: dict[Any, _Step] = {}
    rechunked: dict[Any, Any] = {}
    numbers = count(1)
    name = f"step-{uuid4().hex}"

    def like_x(y: Any, x: Any) -> Any:
        if y.chunks[0] == x.chunks[0]:
            return y
        # An x that is read has parts of its own.
        key = y.name, x.chunks[0]
        if key not in rechunked:
            rechunked[key] = persisted(y.rechunk({0: x.chunks[0]}), cluster)
        return rechunked[key]

    def call(first: Any, *batch: Any) -> Any:
        if not batch:
            return persisted(function(first), cluster)
        x = shard(batch[0])
        given = _Given(
            [persisted(a.rechunk(-1), cluster) for a in _leaves(first)],
            [_literal(a) for a in _leaves(batch[2])],
            [x, *(like_x(shard(y), x) for y in _leaves(batch[1]))],
        )
        # Tasks that read or compute what is not held are a part of the step.
        held = [(a.chunks, a.dtype, None if _is_held(a) else a.name) for a in given.held]
        kind = *held, len(given.numbers)
        if kind not in steps:
            steps[kind] = _trace(function, (first, batch[1], batch[2]), given, cluster)
        number = next(numbers)
        *futures, loss = _submit(steps[kind], given, f"{name}-{number}", cluster)
        value = dask.array.from_array(_wait_for(loss, cluster), chunks=())
        if number % _STEPS_TO_REPEAT == 0:
            trained = [sent(_wait_for(future, cluster), cluster) for future in futures]
        else:
            trained = [
                _array({future.key: future}, like)
                for future, like in zip(futures, steps[kind].results, strict=False)
            ]
        return _filled(first, iter(trained)), value

    return call


def persisted(a: Any, cluster: Cluster) -> Any:
    """Compute an array, unless that is done, and keep its blocks on one worker after the other.

    In one task: Dask takes many times longer over a graph of random numbers.
    """
    if _is_held(a):
        return a
    client, addresses = cluster
    graph = dict(a.dask)
    held = {key: graph.pop(key) for key, task in a.dask.items() if _is_future(task)}
    (phase,) = phases(graph, dict.fromkeys(held), _keys(a))
    name = f"values-{uuid4().hex}"
    given = list(phase.program.given)
    values = client.get(
        {**held, name: (_load_and_run, _packed(phase.program), given)}, name, sync=False
    )
    blocks = {
        (name, *key[1:]): client.submit(
            one,
            values,
            [key],
            key=(name, *key[1:]),
            workers=addresses[i % len(addresses)],
            allow_other_workers=True,
        )
        for i, key in enumerate(_keys(a))
    }
    return _array(blocks, a)


def _packed(program: Program) -> bytes:
    """Pack a program of hundreds of tasks, much alike, into a tenth of its memory or less."""
    return zlib.compress(cloudpickle.dumps(program), 1)


@lru_cache(maxsize=64)
def _unpacked(program: bytes) -> Program:
    found: Program = pickle.loads(zlib.decompress(program))
    return found


def _load_and_run(
    program: bytes, given: list[Any], *values_of: Mapping[Key, Any]
) -> dict[Key, Any]:
    return run(_unpacked(program), given, *values_of)


def sent(host: Any, cluster: Cluster) -> Any:
    """Send a NumPy array to the workers, in one block."""
    return persisted(dask.array.from_array(host, chunks=-1), cluster)


def computed(graph: Any, keys: list[Key], cluster: Cluster, **_: Any) -> list[Any]:
    """Compute as `Client.get` does, which would wait for ever for workers that are paused."""
    futures = cluster.client.get(graph, keys, sync=False)
    return [_wait_for(future, cluster) for future in futures]


def memory_used() -> int:
    """Measure the bytes of this process, now that it has imported what a step needs."""
    import psutil

    used: int = psutil.Process().memory_info().rss
    return used


def _is_held(a: Any) -> bool:
    return all(_is_future(task) for task in a.dask.values())


def _is_future(task: Any) -> bool:
    return isinstance(task, Future)


def _trace(
    function: Callable[..., Any], like: tuple[Any, Any, Any], given: _Given, cluster: Cluster
) -> _Step:
    """Make the graph of a step, and send the programs that it comes to."""
    x, *targets = given.batch
    trained, y, numbers = (
        _filled(tree, iter(leaves))
        for tree, leaves in zip(like, (given.trained, targets, given.numbers), strict=True)
    )
    # Reductions, also of two axes, put all parts together at once and not a few at a time.
    with dask.config.set(split_every=(x.numblocks[0] + 1) ** 2):
        results = _leaves(function(trained, x, y, numbers, None))
    parts: dict[Key, int | None] = dict.fromkeys(_inputs(given.all), ANY)
    whole: dict[Key, int | None] = {
        key: None for a in (*given.trained, *given.numbers) for key in _keys(a)
    }
    parts |= whole
    graph = {
        key: task
        for a in results
        for key, task in a.dask.items()
        if key not in whole and not _is_future(task)
    }
    for a in given.batch:
        parts |= {key: i for i, key in enumerate(_keys(a))}
    found = phases(graph, parts, [_keys(a)[0] for a in results])
    name = f"program-{uuid4().hex}"
    # Tasks and not data, which would be lost with the worker that has it.
    programs = {f"{name}-{i}": (bytes, _packed(phase.program)) for i, phase in enumerate(found)}
    # Some kilobytes for each phase, once; Dask warns of ten megabytes.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        futures = cluster.client.get(programs, list(programs), sync=False)
    return _Step(list(parts), found, futures, results)


def _submit(step: _Step, given: _Given, name: str, cluster: Cluster) -> list[Any]:
    """Run a step on other arrays, and return the futures of its results."""
    own = dict(zip(step.given, _inputs(given.all), strict=True))
    graph: dict[Key, Any] = {future.key: future for future in step.programs}
    for a in given.held:
        graph |= {key: task for key, task in a.dask.items() if _is_future(task)}
    for a in given.numbers:
        graph |= a.dask
    at: dict[Key, tuple[str, int]] = {}
    for i, (phase, program) in enumerate(zip(step.phases, step.programs, strict=True)):
        exchanged = [
            (f"exchange-{name}" if step.phases[j].exchanged else name, j) for j in phase.shared
        ]
        keys = [own[key] for key in phase.program.given]
        whole = ((name, j) for j in phase.whole)
        graph[name, i] = (_load_and_run, program.key, keys, *whole, *exchanged)
        if phase.exchanged:
            graph[f"exchange-{name}", i] = (pick, (name, i), list(phase.exchanged))
        at |= dict.fromkeys(phase.program.wanted, (name, i))
    wanted = []
    for i, a in enumerate(step.results):
        (key,) = _keys(a)
        wanted.append((f"result-{name}-{i}", *key[1:]))
        graph[wanted[-1]] = (one, at[key], [key])
    futures: list[Any] = cluster.client.get(graph, wanted, sync=False)
    return futures


def _wait_for(future: Any, cluster: Cluster) -> Any:
    """Wait for a value, for as long as there are workers that may come to it, and fetch it."""
    client = cluster.client
    looks, before = 0, None
    while True:
        try:
            return future.result(timeout=_SECONDS_BETWEEN_LOOKS)
        except TimeoutError:
            if not client.nthreads():
                raise WorkerLost("the Dask scheduler has no worker left") from None
            workers = client.scheduler_info(n_workers=-1).get("workers", {}).values()
            # Dask pauses those that use 0.8 of their limit, and lets them go on when they use less,
            # such as after they have written to disk what they hold. Tasks that they were given
            # wait for that.
            paused = [worker for worker in workers if worker["status"] == "paused"]
            metrics = [worker["metrics"] for worker in workers]
            busy = any(of_one["task_counts"].get(state) for of_one in metrics for state in _BUSY)
            progress = (
                client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter),
                [of_one["spilled_bytes"] for of_one in metrics],
            )
            looks = looks + 1 if paused and not busy and progress == before else 0
            before = progress
            if looks == _LOOKS_WITHOUT_PROGRESS:
                limit = min(worker["memory_limit"] for worker in paused)
                raise WorkerLost(
                    f"{len(paused)} of {len(workers)} workers of Dask are paused and nothing "
                    f"advances, since their memory limit, {limit / 1e6:.0f} MB, is too small for "
                    "what they are and hold"
                ) from None


def _keys(a: Any) -> list[Any]:
    return list(flatten(a.__dask_keys__()))


def _inputs(arrays: list[Any]) -> list[Key]:
    """List the keys of blocks, then those of what they are computed from and workers hold."""
    keys = [key for a in arrays for key in _keys(a)]
    keys += (key for a in arrays for key, task in a.dask.items() if _is_future(task))
    return list(dict.fromkeys(keys))


def _array(graph: dict[Key, Any], like: Any) -> Any:
    (name, *_), *_ = graph
    return dask.array.Array(graph, name, like.chunks, dtype=like.dtype)


def _literal(a: Any) -> Any:
    """Make an array of no axes, of whose graph there is no more than its number."""
    value = a.compute(scheduler="synchronous")
    return dask.array.Array({(a.name,): value}, a.name, (), dtype=a.dtype)


def _leaves(tree: Any) -> list[Any]:
    """List the arrays in tuples of tuples; None is none."""
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in _leaves(part)]
    return [] if tree is None else [tree]


def _filled(tree: Any, leaves: Iterator[Any]) -> Any:
    """Make a tree like another, with other arrays."""
    if not isinstance(tree, tuple):
        return None if tree is None else next(leaves)
    parts = [_filled(part, leaves) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)

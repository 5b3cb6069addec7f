"""A graph of many small tasks made one of few: between two exchanges, one task for each part.

A training step on a batch in parts alternates between work that each part allows on its own and
work that needs all of them, such as adding their gradients. Dask makes hundreds of tasks of it,
each of which takes the scheduler about as long as this network's arithmetic takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# What Dask takes as a key: text, or a tuple that begins with it.
Key = Any

# A part of the batch that goes with any other, such as a mean that is subtracted from all samples.
ANY = -1


class Program(NamedTuple):
    """Tasks that run as one.

    Attributes
    ----------
    tasks
        (values) -> value, each with its key and the keys that nothing after it needs.
    given
        The keys of what it is given one by one.
    wanted
        The keys of what it returns.
    """

    tasks: tuple[tuple[Key, Callable[[dict[Key, Any]], Any], tuple[Key, ...]], ...]
    given: tuple[Key, ...]
    wanted: tuple[Key, ...]


class Phase(NamedTuple):
    """A program and where its input comes from.

    Attributes
    ----------
    program
        What runs.
    whole, shared
        The phases, by number, all or only the exchanged part of whose values it takes.
    exchanged
        The keys among its values that are exchanged; none if all are.
    """

    program: Program
    whole: tuple[int, ...]
    shared: tuple[int, ...]
    exchanged: tuple[Key, ...]


def run(program: Program, given: Iterable[Any], *values_of: Mapping[Key, Any]) -> dict[Key, Any]:
    """Run a program on what it is given and on what other phases returned."""
    values = dict(zip(program.given, given, strict=True))
    for other in values_of:
        values.update(other)
    for key, task, unneeded in program.tasks:
        values[key] = task(values)
        for other in unneeded:
            del values[other]
    return {key: values[key] for key in program.wanted}


def pick(values: Mapping[Key, Any], keys: Iterable[Key]) -> dict[Key, Any]:
    """Choose what is exchanged of a phase's values."""
    return {key: values[key] for key in keys}


def one(values: Mapping[Key, Any], keys: Iterable[Key]) -> Any:
    """Choose the one value of a phase that has the one key."""
    (key,) = keys
    return values[key]


def phases(
    graph: Mapping[Key, Any], parts: Mapping[Key, int | None], wanted: Sequence[Key]
) -> list[Phase]:
    """Partition a graph of Dask's tasks into phases, each after those that it needs.

    Parameters
    ----------
    graph
        Tasks by key.
    parts
        By the keys that are given, and those of tasks that read: the part of the batch that each
        belongs to, `ANY`, or None for what every part needs.
    wanted
        The keys of the results.
    """
    from dask._task_spec import convert_legacy_graph

    graph = convert_legacy_graph(graph, graph.keys() | parts.keys())
    needs = {key: task.dependencies for key, task in graph.items()}
    keys = _depth_first(needs, wanted)
    rank = {key: i for i, key in enumerate(keys)}
    place, free = _places(keys, needs, parts, set(wanted))
    place = _postponed(keys, needs, place, set(wanted))
    of_phase: dict[tuple[int, int | None], list[Key]] = defaultdict(list)
    for key in keys:
        if key not in free:
            of_phase[place[key]].append(key)
    numbers = {at: i for i, at in enumerate(sorted(of_phase, key=lambda at: at[0]))}

    inside = {at: _with_free(own, needs, free) for at, own in of_phase.items()}
    whole: dict[Any, set[Any]] = {at: set() for at in numbers}
    shared: dict[Any, set[Any]] = {at: set() for at in numbers}
    exchanged: dict[Any, set[Key]] = {at: set() for at in numbers}
    returned: dict[Any, set[Key]] = {at: set(wanted) & set(of_phase[at]) for at in numbers}
    for at, own in inside.items():
        for needed in set().union(*(needs[key] for key in own)) - own - parts.keys():
            source = place[needed]
            returned[source].add(needed)
            if source[1] in (None, at[1]):
                whole[at].add(source)
            else:
                shared[at].add(source)
                exchanged[source].add(needed)
    found = []
    for at in numbers:
        tasks = [(key, graph[key]) for key in sorted(inside[at], key=rank.__getitem__)]
        found.append(
            Phase(
                _program(tasks, needs, parts, returned[at]),
                tuple(numbers[other] for other in whole[at]),
                tuple(numbers[other] for other in shared[at]),
                tuple(exchanged[at]) if exchanged[at] != returned[at] else (),
            )
        )
    return found


def _depth_first(needs: Mapping[Key, Iterable[Key]], wanted: Iterable[Key]) -> list[Key]:
    """Put tasks after those that they need, few of which then wait for others at a time."""
    done: dict[Key, None] = {}
    stack = list(wanted)
    while stack:
        waiting = [key for key in needs[stack[-1]] if key in needs and key not in done]
        if waiting:
            stack += waiting
        else:
            done[stack.pop()] = None
    return list(done)


def _places(
    keys: list[Key],
    needs: Mapping[Key, Iterable[Key]],
    parts: Mapping[Key, int | None],
    wanted: set[Key],
) -> tuple[dict[Key, tuple[int, int | None]], dict[Key, int | None]]:
    """Find each task's phase: how many exchanges come before it, and its part of the batch.

    Also those that are free to run in every phase that needs them, since they need nothing but
    one part of the batch: that is cheaper to read and to compute again than to keep.
    """
    place: dict[Key, tuple[int, int | None]] = {}
    free: dict[Key, int | None] = {}
    for key in keys:
        # What is given or free, or the task itself if it reads.
        inputs = [other for other in (*needs[key], key) if other in parts or other in free]
        before = [other for other in needs[key] if other in place]
        found = {place[other][1] for other in before}
        found |= {parts.get(other, free.get(other)) for other in inputs}
        found -= {None, ANY}
        (part,) = found if len(found) == 1 else (None,)
        alone = all(parts[other] is not None for other in inputs if other in parts)
        if key not in wanted and not before and alone and len(found) < 2:
            free[key] = part
            continue
        if part is None:
            # Each part does its own share of what is done with all of them.
            for other in inputs:
                if free.get(other) is not None:
                    place[other] = 0, free.pop(other)
                    before.append(other)
        levels = (place[other][0] + (place[other][1] != part) for other in before)
        place[key] = max(levels, default=0), part
    return place, free


def _postponed(
    keys: list[Key],
    needs: Mapping[Key, Iterable[Key]],
    place: Mapping[Key, tuple[int, int | None]],
    wanted: set[Key],
) -> dict[Key, tuple[int, int | None]]:
    """Put off what only its own part needs, and only later, so that it is not kept until then."""
    postponed = dict(place)
    users: dict[Key, set[tuple[int, int | None]]] = defaultdict(set)
    for key in reversed(keys):
        part = postponed[key][1] if key in postponed else None
        if part is not None and key not in wanted and {of for _, of in users[key]} == {part}:
            postponed[key] = min(users[key])
        for other in needs[key]:
            users[other] |= {postponed[key]} if key in postponed else users[key]
    return postponed


def _with_free(
    own: Iterable[Key], needs: Mapping[Key, Iterable[Key]], free: Iterable[Key]
) -> set[Key]:
    """Add to a phase's tasks the free ones that they need."""
    inside, waiting = set(own), list(own)
    while waiting:
        for key in needs[waiting.pop()]:
            if key in free and key not in inside:
                inside.add(key)
                waiting.append(key)
    return inside


def _program(
    tasks: list[tuple[Key, Any]],
    needs: Mapping[Key, Iterable[Key]],
    parts: Mapping[Key, int | None],
    wanted: set[Key],
) -> Program:
    """Make a program that lets go of each value after its last use."""
    last: dict[Key, Key] = {}
    for key, _ in tasks:
        last[key] = key
        last.update((needed, key) for needed in needs[key])
    unneeded: dict[Key, list[Key]] = defaultdict(list)
    for key, at in last.items():
        if key not in wanted:
            unneeded[at].append(key)
    own = {key for key, _ in tasks}
    given = tuple(key for key in last if key in parts and key not in own)
    return Program(
        tuple((key, task, tuple(unneeded[key])) for key, task in tasks), given, tuple(wanted)
    )

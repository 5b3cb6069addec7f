"""Look for programs whose results on a library are wrong."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase
from hypothesis.internal.conjecture.engine import ConjectureRunner

from . import oracle
from .libraries import Failed, Library, OutOfTime
from .oracle import Wrong
from .programs import Line, Program, Scope, programs, source

# New programs find more than variants, of which hypothesis would make four for each.
ConjectureRunner.generate_mutations_from = lambda *_: None


class Target(NamedTuple):
    """A library in a mode.

    Attributes
    ----------
    backend, mode
        What runs the programs: "eager", "compiled", by "workers", or as "estimators".
    share
        Its share of the time, relative to others.
    examples
        Programs in a round.
    shrinking
        The most seconds to make a program smaller.
    scope
        What programs are drawn from.
    """

    backend: str
    mode: str
    share: float
    examples: int
    shrinking: float
    scope: Scope

    @property
    def name(self) -> str:
        return f"{self.backend} {self.mode}"

    @property
    def compiled(self) -> bool:
        return self.mode == "compiled"


def _target(
    backend: str, mode: str, share: float, examples: int, shrinking: float, **scope: Any
) -> Target:
    drawn = Scope(backend.partition(":")[0], mode == "compiled", **scope)
    return Target(backend, mode, share, examples, shrinking, drawn)


# Sizes where every shape costs a compilation, and the size of arrays little.
_FEW: dict[str, Any] = {"sizes": (1, 7, 3, 7, 7, 2, 1030), "classes": (3, 129, 300)}

_ONE: dict[str, Any] = {"lines": 1, "families": Scope("", True).families[:-1]}
# Axes of whole trainings by workers: with fewer samples than these, and with two slices of float32.
_TEAM: dict[str, Any] = {
    "sizes": (1, 7, 3, 2, 5, 16, 64, 1030),
    "classes": (3, 1, 2, 10, 129),
    "families": ("training",),
    "workers": 4,
}
_FEW_OF_TEAM = {**_TEAM, "sizes": (1, 7, 3, 2, 13), "classes": (3, 1)}
_SKLEARN: dict[str, Any] = {"families": ("estimator",)}

# Every other one is for one process, the others for a second.
TARGETS = (
    _target("numpy", "eager", 2, 400, 15),
    _target("jax:cpu", "compiled", 5, 60, 12, lines=2, sizes=(1, 7, 3, 7, 7, 2, 0, 64, 1030)),
    _target("array-api-strict", "eager", 1, 200, 10),
    _target("torch:cpu", "compiled", 3, 12, 45, lines=2, **_FEW),
    _target("torch:cpu", "eager", 1, 200, 10),
    _target("ndonnx", "compiled", 4, 30, 20, **_ONE, **_FEW),
    _target("jax:cpu", "eager", 2, 60, 15, **_FEW),
    _target("mlx", "eager", 1, 200, 10),
    _target("mlx", "compiled", 2, 12, 30, **_ONE, **_FEW),
    _target("torch:cpu", "workers", 2, 200, 20, **_TEAM),
    _target("jax:cpu", "workers", 2, 30, 30, **_FEW_OF_TEAM),
    _target("dask", "workers", 2, 30, 30, **_FEW_OF_TEAM),
    _target("array-api-strict", "estimators", 1, 60, 15, **_SKLEARN),
    _target("torch:cpu", "estimators", 1, 60, 15, **_SKLEARN),
)

# So many finds of an operation in a library are shown; more are only counted.
_MOST_OF_A_KIND = 6


class Find(NamedTuple):
    """A program with a wrong result, and a key that tells finds apart."""

    key: tuple[str, ...]
    sentence: str
    text: str


def lane(names: list[str], seed: int, seconds: float, messages: Any) -> None:
    """Hunt in some of the targets, in a process of its own, and report to the first process."""
    end = time.monotonic() + seconds
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    told = [0.0]

    def ran(name: str) -> None:
        counts[name] += 1
        if time.monotonic() - told[0] > 1.0:
            told[0] = time.monotonic()
            messages.put(("ran", dict(counts)))
            counts.clear()

    targets = tuple(t for t in TARGETS if t.name in names)
    hunt(targets, seed, end, lambda find: messages.put(("found", find)), ran)
    messages.put(("ran", dict(counts)))


def _end_with_the_first() -> None:
    """End this process once the first is killed; its own processes notice its end."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


class _Different(Exception):
    """What hypothesis makes smaller."""


def hunt(
    targets: tuple[Target, ...],
    seed: int,
    end: float,
    found: Callable[[Find], None],
    ran: Callable[[str], None],
) -> None:
    """Hunt until the time `end`, in the library that is most behind its share of the time.

    `found` is called with each find, `ran` with the target's name for each program.
    """
    libraries = {
        t: Library(t.backend, compiled=t.compiled, workers=t.scope.workers) for t in targets
    }
    used = dict.fromkeys(targets, 0.0)
    rounds = dict.fromkeys(targets, 0)
    seen: set[tuple[str, ...]] = set()
    kinds: Counter[tuple[str, ...]] = Counter()
    try:
        while time.monotonic() < end:
            target = min(targets, key=lambda t: used[t] / t.share)
            start = time.monotonic()
            number = zlib.crc32(f"{seed} {target.name} {rounds[target]}".encode())
            find = _round(target, libraries[target], number, end, seen, ran)
            rounds[target] += 1
            used[target] += time.monotonic() - start
            if find is not None:
                seen.add(find.key)
                kinds[find.key[:2]] += 1
                if kinds[find.key[:2]] == _MOST_OF_A_KIND:
                    seen.add(find.key[:2])
                found(find)
    except OutOfTime:
        pass
    finally:
        for library in libraries.values():
            library.close()


def _round(
    target: Target,
    library: Library,
    seed: int,
    end: float,
    seen: set[tuple[str, ...]],
    ran: Callable[[str], None],
) -> Find | None:
    """Try some programs, and shrink the first with a wrong result."""
    best: list[Find] = []
    done: set[str] = set()
    stop = [end]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=target.examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(programs(target.scope))
    def trial(program: Program) -> None:
        now = time.monotonic()
        if now > stop[0]:
            raise OutOfTime
        text = source(program, target.backend, compiled=target.compiled)
        if not best and text in done:
            return
        done.add(text)
        ran(target.name)
        find = examine(program, text, target, library, end - now)
        if find is None or find.key in seen or find.key[:2] in seen:
            return
        if best and find.key != best[0].key:
            return
        if not best:
            stop[0] = min(end, now + target.shrinking)
        best.append(find)
        raise _Different

    try:
        trial()
    except OutOfTime:
        if not best:
            raise
    except (_Different, hypothesis.errors.Flaky):
        if not best:
            raise
    return min(best, key=lambda find: len(find.text)) if best else None


def examine(
    program: Program, text: str, target: Target, library: Library, seconds: float
) -> Find | None:
    """Run a program, and compare its results with the right ones."""
    try:
        expected = oracle.run(program)
    except Exception as error:
        line = program.lines[-1]
        wrong = Wrong(f"raises {type(error).__name__}", f"{error}")
        return _find(program, text, line, wrong, target) if target.backend == "numpy" else None
    if target.backend == "numpy":
        wrong_line = _judged(program, expected)
        if wrong_line is not None:
            return _find(program, text, *wrong_line, target)
    if expected.changed is not None:
        return None
    try:
        got = iter(library.run(text, seconds, program.workers))
    except Failed as failure:
        # Under "raise" NumPy may refuse to round or to overflow.
        if failure.cause == "raises FloatingPointError":
            return None
        wrong = Wrong(failure.cause, str(failure))
        return _find(program, text, program.lines[-1], wrong, target)
    for line in program.lines:
        arrays = [expected.arrays[output] for output in line.outputs]
        wrong_now = oracle.difference(line, [next(got) for _ in arrays], arrays)
        if wrong_now is not None:
            return _find(program, text, line, wrong_now, target)
        if not all(np.all(np.isfinite(a)) for a in arrays):
            # Results may differ in whether they are infinite or NaN, and so may all that follows.
            return None
    return None


def _judged(program: Program, ran: oracle.Ran) -> tuple[Line, Wrong] | None:
    """Compare NumPy's own results with what exact arithmetic says of them."""
    if ran.changed is not None:
        name, line = ran.changed
        return line, Wrong("changes its argument", f"expected {name} as it was, got another")
    numerics = kernels_of(program)
    for line in program.lines:
        wrong = oracle.check(line, ran, program.dtype, numerics)
        if wrong is not None:
            return line, wrong
    wide = oracle.with_wide_labels(program)
    if wide is not None:
        same = oracle.run(wide)
        for line in program.lines:
            arrays, others = ([r.arrays[output] for output in line.outputs] for r in (ran, same))
            wrong = oracle.difference(line, arrays, others)
            if wrong is not None:
                told = f"with labels as int64 {wrong.sentence}"
                return line, Wrong("depends on the labels' dtype", told)
    return None


def kernels_of(program: Program) -> Any:
    from kernels import Exact

    return Exact(program.products)


def _find(program: Program, text: str, line: Line, wrong: Wrong, target: Target) -> Find:
    operands = {operand.name: operand for operand in program.operands}
    used = [operands[name] for name in line.uses if name in operands]
    known = sorted({a.known for a in used} - {"argument"})
    labels = sorted({str(a.host.dtype) for a in used if a.host.dtype.kind in "iu"})
    if wrong.cause.startswith("raises"):
        told = re.sub(r"[\d(),\[\]]+", "", wrong.sentence)[:60]
        return Find((target.name, wrong.cause, told), wrong.sentence, text)
    key: tuple[str, ...] = target.name, line.operation, wrong.cause
    if wrong.cause.startswith("changes"):
        return Find(key, wrong.sentence, text)
    key += (
        program.dtype,
        *(("known: " + " ".join(known),) if known else ()),
        *(("labels: " + " ".join(labels),) if labels else ()),
        _magnitude(used, program.dtype),
    )
    return Find(key, wrong.sentence, text)


def _magnitude(used: list[Any], dtype: str) -> str:
    """Say how large a line's operands are."""
    digits = 60 if dtype == "float32" else 460
    sizes = [np.abs(a.host[np.isfinite(a.host) & (a.host != 0)]) for a in used if a.host.size]
    sizes = [np.log2(s.astype("float64")) for s in sizes if s.dtype.kind == "f" and s.size]
    low = min((float(np.min(s)) for s in sizes), default=0.0)
    high = max((float(np.max(s)) for s in sizes), default=0.0)
    if not math.isfinite(low + high):
        return "any size"
    if low < -digits:
        return "of all sizes" if high > digits else "small"
    return "large" if high > digits else "near 1"

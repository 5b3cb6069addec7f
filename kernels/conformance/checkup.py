"""Every part of the kernel, on a library and on NumPy."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..numerics import EXACT
from ..reference import training as reference
from .library import Library
from .lockstep import Difference, Lockstep, compare
from .parts import COMMITTED, CREATE, PARTS, STEPS, Make, draw, train_problem

__all__ = ["COMMITTED", "Checked", "Part", "examine"]

# The limit for a part by the library alone; NumPy takes milliseconds.
_SECONDS = 120

# Blamed when every function by itself is right.
_TOGETHER = "no single function"


class Part(NamedTuple):
    """A part of the check and its result.

    Attributes
    ----------
    part, dtype
        What was computed.
    result
        "passed", "failed" or "not run".
    function
        The first function that is missing or wrong, or None.
    """

    part: str
    dtype: str
    result: str
    function: str | None


class Checked(NamedTuple):
    """A library and the result of its check.

    Attributes
    ----------
    module, namespace, version, device
        What was checked; the device is None if the library chose.
    passed
        Whether all parts passed.
    flushes_subnormals
        Whether the library takes subnormal numbers for zero, which the kernel allows.
    parts
        In the order in which they ran.
    differences
        The first one seen of each function that is missing or wrong.
    steps, digests
        The digests of exact training after so many steps, by problem and dtype.
    """

    module: str
    namespace: str
    version: str
    device: str | None
    passed: bool
    flushes_subnormals: bool
    parts: tuple[Part, ...]
    differences: tuple[Difference, ...]
    steps: int
    digests: dict[str, dict[str, str]]


def examine(
    library: Library,
    dtypes: tuple[str, ...],
    *,
    begin: Callable[[str, str], object] = lambda *_: None,
    end: Callable[[Part], object] = lambda _: None,
) -> Checked:
    """Compute every part in every dtype.

    Parameters
    ----------
    library
        What to check.
    dtypes
        One or both of "float32" and "float64".
    begin, end
        Called with the name and dtype of each part before it is computed, and with its result.
    """
    parts: list[Part] = []
    differences: dict[str, Difference] = {}
    digests: dict[str, dict[str, str]] = {}
    hard: dict[str, list[Difference]] = {}
    flushes = False
    for dtype in dtypes:
        found: dict[str, list[Difference]] = {}
        makes_arrays = True
        for part in (*PARTS, *COMMITTED):
            begin(part, dtype)
            if not makes_arrays:
                result = Part(part, dtype, "not run", None)
            elif part in COMMITTED:
                wrong = [
                    each[0]
                    for name, each in found.items()
                    if each and name in PARTS and PARTS[name][1] is EXACT
                ]
                problem = COMMITTED[part]
                found[part], digest = _train(library, problem, dtype, hard, wrong[:1])
                if digest is not None:
                    digests.setdefault(problem, {})[dtype] = digest
                result = _result(part, dtype, found[part])
            else:
                function, numerics = PARTS[part]
                compute, exact = partial(function, dtype, numerics), numerics is EXACT
                lockstep = _in_lockstep(library, compute, hard, exact=exact)
                found[part] = lockstep.differences or _alone(library, compute, exact)
                flushes |= lockstep.flushes
                # Without arrays nothing else can be computed.
                makes_arrays = part != CREATE or not found[part] or _makes_arrays(library, dtype)
                result = _result(part, dtype, found[part])
            end(result)
            parts.append(result)
            for each in found.get(part, ()):
                differences.setdefault(each.function, each._replace(where=f"{part}, {dtype}"))
    return Checked(
        module=library.name,
        namespace=library.xp.__name__,
        version=library.version,
        device=None if library.device is None else str(library.device),
        passed=all(each.result == "passed" for each in parts),
        flushes_subnormals=flushes,
        parts=tuple(parts),
        differences=tuple(differences.values()),
        steps=STEPS,
        digests=digests,
    )


def _result(part: str, dtype: str, found: list[Difference]) -> Part:
    return Part(part, dtype, *(("failed", found[0].function) if found else ("passed", None)))


def _makes_arrays(library: Library, dtype: str) -> bool:
    host = draw((2, 3), 0, dtype)
    try:
        return bool((library.fetch(library.put(host)) == host).all())
    except Exception:
        return False


def _in_lockstep(
    library: Library,
    compute: Callable[[Make], Any],
    hard: dict[str, list[Difference]],
    *,
    exact: bool,
) -> Lockstep:
    lockstep = Lockstep(library, exact=exact, hard=hard)
    try:
        compute(lockstep.put)
    except Exception as error:
        # After a difference an error is most likely its consequence.
        if not lockstep.differences:
            lockstep.differences.append(_stopped(error))
    return lockstep


def _alone(library: Library, compute: Callable[[Make], Any], exact: bool) -> list[Difference]:
    """Compare the results with NumPy's.

    This shows what lockstep cannot: arrays whose namespace cannot be found, or that share memory so
    that changing one changes another.
    """
    expected = compute(np.array)
    try:
        with _limit(_SECONDS):
            got = [a if isinstance(a, str) else library.fetch(a) for a in compute(library.put)]
    except Exception as error:
        return [_stopped(error)]
    for pair in zip(expected, got, strict=True):
        words = compare(*pair, exact=exact)
        if words is not None:
            return [Difference(_TOGETHER, "the operations of this part", *words, ())]
    return []


def _train(
    library: Library,
    problem: str,
    dtype: str,
    hard: dict[str, list[Difference]],
    known: list[Difference],
) -> tuple[list[Difference], str | None]:
    """Compare the digest of exact training with the committed one.

    `known` are differences seen before, which explain a wrong digest.
    """
    compute = partial(train_problem, problem, dtype, EXACT)
    expected, digest = reference.committed()[problem][dtype][STEPS], None
    try:
        with _limit(5 * _SECONDS):
            (digest,) = compute(library.put)
    except Exception as error:
        found = [_stopped(error)]
    else:
        if digest == expected:
            return [], digest
        found = [Difference(_TOGETHER, f"{STEPS} steps of training", expected, digest, ())]
    return known or _in_lockstep(library, compute, hard, exact=True).differences or found, digest


class _Late(BaseException):
    """Not an `Exception`, since libraries and `Library.fetch` catch those."""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer; some lazy libraries take for ever."""

    def stop(*_: object) -> None:
        raise _Late

    # Windows has no such signal, and so no limit; threads other than the first set none.
    first = threading.current_thread() is threading.main_thread()
    if not (first and hasattr(signal, "SIGALRM")):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    left = signal.alarm(seconds)
    try:
        yield
    except _Late as late:
        error = TimeoutError(f"not done after {seconds} seconds")
        raise error.with_traceback(late.__traceback__) from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        # That of the program, if it has one.
        signal.alarm(left)


def _stopped(error: Exception) -> Difference:
    """Describe an error by the last line of the kernel, or of the check's parts, that it passed."""
    home = Path(__file__).parents[1]
    machinery = {Path(__file__).with_name(name) for name in ("lockstep.py", "library.py")}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if home in Path(frame.filename).parents and Path(frame.filename) not in machinery
    ]
    line, file = frames[-1].line, Path(frames[-1].filename).relative_to(home)
    text = (str(error) or "-").splitlines()[0]
    call = f"`{line}` in kernels/{file}"
    return Difference(_TOGETHER, call, "no error", f"{type(error).__name__}: {text}", ())

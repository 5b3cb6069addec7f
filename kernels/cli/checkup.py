"""What `python -m kernels check` does: every part of the kernel on a library and on NumPy."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from ..numerics import EXACT
from . import identity
from .library import Library
from .lockstep import Difference, Lockstep, first_difference
from .parts import CREATE, PARTS, STEPS, Make, draw, train_tutorial

__all__ = ["Checked", "Part", "examine"]

_COMMITTED = "committed digest"

# What is blamed when every function by itself does what it should.
_TOGETHER = "no single function"


class Part(NamedTuple):
    """A part of the check and what came of it.

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
    """A library and what came of its check.

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
        For each function that is missing or wrong, what was seen first.
    steps, digests
        The digests of exact training after so many steps, by dtype.
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
    digests: dict[str, str]


def examine(library: Library, dtypes: tuple[str, ...]) -> Checked:
    """Compute every part in every dtype."""
    parts: list[Part] = []
    differences: dict[str, Difference] = {}
    digests: dict[str, str] = {}
    flushes = False
    with Console(stderr=True).status("") as status:
        for dtype in dtypes:
            usable = True
            for part in (*PARTS, _COMMITTED):
                if not usable:
                    parts.append(Part(part, dtype, "not run", None))
                    continue
                status.update(f"{part}, {dtype}")
                if part == _COMMITTED:
                    found, digest = _train(library, dtype)
                    digests |= {} if digest is None else {dtype: digest}
                else:
                    found, flushed = _compare(library, part, dtype)
                    flushes |= flushed
                first = found[0].function if found else None
                parts.append(Part(part, dtype, "failed" if found else "passed", first))
                for each in found:
                    differences.setdefault(each.function, each._replace(where=f"{part}, {dtype}"))
                # Where no array can be made there is nothing to compute with.
                usable = part != CREATE or not found or _makes_arrays(library, dtype)
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


def _makes_arrays(library: Library, dtype: str) -> bool:
    host = draw((2, 3), 0, dtype)
    try:
        return bool((library.fetch(library.put(host)) == host).all())
    except Exception:
        return False


def _compare(library: Library, part: str, dtype: str) -> tuple[list[Difference], bool]:
    """Compute in lock-step with NumPy and, where that shows nothing, with the library alone."""
    function, numerics = PARTS[part]
    compute = partial(function, dtype, numerics)
    lockstep = _in_lockstep(library, compute, exact=numerics is EXACT)
    found = lockstep.differences or _alone(library, compute, exact=numerics is EXACT)
    return found, lockstep.flushes


def _in_lockstep(library: Library, compute: Callable[[Make], Any], *, exact: bool) -> Lockstep:
    lockstep = Lockstep(library, exact=exact)
    try:
        compute(lockstep.put)
    except Exception as error:
        # An error that follows from a difference needs no words of its own.
        if not lockstep.differences:
            lockstep.differences.append(_stopped(error))
    return lockstep


def _alone(library: Library, compute: Callable[[Make], Any], *, exact: bool) -> list[Difference]:
    """Compare the results with NumPy's.

    This shows what lock-step cannot: arrays whose namespace cannot be found, or which share memory
    so that changing one changes another.
    """
    expected = compute(np.array)
    try:
        got = [a if isinstance(a, str) else library.fetch(a) for a in compute(library.put)]
    except Exception as error:
        return [_stopped(error)]
    for pair in zip(expected, got, strict=True):
        words = first_difference(*pair, exact=exact)
        if words is not None:
            return [Difference(_TOGETHER, "the operations of this part", *words, ())]
    return []


def _train(library: Library, dtype: str) -> tuple[list[Difference], str | None]:
    """Compare the digest of exact training with the committed one."""
    compute = partial(train_tutorial, dtype, EXACT)
    expected, digest = identity.committed()["tutorial"][dtype][STEPS], None
    try:
        (digest,) = compute(library.put)
    except Exception as error:
        found = [_stopped(error)]
    else:
        if digest == expected:
            return [], digest
        found = [Difference(_TOGETHER, f"{STEPS} steps of training", expected, digest, ())]
    return _in_lockstep(library, compute, exact=True).differences or found, digest


def _stopped(error: Exception) -> Difference:
    """Tell in which line an error arose: the last one that is not in the machinery of the check."""
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

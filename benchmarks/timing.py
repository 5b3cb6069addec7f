"""Timing programs against each other: interleaved rounds, medians, and ratios within a round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Spread", "interleave", "ratios", "rounds_for", "spread", "timed"]

_MIN_ROUNDS, _MAX_ROUNDS = 5, 100

# The threads of OpenBLAS, which NumPy uses, spin for 2**26 cycles in wait for more work and take
# cores from the next program, and a library's own threads are slow to wake: torch was four times
# slower right after NumPy. What takes longer than the second number hardly notices.
_SETTLE_SECONDS = 0.1
_SHORT_SECONDS = 0.5

Program = Callable[[], Any]


class Spread(NamedTuple):
    """The median of measurements and the quartiles around it."""

    median: float
    q1: float
    q3: float


def spread(values: Sequence[float]) -> Spread:
    """Take the median and the quartiles, linearly interpolated.

    Examples
    --------
    >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
    Spread(median=3.0, q1=2.0, q3=4.0)
    """
    import numpy as np

    q1, median, q3 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, q1, q3)


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Take the ratios of two programs round by round, and the spread of these.

    Examples
    --------
    >>> ratios([1.0, 3.0, 6.0], [1.0, 2.0, 3.0])
    Spread(median=1.5, q1=1.25, q3=1.75)
    """
    return spread([a / b for a, b in zip(seconds, baseline, strict=True)])


def rounds_for(seconds: float, runs: Sequence[float]) -> int:
    """Choose how many rounds fit into a time, at least 5 and at most 100.

    Parameters
    ----------
    seconds
        The time.
    runs
        The seconds that a run of each program takes.

    Examples
    --------
    >>> rounds_for(60.0, [0.1, 1.6]), rounds_for(60.0, [60.0])
    (30, 5)
    """
    in_round = sum(_SETTLE_SECONDS + (2 * run if run < _SHORT_SECONDS else run) for run in runs)
    return min(max(int(seconds / in_round), _MIN_ROUNDS), _MAX_ROUNDS)


def timed(program: Program) -> tuple[float, Any]:
    """Run a program once; return the seconds it took and what it returned."""
    started = time.perf_counter()
    result = program()
    return time.perf_counter() - started, result


def interleave(
    programs: Sequence[Program], rounds: int, progress: Callable[[int], object] = lambda _: None
) -> list[list[float]]:
    """Time every program once in each round, in an order that rotates from round to round.

    Before it is timed, the threads of the program before it come to rest, and a program that is
    short runs once untimed.

    Parameters
    ----------
    programs
        Functions that return when their work is done.
    rounds
        How many.
    progress
        Called with the number of rounds done.

    Returns
    -------
    The seconds of each program in each round.
    """
    seconds: list[list[float]] = [[] for _ in programs]
    with _no_collection():
        for number in range(rounds):
            for i in range(len(programs)):
                chosen = (i + number) % len(programs)
                time.sleep(_SETTLE_SECONDS)
                if number == 0 or seconds[chosen][-1] < _SHORT_SECONDS:
                    programs[chosen]()
                taken, _ = timed(programs[chosen])
                seconds[chosen].append(taken)
            gc.collect()
            progress(number + 1)
    return seconds


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage only between rounds, and only new objects: libraries hold many old ones."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()

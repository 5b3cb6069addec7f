"""Schedules: the learning rate of each step, as the same number on every machine.

The C library's `pow`, `cos` and `exp` differ between operating systems. Here a rate is computed
with operations that IEEE 754 fixes, or in decimal arithmetic with 40 digits.

Each function raises TypeError if a number is of another type, and ValueError if it is out of range:
rates are finite and 0 or more, `steps` is 1 or more, `decay` above 0, `power` 0 or more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

from ._checks import to_learning_rate, to_positive, to_real

__all__ = ["Schedule", "constant", "cosine", "exponential", "inverse", "linear", "warmup"]

# Our own, as the program may have set another.
_CONTEXT = Context(prec=40, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, clamp=0, traps=[])

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the number of steps taken before.

    Parameters
    ----------
    rate_at
        `(step, *numbers) -> rate`.
    numbers
        The other arguments of `rate_at`.

    Examples
    --------
    >>> import kernels
    >>> schedule = kernels.schedules.linear(0.5, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    rate_at: Callable[..., float]
    numbers: tuple[Any, ...]

    def __call__(self, step: int) -> float:
        """Give the rate of a step."""
        return self.rate_at(step, *self.numbers)


def constant(rate: float) -> Schedule:
    """Keep the rate as it is."""
    return Schedule(_constant, (to_learning_rate(rate),))


def exponential(rate: float, decay: float, *, steps: int = 1) -> Schedule:
    """Multiply the rate by `decay` in every `steps` steps: rate * decay**(step / steps)."""
    decay = to_real("decay", decay, above=0.0)
    return Schedule(_exponential, (to_learning_rate(rate), decay, to_positive("steps", steps)))


def inverse(rate: float, power: float = 0.5) -> Schedule:
    """Divide the rate by (step + 1)**power, as scikit-learn's `invscaling`."""
    return Schedule(_inverse, (to_learning_rate(rate), to_real("power", power, least=0.0)))


def linear(rate: float, *, steps: int, final: float = 0.0) -> Schedule:
    """Go from `rate` to `final` in a straight line, and stay there after `steps` steps."""
    return Schedule(
        _linear, (to_learning_rate(rate), to_positive("steps", steps), to_learning_rate(final))
    )


def cosine(rate: float, *, steps: int, final: float = 0.0) -> Schedule:
    """Go from `rate` to `final` as half a cosine does, and stay there after `steps` steps.

    final + (rate - final) * (1 + cos(pi * step / steps)) / 2, as torch's CosineAnnealingLR
    (Loshchilov, Hutter 2017, "SGDR", ICLR).
    """
    return Schedule(
        _cosine, (to_learning_rate(rate), to_positive("steps", steps), to_learning_rate(final))
    )


def warmup(schedule: Schedule, *, steps: int) -> Schedule:
    """Rise to the first rate of another schedule in a straight line, and then follow that one.

    The first of the `steps` steps has 1 / steps of that rate, the last has all of it.
    """
    if not callable(schedule):
        raise TypeError(f"expected a schedule to warm up to, got {schedule!r}")
    return Schedule(_warmup, (schedule, to_positive("steps", steps)))


def _constant(_: int, rate: float) -> float:
    return rate


def _exponential(step: int, rate: float, decay: float, steps: int) -> float:
    with localcontext(_CONTEXT):
        return float(Decimal(rate) * Decimal(decay) ** (Decimal(step) / steps))


def _inverse(step: int, rate: float, power: float) -> float:
    with localcontext(_CONTEXT):
        return float(Decimal(rate) / Decimal(step + 1) ** Decimal(power))


def _linear(step: int, rate: float, steps: int, final: float) -> float:
    return rate + (final - rate) * (min(step, steps) / steps)


def _cosine(step: int, rate: float, steps: int, final: float) -> float:
    with localcontext(_CONTEXT):
        cos = _cosine_of(_PI * min(step, steps) / steps)
        return float(Decimal(final) + (Decimal(rate) - Decimal(final)) * (1 + cos) / 2)


def _warmup(step: int, schedule: Schedule, steps: int) -> float:
    return schedule(step - steps) if step >= steps else schedule(0) * ((step + 1) / steps)


def _cosine_of(angle: Decimal) -> Decimal:
    """Sum Taylor's series for an angle in [0, pi]."""
    total = term = Decimal(1)
    i = 0
    while abs(term) > Decimal("1e-45"):
        i += 2
        term *= -angle * angle / (i * (i - 1))
        total += term
    return total

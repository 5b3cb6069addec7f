"""How `train` trains: optimizer, schedule and activation from the options."""

from __future__ import annotations

import math
from typing import Any, cast

from ... import activations, schedules
from ...activations import Activation
from ...optimizers import SGD, Adam
from ...schedules import Schedule
from ..common import CliError, choose
from .settings import Settings

__all__ = ["ADAM_RATE", "TO_AN_END", "activation_of", "check_method", "method_of", "shown_method"]

# The default learning rate of Adam, whatever the data.
ADAM_RATE = 1e-3

# Schedules that depend on how many steps there are in all.
TO_AN_END = ("exponential", "linear", "cosine")

# The part of an exponential's rate that is left at the end, which cannot be 0.
_LEAST = 0.01

_OPTIMIZERS = ("sgd", "adam")
_ACTIVATIONS = tuple(name for name in activations.__all__ if name != "Activation")
_SCHEDULES = ("constant", "inverse", *TO_AN_END)
_DEFAULT = Settings()
_FIELDS = (
    "weights",
    "loss",
    "optimizer",
    "schedule",
    "final",
    "power",
    "warmup",
    "momentum",
    "nesterov",
    "beta1",
    "beta2",
    "epsilon",
    "weight_decay",
    "max_norm",
    "activation",
    "l2",
    "dual",
)

# What an option needs: the other option, and its values.
_NEEDS = {
    "momentum": ("optimizer", ("sgd",)),
    "dual": ("optimizer", ("sgd",)),
    "beta1": ("optimizer", ("adam",)),
    "beta2": ("optimizer", ("adam",)),
    "epsilon": ("optimizer", ("adam",)),
    "final": ("schedule", TO_AN_END),
    "power": ("schedule", ("inverse",)),
}


def check_method(settings: Settings) -> None:
    """Raise `CliError` unless these options are valid, and together."""
    choose("--optimizer", settings.optimizer, _OPTIMIZERS)
    choose("--activation", settings.activation, _ACTIVATIONS)
    choose("--schedule", settings.schedule, _SCHEDULES)
    for name, (other, known) in _NEEDS.items():
        got = getattr(settings, other)
        if getattr(settings, name) != getattr(_DEFAULT, name) and got not in known:
            raise CliError(f"--{name} needs --{other} {' or '.join(known)}, got {got}")
    for name in ("momentum", "beta1", "beta2"):
        value = getattr(settings, name)
        if not 0.0 <= value < 1.0:
            raise CliError(f"expected --{name} of 0 or more and below 1, got {value}")
    if settings.nesterov and settings.momentum == 0.0:
        raise CliError("--nesterov needs --momentum")
    for name in ("weight_decay", "l2", "power"):
        value = getattr(settings, name)
        if not 0.0 <= value < math.inf:
            raise CliError(f"expected {_option(name)} of 0 or more, got {value}")
    for name in ("max_norm", "epsilon"):
        value = getattr(settings, name)
        if value is not None and not 0.0 < value < math.inf:
            raise CliError(f"expected a positive {_option(name)}, got {value}")
    if settings.final is not None:
        above = settings.schedule == "exponential"
        if not 0.0 <= settings.final <= 1.0 or (above and settings.final == 0.0):
            least = "above 0" if above else "from 0"
            raise CliError(f"expected --final {least} to 1, got {settings.final}")


def activation_of(settings: Settings) -> Activation:
    """Find the activation."""
    found: Activation = getattr(activations, settings.activation)
    return found


def method_of(settings: Settings, total: int) -> dict[str, Any]:
    """Make arguments of `kernels.fit` for a run of `total` steps in all."""
    more: dict[str, Any] = {"weight_decay": settings.weight_decay, "max_norm": settings.max_norm}
    rate = _rate_of(settings, total)
    if settings.optimizer == "adam":
        more |= {name: getattr(settings, name) for name in ("beta1", "beta2", "epsilon")}
        optimizer: SGD | Adam = Adam(rate, **more)
    else:
        optimizer = SGD(rate, settings.momentum, settings.nesterov, **more)
    return {
        "optimizer": optimizer,
        "activation": activation_of(settings),
        "l2": settings.l2,
    }


def _rate_of(settings: Settings, total: int) -> float | Schedule:
    """Make the schedule, which falls from the end of the warm-up to the last step."""
    rate: Any = settings.learning_rate
    name, warmup = settings.schedule, settings.warmup
    if name in TO_AN_END:
        usual = _LEAST if name == "exponential" else 0.0
        final = usual if settings.final is None else settings.final
        to_end = {"steps": total - warmup}
        if name == "exponential":
            rate = schedules.exponential(rate, final, **to_end)
        else:
            falling = schedules.linear if name == "linear" else schedules.cosine
            rate = falling(rate, final=rate * final, **to_end)
    elif name == "inverse":
        rate = schedules.inverse(rate, settings.power)
    if warmup == 0:
        return cast(float | Schedule, rate)
    return schedules.warmup(schedules.constant(rate) if name == "constant" else rate, steps=warmup)


def shown_method(settings: Settings) -> str:
    """Say what differs from plain gradient descent with relu; empty if nothing does."""
    return ", ".join(
        name.replace("_", " ") + ("" if value is True else f" {value}")
        for name in _FIELDS
        if name != "loss"
        for value in [getattr(settings, name)]
        if value != getattr(_DEFAULT, name)
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"

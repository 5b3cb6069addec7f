"""How `train` trains: optimizer, schedule and activation, as options name them."""

from __future__ import annotations

import math
from typing import Any

from ... import activations, schedules
from ...activations import Activation
from ...optimizers import SGD, Adam
from ...schedules import Schedule
from ..common import CliError, choose
from .settings import Settings

__all__ = ["ADAM_RATE", "activation_of", "check_method", "method_of", "shown_method"]

# Of Adam, whatever the data.
ADAM_RATE = 1e-3

_OPTIMIZERS = ("sgd", "adam")
_ACTIVATIONS = tuple(name for name in activations.__all__ if name != "Activation")
_SCHEDULES = ("constant", "inverse", "linear", "cosine")
_DEFAULT = Settings()
_FIELDS = ("optimizer", "schedule", "momentum", "weight_decay", "max_norm", "activation", "l2")


def check_method(settings: Settings, engine: str | None) -> None:
    """Raise `CliError` unless these can be had, and together."""
    choose("--optimizer", settings.optimizer, _OPTIMIZERS)
    choose("--activation", settings.activation, _ACTIVATIONS)
    choose("--schedule", settings.schedule, _SCHEDULES)
    if settings.momentum > 0.0 and settings.optimizer != "sgd":
        raise CliError(f"--momentum needs --optimizer sgd, got {settings.optimizer}")
    if not 0.0 <= settings.momentum < 1.0:
        raise CliError(f"expected --momentum of 0 or more and below 1, got {settings.momentum}")
    for name in ("weight_decay", "l2"):
        value = getattr(settings, name)
        if not 0.0 <= value < math.inf:
            option = f"--{name.replace('_', '-')}"
            raise CliError(f"expected {option} of 0 or more, got {value}")
    if settings.max_norm is not None and not 0.0 < settings.max_norm < math.inf:
        raise CliError(f"expected a positive --max-norm, got {settings.max_norm}")
    if engine == "dask":
        for name in _FIELDS:
            if getattr(settings, name) != getattr(_DEFAULT, name):
                raise CliError(
                    f"--engine dask trains by plain gradient descent with relu, got "
                    f"--{name.replace('_', '-')} {getattr(settings, name)}"
                )


def activation_of(settings: Settings) -> Activation:
    """Find the activation."""
    found: Activation = getattr(activations, settings.activation)
    return found


def method_of(settings: Settings, total: int) -> dict[str, Any]:
    """Make arguments of `kernels.fit` for a run of `total` steps in all."""
    rate: Any = settings.learning_rate
    made: dict[str, Schedule] = {
        "inverse": schedules.inverse(rate),
        "linear": schedules.linear(rate, steps=total),
        "cosine": schedules.cosine(rate, steps=total),
    }
    rate = made.get(settings.schedule, rate)
    more: dict[str, Any] = {"weight_decay": settings.weight_decay, "max_norm": settings.max_norm}
    if settings.optimizer == "adam":
        optimizer: SGD | Adam = Adam(rate, **more)
    else:
        optimizer = SGD(rate, settings.momentum, **more)
    return {
        "optimizer": optimizer,
        "activation": activation_of(settings),
        "l2": settings.l2,
    }


def shown_method(settings: Settings) -> str:
    """Say what differs from plain gradient descent with relu; empty if nothing does."""
    return ", ".join(
        f"{name.replace('_', ' ')} {getattr(settings, name)}"
        for name in _FIELDS
        if getattr(settings, name) != getattr(_DEFAULT, name)
    )

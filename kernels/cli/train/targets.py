"""The loss of `train`, its targets and outputs, and a learning rate for it."""

from __future__ import annotations

from typing import Any

from ...losses import (
    Loss,
    logistic_cross_entropy,
    poisson,
    softmax_cross_entropy,
    squared_error,
)
from ..common import CliError, choose
from ..data.sheet import LABELS

__all__ = [
    "LOSSES",
    "LOSS_NAMES",
    "learned",
    "name_of",
    "rate_for",
    "task_for",
    "task_of",
]

LOSSES: dict[str, Loss] = {
    "squared_error": squared_error,
    "softmax_cross_entropy": softmax_cross_entropy,
    "logistic_cross_entropy": logistic_cross_entropy,
    "poisson": poisson,
}

# For people.
LOSS_NAMES: dict[Loss, str] = {
    softmax_cross_entropy: "mean cross-entropy",
    squared_error: "sum of squared errors",
    logistic_cross_entropy: "mean logistic cross-entropy",
    poisson: "mean Poisson loss",
}

_TASKS = {
    "squared_error": "regression",
    "softmax_cross_entropy": "classification",
    "logistic_cross_entropy": "classification",
    "poisson": "regression",
}


def task_for(loss: str | None, task: str | None) -> str | None:
    """Say how to read a target; raise `CliError` unless the loss is known and fits the task."""
    if loss is None:
        return task
    own = _TASKS[choose("--loss", loss, tuple(LOSSES))]
    if task not in (None, own):
        raise CliError(f"--loss {loss} needs --task {own}, got {task}")
    return LABELS if loss == "logistic_cross_entropy" else own


def name_of(loss: Loss) -> str:
    """Name one of `LOSSES`."""
    return next(name for name, own in LOSSES.items() if own is loss)


def task_of(loss: Loss) -> str:
    """Name the task of a loss: "classification" or "regression"."""
    return _TASKS[name_of(loss)]


def learned(loss: str | None, name: str, y: Any, classes: tuple[str, ...]) -> tuple[Loss, int]:
    """Find the loss, and the number of outputs; raise `CliError` if the target does not fit.

    Parameters
    ----------
    loss
        One of `LOSSES`; None for the usual one of the target.
    name
        The file.
    y
        Class indices, or numbers of shape (n, targets), on the host.
    classes
        The label of each class; empty for numbers.
    """
    if loss == "logistic_cross_entropy" and classes:
        if len(classes) != 2:
            raise CliError(f"--loss {loss} needs two classes, got {len(classes)} in {name}")
        return logistic_cross_entropy, 1
    if loss == "logistic_cross_entropy":
        wrong = y[(y != 0) & (y != 1)]
        if wrong.size:
            raise CliError(f"--loss {loss} needs labels 0 and 1, got {wrong[0]:g} in {name}")
    if loss == "poisson" and y.min() < 0:
        raise CliError(f"--loss {loss} needs counts, 0 or more, got {y.min():g} in {name}")
    usual = softmax_cross_entropy if classes else squared_error
    return usual if loss is None else LOSSES[loss], len(classes) or y.shape[1]


def rate_for(loss: Loss, y: Any, widths: tuple[int, ...], batch_size: int, weight: float) -> float:
    """Choose a learning rate for gradient descent.

    The stiffest direction of a network of He's initialisation grows with its widest layer, so the
    rate is inversely proportional to that; the squared error is a sum, so it is also divided by the
    batch size and the mean weight of a sample, and the Poisson loss is as stiff as counts are
    large.
    """
    widest = max(*widths, 50)
    if loss is squared_error:
        return 0.5 / widest / batch_size / weight
    if loss is poisson:
        return 0.5 / widest / max(1.0, float(y.max()))
    return 5.0 / widest

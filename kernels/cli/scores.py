"""Scores of predictions."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["SCORES", "score", "shown_scores"]

# How each is called and formatted in reports.
SCORES = {
    "accuracy": ("accuracy", ".2%"),
    "r2": ("R^2", ".4f"),
    "rmse": ("root mean squared error", ".4g"),
}


def score(predicted: Any, true: Any) -> dict[str, float]:
    """Compare predictions with the truth, NumPy arrays of one shape.

    Floating-point numbers, of shape (n, targets), have a root mean squared error in their own unit,
    and the mean of the targets' R^2 unless a target is constant. All else has an accuracy.

    Examples
    --------
    >>> import numpy as np
    >>> score(np.asarray(["a", "b"]), np.asarray(["a", "a"]))
    {'accuracy': 0.5}
    >>> true = np.asarray([[0.0, 10.0], [2.0, 30.0]])
    >>> score(true + np.asarray([[1.0, 0.0], [1.0, 0.0]]), true)
    {'r2': 0.5, 'rmse': 0.7071067811865476}
    >>> score(np.zeros((2, 1)), np.ones((2, 1)))
    {'rmse': 1.0}
    """
    import numpy as np

    if true.dtype.kind != "f":
        return {"accuracy": float(np.mean(predicted == true))}
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    # Scaled to near 1, since squares of very large or small numbers are infinite or 0.
    exponent = math.frexp(max(np.abs(predicted).max(), np.abs(true).max()))[1]
    predicted, true = np.ldexp(predicted, -exponent), np.ldexp(true, -exponent)
    errors = np.mean((predicted - true) ** 2, axis=0)
    spread = np.mean((true - true.mean(axis=0)) ** 2, axis=0)
    r2 = {"r2": float(np.mean(1.0 - errors / spread))} if (spread > 0.0).all() else {}
    return r2 | {"rmse": math.ldexp(math.sqrt(np.mean(errors)), exponent)}


def shown_scores(scores: dict[str, float]) -> list[str]:
    """Write those of `SCORES` that are there."""
    return [
        f"{label} {scores[name]:{digits}}"
        for name, (label, digits) in SCORES.items()
        if name in scores
    ]

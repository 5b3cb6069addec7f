"""Scores of held-out samples. Sums are rounded once, as scores decide which weights are kept."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np

__all__ = ["accuracy", "r2"]


def accuracy(y: Any, decision: Any, weight: Any = None) -> float:
    """Compute the share of samples with all outputs right, as `accuracy_score`.

    Parameters
    ----------
    y, decision
        NumPy arrays of booleans, shape (n, n_out).
    weight
        Shape (n,); all 1 if None.
    """
    weight = np.ones(y.shape[0]) if weight is None else weight
    return fsum(weight[(y == decision).all(axis=1)]) / fsum(weight)


def r2(y: Any, prediction: Any, weight: Any = None) -> float:
    """Compute the mean of the coefficients of determination of all outputs, as `r2_score`.

    Parameters
    ----------
    y, prediction
        NumPy arrays of numbers, shape (n, n_out).
    weight
        Shape (n,); all 1 if None.
    """
    weight = np.ones(y.shape[0]) if weight is None else weight.astype(np.float64)
    y, prediction = y.astype(np.float64), prediction.astype(np.float64)
    scores = []
    for own, predicted in zip(y.T, prediction.T, strict=True):
        mean = fsum(weight * own) / fsum(weight)
        error = fsum(weight * (own - predicted) ** 2)
        spread = fsum(weight * (own - mean) ** 2)
        scores.append(1.0 - error / spread if spread > 0.0 else float(error == 0.0))
    return fsum(scores) / len(scores)

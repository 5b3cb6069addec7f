"""A model's preparation as functions of arrays of any library, to trace into a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from array_api_compat import array_namespace

from .._typing import Array
from ..numerics import Numerics
from .train.model import Model

__all__ = ["after_of", "before_of"]

# Larger exponents make powers of two that are not normal numbers.
_MOST = 1000


def before_of(model: Model) -> Callable[[Array], Array] | None:
    """Make a function of the columns, float64 and NaN where empty, with the bits of `features`.

    None if a column is text, or the network takes its input as it is.
    """
    import numpy as np

    columns = () if model.preparation is None else model.preparation.columns
    exponents = np.frexp(np.asarray([column.deviation for column in columns]))[1]
    if not columns or any(c.kind == "category" for c in columns) or max(abs(exponents)) > _MOST:
        return None
    fill, mean, deviation = (
        np.asarray([getattr(column, name) for column in columns])
        for name in ("fill", "mean", "deviation")
    )
    # By powers of two, as `scaled` does.
    unit = np.ldexp(1.0, -exponents)
    mean, deviation = mean * unit, deviation * unit

    def before(x: Array) -> Array:
        xp: Any = array_namespace(x)
        x = xp.where(xp.isnan(x), xp.asarray(fill), x)
        scaled = (x * xp.asarray(unit) - xp.asarray(mean)) / xp.asarray(deviation)
        return cast(Array, xp.astype(scaled, getattr(xp, model.dtype)))

    return before


def after_of(model: Model, numerics: Numerics) -> Callable[[Array], Array] | None:
    """Make a function that returns numbers to their own unit; None for classes."""
    import numpy as np

    target = None if model.preparation is None else model.preparation.target
    if target is None or target.classes or model.loss == "logistic_cross_entropy":
        return None
    counts, outputs = model.loss == "poisson", model.layers[-1].weight.shape[1]

    def after(output: Array) -> Array:
        xp: Any = array_namespace(output)
        expected = output
        if counts:
            # In one dimension, since ndonnx would broadcast a single column.
            expected = numerics.exp(xp.reshape(output, (-1,)))
            expected = cast(Array, xp.reshape(expected, (-1, outputs)))
        if target.mean:
            deviation, mean = (np.asarray(each) for each in (target.deviation, target.mean))
            expected = xp.astype(expected, xp.float64) * xp.asarray(deviation) + xp.asarray(mean)
        return expected

    return after

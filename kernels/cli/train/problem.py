"""A user's own file made into a problem: features, a target, and how to train on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..._typing import Array
from ...layer import init
from ...losses import squared_error
from ...reference.problems import Problem, split
from ..data.preparation import (
    Preparation,
    Target,
    features,
    filled,
    learn,
    lines,
    scale_of,
    scaled,
    width,
)
from ..data.sheet import Sheet, Table
from .targets import learned, rate_for

__all__ = ["Prepared", "make_problem"]


class Prepared(NamedTuple):
    """A problem of a user's own data.

    Attributes
    ----------
    problem
        To train on.
    preparation
        What was done to the columns; None if the data were prepared already.
    lines
        The same in words, and what was done to cells and rows.
    """

    problem: Problem
    preparation: Preparation | None
    lines: tuple[str, ...]


def make_problem(
    table: Table,
    *,
    asarray: Callable[..., Array],
    adopt: Callable[..., Array] | None = None,
    dtype: str,
    hidden: tuple[int, ...] = (100,),
    batch_size: int | None = None,
    seed: int = 0,
    loss: str | None = None,
    rows: tuple[Any, Any] | None = None,
) -> Prepared:
    """Prepare the columns, hold a fifth of the rows out, and choose a learning rate.

    Data that are prepared already are all used for training, by default in one batch.

    How to prepare columns is learned from the training rows. Counts and labels stay as they are.

    Parameters
    ----------
    table
        The data.
    asarray
        (host, dtype) -> array: a backend's.
    adopt
        Like `asarray`, but it may keep the memory it is given; if None, `asarray`.
    dtype
        "float32" or "float64".
    hidden
        Units of the hidden layers.
    batch_size
        Samples in a batch; if None 32, or all of prepared data.
    seed
        Decides the split and the initial weights.
    loss
        One of `LOSSES`; if None that of the target.
    rows
        The training rows and those held out; None holds a fifth out.
    """
    sheet = table.x
    if not isinstance(sheet, Sheet) or table.target is None:
        problem = _prepared_problem(table, asarray, dtype, hidden, batch_size, seed, loss)
        return Prepared(problem, None, ())
    own, n_out = learned(loss, table.name, table.y, table.classes)
    train, test = rows or split(len(table.y), seed=seed)
    y, target = table.y, Target(table.target, table.classes)
    if own is squared_error and not table.classes:
        y, target = _standardised(table, target, train, dtype)
    preparation = learn(
        sheet, train, target, dropped=table.dropped, whole=sheet.path.suffix.lower() == ".npz"
    )
    x, held_out = (
        (adopt or asarray)(features(preparation, sheet, dtype, rows=rows, strict=False), dtype)
        for rows in (train, test)
    )
    y_dtype = "int32" if table.classes else dtype
    batch_size = min(32 if batch_size is None else batch_size, len(train))
    weight, mean_weight = None, 1.0
    if table.weight is not None:
        weight = asarray(_weights_in(table, train, dtype), dtype)
        mean_weight = math.fsum(table.weight[train].tolist()) / len(train)
    widths = (width(preparation), *hidden)
    problem = Problem(
        name=table.name,
        x=x,
        y=asarray(y[train], y_dtype),
        layers=init((*widths, n_out), like=x, seed=seed),
        loss=own,
        learning_rate=rate_for(own, y, widths, batch_size, mean_weight),
        steps=None,
        epochs=100,
        batch_size=batch_size,
        held_out=(held_out, asarray(y[test], y_dtype)),
        sample_weight=weight,
    )
    return Prepared(
        problem, preparation, (*lines(preparation), *filled(preparation, sheet), *table.notes)
    )


def _standardised(table: Table, target: Target, train: Any, dtype: str) -> tuple[Any, Target]:
    """Standardise the target."""
    import numpy as np

    scales = [scale_of(column[train]) for column in table.y.T]
    y = np.stack(
        [scaled(column, *scale) for column, scale in zip(table.y.T, scales, strict=True)], axis=1
    )
    largest = np.max(np.abs(y))
    if largest > np.finfo(dtype).max:
        raise ValueError(
            f"expected standardised numbers that {dtype} holds in {table.name}, got "
            f"{largest:.4g} deviations from the mean"
        )
    mean, deviation = zip(*scales, strict=True)
    return y, target._replace(mean=mean, deviation=deviation)


def _weights_in(table: Table, train: Any, dtype: str) -> Any:
    """Take the weights of the training samples; raise ValueError unless one of them counts."""
    import numpy as np

    with np.errstate(over="ignore"):
        weight = table.weight[train].astype(dtype)
    if not 0.0 < weight.max() < np.inf:
        raise ValueError(
            f"expected weights that are finite as {dtype}, and one above 0 among the samples "
            f"trained on, in {table.name}, got {weight.max():g} as the largest"
        )
    return weight


def _prepared_problem(
    table: Table,
    asarray: Callable[..., Array],
    dtype: str,
    hidden: tuple[int, ...],
    batch_size: int | None,
    seed: int,
    loss: str | None,
) -> Problem:
    n, n_in = table.x.shape
    x = asarray(table.x, dtype)
    own, n_out = learned(loss, table.name, table.y, table.classes)
    return Problem(
        name=table.name,
        x=x,
        y=asarray(table.y, "int32" if table.classes else dtype),
        layers=init((n_in, *hidden, n_out), like=asarray([0.0], dtype), seed=seed),
        loss=own,
        learning_rate=rate_for(own, table.y, (n_in, *hidden), batch_size or n, 1.0),
        steps=None,
        epochs=100,
        batch_size=batch_size,
        held_out=None,
    )

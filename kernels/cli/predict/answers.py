"""What a model predicts for rows: labels, probabilities or numbers, in columns."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from array_api_compat import array_namespace

from ..._typing import Array
from ...losses import expectation, logistic_cross_entropy, poisson, softmax_cross_entropy
from ...network import forward
from ...numerics import Numerics
from ..train.model import Model
from ..train.targets import LOSSES

__all__ = ["Answers", "answer_of", "answers", "classes_of"]


class Answers(NamedTuple):
    """Columns with a value for each row.

    Attributes
    ----------
    names
        Of the columns.
    columns
        Lists of text, or NumPy arrays of numbers.
    """

    names: list[str]
    columns: list[Any]


def answer_of(model: Model, x: Array, *, proba: bool, numerics: Numerics) -> Array:
    """Compute predictions for rows: probabilities with `proba`, else outputs or expected counts.

    Parameters
    ----------
    model
        Its network has arrays of the library of x.
    x
        Prepared rows, shape (n, n_in).
    proba
        Whether probabilities are wanted, of classes or labels.
    numerics
        What products, sums and exponentials are.

    Returns
    -------
    Shape (n, n_out), or (n, 2) for the probabilities of two classes by one output.
    """
    loss = LOSSES[cast(str, model.loss)]
    output = forward(model.layers, x, activation=model.function, numerics=numerics)[-1]
    if not proba and loss is not poisson:
        # The largest output has the largest probability, too.
        return output
    expected = expectation(loss, output, numerics=numerics)
    if loss is logistic_cross_entropy and classes_of(model):
        xp = array_namespace(expected)
        other = numerics.subtract(xp.ones_like(expected), expected)
        return cast(Array, xp.concat([other, expected], axis=1))
    return expected


def answers(model: Model, found: Any, *, proba: bool) -> Answers:
    """Make columns of what `answer_of` returned, on the host."""
    import numpy as np

    loss, classes, names = LOSSES[cast(str, model.loss)], classes_of(model), names_of(model)
    if proba:
        return Answers(list(classes) or names, list(found.T))
    if loss is softmax_cross_entropy:
        return Answers(names, [[classes[i] for i in found.argmax(axis=1)]])
    if loss is logistic_cross_entropy:
        # A logit above 0 says that the label is present, or that it is the second of two classes.
        told = (found.T > 0).astype(np.int64)
        if classes:
            return Answers(names, [[classes[i] for i in column] for column in told])
        return Answers(names, list(told))
    target = None if model.preparation is None else model.preparation.target
    if target is not None and target.mean:
        # Each operation rounds as IEEE 754 says, on every machine.
        found = found.astype(np.float64) * np.asarray(target.deviation) + np.asarray(target.mean)
    return Answers(names, list(found.T))


def classes_of(model: Model) -> tuple[str, ...]:
    """Name the classes of a model of classes; without a preparation they are indices."""
    loss, outputs = LOSSES[cast(str, model.loss)], model.layers[-1].weight.shape[1]
    if model.preparation is not None:
        return model.preparation.target.classes
    return tuple(map(str, range(outputs))) if loss is softmax_cross_entropy else ()


def names_of(model: Model) -> list[str]:
    """Name the predicted columns: like the target, with a number if there are several."""
    name = "prediction" if model.preparation is None else model.preparation.target.name
    outputs = model.layers[-1].weight.shape[1]
    if classes_of(model) or outputs == 1:
        return [name]
    return [f"{name}_{i}" for i in range(outputs)]

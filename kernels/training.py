"""The training loop: steps, minibatches, progress and the history of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

from array_api_compat import array_namespace

from ._checks import (
    check_hashable,
    check_input,
    check_labels,
    check_layers,
    check_samples,
    to_integer,
    to_learning_rate,
    to_signed,
)
from ._host import placement
from ._typing import Array
from .losses import Loss, checked, softmax_cross_entropy, squared_error, unchecked
from .network import Layer, train
from .numerics import NATIVE, Exact, Numerics
from .numerics import check_compiler as try_compiler
from .random import numbers_of, shuffle, to_seed

__all__ = ["Fit", "batches", "fit", "steps_of"]

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]

# Epochs from which on their last, smaller batch is worth a compilation that takes many seconds.
_OFTEN = 100

# The streams below this are those of the layers' initial weights.
_FIRST_EPOCH_STREAM = 2**31


class Fit(NamedTuple):
    """What training returns.

    Attributes
    ----------
    layers
        The trained network.
    losses
        The loss before each step, shape (steps,), on the device.
    """

    layers: tuple[Layer, ...]
    losses: Array


def fit(
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    *,
    learning_rate: float,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    start: int = 0,
    loss: Loss = squared_error,
    numerics: Numerics = NATIVE,
    compile: Compile | None = None,
    check_compiler: bool = True,
    progress: Callable[[int, Array], object] | None = None,
) -> Fit:
    """Train by (stochastic) gradient descent.

    Each step is `step` on one batch. Without `batch_size` every batch is all of x and y; with it
    every epoch takes the samples in a new order, which depends on `seed` and the epoch alone and
    is the same on every library, in batches of `batch_size`, the last of which may be smaller.

    Parameters
    ----------
    layers
        The network to start from; it is left as it was.
    x, y
        All inputs, shape (n, n_in), and the targets that `loss` takes, n of them.
    learning_rate
        A finite real number, of Python or a NumPy scalar.
    steps, epochs
        How many batches, or how many times all samples; exactly one of the two.
    batch_size
        Samples in a batch; all of them if None.
    seed
        Of the order of the samples, in [0, 2**64).
    start
        How many steps were taken before: a second `fit` that starts where a first ended takes the
        batches that one longer `fit` would have taken.
    loss
        `squared_error`, `softmax_cross_entropy`, or another function
        `(prediction, target, *, numerics) -> (value, gradient)`.
    numerics
        What products and sums are.
    compile
        A compiler of pure functions, such as jax.jit or a backend's `compile`. What it makes of a
        step is kept for the next call with the same compiler, loss and numerics.
        If it has a method `repeat`, as those of the backends jax and torch:cuda, single operations
        are slow, and all of an epoch is compiled: its order, its batches and, without progress, its
        steps as one call of what `repeat` makes of a function
        `(state, *constants) -> (state, loss)`: `(count, state, *constants) -> (state, losses)`.
        If it has an attribute `costly` that is true, as that of the backend torch:cpu, the smaller
        batch that ends an epoch is computed uncompiled, unless it comes a hundred times or more.
    check_compiler
        Whether exact numerics try the compiler first, once in a process, with
        `kernels.numerics.check_compiler`: 0.1 s with JAX, 1 s with torch where it has cached
        nothing.
    progress
        Called after each step with the number of steps done and the loss before the last of them,
        as a 0-d array on the device. If it raises StopIteration, training ends with that step.

    Raises
    ------
    ValueError
        If shapes or devices do not fit, labels are out of range, not exactly one of steps and
        epochs is given, or a number is out of range.
    TypeError
        If libraries or dtypes differ; with `compile`, if it or the loss cannot be hashed.
    RuntimeError
        If the compiler changes bits of exact numerics.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> x = np.asarray([[1.0], [2.0]])
    >>> layers = kernels.init((1, 1), like=x, bias=False)
    >>> layers, losses = kernels.fit(layers, x, 3.0 * x, learning_rate=0.1, steps=50)
    >>> round(float(layers[0].weight[0, 0]), 6)
    3.0
    """
    check_layers(layers)
    check_input(layers, x)
    check_samples("y", y, "x", x)
    learning_rate = to_learning_rate(learning_rate)
    xp = array_namespace(x)
    total = steps_of(x.shape[0], steps=steps, epochs=epochs, batch_size=batch_size)
    if batch_size is not None:
        batch_size = to_integer("batch_size", batch_size)
    seed, start = to_seed(seed), to_integer("start", start)
    if start < 0:
        raise ValueError(f"expected start of 0 or more, got {start}")
    if loss is softmax_cross_entropy and xp.isdtype(y.dtype, "integral"):
        check_labels(y, layers[-1].weight.shape[1])
        # torch takes no samples of most unsigned integers.
        y = to_signed(y) if "uint" in str(y.dtype) else y

    rate: Array | float = learning_rate
    if compile is not None:
        for name, value in (("compile", compile), ("loss", loss), ("numerics", numerics)):
            check_hashable(name, value)
        if check_compiler and isinstance(numerics, Exact):
            _tried(compile, xp, placement(x).get("device"))
        rate = numerics.factor(learning_rate, like=layers[0].weight)
    trained = tuple(layers)
    settings: dict[str, Any] = {"loss": checked(loss), "numerics": numerics}
    # The one input that never changes: all samples as one batch.
    operands = (numerics.left(x), numerics.left(x.T)) if batch_size is None else None
    losses: list[Array] = []
    repeat: Any = getattr(compile, "repeat", None)
    if repeat is not None and progress is None:
        if batch_size is None:
            train_often = _compiled(repeat, train, **settings)
            return Fit(*train_often(total, trained, x, y, rate, operands))
        for run in _runs(x, total, batch_size, seed, start, compile):
            train_often = _compiled(repeat, _train_on_rows, size=run.size, **settings)
            state = trained, run.first
            (trained, _), values = train_often(run.steps, state, x, y, run.order, rate)
            losses.append(values)
        return Fit(trained, xp.concat(losses))
    train_batch: Callable[..., Any] = partial(train, **settings)
    train_last = train_batch
    size = min(batch_size or x.shape[0], x.shape[0])
    if compile is not None:
        train_batch = _compiled(compile, train, **settings)
        seldom = total * size < _OFTEN * x.shape[0]
        if not (seldom and getattr(compile, "costly", False)):
            train_last = train_batch
    for x_batch, y_batch in batches(x, y, total, batch_size, seed, start=start, compile=compile):
        train_now = train_batch if x_batch.shape[0] == size else train_last
        trained, value = train_now(trained, x_batch, y_batch, rate, operands)
        losses.append(value)
        if progress is not None:
            try:
                progress(len(losses), value)
            except StopIteration:
                break
        if compile is None and len(losses) == 1:
            settings["loss"] = unchecked(loss)
            train_batch = train_last = partial(train, **settings)
    return Fit(trained, xp.stack(losses))


def _train_on_rows(
    state: tuple[Sequence[Layer], Any],
    x: Array,
    y: Array,
    order: Array,
    rate: Array,
    *,
    size: int,
    **settings: Any,
) -> tuple[tuple[tuple[Layer, ...], Any], Array]:
    """Take one step on the next `size` samples of an order, and move on behind them."""
    layers, first = state
    x_batch, y_batch = _rows(x, y, order, first, size=size)
    layers, value = train(layers, x_batch, y_batch, rate, None, **settings)
    return (layers, first + size), value


def _rows(x: Array, y: Array, order: Array, first: Any, *, size: int) -> tuple[Array, Array]:
    """Take `size` samples of an order from the place `first` on, which may be an array."""
    xp = array_namespace(x)
    places = first + xp.arange(size, dtype=order.dtype, **placement(order))
    return _take(x, y, xp.take(order, places, axis=0))


def _take(x: Array, y: Array, chosen: Array) -> tuple[Array, Array]:
    xp = array_namespace(x)
    return xp.take(x, chosen, axis=0), xp.take(y, chosen, axis=0)


@lru_cache
def _tried(compile: Compile, xp: Any, device: Any) -> None:
    """Try a compiler once for each library and device."""
    place = {} if device is None else {"device": device}
    try_compiler(compile, like=xp.zeros((0,), **place))


# So that a second fit like the first has nothing to compile; compilers keep what they made of it.
@lru_cache(maxsize=32)
def _compiled(
    compile: Compile, function: Callable[..., Any], **settings: Any
) -> Callable[..., Any]:
    return compile(partial(function, **settings))


def steps_of(n: int, *, steps: int | None, epochs: int | None, batch_size: int | None) -> int:
    """Count the batches of a `fit` over n samples, whose arguments the others are.

    Raises
    ------
    ValueError
        If not exactly one of steps and epochs is given, or a number is not positive.
    TypeError
        If a number is not an integer.

    Examples
    --------
    >>> steps_of(10, steps=None, epochs=3, batch_size=4)
    9
    """
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"expected exactly one of steps and epochs, got steps={steps} and epochs={epochs}"
        )
    steps, epochs, batch_size = (
        None if number is None else _positive(name, number)
        for name, number in (("steps", steps), ("epochs", epochs), ("batch_size", batch_size))
    )
    if steps is not None:
        return steps
    assert epochs is not None
    return epochs * (1 if batch_size is None else -(-n // batch_size))


def _positive(name: str, number: int) -> int:
    number = to_integer(name, number)
    if number < 1:
        raise ValueError(f"expected {name} of 1 or more, got {number}")
    return number


def batches(
    x: Array,
    y: Array,
    steps: int,
    batch_size: int | None,
    seed: int,
    *,
    start: int = 0,
    compile: Compile | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Make the batches of a `fit`, whose arguments these are."""
    if batch_size is None:
        for _ in range(steps):
            yield x, y
        return
    for run in _runs(x, steps, batch_size, seed, start, compile):
        for i in range(run.steps):
            first = run.first + i * run.size
            if compile is not None and hasattr(compile, "repeat"):
                yield _compiled(compile, _rows, size=run.size)(x, y, run.order, first)
            else:
                yield _take(x, y, run.order[first : first + run.size])


class _Run(NamedTuple):
    """Batches of one size, one after the other in the order of an epoch."""

    order: Array
    first: int
    size: int
    steps: int


def _runs(
    x: Array, steps: int, batch_size: int, seed: int, start: int, compile: Compile | None
) -> Iterator[_Run]:
    """Divide steps into runs: those of an epoch, and its last if that has fewer samples."""
    n = x.shape[0]
    size = min(batch_size, n)
    full, rest = divmod(n, size)
    in_epoch = full + (rest > 0)
    end = start + steps
    while start < end:
        epoch, batch = divmod(start, in_epoch)
        order = _order(n, seed, epoch, x, compile)
        now = min(full - batch, end - start)
        if now > 0:
            yield _Run(order, batch * size, size, now)
            start += now
        if rest > 0 and start < end:
            yield _Run(order, full * size, rest, 1)
            start += 1


def _order(n: int, seed: int, epoch: int, like: Array, compile: Compile | None) -> Array:
    """Draw the order of an epoch."""
    numbers: Any = numbers_of(seed, _FIRST_EPOCH_STREAM + epoch)
    if compile is not None and hasattr(compile, "repeat"):
        xp = array_namespace(like)
        numbers = xp.asarray(list(numbers), dtype=xp.int32, **placement(like))
        return cast(Array, _compiled(compile, shuffle, n=n)(numbers))
    order = shuffle(numbers, n=n, like=like)
    # Lazy libraries draw it once, and not again for each batch.
    return order if compile is None else cast(Array, _compiled(compile, _unchanged)(order))


def _unchanged(a: Array) -> Array:
    return a

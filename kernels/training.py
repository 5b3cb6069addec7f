"""The training loop: steps or runs of them, progress and the history of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ._checks import check_hashable, check_labels, check_samples, to_learning_rate, to_signed
from ._compiled import compiled, try_compiler
from ._host import placement
from ._network_checks import check_input, check_layers
from ._typing import Array, Compiler, Repeater
from .activations import Activation, check_activation, relu
from .layer import Layer
from .losses import Loss, checked, softmax_cross_entropy, squared_error, unchecked
from .minibatches import batches_of, take
from .network import unchecked_step
from .numerics import NATIVE, Exact, Numerics

__all__ = ["Fit", "fit"]

# Epochs whose last, smaller batch is not worth a compilation that takes many seconds.
_RARE = 100


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
    activation: Activation = relu,
    numerics: Numerics = NATIVE,
    compile: Compiler | None = None,
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
    activation
        One of `kernels.activations`.
    numerics
        What products and sums are.
    compile
        A compiler of pure functions, such as jax.jit or a backend's `compile`. What it makes of a
        step is kept for the next call with the same compiler, loss, activation and numerics.
        If it has a method `repeat`, as those of the backends jax and torch:cuda, single operations
        are slow, and all of an epoch is compiled: its order, its batches and, without progress, its
        steps as one call of what `repeat` makes of a function
        `(state, *constants) -> (state, loss)`: `(count, state, *constants) -> (state, losses)`.
        If it has an attribute `costly` that is true, as that of the backend torch:cpu, the smaller
        batch that ends each of the first hundred epochs is computed uncompiled.
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
    check_activation(activation)
    learning_rate = to_learning_rate(learning_rate)
    xp = array_namespace(x)
    batches = batches_of(
        x.shape[0], steps=steps, epochs=epochs, batch_size=batch_size, seed=seed, start=start
    )
    if loss is softmax_cross_entropy and xp.isdtype(y.dtype, "integral"):
        check_labels(y, layers[-1].weight.shape[1])
        # torch takes no samples of most unsigned integers.
        y = to_signed(y) if "uint" in str(y.dtype) else y
    rate: Array | float = learning_rate
    if compile is not None:
        for name, value in (("compile", compile), ("loss", loss), ("numerics", numerics)):
            check_hashable(name, value)
        if check_compiler and isinstance(numerics, Exact):
            try_compiler(compile, xp, placement(x).get("device"))
        rate = numerics.factor(learning_rate, like=layers[0].weight)
    # The one input that never changes: all samples as one batch.
    operands = (numerics.left(x), numerics.left(x.T)) if batch_size is None else None
    fixed: dict[str, Any] = {"activation": activation, "numerics": numerics}
    settings: dict[str, Any] = {"loss": checked(loss), **fixed}
    trained, losses = tuple(layers), []

    if progress is None and isinstance(compile, Repeater):
        for run in batches.runs(x, compile):
            take_steps = compiled(compile.repeat, _step_in_run, size=run.size, **settings)
            state = trained, run.first
            (trained, _), values = take_steps(run.steps, state, x, y, run.order, rate, operands)
            losses.append(values)
        return Fit(trained, xp.concat(losses))

    take_step: Callable[..., Any] = partial(unchecked_step, **settings)
    take_rare, size = take_step, batches.size or batches.n
    if compile is not None:
        take_step = compiled(compile, unchecked_step, **settings)
    # Counted from the first of all steps, so that a run in parts computes what one in one does.
    rare = _RARE * -(-batches.n // size) if getattr(compile, "costly", False) else 0
    for step, (x_batch, y_batch) in enumerate(batches.of(x, y, compile), batches.start):
        take_now = take_rare if step < rare and x_batch.shape[0] < size else take_step
        trained, value = take_now(trained, x_batch, y_batch, rate, operands)
        losses.append(value)
        if progress is not None:
            try:
                progress(len(losses), value)
            except StopIteration:
                break
        if compile is None and len(losses) == 1:
            # Other batches are like the first, and need no checks.
            take_step = partial(unchecked_step, loss=unchecked(loss), **fixed)
    return Fit(trained, xp.stack(losses))


def _step_in_run(
    state: tuple[Sequence[Layer], Any],
    x: Array,
    y: Array,
    order: Array | None,
    rate: Array,
    operands: Any,
    *,
    size: int,
    **settings: Any,
) -> tuple[tuple[tuple[Layer, ...], Any], Array]:
    """Take one step on the next `size` samples of an order, and move on behind them."""
    layers, first = state
    if order is not None:
        x, y = take(x, y, order, first, size=size)
    layers, value = unchecked_step(layers, x, y, rate, operands, **settings)
    return (layers, first + size), value

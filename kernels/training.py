"""The training loop: steps or runs of them, progress and the history of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from array_api_compat import array_namespace

from ._checks import (
    check_function,
    check_hashable,
    check_numerics,
    check_sample_weight,
    check_samples,
    to_integer,
    to_real,
    to_signed,
)
from ._compiled import compiled, repeats, try_compiler
from ._host import placement
from ._network_checks import check_input, check_layers
from ._optimized import Scalars, optimized_step, row
from ._typing import Array, Compiler
from .activations import Activation, check_activation, relu
from .dual import Samples, differentiated, parts, squares_of, use_dual
from .layer import Layer
from .losses import (
    Loss,
    check_targets,
    checked,
    logistic_cross_entropy,
    softmax_cross_entropy,
    squared_error,
    unchecked,
    weighted,
)
from .minibatches import Batches, batches_of, take
from .network import unchecked_step
from .numerics import NATIVE, Exact, Numerics
from .optimizers import SGD, Adam, AdamState, SGDState, check_optimizer, check_state, rule_of
from .schedules import Schedule

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
    state
        The optimizer's, with which another `fit` goes on as though there had been one.
    """

    layers: tuple[Layer, ...]
    losses: Array
    state: SGDState | AdamState


def fit(
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    *,
    optimizer: SGD | Adam | None = None,
    learning_rate: float | Schedule | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    start: int = 0,
    state: SGDState | AdamState | None = None,
    loss: Loss = squared_error,
    activation: Activation = relu,
    l2: float = 0.0,
    sample_weight: Array | None = None,
    dual: bool | Literal["auto"] = "auto",
    numerics: Numerics = NATIVE,
    compile: Compiler | None = None,
    check_compiler: bool = True,
    progress: Callable[[int, Array], object] | None = None,
) -> Fit:
    """Train by (stochastic) gradient descent, or another optimizer.

    Each step is `step` on one batch, or what an optimizer makes of its gradients. Without
    `batch_size` every batch is all of x and y; with it every epoch takes the samples in a new
    order, which depends on `seed` and the epoch alone and is the same on every library, in batches
    of `batch_size`, the last of which may be smaller.

    Parameters
    ----------
    layers
        The network to start from; it is left as it was.
    x, y
        All inputs, shape (n, n_in), and the targets that `loss` takes, n of them.
    optimizer, learning_rate
        `kernels.SGD(...)`, `kernels.Adam(...)`, or a learning rate alone: that of `kernels.SGD`, a
        finite number of 0 or more, of Python or a NumPy scalar, or one of `kernels.schedules`.
    steps, epochs
        How many batches, or how many times all samples; exactly one of the two.
    batch_size
        Samples in a batch; all of them if None.
    seed
        Of the order of the samples, in [0, 2**64).
    shuffle
        Whether every epoch takes the samples in a new order, or in the one that they have.
    start
        How many steps were taken before: a second `fit` that starts where a first ended takes the
        batches that one longer `fit` would have taken.
    state
        Of the optimizer, from the result of that first `fit`: then both end on the bits of the
        longer one, unless it is trained in dual form. It counts the steps for schedules and
        corrections of bias.
    loss
        `squared_error`, `softmax_cross_entropy`, `logistic_cross_entropy`, `poisson`, or another
        function `(prediction, target, *, numerics) -> (value, gradient)`.
    activation
        One of `kernels.activations`.
    l2
        l2 / 2 times the sum of the squared weights, not biases, is added to the loss.
    sample_weight
        How much each sample counts, of shape (n,) and the dtype of x; an integer is as good as so
        many copies of the sample. A loss of your own gets it as an argument of that name.
    dual
        Whether the first layer is trained in the space of the samples, of which a step of n samples
        takes n * n numbers for each unit instead of 2 * n * n_in: the same algebra, rounded
        otherwise, as docs/dual.md says. It needs `kernels.SGD`, and one worker.
        With "auto" it is if both are so, numerics are native, and all products together take
        at most half as many multiplications. With exact numerics it is only if asked for, and then
        has bits of its own, the same on every library; `start` must then be a multiple of 256.
    numerics
        What products and sums are.
    compile
        A compiler of pure functions, such as jax.jit or a backend's `compile`. What it makes of a
        step is kept for the next call with the same compiler, loss, activation, numerics, l2 and
        optimizer but for its learning rate. Some, such as jax.jit, compile in what a function of
        your own reads beside its arguments: with another number it must be another function.
        If it has a method `repeat`, as those of the backends jax and torch:cuda, single operations
        are slow, and all of an epoch is compiled: its order, its batches and, without progress, its
        steps as one call of what `repeat` makes of a function
        `(state, *constants) -> (state, loss)`: `(count, state, *constants) -> (state, losses)`.
        If it has an attribute `costly` that is true, as that of the backend torch:cpu, the smaller
        batch that ends each of the first hundred epochs is computed uncompiled.
        If it has an attribute `splits` that is true, as those of workers of JAX and Dask, it
        divides each batch, and takes steps of the primal form alone.
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
        If shapes or devices do not fit, targets or weights are out of range, not exactly one of
        steps and epochs or of optimizer and learning_rate is given, a number is out of range,
        `start` goes on with an optimizer that has a state, which is not given, or the dual form is
        asked for where it cannot be.
    TypeError
        If libraries or dtypes differ; with `compile`, if it or the loss cannot be hashed; if the
        state is another optimizer's.
    RuntimeError
        If the compiler changes bits of exact numerics.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> x = np.asarray([[1.0], [2.0]])
    >>> layers = kernels.init((1, 1), like=x, bias=False)
    >>> layers, losses, _ = kernels.fit(layers, x, 3.0 * x, learning_rate=0.1, steps=50)
    >>> round(float(layers[0].weight[0, 0]), 6)
    3.0
    """
    check_layers(layers)
    check_input(layers, x)
    check_samples("y", y, "x", x)
    check_activation(activation)
    check_function("a loss such as kernels.squared_error", loss)
    optimizer, l2 = check_optimizer(optimizer, learning_rate), to_real("l2", l2, least=0.0)
    xp = array_namespace(x)
    batches = batches_of(
        x.shape[0],
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        start=start,
        shuffle=shuffle,
    )
    before, slots = _begin(optimizer, layers, state, batches.start)
    check_targets(loss, y, layers[-1].weight.shape[1])
    check_numerics(numerics)
    in_dual = use_dual(dual, optimizer, numerics, layers, batches, compile)
    # torch takes no samples of most unsigned integers.
    classes = loss in (softmax_cross_entropy, logistic_cross_entropy)
    targets: Any = to_signed(y) if classes and "uint" in str(y.dtype) else y
    if sample_weight is not None:
        check_sample_weight(sample_weight, x, numerics)
        loss, targets = weighted(loss), (targets, sample_weight)
    if compile is not None:
        check_function("a compiler such as jax.jit or the compile of a backend", compile)
        for name, value in (("compile", compile), ("loss", loss), ("numerics", numerics)):
            check_hashable(name, value)
        if check_compiler and isinstance(numerics, Exact):
            try_compiler(compile, xp, placement(x).get("device"))
    # Of gradient descent alone, which multiplies the small gradient of the loss by the rate.
    plain = optimizer.is_plain and l2 == 0.0
    fixed: dict[str, Any] = {"activation": activation, "numerics": numerics}
    if not plain:
        fixed |= {"optimizer": rule_of(optimizer), "l2": l2}
    if in_dual:
        fixed |= {"differentiate": differentiated} | ({} if plain else {"squares": squares_of})
    scalars = Scalars(optimizer, before, layers[0].weight, numerics, plain)
    steps_of_fit = _Steps(scalars, loss, fixed, targets, compile, progress, batches.start)
    trained, losses = (tuple(layers), slots), []
    if in_dual:
        samples = Samples.of(x, batches, plain=plain, l2=l2 > 0.0, numerics=numerics)
        for part in parts(batches):
            held, constants = samples.begin(*trained)
            held, values, ended = steps_of_fit.take(part, samples.chosen(part), constants, held)
            trained = samples.end(*held, *trained)
            losses.append(values)
            if ended:
                break
    else:
        # The one input that never changes: all samples as one batch, unless that is divided.
        operands = None
        if batch_size is None and not getattr(compile, "splits", False):
            own = numerics.team.own(x)
            operands = numerics.prepare(own), numerics.prepare(own.T, samples=x.shape[0])
        trained, values, _ = steps_of_fit.take(batches, x, operands, trained)
        losses.append(values)
    new, arrays = trained
    # An activation of the user's may have returned another dtype, which spreads.
    check_layers(new)
    values = losses[0] if len(losses) == 1 else xp.concat(losses)
    kind = SGDState if isinstance(optimizer, SGD) else AdamState
    return Fit(new, values, kind(before + values.shape[0], *arrays))


class _Steps(NamedTuple):
    """How the steps of a `fit` are taken, whose arguments most of these are.

    Attributes
    ----------
    scalars
        The numbers of each step.
    loss
        Unchecked as it came.
    fixed
        Other settings of what takes a step.
    targets
        y, maybe with the weights of the samples.
    compile, progress
        As they came.
    start
        The number of the first of all steps.
    """

    scalars: Scalars
    loss: Loss
    fixed: dict[str, Any]
    targets: Any
    compile: Compiler | None
    progress: Callable[[int, Array], object] | None
    start: int

    def take(
        self, batches: Batches, x: Any, operands: Any, trained: tuple[Any, tuple[Any, ...]]
    ) -> tuple[tuple[Any, tuple[Any, ...]], Array, bool]:
        """Take the steps of some batches.

        Return what was trained, the losses, and whether `progress` ended it. In the dual form
        something else stands for the samples and for the layers.
        """
        plain, (layers, slots) = self.scalars.plain, trained
        whole = self.progress is None and repeats(self.compile)
        take = self._in_runs if whole else self._one_by_one
        now, losses, ended = take(batches, x, operands, layers if plain else trained)
        return (now, slots) if plain else now, losses, ended

    @property
    def _function(self) -> Callable[..., Any]:
        return unchecked_step if self.scalars.plain else optimized_step

    def _in_runs(
        self, batches: Batches, x: Any, operands: Any, trained: Any
    ) -> tuple[Any, Array, bool]:
        """Take those of each run by one call."""
        compile: Any = self.compile
        scalars, settings = self.scalars, {"loss": checked(self.loss), **self.fixed}
        numbers, losses = scalars.of(0, compiled=True), []
        taken = batches.start - self.start
        for run in batches.runs(scalars.like, compile):
            more = {"step": self._function, "size": run.size, "table": scalars.change}
            take_steps = compiled(compile.repeat, _step_in_run, **more, **settings)
            for done, now in scalars.parts(run.steps):
                begun: tuple[Any, ...] = trained, run.first + done * run.size
                if scalars.change:
                    begun, numbers = (*begun, 0), scalars.table(taken + done, now)
                (trained, *_), values = take_steps(
                    now, begun, x, self.targets, run.order, numbers, operands
                )
                losses.append(values)
            taken += run.steps
        return trained, array_namespace(values).concat(losses), False

    def _one_by_one(
        self, batches: Batches, x: Any, operands: Any, trained: Any
    ) -> tuple[Any, Array, bool]:
        """Take each by a call, and report it."""
        compile, scalars, progress = self.compile, self.scalars, self.progress
        settings = {"loss": checked(self.loss), **self.fixed}
        take_step: Callable[..., Any] = partial(self._function, **settings)
        take_rare, size = take_step, batches.size or 0
        if compile is not None:
            take_step = compiled(compile, self._function, **settings)
        rare = 0
        if size > 0 and getattr(compile, "costly", False):
            # Counted from the first of all steps, so that a run in parts computes what one in one
            # does.
            rare = _RARE * -(-batches.n // size)
        numbers, losses = scalars.of(0, compiled=compile is not None), list[Array]()
        taken, ended = batches.start - self.start, False
        given = batches.of(x, self.targets, compile)
        for step, (x_batch, y_batch) in enumerate(given, batches.start):
            if scalars.change:
                numbers = scalars.of(taken + len(losses), compiled=compile is not None)
            take_now = take_rare if step < rare and x_batch.shape[0] < size else take_step
            trained, value = take_now(trained, x_batch, y_batch, numbers, operands)
            losses.append(value)
            if progress is not None:
                try:
                    # A copy, since it may compute in the place of what it is given.
                    progress(taken + len(losses), value * 1.0)
                except StopIteration:
                    ended = True
                    break
            if compile is None and len(losses) == 1:
                # Other batches are like the first, and need no checks.
                take_step = partial(self._function, loss=unchecked(self.loss), **self.fixed)
        return trained, array_namespace(value).stack(losses), ended


def _begin(
    optimizer: SGD | Adam, layers: Sequence[Layer], state: Any, start: int
) -> tuple[int, tuple[Any, ...]]:
    """Tell how many steps an optimizer has taken, and give the arrays of its state."""
    if state is not None:
        check_state(optimizer, layers, state)
        steps = to_integer("state.steps", state.steps)
        if steps < 0:
            raise ValueError(f"expected state.steps of 0 or more, got {steps}")
        return steps, tuple(state[1:])
    slots = tuple(optimizer.init(layers)[1:])
    if start > 0 and any(slots):
        raise ValueError(
            f"expected the state of {type(optimizer).__name__} after {start} steps, as "
            f"start={start} goes on from there, got state=None"
        )
    return start, slots


def _step_in_run(
    state: tuple[Any, ...],
    x: Array,
    y: Any,
    order: Array | None,
    numbers: Any,
    operands: Any,
    *,
    step: Callable[..., Any],
    size: int,
    table: bool,
    **settings: Any,
) -> tuple[tuple[Any, ...], Array]:
    """Take one step on the next `size` samples of an order, and move on behind them.

    Numbers that differ from step to step are in a table, in which the state has a place as well.
    """
    trained, first, *place = state
    if order is not None:
        x, y = take(x, y, order, first, size=size)
    if table:
        numbers, place = row(numbers, place[0]), [place[0] + 1]
    trained, value = step(trained, x, y, numbers, operands, **settings)
    return (trained, first + size, *place), value

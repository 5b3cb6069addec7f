"""The training loop: steps or runs of steps, progress, and the loss of each step."""

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
from ._host import check_rounding, placement
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

# In so many epochs the last, smaller batch is not worth a compilation of many seconds.
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
        The optimizer's state. With it another `fit` goes on as though there had been only one.
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

    Each step is `step` on one batch, or an optimizer's step with its gradients. Without
    `batch_size` every batch is all of x and y. With it every epoch takes the samples in a new
    order, in batches of `batch_size`, of which the last may be smaller. The order depends on `seed`
    and the epoch alone, and is the same on every library.

    Parameters
    ----------
    layers
        The network to start from; it is left as it was.
    x, y
        All inputs, shape (n, n_in), and the targets that `loss` takes, n of them.
    optimizer, learning_rate
        Exactly one of the two: `kernels.SGD(...)` or `kernels.Adam(...)`; or the learning rate of
        plain `kernels.SGD`, a finite number of 0 or more or one of `kernels.schedules`.
    steps, epochs
        Exactly one of the two: how many batches, or how many times to take all samples.
    batch_size
        Samples in a batch; all of them if None.
    seed
        Decides the order of the samples; in [0, 2**64).
    shuffle
        Whether every epoch takes the samples in a new order, or in the order of x.
    start
        How many steps were taken before: a second `fit` that starts where a first ended takes the
        batches that one longer `fit` would have taken.
    state
        The optimizer's state in the result of that first `fit`. With it both end on the bits of the
        longer one; for the dual form docs/dual.md has the condition. It counts the steps for
        schedules and bias corrections.
    loss
        `squared_error`, `softmax_cross_entropy`, `logistic_cross_entropy`, `poisson`, or another
        function `(prediction, target, *, numerics) -> (value, gradient)`.
    activation
        One of `kernels.activations`.
    l2
        Adds l2 / 2 times the sum of the squared weights, not biases, to the loss; 0 or more.
    sample_weight
        How much each sample counts, of shape (n,) and the dtype of x: a sample of weight 2 counts
        as two copies of it. A loss of your own gets it as an argument of that name.
    dual
        Whether to train the first layer in the space of the samples: the same algebra, rounded
        differently, where a step of n samples takes n * n multiplications for each unit instead of
        2 * n * n_in (docs/dual.md). It needs `kernels.SGD` and one worker. "auto" takes it if both
        are so, numerics are native, and all products together take at most half as many
        multiplications. With exact numerics it has to be asked for with True: it has bits of its
        own, the same on every library, and `start` must be a multiple of 256.
    numerics
        What products and sums are.
    compile
        A compiler of pure functions, such as jax.jit or a backend's `compile`. A compiled step is
        kept for the next call with the same compiler, loss, activation, numerics, l2 and optimizer,
        at any learning rate. Some, such as jax.jit, compile in what a function of your own reads
        beside its arguments: with another number it must be another function.
        A method `repeat`, as in the backends jax and torch:cuda, says that single operations are
        slow. Then all of an epoch is compiled: its order, its batches and, without `progress`, its
        steps in one call. `repeat` takes a function `(state, *constants) -> (state, loss)` and
        returns one `(count, state, *constants) -> (state, losses)` that calls it `count` times.
        A true attribute `costly`, as in the backend torch:cpu, says that compiling takes long. Then
        the smaller batch that ends each of the first hundred epochs is computed uncompiled.
        A true attribute `splits`, as with workers of JAX and Dask, says that the compiler divides
        each batch. Then there is no dual form.
    check_compiler
        Whether exact numerics first try the compiler with `kernels.numerics.check_compiler`, once
        in a process for each library and device: 0.1 s with JAX, 1 s with torch where nothing is
        cached.
    progress
        Called after each step with the number of steps done in this `fit`, and the loss before the
        last of them, a 0-d array on the device. If it raises StopIteration, training ends there.

    Raises
    ------
    ValueError
        If shapes or devices do not fit; targets, weights or a number are out of range; not exactly
        one of steps and epochs, or of optimizer and learning_rate, is given; `start` is above 0 and
        the optimizer has a state that is not given; or dual=True is impossible.
    TypeError
        If libraries or dtypes differ; an argument is of another type than above; the state is
        another optimizer's; weights are given and the loss takes no sample_weight; or, with
        `compile`, it, the loss or the numerics cannot be hashed.
    RuntimeError
        If the compiler changes bits of exact numerics, or the thread does not round to nearest.

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
    if isinstance(numerics, Exact):
        check_rounding()
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
    # Plain gradient descent multiplies the small gradient of the loss by the rate.
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
    """How the steps of a `fit` are taken.

    Attributes
    ----------
    scalars
        The numbers of each step.
    loss
        As given, or for pairs of targets and weights.
    fixed
        The other settings of a step.
    targets
        y, or a pair of y and the weights of the samples.
    compile, progress
        As given.
    start
        The number of the first step of this `fit`.
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

        Return what was trained, the losses, and whether `progress` ended it. In dual form other
        arrays stand for the samples and the layers.
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
        """Take the steps of each run in one call."""
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
        """Take each step in a call of its own, and report it."""
        compile, scalars, progress = self.compile, self.scalars, self.progress
        settings = {"loss": checked(self.loss), **self.fixed}
        is_own = settings["loss"] is self.loss
        take_step: Callable[..., Any] = partial(self._function, **settings)
        take_rare, size = take_step, batches.size or 0
        if compile is not None:
            take_step = compiled(compile, self._function, **settings)
        rare = 0
        if size > 0 and getattr(compile, "costly", False):
            # Counted from step 0, so that training in parts computes what it does in one go.
            rare = _RARE * -(-batches.n // size)
        numbers, losses = scalars.of(0, compiled=compile is not None), list[Array]()
        taken, ended = batches.start - self.start, False
        given = batches.of(x, self.targets, compile)
        for step, (x_batch, y_batch) in enumerate(given, batches.start):
            if scalars.change:
                numbers = scalars.of(taken + len(losses), compiled=compile is not None)
            take_now = take_rare if step < rare and x_batch.shape[0] < size else take_step
            trained, value = take_now(trained, x_batch, y_batch, numbers, operands)
            # A copy, since a loss of the user's may use its array again.
            losses.append(value if is_own else value * 1.0)
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
    """Return how many steps an optimizer has taken, and the arrays of its state."""
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
    """Take one step on the next `size` samples of an order, and move on.

    If `table` is true, `numbers` is a table with a row for each step, and the state counts rows.
    """
    trained, first, *place = state
    if order is not None:
        x, y = take(x, y, order, first, size=size)
    if table:
        numbers, place = row(numbers, place[0]), [place[0] + 1]
    trained, value = step(trained, x, y, numbers, operands, **settings)
    return (trained, first + size, *place), value

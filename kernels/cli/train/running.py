"""Train with a progress bar, timing and Ctrl-C, and compute scores afterwards."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple

from array_api_compat import array_namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backends import Backend

from ..._typing import Array
from ...activations import Activation, relu
from ...layer import Layer
from ...losses import logistic_cross_entropy, poisson
from ...minibatches import steps_of
from ...network import forward
from ...numerics import Numerics
from ...reference.problems import Problem
from ...training import Fit
from ..common import NUMERICS, CliError, as_cli_error
from ..data.preparation import Target
from ..scores import score
from .method import method_of
from .settings import Settings

__all__ = [
    "MOST_ELEMENTS",
    "Scores",
    "Trained",
    "check_finite",
    "fit_timed",
    "in_runs",
    "measure",
    "note_ctrl_c",
    "on_host",
]

# Elements of the widest layer that are computed together in predictions.
MOST_ELEMENTS = 2**22

_SECONDS_BETWEEN_UPDATES = 0.1


class Trained(NamedTuple):
    """The result of training, and how long it took.

    Attributes
    ----------
    layers
        The network.
    losses
        The loss before each step, on the host.
    warm_up
        How many of the first steps may have compiled something; 0 if there were no others.
    warm_up_seconds, seconds_per_step
        The time of those steps together, and the mean time of the other steps; None if there were
        no steps to do.
    """

    layers: tuple[Layer, ...]
    losses: Any
    warm_up: int
    warm_up_seconds: float
    seconds_per_step: float | None


class Scores(NamedTuple):
    """How good a network is.

    Attributes
    ----------
    final_loss
        Over all training samples.
    held_out
        The scores on the samples held out, but for their number none if not all predictions are
        finite; or None if none were held out.
    predicted, target
        Predictions for those samples and the truth, on the host: class indices of shape (n,),
        labels 0 and 1 of shape (n, n_out), or numbers of that shape in their own unit. None without
        scores.
    """

    final_loss: float
    held_out: dict[str, float] | None
    predicted: Any = None
    target: Any = None


@contextmanager
def note_ctrl_c() -> Iterator[Event]:
    """Note the first Ctrl-C in an event; a second is the usual KeyboardInterrupt.

    A process with the system's own handler is meant to end, and keeps it.
    """
    interrupted = Event()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        yield interrupted
        return

    def note(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def in_runs(
    fit: Callable[..., Fit],
    *,
    every: int,
    keep: Callable[[tuple[Layer, ...], Array, Any], object],
) -> Callable[..., Fit]:
    """Make a `fit` that stops at each multiple of `every` steps, calls `keep`, and goes on.

    Parameters
    ----------
    fit
        Called as `kernels.fit`, with `start` and `steps`.
    every
        Steps between two stops, counted from step 0 and not from `start`.
    keep
        Called at each stop and at the end with the network, the losses since the stop before and
        the state of the optimizer.
    """

    def fit_in_runs(
        layers: tuple[Layer, ...],
        x: Array,
        y: Array,
        *,
        steps: int,
        start: int = 0,
        state: Any = None,
        progress: Callable[[int, Array], object] = lambda *_: None,
        **settings: Any,
    ) -> Fit:
        xp = array_namespace(x)
        losses: list[Array] = []
        done, stopped = 0, False

        def count(in_run: int, loss: Array) -> None:
            nonlocal stopped
            try:
                progress(done + in_run, loss)
            except StopIteration:
                stopped = True
                raise

        while done < steps and not stopped:
            begin = start + done
            run = min(every - begin % every, steps - done)
            layers, values, state = fit(
                layers, x, y, start=begin, state=state, steps=run, progress=count, **settings
            )
            losses.append(values)
            done += values.shape[0]
            keep(layers, values, state)
        return Fit(layers, xp.concat(losses), state)

    return fit_in_runs


def fit_timed(
    fit: Callable[..., Fit],
    problem: Problem,
    place: Backend,
    settings: Settings,
    *,
    start: int,
    total: int,
    interrupted: Event,
    state: Any = None,
    label: str = "training",
) -> Trained:
    """Train by `fit` from step `start` to `total`, or until interrupted, with a progress bar.

    The bar, which begins with the label, is shown if stderr is a terminal.
    """
    import numpy as np

    if start == total:
        return Trained(problem.layers, np.empty(0), 0, 0.0, None)

    terminal = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
        transient=True,
    )
    task = bar.add_task(label, total=total, completed=start, loss="")
    # The last batch of an epoch may be smaller, and compiled anew.
    warm_up = steps_of(problem.x.shape[0], steps=None, epochs=1, batch_size=problem.batch_size)
    shown = begin = warm = time.perf_counter()

    def progress(done: int, loss: Array) -> None:
        nonlocal shown, warm
        if done == warm_up:
            place.synchronize(loss)
            warm = time.perf_counter()
        if interrupted.is_set():
            raise StopIteration
        # Reading the loss makes the host wait for the device.
        if not bar.disable and time.perf_counter() - shown >= _SECONDS_BETWEEN_UPDATES:
            bar.update(task, completed=start + done, loss=f"{float(loss):.4g}")
            shown = time.perf_counter()

    # A diverging network overflows, which `check_finite` reports.
    with (
        bar,
        np.errstate(over="ignore", invalid="ignore"),
        _compiler_errors(place, settings.compile),
    ):
        place.synchronize()
        begin = warm = time.perf_counter()
        layers, losses, _ = fit(
            problem.layers,
            problem.x,
            problem.y,
            **method_of(settings, total),
            start=start,
            state=state,
            steps=total - start,
            batch_size=problem.batch_size,
            seed=settings.seed,
            loss=problem.loss,
            sample_weight=problem.sample_weight,
            numerics=NUMERICS[settings.numerics],
            dual=settings.dual,
            compile=place.compile if settings.compile else None,
            progress=progress,
        )
        place.synchronize(layers)
        end = time.perf_counter()
    done = losses.shape[0]
    if done <= warm_up:
        warm_up, warm = 0, begin
    return Trained(
        layers, place.to_numpy(losses), warm_up, warm - begin, (end - warm) / (done - warm_up)
    )


@contextmanager
def _compiler_errors(place: Backend, compile: bool) -> Iterator[None]:
    """Say that the compiler failed: many need tools that may not be installed."""
    if not compile:
        yield
        return
    with as_cli_error(
        Exception, prefix=f"{place.name} cannot compile the step, try --no-compile: ", status=1
    ):
        yield


def measure(
    problem: Problem,
    layers: tuple[Layer, ...],
    place: Backend,
    numerics: Numerics,
    activation: Activation = relu,
    target: Target | None = None,
) -> Scores:
    """Compute the loss over all training samples and the scores on those held out."""
    import numpy as np

    widest = max(layer.weight.shape[1] for layer in layers)
    size = max(1, MOST_ELEMENTS // widest)

    def last(part: Array) -> Array:
        return forward(layers, part, activation=activation, numerics=numerics)[-1]

    # Else each operation on each block would be a task of Dask, of which workers remember much.
    in_tasks = place.name == "dask"
    last_of = place.compile(last) if in_tasks else last
    whole = place.to_numpy if in_tasks else lambda a: a

    def predict(x: Array) -> Array:
        # In parts, since all layers of all samples may need more memory than the data.
        starts = range(0, max(x.shape[0], 1), size)
        parts = [x] if len(starts) == 1 else [x[start : start + size, ...] for start in starts]
        found = [last_of(part) for part in parts]
        return found[0] if len(found) == 1 else array_namespace(x).concat(found)

    with np.errstate(over="ignore", invalid="ignore"):
        weight = problem.sample_weight
        loss, _ = problem.loss(
            whole(predict(problem.x)),
            whole(problem.y),
            sample_weight=None if weight is None else whole(weight),
            numerics=numerics,
        )
        final = float(loss if in_tasks else place.to_numpy(loss))
        if problem.held_out is None:
            return Scores(final, None)
        x, y = problem.held_out
        output = place.to_numpy(predict(x))
        told = _told(problem, output, place.to_numpy(y), target)
        # Such as of rows that are far from those trained on.
        if not (np.isfinite(output).all() and np.isfinite(told[0]).all()):
            return Scores(final, {"samples": len(output)})
        return Scores(final, {"samples": len(told[1])} | score(*told), *told)


def _told(problem: Problem, output: Any, y: Any, target: Target | None) -> tuple[Any, Any]:
    """Convert outputs and targets to the predictions and the truth of `Scores`."""
    import numpy as np

    if problem.loss is logistic_cross_entropy:
        # A logit above 0 says that the label is present, or that it is the second of two classes.
        told = (output > 0.0).astype(np.int64)
        return told, y.reshape(told.shape).astype(np.int64)
    if y.ndim == 1:
        return output.argmax(axis=1), y
    if problem.loss is poisson:
        return np.exp(output.astype(np.float64)), y
    if target is None or not target.mean:
        return output, y
    mean, deviation = np.asarray(target.mean), np.asarray(target.deviation)
    return output * deviation + mean, y * deviation + mean


def on_host(place: Backend, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Bring a network to the host."""
    to_numpy = place.to_numpy
    return tuple(
        Layer(to_numpy(weight), None if bias is None else to_numpy(bias)) for weight, bias in layers
    )


def check_finite(
    layers: tuple[Layer, ...], losses: Any, problem: Problem, final_loss: float = 0.0
) -> None:
    """Raise `CliError` if training diverged; arrays are on the host."""
    import numpy as np

    parameters: list[Any] = [a for layer in layers for a in layer if a is not None]
    if math.isfinite(final_loss) and all(np.isfinite(a).all() for a in parameters):
        return
    (wrong,) = np.nonzero(~np.isfinite(losses))
    since = int(wrong[0]) if len(wrong) else len(losses)
    raise CliError(
        f"training diverged and nothing was saved: the loss is not finite after {since} steps at "
        f"learning rate {problem.learning_rate:.4g}; try a lower --learning-rate",
        status=1,
    )

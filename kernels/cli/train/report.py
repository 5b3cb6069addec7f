"""The report of a run, as a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from rich.console import Console

from backends.workers import Workers

from ...digest import digest
from ..common import compiles, device_of
from ..data.preparation import Preparation, as_fields
from ..scores import shown_scores
from ..tables import duration, make_table, print_table
from .job import Job, sizes_of
from .method import shown_method
from .plan import Plan
from .running import Scores, Trained
from .targets import LOSS_NAMES

__all__ = [
    "Report",
    "as_json",
    "facts_of_method",
    "facts_table",
    "fields_of",
    "milestones",
    "report_of",
    "report_table",
]

# Lines about the preparation of columns.
_MOST_LINES = 24


class Report(NamedTuple):
    """A training run.

    Attributes
    ----------
    problem, backend, device, version, dtype, numerics
        What was trained where, and the version of the array library.
    compiled
        Whether the step was compiled by the library's compiler.
    sizes
        Inputs, hidden units and outputs.
    samples
        How many were trained on.
    learning_rate, batch_size, seed
        Arguments of `kernels.fit`.
    optimizer, schedule, warmup, momentum, nesterov, weight_decay, max_norm, activation, l2,
    dual, weights
        Options of `train`.
    method
        How training differs from plain gradient descent with relu, in words.
    resumed
        The file or folder that training started from.
    steps, steps_asked
        How many were done, and how many were to be done.
    loss_name
        What the loss is.
    losses
        Some steps, counted from 1, and the loss of the batch before each.
    final_loss
        Over all training samples, after the last step.
    held_out
        The number of samples and their scores, or None.
    warm_up, warm_up_seconds, seconds_per_step
        How many of the first steps may have compiled something and the time they took together;
        the mean time of the others, None if a checkpoint had them all.
    digest
        `kernels.digest` of the weights.
    saved, plot
        Files written.
    preparation
        What was done to the columns of a file.
    prepared
        The same in words, and what was done to cells and rows.
    """

    problem: str
    backend: str
    device: str
    version: str
    dtype: str
    numerics: str
    compiled: bool
    sizes: tuple[int, ...]
    samples: int
    learning_rate: float
    optimizer: str
    schedule: str
    warmup: int
    momentum: float
    nesterov: bool
    weight_decay: float
    max_norm: float | None
    activation: str
    l2: float
    dual: bool
    weights: str | None
    method: str
    batch_size: int | None
    seed: int
    resumed: str | None
    steps: int
    steps_asked: int
    loss_name: str
    losses: list[tuple[int, float | None]]
    final_loss: float
    held_out: dict[str, float] | None
    warm_up: int
    warm_up_seconds: float
    seconds_per_step: float | None
    digest: str
    saved: str | None
    plot: str | None
    preparation: Preparation | None
    prepared: tuple[str, ...]


def report_of(
    team: Workers, plan: Plan, job: Job, trained: Trained, losses: Any, scores: Scores
) -> Report:
    """Make the report of a job."""
    options, settings, problem, place = plan.options, job.settings, job.problem, team.backend
    return Report(
        problem=problem.name,
        backend=place.name,
        device=device_of(place),
        version=place.version,
        dtype=settings.dtype,
        numerics=settings.numerics,
        compiled=settings.compile and compiles(place),
        sizes=sizes_of(trained.layers),
        samples=problem.x.shape[0],
        learning_rate=problem.learning_rate,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        warmup=settings.warmup,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        max_norm=settings.max_norm,
        activation=settings.activation,
        l2=settings.l2,
        dual=settings.dual,
        weights=settings.weights,
        method=shown_method(settings),
        batch_size=problem.batch_size,
        seed=settings.seed,
        resumed=None if options.resume is None else str(options.resume),
        steps=len(losses),
        steps_asked=job.total,
        loss_name=LOSS_NAMES[problem.loss],
        losses=milestones(losses),
        final_loss=scores.final_loss,
        held_out=scores.held_out,
        warm_up=trained.warm_up,
        warm_up_seconds=trained.warm_up_seconds,
        seconds_per_step=trained.seconds_per_step,
        digest=digest(trained.layers),
        saved=None if options.save is None else str(options.save),
        plot=None if options.plot is None else str(options.plot),
        preparation=job.preparation,
        prepared=job.prepared,
    )


def as_json(fields: dict[str, Any]) -> str:
    """Write what `fields_of` made as one JSON object."""
    return json.dumps(fields, indent=2, allow_nan=False)


def fields_of(report: Report) -> dict[str, Any]:
    """Make dictionaries and lists of a report, for JSON."""
    preparation = report.preparation
    return report._asdict() | {
        "preparation": None if preparation is None else as_fields(preparation)
    }


def report_table(console: Console, report: Report) -> None:
    """Print a report: the loss at some steps, then the facts of the run."""
    losses = make_table("step", f"{report.loss_name} before it")
    for step, loss in report.losses:
        losses.add_row(str(step), "not finite" if loss is None else f"{loss:.6g}")
    print_table(console, losses)
    console.print()
    facts_table(console, _facts(report))


def facts_table(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Print facts with labels so short that a digest fits into 80 characters."""
    table = make_table()
    for label, value in facts:
        table.add_row(label, value)
    print_table(console, table)


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield "problem", f"{report.problem}, {report.samples} training samples"
    lines = list(report.prepared[:_MOST_LINES])
    if len(report.prepared) > len(lines):
        lines.append(f"and {len(report.prepared) - len(lines)} more, which --json lists")
    for number, line in enumerate(lines):
        yield "" if number else "prepared", line
    yield from facts_of_method(report)
    yield "final loss", f"{report.final_loss:.6g}, {report.loss_name} over all training samples"
    if report.held_out is not None:
        samples = report.held_out["samples"]
        scores = shown_scores(report.held_out) or ["no score, as a prediction is not finite,"]
        yield "held out", f"{', '.join(scores)} on {samples:.0f} samples"
    first = "the first step" if report.warm_up == 1 else f"the first {report.warm_up} steps"
    warm_up = f" after {first} in {duration(report.warm_up_seconds)}" if report.warm_up else ""
    if report.seconds_per_step is not None:
        yield "time per step", f"{duration(report.seconds_per_step)}{warm_up}"
    yield "digest", report.digest
    for label, file in (("saved", report.saved), ("plot", report.plot)):
        if file is not None:
            yield label, file


def facts_of_method(report: Report) -> Iterable[tuple[str, str]]:
    """Say where and how it was trained."""
    yield "backend", report.backend
    yield "device", report.device
    yield "library", f"{report.backend.partition(':')[0]} {report.version}"
    yield "dtype", report.dtype
    yield "numerics", report.numerics + (", compiled" if report.compiled else "")
    yield "network", " > ".join(str(size) for size in report.sizes)
    batch = "all samples" if report.batch_size is None else f"batches of {report.batch_size}"
    of = "" if report.steps == report.steps_asked else f" of {report.steps_asked}"
    yield "steps", f"{report.steps}{of}, {batch}, learning rate {report.learning_rate:.4g}"
    if report.method:
        yield "method", report.method


def milestones(losses: Any) -> list[tuple[int, float | None]]:
    """Choose the first step and each fifth of the way, as the tutorial prints; None if not finite.

    Parameters
    ----------
    losses
        A NumPy array of shape (steps,).

    Examples
    --------
    >>> import numpy as np
    >>> milestones(np.asarray([8.0, 4.0, 2.0, np.inf]))
    [(1, 8.0), (2, 4.0), (3, 2.0), (4, None)]
    """
    import numpy as np

    steps = sorted({1} | {max(1, round(len(losses) * i / 5)) for i in range(1, 6)})
    return [
        (step, float(losses[step - 1]) if np.isfinite(losses[step - 1]) else None) for step in steps
    ]

"""`python -m kernels train`: train a network, and say how it went."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import typer

from backends.workers import Workers
from backends.workers.torch import is_launched

from ..._typing import Array
from ...dual import PERIOD
from ...layer import Layer
from ...optimizers import AdamState, SGDState
from ...training import Fit
from ..common import (
    NUMERICS,
    as_cli_error,
    console,
    is_same,
    warn,
)
from ..data.preparation import INDEX
from ..entry import of_fields
from .checkpoint import Checkpoint, owned, write
from .cross_validation import cross_validate
from .job import Job, job_on, sizes_of, target_of
from .method import activation_of
from .model import Model, save_model
from .plan import Plan, plan_of
from .plot import draw
from .report import as_json, fields_of, report_of, report_table
from .running import check_finite, fit_timed, in_runs, measure, note_ctrl_c, on_host
from .settings import Options
from .targets import name_of
from .workers import check_alike, fit_split, join, must_launch, run_launched

__all__ = ["train"]


@of_fields(Options)
def train(options: Options) -> None:
    """Train a network by gradient descent and measure it on samples that were held out.

    Ctrl-C ends training early and keeps what was learned; a second Ctrl-C stops at once.

    With --checkpoint only the steps since the last checkpoint are lost, whatever ends the process.
    """
    # Everything that can be wrong is found before anything is computed or written.
    plan = plan_of(options)
    if must_launch(options.engine):
        with _owned(plan):
            raise typer.Exit(run_launched(options, plan.folder))
    with join(options, plan.settings) as team:
        if options.cv is not None:
            cross_validate(team, plan)
            return
        job = job_on(team, plan)
        check_alike(team, job)
        # Free the memory of what was read.
        plan = plan._replace(table=None)
        _run(team, plan, job)


def _run(team: Workers, plan: Plan, job: Job) -> None:
    """Train on a team of workers, the first of which writes and prints."""
    options, place = plan.options, team.backend
    for name, why in job.preparation.dropped if team.first and job.preparation else ():
        if why == INDEX:
            warn(f"Dropped the column {name!r}, which {INDEX} as an index of pandas does.")
    training = _kept(team, plan, job, fit_split(team))
    owned_here = _owned(plan) if team.first and not is_launched() else nullcontext()
    with owned_here, note_ctrl_c() as interrupted:
        trained = fit_timed(
            training,
            job.problem,
            place,
            job.settings,
            start=len(job.earlier),
            total=job.total,
            interrupted=interrupted,
            state=job.state,
        )
        losses = _joined(job.earlier, trained.losses)
        numerics = NUMERICS[job.settings.numerics]
        activation = activation_of(job.settings)
        scores = measure(job.problem, trained.layers, place, numerics, activation, target_of(job))
        check_finite(on_host(place, trained.layers), losses, job.problem, scores.final_loss)
        if not team.first:
            return
        if options.save is not None:
            with as_cli_error(OSError, prefix=f"cannot write {options.save}: ", status=1):
                save_model(options.save, _model_of(job, trained.layers))
    report = report_of(team, plan, job, trained, losses, scores)
    if options.plot is not None:
        title = f"{report.problem} on {report.backend}, {report.dtype}"
        classes = _classes_of(job)
        with as_cli_error(OSError, prefix=f"cannot write {options.plot}: ", status=1):
            draw(options.plot, losses, scores, classes, title=title, loss_name=report.loss_name)
    if options.json:
        typer.echo(as_json(fields_of(report)))
    else:
        report_table(console(), report)
    if interrupted.is_set():
        warn(f"Interrupted after {len(losses)} of {job.total} steps; {_where(plan, len(losses))}.")
        raise typer.Exit(130)


def _owned(plan: Plan) -> AbstractContextManager[None]:
    """Own the folder of checkpoints, if there is one."""
    folder, resume = plan.folder, plan.options.resume
    if folder is None:
        return nullcontext()
    return owned(folder, resumed=resume is not None and is_same(folder, resume))


def _kept(team: Workers, plan: Plan, job: Job, training: Callable[..., Fit]) -> Callable[..., Fit]:
    """Make a `fit` write checkpoints, if that is wanted."""
    folder = plan.folder
    if folder is None:
        return training
    keep = partial(_keep, team, folder, job, [job.earlier])
    # Resumed from another step the dual form would not end on the bits of an undisturbed run.
    period = PERIOD if job.settings.dual else 1
    return in_runs(training, every=-(-job.settings.every // period) * period, keep=keep)


def _keep(
    team: Workers,
    folder: Path,
    job: Job,
    before: list[Any],
    layers: tuple[Layer, ...],
    losses: Array,
    state: SGDState | AdamState,
) -> None:
    """Write a checkpoint, unless training diverged; `before` is all losses before these."""
    every = before[0] = _joined(before[0], team.backend.to_numpy(losses))
    # Outside the block below, since a lost connection to workers is an OSError too.
    host, *slots = (on_host(team.backend, net) for net in (layers, *state[1:]))
    check_finite(host, every, job.problem)
    if not team.first or (job.settings.dual and len(every) % PERIOD != 0):
        return
    with as_cli_error(OSError, prefix=f"cannot write a checkpoint into {folder}: ", status=1):
        kept = type(state)(state.steps, *slots) if any(slots) else None
        write(folder, Checkpoint(host, every, job.settings, kept))


def _joined(earlier: Any, losses: Any) -> Any:
    import numpy as np

    return np.concatenate([earlier, losses]) if len(earlier) else losses


def _model_of(job: Job, layers: tuple[Layer, ...]) -> Model:
    """Keep what it takes to predict."""
    settings, loss = job.settings, name_of(job.problem.loss)
    return Model(layers, settings.activation, loss, settings.numerics, job.preparation)


def _classes_of(job: Job) -> tuple[str, ...]:
    """Name the classes; those of digits are the digits."""
    if job.preparation is not None:
        return job.preparation.target.classes
    return tuple(map(str, range(sizes_of(job.problem.layers)[-1])))


def _where(plan: Plan, steps: int) -> str:
    between = plan.settings.dual and steps % PERIOD != 0
    if plan.folder is not None and not between:
        kept = f"in a checkpoint: go on with --resume {plan.folder}"
    elif plan.options.save is not None:
        kept = f"saved in {plan.options.save}"
    elif plan.folder is not None:
        kept = f"not saved, as --dual writes checkpoints at every {PERIOD}th step only"
    else:
        kept = "not saved, as --save was not given"
    return f"the network so far is {kept}"

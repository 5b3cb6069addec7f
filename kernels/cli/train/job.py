"""A plan on a backend: the data and the network there, and how far to train."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from backends import Backend
from backends.workers import Workers

from ..._typing import Array
from ...layer import Layer
from ...minibatches import steps_of
from ...optimizers import AdamState, SGDState
from ...reference.problems import Problem, digits, tutorial
from ..common import CliError, as_cli_error, warn
from ..data.preparation import Preparation, Target
from ..data.sheet import Table, listed
from ..data.source import unchanged
from .method import ADAM_RATE
from .model import Model, check_resumed, read_model
from .plan import Plan, files_of
from .problem import Prepared, make_problem
from .settings import Settings
from .targets import name_of, task_of

__all__ = ["Job", "job_on", "sizes_of", "target_of"]


class Job(NamedTuple):
    """What to train.

    Attributes
    ----------
    problem
        With the network to start from.
    settings
        Complete, as in a checkpoint.
    earlier
        The losses of the steps that are done.
    total
        How many steps there are in all.
    state
        The optimizer's after the steps that are done, if it has arrays.
    preparation
        What was done to the columns of a file.
    prepared
        The same in words, and what was done to cells and rows.
    """

    problem: Problem
    settings: Settings
    earlier: Any
    total: int
    state: SGDState | AdamState | None = None
    preparation: Preparation | None = None
    prepared: tuple[str, ...] = ()


def job_on(team: Workers, plan: Plan) -> Job:
    """Bring a plan to a team's backend."""
    resume, before, settings = plan.options.resume, plan.before, plan.settings
    model = _model(plan)
    initial = _initial(plan, model, team.backend)
    if initial is not None and settings.hidden is None:
        settings = settings._replace(hidden=sizes_of(initial)[1:-1])
    with as_cli_error(ValueError, MemoryError):
        problem, preparation, lines = _problem(settings, plan.table, team.backend, plan.rows)
    if model is not None and resume is not None:
        scaled = check_resumed(resume, model, name_of(problem.loss), preparation)
        if scaled and team.first:
            warn(f"Scaled differently than for the network in {resume}: {listed(scaled)}.")
    if initial is not None:
        if sizes_of(initial) != sizes_of(problem.layers):
            raise CliError(
                f"expected a network of sizes {_shown(problem.layers)} for {problem.name}, got "
                f"{_shown(initial)} in {resume}"
            )
        problem = problem._replace(layers=initial)
    samples = problem.x.shape[0]
    total = steps_of(
        samples, steps=problem.steps, epochs=problem.epochs, batch_size=problem.batch_size
    )
    settings = _settled(settings, plan, problem, total)
    if before is not None and settings.data_sha256 != before.settings.data_sha256:
        raise CliError(
            f"expected the data that the checkpoint in {resume} was trained on, got others in "
            f"{settings.data}"
        )
    earlier: Any = () if before is None else before.losses
    if total < len(earlier):
        raise CliError(
            f"expected {len(earlier)} steps or more, which the checkpoint in {resume} has done, "
            f"got {total}"
        )
    if settings.warmup >= total:
        raise CliError(f"expected --warmup below the {total} steps in all, got {settings.warmup}")
    if samples < team.count:
        raise CliError(f"expected at most as many workers as samples, {samples}, got {team.count}")
    state = _state(plan, team.backend)
    return Job(problem, settings, earlier, total, state, preparation, lines)


def target_of(job: Job) -> Target | None:
    """Give what was learned of the target in a file of columns, or None."""
    return None if job.preparation is None else job.preparation.target


def sizes_of(layers: Sequence[Layer]) -> tuple[int, ...]:
    """List inputs, units of each hidden layer and outputs."""
    return (layers[0].weight.shape[0], *(weight.shape[1] for weight, _ in layers))


def _model(plan: Plan) -> Model | None:
    """Read the model to go on from, if there is one and no checkpoint."""
    path, settings = plan.options.resume, plan.settings
    if path is None or plan.before is not None:
        return None
    model = read_model(path)
    if model.dtype != settings.dtype:
        raise CliError(
            f"expected a network of {settings.dtype}, as --dtype, got {model.dtype} in {path}"
        )
    if model.activation != settings.activation:
        raise CliError(
            f"expected --activation {model.activation}, as in {path}, got {settings.activation}"
        )
    return model


def _initial(plan: Plan, model: Model | None, place: Backend) -> tuple[Layer, ...] | None:
    """Bring the network to go on from, if any, to a backend."""
    source = model or plan.before
    return None if source is None else _placed(source.layers, place, plan.settings.dtype)


def _state(plan: Plan, place: Backend) -> SGDState | AdamState | None:
    """Bring the state of the optimizer, if it has arrays, from a checkpoint to a backend."""
    state = None if plan.before is None else plan.before.state
    if state is None or not any(state[1:]):
        return None
    nets = (_placed(net, place, plan.settings.dtype) for net in state[1:])
    return type(state)(state.steps, *nets)


def _placed(layers: Sequence[Layer], place: Backend, dtype: str) -> tuple[Layer, ...]:
    return tuple(
        Layer(place.asarray(weight, dtype), None if bias is None else place.asarray(bias, dtype))
        for weight, bias in layers
    )


def _problem(
    settings: Settings, table: Table | None, place: Backend, rows: tuple[Any, Any] | None
) -> Prepared:
    hidden = (100,) if settings.hidden is None else settings.hidden
    preparation: Preparation | None = None
    lines: tuple[str, ...] = ()
    if table is not None:
        problem, preparation, lines = make_problem(
            table,
            asarray=place.asarray,
            adopt=_adopt(place),
            dtype=settings.dtype,
            hidden=hidden,
            batch_size=settings.batch_size,
            seed=settings.seed,
            loss=settings.loss,
            rows=rows,
        )
    elif settings.problem == "tutorial":
        like = place.asarray([0.0], settings.dtype)
        problem = tutorial(like=like, hidden=hidden, seed=settings.seed)
    else:
        problem = digits(
            asarray=place.asarray, dtype=settings.dtype, hidden=hidden, seed=settings.seed
        )
    rate = settings.learning_rate
    if rate is None and settings.optimizer == "adam":
        rate = ADAM_RATE
    if rate is not None:
        problem = problem._replace(learning_rate=rate)
    if settings.batch_size is not None:
        problem = problem._replace(batch_size=settings.batch_size)
    if settings.steps is not None or settings.epochs is not None:
        problem = problem._replace(steps=settings.steps, epochs=settings.epochs)
    return Prepared(problem, preparation, lines)


def _adopt(place: Backend) -> Callable[..., Array]:
    """Bring arrays that nobody else holds to a backend, without a copy if its library can.

    A second copy of the features would be most of the memory that training takes.
    """
    if place.name not in ("numpy", "torch:cpu"):
        return place.asarray
    xp: Any = place.xp
    return lambda host, _: cast(Array, xp.asarray(host))


def _settled(settings: Settings, plan: Plan, problem: Problem, total: int) -> Settings:
    """Complete the settings by what was decided where nothing was given."""
    settings = settings._replace(
        hidden=sizes_of(problem.layers)[1:-1],
        epochs=None,
        steps=total,
        batch_size=problem.batch_size,
        learning_rate=problem.learning_rate,
    )
    if plan.table is None or settings.data is None:
        return settings._replace(problem=problem.name)
    content = hashlib.sha256()
    for part, stamp in zip(files_of(settings), plan.stamps, strict=True):
        unreadable = as_cli_error(OSError, prefix=f"cannot read {part}: ")
        with unchanged(part, stamp), unreadable, part.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return settings._replace(
        data=str(Path(settings.data).resolve()),
        data_sha256=content.hexdigest(),
        loss=name_of(problem.loss),
        task=task_of(problem.loss),
    )


def _shown(layers: Sequence[Layer]) -> str:
    return ",".join(str(size) for size in sizes_of(layers))

"""`python -m kernels train --workers`: join an engine's workers, and start those of torch."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer

import backends
from backends import workers
from backends.workers import Workers
from backends.workers.torch import launch

from ..._typing import Array, Compiler
from ...digest import digest
from ...layer import Layer
from ...numerics import NATIVE, Numerics
from ...training import Fit, fit
from ..common import CliError, as_cli_error, find_backend, use_float64, warn
from .job import Job
from .settings import Options, Settings

__all__ = ["check_alike", "fit_split", "join", "must_launch", "run_launched"]

# Where a worker finds its number: with torchrun on its machine, with mpiexec among all.
_NUMBERS = {"torch": ("LOCAL_RANK", "RANK"), "mpi": ("PMIX_RANK", "PMI_RANK")}

# The exit status of a worker that ends because another did.
_LOST = 75

_MAX_STARTS = 4

# If all workers fail, the first one on a machine does so within so many seconds.
_PATIENCE = 15


@contextmanager
def join(options: Options, settings: Settings) -> Iterator[Workers]:
    """Join an engine's workers; without an engine, make this process the only one."""
    engine, backend = options.engine, settings.backend
    dtype, numerics = settings.dtype, settings.numerics
    if engine is None:
        alone = find_backend(backend, dtype, numerics)
        yield Workers(alone, lambda a: a, lambda numerics: numerics, None, 1, True)
        return
    use_float64(dtype, numerics)
    launched = _number(engine) is not None
    if launched:
        # Workers would notice a Ctrl-C in different steps, and wait for each other.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with ExitStack() as stack:
            with as_cli_error(ValueError, backends.BackendUnavailable):
                device = backend.partition(":")[2] or None
                team = stack.enter_context(
                    workers.join(engine, options.workers, device, options.scheduler)
                )
            yield team
    # A context of workers raises it as it ends.
    except workers.WorkerLost as error:
        if not launched or engine == "mpi":
            raise CliError(str(error), status=1) from error
        # Whoever started the workers knows which one it was.
        raise typer.Exit(_LOST) from None
    except CliError:
        # A mistake is mostly the same for all workers. So the first on each machine prints it and
        # ends first, on which torchrun or mpiexec ends the others. Another prints it only if it
        # alone failed.
        if launched and _number(engine) != "0":
            time.sleep(_PATIENCE)
        raise


def check_alike(team: Workers, job: Job) -> None:
    """Raise `CliError` unless all workers have the same options, data and network.

    Each reads its own files, which may be other ones on another machine, or a moment later.
    """
    numerics: Any = team.numerics(NATIVE)
    if numerics is NATIVE:
        return
    # Where the data are may differ.
    settings = job.settings._replace(data=None)._asdict()
    told = json.dumps([settings, len(job.earlier), digest(job.problem.layers)])
    own: Any = team.backend.asarray(list(hashlib.sha256(told.encode()).digest()), "float64")
    largest, least = (team.backend.to_numpy(a) for a in numerics.team.largest([own, -own]))
    if (largest != -least).any():
        raise CliError("expected the same options, data and network of every worker, got others")


def fit_split(team: Workers) -> Callable[..., Fit]:
    """Make a function like `kernels.fit` that splits each batch among workers."""
    placed: list[Any] = []

    def fit_by_workers(
        layers: tuple[Layer, ...],
        x: Array,
        y: Array,
        *,
        batch_size: int | None,
        sample_weight: Array | None = None,
        numerics: Numerics,
        compile: Compiler | None,
        **settings: Any,
    ) -> Fit:
        if team.compile is not None:
            compile = team.compile
            if not placed or placed[0] is not x:
                # Lazy libraries would compute them anew for each batch.
                keep = team.shard if batch_size is None else compile(lambda a: a)
                weight = None if sample_weight is None else keep(sample_weight)
                placed[:] = x, keep(x), keep(y), weight
            _, x, y, sample_weight = placed
        numerics = team.numerics(numerics)
        return fit(
            layers,
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            numerics=numerics,
            compile=compile,
            **settings,
        )

    return fit_by_workers


def must_launch(engine: str | None) -> bool:
    """Say whether the engine's workers are processes that are still to be started."""
    return engine == "torch" and _number(engine) is None


def _number(engine: str) -> str | None:
    """Find the number of this process, if it is a worker that torchrun or mpiexec has started."""
    names = (name for name in _NUMBERS.get(engine, ()) if name in os.environ)
    return next((os.environ[name] for name in names), None)


def run_launched(options: Options, checkpoint: Path | None) -> int:
    """Run `train` in processes of this machine, and return the exit status.

    If one is killed, all start again from the last checkpoint, if there is one.

    Raises
    ------
    CliError
        If a worker was killed or could not start, or on Ctrl-C.
    """
    count = options.workers or 1
    for start in range(1, _MAX_STARTS + 1):
        with as_cli_error(backends.BackendUnavailable):
            ended = launch(count, ["-m", "kernels", "train", *_written(options)], lost=_LOST)
        if ended is None:
            return 0
        worker, status = ended
        if status > 0 and worker == 0:
            # The first worker has printed why.
            return status
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )
        message = f"worker {worker + 1} of {count} {how}"
        if status > 0 or checkpoint is None or start == _MAX_STARTS:
            raise CliError(message, status=1)
        if next(checkpoint.glob("step-*"), None) is not None:
            options = options._replace(resume=checkpoint)
        warn(f"{message[0].upper()}{message[1:]}; starting again from the last checkpoint.")
    raise AssertionError


def _written(options: Options) -> list[str]:
    """Write the options of a command as arguments."""
    arguments = []
    for name, value in options._asdict().items():
        option = name.replace("_", "-")
        if value is True:
            arguments.append(f"--{option}")
        elif value is False and name != "json":
            arguments.append(f"--no-{option}")
        elif isinstance(value, list):
            arguments += [f"--{option}={each}" for each in value]
        elif value is not None and value is not False:
            arguments.append(f"--{option}={value}")
    return arguments

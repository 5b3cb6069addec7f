"""`python -m kernels train`: train a network, and say how it went."""

from __future__ import annotations

import hashlib
import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from backends import Backend
from backends.workers import ENGINES, Workers

from .._typing import Array
from ..digest import digest
from ..losses import Loss, softmax_cross_entropy, squared_error
from ..network import Layer
from ..reference.problems import Problem, digits, tutorial
from ..storage import load
from ..storage import save as save_network
from ..training import fit, steps_of
from .checkpoint import Checkpoint, Settings, agree, newest, prepare, write
from .common import (
    DTYPES,
    NUMERICS,
    CliError,
    as_cli_error,
    check_output,
    choose,
    console,
    require,
    warn,
)
from .data import FOLDER, TASKS, Table, make_problem, read_folder, read_table
from .report import Report, as_json, milestones, plot_losses, report_table
from .running import check_finite, compiles, device_of, fit_timed, in_runs, measure, note_ctrl_c
from .workers import fit_split, join, must_launch, run_launched

__all__ = ["train"]

PROBLEMS = ("digits", "tutorial")

_LOSS_NAMES: dict[Loss, str] = {
    softmax_cross_entropy: "mean cross-entropy",
    squared_error: "sum of squared errors",
}

_MAX_UNITS = 1_000_000
_DEFAULT = Settings()


def _option(panel: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **limits)


def train(
    context: typer.Context,
    problem: Annotated[
        str | None,
        _option(
            "Data",
            "digits, the UCI handwritten digits (default), or tutorial, the random data of "
            "'Learning PyTorch with examples'.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        _option(
            "Data",
            "Your own FILE.csv with a header row, or FILE.npz; needs --target. Or a DIR with x.npy "
            "and y.npy, which are taken as they are; with --engine dask they may be larger than a "
            "worker's memory.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        _option("Data", "What to predict: the header of a column, or the key of an array."),
    ] = None,
    task: Annotated[
        str | None,
        _option(
            "Data",
            "classification or regression; by default integers and text are classes, real "
            "numbers are not.",
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        _option(
            "Network",
            "Units of the hidden layers, such as 100,50; 'none' for a linear model. Default: "
            "100, or those of --resume.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("Network", "How many times to take every sample.", min=1)
    ] = None,
    steps: Annotated[
        int | None, _option("Network", "How many batches to take, instead of --epochs.", min=1)
    ] = None,
    batch_size: Annotated[int | None, _option("Network", "Samples in a batch.", min=1)] = None,
    learning_rate: Annotated[
        float | None, _option("Network", "Of gradient descent. Default: suited to the data.")
    ] = None,
    seed: Annotated[
        int | None,
        _option(
            "Network",
            "Decides the initial weights, the order of the samples, and which fifth is held out. "
            f"Default: {_DEFAULT.seed}.",
            min=0,
            max=2**64 - 1,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"Such as torch:cuda; `backends` lists them. Default: {_DEFAULT.backend}.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"float32 or float64 (which also enables it in JAX). Default: {_DEFAULT.dtype}.",
        ),
    ] = None,
    numerics: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"What a product and a sum are: {' or '.join(NUMERICS)}. Default: {_DEFAULT.numerics}.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"Split every batch among the workers of {' or '.join(ENGINES)}; --backend may name "
            "their kind of device.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        _option(
            "Arithmetic",
            "How many workers the engine has. Default: as many as torchrun started, or 1.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        _option(
            "Arithmetic",
            "Address of a running scheduler of Dask, such as tcp://host:8786, for --engine dask. "
            "Its workers need this package, and the files of --data.",
        ),
    ] = None,
    compile: Annotated[
        bool | None,
        _option(
            "Arithmetic", "Use the library's own compiler, if it has one. Default: --no-compile."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        _option("Output", "Write the trained network to this safetensors FILE.", readable=False),
    ] = None,
    resume: Annotated[
        Path | None,
        _option(
            "Output",
            "Start from the network in this FILE (keep --seed, so that the same fifth stays held "
            "out); or go on from the last checkpoint in this DIR, which has all other options, and "
            "write more there.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        _option(
            "Output",
            "Write checkpoints into this DIR, of which the last two are kept.",
            readable=False,
        ),
    ] = None,
    every: Annotated[
        int | None,
        _option("Output", f"Steps between two checkpoints. Default: {_DEFAULT.every}.", min=1),
    ] = None,
    plot: Annotated[
        Path | None,
        _option("Output", "Draw the loss of every step into this FILE.png.", readable=False),
    ] = None,
    json: Annotated[bool, _option("Output", "Print JSON instead of tables.", "--json")] = False,
) -> None:
    """Train a network by gradient descent and measure it on samples that were held out.

    Ctrl-C ends training early and keeps what was learned; a second Ctrl-C stops at once. With
    --checkpoint nothing is lost but the steps since the last one, whatever ends the process.
    """
    # Everything that can be wrong is found before anything is computed or written.
    if steps is not None and epochs is not None:
        raise CliError(f"expected --steps or --epochs, got both, {steps} and {epochs}")
    if learning_rate is not None and not 0.0 < learning_rate < math.inf:
        raise CliError(f"expected a positive --learning-rate, got {learning_rate}")
    for option, path in (("--save", save), ("--resume", resume), ("--checkpoint", checkpoint)):
        if path is not None:
            require("safetensors", option)
    require("numpy", "training")
    given: dict[str, Any] = {
        "problem": problem,
        "data": None if data is None else str(data),
        "target": target,
        "task": task,
        "hidden": None if hidden is None else _parse_hidden(hidden),
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "backend": backend,
        "dtype": dtype,
        "numerics": numerics,
        "compile": compile,
        "every": every,
    }
    given = {name: value for name, value in given.items() if value is not None}
    before, settings, folder = None, Settings(**given), checkpoint
    if resume is not None and os.path.isdir(resume):
        with as_cli_error(OSError, prefix=f"cannot read {resume}: "):
            before = newest(resume)
        settings, folder = agree(given, before.settings, resume), checkpoint or resume
    if every is not None and folder is None:
        raise CliError(f"expected --checkpoint DIR with --every {every}, got no --checkpoint")
    settings = _with_engine(settings, engine, workers, scheduler, backend)
    choose("--dtype", settings.dtype, DTYPES)
    choose("--numerics", settings.numerics, tuple(NUMERICS))
    source = None if settings.data is None else Path(settings.data)
    _check_files(reads=(source, resume), save=save, plot=plot)
    table = _read_data(settings.problem, source, settings.target, settings.task)
    if must_launch(engine):
        raise typer.Exit(run_launched(workers or 1, context.params, folder))
    with join(
        engine, workers, settings.backend, settings.dtype, settings.numerics, scheduler
    ) as team:
        _train(team, engine, settings, table, before, resume, folder, save, plot, json)


def _train(
    team: Workers,
    engine: str | None,
    settings: Settings,
    table: Table | None,
    before: Checkpoint | None,
    resume: Path | None,
    folder: Path | None,
    save: Path | None,
    plot: Path | None,
    json: bool,
) -> None:
    """Train on a team of workers, the first of which writes and prints."""
    place = team.backend
    initial = None
    if before is not None:
        initial = _placed(before.layers, place)
    elif resume is not None:
        initial = _load(resume, place.asarray([0.0], settings.dtype), settings.dtype)
    if initial is not None and settings.hidden is None:
        settings = settings._replace(hidden=_sizes(initial)[1:-1])
    with as_cli_error(ValueError, MemoryError):
        work = _problem(settings, table, place)
    if initial is not None:
        if _sizes(initial) != _sizes(work.layers):
            raise CliError(
                f"expected a network of sizes {_shown(work.layers)} for {work.name}, got "
                f"{_shown(initial)} in {resume}"
            )
        work = work._replace(layers=initial)
    total = steps_of(
        work.x.shape[0], steps=work.steps, epochs=work.epochs, batch_size=work.batch_size
    )
    settings = _settled(settings, table, work, total)
    earlier: Any = ()
    if before is not None:
        earlier = before.losses
        if settings.data_sha256 != before.settings.data_sha256:
            raise CliError(
                f"expected the data that the checkpoint in {resume} is of, got another content in "
                f"{settings.data}"
            )
        if total < len(earlier):
            raise CliError(
                f"expected {len(earlier)} steps or more, which the checkpoint in {resume} has "
                f"done, got {total}"
            )

    if work.x.shape[0] < team.count:
        raise CliError(
            f"expected at most as many workers as samples, {work.x.shape[0]}, got {team.count}"
        )

    training = fit if engine is None else fit_split(team)
    if folder is not None and team.first:
        with as_cli_error(OSError, prefix=f"cannot write into {folder}: "):
            own = resume is not None and folder.resolve() == resume.resolve()
            prepare(folder, resumed=own)
    if folder is not None:
        keep = partial(_keep, folder, settings, earlier, work, team)
        training = in_runs(training, every=settings.every, keep=keep)
    with note_ctrl_c() as interrupted:
        trained = fit_timed(
            training,
            work,
            place,
            NUMERICS[settings.numerics],
            settings.compile,
            settings.seed,
            len(earlier),
            total,
            interrupted,
        )
        layers, losses = trained.layers, _joined(earlier, trained.losses)
        final_loss, held_out = measure(work, layers, place, NUMERICS[settings.numerics])
        check_finite(layers, losses, work, place, final_loss=final_loss)
        if not team.first:
            return
        if save is not None:
            with as_cli_error(OSError, prefix=f"cannot write {save}: ", status=1):
                save_network(save, layers)
    if plot is not None:
        with as_cli_error(OSError, prefix=f"cannot write {plot}: ", status=1):
            plot_losses(
                plot,
                losses,
                title=f"{work.name} on {place.name}, {settings.dtype}",
                loss_name=_LOSS_NAMES[work.loss],
            )

    report = Report(
        problem=work.name,
        backend=place.name,
        device=device_of(place),
        version=place.version,
        dtype=settings.dtype,
        numerics=settings.numerics,
        compiled=settings.compile and compiles(place),
        sizes=_sizes(layers),
        samples=work.x.shape[0],
        learning_rate=work.learning_rate,
        batch_size=work.batch_size,
        seed=settings.seed,
        resumed=None if resume is None else str(resume),
        steps=len(losses),
        steps_asked=total,
        loss_name=_LOSS_NAMES[work.loss],
        losses=milestones(losses),
        final_loss=final_loss,
        held_out=held_out,
        warm_up=trained.warm_up,
        warm_up_seconds=trained.warm_up_seconds,
        seconds_per_step=trained.seconds_per_step,
        digest=digest(layers),
        saved=None if save is None else str(save),
        plot=None if plot is None else str(plot),
        preparation=work.preparation,
    )
    if json:
        typer.echo(as_json(report))
    else:
        report_table(console(), report)
    if interrupted.is_set():
        kept = "not saved, as --save was not given" if save is None else f"saved in {save}"
        if folder is not None:
            kept = f"in a checkpoint: go on with --resume {folder}"
        warn(f"Interrupted after {len(losses)} of {total} steps; the network so far is {kept}.")
        raise typer.Exit(130)


def _with_engine(
    settings: Settings,
    engine: str | None,
    workers: int | None,
    scheduler: str | None,
    backend: str | None,
) -> Settings:
    """Check the options of an engine, and put in what follows from it."""
    if scheduler is not None and engine != "dask":
        raise CliError(
            f"expected --engine dask with --scheduler {scheduler}, got {engine or 'no --engine'}"
        )
    if engine is None:
        if workers is not None:
            raise CliError(f"expected --engine with --workers {workers}, got no --engine")
        return settings
    choose("--engine", engine, ENGINES)
    if workers is not None and workers < 1:
        raise CliError(f"expected --workers of 1 or more, got {workers}")
    backend = backend or engine
    if backend.partition(":")[0] != engine:
        raise CliError(f"expected --backend {engine} with --engine {engine}, got {backend}")
    if engine != "jax" and settings.compile:
        raise CliError(
            f"expected no --compile with --engine {engine}, whose arrays it cannot compile"
        )
    return settings._replace(backend=backend, compile=engine == "jax")


def _parse_hidden(hidden: str) -> tuple[int, ...]:
    if hidden == "none":
        return ()
    parts = [part.strip() for part in hidden.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= _MAX_UNITS for part in parts):
        raise CliError(
            f"expected --hidden to be 'none' or numbers of units from 1 to {_MAX_UNITS}, such as "
            f"100,50, got {hidden!r}"
        )
    return tuple(int(part) for part in parts)


def _check_files(*, reads: tuple[Path | None, ...], save: Path | None, plot: Path | None) -> None:
    """Raise unless both outputs can be written, without touching them."""
    data, resume = (None if path is None else path.resolve() for path in reads)
    # A resumed network may be replaced by what it becomes.
    for option, path, others in (
        ("--save", save, {data}),
        ("--plot", plot, {data, resume, None if save is None else save.resolve()}),
    ):
        if path is None:
            continue
        if path.resolve() in others:
            raise CliError(f"expected {option} to be a file of its own, got {path}")
        # A network is written beside its file and renamed; a plot is written in place.
        check_output(option, path, in_place=option == "--plot")
    if plot is not None:
        require("matplotlib", "--plot")
        from matplotlib.figure import Figure

        formats = sorted(Figure().canvas.get_supported_filetypes())
        if plot.suffix.lower().lstrip(".") not in formats:
            raise CliError(
                f"expected --plot FILE.png, or another of {', '.join(formats)}, got {plot.name!r}"
            )


def _read_data(
    problem: str | None, data: Path | None, target: str | None, task: str | None
) -> Table | None:
    if data is None:
        for option, value in (("--target", target), ("--task", task)):
            if value is not None:
                raise CliError(f"expected --data FILE with {option} {value}, got no --data")
        if choose("--problem", problem or "digits", PROBLEMS) == "digits":
            require("sklearn", "the problem digits")
        return None
    if problem is not None:
        raise CliError(f"expected --problem or --data, got both, {problem} and {data}")
    if data.is_dir():
        if target is not None:
            raise CliError(
                f"expected no --target with the folder {data}, whose target is y.npy, got {target}"
            )
        return read_folder(data, task)
    if target is None:
        raise CliError(f"expected --target COLUMN with --data {data}, got no --target")
    if task is not None:
        choose("--task", task, TASKS)
    return read_table(data, target, task)


def _load(path: Path, like: Array, dtype: str) -> tuple[Layer, ...]:
    import numpy as np

    try:
        return load(path, like=like)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        (other,) = (name for name in DTYPES if name != dtype)
        try:
            load(path, like=np.zeros(0, dtype=other))  # type: ignore[arg-type]
        except ValueError:
            # Neither dtype fits, so the file is at fault.
            raise CliError(str(error).splitlines()[0]) from error
        raise CliError(
            f"expected a network of {dtype}, as --dtype, got {other} in {path}"
        ) from error


def _placed(layers: tuple[Layer, ...], place: Backend) -> tuple[Layer, ...]:
    """Bring a network from NumPy to a backend."""

    def asarray(a: Any) -> Array:
        return place.asarray(a, a.dtype.name)

    return tuple(
        Layer(asarray(weight), None if bias is None else asarray(bias)) for weight, bias in layers
    )


def _problem(settings: Settings, table: Table | None, place: Backend) -> Problem:
    hidden = (100,) if settings.hidden is None else settings.hidden
    if table is not None:
        problem = make_problem(
            table,
            asarray=place.asarray,
            dtype=settings.dtype,
            hidden=hidden,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
    elif settings.problem == "tutorial":
        like = place.asarray([0.0], settings.dtype)
        problem = tutorial(like=like, hidden=hidden, seed=settings.seed)
    else:
        problem = digits(
            asarray=place.asarray, dtype=settings.dtype, hidden=hidden, seed=settings.seed
        )
    if settings.learning_rate is not None:
        problem = problem._replace(learning_rate=settings.learning_rate)
    if settings.batch_size is not None:
        problem = problem._replace(batch_size=settings.batch_size)
    if settings.steps is not None or settings.epochs is not None:
        problem = problem._replace(steps=settings.steps, epochs=settings.epochs)
    return problem


def _settled(settings: Settings, table: Table | None, work: Problem, total: int) -> Settings:
    """Put in what was decided where nothing was given, so that a checkpoint has it."""
    settings = settings._replace(
        hidden=_sizes(work.layers)[1:-1],
        epochs=None,
        steps=total,
        batch_size=work.batch_size,
        learning_rate=work.learning_rate,
    )
    if table is None or settings.data is None:
        return settings._replace(problem=work.name)
    path = Path(settings.data).resolve()
    content = hashlib.sha256()
    for part in [path / name for name in FOLDER] if path.is_dir() else [path]:
        with part.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return settings._replace(
        data=str(path),
        data_sha256=content.hexdigest(),
        task="classification" if table.classes else "regression",
    )


def _keep(
    folder: Path,
    settings: Settings,
    earlier: Any,
    work: Problem,
    team: Workers,
    layers: tuple[Layer, ...],
    losses: Array,
) -> None:
    """Write a checkpoint, unless training diverged."""
    every = _joined(earlier, team.backend.to_numpy(losses))
    check_finite(layers, every, work, team.backend)
    # Here, since a lost connection to workers is an OSError too.
    to_numpy = team.backend.to_numpy
    host = tuple(
        Layer(to_numpy(weight), None if bias is None else to_numpy(bias)) for weight, bias in layers
    )
    if not team.first:
        return
    with as_cli_error(OSError, prefix=f"cannot write a checkpoint into {folder}: ", status=1):
        write(folder, Checkpoint(host, every, settings))


def _joined(earlier: Any, losses: Any) -> Any:
    import numpy as np

    return np.concatenate([earlier, losses]) if len(earlier) else losses


def _sizes(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    return (
        layers[0].weight.shape[0],
        *(weight.shape[1] for weight, _ in layers),
    )


def _shown(layers: tuple[Layer, ...]) -> str:
    return ",".join(str(size) for size in _sizes(layers))

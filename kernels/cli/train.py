"""`python -m kernels train`: train a network, and say how it went."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from backends import Backend

from .._typing import Array
from ..digest import digest
from ..losses import softmax_cross_entropy, squared_error
from ..network import Layer, Loss
from ..storage import load
from ..storage import save as save_network
from ..training import steps_of
from .common import (
    DTYPES,
    NUMERICS,
    CliError,
    as_cli_error,
    choose,
    console,
    find_backend,
    require,
    warn,
)
from .data import TASKS, Table, make_problem, read_table
from .problems import Problem, digits, tutorial
from .report import Report, as_json, milestones, plot_losses, report_table
from .running import check_finite, compiles, device_of, fit_timed, measure, note_ctrl_c

__all__ = ["train"]

PROBLEMS = ("digits", "tutorial")

_LOSS_NAMES: dict[Loss, str] = {
    softmax_cross_entropy: "mean cross-entropy",
    squared_error: "sum of squared errors",
}

_MAX_UNITS = 1_000_000


def _option(panel: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **limits)


def train(
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
        _option("Data", "Your own FILE.csv with a header row, or FILE.npz; needs --target."),
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
        int,
        _option(
            "Network",
            "Decides the initial weights, the order of the samples, and which fifth is held out.",
            min=0,
            max=2**64 - 1,
        ),
    ] = 0,
    backend: Annotated[
        str, _option("Arithmetic", "Such as torch:cuda; `backends` lists them.")
    ] = "numpy",
    dtype: Annotated[
        str, _option("Arithmetic", "float32 or float64 (which also enables it in JAX).")
    ] = "float32",
    numerics: Annotated[
        str, _option("Arithmetic", f"What a product and a sum are: {' or '.join(NUMERICS)}.")
    ] = "native",
    compile: Annotated[
        bool, _option("Arithmetic", "Use the library's own compiler, if it has one.")
    ] = False,
    save: Annotated[
        Path | None,
        _option("Output", "Write the trained network to this safetensors FILE.", readable=False),
    ] = None,
    resume: Annotated[
        Path | None,
        _option(
            "Output",
            "Start from the network in this FILE. Keep --seed, so that the same fifth stays held "
            "out.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        _option("Output", "Draw the loss of every step into this FILE.png.", readable=False),
    ] = None,
    json: Annotated[bool, _option("Output", "Print JSON instead of tables.", "--json")] = False,
) -> None:
    """Train a network by gradient descent and measure it on samples that were held out.

    Ctrl-C ends training early and keeps what was learned; a second Ctrl-C stops at once.
    """
    # Everything that can be wrong is found before anything is computed or written.
    if steps is not None and epochs is not None:
        raise CliError(f"expected --steps or --epochs, got both, {steps} and {epochs}")
    if learning_rate is not None and not 0.0 < learning_rate < math.inf:
        raise CliError(f"expected a positive --learning-rate, got {learning_rate}")
    choose("--dtype", dtype, DTYPES)
    choose("--numerics", numerics, tuple(NUMERICS))
    units = None if hidden is None else _parse_hidden(hidden)
    _check_files(reads=(data, resume), save=save, plot=plot)
    table = _read_data(problem, data, target, task)
    place = find_backend(backend, dtype, numerics)
    initial = None if resume is None else _load(resume, place.asarray([0.0], dtype), dtype)
    if initial is not None and units is None:
        units = _sizes(initial)[1:-1]
    with as_cli_error(ValueError, MemoryError):
        work = _problem(problem, table, place, dtype, units, batch_size, seed)
        work = _override(work, learning_rate, steps, epochs, batch_size)
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

    with note_ctrl_c() as interrupted:
        trained = fit_timed(work, place, NUMERICS[numerics], compile, seed, total, interrupted)
        layers, losses = trained.layers, trained.losses
        final_loss, held_out = measure(work, layers, place, NUMERICS[numerics])
        check_finite(layers, losses, final_loss, work, place)
        if save is not None:
            with as_cli_error(OSError, prefix=f"cannot write {save}: ", status=1):
                save_network(save, layers)
    if plot is not None:
        with as_cli_error(OSError, prefix=f"cannot write {plot}: ", status=1):
            plot_losses(
                plot,
                losses,
                title=f"{work.name} on {place.name}, {dtype}",
                loss_name=_LOSS_NAMES[work.loss],
            )

    report = Report(
        problem=work.name,
        backend=place.name,
        device=device_of(place),
        version=place.version,
        dtype=dtype,
        numerics=numerics,
        compiled=compile and compiles(place),
        sizes=_sizes(layers),
        samples=work.x.shape[0],
        learning_rate=work.learning_rate,
        batch_size=work.batch_size,
        seed=seed,
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
        warn(f"Interrupted after {len(losses)} of {total} steps; the network so far is {kept}.")
        raise typer.Exit(130)


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
        if not path.parent.is_dir():
            raise CliError(f"cannot write {option} {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise CliError(f"cannot write {option} {path}: it is a folder")
        # A network is written beside its file and renamed; a plot is written in place.
        if option == "--plot" and path.exists():
            if not os.access(path, os.W_OK):
                raise CliError(f"cannot write {option} {path}: no permission to change it")
            continue
        # Only trying tells, for instance of a folder that takes no files from anyone.
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise CliError(f"cannot write {option} {path}: {error.strerror or error}") from error
    if save is not None or resume is not None:
        require("safetensors", "--save" if resume is None else "--resume")
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
    require("numpy", "training")
    if data is None:
        for option, value in (("--target", target), ("--task", task)):
            if value is not None:
                raise CliError(f"expected --data FILE with {option} {value}, got no --data")
        if choose("--problem", problem or "digits", PROBLEMS) == "digits":
            require("sklearn", "the problem digits")
        return None
    if problem is not None:
        raise CliError(f"expected --problem or --data, got both, {problem} and {data}")
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


def _problem(
    name: str | None,
    table: Table | None,
    place: Backend,
    dtype: str,
    hidden: tuple[int, ...] | None,
    batch_size: int | None,
    seed: int,
) -> Problem:
    hidden = (100,) if hidden is None else hidden
    if table is not None:
        return make_problem(
            table,
            asarray=place.asarray,
            dtype=dtype,
            hidden=hidden,
            batch_size=batch_size,
            seed=seed,
        )
    if name == "tutorial":
        return tutorial(like=place.asarray([0.0], dtype), hidden=hidden, seed=seed)
    return digits(asarray=place.asarray, dtype=dtype, hidden=hidden, seed=seed)


def _override(
    problem: Problem,
    learning_rate: float | None,
    steps: int | None,
    epochs: int | None,
    batch_size: int | None,
) -> Problem:
    if learning_rate is not None:
        problem = problem._replace(learning_rate=learning_rate)
    if batch_size is not None:
        problem = problem._replace(batch_size=batch_size)
    if steps is not None or epochs is not None:
        problem = problem._replace(steps=steps, epochs=epochs)
    return problem


def _sizes(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    return (
        layers[0].weight.shape[0],
        *(weight.shape[1] for weight, _ in layers),
    )


def _shown(layers: tuple[Layer, ...]) -> str:
    return ",".join(str(size) for size in _sizes(layers))

"""Check what was asked for, and plan it, before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from ..common import CliError, as_cli_error, check_output, choose, require
from ..data.arrays import FOLDER, read_folder
from ..data.sheet import TASKS, Table
from ..data.source import stamp_of
from ..data.table import read_table
from .checkpoint import Checkpoint, agree, newest
from .method import check_method
from .settings import Options, Settings, given_of, with_engine
from .targets import task_for

__all__ = ["Plan", "files_of", "plan_of"]

_PROBLEMS = ("digits", "tutorial")


class Plan(NamedTuple):
    """A training run, before its data are on a backend.

    Attributes
    ----------
    options
        As they were given.
    settings
        What decides the run: the options, and the checkpoint's settings for those not given.
    table
        A user's own data.
    before
        The checkpoint to go on from.
    folder
        Where checkpoints are written.
    stamps
        Of the files of the data before they were read.
    rows
        The rows of the table to train on and to hold out; None holds a fifth out.
    """

    options: Options
    settings: Settings
    table: Table | None
    before: Checkpoint | None
    folder: Path | None
    stamps: tuple[tuple[int, ...], ...] = ()
    rows: tuple[Any, Any] | None = None


def plan_of(options: Options) -> Plan:
    """Read the data and the checkpoint, and check that outputs can be written."""
    given = given_of(options)
    _check_cv(options)
    for name in ("save", "resume", "checkpoint"):
        if getattr(options, name) is not None:
            require("safetensors", f"--{name}")
    require("numpy", "training")
    before, settings, folder = None, Settings(**given), options.checkpoint
    if _starts_again() and folder is not None and any(folder.glob("step-*")):
        # All settings count as given, so that another run's checkpoint is refused.
        given = {name: value for name, value in settings._asdict().items() if value is not None}
        options = options._replace(resume=folder)
    if options.resume is not None and os.path.isdir(options.resume):
        with as_cli_error(OSError, prefix=f"cannot read {options.resume}: "):
            before = newest(options.resume)
        settings = agree(given, before.settings, options.resume)
        folder = options.checkpoint or options.resume
    if options.every is not None and folder is None:
        raise CliError("--every needs --checkpoint DIR")
    settings = with_engine(settings, options)
    check_method(settings)
    _check_outputs(options, None if settings.data is None else Path(settings.data), folder)
    stamps = tuple(map(stamp_of, files_of(settings)))
    return Plan(options, settings, _read_data(settings), before, folder, stamps)


def files_of(settings: Settings) -> list[Path]:
    """List the files of a user's own data."""
    if settings.data is None:
        return []
    path = Path(settings.data)
    return [path / name for name in FOLDER] if os.path.isdir(path) else [path]


def _starts_again() -> bool:
    """Say whether torchrun started this process anew, since a worker failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _check_cv(options: Options) -> None:
    """Raise `CliError` if --cv comes with options that it does not take."""
    if options.cv is None:
        return
    if options.data is None:
        raise CliError("--cv needs --data FILE")
    if os.path.isdir(options.data):
        raise CliError(f"--cv needs --data FILE, got the folder {options.data}")
    for name in ("save", "checkpoint", "resume", "plot", "engine"):
        if getattr(options, name) is not None:
            raise CliError(f"expected --cv or --{name}, got both: --cv keeps no network")


def _check_outputs(options: Options, source: Path | None, folder: Path | None) -> None:
    """Raise `CliError` unless both outputs can be written; they are not touched."""
    save, plot = options.save, options.plot
    resume, saved, kept = (
        None if path is None else os.path.realpath(path) for path in (options.resume, save, folder)
    )
    data = [] if source is None else [source, *(source / name for name in FOLDER)]
    used = {kept, *map(os.path.realpath, data)}
    # A resumed network may be replaced by what it becomes.
    for option, path, others in (("--save", save, used), ("--plot", plot, used | {resume, saved})):
        if path is None:
            continue
        if os.path.realpath(path) in others:
            raise CliError(f"expected {option} to be a file of its own, got {path}")
        # A network is written beside its file and renamed; a plot is written in place.
        check_output(option, path, in_place=option == "--plot")
    if plot is not None:
        for module in ("matplotlib", "sklearn"):
            require(module, "--plot")
        from matplotlib.figure import Figure

        formats = sorted(Figure().canvas.get_supported_filetypes())
        if plot.suffix.lower().lstrip(".") not in formats:
            raise CliError(
                f"expected --plot FILE.png, or another of {', '.join(formats)}, got {plot.name!r}"
            )


def _read_data(settings: Settings) -> Table | None:
    problem, target, weights = settings.problem, settings.target, settings.weights
    if settings.data is None:
        for name in ("target", "weights", "task", "loss", "drop", "separator", "encoding"):
            option, value = f"--{name}", getattr(settings, name)
            if value:
                raise CliError(f"{option} needs --data FILE")
        if choose("--problem", problem or "digits", _PROBLEMS) == "digits":
            require("sklearn", "the problem digits")
        return None
    if settings.task is not None:
        choose("--task", settings.task, TASKS)
    task = task_for(settings.loss, settings.task)
    data = Path(settings.data)
    if problem is not None:
        raise CliError(f"expected --problem or --data, got both, {problem} and {data}")
    if os.path.isdir(data):
        if target is not None:
            raise CliError(
                f"expected no --target with the folder {data}, whose target is y.npy, got {target}"
            )
        for name in ("weights", "drop", "separator", "encoding"):
            if getattr(settings, name):
                raise CliError(f"--{name} needs --data FILE, got the folder {data}")
        return read_folder(data, task, settings.dtype)
    if target is None:
        raise CliError(f"--data {data} needs --target COLUMN")
    if weights == target:
        raise CliError(f"expected --weights other than --target, got {target!r} as both")
    for option, column in (("--target", target), ("--weights", weights)):
        if column in settings.drop:
            raise CliError(f"expected --drop other than {option}, got {column!r} as both")
    return read_table(
        data,
        target,
        task,
        weights,
        drop=settings.drop,
        separator=settings.separator,
        encoding=settings.encoding,
    )

"""What `train` is asked for, and what decides the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from backends.workers import ENGINES

from ..common import DTYPES, NUMERICS, CliError, choose

__all__ = ["Options", "Settings", "given_of", "parse_separator", "with_engine"]

_MAX_UNITS = 1_000_000


class Settings(NamedTuple):
    """What decides a training run: options of `train`, None or the default where not given.

    A checkpoint has all of them, with `steps` instead of `epochs`.

    Attributes
    ----------
    data_sha256
        The SHA-256 of the file `data`.
    """

    problem: str | None = None
    data: str | None = None
    data_sha256: str | None = None
    target: str | None = None
    weights: str | None = None
    drop: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None
    task: str | None = None
    loss: str | None = None
    hidden: tuple[int, ...] | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimizer: str = "sgd"
    schedule: str = "constant"
    final: float | None = None
    power: float = 0.5
    warmup: int = 0
    momentum: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float | None = None
    activation: str = "relu"
    l2: float = 0.0
    dual: bool = False
    seed: int = 0
    backend: str = "numpy"
    dtype: str = "float32"
    numerics: str = "native"
    compile: bool = False
    every: int = 100


_DEFAULT = Settings()


def _option(panel: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **limits)


class Options(NamedTuple):
    """What was given on the command line, None where nothing was."""

    problem: Annotated[
        str | None,
        _option(
            "Data",
            "digits, the UCI handwritten digits (default), or tutorial, the random data of "
            "'Learning PyTorch with examples'.",
        ),
    ] = None
    data: Annotated[
        Path | None,
        _option(
            "Data",
            "Your own file, with --target: CSV or similar text with a header row (also as .gz or "
            ".zst), Parquet, Arrow, Feather or .npz. Or a DIR with x.npy and y.npy, which are not "
            "prepared; with --engine dask they may be larger than a worker's memory.",
        ),
    ] = None
    target: Annotated[
        str | None,
        _option("Data", "What to predict: the header of a column, or the key of an array."),
    ] = None
    weights: Annotated[
        str | None,
        _option(
            "Data",
            "How much each sample counts, 0 or more: the header of another column, or the key of "
            "another array. Default: all count the same.",
        ),
    ] = None
    drop: Annotated[
        list[str] | None,
        _option("Data", "The header of a column to leave out; may be given again."),
    ] = None
    separator: Annotated[
        str | None,
        _option(
            "Data",
            "What stands between the cells of a text file: ';', tab, space or another character. "
            "Default: found from the file.",
        ),
    ] = None
    encoding: Annotated[
        str | None,
        _option("Data", "The encoding of a text file, such as cp1252. Default: UTF-8."),
    ] = None
    task: Annotated[
        str | None,
        _option(
            "Data",
            "classification or regression. Default: classification for integers and text, "
            "regression for real numbers.",
        ),
    ] = None
    loss: Annotated[
        str | None,
        _option(
            "Data",
            "squared_error (default for numbers), softmax_cross_entropy (default for classes), "
            "logistic_cross_entropy (for two classes, or for labels 0 and 1 in several columns) or "
            "poisson (for counts).",
        ),
    ] = None
    cv: Annotated[
        int | None,
        _option(
            "Data",
            "Cross-validate: cut the file into this many folds, and score on each a network that "
            "is trained on the others. Only the scores are kept.",
            min=2,
        ),
    ] = None
    hidden: Annotated[
        str | None,
        _option(
            "Network",
            "Units of the hidden layers, such as 100,50; 'none' for a linear model. Default: "
            "100, or those of --resume.",
        ),
    ] = None
    epochs: Annotated[
        int | None,
        _option(
            "Network",
            "How many times to take every sample. Default: 30 for digits, 100 for --data.",
            min=1,
        ),
    ] = None
    steps: Annotated[
        int | None,
        _option(
            "Network",
            "How many batches to take, instead of --epochs. Default: 500 for tutorial.",
            min=1,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        _option(
            "Network",
            "Samples in a batch. Default: 64 for digits, 32 for a file of --data, else all.",
            min=1,
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        _option("Network", "Above 0. Default: suited to the data, or 0.001 for adam."),
    ] = None
    optimizer: Annotated[
        str | None, _option("Network", f"sgd or adam. Default: {_DEFAULT.optimizer}.")
    ] = None
    schedule: Annotated[
        str | None,
        _option(
            "Network",
            "How the learning rate falls: constant, inverse (divided by a power of the step), or "
            "exponential, linear or cosine until the last step. Default: "
            f"{_DEFAULT.schedule}.",
        ),
    ] = None
    final: Annotated[
        float | None,
        _option(
            "Network",
            "The part of the learning rate that is left at the last step, from 0 to 1. Default: 0, "
            "or 0.01 with --schedule exponential.",
        ),
    ] = None
    power: Annotated[
        float | None,
        _option(
            "Network",
            f"The power of the step in --schedule inverse. Default: {_DEFAULT.power}.",
        ),
    ] = None
    warmup: Annotated[
        int | None,
        _option(
            "Network",
            f"Steps at the start in which the learning rate rises. Default: {_DEFAULT.warmup}.",
            min=0,
        ),
    ] = None
    momentum: Annotated[
        float | None,
        _option("Network", f"Momentum of sgd, below 1. Default: {_DEFAULT.momentum}."),
    ] = None
    nesterov: Annotated[
        bool | None,
        _option("Network", "Use Nesterov's momentum, with --momentum. Default: --no-nesterov."),
    ] = None
    beta1: Annotated[
        float | None,
        _option(
            "Network",
            f"How adam's mean of gradients decays, below 1. Default: {_DEFAULT.beta1}.",
        ),
    ] = None
    beta2: Annotated[
        float | None,
        _option(
            "Network",
            f"How adam's mean of squared gradients decays, below 1. Default: {_DEFAULT.beta2}.",
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        _option("Network", f"Added to adam's divisor. Default: {_DEFAULT.epsilon}."),
    ] = None
    weight_decay: Annotated[
        float | None,
        _option(
            "Network",
            "As in torch's SGD, or AdamW for adam; of weights, not biases. Default: "
            f"{_DEFAULT.weight_decay}.",
        ),
    ] = None
    max_norm: Annotated[
        float | None,
        _option("Network", "Scale gradients of a larger norm down to this. Default: no limit."),
    ] = None
    activation: Annotated[
        str | None,
        _option(
            "Network",
            "Between layers: relu, leaky_relu, elu, softplus, tanh, logistic or identity. "
            f"Default: {_DEFAULT.activation}.",
        ),
    ] = None
    l2: Annotated[
        float | None,
        _option(
            "Network",
            "Add half of this times the sum of squared weights, not biases, to the loss. Default: "
            f"{_DEFAULT.l2}.",
        ),
    ] = None
    dual: Annotated[
        bool | None,
        _option(
            "Network",
            "Train the first layer in the space of the samples: the same algebra, faster with "
            "more features than samples. Not with adam. Default: --no-dual.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _option(
            "Network",
            "Decides the initial weights, the order of the samples, and which fifth is held out. "
            f"Default: {_DEFAULT.seed}.",
            min=0,
            max=2**64 - 1,
        ),
    ] = None
    backend: Annotated[
        str | None,
        _option(
            "Arithmetic",
            "Array library and device, such as torch:cuda; `backends` lists them. Default: "
            f"{_DEFAULT.backend}.",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"float32 or float64 (which also enables it in JAX). Default: {_DEFAULT.dtype}.",
        ),
    ] = None
    numerics: Annotated[
        str | None,
        _option(
            "Arithmetic",
            "native: the library's own arithmetic. exact: the same bits on every library and "
            f"device. Default: {_DEFAULT.numerics}.",
        ),
    ] = None
    engine: Annotated[
        str | None,
        _option(
            "Arithmetic",
            f"Split every batch among workers of an engine: {', '.join(ENGINES)}; "
            "--backend may name their device, such as torch:cuda.",
        ),
    ] = None
    workers: Annotated[
        int | None,
        _option(
            "Arithmetic",
            "How many workers the engine has. Default: as many as torchrun or mpiexec started, "
            "or 1.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        _option(
            "Arithmetic",
            "Address of a running scheduler of Dask, such as tcp://host:8786, for --engine dask. "
            "Its workers need this package, and the files of --data.",
        ),
    ] = None
    compile: Annotated[
        bool | None,
        _option(
            "Arithmetic", "Use the library's own compiler, if it has one. Default: --no-compile."
        ),
    ] = None
    save: Annotated[
        Path | None,
        _option(
            "Output",
            "Write the trained network, and what `predict` needs, to this safetensors FILE.",
            readable=False,
        ),
    ] = None
    resume: Annotated[
        Path | None,
        _option(
            "Output",
            "Start from the network in this FILE (keep --seed, so that the same fifth stays held "
            "out). Or go on from the last checkpoint in this DIR: options that are not given are "
            "those of the checkpoint, and new checkpoints are written there.",
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        _option(
            "Output",
            "Write checkpoints into this DIR; the last two are kept.",
            readable=False,
        ),
    ] = None
    every: Annotated[
        int | None,
        _option(
            "Output",
            "Steps between two checkpoints; --dual takes the next multiple of 256. Default: "
            f"{_DEFAULT.every}.",
            min=1,
        ),
    ] = None
    plot: Annotated[
        Path | None,
        _option(
            "Output",
            "Draw into this FILE.png the loss of every step and, for the samples held out, a "
            "confusion matrix of classes or predicted against true numbers.",
            readable=False,
        ),
    ] = None
    json: Annotated[bool, _option("Output", "Print JSON instead of tables.", "--json")] = False


def given_of(options: Options) -> dict[str, Any]:
    """Make fields of `Settings` from the options that were given."""
    if options.steps is not None and options.epochs is not None:
        raise CliError(
            f"expected --steps or --epochs, got both, {options.steps} and {options.epochs}"
        )
    rate = options.learning_rate
    if rate is not None and not 0.0 < rate < math.inf:
        raise CliError(f"expected a positive --learning-rate, got {rate}")
    fields = options._asdict() | {
        "data": None if options.data is None else str(options.data),
        "drop": tuple(options.drop) if options.drop else None,
        "separator": None if options.separator is None else parse_separator(options.separator),
        "hidden": None if options.hidden is None else _parse_hidden(options.hidden),
    }
    return {
        name: value
        for name, value in fields.items()
        if name in Settings._fields and value is not None
    }


def with_engine(settings: Settings, options: Options) -> Settings:
    """Check the options of an engine, and put in the settings that follow from it."""
    engine, workers = options.engine, options.workers
    choose("--dtype", settings.dtype, DTYPES)
    choose("--numerics", settings.numerics, tuple(NUMERICS))
    if options.scheduler is not None and engine != "dask":
        raise CliError("--scheduler needs --engine dask" + (f", got {engine}" if engine else ""))
    if engine is None:
        if workers is not None:
            raise CliError("--workers needs --engine")
        return settings
    choose("--engine", engine, tuple(ENGINES))
    if settings.dual:
        raise CliError(f"expected no --engine with --dual, got --engine {engine}")
    if workers is not None and workers < 1:
        raise CliError(f"expected --workers of 1 or more, got {workers}")
    library = ENGINES[engine]
    backend = options.backend or library
    if backend.partition(":")[0] != library:
        raise CliError(f"--engine {engine} needs --backend {library}, got {backend}")
    if engine == "dask" and options.compile:
        raise CliError("--engine dask has arrays that --compile cannot compile")
    # The checkpoint of another engine, such as JAX, which always compiles, decides nothing here.
    own = options.compile or settings.backend.partition(":")[0] == engine
    compile = engine == "jax" or (engine == "torch" and settings.compile and own)
    return settings._replace(backend=backend, compile=compile)


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


def parse_separator(separator: str) -> str:
    """Return one character; a tab and a space may be given by their names."""
    found = {"tab": "\t", r"\t": "\t", "space": " "}.get(separator, separator)
    if len(found.encode()) != 1 or found in '"\r\n':
        raise CliError(f"expected --separator to be one character, tab or space, got {separator!r}")
    return found

"""`python -m kernels predict`: predict the target of each row of a file."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from backends import Backend

from ...layer import Layer
from ...numerics import Numerics
from ..common import (
    NUMERICS,
    CliError,
    as_cli_error,
    check_output,
    choose,
    find_backend,
    is_same,
    require,
    warn,
)
from ..scores import score, shown_scores
from ..train.model import Model, read_model
from ..train.running import MOST_ELEMENTS
from ..train.settings import parse_separator
from ..train.targets import LOSSES, task_of
from .answers import Answers, answer_of, answers
from .rows import Rows, rows_of

__all__ = ["predict"]

_SUFFIXES = (".csv", ".parquet")


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="What `train --save` wrote.", readable=False)
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="New rows, in any format that `train --data` reads. Columns may come in any "
            "order; the target may be among them, others are ignored. A DIR if trained on a DIR.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write FILE.csv or FILE.parquet. Default: CSV to standard output.", readable=False
        ),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Write a column with the probability of each class.")
    ] = False,
    backend: Annotated[
        str,
        typer.Option(help="Array library and device, such as torch:cuda; `backends` lists them."),
    ] = "numpy",
    numerics: Annotated[
        str | None,
        typer.Option(
            help="native: the library's own arithmetic. exact: the same bits everywhere. "
            "Default: as trained."
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(help="What stands between the cells of FILE. Default: found from the file."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="The encoding of a text FILE, such as cp1252. Default: UTF-8."),
    ] = None,
) -> None:
    """Predict the target of each row of a file with a saved model.

    With exact numerics the predictions have the same bits on every backend. If the target is in the
    file, their score is printed on stderr.
    """
    # Everything that can be wrong is found before anything is computed or written.
    require("numpy", "predict")
    require("safetensors", "predict")
    _check_output(output, model, file)
    known = read_model(model)
    if known.loss is None or known.numerics is None:
        raise CliError(
            f"expected a model that `train --save` wrote, got a network alone in {model}"
        )
    if proba and task_of(LOSSES[known.loss]) != "classification":
        raise CliError(f"--proba needs a model of classes, got one of numbers in {model}")
    kind = NUMERICS[choose("--numerics", numerics or known.numerics, tuple(NUMERICS))]
    place = find_backend(backend, known.dtype, numerics or known.numerics)
    separator = None if separator is None else parse_separator(separator)
    rows = rows_of(known, file, separator=separator, encoding=encoding)
    found = _computed(_placed(known, place), rows, place, kind, proba=proba)
    given = answers(known, found, proba=proba)
    _write(output, given)
    if output is not None:
        typer.echo(f"{rows.n} rows predicted on {place.name}, written to {output}")
    if rows.true is not None and not proba:
        _tell_score(given, rows.true)


def _check_output(output: Path | None, model: Path, file: Path) -> None:
    if output is None:
        return
    if output.suffix.lower() not in _SUFFIXES:
        raise CliError(f"expected --output FILE.csv or FILE.parquet, got {output.name!r}")
    if is_same(output, model) or is_same(output, file):
        raise CliError(f"expected --output to be a file of its own, got {output}")
    check_output("--output", output, in_place=True)


def _placed(model: Model, place: Backend) -> Model:
    """Bring the network to a backend."""

    def moved(a: Any) -> Any:
        return None if a is None else place.asarray(a, model.dtype)

    return model._replace(layers=tuple(Layer(moved(w), moved(b)) for w, b in model.layers))


def _computed(model: Model, rows: Rows, place: Backend, numerics: Numerics, *, proba: bool) -> Any:
    """Compute predictions for all rows, some at a time, with a progress bar."""
    import numpy as np

    widest = max(max(layer.weight.shape) for layer in model.layers)
    size = max(1, MOST_ELEMENTS // widest)
    terminal = Console(stderr=True)
    starts = track(
        range(0, rows.n, size),
        description="predicting",
        console=terminal,
        disable=not terminal.is_terminal,
        transient=True,
    )
    found = []
    # A network can overflow on rows that are far from those it was trained on.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in starts:
            x = place.asarray(rows.take(start, min(start + size, rows.n)), model.dtype)
            found.append(place.to_numpy(answer_of(model, x, proba=proba, numerics=numerics)))
            wrong = ~np.isfinite(found[-1]).all(axis=1)
            if wrong.any():
                row = start + int(wrong.argmax()) + 1
                raise CliError(
                    f"expected finite predictions, got infinity or NaN for row {row}, whose "
                    "numbers are too far from those trained on",
                    status=1,
                )
    return np.concatenate(found)


def _write(output: Path | None, given: Answers) -> None:
    """Write columns, with as few digits as read back the same number."""
    if output is not None and output.suffix.lower() == ".parquet":
        require("polars", "--output FILE.parquet")
        import polars as pl

        frame = pl.DataFrame(dict(zip(given.names, given.columns, strict=True)))
        # polars gives a full disk an error of its own.
        errors = OSError, pl.exceptions.PolarsError
        with as_cli_error(*errors, prefix=f"cannot write {output}: ", status=1):
            frame.write_parquet(output)
        return
    columns = [c if isinstance(c, list) else c.astype(str).tolist() for c in given.columns]
    lines = [given.names, *zip(*columns, strict=True)]
    if output is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
        return
    with (
        as_cli_error(OSError, prefix=f"cannot write {output}: ", status=1),
        output.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(lines)


def _tell_score(given: Answers, true: Any) -> None:
    """Print the score on stderr, over rows whose target is known."""
    import numpy as np

    known = np.ones(len(true), dtype=bool)
    if true.dtype.kind == "f":
        known = ~np.isnan(true).any(axis=1)
    elif true.dtype.kind == "U":
        known = (true != "").all(axis=1)
    if known.any():
        predicted = np.stack([np.asarray(column) for column in given.columns], axis=1)
        shown = ", ".join(shown_scores(score(predicted[known], true[known])))
        warn(f"{shown} on {known.sum()} rows whose target is known.")

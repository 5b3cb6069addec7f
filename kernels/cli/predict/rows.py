"""The rows of a file, prepared as a model was trained on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from ..common import CliError, warn
from ..data.arrays import FOLDER, mapped, read_new
from ..data.preparation import Preparation, check_kinds, features
from ..data.reading import read_sheet
from ..data.sheet import Sheet, listed, where
from ..data.text import NOTHING, numbers
from ..train.model import Model
from .answers import classes_of

__all__ = ["Rows", "rows_of"]


class Rows(NamedTuple):
    """Rows to predict for.

    Attributes
    ----------
    n
        How many.
    take
        (start, stop) -> those rows, prepared, a NumPy array of shape (stop - start, n_in).
    true
        The target, shape (n, columns), or None if the file lacks it: classes as text, "" where
        unknown; labels 0 and 1; or float64 numbers, NaN where unknown.
    """

    n: int
    take: Callable[[int, int], Any]
    true: Any


def rows_of(model: Model, path: Path, *, separator: str | None, encoding: str | None) -> Rows:
    """Read the rows of a file or folder; raise `CliError` if they are not what the model takes."""
    preparation = model.preparation
    if preparation is None:
        if os.path.exists(path) and not os.path.isdir(path):
            raise CliError(
                f"expected a folder with {FOLDER[0]}, since the model was trained on prepared "
                f"data, got {path}"
            )
        return _of_folder(model, path)
    if os.path.isdir(path):
        raise CliError(f"expected a file of the columns that the model was trained on, got {path}")
    if path.suffix.lower() == ".npz":
        for option, given in (("--separator", separator), ("--encoding", encoding)):
            if given is not None:
                raise CliError(f"{option} needs a file of columns, got {path.name!r}")
        sheet, y = read_new(path, preparation.target.name)
        found, width = sheet.frame.width, len(preparation.columns)
        if found != width:
            raise CliError(f"expected samples of {width} features in {path}, got {found}")
        true = None if y is None else _array_of_target(model, path, y, sheet.frame.height)
    else:
        sheet = _columns(preparation, path, separator, encoding)
        true = _column_of_target(preparation, sheet)

    def take(start: int, stop: int) -> Any:
        import numpy as np

        # With the number of each row, so that an error can name it.
        part = sheet.frame.slice(start, stop - start)
        rows = sheet._replace(frame=part, rows=np.arange(start, stop))
        return features(preparation, rows, model.dtype, strict=False)

    # This raises if a column is missing, before any row is looked at.
    take(0, 0)
    check_kinds(preparation, sheet)
    n = sheet.frame.height
    if n == 0:
        raise CliError(f"expected at least one row of data in {path}, got 0")
    _tell_others(preparation, sheet)
    _tell_unseen(preparation, sheet)
    return Rows(n, take, true)


def _columns(
    preparation: Preparation, path: Path, separator: str | None, encoding: str | None
) -> Sheet:
    """Read the columns that the model knows."""
    names = [column.name for column in preparation.columns]
    # What was text stays text, also where it looks like numbers.
    text = [column.name for column in preparation.columns if column.kind == "category"]
    target = preparation.target
    return read_sheet(
        path,
        separator=separator,
        encoding=encoding,
        only=[*names, target.name],
        text=[*text, target.name] if target.classes else text,
    )


def _tell_others(preparation: Preparation, sheet: Sheet) -> None:
    """Tell which columns the model does not know."""
    dropped = {name for name, _ in preparation.dropped}
    others = [name for name in sheet.others if name not in dropped]
    if others:
        warn(f"Ignored in {sheet.path}: {listed(others)}.")


def _tell_unseen(preparation: Preparation, sheet: Sheet) -> None:
    """Tell the first category in each column that no training row had."""
    import polars as pl

    for column in preparation.columns:
        if column.kind != "category":
            continue
        cells = sheet.frame[column.name].cast(pl.String)
        unseen = ~cells.is_in(list(column.categories)).fill_null(True)
        if unseen.any():
            row = int(unseen.arg_max())
            others = int(unseen.sum()) - 1
            more = f" and {others} more row{'s' * (others > 1)}" if others else ""
            place = where(sheet, row, column.name)
            warn(f"Never seen in training: {cells[row]!r} in {place}{more}; its inputs are all 0.")


def _column_of_target(preparation: Preparation, sheet: Sheet) -> Any:
    """Take the target, if it is there."""
    import polars as pl

    target = preparation.target
    if target.name not in sheet.frame.columns:
        return None
    cells = sheet.frame[target.name]
    if target.classes:
        labels = cells.cast(pl.String).fill_null("").to_numpy().astype(str).reshape(-1, 1)
        return _as_classes(sheet.path, labels, target.classes)
    if not cells.dtype.is_numeric():
        cells, _ = numbers(cells.cast(pl.String), sheet.comma)
    return cells.cast(pl.Float64).fill_null(float("nan")).to_numpy().reshape(-1, 1)


def _of_folder(model: Model, folder: Path) -> Rows:
    """Map the array of features, and that of the target if it is there."""
    import numpy as np

    path, target = (folder / name for name in FOLDER)
    n_in = model.layers[0].weight.shape[0]
    x = mapped(path)
    if x.ndim != 2 or x.shape[1] != n_in or len(x) == 0 or x.dtype.kind not in "iuf":
        raise CliError(
            f"expected real numbers of shape (samples, {n_in}) in {path}, got {x.dtype} of shape "
            f"{x.shape}"
        )

    def take(start: int, stop: int) -> Any:
        rows = np.asarray(x[start:stop])
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows.astype(model.dtype))
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise CliError(
                f"expected numbers that are finite as {model.dtype}, got {rows[row, column]} in "
                f"row {start + row}, column {column} (from 0) of {path}"
            )
        return rows

    true = (
        _array_of_target(model, target, mapped(target), len(x)) if os.path.exists(target) else None
    )
    return Rows(len(x), take, true)


def _array_of_target(model: Model, path: Path, y: Any, n: int) -> Any:
    """Give a target in an array the form that answers have."""
    classes = classes_of(model)
    columns = 1 if classes else model.layers[-1].weight.shape[1]
    kinds, what = ("iufbUS", "labels") if classes else ("iufb", "numbers")
    if y.dtype.kind not in kinds or y.shape not in ((n,), (n, columns)):
        raise CliError(
            f"expected a target of {what} of shape ({n}, {columns}) in {path}, got {y.dtype} of "
            f"shape {y.shape}"
        )
    y = y.reshape(n, columns)
    if classes:
        return _as_classes(path, y.astype(str), classes)
    if model.loss != "logistic_cross_entropy":
        return y.astype("float64")
    wrong = y[(y != 0) & (y != 1)]
    if wrong.size:
        raise CliError(f"expected labels 0 and 1 as the target in {path}, got {wrong[0]:g}")
    return y.astype("int64")


def _as_classes(path: Path, labels: Any, classes: tuple[str, ...]) -> Any:
    """Write labels as the classes are, "" where there is none, and tell those that are no class."""
    import numpy as np

    found, places = np.unique(labels, return_inverse=True)
    known, numbers = set(classes), {_number(name): name for name in classes}
    written = [
        name if name in known else numbers.get(_number(name), "" if name in NOTHING else name)
        for name in found.tolist()
    ]
    others = [name for name in written if name and name not in known]
    if others:
        warn(f"Never trained on: {listed(others, 4)} as the target in {path}.")
    return np.asarray(written)[places.reshape(labels.shape)]


def _number(label: str) -> Decimal | str:
    """Give the number that a label writes, as pandas writes 1 as 1.0; or the label."""
    try:
        number = Decimal(label)
    except InvalidOperation:
        return label
    return number if number.is_finite() else label

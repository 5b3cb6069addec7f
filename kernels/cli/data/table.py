"""Read a file into features, a target, and weights of samples."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..common import CliError
from .arrays import beside, read_archive
from .reading import read_sheet
from .sheet import Sheet, Table, counted, listed, named, select, where
from .text import NOTHING, numbers

__all__ = ["read_table"]

# Of fewer rows no fifth can be held out.
_MIN_ROWS = 5

# With more classes than these, all whole numbers, a note suggests regression.
_MANY_CLASSES = 20

# With more than these --task has to be given.
_MOST_CLASSES = 1000


def read_table(
    path: Path,
    target: str,
    task: str | None,
    weights: str | None = None,
    *,
    drop: Collection[str] = (),
    separator: str | None = None,
    encoding: str | None = None,
) -> Table:
    """Read features and target from a file of columns or from a NumPy .npz file.

    Parameters
    ----------
    path
        The file.
    target
        The header of a column, or the key of an array.
    task
        One of `TASKS` or `LABELS`; if None, integers and text are classes, real numbers are not.
    weights
        The header or key of the weights of samples, if there are any.
    drop
        Headers of columns to leave out.
    separator
        What stands between the cells of text; None to find it from the file.
    encoding
        That of text; None for UTF-8.

    Raises
    ------
    CliError
        If the file cannot be used; the message says what is wrong with it, and where.
    """
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    if path.suffix.lower() == ".npz":
        options = {"--drop": drop, "--separator": separator, "--encoding": encoding}
        for option, given in options.items():
            if given:
                raise CliError(f"{option} needs a file of columns, got {path.name!r}")
        sheet, y, weight = read_archive(path, target, task, weights)
        _check_rows(path, len(y))
        if y.dtype.kind != "f":
            y, classes = _classes_of_array(path, target, y)
    else:
        sheet = read_sheet(path, separator=separator, encoding=encoding, drop=drop, text=(target,))
        _check_columns(sheet, target, weights)
        sheet, y, classes, notes = _target(sheet, target, task)
        weight = None if weights is None else _weights(sheet, weights)
        others = named([target] if weights is None else [target, weights])
        sheet = sheet._replace(frame=sheet.frame.drop(others))
    if weight is not None and weight.min() < 0.0:
        raise CliError(
            f"expected weights of 0 or more, got {weight.min():g} in {weights!r} of {path}"
        )
    dropped = tuple((name, "as --drop says") for name in drop)
    return Table(path.name, sheet, y, classes, weight, target, dropped, notes)


def _check_rows(path: Path, rows: int) -> None:
    if rows < _MIN_ROWS:
        raise CliError(f"expected at least {_MIN_ROWS} rows of data in {path}, got {rows}")


def _check_columns(sheet: Sheet, target: str, weights: str | None) -> None:
    names = sheet.frame.columns
    for option, name in (("--target", target), ("--weights", weights)):
        if name is not None and name not in names:
            raise CliError(
                f"expected {option} to be a column of {sheet.path} ({listed(names)}), got {name!r}"
            )
    if len(names) <= 1 + (weights is not None):
        raise CliError(
            f"expected columns beside {beside(target, weights)} in {sheet.path}, got none"
        )


def _target(
    sheet: Sheet, target: str, task: str | None
) -> tuple[Sheet, Any, tuple[str, ...], tuple[str, ...]]:
    """Find numbers or classes, in the rows that have them."""
    import polars as pl

    cells = sheet.frame[target]
    text = cells.cast(pl.String)
    known = [cell for cell in text.drop_nulls().unique() if cell not in NOTHING]
    whole = [cell for cell in known if _is(int, cell)]
    labels: list[str] = []
    points = [cell.replace(",", ".") if sheet.comma else cell for cell in known]
    if task == "regression" or (task is None and len(whole) < sum(_is(float, c) for c in points)):
        cells = _numbers(sheet, target, task)
    # 01 and the like are names, not numbers. Numbers may be of any size.
    elif len(whole) == len(known) and all(cell == str(int(cell)) for cell in whole):
        cells, labels = text.set(text.is_in(NOTHING), None), sorted(whole, key=int)
    else:
        cells, labels = text, text.drop_nulls().unique().sort().to_list()
    there = cells.is_not_null()
    _check_rows(sheet.path, int(there.sum()))
    notes: tuple[str, ...] = ()
    if not there.all():
        notes = (f"{counted(len(there) - there.sum(), 'row')} without {target!r} left out",)
        sheet, cells = select(sheet, there.to_numpy()), cells.filter(there)
    if not labels:
        return sheet, cells.to_numpy().reshape(-1, 1), (), notes
    _check_classes(sheet.path, target, len(labels), len(cells))
    if task is None and len(labels) > _MOST_CLASSES and len(whole) == len(known):
        raise CliError(
            f"expected --task regression, or classification, for a target of whole numbers, got "
            f"{counted(len(labels), 'different one')} in {target!r} of {sheet.path}"
        )
    if len(labels) > _MANY_CLASSES and len(whole) == len(known):
        notes = (
            *notes,
            f"{len(labels)} classes; to predict numbers, give --task regression",
        )
    codes = dict(zip(labels, range(len(labels)), strict=True))
    y = cells.replace_strict(codes, return_dtype=pl.Int32).to_numpy()
    return sheet, y, tuple(labels), notes


def _numbers(sheet: Sheet, target: str, task: str | None) -> Any:
    """Take the numbers of a target."""
    cells = sheet.frame[target]
    if not cells.dtype.is_float():
        found, odd = numbers(cells, sheet.comma)
        if odd.any():
            row = int(odd.arg_max())
            raise CliError(
                f"expected a number in the target, got {cells[row]!r} in "
                f"{where(sheet, row, target)}"
                + ("" if task else ": for classes, give --task classification")
            )
        cells = found
    if cells.is_infinite().any():
        row = int(cells.is_infinite().arg_max())
        raise CliError(f"expected a finite number, got {cells[row]} in {where(sheet, row, target)}")
    return cells


def _weights(sheet: Sheet, weights: str) -> Any:
    import polars as pl

    cells = sheet.frame[weights]
    odd = cells.is_null()
    if not cells.dtype.is_numeric():
        # Dates are no numbers either.
        cells = cells.cast(pl.String)
        odd = numbers(cells, sheet.comma)[1]
    if odd.any() or cells.null_count():
        row = int((odd if odd.any() else cells.is_null()).arg_max())
        got = "an empty cell" if cells[row] is None else repr(cells[row])
        raise CliError(f"expected a number, got {got} in {where(sheet, row, weights)}")
    return cells.cast(float).to_numpy()


def _classes_of_array(path: Path, target: str, y: Any) -> tuple[Any, tuple[str, ...]]:
    import numpy as np

    labels, indices = np.unique(y, return_inverse=True)
    _check_classes(path, target, len(labels), len(y))
    return indices.astype(np.int32), tuple(str(label) for label in labels.tolist())


def _check_classes(path: Path, target: str, classes: int, rows: int) -> None:
    found = f"got {classes} in {rows} rows of the target {target!r} in {path}"
    if classes < 2:
        raise CliError(f"expected two or more classes, {found}")
    if 2 * classes > rows:
        raise CliError(
            f"expected classes that occur more than once, {found}: to predict numbers, give "
            "--task regression"
        )


def _is(kind: type, cell: str) -> bool:
    try:
        kind(cell)
    except ValueError:
        return False
    return True

"""What every reader of a file returns: its columns, and how to name a cell of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from ..common import CliError

__all__ = [
    "LABELS",
    "TASKS",
    "Sheet",
    "Table",
    "chosen",
    "counted",
    "listed",
    "named",
    "select",
    "where",
]

TASKS = ("classification", "regression")

# The task of `--loss logistic_cross_entropy`: two classes, or labels in several columns.
LABELS = "labels"


class Sheet(NamedTuple):
    """The columns of a file.

    Attributes
    ----------
    path
        The file.
    frame
        A polars DataFrame: numbers, text or dates, and null where a cell is empty.
    place
        (row, column) -> where a cell is, in words. Rows of the file count from 0.
    comma
        Whether numbers in text have a decimal comma.
    rows
        The number in the file of each row of the frame, or None if all are there.
    others
        Columns of the file that were not asked for.
    """

    path: Path
    frame: Any
    place: Callable[[int, str], str]
    comma: bool = False
    rows: Any = None
    others: tuple[str, ...] = ()


class Table(NamedTuple):
    """A user's data on the host.

    Attributes
    ----------
    name
        The file.
    x
        The columns of features; or for prepared data an array of any dtype and shape
        (n, features), which may be a memory map.
    y
        Class indices, int32 of shape (n,), or real targets, float64 of shape (n, targets); for
        prepared data of any dtype.
    classes
        The label of each class index; empty in regression.
    weight
        How much each sample counts, float64 of shape (n,), or None.
    target
        The column or key of y; None for prepared data.
    dropped
        Columns that --drop left out, and why.
    notes
        Sentences about what was done to the rows.
    """

    name: str
    x: Any
    y: Any
    classes: tuple[str, ...]
    weight: Any = None
    target: str | None = None
    dropped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def select(sheet: Sheet, keep: Any) -> Sheet:
    """Take the rows where a NumPy array of booleans is true."""
    import numpy as np

    rows = np.arange(len(keep)) if sheet.rows is None else sheet.rows
    return sheet._replace(frame=sheet.frame.filter(keep), rows=rows[keep])


def where(sheet: Sheet, row: int, column: str) -> str:
    """Say where in the file the cell in a row of the frame is."""
    return sheet.place(row if sheet.rows is None else int(sheet.rows[row]), column)


def chosen(
    path: Path, names: list[str], drop: Collection[str], only: Collection[str] | None
) -> list[str]:
    """Name the columns to read: those not in `drop` and, if `only` is given, in `only`."""
    unknown = next((name for name in drop if name not in names), None)
    if unknown is not None:
        raise CliError(
            f"expected --drop to be a column of {path} ({listed(names)}), got {unknown!r}"
        )
    pattern = next((name for name in names if name.startswith("^") and name.endswith("$")), None)
    if pattern is not None:
        raise CliError(
            f"expected names that polars does not take for patterns, got {pattern!r} in {path}: "
            "give the column another name"
        )
    return [name for name in names if name not in drop and (only is None or name in only)]


def named(names: Collection[str]) -> Any:
    """Select columns by their names, also one of "*", which to polars is all of them."""
    import polars.selectors

    return polars.selectors.by_name(*names, require_all=False)


def listed(names: list[str], limit: int = 12) -> str:
    """List names, and say how many more there are."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def counted(number: int, noun: str) -> str:
    """Write a number and its noun.

    Examples
    --------
    >>> counted(2, "row")
    '2 rows'
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

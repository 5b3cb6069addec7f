"""How the columns of a file are prepared for a network, learned from the training rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..common import CliError
from .sheet import Sheet, counted, listed, where

__all__ = [
    "INDEX",
    "Column",
    "Preparation",
    "Target",
    "as_fields",
    "check_kinds",
    "features",
    "filled",
    "from_json",
    "learn",
    "lines",
    "scale_of",
    "scaled",
    "to_json",
    "width",
]

# Names of columns that may only count the rows.
_INDEX = ("", "unnamed: 0", "index", "rownames", "row_names", "row.names", "id")

# Why such a column is dropped.
INDEX = "counts the rows"

# More categories than these, or than half the rows, cannot be learned from.
_MOST_CATEGORIES = 1000

_KINDS = ("number", "date", "category")

# Microseconds in a day.
_MICROSECONDS = 86_400_000_000


class Column(NamedTuple):
    """A column of a file that a network sees.

    Attributes
    ----------
    name
        Its header.
    kind
        "number", "date" (days since 1970, a number) or "category".
    fill
        What an empty cell becomes. Numbers: the median of the training rows. Categories: the most
        frequent one; but if training rows have empty cells, these are a category of their own, "".
    categories
        Each makes an input, 1 in the rows that have it and else 0; empty for numbers.
    mean, deviation
        Of numbers over the training rows: subtract the first, then divide by the second.
    """

    name: str
    kind: str
    fill: float | str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


class Target(NamedTuple):
    """What is predicted.

    Attributes
    ----------
    name
        The header of the column, or the key of the array.
    classes
        The label of each output, or two labels for a single output; empty for numbers.
    mean, deviation
        As in `Column`, of each number that is predicted with the squared error; else empty.
    """

    name: str
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


class Preparation(NamedTuple):
    """How rows of a file or an array are prepared for a network.

    Attributes
    ----------
    columns
        In the order of the inputs.
    target
        What is predicted.
    dropped
        Each column that is left out, and why.
    """

    columns: tuple[Column, ...]
    target: Target
    dropped: tuple[tuple[str, str], ...] = ()


def learn(
    sheet: Sheet,
    train: Any,
    target: Target,
    *,
    dropped: Sequence[tuple[str, str]] = (),
    whole: bool = False,
) -> Preparation:
    """Decide how to prepare each column, and learn the numbers for it from the training rows.

    scikit-learn's SimpleImputer, OneHotEncoder and StandardScaler would do most of it, but NumPy's
    means depend on the machine. Here each sum is rounded once.

    Parameters
    ----------
    sheet
        The columns, without the target.
    train
        NumPy indices of the training rows.
    target
        What is predicted.
    dropped
        Columns that are not in the sheet, and why.
    whole
        Whether constant columns stay, as in an array.

    Raises
    ------
    CliError
        If no column is left.
    """
    columns, left_out = [], list(dropped)
    for cells in sheet.frame:
        found = _column(sheet, cells, train, whole)
        if isinstance(found, Column):
            columns.append(found)
        else:
            left_out.append((cells.name, found))
    if not columns:
        why = "; ".join(f"{name!r}: {reason}" for name, reason in left_out[:12])
        raise CliError(f"expected a column to learn from in {sheet.path}, got none ({why})")
    return Preparation(tuple(columns), target, tuple(left_out))


def _column(sheet: Sheet, cells: Any, train: Any, whole: bool) -> Column | str:
    """Learn how to prepare a column, or say why it is dropped."""
    import numpy as np

    known = cells.gather(train).drop_nulls()
    if not len(known):
        return "empty"
    kind = _kind(cells)
    if kind != "category":
        if kind == "number" and cells.name.lower() in _INDEX and _counts_rows(sheet, cells):
            return INDEX
        values = _values(cells, kind)[train]
        fill = _median(values[~np.isnan(values)])
        values = np.where(np.isnan(values), fill, values)
        if not whole and (values == fill).all():
            return f"is {fill:g} in all training rows"
        return Column(cells.name, kind, fill, (), *scale_of(values))
    counts = known.value_counts().rows()
    if len(counts) > min(_MOST_CATEGORIES, len(train) // 2):
        return f"{len(counts)} different texts in {len(train)} training rows"
    # Of the most frequent categories the first in alphabetical order.
    frequent: str = min(counts, key=lambda row: (-row[1], row[0]))[0]
    names = {name for name, _ in counts}
    if len(known) < len(train):
        frequent = ""
        names.add("")
    if len(names) == 1:
        return f"is {frequent!r} in all training rows"
    return Column(cells.name, kind, frequent, tuple(sorted(names)))


def _median(values: Any) -> float:
    """Take the middle, or the mean of the two there, also where their sum is infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        middle = float(np.median(values))
    return middle if math.isfinite(middle) else 2.0 * float(np.median(values / 2.0))


def _kind(cells: Any) -> str:
    import polars as pl

    if cells.dtype == pl.Datetime:
        return "date"
    return "number" if cells.dtype.is_numeric() else "category"


def _counts_rows(sheet: Sheet, cells: Any) -> bool:
    """Say whether cells are 0, 1, ... or 1, 2, ... in the rows of the file."""
    import numpy as np

    rows = np.arange(len(cells)) if sheet.rows is None else sheet.rows
    values = _values(cells, "number")
    return any((values == rows + first).all() for first in (0, 1))


def _values(cells: Any, kind: str) -> Any:
    """Make float64 numbers of a column, NaN where it is empty."""
    import numpy as np
    import polars as pl

    if kind == "date":
        cells = cells.cast(pl.Int64).cast(pl.Float64) / _MICROSECONDS
    return cells.cast(pl.Float64).fill_null(np.nan).to_numpy()


def scale_of(a: Any) -> tuple[float, float]:
    """Find mean and standard deviation of float64 numbers, with sums rounded once: in any order.

    For constant numbers the second is a scale instead: 1, or the mean's magnitude if larger.
    """
    import numpy as np

    # Scaled to near 1, since squares of very large or small numbers are infinite or 0; by a power
    # of two, which rounds nothing.
    exponent = max(int(np.frexp(np.max(np.abs(a)))[1]), -1000)
    a = np.ascontiguousarray(np.ldexp(a, -exponent))
    mean = math.fsum(memoryview(a)) / len(a)
    deviation = math.sqrt(math.fsum(memoryview((a - mean) ** 2)) / len(a))
    # The deviation of a constant column is 0 or a rounding error, and no scale.
    if deviation <= 1e-12 * abs(mean):
        mean = math.ldexp(mean, exponent)
        return mean, max(1.0, abs(mean))
    return math.ldexp(mean, exponent), math.ldexp(deviation, exponent)


def scaled(a: Any, mean: float, deviation: float) -> Any:
    """Subtract a mean and divide by a deviation, scaled so that no difference overflows."""
    import numpy as np

    exponent = math.frexp(deviation)[1]
    mean, deviation = math.ldexp(mean, -exponent), math.ldexp(deviation, -exponent)
    return (np.ldexp(a, -exponent) - mean) / deviation


def width(preparation: Preparation) -> int:
    """Count the inputs that the columns make."""
    return sum(len(column.categories) or 1 for column in preparation.columns)


def features(
    preparation: Preparation,
    sheet: Sheet,
    dtype: str = "float64",
    *,
    rows: Any = None,
    strict: bool = True,
) -> Any:
    """Prepare rows for a network.

    Parameters
    ----------
    preparation
        As `learn` returned it.
    sheet
        It has the same columns in any order, and may have others.
    dtype
        That of the result.
    rows
        NumPy indices of the rows to take; None for all.
    strict
        Whether a category that was not learned is an error; if not, all its inputs are 0.

    Returns
    -------
    array
        A NumPy array of shape (rows, inputs).

    Raises
    ------
    CliError
        If a column is missing, has another kind of cells or a category that was not learned, or if
        a number is too large.
    """
    import numpy as np

    names, there = [column.name for column in preparation.columns], set(sheet.frame.columns)
    missing = [name for name in names if name not in there]
    if missing:
        raise CliError(
            f"expected the columns {listed(names)} in {sheet.path}, got a file without "
            f"{listed(missing)}"
        )
    frame, rows = sheet.frame, np.arange(sheet.frame.height) if rows is None else rows
    sheet = sheet._replace(rows=rows if sheet.rows is None else sheet.rows[rows])
    out = np.empty((len(rows), width(preparation)), dtype)
    start = 0
    for column in preparation.columns:
        cells = frame[column.name].gather(rows)
        if column.kind == "category":
            codes = _codes(column, cells, sheet, strict)
            for place in range(len(column.categories)):
                out[:, start + place] = codes == place
        else:
            _check_kind(column, cells, sheet)
            values = _values(cells, column.kind)
            values = np.where(np.isnan(values), column.fill, values)
            with np.errstate(over="ignore"):
                out[:, start] = scaled(values, column.mean, column.deviation)
            _check_finite(column, out[:, start], values, sheet)
        start += len(column.categories) or 1
    return out


def _codes(column: Column, cells: Any, sheet: Sheet, strict: bool) -> Any:
    """Find the number of the category of each cell, -1 for one that was not learned."""
    import polars as pl

    known = {name: code for code, name in enumerate(column.categories)}
    codes = (
        cells.cast(pl.String)
        .fill_null(column.fill)
        .replace_strict(known, default=-1, return_dtype=pl.Int32)
        .to_numpy()
    )
    if strict and (codes < 0).any():
        row = int((codes < 0).argmax())
        raise CliError(
            f"expected one of {listed(list(column.categories))}, which were learned, got "
            f"{cells[row]!r} in {where(sheet, row, column.name)}"
        )
    return codes


def check_kinds(preparation: Preparation, sheet: Sheet) -> None:
    """Raise `CliError` if a column has another kind of cells than was learned."""
    for column in preparation.columns:
        if column.kind != "category":
            _check_kind(column, sheet.frame[column.name], sheet)


def _check_kind(column: Column, cells: Any, sheet: Sheet) -> None:
    found = _kind(cells)
    if found != column.kind and cells.count():
        from .text import DATE, numbers

        odd = cells.is_not_null()
        if found == "category":
            dates = column.kind == "date"
            others = odd & ~cells.str.contains(DATE) if dates else numbers(cells, sheet.comma)[1]
            odd = others if others.any() else odd
        row = int(odd.arg_max())
        raise CliError(
            f"expected a {column.kind}, got {str(cells[row])!r} in {where(sheet, row, column.name)}"
        )


def _check_finite(column: Column, got: Any, values: Any, sheet: Sheet) -> None:
    import numpy as np

    if not np.isfinite(got).all():
        row = int(np.argmin(np.isfinite(got)))
        far = scaled(values, column.mean, column.deviation)[row]
        raise CliError(
            f"expected standardised numbers that {got.dtype} holds, got {far:.4g} deviations from "
            f"the mean in {where(sheet, row, column.name)}"
        )


def filled(preparation: Preparation, sheet: Sheet) -> list[str]:
    """Say what became of empty cells and of categories that were not learned."""
    said = []
    for column in preparation.columns:
        cells = sheet.frame[column.name]
        if empty := cells.null_count():
            became = "a category"
            if column.fill != "":
                became = repr(column.fill) if column.categories else f"{column.fill:.6g}"
            said.append(f"{column.name!r}: {counted(empty, 'empty cell')} became {became}")
        if column.categories:
            odd = _codes(column, cells, sheet, strict=False) < 0
            if odd.any():
                unknown = cells.filter(odd).unique().sort().to_list()
                said.append(
                    f"{column.name!r}: {counted(int(odd.sum()), 'cell')} of categories that no "
                    f"training row has, {listed(unknown, 4)}: 0 in all inputs"
                )
    return said


def lines(preparation: Preparation) -> list[str]:
    """Say how each column is prepared."""
    numbers = sum(column.kind == "number" for column in preparation.columns)
    said = [f"{counted(numbers, 'number')} standardised"] if numbers else []
    for column in preparation.columns:
        if column.kind == "date":
            said.append(f"{column.name!r}: dates, as days since 1970, standardised")
        elif column.kind == "category":
            said.append(f"{column.name!r}: {len(column.categories)} categories")
    reasons: dict[str, list[str]] = {}
    for name, why in preparation.dropped:
        reasons.setdefault(why, []).append(name)
    return [*said, *(f"{listed(names)}: dropped, {why}" for why, names in reasons.items())]


def as_fields(preparation: Preparation) -> dict[str, Any]:
    """Make dictionaries of a preparation, for JSON."""
    return preparation._asdict() | {
        "columns": [column._asdict() for column in preparation.columns],
        "target": preparation.target._asdict(),
    }


def to_json(preparation: Preparation) -> str:
    """Write a preparation as JSON, with each float64 exactly."""
    return json.dumps(as_fields(preparation), allow_nan=False)


def from_json(text: str) -> Preparation:
    """Read what `to_json` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        fields = json.loads(text)
        columns = tuple(
            Column(**each | {"categories": tuple(each["categories"])}) for each in fields["columns"]
        )
        name, classes, *scale = (fields["target"][field] for field in Target._fields)
        target = Target(name, tuple(classes), *map(tuple, scale))
        dropped = tuple((name, why) for name, why in fields["dropped"])
        made = Preparation(columns, target, dropped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("expected a preparation of columns, got another text") from error
    if not all(column.kind in _KINDS for column in columns):
        raise ValueError(f"expected columns of {' or '.join(_KINDS)}, got another kind")
    if not (all(map(_is_column, columns)) and _is_target(target)):
        raise ValueError("expected a preparation of columns, got another text")
    return made


def _is_column(column: Any) -> bool:
    """Say whether the fields are what they are meant to be."""
    if not isinstance(column.name, str):
        return False
    if column.kind == "category":
        return _are_names(column.categories) and isinstance(column.fill, str)
    scale = _are_scales((column.mean,), (column.deviation,))
    return not column.categories and _is_number(column.fill) and scale


def _is_target(target: Any) -> bool:
    if not isinstance(target.name, str):
        return False
    classes = not target.classes or _are_names(target.classes)
    return classes and _are_scales(target.mean, target.deviation)


def _are_names(names: Sequence[Any]) -> bool:
    texts = all(isinstance(name, str) for name in names)
    return texts and 0 < len(names) == len(set(names))


def _are_scales(mean: Sequence[Any], deviation: Sequence[Any]) -> bool:
    numbers = len(mean) == len(deviation) and all(map(_is_number, (*mean, *deviation)))
    return numbers and all(each > 0 for each in deviation)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)

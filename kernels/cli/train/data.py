"""A user's own file made into a problem: features, a target, and how to train on them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..._typing import Array
from ...layer import init
from ...losses import squared_error
from ...reference.problems import Preparation, Problem, split
from ..common import CliError
from .targets import LABELS, learned, rate_for

__all__ = ["FOLDER", "TASKS", "Table", "make_problem", "read_folder", "read_table"]

TASKS = ("classification", "regression")

# The files of a folder of prepared data.
FOLDER = ("x.npy", "y.npy")

# Where there are more than samples, and more than these, class indices are something else.
_MOST_CLASSES = 2**16

# Elements that are read at a time.
_BLOCK = 2**22

# A fifth of fewer rows is none.
_MIN_ROWS = 5


class Table(NamedTuple):
    """A user's data on the host.

    Attributes
    ----------
    name
        The file.
    x
        Features, float64 of shape (n, features).
    y
        Class indices, int32 of shape (n,), or real targets, float64 of shape (n, targets).
    classes
        The label of each class index; none in regression.
    prepared
        Whether x and y, of any dtype and maybe memory maps, are taken as they are.
    weight
        How much each sample counts, float64 of shape (n,), or None.
    """

    name: str
    x: Any
    y: Any
    classes: tuple[str, ...]
    prepared: bool = False
    weight: Any = None


def read_table(path: Path, target: str, task: str | None, weights: str | None = None) -> Table:
    """Read features and target from a CSV file with a header row or from a NumPy .npz file.

    Parameters
    ----------
    path
        The file.
    target
        The header of a column, or the key of an array.
    task
        One of `TASKS` or `LABELS`; if None, integers and text are classes and real numbers are not.
    weights
        The header or key of what the samples count.

    Raises
    ------
    CliError
        If the file cannot be used; the message says what is wrong with it, and where.
    """
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise CliError(f"expected --data FILE.csv or FILE.npz, got {path.name!r}")
    try:
        x, y, weight = readers[path.suffix.lower()](path, target, task, weights)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    if len(x) < _MIN_ROWS:
        raise CliError(f"expected at least {_MIN_ROWS} rows of data in {path}, got {len(x)}")
    if weight is not None and weight.min() < 0.0:
        raise CliError(
            f"expected weights of 0 or more, got {weight.min():g} in {weights!r} of {path}"
        )
    if y.dtype.kind == "f":
        return Table(path.name, x, y, (), weight=weight)
    return Table(path.name, x, *_classes(path, target, y), weight=weight)


def read_folder(path: Path, task: str | None, dtype: str) -> Table:
    """Map x.npy and y.npy, prepared data that are read as they are used.

    Parameters
    ----------
    path
        The folder. x.npy holds real numbers of shape (n, features), y.npy class indices of shape
        (n,) or real targets of shape (n,) or (n, targets).
    task
        One of `TASKS` or `LABELS`; if None, integers are classes.
    dtype
        What the numbers are trained in.

    Raises
    ------
    CliError
        If a file cannot be used; the message says what is wrong with it.
    """
    import numpy as np

    arrays = []
    for name in FOLDER:
        try:
            arrays.append(np.lib.format.open_memmap(path / name, "r"))
        except OSError as error:
            raise CliError(f"cannot read {path / name}: {error.strerror or error}") from error
        except ValueError as error:
            raise CliError(
                f"expected an array of numbers in {path / name}, which NumPy cannot read"
            ) from error
    x, y = arrays
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind != "f":
        raise CliError(
            f"expected real numbers of shape (samples, features) in {path / FOLDER[0]}, got "
            f"{x.dtype} of shape {x.shape}"
        )
    if y.dtype.kind not in "iuf" or y.ndim not in (1, 2) or len(y) != len(x) or 0 in y.shape:
        raise CliError(
            f"expected a target of numbers for each of {len(x)} samples in {path / FOLDER[1]}, got "
            f"{y.dtype} of shape {y.shape}"
        )
    for name, a in zip(FOLDER, arrays, strict=True):
        _check_finite_by_blocks(path / name, a, dtype)
    labels = task == LABELS and y.ndim == 2
    if task == "regression" or labels or (task is None and y.dtype.kind == "f"):
        return Table(path.name, x, y.reshape(len(y), -1), (), prepared=True)
    if y.dtype.kind == "f" or y.ndim != 1 or y.min() < 0:
        raise CliError(
            f"expected class indices, integers from 0 of shape ({len(y)},), in {path / FOLDER[1]}, "
            f"got {y.dtype} of shape {y.shape}"
        )
    classes, most = int(y.max()) + 1, max(len(y), _MOST_CLASSES)
    if classes > most:
        raise CliError(
            f"expected class indices below {most} for {len(y)} samples in {path / FOLDER[1]}, got "
            f"{classes - 1}"
        )
    return Table(path.name, x, y, tuple(str(i) for i in range(classes)), prepared=True)


def make_problem(
    table: Table,
    *,
    asarray: Callable[..., Array],
    dtype: str,
    hidden: tuple[int, ...] = (100,),
    batch_size: int | None = None,
    seed: int = 0,
    loss: str | None = None,
) -> Problem:
    """Standardise the data, hold a fifth out, and choose a learning rate.

    Data that are prepared already are all trained on, and in one batch by default.

    The mean and deviation are those of the training samples. Counts and labels stay as they are.

    Parameters
    ----------
    table
        The data.
    asarray
        (host, dtype) -> array: a backend's.
    dtype
        "float32" or "float64".
    hidden
        Units of the hidden layers.
    batch_size
        Samples in a batch; if None 32, or of prepared data all.
    seed
        Of the split and the initial weights.
    loss
        One of `LOSSES`; if None that of the target.
    """
    import numpy as np

    if table.prepared:
        return _prepared_problem(table, asarray, dtype, hidden, batch_size, seed, loss)
    own, n_out = learned(loss, table.name, table.y, table.classes)
    train, test = split(len(table.x), seed=seed)
    x, mean, deviation = standardise(table.x, train)
    first = asarray(x[train], dtype)
    batch_size = min(32 if batch_size is None else batch_size, len(train))
    if table.classes:
        preparation = Preparation(table.classes, mean, deviation)
        y, y_dtype = table.y.astype(np.int32), "int32"
    elif own is squared_error:
        y, *scale = standardise(table.y, train)
        preparation, y_dtype = Preparation((), mean, deviation, *scale), dtype
    else:
        preparation, y, y_dtype = Preparation((), mean, deviation), table.y, dtype
    largest = np.finfo(dtype).max
    for a in (x,) if table.classes else (x, y):
        if np.max(np.abs(a)) > largest:
            raise ValueError(
                f"expected standardised numbers that {dtype} holds in {table.name}, got "
                f"{np.max(np.abs(a)):.4g} deviations from the mean"
            )
    weight, mean_weight = None, 1.0
    if table.weight is not None:
        weight = asarray(_weights_in(table, train, dtype), dtype)
        mean_weight = float(_mean(table.weight[train][:, np.newaxis])[0])
    widths = (x.shape[1], *hidden)
    return Problem(
        name=table.name,
        x=first,
        y=asarray(y[train], y_dtype),
        layers=init((x.shape[1], *hidden, n_out), like=first, seed=seed),
        loss=own,
        learning_rate=rate_for(own, y, widths, batch_size, mean_weight),
        steps=None,
        epochs=100,
        batch_size=batch_size,
        held_out=(asarray(x[test], dtype), asarray(y[test], y_dtype)),
        preparation=preparation,
        sample_weight=weight,
    )


def _weights_in(table: Table, train: Any, dtype: str) -> Any:
    """Take the weights of the training samples; raise ValueError unless one of them counts."""
    import numpy as np

    with np.errstate(over="ignore"):
        weight = table.weight[train].astype(dtype)
    if not 0.0 < weight.max() < np.inf:
        raise ValueError(
            f"expected weights that are finite as {dtype}, and one above 0 among the samples "
            f"trained on, in {table.name}, got {weight.max():g} as the largest"
        )
    return weight


def _prepared_problem(
    table: Table,
    asarray: Callable[..., Array],
    dtype: str,
    hidden: tuple[int, ...],
    batch_size: int | None,
    seed: int,
    loss: str | None,
) -> Problem:
    n, n_in = table.x.shape
    x = asarray(table.x, dtype)
    own, n_out = learned(loss, table.name, table.y, table.classes)
    return Problem(
        name=table.name,
        x=x,
        y=asarray(table.y, "int32" if table.classes else dtype),
        layers=init((n_in, *hidden, n_out), like=asarray([0.0], dtype), seed=seed),
        loss=own,
        learning_rate=rate_for(own, table.y, (n_in, *hidden), batch_size or n, 1.0),
        steps=None,
        epochs=100,
        batch_size=batch_size,
        held_out=None,
    )


def standardise(a: Any, train: Any) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """Subtract the mean of the training samples and divide by their deviation; return both too."""
    import numpy as np

    # Near 1, since squares of what is far from it are 0 or infinite; by powers of two, which round
    # nothing.
    exponent = np.maximum(np.frexp(np.max(np.abs(a[train]), axis=0))[1], -1000)
    a = np.ldexp(a, -exponent)
    mean = _mean(a[train])
    deviation = np.sqrt(_mean((a[train] - mean) ** 2))
    # The deviation of a constant column is 0 or a rounding error, and no scale.
    constant = deviation <= 1e-12 * np.abs(mean)
    deviation = np.where(constant, np.maximum(np.ldexp(1.0, -exponent), np.abs(mean)), deviation)
    back = (tuple(np.ldexp(each, exponent).tolist()) for each in (mean, deviation))
    return (a - mean) / deviation, *back


def _mean(a: Any) -> Any:
    """Take the mean of each column, whose sum is rounded once: in any order it is the same."""
    import numpy as np

    return np.asarray([math.fsum(column.tolist()) for column in a.T]) / len(a)


def _classes(path: Path, target: str, y: Any) -> tuple[Any, tuple[str, ...]]:
    import numpy as np

    labels, indices = np.unique(y, return_inverse=True)
    found = f"got {len(labels)} in {len(y)} rows of the target {target!r} in {path}"
    if len(labels) < 2:
        raise CliError(f"expected two or more classes, {found}")
    if 2 * len(labels) > len(y):
        raise CliError(
            f"expected classes that occur more than once, {found}: for numbers to be predicted "
            "as such, give --task regression"
        )
    return indices.astype(np.int32), tuple(str(label) for label in labels.tolist())


def _read_csv(
    path: Path, target: str, task: str | None, weights: str | None
) -> tuple[Any, Any, Any]:
    header, rows, lines = _csv_rows(path)
    for option, name in (("--target", target), ("--weights", weights)):
        if name is not None and name not in header:
            raise CliError(
                f"expected {option} to be a column of {path} ({_listed(header)}), got {name!r}"
            )
    taken = [target] if weights is None else [target, weights]
    if len(header) <= len(taken):
        raise CliError(f"expected columns beside {_beside(target, weights)} in {path}, got none")
    column = header.index(target)

    def place(row: int, column: int) -> str:
        return f"row {row + 1} (line {lines[row]}), column {header[column]!r} of {path}"

    def numbers(columns: Sequence[int], hint: str = "") -> Any:
        import numpy as np

        a = np.empty((len(rows), len(columns)))
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                try:
                    a[i, j] = float(row[column])
                except ValueError:
                    got = repr(row[column]) if row[column] else "an empty cell"
                    raise CliError(
                        f"expected a number{hint}, got {got} in {place(i, column)}"
                    ) from None
                if not math.isfinite(a[i, j]):
                    raise CliError(
                        f"expected a finite number, got {row[column]} in {place(i, column)}"
                    )
        return a

    features = numbers([i for i, name in enumerate(header) if name not in taken])
    weight = None if weights is None else numbers([header.index(weights)])[:, 0]
    cells = [row[column] for row in rows]
    if "" in cells:
        raise CliError(f"expected a target, got an empty cell in {place(cells.index(''), column)}")
    target_of = _csv_target(cells, task, lambda: numbers([column], " in the target"))
    return features, target_of, weight


def _csv_target(cells: list[str], task: str | None, numbers: Callable[[], Any]) -> Any:
    import numpy as np

    whole = sum(_is(int, cell) for cell in cells)
    real = sum(_is(float, cell) for cell in cells) - whole
    # Some text in a column of real numbers is a slip of the pen and not a class.
    if task == "regression" or (task is None and real > 0):
        return numbers()
    # Such as 01 is no number but a name; numbers may be of any size.
    if whole == len(cells) and all(cell == str(int(cell)) for cell in cells):
        return np.asarray([int(cell) for cell in cells], dtype=object)
    return np.asarray(cells)


def _csv_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read the header, the rows that are not blank, and the number of the line each ends on."""
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        # Spreadsheets put a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise CliError(f"expected a CSV file in UTF-8, got {path}: {error}") from error
    except csv.Error as error:
        raise CliError(
            f"expected a CSV file, got {path}, in line {reader.line_num} of which: {error}"
        ) from error
    if not rows:
        raise CliError(f"expected a header row in {path}, got an empty file")
    header = rows.pop(0)
    del lines[0]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise CliError(
                f"expected {len(header)} cells in every row, as in the header, got {len(row)} in "
                f"row {number + 1} (line {lines[number]}) of {path}"
            )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise CliError(f"expected column names that differ, got {twice!r} twice in {path}")
    return header, rows, lines


def _read_npz(
    path: Path, target: str, task: str | None, weights: str | None
) -> tuple[Any, Any, Any]:
    import numpy as np

    # Opened here, since NumPy leaves a file that is no archive open.
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            arrays = {key: archive[key] for key in archive.files}
        except Exception as error:
            # A damaged archive can fail in each of zipfile's, zlib's and NumPy's own ways.
            raise CliError(
                f"expected an .npz file of arrays of numbers or text, got {path}, which NumPy "
                "cannot read"
            ) from error
    for option, name in (("--target", target), ("--weights", weights)):
        if name is not None and name not in arrays:
            raise CliError(
                f"expected {option} to be an array of {path} ({_listed(list(arrays))}), got "
                f"{name!r}"
            )
    others = [key for key in arrays if key not in (target, weights)]
    key = "x" if "x" in others else others[0] if len(others) == 1 else None
    if key is None:
        raise CliError(
            f"expected the features in an array 'x', or in the only one beside "
            f"{_beside(target, weights)}, got {_listed(list(arrays))} in {path}"
        )
    x, y = arrays[key], arrays[target]
    if x.ndim != 2 or x.shape[1] == 0 or x.dtype.kind not in "iufb":
        raise CliError(
            f"expected numbers of shape (samples, features) in {key!r} of {path}, got "
            f"{x.dtype} of shape {x.shape}"
        )
    if y.dtype.kind not in "iufbUS" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise CliError(
            f"expected numbers or text of shape (samples,) in the target {target!r} of {path}, "
            f"got {y.dtype} of shape {y.shape}"
        )
    if len(x) != len(y):
        raise CliError(
            f"expected as many targets as samples in {path}, got {len(y)} in {target!r} and "
            f"{len(x)} in {key!r}"
        )
    _check_finite(path, key, x)
    _check_finite(path, target, y)
    weight = None if weights is None else _npz_weights(path, weights, arrays[weights], len(x))
    return x.astype(np.float64), _npz_target(path, target, y, task), weight


def _npz_weights(path: Path, key: str, weight: Any, n: int) -> Any:
    if weight.dtype.kind not in "iufb" or weight.shape not in ((n,), (n, 1)):
        raise CliError(
            f"expected numbers of shape ({n},) in the weights {key!r} of {path}, got "
            f"{weight.dtype} of shape {weight.shape}"
        )
    _check_finite(path, key, weight)
    return weight.reshape(n).astype("float64")


def _beside(target: str, weights: str | None) -> str:
    return f"the target {target!r}" + ("" if weights is None else f" and the weights {weights!r}")


def _npz_target(path: Path, target: str, y: Any, task: str | None) -> Any:
    import numpy as np

    if task == LABELS and y.size != len(y):
        task = "regression"
    if task is None:
        task = "regression" if y.dtype.kind == "f" else "classification"
    if task == "regression":
        if y.dtype.kind in "US":
            raise CliError(
                f"expected numbers for --task regression, got text in the target {target!r} of "
                f"{path}"
            )
        return np.reshape(y, (len(y), -1)).astype(np.float64)
    if y.size != len(y):
        raise CliError(
            f"expected one class for each sample, of shape ({len(y)},), got shape {y.shape} in "
            f"the target {target!r} of {path}"
        )
    y = np.reshape(y, (-1,))
    # `read_table` takes real numbers for a regression's.
    return y.astype(str) if y.dtype.kind in "fS" else y


def _check_finite(path: Path, key: str, a: Any) -> None:
    import numpy as np

    if a.dtype.kind == "f" and not np.isfinite(a).all():
        row, *column = (int(i) for i in np.argwhere(~np.isfinite(a))[0])
        where = f"row {row}" + "".join(f", column {i}" for i in column)
        raise CliError(
            f"expected finite numbers, got {a[row, *column]} in {where} (from 0) of {key!r} in "
            f"{path}"
        )


def _check_finite_by_blocks(path: Path, a: Any, dtype: str) -> None:
    """Read an array that may be larger than the memory, a block at a time."""
    import numpy as np

    rows = max(1, _BLOCK // math.prod(a.shape[1:]))
    for start in range(0, len(a) if a.dtype.kind == "f" else 0, rows):
        block = np.asarray(a[start : start + rows])
        with np.errstate(over="ignore"):
            finite = np.isfinite(block.astype(dtype))
        if not finite.all():
            row, *column = (int(i) for i in np.argwhere(~finite)[0])
            where = f"row {start + row}" + "".join(f", column {i}" for i in column)
            raise CliError(
                f"expected numbers that are finite as {dtype}, got {block[row, *column]} in "
                f"{where} (from 0) of {path}"
            )


def _is(kind: type, cell: str) -> bool:
    try:
        kind(cell)
    except ValueError:
        return False
    return True


def _listed(names: list[str], limit: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

"""NumPy's files: an archive of arrays, and a folder of arrays that are not prepared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..common import CliError, require
from .sheet import LABELS, Sheet, Table, listed

__all__ = ["FOLDER", "beside", "mapped", "read_archive", "read_folder", "read_new"]

# The files of a folder of prepared data.
FOLDER = ("x.npy", "y.npy")

# More classes than these, and than samples, are not classes.
_MOST_CLASSES = 2**16

# Elements that are read at a time.
_BLOCK = 2**22


def read_archive(
    path: Path, target: str, task: str | None, weights: str | None
) -> tuple[Sheet, Any, Any]:
    """Read features, target and weights from an .npz file; see `read_table`."""
    arrays = _arrays(path)
    for option, name in (("--target", target), ("--weights", weights)):
        if name is not None and name not in arrays:
            raise CliError(
                f"expected {option} to be an array of {path} ({listed(list(arrays))}), got {name!r}"
            )
    sheet = _features(path, arrays, target, weights)
    weight = None
    if weights is not None:
        weight = _npz_weights(path, weights, arrays[weights], sheet.frame.height)
    y = _target(path, arrays[target], target, sheet)
    return sheet, _npz_target(path, target, y, task), weight


def read_new(path: Path, target: str) -> tuple[Sheet, Any]:
    """Read features from an .npz file, and the target, or None if there is none."""
    arrays = _arrays(path)
    sheet = _features(path, arrays, target, None)
    return sheet, _target(path, arrays[target], target, sheet) if target in arrays else None


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    # Opened here, since NumPy leaves a file that is no archive open.
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            return {key: archive[key] for key in archive.files}
        except Exception as error:
            # A damaged archive can raise errors of zipfile, zlib and NumPy.
            raise CliError(
                f"expected an .npz file of arrays of numbers or text, got {path}, which NumPy "
                "cannot read"
            ) from error


def _features(path: Path, arrays: dict[str, Any], target: str, weights: str | None) -> Sheet:
    """Take the array of features as columns."""
    require("polars", f"reading {path.name}")
    import numpy as np
    import polars as pl

    others = [key for key in arrays if key not in (target, weights)]
    key = "x" if "x" in others else others[0] if len(others) == 1 else None
    if key is None:
        raise CliError(
            f"expected the features in an array 'x', or in the only one beside "
            f"{beside(target, weights)}, got {listed(list(arrays))} in {path}"
        )
    x = arrays[key]
    if x.ndim != 2 or x.shape[1] == 0 or x.dtype.kind not in "iufb":
        raise CliError(
            f"expected numbers of shape (samples, features) in {key!r} of {path}, got "
            f"{x.dtype} of shape {x.shape}"
        )
    _check_finite(path, key, x)
    names = [f"{key}[{i}]" for i in range(x.shape[1])]
    frame = pl.DataFrame(x.astype(np.float64), schema=names, orient="row")
    return Sheet(path, frame, lambda row, name: f"row {row} (from 0), column {name} of {path}")


def _target(path: Path, y: Any, target: str, sheet: Sheet) -> Any:
    """Check the array of the target."""
    count = sheet.frame.height
    if y.dtype.kind not in "iufbUS" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise CliError(
            f"expected numbers or text of shape (samples,) in the target {target!r} of {path}, "
            f"got {y.dtype} of shape {y.shape}"
        )
    if len(y) != count:
        key = sheet.frame.columns[0].rpartition("[")[0]
        raise CliError(
            f"expected as many targets as samples in {path}, got {len(y)} in {target!r} and "
            f"{count} in {key!r}"
        )
    _check_finite(path, target, y)
    return y


def _npz_weights(path: Path, key: str, weight: Any, n: int) -> Any:
    if weight.dtype.kind not in "iufb" or weight.shape not in ((n,), (n, 1)):
        raise CliError(
            f"expected numbers of shape ({n},) in the weights {key!r} of {path}, got "
            f"{weight.dtype} of shape {weight.shape}"
        )
    _check_finite(path, key, weight)
    return weight.reshape(n).astype("float64")


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
    # As text, since `read_table` takes floating-point numbers for a regression.
    return y.astype(str) if y.dtype.kind in "fS" else y


def mapped(path: Path) -> Any:
    """Map an .npy file into memory; raise `CliError` if that is impossible."""
    import numpy as np

    try:
        return np.lib.format.open_memmap(path, "r")
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CliError(
            f"expected an array of numbers in {path}, which NumPy cannot read"
        ) from error


def read_folder(path: Path, task: str | None, dtype: str) -> Table:
    """Map x.npy and y.npy into memory: prepared data that are read when they are used.

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
    x, y = arrays = [mapped(path / name) for name in FOLDER]
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
        return Table(path.name, x, y.reshape(len(y), -1), ())
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
    return Table(path.name, x, y, tuple(str(i) for i in range(classes)))


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


def beside(target: str, weights: str | None) -> str:
    """Name the arrays or columns that are not features."""
    return f"the target {target!r}" + ("" if weights is None else f" and the weights {weights!r}")

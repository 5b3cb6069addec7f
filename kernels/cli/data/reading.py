"""A file of columns: text, Parquet or Arrow."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..common import CliError, require
from .sheet import Sheet, chosen, named, where
from .source import PACKED, unchanged
from .text import read_text

__all__ = ["SUFFIXES", "read_sheet"]

_TEXT = (".csv", ".tsv", ".tab", ".txt", ".data")
_PARQUET = (".parquet", ".pq")
_ARROW = (".feather", ".arrow", ".ipc")

SUFFIXES = (*_TEXT, *_PARQUET, *_ARROW)


def read_sheet(
    path: Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    drop: Collection[str] = (),
    only: Collection[str] | None = None,
    text: Collection[str] = (),
) -> Sheet:
    """Read the columns of a file: numbers, dates, and all else as text.

    Parameters
    ----------
    path
        The file, with one of `SUFFIXES`; text may be compressed as well.
    separator
        What stands between the cells of text; None to find it from the file.
    encoding
        That of text; None for UTF-8.
    drop
        Columns to leave out.
    only
        Columns to take if they are there; None for all.
    text
        Columns to take as text.

    Raises
    ------
    CliError
        If the file cannot be used; the message says what is wrong with it, and where.
    """
    require("polars", f"reading {path.name}")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CliError(f"expected the path of a file in UTF-8, got {str(path)!r}") from error
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2:-1] if suffixes[-1:] and suffixes[-1] in PACKED else suffixes[-1:]
    if not kind or kind[0] not in SUFFIXES or (kind[0] not in _TEXT and suffixes[-1] in PACKED):
        raise CliError(
            f"expected a file that ends in {', '.join((*SUFFIXES, '.npz'))}, or text with "
            f"{' or '.join(PACKED)} after that, got {path.name!r}"
        )
    columns: dict[str, Any] = {"drop": drop, "only": only, "text": text}
    if kind[0] not in _TEXT and (separator is not None or encoding is not None):
        option = "encoding" if separator is None else "separator"
        raise CliError(f"--{option} needs a file of text, got {path.name!r}")
    with unchanged(path):
        if kind[0] in _TEXT:
            sheet = read_text(path, separator=separator, encoding=encoding, **columns)
        else:
            sheet = _read_columns(path, kind[0], **columns)
    _check_finite(sheet)
    return sheet


def _read_columns(
    path: Path,
    kind: str,
    drop: Collection[str],
    only: Collection[str] | None,
    text: Collection[str],
) -> Sheet:
    import polars as pl

    try:
        with path.open("rb") as file:
            # Arrow's file format begins with its name, the stream format does not.
            stream = kind in _ARROW and file.read(6) != b"ARROW1"
        read: Any = pl.read_ipc if kind in _ARROW else pl.read_parquet
        frame = pl.read_ipc_stream(path) if stream else read(path)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    # polars panics at some damages, which is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CliError(f"expected the format that {kind} names, got {path}: {reason}") from error
    columns = {}
    categories, dates = (pl.Boolean, pl.Categorical, pl.Enum), (pl.Date, pl.Datetime)
    wanted = chosen(path, frame.columns, drop, only)
    for column in frame.select(named(wanted)):
        dtype = column.dtype
        if not (dtype.is_numeric() or dtype in (*categories, pl.String, pl.Null, *dates)):
            drops = only is None and column.name not in text
            raise CliError(
                f"expected columns of numbers, text or dates in {path}, got {dtype} in "
                f"{column.name!r}" + (": leave it out with --drop" if drops else "")
            )
        if (column.name in text and not dtype.is_float()) or dtype in categories:
            column = column.cast(pl.String)
        elif dtype == pl.Date:
            column = column.cast(pl.Datetime("us"))
        elif dtype.is_decimal():
            column = column.cast(pl.Float64)
        elif dtype.is_float():
            column = column.fill_nan(None)
        elif dtype == pl.Datetime:
            # One instant is one number, whatever zone it is written in.
            utc = column.dt.convert_time_zone("UTC")
            column = utc.dt.replace_time_zone(None).dt.cast_time_unit("us")
        if column.dtype == pl.String:
            column = column.set(column == "", None)
        columns[column.name] = column
    return Sheet(
        path,
        pl.DataFrame(columns),
        lambda row, name: f"row {row + 1}, column {name!r} of {path}",
        others=tuple(name for name in frame.columns if name not in wanted),
    )


def _check_finite(sheet: Sheet) -> None:
    for column in sheet.frame:
        if column.dtype.is_float() and column.is_infinite().any():
            row = int(column.is_infinite().arg_max())
            raise CliError(
                f"expected a finite number, got {column[row]} in {where(sheet, row, column.name)}"
            )

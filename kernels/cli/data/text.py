"""CSV and similar text, read by polars in pieces that are converted one by one."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..common import CliError
from .sheet import Sheet, chosen, named
from .source import PACKED, Source, not_utf8, source_of, without_runs

__all__ = ["DATE", "NOTHING", "numbers", "read_text"]

_SEPARATORS = (",", ";", "\t", "|")

# Files of Orange have the types of columns in the second line and their roles in the third.
_ORANGE_TYPES = {"c", "continuous", "d", "discrete", "s", "string", "t", "time"}
_ORANGE_ROLES = {"", "c", "class", "i", "ignore", "m", "meta", "w", "weight"}

# The lines from which to find the separator.
_HEAD = 200

# What stands for an empty cell in a column of numbers.
NOTHING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None", "nan", "NaN", "?")

# A column with a larger part of cells that are no numbers is text.
_SLIPS = 0.2

_COMMA, _POINT = (re.compile(rf"[+-]?\d*[{mark}]\d+(e[+-]?\d+)?", re.IGNORECASE) for mark in ",.")

# What is between thousands may be a comma or a point as well.
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")

# ISO 8601, or with slashes.
DATE = r"^\d{4}[-/]\d\d[-/]\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?$"


class _Form(NamedTuple):
    """How a file is written.

    Attributes
    ----------
    blank
        How many blank lines come first.
    names
        In the header.
    whole
        Whether all columns are wanted but those to drop.
    rows
        An estimate of their number, or None.
    """

    path: Path
    source: Source
    separator: str
    comma: bool
    blank: int
    names: list[str]
    whole: bool
    rows: float | None


def read_text(
    path: Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    drop: Collection[str] = (),
    only: Collection[str] | None = None,
    text: Collection[str] = (),
) -> Sheet:
    """Read a file of lines, the first of which is a header.

    A column is numbers if four fifths of its cells are, dates if all of them are in ISO 8601
    (or have / in it), and else text. In numbers "NA", "?" and the like are empty cells.

    Parameters
    ----------
    path
        The file, which may be compressed.
    separator
        What stands between cells; None for the one that makes all lines equally long. A space
        stands for any number of them.
    encoding
        One that Python knows; None for UTF-8, or UTF-16 with a byte order mark.
    drop
        Columns to leave out.
    only
        Columns to take if they are there; None for all.
    text
        Columns that stay as they are written.

    Raises
    ------
    CliError
        If the file cannot be used; the message says what is wrong with it, and where.
    """
    import polars as pl

    form = _form(path, separator, encoding, drop, only)
    wanted = chosen(path, form.names, drop, only)
    parts: dict[str, list[Any]] = {name: [] for name in wanted}
    as_text = set(text)
    for piece in _pieces(form, progress=True):
        for cells in _converted(piece.select(named(wanted)), form.comma, as_text):
            parts[cells.name].append(cells)
    columns = {name: _whole(form, name, parts.pop(name), name in text) for name in wanted}
    return Sheet(
        path,
        pl.DataFrame(columns),
        lambda row, name: _place(form, row, name),
        form.comma,
        others=tuple(name for name in form.names if name not in wanted),
    )


def numbers(cells: Any, comma: bool) -> tuple[Any, Any]:
    """Convert text to numbers, null where there is none, and find the cells that are neither."""
    cells = cells.str.strip_chars(' "')
    found = _as_numbers(cells.to_frame(), comma).to_series().fill_nan(None)
    return found, found.is_null() & cells.is_not_null() & ~cells.is_in(NOTHING)


def _as_numbers(frame: Any, comma: bool) -> Any:
    import polars as pl

    cells = pl.all()
    if comma:
        # A point is between thousands, and no number here.
        cells = cells.str.replace(".", " ", literal=True).str.replace(",", ".", literal=True)
    return frame.select(cells.cast(pl.Float64, strict=False))


def _converted(piece: Any, comma: bool, as_text: set[str]) -> Any:
    """Convert columns of numbers; add the names of others to `as_text`."""
    tried = piece.drop(named(as_text))
    found = _as_numbers(tried, comma)
    lost = zip(tried.columns, tried.null_count().row(0), found.null_count().row(0), strict=True)
    for name in [name for name, before, after in lost if before != after]:
        cells, odd = numbers(piece[name], comma)
        if odd.any():
            as_text.add(name)
            found = found.drop(named([name]))
        else:
            found = found.with_columns(cells)
    return piece.with_columns(_small(found))


def _small(frame: Any) -> Any:
    """Choose the smallest types that hold the numbers, to save memory."""
    import polars as pl

    large = pl.col(pl.Float64)
    for dtype in (pl.Int16, pl.Float32):
        same = frame.select(
            large.cast(dtype, strict=False).cast(pl.Float64).eq_missing(large).all()
        )
        small = [name for name in same.columns if same[name].item()]
        frame = frame.with_columns(named(small).cast(dtype))
    return frame


def _whole(form: _Form, name: str, parts: list[Any], as_written: bool) -> Any:
    """Join the pieces of a column."""
    import polars as pl

    kinds = {part.dtype for part in parts}
    if kinds and pl.String not in kinds:
        largest = max(kinds, key=(pl.Int16, pl.Float32, pl.Float64).index)
        column = pl.concat([part.cast(largest) for part in parts])
        return column.fill_nan(None) if largest.is_float() else column
    if len(kinds) > 1:
        # How the converted numbers were written is only in the file.
        parts = [piece[name] for piece in _pieces(form)]
    cells = pl.concat(parts) if parts else pl.Series(name, [], pl.String)
    if not as_written:
        found, odd = numbers(cells, form.comma)
        if 0 < odd.sum() <= _SLIPS * (odd.sum() + found.count()):
            row = int(odd.arg_max())
            raise CliError(
                f"expected a number, as in other cells of the column, got {cells[row]!r} in "
                f"{_place(form, row, name)}"
                + (f": mend it, or leave the column out with --drop {name!r}" if form.whole else "")
            )
    cells = cells.str.strip_chars().str.replace('^"(.*)"$', "$1")
    cells = cells.set(cells == "", None)
    if as_written or not cells.count() or not cells.drop_nulls().str.contains(DATE).all():
        return cells
    dates = cells.str.replace_many(["T", "/", "Z"], [" ", "-", ""])
    dates += dates.str.len_chars().replace_strict(
        {10: " 00:00:00", 16: ":00"}, default="", return_dtype=pl.String
    )
    dates = dates.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    # Null for such as the 30th of February.
    return dates if dates.null_count() == cells.null_count() else cells


def _form(
    path: Path,
    separator: str | None,
    encoding: str | None,
    drop: Collection[str],
    only: Collection[str] | None,
) -> _Form:
    with _told(path):
        source = source_of(path, encoding)
        head = _scan_lines(source).head(_HEAD).collect()["line"].fill_null("").to_list()
        blank = next((i for i, line in enumerate(head) if line.strip()), 0)
        if not any(line.strip() for line in head):
            raise CliError(f"expected a header row in {path}, got blank lines")
        _check_orange(path, head[blank : blank + 3])
        head = [line for line in head if line.strip()]
        _check_single_quotes(path, head[0])
        given, separator = separator, separator or _separator(head)
        header, *rows = _split(head, separator)
        if len(header) == 1 or {len(header)} != set(map(len, rows)):
            _check_row_names(path, head, given)
        if separator == " ":
            source = without_runs(_lines(source))
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CliError(f"expected column names that differ, got {twice!r} twice in {path}")
    wanted = set(chosen(path, names, drop, only))
    cells = (
        (name, cell.strip())
        for row in rows
        for name, cell in zip(names, row, strict=False)
        if name in wanted
    )
    packed = path.suffix.lower() in PACKED
    length = sum(len(line) + 1 for line in head) / len(head)
    return _Form(
        path,
        source,
        separator,
        separator != "," and _has_commas(path, cells),
        blank,
        names,
        only is None,
        None if packed else path.stat().st_size / length,
    )


def _has_commas(path: Path, cells: Iterable[tuple[str, str]]) -> bool:
    """Say whether a comma is the decimal point, as those cells tell that have no thousands."""
    comma, unclear = False, None
    for name, cell in cells:
        if not _THOUSANDS.fullmatch(cell):
            if _POINT.fullmatch(cell):
                return False
            comma = comma or _COMMA.fullmatch(cell) is not None
        elif _COMMA.fullmatch(cell):
            unclear = unclear or (name, cell)
    if unclear is not None and not comma:
        name, cell = unclear
        raise CliError(
            f"expected commas that are surely decimal points or surely between thousands, got "
            f"{cell!r}, which is {cell.replace(',', '.')} or {cell.replace(',', '')}, in column "
            f"{name!r} of {path}: write it as one of these"
        )
    return comma


def _separator(head: list[str]) -> str:
    """Choose what makes all lines equally long, or else the header longest.

    Spaces are in cells as well, and only taken where nothing else makes lines equally long.
    """

    def cells(separator: str) -> tuple[int, int]:
        header, *widths = map(len, _split(head, separator))
        return header if {header} >= set(widths) else 1, header

    best = max(_SEPARATORS, key=cells)
    equal, header = cells(best)
    return " " if equal == 1 and cells(" ")[0] > header else best


def _split(lines: list[str], separator: str) -> list[list[str]]:
    # A line without the separator is one cell, which may be long.
    csv.field_size_limit(2**31 - 1)
    if separator == " ":
        lines = [line.replace("\t", " ").strip() for line in lines]
    return list(csv.reader(lines, delimiter=separator, skipinitialspace=True))


def _check_orange(path: Path, head: list[str]) -> None:
    """Raise `CliError` if three lines are the header of a file of Orange's."""
    _, *rest = _split(head, "\t")
    if len(rest) < 2 or len(rest[0]) < 2:
        return
    types, roles = ({cell.strip() for cell in row} for row in rest)
    # A discrete column may list its values there, with spaces between them.
    others = types - _ORANGE_TYPES - {""}
    known = types & _ORANGE_TYPES and all(" " in cell for cell in others)
    if known and roles <= _ORANGE_ROLES:
        raise CliError(
            "expected the names of columns in one line and then the data, got Orange's two more "
            f"lines, of types and roles, in {path}: take its second and third line out"
        )


def _check_single_quotes(path: Path, header: str) -> None:
    """Raise `CliError` if the first and the last name are in single quotes, which are letters."""
    text = header.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        raise CliError(
            f"expected names in double quotes or none, got {text[:40]} in single quotes in {path}"
        )


def _check_row_names(path: Path, head: list[str], separator: str | None) -> None:
    """Raise `CliError` if rows begin with names, for which R's write.table writes no header."""
    for each in (separator,) if separator else (*_SEPARATORS, " "):
        header, *rows = _split(head, each)
        longer = len(header) > 1 and {len(row) for row in rows} == {len(header) + 1}
        if longer and any(row[-1].strip() for row in rows):
            raise CliError(
                f"expected a name for every cell, got {len(header)} names and {len(rows[0])} cells "
                f"in every row of {path}, as R's write.table writes it: give it row.names=FALSE, "
                "or put a name in front of the header"
            )


def _scan_lines(source: Source) -> Any:
    """Take each line as one cell."""
    import polars as pl

    # No text has this control character.
    return pl.scan_csv(
        source,
        separator="\x1f",
        quote_char=None,
        has_header=False,
        schema={"line": pl.String},
        glob=False,
    )


def _lines(source: Source) -> Iterator[str]:
    for batch in _scan_lines(source).collect_batches(maintain_order=True):
        for line in batch["line"]:
            yield (line or "") + "\n"


def _pieces(form: _Form, *, progress: bool = False) -> Iterator[Any]:
    """Read rows that are not blank, as text, with a progress bar if stderr is a terminal."""
    import polars as pl

    terminal = Console(stderr=True)
    bar = Progress(
        TextColumn("reading {task.fields[name]}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
        console=terminal,
        disable=not (progress and terminal.is_terminal),
        transient=True,
    )
    task = bar.add_task("", total=form.rows, name=form.path.name)
    scanned = pl.scan_csv(
        form.source,
        separator=form.separator,
        infer_schema=False,
        skip_lines=form.blank,
        glob=False,
    )
    short = False
    with bar, _told(form.path, form):
        for batch in scanned.collect_batches(maintain_order=True):
            bar.update(task, advance=batch.height)
            # polars renames some columns.
            batch.columns = form.names
            if (batch.to_series(0).fill_null("") == "").any():
                batch = batch.filter(pl.any_horizontal(pl.all().fill_null("") != ""))
            short = short or batch.to_series(-1).null_count() > 0
            yield batch
        if short:
            # polars fills rows that end early, as if they had empty cells.
            _check_widths(form)


@contextmanager
def _told(path: Path, form: _Form | None = None) -> Iterator[None]:
    """Turn errors of polars into `CliError`, with the place if it can be found."""
    import polars.exceptions

    try:
        yield
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise CliError(f"expected a CSV file, got {path}: {error}") from error
    except polars.exceptions.PolarsError as error:
        if "utf-8" in str(error):
            raise not_utf8(path) from error
        if form is not None:
            _check_widths(form)
        reason = str(error).partition("\n")[0]
        raise CliError(f"expected a CSV file, got {path}: {reason}") from error


def _check_widths(form: _Form) -> None:
    """Raise `CliError` for the first row that is not as long as the header."""
    for number, (line, row) in enumerate(_rows(form)):
        if len(row) != len(form.names):
            raise CliError(
                f"expected {len(form.names)} cells in every row, as in the header, got {len(row)} "
                f"in row {number} (line {line}) of {form.path}"
            )


def _rows(form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Read rows slowly, each with the number of the line that it ends on."""
    reader = csv.reader(_lines(form.source), delimiter=form.separator, strict=True)
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, row
    except csv.Error as error:
        raise CliError(
            f"expected a CSV file, got {form.path}: line {reader.line_num}: {error}"
        ) from error


def _place(form: _Form, row: int, name: str) -> str:
    line = next(line for number, (line, _) in enumerate(_rows(form)) if number == row + 1)
    return f"row {row + 1} (line {line}), column {name!r} of {form.path}"

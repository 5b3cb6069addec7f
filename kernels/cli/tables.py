"""Tables of plain text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

__all__ = ["duration", "make_table", "print_table"]


def make_table(*headers: str) -> Table:
    """Make an empty table with these headers; without any, one of two columns, labels and texts."""
    table = Table(
        *headers, box=None, show_header=bool(headers), pad_edge=False, padding=(0, 2, 0, 0)
    )
    if not headers:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table without trailing spaces."""
    with console.capture() as captured:
        console.print(table)
    # Rich pads every cell to the width of its column.
    for line in captured.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def duration(seconds: float) -> str:
    """Write a time with three digits.

    Examples
    --------
    >>> duration(0.0012345)
    '1.23 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"

"""A file on the disk: whether it changes, and its text as UTF-8, whatever its encoding."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common import CliError

__all__ = [
    "PACKED",
    "Source",
    "not_utf8",
    "source_of",
    "stamp_of",
    "unchanged",
    "without_runs",
]

PACKED = (".gz", ".zst")

# A file, or its content in UTF-8.
Source = Path | bytes

_UTF16 = (b"\xff\xfe", b"\xfe\xff")

# Bytes from which to see how lines end.
_START = 2**16

# Characters that are converted together.
_PART = 2**20


def stamp_of(path: Path) -> tuple[int, ...]:
    """Give what changes with the content of a file; nothing if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def unchanged(path: Path, before: tuple[int, ...] | None = None) -> Iterator[None]:
    """Raise `CliError` if a file changes meanwhile, or since `stamp_of` gave `before`."""
    before = stamp_of(path) if before is None else before
    try:
        yield
    finally:
        # Also if what was read fails otherwise, since it may be parts of two files.
        if stamp_of(path) != before:
            raise CliError(f"expected {path} to stay as it is while it is read, got a change")


def source_of(path: Path, encoding: str | None) -> Source:
    """Return the path of a file in UTF-8, or the content of another, converted to UTF-8.

    Its first bytes or `encoding` say whether it is in UTF-8. A file whose lines end with carriage
    returns alone, as on old Macs, is converted too.

    Raises
    ------
    CliError
        If it is empty, not text, or not in that encoding, or Python does not know the encoding.
    OSError
        If it cannot be read.
    """
    packed = path.suffix.lower() in PACKED
    if encoding is not None and packed:
        raise CliError(f"--encoding needs a file that is not compressed, got {path.name!r}")
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        raise CliError(f"expected a header row in {path}, got an empty file")
    if start[:2] == b"PK":
        raise CliError(f"expected a file of text, got another format in {path}")
    old = not packed and b"\r" in start.partition(b"\n")[0].rstrip(b"\r")
    if encoding is None and start[:2] in _UTF16:
        encoding = "utf-16"
    if encoding is None and not old:
        return path
    return _converted(path, encoding, newline=None if old else "")


def _converted(path: Path, encoding: str | None, newline: str | None) -> bytes:
    content = io.BytesIO()
    try:
        with path.open(encoding=encoding or "utf-8", newline=newline) as file:
            while part := file.read(_PART):
                content.write(part.encode())
    except LookupError as error:
        raise CliError(
            f"expected --encoding to be one that Python knows, such as cp1252, got {encoding!r}"
        ) from error
    except UnicodeError as error:
        if encoding is None:
            raise not_utf8(path) from error
        raise CliError(f"expected text in {encoding}, got {path}: {error}") from error
    return content.getvalue()


def not_utf8(path: Path) -> CliError:
    """Make an error that says where a text file is not in UTF-8, and what to do."""
    place = f"in {path}"
    if path.suffix.lower() not in PACKED:
        with path.open("rb") as file:
            place = (
                f"in line {next(i for i, line in enumerate(file, 1) if _is_other(line))} of {path}"
            )
    return CliError(
        f"expected text in UTF-8, got another encoding {place}: name it with --encoding, such as "
        "cp1252 of Windows in western Europe"
    )


def _is_other(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def without_runs(lines: Iterable[str]) -> bytes:
    """Replace runs of spaces and tabs between cells by one space, and trim lines."""
    content = io.StringIO()
    stripped = (line.replace("\t", " ").strip() + "\n" for line in lines)
    cells = csv.reader(stripped, delimiter=" ", skipinitialspace=True)
    csv.writer(content, delimiter=" ", lineterminator="\n").writerows(cells)
    return content.getvalue().encode()

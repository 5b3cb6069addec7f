"""`python -m kernels`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; without arguments, on `sys.argv`."""
    try:
        from .cli.app import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        sys.stderr.write(
            f"Error: the command line needs {missing}, which is not installed: "
            'pip install "array-api-kernels[cli]"\n'
        )
        return 2
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

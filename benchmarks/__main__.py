"""`python -m benchmarks`."""

from __future__ import annotations

import sys

from kernels.cli.entry import entry

from .bench import bench

__all__ = ["main"]

main = entry("benchmarks", bench)

if __name__ == "__main__":
    sys.exit(main())

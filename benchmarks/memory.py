"""How much memory a function allocates on top of what is held before."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["allocated"]


def allocated(function: Callable[[], Any], place: str) -> int | None:
    """Run a function that uses the backend called `place`; return the most bytes it allocated.

    On the host memray counts all allocations, except on Windows; on CUDA torch counts its own.
    Otherwise the result is None.
    """
    library, _, device = place.partition(":")
    if library == "torch" and device.startswith("cuda"):
        return _on_cuda(function)
    if library == "cupy" or device.startswith("cuda") or not importlib.util.find_spec("memray"):
        return None
    return _on_host(function)


def _on_cuda(function: Callable[[], Any]) -> int:
    cuda = sys.modules["torch"].cuda
    before: int = cuda.memory_allocated()
    cuda.reset_peak_memory_stats()
    function()
    peak: int = cuda.max_memory_allocated()
    return peak - before


def _on_host(function: Callable[[], Any]) -> int:
    import memray

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations"
        with memray.Tracker(file):
            function()
        with memray.FileReader(file) as reader:
            peak: int = reader.metadata.peak_memory
    return peak

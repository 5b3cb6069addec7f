"""How much memory a function takes above what is held before it."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Memory", "measure"]


class Memory(NamedTuple):
    """What a function took at most, above what was held before.

    Attributes
    ----------
    allocated_bytes
        As the library's allocator counts; None if it does not.
    resident_bytes
        As the operating system counts, for all of the process; None if it does not.
    """

    allocated_bytes: int | None
    resident_bytes: int | None


def measure(function: Callable[[], Any], place: str) -> Memory:
    """Run a function twice, which uses the backend called `place`, and measure its memory."""
    library, _, device = place.partition(":")
    peak = {
        "numpy": _tracemalloc,
        "array-api-strict": _tracemalloc,
        "torch": _torch_cpu if device.startswith("cpu") else _torch_cuda,
    }.get(library)
    return Memory(None if peak is None else peak(function), _resident(function))


def _tracemalloc(function: Callable[[], Any]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _torch_cuda(function: Callable[[], Any]) -> int:
    cuda = sys.modules["torch"].cuda
    before: int = cuda.memory_allocated()
    cuda.reset_peak_memory_stats()
    function()
    peak: int = cuda.max_memory_allocated()
    return peak - before


def _torch_cpu(function: Callable[[], Any]) -> int:
    torch = sys.modules["torch"]
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with _silent_stderr(), torch.profiler.profile(profile_memory=True) as profile:
            function()
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    found = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    if not found:
        return 0
    # The totals go on from those of an earlier profile, some of which was freed after it.
    totals = [event["args"]["Total Allocated"] for event in found]
    peak: int = max(totals) - (totals[0] - found[0]["args"]["Bytes"])
    return max(peak, 0)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep torch's profiler, which is not Python, from telling when it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _resident(function: Callable[[], Any]) -> int | None:
    """Measure on Linux, where the kernel keeps a peak that can be reset."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    # What the C library keeps for later would hide what is allocated from it.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")
        before = _kilobytes(status, "VmRSS")
        function()
        return 1024 * max(0, _kilobytes(status, "VmHWM") - before)
    except OSError:
        return None


def _kilobytes(status: Path, field: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])

"""Workers of Dask: processes on this machine or on those of a cluster.

They read a memory map themselves, one part at a time and anew in each step, so it may be larger
than the memory of all of them.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import backends
from kernels import Array

from .._backend import BackendUnavailable, no_devices
from . import WorkerLost, Workers

# Of the parts in which a worker reads a file. Exact numerics take six times as many, in pieces that
# fragment memory, and larger parts are not faster.
_BYTES_OF_PART = 2**22

_SECONDS_TO_CONNECT = 10

# Dask makes workers return freed memory at once, and page-fault it in again in every step.
_KEEP_MEMORY = {
    f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": threshold
    for name, threshold in (("MMAP", 2**25), ("TRIM", 2**28))
}

# A terminal sends Ctrl-C to every process; the one that trains decides what to do.
_IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@contextmanager
def join(
    count: int | None = None, device: str | None = None, scheduler: str | None = None
) -> Iterator[Workers]:
    """Start `count` workers here, or use `count` of those at a scheduler's address."""
    no_devices("dask", device)
    # A worker imports the program when it starts. A program that joins workers then, since it has
    # no `__main__` guard, is stopped here, and the error below explains it.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
    place = backends.get("dask")
    try:
        from distributed import Client, LocalCluster
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
        from distributed.utils import silence_logging_cmgr
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'Dask\'s distributed is not installed: pip install "array-api-kernels[dask]"'
        ) from None
    import dask.array
    import numpy

    from ._dask_steps import READ, Cluster, compile_step, computed, persisted, to_numpy

    with ExitStack() as stack:
        # Errors below say in a sentence what Dask would log.
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        if scheduler is None:
            try:
                with dask.config.set(_KEEP_MEMORY):
                    local = LocalCluster(
                        n_workers=count or 1,
                        threads_per_worker=1,
                        dashboard_address="127.0.0.1:0",
                        preload=[_IGNORE_CTRL_C],
                        silence_logs=logging.CRITICAL,
                    )
            except RuntimeError as error:
                raise BackendUnavailable(
                    "The workers of Dask cannot start: they import the program, which must join "
                    'them below `if __name__ == "__main__":`.'
                ) from error
            scheduler = stack.enter_context(local).scheduler_address
        try:
            client = stack.enter_context(Client(scheduler, timeout=_SECONDS_TO_CONNECT))
        except (OSError, ValueError) as error:
            raise BackendUnavailable(f"There is no Dask scheduler at {scheduler!r}.") from error
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if len(workers) < (count or 1):
            raise ValueError(
                f"expected {count or 1} workers or more at the Dask scheduler {scheduler}, got "
                f"{len(workers)}"
            )
        count = count or len(workers)
        cluster = Cluster(client, list(workers)[:count])
        # For whatever reads an array, such as the check of labels.
        compute = partial(computed, cluster=cluster)
        # Dask warns of graphs of ten megabytes, which weights may have.
        most_warned = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}
        stack.enter_context(dask.config.set(most_warned, scheduler=compute))
        try:
            client.run(importlib.import_module, "backends.workers._dask_team")
        except ModuleNotFoundError as error:
            raise BackendUnavailable(
                f"The workers of the Dask scheduler {scheduler} need this package: {error}."
            ) from error

        def asarray(host: Any, dtype: str | None = None) -> Array:
            a: Array
            offset = _offset_in_file(host)
            if offset is None:
                whole = dask.array.from_array(numpy.array(host, dtype=dtype), chunks=-1, name=False)
                a = persisted(whole, cluster)
            else:
                wanted = numpy.dtype(dtype or host.dtype)
                parts = math.ceil(host.size * wanted.itemsize / _BYTES_OF_PART)
                a = _read(host, offset, wanted, _divide(host.shape[0], max(parts, count)))
            return a

        def shard(a: Any) -> Any:
            # The parts of an array that is read fit into memory already.
            if a.name.startswith(READ) or (
                a.numblocks[0] > 1 and a.nbytes > _BYTES_OF_PART * count
            ):
                return a
            return persisted(
                persisted(a, cluster).rechunk({0: _divide(a.shape[0], count)}), cluster
            )

        def compile(function: Callable[..., Any]) -> Callable[..., Any]:
            return compile_step(function, cluster, shard)

        compile.splits = True  # type: ignore[attr-defined]
        backend = place._replace(asarray=asarray, compile=compile, to_numpy=to_numpy)
        try:
            yield Workers(backend, shard, lambda numerics: numerics, compile, count, first=True)
        except (CommClosedError, FutureCancelledError, asyncio.CancelledError) as error:
            raise WorkerLost(
                f"the connection to the Dask scheduler {scheduler} was lost"
            ) from error
        except KilledWorker as error:
            raise WorkerLost(
                "a task of Dask ended several workers, which may have run out of memory"
            ) from error


def _offset_in_file(host: Any) -> int | None:
    """Find where an array begins in the file of a memory map; None if the file does not hold it.

    Views and copies keep the `offset` of the map that they come from, so the address decides.
    """
    import mmap

    import numpy

    if not isinstance(host, numpy.memmap) or host.ndim == 0 or host.size == 0:
        return None
    base: Any = host
    while isinstance(base, numpy.ndarray):
        base = base.base
    # Changes to a map of mode "c" are not in its file.
    if not isinstance(base, mmap.mmap) or host.filename is None or host.mode == "c":
        return None
    if not host.flags.c_contiguous:
        return None
    start = host.offset - host.offset % mmap.ALLOCATIONGRANULARITY
    begin = numpy.frombuffer(base, "uint8").ctypes.data
    return int(start + host.ctypes.data - begin)


def _read(host: Any, offset: int, dtype: Any, rows: tuple[int, ...]) -> Any:
    """Make an array whose blocks are read from the file of a memory map."""
    import dask.array

    from ._dask_steps import READ

    # So that workers on other machines see what was written.
    host.flush()
    name = f"{READ}{uuid4().hex}"
    path = str(Path(host.filename).resolve())
    same = None if _is_replaced(host) else _identity(os.stat(path))
    rest = host.shape[1:]
    graph: dict[Any, Any] = {}
    for i, length in enumerate(rows):
        block = (name, i, *(0 for _ in rest))
        graph[block] = (_read_block, path, same, host.dtype, offset, [length, *rest], dtype)
        offset += length * host.nbytes // host.shape[0]
    return dask.array.Array(graph, name, (rows, *((n,) for n in rest)), dtype=dtype)


def _read_block(
    path: str, same: list[int] | None, kind: Any, offset: int, shape: list[int], dtype: Any
) -> Any:
    import numpy

    try:
        with open(path, "rb") as file:
            if _identity(os.fstat(file.fileno())) != same:
                raise WorkerLost(f"{path} was replaced or changed since it was mapped into memory")
            # Only the rows that are used are read.
            return numpy.asarray(numpy.memmap(file, kind, "r", offset, tuple(shape)), dtype=dtype)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkerLost(f"a worker of Dask cannot read {path}: {reason}") from error


def _identity(file: os.stat_result) -> list[int]:
    """Describe a file, the same on every machine that shares it, to notice when it is replaced."""
    return [file.st_ino, file.st_size, file.st_mtime_ns]


def _is_replaced(host: Any) -> bool:
    """Say whether a memory map's file is no longer at its path, as far as the system tells."""
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        begin, end = (int(address, 16) for address in line.split()[0].split("-"))
        if begin <= host.ctypes.data < end:
            return line.endswith(" (deleted)")
    return False


def _divide(n: int, parts: int) -> tuple[int, ...]:
    """Divide n samples into at most so many parts, none empty, that differ by one at most."""
    parts = min(parts, n)
    return tuple(n // parts + (i < n % parts) for i in range(parts))

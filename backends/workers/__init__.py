"""Any number of workers: engines that split a batch, with the kernel unchanged and the same bits.

Each engine is a module, imported when it is asked for, with a function

    join(count=None, device=None) -> context manager of `Workers`

It raises `BackendUnavailable` if the engine is not installed, and ValueError for a number of
workers or a device that it cannot have. Dask's also takes the address of a scheduler.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

from kernels import Array, Compiler

from .._backend import Backend

__all__ = ["ENGINES", "WorkerLost", "Workers", "join"]

# Each with its array library.
ENGINES = {"torch": "torch", "jax": "jax", "dask": "dask", "mpi": "numpy"}

# A process has one set of workers at a time.
_FREE = Lock()


class WorkerLost(RuntimeError):
    """A worker has ended or failed, and the others cannot go on; the message is one sentence."""


class Workers(NamedTuple):
    """Workers that train one network together.

    Attributes
    ----------
    backend
        A `Backend` of the engine, whose arrays are whole on every worker.
    shard
        (array) -> array: split along the first axis an array that every step uses, if the engine
        gains from that.
    numerics
        (numerics) -> numerics: those to give to `kernels.fit`. With torch and MPI these split
        batches.
    compile
        The compiler to give to `kernels.fit`. With JAX and Dask this splits batches; with torch and
        MPI it is None.
    count
        How many workers there are.
    first
        Whether this process is the one that prints and writes.
    """

    backend: Backend
    shard: Callable[[Array], Array]
    numerics: Callable[[Any], Any]
    compile: Compiler | None
    count: int  # type: ignore[assignment]
    first: bool


@contextmanager
def join(
    engine: str,
    count: int | None = None,
    device: str | None = None,
    scheduler: str | None = None,
) -> Iterator[Workers]:
    """Join the workers of an engine for as long as the context lasts.

    Parameters
    ----------
    engine
        One of `ENGINES`.
    count
        How many workers there are; None for as many as the engine was started with.
    device
        As in the names of backends, such as "cuda"; None for the CPU.
    scheduler
        The address of a running scheduler of Dask, whose workers are joined.

    Raises
    ------
    ValueError
        If the engine is not known, cannot have so many workers or that device, or this process has
        joined workers already.
    BackendUnavailable
        If the engine is not installed, or there is no such device here.
    """
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
    if count is not None and count < 1:
        raise ValueError(f"expected 1 worker or more, got {count}")
    if scheduler is not None and engine != "dask":
        raise ValueError(f"expected the engine dask with a scheduler, got {engine}")
    options = {} if scheduler is None else {"scheduler": scheduler}
    module = importlib.import_module(f"backends.workers.{engine}")
    if not _FREE.acquire(blocking=False):
        raise ValueError(f"expected one join at a time, got one of {engine} inside another")
    try:
        with module.join(count, device, **options) as team:
            yield team
    finally:
        _FREE.release()

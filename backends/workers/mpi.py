"""Workers of MPI: processes under mpiexec with arrays of NumPy, each with a part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .. import numpy as host
from .._backend import BackendUnavailable
from . import WorkerLost, Workers
from ._packed_team import PackedTeam

# Where a process finds how many were started: by MPICH or Intel MPI, Open MPI, and Slurm.
_SIZES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"


@contextmanager
def join(count: int | None = None, device: str | None = None) -> Iterator[Workers]:
    """Join the other processes that mpiexec started."""
    place = host.get(device)
    try:
        # This starts MPI.
        from mpi4py import MPI
        from mpi4py.run import set_abort_status
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'mpi4py is not installed: pip install "array-api-kernels[mpi]"'
        ) from None
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(
            f"mpi4py cannot load an MPI library: {str(error).splitlines()[0]}"
        ) from error
    world = MPI.COMM_WORLD

    def reduce(packed: Any, largest: bool) -> None:
        if largest:
            # MPI does not say which of NaN and a number is larger.
            packed[packed != packed] = float("inf")
        try:
            world.Allreduce(MPI.IN_PLACE, packed, MPI.MAX if largest else MPI.SUM)
        except MPI.Exception as error:
            raise WorkerLost(f"MPI could not combine the workers' arrays: {error}") from error

    try:
        _check_size(world.size, count, MPI.get_vendor()[0])
        team = PackedTeam(world.rank, world.size, reduce)
        yield Workers(
            place,
            shard=lambda a: a,
            numerics=lambda numerics: numerics if world.size == 1 else replace(numerics, team=team),
            compile=None,
            count=world.size,
            first=world.rank == 0,
        )
    except BaseException as error:
        if world.size > 1:
            # The others wait for this process. MPI ends them when it has ended with its error.
            set_abort_status(error)
        raise


def _check_size(size: int, count: int | None, library: str) -> None:
    started = max(int(os.environ.get(name, "1")) for name in _SIZES)
    if size == 1 < started:
        # Each process would train alone, and write what the others write.
        raise ValueError(
            f"expected the mpiexec of {library}, which mpi4py uses, got another, whose {started} "
            f"processes do not see each other"
        )
    if count not in (None, size):
        raise ValueError(
            f"expected the number of processes that mpiexec started, {size}, got {count} workers: "
            f"start them by mpiexec -n {count}"
        )

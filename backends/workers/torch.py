"""Workers of PyTorch: processes under torchrun, each with a part of every batch."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from subprocess import Popen
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import backends

from .._backend import BackendUnavailable
from . import Workers
from ._packed_team import PackedTeam

# Environment variables by which `launch` tells processes the file where they meet, and who started
# them.
_STORE, _PARENT = "ARRAY_API_KERNELS_STORE", "ARRAY_API_KERNELS_PARENT"

_SECONDS_BETWEEN_LOOKS = 0.05

# Seconds to wait for the cause when a process has ended because another did.
_PATIENCE = 15.0


@contextmanager
def join(count: int | None = None, device: str | None = None) -> Iterator[Workers]:
    """Join the other processes that torchrun started: gloo between CPUs, NCCL between GPUs."""
    size, rank, local = (_number(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if count not in (None, size):
        raise ValueError(
            f"expected the number of processes that torchrun started, {size}, got {count} workers"
        )
    kind = device or "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the workers' device 'cpu' or 'cuda', got {kind!r}")
    place = backends.get("torch:cpu" if kind == "cpu" else f"torch:cuda:{local}")

    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise BackendUnavailable(
            f"PyTorch {torch.__version__} was built without torch.distributed."
        )
    if kind == "cuda":
        torch.cuda.set_device(place.device)
    options: dict[str, Any] = {}
    if _STORE in os.environ:
        store = dist.FileStore(os.environ[_STORE], size)
        options = {"store": store, "rank": rank, "world_size": size}
    elif "RANK" not in os.environ:
        options = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    left = Event()
    if "RANK" in os.environ:
        parent = int(os.environ.get(_PARENT, os.getppid()))
        Thread(target=_end_with, args=(parent, left), daemon=True).start()
    try:
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # When torchrun on one machine starts all again, its store still has the addresses of
            # those that have ended, which others may read before they are written anew.
            common, *_ = next(dist.rendezvous("env://"))
            start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"start-{start}", common)
            options = {"store": store, "rank": rank, "world_size": size}
        dist.init_process_group("gloo" if kind == "cpu" else "nccl", **options)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise BackendUnavailable(
            f"The {size} workers cannot reach each other: {reason}."
        ) from error
    try:
        from ._torch_team import reduce

        team = PackedTeam(dist.get_rank(), size, reduce)
        yield Workers(
            place._replace(name=f"torch:{kind}"),
            shard=lambda a: a,
            numerics=lambda numerics: numerics if size == 1 else replace(numerics, team=team),
            compile=None,
            count=size,
            first=team.rank == 0,
        )
    finally:
        left.set()
        dist.destroy_process_group()


def launch(count: int, arguments: Sequence[str], *, lost: int) -> tuple[int, int] | None:
    """Run `python` with the arguments in `count` processes here; if one fails, end all.

    Parameters
    ----------
    count
        How many processes.
    arguments
        "-m", a module, and its arguments.
    lost
        The exit status of a process that ends because another did.

    Returns
    -------
    None if all ended well. Otherwise the number of the process that failed first, from 0, and its
    exit status, or minus the number of the signal that killed it.

    Raises
    ------
    BackendUnavailable
        If torch is not installed.
    KeyboardInterrupt
        On Ctrl-C.
    """
    if find_spec("torch") is None:
        raise BackendUnavailable('PyTorch is not installed: pip install "array-api-kernels[torch]"')
    threads = str(max(1, (os.cpu_count() or 1) // count))
    with TemporaryDirectory() as folder:
        common = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "WORLD_SIZE": str(count),
            _PARENT: str(os.getpid()),
            _STORE: os.path.join(folder, "store"),
        }
        processes: list[Popen[bytes]] = []
        try:
            for i in map(str, range(count)):
                own = {"RANK": i, "LOCAL_RANK": i}
                processes.append(Popen([sys.executable, *arguments], env=common | own))
            ended = _first_failure(processes, lost)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if ended is not None and ended[1] == -signal.SIGINT:
        # A terminal sends Ctrl-C to all processes, and this one may notice it last.
        raise KeyboardInterrupt
    return ended


def is_launched() -> bool:
    """Say whether `launch` started this process."""
    return _PARENT in os.environ


def _first_failure(processes: Sequence[Popen[bytes]], lost: int) -> tuple[int, int] | None:
    """Wait until all have ended, or one has failed; return its number and status."""
    deadline = math.inf
    while True:
        found = [process.poll() for process in processes]
        failed = [(number, status) for number, status in enumerate(found) if status]
        # A process that ended because of another may be seen before that other.
        causes = [(number, status) for number, status in failed if status != lost]
        if causes:
            return min(causes, key=lambda cause: cause[1] > 0)
        if None not in found or time.monotonic() > deadline:
            return failed[0] if failed else None
        if failed and deadline == math.inf:
            deadline = time.monotonic() + _PATIENCE
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end_with(parent: int, left: Event) -> None:
    """Kill this process once its parent is dead: another run may go on from its checkpoints."""
    while os.getppid() == parent:
        if left.wait(_SECONDS_BETWEEN_LOOKS):
            return
    if _STORE in os.environ:
        shutil.rmtree(os.path.dirname(os.environ[_STORE]), ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _number(name: str) -> int:
    """Read a number from an environment variable, which whoever started this process has set."""
    text = os.environ.get(name, "1" if name == "WORLD_SIZE" else "0")
    if not text.isdecimal():
        raise ValueError(f"expected a number in the environment's {name}, got {text!r}")
    return int(text)

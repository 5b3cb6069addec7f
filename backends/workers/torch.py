"""Workers of PyTorch: processes under torchrun, each with a part of every batch."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import backends

from .._backend import BackendUnavailable
from . import Workers


@contextmanager
def join(count: int | None = None, device: str | None = None) -> Iterator[Workers]:
    """Join the other processes that torchrun started: gloo between CPUs, NCCL between GPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if count not in (None, size):
        raise ValueError(
            f"expected the number of processes that torchrun started, {size}, got {count} workers"
        )
    kind = device or "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected the workers' device 'cpu' or 'cuda', got {kind!r}")
    local = os.environ.get("LOCAL_RANK", "0")
    place = backends.get("torch:cpu" if kind == "cpu" else f"torch:cuda:{local}")

    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise BackendUnavailable(
            f"PyTorch {torch.__version__} was built without torch.distributed."
        )
    if kind == "cuda":
        torch.cuda.set_device(place.device)
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    try:
        dist.init_process_group("gloo" if kind == "cpu" else "nccl", **alone)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise BackendUnavailable(
            f"The {size} workers cannot reach each other: {reason}."
        ) from error
    try:
        from ._torch_team import TorchTeam

        team = TorchTeam(dist.get_rank(), size)
        yield Workers(
            place._replace(name=f"torch:{kind}"),
            shard=lambda a: a,
            numerics=lambda numerics: numerics if size == 1 else replace(numerics, team=team),
            count=size,
            first=team.rank == 0,
        )
    finally:
        dist.destroy_process_group()


def launch(count: int, arguments: Sequence[str], *, lost: int) -> tuple[int, int] | None:
    """Run `python` with the arguments in as many processes as torchrun does, on this machine.

    Parameters
    ----------
    count
        How many.
    arguments
        "-m", a module, and its arguments.
    lost
        The status with which a process ends when another did.

    Returns
    -------
    None if all ended well; or the number of the process whose end ended the others, from 0, and its
    status, which is minus the number of the signal that killed it.

    Raises
    ------
    BackendUnavailable
        If torch is not installed.
    KeyboardInterrupt
        On Ctrl-C.
    """
    try:
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run
    except ModuleNotFoundError:
        raise BackendUnavailable(
            'PyTorch is not installed: pip install "array-api-kernels[torch]"'
        ) from None
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    # The caller says what there is to say.
    logging.disable(logging.CRITICAL)
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={count}", *arguments]))
    except SignalException as error:
        if error.sigval != signal.SIGINT:
            raise SystemExit(128 + error.sigval) from error
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        _, _, number, status = min(
            (_order(failure.exitcode, lost), failure.timestamp, number, failure.exitcode)
            for number, failure in error.failures.items()
        )
        return number, status
    finally:
        logging.disable(logging.NOTSET)
    return None


def _order(status: int, lost: int) -> int:
    """Put processes that were killed first, and those that ended because of another last."""
    if status in (lost, -signal.SIGTERM):
        return 2
    return 0 if status < 0 else 1

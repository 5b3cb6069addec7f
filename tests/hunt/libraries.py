"""Run programs on a library, in a process that may crash or hang without harm."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import psutil

# Seconds that a program may compute, or wait without computing; compilers need up to a minute.
_SECONDS = {True: 600.0, False: 120.0}

_BETWEEN_LOOKS = 1.0

# Seconds that workers may take for a program; they take one or two.
_SECONDS_OF_WORKERS = 300.0

# After so many programs a process is replaced, since compilers keep what they made in memory.
_PROGRAMS = {True: 300, False: 20_000}


_NUMBERS = itertools.count()


class Failed(Exception):
    """A library gave no result.

    Attributes
    ----------
    cause
        Why, in a word or two.
    """

    def __init__(self, cause: str, told: str):
        super().__init__(told)
        self.cause = cause


class OutOfTime(BaseException):
    """The hunt ends while a program runs."""


class Library:
    """A backend, eager or compiled or on workers, in processes of its own.

    A program with workers of torch runs in as many processes; any other in one, to which workers of
    JAX or Dask belong.
    """

    def __init__(self, backend: str, *, compiled: bool, workers: int = 0):
        self.backend, self.compiled, self.workers = backend, compiled, workers
        self._processes: list[tuple[Any, Any]] = []
        self._left = 0

    def run(self, source: str, seconds: float, workers: int = 0) -> list[np.ndarray]:
        """Run a program's source, which leaves arrays in `result`; raise Failed if it does not."""
        if not self._processes or self._left == 0:
            self.close()
            self._start()
        self._left -= 1
        used = self._processes[: workers or 1] if self._has_team else self._processes
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(used):
                pipe.send((source, _launched(rank, len(used), folder) if self._has_team else {}))
            answers = self._answers(used, self._limit, seconds)
        failures = [answer for answer in answers if not isinstance(answer, list)]
        if failures:
            # This failure caused those of the others.
            raise Failed(*min(failures, key=lambda failure: failure[0] == "raises WorkerLost"))
        for answer in answers[1:]:
            if not all(map(_same, answer, answers[0])):
                raise Failed("workers differ", "expected the same of all workers, got two results")
        return answers[0]

    @property
    def _has_team(self) -> bool:
        return self.workers > 0 and not self.backend.startswith(("jax", "dask"))

    @property
    def _limit(self) -> float:
        return _SECONDS[self.compiled]

    def _answers(self, used: list[tuple[Any, Any]], limit: float, seconds: float) -> list[Any]:
        """Wait for answers by the time processes compute, as a busy machine leaves them little."""
        answers: list[Any] = [None] * len(used)
        begun = moved = time.monotonic()
        first = last = self._computed(used)
        while None in answers:
            multiprocessing.connection.wait(
                [pipe for (_, pipe), answer in zip(used, answers, strict=True) if answer is None],
                _BETWEEN_LOOKS,
            )
            for i, (process, pipe) in enumerate(used):
                try:
                    if answers[i] is None and pipe.poll():
                        answers[i] = pipe.recv()
                except (EOFError, OSError):
                    process.join(5)
                    code = process.exitcode
                    self.close()
                    told = f"expected a result, the process ended with {code}"
                    raise Failed("crashes", told) from None
            now, computed = time.monotonic(), self._computed(used)
            if computed > last:
                moved, last = now, computed
            # Engines compute a little also while they wait.
            waited = self.workers > 0 and now - begun > _SECONDS_OF_WORKERS
            if None in answers and (computed - first > limit or now - moved > limit or waited):
                self.close()
                raise Failed("hangs", f"expected a result, got none in {limit:.0f} s")
            if None in answers and now - begun > seconds:
                self.close()
                raise OutOfTime
        return answers

    def _computed(self, used: list[tuple[Any, Any]]) -> float:
        return sum(_computed(process.pid) for process, _ in used)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        # Processes that have workers of their own.
        daemon = not self.backend.startswith("dask")
        for _ in range(self.workers if self._has_team else 1):
            pipe, theirs = context.Pipe()
            arguments = theirs, self.backend, self.compiled, self.workers
            process = context.Process(target=_serve, args=arguments, daemon=daemon)
            process.start()
            theirs.close()
            self._processes.append((process, pipe))
        self._left = _PROGRAMS[self.compiled or self.workers > 0]

    def close(self) -> None:
        """End the processes, and those that they started."""
        for process, pipe in self._processes:
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                for other in started:
                    with suppress(psutil.NoSuchProcess):
                        other.kill()
            process.join()
            pipe.close()
        self._processes = []


def _launched(rank: int, size: int, folder: str) -> dict[str, str]:
    """Make the environment that torchrun would set for a worker."""
    store = os.path.join(folder, "store")
    number = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    return {**number, "ARRAY_API_KERNELS_STORE": store}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    # The sign of a NaN may depend on where in memory it is.
    a, b = (np.where(np.isnan(one), np.nan, one) for one in (a, b))
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _computed(pid: int) -> float:
    """Measure the seconds that a process and the compilers it called have computed."""
    try:
        process = psutil.Process(pid)
        running = (process, *process.children(recursive=True))
        # By each process, and by those of its own that have ended.
        return sum(sum(one.cpu_times()[:4]) for one in running)
    except psutil.NoSuchProcess:
        return 0.0


def _serve(pipe: Any, backend: str, compiled: bool, workers: int) -> None:
    """Run every source that comes through the pipe, and send back arrays or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JAX_ENABLE_X64"] = os.environ["SCIPY_ARRAY_API"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "hunt-inductor")
    )
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    if workers and backend.startswith("jax"):
        import jax

        jax.config.update("jax_num_cpu_devices", workers)
    elif workers and backend == "dask":
        _use_one_cluster(workers)
    while True:
        try:
            source, environment = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            answer: Any = execute(source)
        except Exception as error:
            told = "".join(traceback.format_exception_only(error)).strip()
            answer = f"raises {type(error).__name__}", told[:2000]
        _reset(backend, compiled)
        pipe.send(answer)


def _use_one_cluster(workers: int) -> None:
    """Let programs that would start workers of Dask join these, to save time."""
    from distributed import LocalCluster

    import backends.workers

    cluster: Any = LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    join: Any = partial(backends.workers.join, scheduler=cluster.scheduler_address)
    backends.workers.join = join


def execute(source: str) -> list[np.ndarray]:
    """Run a program's source here; return its arrays on the host."""
    # Dynamo looks the module of a function up, and remembers it.
    name = f"hunted_{next(_NUMBERS)}"
    module: Any = types.ModuleType(name)
    sys.modules[name] = module
    if "__main__" in source:
        module.__name__ = "__main__"
    try:
        exec(compile(source, "<hunted>", "exec"), module.__dict__)
        to_numpy = module.backend.to_numpy
        return [np.array(a if isinstance(a, np.ndarray) else to_numpy(a)) for a in module.result]
    finally:
        del sys.modules[name]


def _reset(backend: str, compiled: bool) -> None:
    """Undo a program's settings, and forget what was compiled for it."""
    if backend.startswith("torch"):
        import torch

        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(1)
        if compiled:
            torch.compiler.reset()
    elif backend.startswith("jax"):
        import jax

        jax.config.update("jax_default_matmul_precision", None)
        jax.config.update("jax_numpy_rank_promotion", "allow")
    if compiled:
        kept = sys.modules.get("kernels._compiled")
        if kept is not None:
            kept.compiled.cache_clear()

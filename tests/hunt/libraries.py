"""Runs programs on a library, in a process that may crash or hang without harm."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from typing import Any

import numpy as np
import psutil

# What a program may compute, or wait without computing: a compiler has a minute for the largest.
_SECONDS = {True: 600.0, False: 120.0}

_BETWEEN_LOOKS = 1.0

# After so many programs a process makes room for another: compilers keep what they made.
_PROGRAMS = {True: 300, False: 20_000}


_NUMBERS = itertools.count()


class Failed(Exception):
    """A library gave no result.

    Attributes
    ----------
    cause
        In a word or two.
    """

    def __init__(self, cause: str, told: str):
        super().__init__(told)
        self.cause = cause


class OutOfTime(BaseException):
    """The hunt ends while a program runs."""


class Library:
    """A backend, eager or compiled, in a process of its own."""

    def __init__(self, backend: str, *, compiled: bool):
        self.backend, self.compiled = backend, compiled
        self._process: Any = None
        self._left = 0

    def run(self, source: str, seconds: float) -> list[np.ndarray]:
        """Run a program's source, which leaves arrays in `result`; raise Failed if it does not."""
        if self._process is None or self._left == 0:
            self.close()
            self._start()
        self._left -= 1
        limit = _SECONDS[self.compiled]
        try:
            self._pipe.send(source)
            self._wait(limit, seconds)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            raise Failed("crashes", f"expected a result, the process ended with {code}") from None
        if isinstance(answer, list):
            return answer
        raise Failed(*answer)

    def _wait(self, limit: float, seconds: float) -> None:
        """Wait for an answer, while the process computes: a busy machine may leave it little."""
        begun = moved = time.monotonic()
        first = last = _computed(self._process.pid)
        while not self._pipe.poll(_BETWEEN_LOOKS):
            now, used = time.monotonic(), _computed(self._process.pid)
            if used > last:
                moved, last = now, used
            if used - first > limit or now - moved > limit:
                self.close()
                raise Failed("hangs", f"expected a result, got none in {limit:.0f} s")
            if now - begun > seconds:
                self.close()
                raise OutOfTime

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self.backend, self.compiled), daemon=True
        )
        self._process.start()
        theirs.close()
        self._left = _PROGRAMS[self.compiled]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _computed(pid: int) -> float:
    """Measure the seconds that a process and the compilers it called have computed."""
    try:
        process = psutil.Process(pid)
        running = (process, *process.children(recursive=True))
        # By each and by those of its own that have ended.
        return sum(sum(one.cpu_times()[:4]) for one in running)
    except psutil.NoSuchProcess:
        return 0.0


def _serve(pipe: Any, backend: str, compiled: bool) -> None:
    """Run every source that comes through the pipe, and send back arrays or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JAX_ENABLE_X64"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "hunt-inductor")
    )
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    while True:
        try:
            source = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = execute(source)
        except Exception as error:
            told = "".join(traceback.format_exception_only(error)).strip()
            answer = f"raises {type(error).__name__}", told[:2000]
        _reset(backend, compiled)
        pipe.send(answer)


def execute(source: str) -> list[np.ndarray]:
    """Run a program's source here; return its arrays on the host."""
    # Dynamo looks the module of a function up, and remembers it.
    module: Any = types.ModuleType(f"hunted_{next(_NUMBERS)}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, "<hunted>", "exec"), module.__dict__)
        return [np.array(module.backend.to_numpy(a)) for a in module.result]
    finally:
        del sys.modules[module.__name__]


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

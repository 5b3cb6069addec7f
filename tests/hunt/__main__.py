"""Search random programs for wrong bits: `python -m tests.hunt --minutes 10`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import secrets
import sys
import time
from collections import Counter
from typing import Any

_EVERY = 10.0

# Seconds in which a process must end, which it does between two programs.
_GRACE = 300.0


def main() -> int:
    options = _options()
    os.environ["JAX_ENABLE_X64"] = "1"
    from .hunter import TARGETS, lane

    libraries = options.only.split(",") if options.only else None
    words = {t: (t.backend.partition(":")[0], t.mode) for t in TARGETS}
    targets = [t for t in TARGETS if libraries is None or set(words[t]) & set(libraries)]
    if not targets:
        known = sorted({word for of_one in words.values() for word in of_one})
        raise SystemExit(f"expected libraries of {', '.join(known)}, got {options.only}")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"hunting for {options.minutes:g} minutes with seed {seed}", flush=True)

    start = time.monotonic()
    end = start + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    names = [t.name for t in targets]
    processes = [
        context.Process(target=lane, args=(share, seed, 60 * options.minutes, messages))
        for share in (names[::2], names[1::2])
        if share
    ]
    for process in processes:
        process.start()
    ran: Counter[str] = Counter()
    finds = []
    shown = start
    while any(process.is_alive() for process in processes) or not messages.empty():
        try:
            kind, content = messages.get(timeout=1.0)
        except queue.Empty:
            kind, content = "", None
        if kind == "ran":
            ran.update(content)
        elif kind == "found":
            finds.append(content)
            _show(len(finds), content, time.monotonic() - start)
        if time.monotonic() - shown > _EVERY:
            shown = time.monotonic()
            counts = ", ".join(f"{name} {ran[name]}" for name in names)
            print(f"{shown - start:.0f} s: {counts}", flush=True)
        if time.monotonic() > end + _GRACE:
            break
    failed = [process.exitcode for process in processes if process.exitcode != 0]
    for process in processes:
        process.kill()
    print(f"\n{sum(ran.values())} programs, {len(finds)} found (seed {seed})")
    for i, find in enumerate(finds, start=1):
        print(f"{i}. {', '.join(find.key)}")
    for status in failed:
        told = f"did not end in {_GRACE:.0f} s" if status is None else f"ended with {status}"
        print(f"A process of the hunt itself {told}.")
    return 1 if finds or failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hunt", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; default: 10")
    parser.add_argument("--seed", type=int, help="the seed of a hunt to repeat; default: random")
    parser.add_argument(
        "--only", metavar="LIBRARIES", help="such as jax,torch,workers; default: all"
    )
    return parser.parse_args()


def _show(number: int, find: Any, seconds: float) -> None:
    print(f"\nFOUND {number} after {seconds:.0f} s: {', '.join(find.key)}")
    print(f"# {find.sentence}\n{find.text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

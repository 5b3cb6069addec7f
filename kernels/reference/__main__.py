"""Print the file of committed digests, trained with NumPy: python -m kernels.reference."""

from __future__ import annotations

import json
import sys

import backends

from ..numerics import EXACT
from .training import CHECKPOINTS, PROBLEMS, make, train


def digests(checkpoints: tuple[int, ...] = CHECKPOINTS) -> dict[str, dict[str, dict[int, str]]]:
    """Train each problem, in float32 and float64."""
    numpy = backends.get("numpy")
    return {
        problem: {
            dtype: train(
                make(problem, numpy, dtype),
                numpy,
                numerics=EXACT,
                compiled=False,
                checkpoints=checkpoints,
            ).digests
            for dtype in ("float32", "float64")
        }
        for problem in PROBLEMS
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(digests(), indent=2) + "\n")

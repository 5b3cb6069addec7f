"""A worker: trains by one engine with others, and prints what it saw as JSON.

python tests/_workers.py jax:cpu 3
python tests/_workers.py dask 3
torchrun --standalone --nproc-per-node 3 tests/_workers.py torch:cpu 3
"""

import json
import os
import sys

os.environ["JAX_ENABLE_X64"] = "1"


import kernels
from backends import workers
from kernels.cli.train.workers import fit_split
from kernels.reference import training as reference
from kernels.reference.problems import tutorial

STEPS = 10
STEPS_COUNTED = (1, 2)
STEPS_OF_SMALL = 4


def small(asarray, dtype):
    """Batches of 7, 7 and 2 samples, the last of which are fewer than the workers."""
    like = asarray([0.0], dtype)
    x, y = (kernels.random.normal((16, n), seed=0, stream=n, like=like) for n in (5, 3))
    layers = kernels.init((5, 4, 3), like=like)
    return tutorial(like=like)._replace(x=x, y=y, layers=layers, learning_rate=1e-3, batch_size=7)


def digest_after(problem, fit, steps, numerics):
    trained = fit(
        problem.layers,
        problem.x,
        problem.y,
        learning_rate=problem.learning_rate,
        loss=problem.loss,
        batch_size=problem.batch_size,
        steps=steps,
        numerics=numerics,
        compile=None,
    )
    return kernels.digest(trained.layers)


def sent(problem, fit, numerics):
    """Count the bytes that this worker of torch puts into collectives in one step."""
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(issubclass(kind, DTensor) for kind in types):
                return NotImplemented
            name = str(func)
            # Waiting, and keeping a gradient's graph, send nothing.
            if name.startswith("_c10d_functional.") and "wait" not in name and "wrap" not in name:
                self.total += args[0].numel() * args[0].element_size()
            return func(*args, **(kwargs or {}))

    totals = []
    # What is sent before the first step does not count.
    for steps in STEPS_COUNTED:
        with Count() as count:
            digest_after(problem, fit, steps, numerics)
        totals.append(count.total)
    return totals[1] - totals[0]


def observe(team):
    fit = fit_split(team)
    problem = reference.make("tutorial", team.backend, "float32")
    native, exact = (
        digest_after(problem, fit, STEPS, numerics) for numerics in (kernels.NATIVE, kernels.EXACT)
    )
    found = {"count": team.count, "native": native, "tutorial": exact}
    if team.backend.name.startswith("torch"):
        found["sent"] = [
            sent(problem, fit, numerics) for numerics in (kernels.NATIVE, kernels.EXACT)
        ]
    problem = reference.make("digits", team.backend, "float64")
    found["digits"] = digest_after(problem, fit, STEPS, kernels.EXACT)
    problem = small(team.backend.asarray, "float32")
    found["small"] = digest_after(problem, fit, STEPS_OF_SMALL, kernels.EXACT)
    return found


def main():
    engine, _, device = sys.argv[1].partition(":")
    count = int(sys.argv[2])
    if engine == "jax" and device == "cpu":
        import jax

        jax.config.update("jax_num_cpu_devices", count)
    with workers.join(engine, count, device or None) as team:
        found = observe(team)
        if team.first:
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

"""A worker: trains by one engine with others, and prints what it saw as JSON.

python tests/_workers.py jax:cpu 3
python tests/_workers.py dask 3
torchrun --standalone --nproc-per-node 3 tests/_workers.py torch:cpu 3
mpiexec -n 3 python tests/_workers.py mpi 3
"""

import json
import os
import sys
from itertools import product

os.environ["JAX_ENABLE_X64"] = "1"

import numpy as np

import kernels
from backends import workers
from kernels.cli.train.workers import fit_split
from kernels.reference import training as reference
from kernels.reference.problems import tutorial

STEPS = 10
STEPS_COUNTED = (1, 2)
STEPS_OF_SMALL = 4
ADAM = {"optimizer": kernels.Adam(1e-2), "activation": kernels.activations.tanh, "l2": 0.01}


def small(asarray, dtype):
    """Batches of 7, 7 and 2 samples; the last has fewer samples than there are workers."""
    like = asarray([0.0], dtype)
    x, y = (kernels.random.normal((16, n), seed=0, stream=n, like=like) for n in (5, 3))
    layers = kernels.init((5, 4, 3), like=like)
    return tutorial(like=like)._replace(x=x, y=y, layers=layers, learning_rate=1e-3, batch_size=7)


def digest_after(problem, fit, steps, numerics, **method):
    trained = fit(
        problem.layers,
        problem.x,
        problem.y,
        **(method or {"learning_rate": problem.learning_rate}),
        loss=problem.loss,
        batch_size=problem.batch_size,
        steps=steps,
        numerics=numerics,
        compile=None,
    )
    return kernels.digest(trained.layers)


def sent(problem, fit, numerics):
    """Count the collectives of one step, and the bytes that this worker of torch puts into them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if str(func).startswith("c10d."):
                self.calls += 1
                self.total += sum(a.numel() * a.element_size() for a in args[0])
            return func(*args, **(kwargs or {}))

    found = []
    # Without what is sent before the first step.
    for steps in STEPS_COUNTED:
        with Count() as count:
            digest_after(problem, fit, steps, numerics)
        found.append((count.calls, count.total))
    (calls, total), (more_calls, more) = found
    return more_calls - calls, more - total


def finite(asarray, numerics):
    """Say which products and sums over samples are finite, where one sample is not."""
    terms = []
    for wrong, sample in product((np.nan, np.inf), range(5)):
        x, y = np.ones((5, 3)), np.ones((5, 2))
        x[sample, 1] = y[sample, 1] = wrong
        x, y = (numerics.team.own(asarray(a, "float64")) for a in (x, y))
        terms += [(x.T, y, True), (x.T, x[:, :1], True), (x[:, :1].T, y, True)]
    found = numerics.over_samples(terms, 5)
    return [np.isfinite(np.asarray(a)).tolist() for pair in found for a in pair]


def observe(team, engine):
    fit = fit_split(team)
    problem = reference.make("tutorial", team.backend, "float32")
    native, exact = (
        digest_after(problem, fit, STEPS, numerics) for numerics in (kernels.NATIVE, kernels.EXACT)
    )
    found = {"count": team.count, "native": native, "tutorial": exact}
    if engine == "torch":
        found["sent"] = {
            f"{dtype} {name}": sent(reference.make("tutorial", team.backend, dtype), fit, numerics)
            for dtype in ("float32", "float64")
            for name, numerics in (("native", kernels.NATIVE), ("exact", kernels.EXACT))
        }
    if engine in ("torch", "mpi"):
        found["finite"] = finite(team.backend.asarray, team.numerics(kernels.EXACT))
    problem = reference.make("digits", team.backend, "float64")
    found["digits"] = digest_after(problem, fit, STEPS, kernels.EXACT)
    problem = small(team.backend.asarray, "float32")
    one = problem._replace(x=problem.x[:1, :], y=problem.y[:1, :], batch_size=None)
    found["one"] = digest_after(one, fit, STEPS_OF_SMALL, kernels.EXACT)
    found["adam"] = digest_after(problem, fit, STEPS_OF_SMALL, kernels.EXACT, **ADAM)
    return found


def main():
    engine, _, device = sys.argv[1].partition(":")
    count = int(sys.argv[2])
    if engine == "jax" and device == "cpu":
        import jax

        jax.config.update("jax_num_cpu_devices", count)
    with workers.join(engine, count, device or None) as team:
        found = observe(team, engine)
        if team.first:
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

"""Exact training gives the committed digests, on every library, eager and compiled."""

import json
from functools import partial

import pytest

import backends
import kernels
from kernels.reference import training as reference
from kernels.reference.__main__ import digests as make_digests

COMPILE = pytest.mark.library("torch", "jax", "mlx", "dask", "ndonnx", "tensorflow")
THOROUGH = pytest.mark.thorough


def left_out(problem, dtype, compiled):
    """List libraries that train this only with --thorough: None if none, () if all but NumPy."""
    # In float32 the many terms of "tall" take two products; in float64 nothing is special.
    many = problem == "tall" and dtype == "float64"
    if not compiled:
        # An operation of Dask takes a millisecond.
        kept = problem in ("tutorial", "digits-adam") and dtype == "float32"
        # JAX compiles every operation, and all of these steps in other tests.
        return (("dask", "jax") if problem == "tall" else ("dask",)) if not kept else None
    if many or problem not in ("tutorial", "digits", "tall"):
        # Compilers take a minute for Adam.
        return ()
    # MLX takes ten seconds, for each of two others too.
    left = ("mlx",) if (problem, dtype) in (("digits", "float64"), ("tutorial", "float32")) else ()
    if problem != "digits":
        # Torch takes ten seconds, and compiles all kinds of products in tests/test_exact.py. Dask
        # repeats the graph of a step, of one problem as of all.
        left += ("torch", "dask")
    return left or None


def run_of(problem, dtype, compiled):
    """Make a parameter of the test, marked for the libraries that take it."""
    names = left_out(problem, dtype, compiled)
    marks = [COMPILE] if compiled else []
    marks += [] if names is None else [THOROUGH(*names)]
    how = "compiled" if compiled else "eager"
    return pytest.param(problem, dtype, compiled, id=f"{dtype}-{problem}-{how}", marks=marks)


RUNS = [
    run_of(problem, dtype, compiled)
    for compiled in (False, True)
    for problem in reference.PROBLEMS
    for dtype in ("float32", "float64")
]


def few_steps(name, compiled):
    """Say how many steps a library takes in a few seconds; None leaves it to the backend."""
    library = name.partition(":")[0]
    if library == "numpy" or (compiled and library in ("torch", "jax")):
        return None
    return 1 if library == "dask" and not compiled else 10


def made_by_numpy(problem, backend, dtype):
    """Draw a problem with NumPy for ndonnx, which takes half a minute to draw it."""
    made = reference.make(problem, backends.get("numpy"), dtype)
    layers = tuple(
        kernels.Layer(*(None if a is None else backend.asarray(a) for a in layer))
        for layer in made.layers
    )
    return made._replace(x=backend.asarray(made.x), y=backend.asarray(made.y), layers=layers)


@pytest.mark.library("ndonnx")
def test_committed_weights_are_drawn(backend):
    """ndonnx draws the weights of the digits, which are few."""
    layers = kernels.init((64, 100, 10), like=backend.asarray([0.0], "float32"))
    assert kernels.digest(layers) == reference.committed()["digits"]["float32"][0]


@pytest.mark.every_dtype
@pytest.mark.parametrize(("problem", "dtype", "compiled"), RUNS)
def test_committed_digests(backend, problem, dtype, compiled, record_property, request):
    """Weights before and after 1, 10 and 500 steps, as far as the library gets, are the same."""
    every = request.config.getoption("thorough")
    # Uncompiled, Dask makes one graph of all steps, and computes it anew for each array it reads.
    most = 10 if backend.name == "dask" and not compiled else 500
    steps = most if every else few_steps(backend.name, compiled)
    checkpoints = reference.checkpoints(backend, compiled=compiled, steps=steps)
    made = (made_by_numpy if backend.name == "ndonnx" else reference.make)(problem, backend, dtype)
    trained = reference.train(
        made, backend, numerics=kernels.EXACT, compiled=compiled, checkpoints=checkpoints
    )
    found = {"problem": problem, "dtype": dtype, "digests": trained.digests}
    record_property("digests", found | {"mode": "compiled" if compiled else "eager"})
    committed = reference.committed()[problem][dtype]
    assert trained.digests == {number: committed[number] for number in checkpoints}


def test_checkpoints_of_slow_libraries(backend):
    """Only slow libraries leave the last steps out, unless these are asked for."""
    quick, slow = backend._replace(slow=False), backend._replace(slow=True)
    for compiled, fewer in ((True, (0, 1, 10)), (False, (0, 1))):
        assert reference.checkpoints(quick, compiled=compiled) == (0, 1, 10, 500)
        assert reference.checkpoints(slow, compiled=compiled) == fewer
        assert reference.checkpoints(slow, compiled=compiled, steps=500) == (0, 1, 10, 500)
        assert reference.checkpoints(quick, compiled=compiled, steps=1) == (0, 1)


@THOROUGH("dask")
def test_native_training_has_other_digests(backend, dtype):
    """The library's own arithmetic does not happen to give the digests of exact numerics."""
    checkpoints = reference.checkpoints(backend, compiled=False, steps=1)
    made = reference.make("tutorial", backend, dtype)
    trained = reference.train(
        made, backend, numerics=kernels.NATIVE, compiled=False, checkpoints=checkpoints
    )
    expected = reference.committed()["tutorial"][dtype]
    assert trained.digests[0] == expected[0]
    assert trained.digests[checkpoints[-1]] != expected[checkpoints[-1]]


# The way to it is the same for every library, and on torch another than on NumPy.
@THOROUGH("array-api-strict", "jax", "mlx", "dask", "marray")
def test_difference_is_named(backend, dtype, monkeypatch):
    """The first step and array that differ are found, and none where there is none."""
    numpy = backends.get("numpy")
    find = partial(reference.first_difference, compiled=False, steps=1 if backend.slow else 2)
    assert find("digits", dtype, backend, numpy) is None
    make = reference.make

    def changed(problem, place, dtype):
        made = make(problem, place, dtype)
        if place is numpy:
            made = made._replace(learning_rate=made.learning_rate * 2)
        return made

    monkeypatch.setattr(reference, "make", changed)
    assert find("digits", dtype, backend, numpy) == "step 1, layers[0].weight"


def test_file_of_digests_is_complete():
    """Every problem has every dtype and checkpoint."""
    committed = reference.committed()
    assert tuple(committed) == reference.PROBLEMS
    for by_dtype in committed.values():
        assert tuple(by_dtype) == ("float32", "float64")
        for digests in by_dtype.values():
            assert tuple(digests) == reference.CHECKPOINTS
            assert len(set(digests.values())) == len(digests)
    assert json.dumps(committed)


def test_file_of_digests_can_be_made_anew():
    """With one command, up to the first step here."""
    made = make_digests((0, 1))
    for problem, by_dtype in reference.committed().items():
        for dtype, digests in by_dtype.items():
            assert made[problem][dtype] == {number: digests[number] for number in (0, 1)}

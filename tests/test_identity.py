"""Exact training gives the committed digests, on every library, eager and compiled."""

import json

import pytest

import kernels
from kernels.cli import identity


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("problem", identity.PROBLEMS)
def test_committed_digests(backend, problem, dtype, compiled, record, slow, monkeypatch):
    """Initial weights and those after 1, 10 and 500 steps are the same to the last bit."""
    if compiled and backend.compile(len) is len:
        pytest.skip(f"{backend.name} has no compiler")
    if slow and not compiled:
        monkeypatch.setattr(identity, "CHECKPOINTS", identity.CHECKPOINTS[:-1])
    made = identity.make(problem, backend, dtype)
    trained = identity.train(made, backend, numerics=kernels.EXACT, compiled=compiled)
    record["digests"].append(
        {
            "problem": problem,
            "dtype": dtype,
            "mode": "compiled" if compiled else "eager",
            "digests": trained.digests,
        }
    )
    committed = identity.committed()[problem][dtype]
    assert trained.digests == {number: committed[number] for number in identity.CHECKPOINTS}


def test_native_training_has_other_digests(backend, dtype):
    """The digests are of exact arithmetic: the library's own does not happen to give them."""
    made = identity.make("tutorial", backend, dtype)
    trained = identity.train(made, backend, numerics=kernels.NATIVE, compiled=False)
    expected = identity.committed()["tutorial"][dtype]
    assert trained.digests[0] == expected[0]
    assert trained.digests[500] != expected[500]


def test_difference_is_named(backend, dtype, monkeypatch):
    """The first step and array that differ are found, and none where there is none."""
    import backends

    monkeypatch.setattr(identity, "CHECKPOINTS", (0, 1, 2))
    numpy = backends.get("numpy")
    for problem in identity.PROBLEMS:
        assert identity.first_difference(problem, dtype, backend, numpy, compiled=False) is None, (
            problem
        )
    make = identity.make

    def changed(problem, place, dtype):
        made = make(problem, place, dtype)
        if place is numpy:
            made = made._replace(learning_rate=made.learning_rate * 2)
        return made

    monkeypatch.setattr(identity, "make", changed)
    where = identity.first_difference("digits", dtype, backend, numpy, compiled=False)
    assert where == "step 1, layers[0].weight"


def test_file_of_digests_is_complete():
    """Every problem has every dtype and checkpoint."""
    committed = identity.committed()
    assert tuple(committed) == identity.PROBLEMS
    for by_dtype in committed.values():
        assert tuple(by_dtype) == ("float32", "float64")
        for digests in by_dtype.values():
            assert tuple(digests) == identity.CHECKPOINTS
            assert len(set(digests.values())) == len(digests)
    assert json.dumps(committed)

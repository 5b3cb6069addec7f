"""`python -m kernels verify`, as a user meets it."""

import inspect
import json
import re

import pytest

import backends
from kernels import NATIVE
from kernels.reference import training as reference

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels.__main__ import main
from kernels.cli import verify


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")

    def run(*arguments, status=0):
        got = main(["verify", *arguments])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def short(monkeypatch):
    """Two steps instead of 500."""
    full = reference.committed()
    monkeypatch.setattr(reference, "CHECKPOINTS", (0, 1))
    cut = {
        problem: {dtype: {n: digests[n] for n in (0, 1)} for dtype, digests in by_dtype.items()}
        for problem, by_dtype in full.items()
    }
    monkeypatch.setattr(reference, "committed", lambda: cut)
    return cut


@pytest.fixture
def bent(monkeypatch):
    """A library called bent, whose arrays are made with an error."""

    def bent(asarray):
        numpy = backends.get("numpy")
        made = numpy._replace(name="bent", asarray=asarray(numpy.asarray))
        get = backends.get
        monkeypatch.setattr(backends, "get", lambda name: made if name == "bent" else get(name))

    return bent


def test_every_run_is_the_same(run, thorough):
    """All problems, both dtypes; the digests in the table are those committed.

    All 500 steps are those of tests/test_identity.py.
    """
    out, err = run("--backend", "numpy", *(() if thorough else ("--steps", "10")))
    assert err == ""
    assert out.isprintable() or set(out) - {"\n"} == set(filter(str.isprintable, out))
    assert "All 12 exact runs gave the committed digests." in out
    for by_dtype in reference.committed().values():
        for digests in by_dtype.values():
            assert f"{digests[500 if thorough else 10][:12]}  same" in out
    exact, native = out.split("native numerics")
    assert exact.startswith("exact numerics")
    assert native.count("reference") == 12


@pytest.mark.usefixtures("short")
def test_json(run):
    """One object for each run, with the whole digest; libraries differ in native numerics only."""
    out, err = run("--backend", "numpy", "--backend", "array-api-strict", "--json")
    rows = json.loads(out)
    assert err == ""
    assert len(rows) == 48
    assert {row["result"] for row in rows if row["numerics"] == "exact"} == {"same"}
    assert {len(row["digest"]) for row in rows} == {64}
    assert all(row["seconds_per_step"] > 0 for row in rows)
    assert {row["backend"] for row in rows} == {"numpy", "array-api-strict"}


def test_a_digest_that_is_not_the_committed_one(run, short):
    """The status is 1; NumPy's agreeing shows that it is not this library alone."""
    short["tutorial"]["float32"][1] = "0" * 64
    out, err = run("--backend", "numpy", status=1)
    version = backends.get("numpy").version
    message = f"different after step 1, where NumPy {version} here agrees"
    assert err == f"numpy, tutorial, float32: {message}\n"
    assert message in out
    assert "All" not in out


@pytest.mark.usefixtures("short")
def test_a_library_that_computes_something_else(run, bent):
    """The first step and array that differ from NumPy's are named."""
    bent(lambda asarray: lambda host, dtype=None: asarray(host, dtype) * 1)
    run("--backend", "bent")
    bent(lambda asarray: lambda host, dtype=None: asarray(host, dtype) // 1)
    _, err = run("--backend", "bent", status=1)
    version = backends.get("numpy").version
    assert err.splitlines() == [
        f"bent, {problem}, {dtype}: different from NumPy {version} here: "
        "first in step 1, layers[0].weight"
        for problem in ("digits", "digits-adam")
        for dtype in ("float32", "float64")
    ]


@pytest.mark.usefixtures("short")
def test_a_library_that_fails(run, bent):
    """Its failure is a result, and the others are verified nonetheless."""

    def asarray(host, dtype=None):
        raise RuntimeError("out of order\nin detail")

    bent(lambda _: asarray)
    out, err = run("--backend", "bent", "--backend", "numpy", status=1)
    assert err.count("failed: RuntimeError: out of order\n") == 12
    assert out.split("native")[0].count("  same\n") == 12


@pytest.mark.usefixtures("short")
def test_native_numerics_do_not_pass_for_exact(run, monkeypatch):
    """What is verified are the exact numerics, not that training works."""
    monkeypatch.setitem(verify.NUMERICS, "exact", NATIVE)
    _, err = run("--backend", "numpy", status=1)
    assert err.count("different after step 1") == 12


def test_backend_that_is_not_known(run):
    out, err = run("--backend", "abacus", status=2)
    assert out == ""
    assert err.startswith("Error: expected a backend of numpy, ")


def test_compiled_runs_follow_the_eager_ones():
    """Of libraries with a compiler, which may refuse what is not a plain function, as JAX does."""

    def compile(function):
        if inspect.isgeneratorfunction(function):
            raise TypeError("expected a function, got a generator function")
        return lambda *arguments: function(*arguments)

    plain = backends.get("numpy")
    compiling = plain._replace(name="compiling", compile=compile)
    modes = [(place.name, compiled) for place, compiled in verify._modes([plain, compiling])]
    assert modes == [("numpy", False), ("compiling", False), ("compiling", True)]


def test_steps_of_slow_libraries(run, monkeypatch):
    """They are trained for fewer steps, and the tables and the last line say so."""
    made = backends.get("numpy")._replace(name="sloth", slow=True)
    monkeypatch.setattr(backends, "get", {"sloth": made}.get)
    out, _ = run("--backend", "sloth")
    for by_dtype in reference.committed().values():
        for digests in by_dtype.values():
            assert re.search(rf"  1 +\S+ \S+ +{digests[1][:12]}  same", out)
    assert out.endswith("Some took fewer than 500 steps; --steps 500 makes all take them.\n")
    out, _ = run("--backend", "sloth", "--steps", "10", "--json")
    rows = json.loads(out)
    assert {row["steps"] for row in rows} == {10}
    expected = {d[10] for by_dtype in reference.committed().values() for d in by_dtype.values()}
    assert {row["digest"] for row in rows if row["numerics"] == "exact"} == expected


def test_steps_without_digests(run):
    _, err = run("--backend", "numpy", "--steps", "7", status=2)
    assert err == "Error: expected --steps to be 1, 10 or 500, got 7.\n"

"""`python -m benchmarks`, as a user meets it. Nothing here depends on how fast anything is."""

import gc
import importlib
import json
import re

import numpy as np
import pytest

import backends

for module in ("typer", "rich", "matplotlib", "threadpoolctl", "cpuinfo", "psutil"):
    pytest.importorskip(module, reason="benchmarks need array-api-kernels[bench]")
contest, growth, memory, timing, cases, main = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("contest", "growth", "memory", "timing", "cases", "__main__")
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A small case; what the command line sets in the environment ends with each test."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_ENABLE_X64", "1")

    def make(asarray, dtype):
        return cases.generated(
            "small", 16, (20, 8, 4), like=asarray([0.0], dtype), learning_rate=1e-3
        )

    monkeypatch.setitem(cases.CASES, "small", cases.Case(make, 3))


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        got = main.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def found(run):
    """The parsed JSON of a run of the small case, with NumPy unless said otherwise."""

    def found(*arguments, backend="numpy"):
        options = ("--case", "small", "--backend", backend, "--rounds", 3, "--json")
        return json.loads(run(*options, *arguments)[0], parse_constant=pytest.fail)

    return found


# Cases


def test_json(found):
    """Machine, versions and threads; the contestants and what was measured of each."""
    result = found("--dtype", "float32", "--dtype", "float64")
    machine = result["machine"]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["versions"]["numpy"] == np.__version__
    assert machine["threads"]
    assert machine["devices"] == ["numpy: cpu"]
    assert machine["date"].startswith("20")
    assert result["growth"] == []
    single, double = result["cases"]
    assert (single["dtype"], double["dtype"]) == ("float32", "float64")
    assert (single["case"], single["batch"], single["sizes"]) == ("small", 16, [20, 8, 4])
    assert (single["steps"], single["rounds"]) == (3, 3)
    names = [row["name"] for row in single["contestants"]]
    assert names[:5] == [
        "kernel native, numpy",
        "kernel exact, numpy",
        "kernel exact-1, numpy",
        "matrix products alone, numpy",
        "tutorial's NumPy loop",
    ]
    assert "kernel exact-1, numpy" not in [row["name"] for row in double["contestants"]]
    for row in single["contestants"] + double["contestants"]:
        assert len(row["rounds"]) == 3
        assert row["per_step"]["median"] == sorted(row["rounds"])[1]
        assert row["per_step"]["q1"] <= row["per_step"]["median"] <= row["per_step"]["q3"]
        assert row["first_run_seconds"] > 0


def test_ratios_are_of_the_times_shown(found):
    (result,) = found()["cases"]
    rounds = {row["name"]: np.asarray(row["rounds"]) for row in result["contestants"]}
    pairs = [(ratio["name"], ratio["against"]) for ratio in result["ratios"]]
    native, loop = "kernel native, numpy", "tutorial's NumPy loop"
    assert {(native, loop), (native, "matrix products alone, numpy")} < set(pairs)
    for exact in ("kernel exact, numpy", "kernel exact-1, numpy"):
        assert [pair for pair in pairs if pair[0] == exact] == [(exact, native), (exact, loop)]
    assert len(set(pairs)) == len(pairs)
    for ratio in result["ratios"]:
        each = rounds[ratio["name"]] / rounds[ratio["against"]]
        np.testing.assert_allclose(
            [ratio["ratio"][key] for key in ("q1", "median", "q3")],
            np.quantile(each, (0.25, 0.5, 0.75)),
        )


def test_every_backend_and_mode(found, backend):
    """The kernel runs eager, and compiled where there is a compiler; peers are the library's."""
    (result,) = found("--numerics", "native", backend=backend.name)["cases"]
    rows = {row["name"]: row for row in result["contestants"]}
    kernels = [(row["numerics"], row["compiled"]) for row in rows.values() if row["numerics"]]
    compiled = backend.compile(found) is not found
    assert kernels == [("native", False), ("native", True)][: 1 + compiled]
    assert f"matrix products alone, {backend.name}" in rows
    library = backend.name.partition(":")[0]
    of_library = {row["name"] for row in rows.values() if row["kind"] == "peer"}
    known = {peer.name for peer in contest.PEERS if peer.library == library}
    not_run = {name for name, _ in result["not_run"]}
    assert known <= of_library | not_run
    assert not not_run.intersection(kernels)


def test_allocated_memory_is_counted_in_weights(run):
    pytest.importorskip("memray", reason="memray is not installed")
    options = ("--backend", "numpy", "--numerics", "native", "--rounds", 1, "--steps", 2, "--json")
    (kernel, *_) = json.loads(run(*options)[0])["cases"][0]["contestants"]
    assert kernel["weights"] == kernel["allocated_bytes"] / (1000 * 100 * 4)
    assert kernel["weights"] > 1


def test_tables(run):
    """Plain text when piped, with a row for each contestant and ratio and the machine above."""
    out, err = run("--case", "small", "--backend", "numpy", "--rounds", 1, "--steps", 2)
    assert err == ""
    assert set(out) - {"\n"} == set(filter(str.isprintable, out)) - {"\n"}
    lines = out.splitlines()
    assert lines[0].startswith("date ")
    assert any(line.startswith("CPU ") and line.endswith(" cores") for line in lines)
    assert (
        "small: network 20 > 8 > 4, batch 16, float32; "
        "median and quartiles of 1 rounds of 2 steps" in lines
    )
    assert any(re.match("kernel native, numpy +tutorial's NumPy loop ", line) for line in lines)


def test_files(run, tmp_path):
    """The JSON of --json, and a chart."""
    folder = tmp_path / "new" / "results"
    options = ("--case", "small", "--backend", "numpy", "--quick", "--numerics", "native")
    out, _ = run(*options, "--output", folder, "--json")
    assert (folder / "bench.json").read_text() == out
    assert json.loads(out)["cases"][0]["rounds"] == 3
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_is_not_installed_is_listed(found, run, monkeypatch):
    missing = contest.PEERS[0]._replace(name="abacus", module="abacus_learn")
    monkeypatch.setattr(contest, "PEERS", (*contest.PEERS, missing))
    (result,) = found("--numerics", "native")["cases"]
    assert ["abacus", "not installed"] in result["not_run"]
    assert "abacus" not in [row["name"] for row in result["contestants"]]
    out, _ = run("--case", "small", "--backend", "numpy", "--rounds", 1)
    assert any(line.split() == ["abacus", "not", "installed"] for line in out.splitlines())


def test_a_peer_that_fails_is_listed(found, monkeypatch):
    def fail(problem, place):
        raise RuntimeError("out of order\nin detail")

    broken = contest.NUMPY_LOOP._replace(name="broken", make=fail)
    monkeypatch.setattr(contest, "PEERS", (broken, contest.NUMPY_LOOP))
    (result,) = found("--numerics", "native")["cases"]
    assert result["not_run"] == [["broken", "RuntimeError: out of order"]]
    assert "tutorial's NumPy loop" in [row["name"] for row in result["contestants"]]


@pytest.mark.parametrize("wrong_step", [0, 1])
def test_a_peer_that_computes_something_else(run, monkeypatch, wrong_step):
    """A loss that is wrong, or an update that is, seen in the second loss."""

    def make(problem, place):
        train = contest.NUMPY_LOOP.make(problem, place)

        def other(steps):
            losses = train(steps)
            losses[wrong_step] *= 1.001
            return losses

        return other

    wrong = contest.NUMPY_LOOP._replace(name="wrong", make=make)
    monkeypatch.setattr(contest, "PEERS", (wrong,))
    out, err = run("--case", "small", "--backend", "numpy", "--rounds", 1, status=1)
    assert out == ""
    assert err.startswith("Error: wrong does not compute what the kernel does: its first losses")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "huge"], "expected --case to be tutorial or wide or deep or "),
        (["--dtype", "float16"], "expected --dtype to be float32 or float64, got 'float16'"),
        (["--numerics", "vague"], "expected --numerics to be native or exact or exact-1"),
        (["--mode", "fast"], "expected --mode to be eager or compiled, got 'fast'"),
        (["--backend", "abacus"], "expected a backend of numpy, "),
        (["--output", __file__], f"cannot write into --output {__file__}: [Errno 17] File exists"),
    ],
)
def test_refused(run, arguments, message):
    out, err = run(*arguments, status=2)
    assert out == ""
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1


# Timing


def test_rounds_rotate():
    """A short program runs once before it is timed, so that its threads are awake."""
    seen, shown = [], []
    programs = [lambda i=i: seen.append(i) for i in range(3)]
    seconds = timing.interleave(programs, 4, shown.append)
    assert seen[::2] == seen[1::2] == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert shown == [1, 2, 3, 4]
    assert [len(each) for each in seconds] == [4, 4, 4]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_long_programs_run_once_a_round(monkeypatch):
    monkeypatch.setattr(timing, "_SHORT_SECONDS", 0.0)
    seen = []
    timing.interleave([lambda: seen.append(None)], 3)
    assert len(seen) == 1 + 3


def test_garbage_is_not_collected_within_a_round():
    states = []
    timing.interleave([lambda: states.append(gc.isenabled())], 1)
    assert states == [False, False]


@pytest.mark.library("numpy", "torch", "jax")
def test_memory(backend):
    """An array that is held for a moment is seen, and not the one held before."""
    if importlib.util.find_spec("memray") is None and not backend.name.startswith("torch:cuda"):
        pytest.skip("memray is not installed")
    held = backend.asarray(np.ones(10**7, "float32"))
    host = np.ones(10**6, "float32")

    def function():
        backend.synchronize(held, backend.asarray(host))

    if backend.name.startswith("jax:cuda"):
        assert memory.allocated(function, backend.name) is None
    else:
        assert 4_000_000 <= memory.allocated(function, backend.name) < 8_100_000


# Growth


def test_growth(run, tmp_path):
    """One series for each size and what is timed, up to the largest size."""
    options = ("--growth", "--largest", 64, "--dtype", "float64")
    out, _ = run(*options, "--output", tmp_path, "--json")
    result = json.loads(out, parse_constant=pytest.fail)
    assert result["cases"] == []
    series = [(each["varied"], each["numerics"]) for each in result["growth"]]
    exponents = {"batch": 1, "width": 2, "depth": 1, "batch and width": 3}
    assert series == [(v, n) for v in exponents for n in ("native", "exact", "products alone")]
    sizes = {each["varied"]: [p["size"] for p in each["points"]] for each in result["growth"]}
    assert sizes["batch"] == [32, 64]
    assert sizes["width"] == sizes["batch and width"] == [64]
    fixed = {each["varied"]: each["fixed"] for each in result["growth"]}
    assert fixed["batch and width"] == {"depth": 2}
    assert fixed["batch"] == {"width": 512, "depth": 2}
    for each in result["growth"]:
        points = [growth.Point(*point.values()) for point in each["points"]]
        assert each["exponent"] == growth.exponent(points)
        assert each["expected"] == exponents[each["varied"]]
    assert (tmp_path / "growth.json").read_text() == out
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--largest", 64), "Stopped: width 128 is above 64."),
        (("--seconds", 0), "Stopped: width 128 would take longer than 0 s in all."),
    ],
)
def test_growth_stops(run, options, reason):
    out, _ = run("--growth", "--numerics", "native", *options)
    assert reason in out.splitlines()
    assert "Time per step by width, at batch 256, depth 2, float32" in out


def test_growth_stops_before_memory_ends(monkeypatch):
    """The estimate is made before anything is computed."""
    monkeypatch.setattr(growth, "memory_bytes", lambda: 2 * 10**6)
    monkeypatch.setattr(growth, "_time", pytest.fail)
    native, exact, products = growth.grow(
        "width",
        backends.get("numpy"),
        "float32",
        numerics=("native", "exact"),
        compiled=False,
        seconds=60.0,
        memory_fraction=0.1,
        largest=None,
        progress=lambda _: None,
    )
    assert native.points == exact.points == products.points == []
    assert native.exponent is None
    assert native.stopped == "width 64 needs about 0.0 GiB of 0.0"


def test_exponent():
    points = [growth.Point(n, 2e-6 if n < 8 else 1e-9 * n**1.5, 0) for n in (1, 2, 4, 8, 16, 32)]
    assert growth.exponent(points) == pytest.approx(1.5)
    assert growth.exponent(points[:1]) is None

"""`python -m benchmarks.collectives`: what it counts, its model, and what it prints."""

import importlib
import json
import re
from pathlib import Path

import pytest

import backends

for module in ("typer", "rich", "torch"):
    pytest.importorskip(module, reason="benchmarks of workers need array-api-kernels[bench,torch]")
cases, collectives = (
    importlib.import_module(f"benchmarks.{name}") for name in ("cases", "collectives")
)

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


@pytest.mark.parametrize("count", [2, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_step_sends(dtype, count):
    """As docs/scale.md says, and tests/test_workers.py sees of torch; for any number of workers."""
    row = re.search(rf"\n\| {dtype} \| [\d,]+ \| .*\|\n", PAGE)[0].replace(",", "").split("|")
    _, _, _, native, exact, _, native_calls, exact_calls, _ = row
    problem = cases.CASES["tutorial"].make(backends.get("numpy").asarray, dtype)
    for numerics, size, calls in (("native", native, native_calls), ("exact", exact, exact_calls)):
        sent = collectives.exchanges(problem, collectives._NUMERICS[numerics], count)
        assert (len(sent), sum(sent)) == (int(calls), int(size))
    assert collectives.exchanges(problem, collectives._NUMERICS["exact"], 1) == []


def test_model():
    """A small message takes a tree, a large one does not go through any link twice."""
    link = collectives.Link(latency=1.0, byte=1.0)
    assert link.all_reduce(100, 1) == 0.0
    assert link.all_reduce(0, 2) == 1.0
    assert link.all_reduce(0, 1000) == 10.0
    assert link.all_reduce(10**6, 4) == 2 * 2 + 1.5 * 10**6
    assert link.all_reduce(10**6, 3) == 2 * 2 + 4 / 3 * 10**6
    assert link.step([0, 0, 0], 2) == 3.0


def test_command(monkeypatch, capsys):
    """The simulation of a small network; of workers only what they would have measured."""

    def make(asarray, dtype):
        return cases.generated("small", 6, (5, 4, 3), like=asarray([0.0], dtype))

    monkeypatch.setitem(cases.CASES, "small", cases.Case(make, 2))
    monkeypatch.setattr(
        collectives, "_measured", lambda *_: {"step": 0.5, "small": 0.25, "large": 0.75}
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert collectives.main(["--case", "small", "--latency", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["link"]["latency"] == 0.25
    for row in found["measured"]:
        assert row["measured"] == 0.5
        assert (row["workers"] == 1) == (row["seconds"] < 0.25)
    first, *others = found["simulated"]
    assert (first["workers"], first["exchanges"], first["sending"]) == (1, 0, 0.0)
    assert others[-1]["workers"] == 1000
    for row in others:
        assert row["exchanges"] == 4
        assert row["sending"] >= 4.0
    assert collectives.main(["--case", "small"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("small, float32, exact. Between two processes here: 250 ms, ")
    assert re.search(r"^1,000 +4 +", out, re.MULTILINE)


def test_a_worker(monkeypatch, tmp_path):
    """Alone, as the first of one."""
    monkeypatch.setattr(collectives, "_ROUNDS", 1)
    monkeypatch.setattr(collectives, "_LARGE", 16)
    collectives._work("tutorial", "float32", collectives._NUMERICS["native"], tmp_path / "found")
    found = json.loads((tmp_path / "found").read_text())
    assert set(found) == {"step", "small", "large"}
    assert min(found.values()) > 0.0

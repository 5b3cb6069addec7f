"""`python -m benchmarks.record`, with a suite of three tests in place of the project's own."""

import importlib
import json
import os
import re

import pytest

import backends
from kernels.reference.training import PROBLEMS

for module in ("typer", "rich", "matplotlib", "threadpoolctl", "cpuinfo", "psutil"):
    pytest.importorskip(module, reason="benchmarks need array-api-kernels[bench]")
record = importlib.import_module("benchmarks.record")
entry = importlib.import_module("kernels.cli.entry")

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--backend", action="append")
"""
TESTS = """
import pytest

def test_passes(request):
    assert request.config.getoption("--backend") == ["numpy"]

def test_skips():
    pytest.skip("a reason")

def test_other():
    assert {other}
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """(*arguments, other) -> stdout, stderr: `other` is what one of the three tests asserts."""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    # The commands that it runs must find this package wherever the tests lie.
    root = record._TESTS.parent
    monkeypatch.setenv("PYTHONPATH", str(root), prepend=os.pathsep)
    tests = tmp_path / "clone" / "tests"
    for other in ("cli", "benchmarks"):
        (tests / other).mkdir(parents=True)
        (tests / other / f"test_{other}.py").write_text("assert False, 'collected'")
    (tests / "conftest.py").write_text(CONFTEST)
    monkeypatch.setattr(record, "_TESTS", tests)

    def run(*arguments, other="True", status=0):
        (tests / "test_it.py").write_text(TESTS.format(other=other))
        got = entry.entry("record", record.record)([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


QUICK = ("--backend", "numpy", "--case", "tutorial", "--quick")


def test_record(run, tmp_path):
    """All three parts; nothing of where the machine's files are."""
    folder = tmp_path / "a" / "b"
    out, err = run(folder, *QUICK)
    assert err == ""
    page, chart, data = sorted(folder.iterdir(), key=lambda file: file.suffix == ".json")
    assert {page.suffix, chart.suffix} == {".md", ".png"}
    page = folder / f"{data.stem}.md"
    assert out == f"{page}\n"
    assert re.fullmatch(r"20\d\d-\d\d-\d\d(-[a-z0-9]+)+", data.stem)
    found = json.loads(data.read_text(), parse_constant=pytest.fail)
    assert list(found) == ["machine", "tests", "verify", "bench"]
    (suite,) = found["tests"]
    assert (suite["backend"], suite["version"]) == ("numpy", backends.get("numpy").version)
    assert (suite["passed"], suite["failed"], suite["skipped"]) == (2, 0, 1)
    exact = [row for row in found["verify"] if row["numerics"] == "exact"]
    assert len(exact) == 2 * len(PROBLEMS)
    assert {row["result"] for row in exact} == {"same"}
    assert [contest["dtype"] for contest in found["bench"]] == ["float32", "float64"]
    for contest in found["bench"]:
        assert contest["case"] == "tutorial"
        assert contest["rounds"] == 3
        assert "kernel exact, numpy" in {row["name"] for row in contest["contestants"]}
        assert all("rounds" not in row for row in contest["contestants"])
    text = page.read_text()
    assert f"![time per step]({data.stem}.png)" in text
    for part in ("## Tests", "## Exact numerics", "## Native numerics", "## Speed", "same"):
        assert part in text
    assert str(tmp_path) not in text + data.read_text()
    assert str(record.__file__).rpartition("/benchmarks/")[0] not in text + data.read_text()


def test_failed_tests_are_recorded_and_told(run, tmp_path):
    _, err = run(tmp_path / "results", *QUICK, other="False", status=1)
    assert err == "numpy: 1 tests failed\n"
    (data,) = (tmp_path / "results").glob("*.json")
    assert json.loads(data.read_text())["tests"][0]["failed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--case", "none"), "expected --case to be tutorial or .* got 'none'"),
        (("--backend", "none"), "expected a backend of numpy, .* got 'none'"),
    ],
)
def test_wrong_options(run, tmp_path, arguments, message):
    _, err = run(tmp_path / "results", *arguments, status=2)
    assert re.fullmatch(f"Error: {message}.\n", err)
    assert not (tmp_path / "results").exists()


def test_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("")
    _, err = run(tmp_path / "file" / "results", *QUICK, status=2)
    assert re.fullmatch("Error: cannot write into .*/file/results: .*\n", err)


def test_tests_that_do_not_start(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    _, err = run(tmp_path / "results", *QUICK, status=1)
    assert "Error: the tests of numpy did not run: " in err
    assert not list((tmp_path / "results").iterdir())


def test_files_are_named_after_the_gpu():
    numpy = backends.get("numpy")
    gpu = numpy._replace(name="torch:cuda:0", devices=("cuda:0 NVIDIA H100 80GB HBM3",))
    assert record._slug([numpy, gpu], "Intel(R) Xeon(R)") == "nvidia-h100-80gb-hbm3"
    assert record._slug([numpy], "Intel(R) Xeon(R) @ 2.0 GHz") == "intel-xeon-2-0-ghz"

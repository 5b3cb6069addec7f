"""Every program and every command of this repository in the README runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Those for one library run in tests/test_autograd.py and test_workers.py, with that library.
PROGRAMS = [
    program
    for program in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "from backends" not in program
]
# The commands of a block run in one folder, one after the other. Those of an engine run in
# tests/test_workers.py, with that engine.
BLOCKS = [
    commands
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    if "--engine" not in block
    and (commands := re.findall(r"^python -m ((?:kernels|benchmarks).*)$", block, re.MULTILINE))
]


def run(*args, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "error", *args], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS, ids="; ".join)
def test_commands_run(block, tmp_path):
    pytest.importorskip("typer", reason="the command line is not installed")
    if any(command.startswith("kernels export") for command in block):
        pytest.importorskip("ndonnx", reason="export needs array-api-kernels[ndonnx]")
    if any(command.startswith("benchmarks") for command in block):
        pytest.importorskip("cpuinfo", reason="benchmarks need array-api-kernels[bench]")
    for command in block:
        assert run("-m", *command.split(), cwd=tmp_path)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program, tmp_path):
    (tmp_path / "program.py").write_text(program)
    last = run("program.py", cwd=tmp_path).split()[-1]
    if "digest" in program:
        assert program.endswith(f"  # {last}\n")
    else:
        assert float(last) < 1e-3, "the tutorial's loss did not fall"


def test_there_is_something_to_run():
    assert PROGRAMS
    assert ["kernels train"] in BLOCKS

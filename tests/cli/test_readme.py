"""Every program and every command of the README and of the pages in docs/ runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    page.stem: page.read_text() for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}

# The oldest typer itself takes names that click has deprecated since.
STRICT = ("-W", "error", "-W", "ignore::DeprecationWarning:typer")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


# Those for one library run with that library, in tests/test_autograd.py, test_workers.py and
# test_tutorial.py, that of the estimators with these, and those with prompts as doctests.
PROGRAMS = {
    program: f"{name}-{i}"
    for name, page in PAGES.items()
    for i, program in enumerate(blocks(page, "python"))
    if not re.search(r"from backends|import torch|kernels.estimators|>>>", program)
}
# Those that the tests of the command itself run, which look at what they print.
TESTED = (["kernels check numpy"], ["kernels verify --backend numpy"])
# The commands of a block run in one folder, one after the other. Those of an engine run in
# tests/test_workers.py, with that engine.
COMMANDS = {
    tuple(commands)
    for page in PAGES.values()
    for block in blocks(page, "console")
    if "--engine" not in block
    and (commands := re.findall(r"^python -m ((?:kernels|benchmarks).*)$", block, re.MULTILINE))
    and commands not in TESTED
}


# A file that pages train on, and one with new rows.
HOUSES = "area,rooms,city,built,price\n" + "".join(
    f"{50 + 7 * i % 90},{1 + i % 6},{('Bonn', 'Ulm')[i % 2]},19{10 + i}-05-01,{100 + i}.5\n"
    for i in range(60)
)
FILES = {"houses.csv": HOUSES, "new_houses.csv": re.sub(r",[^,]*$", "", HOUSES, flags=re.MULTILINE)}


def run(*args, cwd):
    done = subprocess.run(
        [sys.executable, *STRICT, *args], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("commands", sorted(COMMANDS), ids="; ".join)
def test_commands_run(commands, tmp_path, monkeypatch, capsys):
    """In this process, as far as it has them: others show that they are programs as well."""
    pytest.importorskip("typer", reason="the command line is not installed")
    main = pytest.importorskip("kernels.__main__").main
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.chdir(tmp_path)
    if any(command.startswith("kernels export") for command in commands):
        pytest.importorskip("ndonnx", reason="export needs array-api-kernels[ndonnx]")
    if any(command.startswith("benchmarks") for command in commands):
        pytest.importorskip("cpuinfo", reason="benchmarks need array-api-kernels[bench]")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for command in commands:
        package, *arguments = command.split()
        if package == "kernels":
            assert main(arguments) == 0
            assert capsys.readouterr().out
        else:
            assert run("-m", package, *arguments, cwd=tmp_path)


@pytest.mark.parametrize("program", PROGRAMS, ids=PROGRAMS.values())
def test_programs_run(program, tmp_path):
    (tmp_path / "program.py").write_text(program)
    last = run("program.py", cwd=tmp_path).split()[-1]
    if "digest" in program:
        assert program.endswith(f"  # {last}\n")
    else:
        assert float(last) < 1e-3, "the tutorial's loss did not fall"


def test_there_is_something_to_run():
    assert {"getting_started-0", "getting_started-1", "tutorial-0"} <= set(PROGRAMS.values())
    assert ("kernels train",) in COMMANDS


def test_sessions_exist():
    """Every `nox -s NAME` of a page is one of the noxfile's."""
    page = "".join((*PAGES.values(), (ROOT / "CONTRIBUTING.md").read_text()))
    named = re.findall(r"nox -s \"?(\w+)", page)
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(sessions)


def test_pages_are_linked():
    """Relative links of the README and of CONTRIBUTING lead to files."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^):#]+)[#)]", (ROOT / name).read_text()):
            assert (ROOT / link).is_file(), (name, link)


def test_powers_are_not_bold():
    """Two powers such as 2**39 outside of code would be the ends of a bold text."""
    for name, page in (*PAGES.items(), ("CHANGELOG", (ROOT / "CHANGELOG.md").read_text())):
        text = re.sub(r"```.*?```|`[^`]*`|\n\n {4}[^\n]*", "", page, flags=re.DOTALL)
        assert re.findall(r"\w\*\*[-\w(]+", text) == [], name

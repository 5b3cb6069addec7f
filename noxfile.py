"""One environment per backend, so that no library is tested with another one's help.

`nox` runs what this machine can run, but for the largest libraries, and ends with a table;
`nox -s "tests(torch:cuda)"` runs one session, and fails if the machine cannot. `nox --no-venv`
uses what is already installed.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nox

# What is known of each backend; read as data, since nox runs where the package is not installed.
BACKENDS: dict[str, dict[str, Any]] = tomllib.loads(Path("backends/known.toml").read_text())
TEST_PACKAGES = ("pytest", "hypothesis", "scikit-learn")
CUDA, LARGE, ENGINES = (
    [name for name, known in BACKENDS.items() if known.get(what)]
    for what in ("cuda", "large", "engine")
)
DOCS_PACKAGES = ("furo", "myst-parser", "numpydoc", "sphinx", "sphinx-copybutton", "sphinx-gallery")
CHECKS = ("cli", "doctests", "lint", "types", "package")
# The schemas of files that only a service reads.
SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "dependabot": ".github/dependabot.yml",
    "citation-file-format": "CITATION.cff",
}
# Tests of the command line, which needs more than a backend.
CLI_TESTS = "tests/cli"
BENCHMARK_TESTS = "tests/benchmarks"
SMOKE = tuple(f"{BENCHMARK_TESTS}/test_bench.py::test_{name}" for name in ("json", "refused"))
IGNORED = tuple(f"--ignore={path}" for path in (CLI_TESTS, BENCHMARK_TESTS))
RESULTS = Path(".nox") / "results"
TABLE_BEGIN, TABLE_END = "<!-- nox -s support: begin -->\n", "<!-- nox -s support: end -->"


def no_cuda() -> str | None:
    """Say why no CUDA backend can run here; None if one may."""
    if shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia/version"):
        return None
    return "no NVIDIA driver on this machine"


RUNNABLE = [
    name for name in BACKENDS if name not in LARGE and (name not in CUDA or no_cuda() is None)
]

nox.options.sessions = [*(f"tests({name})" for name in RUNNABLE), *CHECKS, "identical", "summary"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *packages: str) -> None:
    """Install with the pinned versions, unless the session runs in somebody's environment."""
    if session.virtualenv.is_sandboxed:
        session.install("-q", "-c", "constraints.txt", *packages)


def pytest(session: nox.Session, name: str, *args: str, **env: str) -> None:
    """Run pytest and leave its counts for the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"{name.replace(':', '-')}.xml"
    report.unlink(missing_ok=True)
    session.run("python", "-m", "pytest", f"--junitxml={report}", *args, *session.posargs, env=env)


@nox.session
@nox.parametrize("backend", [nox.param(name, id=name) for name in BACKENDS])
def tests(session: nox.Session, backend: str) -> None:
    """Test one backend in an environment that holds nothing else."""
    reason = no_cuda() if backend in CUDA else None
    if reason is not None:
        session.error(f"The backend {backend} cannot run: {reason}.")
    command_line = ",cli" if backend in ENGINES else ""
    install(session, "-e", f".[{BACKENDS[backend]['extra']},save{command_line}]", *TEST_PACKAGES)
    env = {"JAX_ENABLE_X64": "1"}
    record = RESULTS / f"{backend.replace(':', '-')}.json"
    record.unlink(missing_ok=True)
    options = ("--backend", backend, "--record", str(record), *IGNORED)
    pytest(session, backend, *options, *BACKENDS[backend].get("suite", ()), **env)


@nox.session
def cli(session: nox.Session) -> None:
    """Test the command line and run the commands and programs of the README."""
    install(session, "-e", ".[bench,array-api-strict,ndonnx]", "hypothesis")
    pytest(session, "cli", "--backend", "numpy", CLI_TESTS, *SMOKE)


@nox.session
def bench(session: nox.Session) -> None:
    """Test the benchmarks and run them; what follows -- goes to `python -m benchmarks`."""
    install(session, "-e", ".[bench,torch,jax]", "hypothesis")
    selected = ("--backend", "numpy", "--backend", "torch:cpu", "--backend", "jax:cpu")
    session.run("python", "-m", "pytest", BENCHMARK_TESTS, *selected)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Keep what this machine can say about the kernel in the folder that follows --."""
    install(session, "-e", ".[bench,torch,jax]", "hypothesis")
    session.run("python", "-m", "benchmarks.record", *session.posargs)


@nox.session
def hunt(session: nox.Session) -> None:
    """Look for wrong bits in random programs; `-- --minutes 60` says for how long."""
    install(session, "-e", ".[torch,jax,array-api-strict,mlx,ndonnx]", "hypothesis")
    session.run("python", "-m", "tests.hunt", *session.posargs)


@nox.session
def doctests(session: nox.Session) -> None:
    """Run the examples in the docstrings and in docs."""
    install(session, "-e", ".[cli]", "pytest", "hypothesis")
    # Those of backends.autograd need its libraries, and run in the tests of these; the others need
    # torch and Dask to be imported at all.
    modules = ("autograd", "workers/_dtensor.py", "workers/_dask_steps.py")
    ignored = (f"--ignore=backends/{module}" for module in modules)
    options = ("--doctest-modules", "--doctest-glob=*.md", *ignored)
    pytest(session, "doctests", *options, "kernels", "backends", "benchmarks", "docs")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format, the workflows, and other files that only a service reads."""
    install(session, "ruff", "zizmor", "check-jsonschema", "pre-commit")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    for schema, paths in SCHEMAS.items():
        files = sorted(map(str, Path().glob(paths)))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    session.run("zizmor", "--offline", "--quiet", ".github")
    session.run("pre-commit", "validate-config")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the gallery and build the site into docs/_build; broken links are errors."""
    install(session, "-e", ".[cli,torch,jax,array-api-strict]", *DOCS_PACKAGES)
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "docs", "docs/_build")
    print("Open docs/_build/index.html")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    install(session, "-e", ".[bench]", "mypy")
    session.run("mypy")


@nox.session
def package(session: nox.Session) -> None:
    """Build wheel and sdist; install and import each without any array library."""
    if not session.virtualenv.is_sandboxed:
        session.skip("installing the built package needs an environment of its own")
    install(session, "build")
    out = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out))
    code = "import kernels, backends; print(kernels.__file__, backends.available())"
    for built in sorted(out.iterdir()):
        session.run("python", "-m", "pip", "install", "-q", "--force-reinstall", str(built))
        with session.chdir(out):
            session.run("python", "-I", "-c", code)


@nox.session(venv_backend="none")
def identical(session: nox.Session) -> None:
    """Print the digests of exact training that the last sessions of the tests saw."""
    committed = json.loads(Path("kernels/reference/digests.json").read_text())
    rows = [("backend", "version", "mode", "problem", "dtype", "steps", "digest", "")]
    for name in BACKENDS:
        for run in found(name).get("digests", ()):
            problem, dtype, mode = run["problem"], run["dtype"], run["mode"]
            for steps, digest in run["digests"].items():
                same = digest == committed[problem][dtype][steps]
                rows.append(
                    (
                        name,
                        found(name)["version"],
                        mode,
                        problem,
                        dtype,
                        steps,
                        digest[:12],
                        "same" if same else "DIFFERENT",
                    )
                )
    print_table(rows)
    if len(rows) == 1:
        session.error('There are no digests yet: run nox, or nox -s "tests(numpy)", first.')
    if any(row[-1] == "DIFFERENT" for row in rows):
        session.error("Some digests are not the committed ones.")


@nox.session(venv_backend="none")
def summary(session: nox.Session) -> None:
    """Print what ran, what did not and why."""
    rows = [("tests of", "version", "result", "seconds")]
    for name in (*BACKENDS, *CHECKS[:2]):
        counts = outcome(name)
        if counts is None:
            unable = (name in CUDA and no_cuda()) or (name in LARGE and "large, run by name alone")
            rows.append((name, "", f"skipped: {unable}" if unable else "not run", ""))
        else:
            rows.append((name, found(name).get("version", ""), *counts))
    print_table(rows)


@nox.session(venv_backend="none")
def support(session: nox.Session) -> None:
    """Write what the last runs of the tests saw into the table of docs/libraries.md.

    Rows of backends that did not run stay as they are.
    """
    page = Path("docs/libraries.md")
    head, rest = page.read_text().split(TABLE_BEGIN)
    table, tail = rest.split(TABLE_END)
    title, rule, *rows = table.splitlines()
    lines = {row.split("`")[1]: row for row in rows}
    for name in BACKENDS:
        counts = outcome(name)
        if counts is not None:
            seen = found(name)
            devices = ", ".join(seen["devices"])
            lines[name] = f"| `{name}` | {seen['version']} | {devices} | {counts[0]} |"
    kept = "\n".join([title, rule, *(lines[name] for name in BACKENDS if name in lines)])
    page.write_text(f"{head}{TABLE_BEGIN}{kept}\n{TABLE_END}{tail}")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def outcome(name: str) -> tuple[str, str] | None:
    """Read the counts and the seconds of a session's last run of pytest."""
    report = RESULTS / f"{name.replace(':', '-')}.xml"
    if not report.exists():
        return None
    suite = ElementTree.parse(report).getroot()[0].attrib
    total, skipped = int(suite["tests"]), int(suite["skipped"])
    failed = int(suite["failures"]) + int(suite["errors"])
    parts = {"passed": total - skipped - failed, "failed": failed, "skipped": skipped}
    counts = ", ".join(f"{n} {what}" for what, n in parts.items() if n or what == "passed")
    return counts, f"{float(suite['time']):.0f}"


def found(name: str) -> dict[str, Any]:
    """Read what a session found of its backend."""
    path = RESULTS / f"{name.replace(':', '-')}.json"
    seen: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return seen

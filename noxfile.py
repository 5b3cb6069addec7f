"""One environment per backend, so that no library is tested with another one's help.

`nox` runs what this machine can run, except the largest libraries, and ends with a table;
`nox -s "tests(torch:cuda)"` runs one session, and fails if the machine cannot. `nox --no-venv`
uses what is already installed. Arguments after -- go to pytest: `nox -- --thorough` leaves nothing
out.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nox
from packaging.requirements import Requirement

# What is known of each backend, read as data, since nox runs where the package is not installed.
BACKENDS: dict[str, dict[str, Any]] = tomllib.loads(Path("backends/known.toml").read_text())
PYTEST = ("hypothesis", "psutil", "pytest", "pytest-xdist")
# Other programs that the tests of a library compare with.
PEERS = {"jax": ("optax",)}
# Open MPI has no builds for Windows.
MPI = () if sys.platform == "win32" else ("mpi4py", "openmpi")
# Processes that share the tests. On a GPU there is one, since JAX takes all its memory.
TWO_AT_A_TIME = ("--numprocesses=2", "--dist=worksteal")
# JAX compiles every operation for every shape; processes and sessions share the results.
JAX_ENV = {
    "JAX_ENABLE_X64": "1",
    "JAX_COMPILATION_CACHE_DIR": str(Path(".nox/jax").resolve()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
CUDA, LARGE, ENGINES = (
    [name for name, known in BACKENDS.items() if known.get(what)]
    for what in ("cuda", "large", "engine")
)
DOCS_PACKAGES = (
    "furo",
    "myst-parser",
    "numpydoc",
    "sphinx",
    "sphinx-copybutton",
    "sphinx-gallery",
    "chemotools",
)
CHECKS = ("cli", "estimators", "docs", "lint", "types", "package")
# Schemas of files that only services read.
SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "dependabot": ".github/dependabot.yml",
    "citation-file-format": "CITATION.cff",
}
# Tests of the command line, which need more than a backend.
CLI_TESTS = "tests/cli"
BENCHMARK_TESTS = "tests/benchmarks"
# Tests of the estimators, which need scikit-learn and several libraries at once.
ESTIMATOR_TESTS = "tests/estimators"
SMOKE = tuple(f"{BENCHMARK_TESTS}/test_bench.py::test_{name}" for name in ("json", "refused"))
# Examples in docstrings and pages. Those of backends.autograd run in the tests of their libraries;
# the other two modules left out need torch and Dask to be imported.
NOT_DOCTESTS = ("autograd", "workers/_torch_team.py", "workers/_dask_steps.py")
DOCTESTS = (
    "--doctest-modules",
    "--doctest-glob=*.md",
    *(f"--ignore=backends/{module}" for module in NOT_DOCTESTS),
    *("kernels", "backends", "benchmarks", "docs"),
)
# Tests of the command line that run for each library with an engine.
OF_LIBRARIES = ("test_checkpoint.py", "test_cli.py")
IGNORED_BY_ENGINES = tuple(
    f"--ignore={path}"
    for path in (*sorted(Path(CLI_TESTS).glob("test_*.py")), BENCHMARK_TESTS, ESTIMATOR_TESTS)
    if isinstance(path, str) or path.name not in OF_LIBRARIES
)
IGNORED = tuple(f"--ignore={path}" for path in (CLI_TESTS, BENCHMARK_TESTS, ESTIMATOR_TESTS))
RESULTS = Path(".nox") / "results"
SESSIONS = RESULTS / "sessions.json"
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
# virtualenv comes with nox and makes an environment in a second, venv in six.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *packages: str) -> None:
    """Install pinned versions, unless the session runs in the user's own environment."""
    if session.virtualenv.is_sandboxed:
        # Without compiling: bytecode is made of what is imported, when it is.
        session.install("-q", "--no-compile", "-c", "constraints.txt", *packages)


def pytest(session: nox.Session, name: str, *args: str) -> None:
    """Run pytest and leave its counts for the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"{name.replace(':', '-')}.xml"
    report.unlink(missing_ok=True)
    session.run("python", "-m", "pytest", f"--junitxml={report}", *args, env=JAX_ENV)


class Clock:
    """Measures the time since the last session ended, so that making an environment counts."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self.last = self.last, time.monotonic()
        return self.last - before


CLOCK = Clock()


def timed(function: Callable[..., None]) -> Callable[..., None]:
    """Keep the seconds that a session takes, and whether it passes, for the table."""

    @functools.wraps(function)
    def run(session: nox.Session, **parameters: Any) -> None:
        passed = False
        try:
            function(session, **parameters)
            passed = True
        finally:
            RESULTS.mkdir(parents=True, exist_ok=True)
            kept = {**sessions(), session.name: {"passed": passed, "seconds": CLOCK.lap()}}
            SESSIONS.write_text(json.dumps(kept))

    return run


def sessions() -> dict[str, dict[str, Any]]:
    """Read the results of the sessions' last runs."""
    kept: dict[str, dict[str, Any]] = json.loads(SESSIONS.read_text()) if SESSIONS.exists() else {}
    return kept


@nox.session
@nox.parametrize("backend", [nox.param(name, id=name) for name in BACKENDS])
@timed
def tests(session: nox.Session, backend: str) -> None:
    """Test one backend in an environment that holds nothing else."""
    reason = no_cuda() if backend in CUDA else None
    if reason is not None:
        session.error(f"The backend {backend} cannot run: {reason}.")
    command_line = ",cli" if backend in ENGINES else ""
    extras = f"{BACKENDS[backend]['extra']},save{command_line}"
    peers = PEERS.get(BACKENDS[backend]["module"], ())
    install(session, "-e", f".[{extras}]", *PYTEST, "scikit-learn", *peers)
    record = RESULTS / f"{backend.replace(':', '-')}.json"
    record.unlink(missing_ok=True)
    ignored = IGNORED_BY_ENGINES if backend in ENGINES else IGNORED
    options = ("--backend", backend, "--record", str(record), *ignored)
    suite = BACKENDS[backend].get("suite", ())
    if backend not in CUDA:
        options += TWO_AT_A_TIME
    pytest(session, backend, *options, *suite, *session.posargs)


@nox.session
@nox.parametrize("what", [nox.param(name, id=name) for name in (*BACKENDS, "cli")])
def oldest(session: nox.Session, what: str) -> None:
    """Test with the oldest versions that pyproject.toml allows: `nox -s "oldest(numpy)"`."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras_of = project["optional-dependencies"]
    # The command line allows older versions of scikit-learn than the estimators.
    others = (extras_of[extra] for extra in extras_of if extra != "estimators")
    listed = [project["dependencies"], *others]
    allowed = [Requirement(each) for requirements in listed for each in requirements]
    # The test tools keep their pinned versions.
    lines = {
        line for line in Path("constraints.txt").read_text().split() if line.startswith(PYTEST)
    }
    lines |= {
        f"{each.name}{each.specifier}".replace(">=", "==")
        for each in allowed
        if each.specifier and each.name not in PYTEST
    }
    lowest = Path(session.create_tmp()) / "oldest.txt"
    lowest.write_text("\n".join(sorted(lines)))
    extras = "cli,bench,array-api-strict,ndonnx" if what == "cli" else BACKENDS[what]["extra"]
    session.install("-q", "-c", str(lowest), "-e", f".[{extras},save]", *PYTEST, "scikit-learn")
    suite = ("--backend", "numpy", CLI_TESTS) if what == "cli" else ("--backend", what, *IGNORED)
    env = {"JAX_ENABLE_X64": "1"}
    session.run("python", "-m", "pytest", *TWO_AT_A_TIME, *suite, *session.posargs, env=env)


@nox.session
@timed
def cli(session: nox.Session) -> None:
    """Test the command line, and run the commands, programs and examples of all pages."""
    install(session, "-e", ".[bench,array-api-strict,ndonnx]", *PYTEST, *MPI)
    selected = ("--backend", "numpy", CLI_TESTS, *SMOKE)
    pytest(session, "cli", *TWO_AT_A_TIME, *selected, *session.posargs)
    pytest(session, "doctests", *DOCTESTS)


@nox.session
@timed
def estimators(session: nox.Session) -> None:
    """Test the estimators, with scikit-learn's own tests of its perceptrons among others."""
    others = ("pandas", "polars", "skops")
    install(session, "-e", ".[estimators,torch,jax,array-api-strict]", *PYTEST, *others)
    selected = ("--backend", "numpy", ESTIMATOR_TESTS)
    pytest(session, "estimators", *TWO_AT_A_TIME, *selected, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Test the benchmarks and run them; arguments after -- go to `python -m benchmarks`."""
    install(session, "-e", ".[bench,torch,jax]", "hypothesis", *PEERS["jax"])
    selected = ("--backend", "numpy", "--backend", "torch:cpu", "--backend", "jax:cpu")
    session.run("python", "-m", "pytest", BENCHMARK_TESTS, *selected)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Run tests, verify and benchmarks, and keep the results in the folder given after --."""
    install(session, "-e", ".[bench,torch,jax]", "hypothesis", *PEERS["jax"])
    session.run("python", "-m", "benchmarks.record", *session.posargs)


@nox.session
def hunt(session: nox.Session) -> None:
    """Look for wrong bits in random programs; `-- --minutes 60` says for how long."""
    extras = "torch,jax,dask,array-api-strict,mlx,ndonnx,estimators"
    install(session, "-e", f".[{extras}]", "hypothesis", "psutil")
    session.run("python", "-m", "tests.hunt", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Make deliberate mistakes in a copy, which the tests must notice; `-- WORD` selects some."""
    install(session, "-e", ".[cli,torch,jax,dask,ndonnx,estimators]", *PYTEST, *MPI)
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def doctests(session: nox.Session) -> None:
    """Run the examples in docstrings and pages, as the session cli does too."""
    install(session, "-e", ".[cli]", *PYTEST)
    pytest(session, "doctests", *DOCTESTS)


@nox.session
@timed
def lint(session: nox.Session) -> None:
    """Check style and format, the workflows, and other files that only services read."""
    install(session, "ruff", "zizmor", "check-jsonschema", "pre-commit")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    for schema, paths in SCHEMAS.items():
        files = sorted(map(str, Path().glob(paths)))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    session.run("zizmor", "--offline", "--quiet", ".github")
    session.run("pre-commit", "validate-config")


@nox.session
@timed
def docs(session: nox.Session) -> None:
    """Run the gallery and build the site into docs/_build; broken links are errors."""
    install(session, "-e", ".[cli,torch,jax,array-api-strict]", *DOCS_PACKAGES)
    # Sphinx does not make again what it finds.
    for made in ("_build", "gallery", "reference/generated"):
        shutil.rmtree(Path("docs", made), ignore_errors=True)
    command = ("sphinx", "-j", "2", "-W", "--keep-going", "docs", "docs/_build")
    session.run("python", "-m", *command, env=JAX_ENV)


@nox.session
@timed
def types(session: nox.Session) -> None:
    """Check types."""
    install(session, "-e", ".[bench]", "mypy")
    session.run("mypy")


@nox.session
@timed
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
    """Print the digests of exact training from the last runs of the tests."""
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
    """Print which sessions ran, which did not and why, and the slowest tests."""
    kept = sessions()
    rows = [("session", "version", "result", "seconds")]
    for name in (*BACKENDS, *CHECKS):
        label = f"tests({name})" if name in BACKENDS else name
        unable = (name in CUDA and no_cuda()) or (name in LARGE and "large, run by name alone")
        if label not in kept:
            rows.append((label, "", f"skipped: {unable}" if unable else "not run", ""))
            continue
        counts = outcome(name) or ("passed" if kept[label]["passed"] else "failed")
        seconds = f"{kept[label]['seconds']:.0f}"
        rows.append((label, found(name).get("version", ""), counts, seconds))
    total = sum(int(seconds) for *_, seconds in rows[1:] if seconds)
    print_table([*rows, ("all, with installing", "", "", str(total))])
    print("\nThe slowest tests, and how to run each without installing anew:")
    timed_tests = ((s, name, case) for name in (*BACKENDS, *CHECKS) for s, case in test_cases(name))
    for seconds, name, case in sorted(timed_tests, reverse=True)[:5]:
        label = f'"tests({name})"' if name in BACKENDS else name
        print(f"{seconds:4.0f} s  nox -R -s {label} -- -k {case}")


@nox.session(venv_backend="none")
def support(session: nox.Session) -> None:
    """Write the results of the last runs of the tests into the table of docs/libraries.md.

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
            lines[name] = f"| `{name}` | {seen['version']} | {devices} | {counts} |"
    kept = "\n".join([title, rule, *(lines[name] for name in BACKENDS if name in lines)])
    page.write_text(f"{head}{TABLE_BEGIN}{kept}\n{TABLE_END}{tail}")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of cells in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def report_of(name: str) -> ElementTree.Element | None:
    """Read pytest's report of a session's last run."""
    report = RESULTS / f"{name.replace(':', '-')}.xml"
    return ElementTree.parse(report).getroot()[0] if report.exists() else None


def outcome(name: str) -> str | None:
    """Count the tests of a session's last run of pytest."""
    suite = report_of(name)
    if suite is None:
        return None
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    known = sum(seen.get("type") == "pytest.xfail" for seen in suite.iter("skipped"))
    parts = {"passed": total - skipped - failed, "failed": failed}
    parts |= {"known to fail": known, "skipped": skipped - known}
    return ", ".join(f"{n} {what}" for what, n in parts.items() if n or what == "passed")


def test_cases(name: str) -> list[tuple[float, str]]:
    """List the tests of a session with their seconds, summed over parameters."""
    seconds: dict[str, float] = {}
    report = report_of(name)
    for case in () if report is None else report:
        test = case.attrib["name"].partition("[")[0]
        seconds[test] = seconds.get(test, 0.0) + float(case.attrib["time"])
    return [(value, test) for test, value in seconds.items()]


def found(name: str) -> dict[str, Any]:
    """Read what a session recorded of its backend."""
    path = RESULTS / f"{name.replace(':', '-')}.json"
    seen: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return seen

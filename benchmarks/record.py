"""`python -m benchmarks.record`: run tests, verify and benchmarks here, and keep the results."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from xml.etree import ElementTree

import typer
from rich.console import Console

import backends
from backends import Backend
from kernels.cli.common import (
    DTYPES,
    CliError,
    as_cli_error,
    choose,
    device_of,
    find_backend,
    require,
    warn,
)
from kernels.cli.entry import entry
from kernels.cli.tables import make_table, print_table
from kernels.cli.verify import Verified, verify_table

from .bench import for_speed
from .cases import CASES

__all__ = ["Suite", "record"]

_TESTS = Path(__file__).parents[1] / "tests"
_NOT_OF_A_BACKEND = ("cli", "benchmarks", "estimators")


class Suite(NamedTuple):
    """How the tests of one backend ended."""

    backend: str
    version: str
    device: str
    passed: int
    failed: int
    skipped: int
    seconds: float


def record(
    folder: Annotated[Path, typer.Argument(help="Where to write the files.", metavar="DIR")],
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend; may be given again. Default: all that run here."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A case of benchmarks: {', '.join(CASES)}, or all; may be given again. "
            "Default: all."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rounds of benchmarks, for a first look.")
    ] = False,
) -> None:
    """Run the tests, verify and benchmarks with what is installed, and keep the results.

    Nothing is downloaded. Writes DATE-DEVICE.json, .png and .md into DIR. The exit status is 1 if a
    test failed or an exact digest differs; the files are written nevertheless.
    """
    require("pytest", "record", extra="bench")
    require("matplotlib", "record")
    cases = [choose("--case", name, (*CASES, "all")) for name in case or ["all"]]
    chosen = backend or backends.available()
    places = [find_backend(name, "float32", "exact") for name in dict.fromkeys(chosen)]
    names = [place.name for place in places]
    with as_cli_error(OSError, prefix=f"cannot write into {folder}: "):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    with tempfile.TemporaryDirectory() as scratch, Console(stderr=True).status("") as status:
        suites = []
        for place in places:
            status.update(f"tests of {place.name}")
            suites.append(_test(place, Path(scratch) / "tests.xml"))
        status.update("verify")
        verified = json.loads(_output("kernels", "verify", "--json", *_options("--backend", names)))
        status.update("benchmarks")
        fast = [place.name for place in places if for_speed(place)] or names
        options = (*_options("--backend", fast), *_options("--case", cases))
        options = (*options, *_options("--dtype", DTYPES), *(["--quick"] if quick else []))
        tables = _output("benchmarks", *options, "--output", scratch)
        measured = json.loads((Path(scratch) / "bench.json").read_text())
        machine = measured["machine"]
        name = f"{machine['date'][:10]}-{_slug(places, machine['cpu'])}"
        found = {
            "machine": machine,
            "tests": [suite._asdict() for suite in suites],
            "verify": verified,
            "bench": [_without_rounds(contest) for contest in measured["cases"]],
        }
        with as_cli_error(OSError, prefix=f"cannot write into {folder}: ", status=1):
            (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
            shutil.copyfile(Path(scratch) / "bench.png", folder / f"{name}.png")
            (folder / f"{name}.md").write_text(_page(name, suites, verified, tables))
    typer.echo(folder / f"{name}.md")
    wrong = [f"{each.backend}: {each.failed} tests failed" for each in suites if each.failed]
    wrong += [
        f"{row['backend']}, {row['problem']}, {row['dtype']}: {row['result']}"
        for row in verified
        if row["numerics"] == "exact" and row["result"] != "same"
    ]
    for sentence in wrong:
        warn(sentence)
    if wrong:
        raise typer.Exit(1)


def _test(place: Backend, report: Path) -> Suite:
    """Run the tests of a backend, without those of the command line."""
    report.unlink(missing_ok=True)
    ignored = (f"--ignore={_TESTS / name}" for name in _NOT_OF_A_BACKEND)
    options = ("--backend", place.name, f"--junitxml={report}", *ignored)
    output, _ = _run("pytest", "-q", *options, str(_TESTS))
    if not report.exists():
        raise CliError(f"the tests of {place.name} did not run: {_last_line(output)}", status=1)
    counts = ElementTree.parse(report).getroot()[0].attrib
    total, skipped = int(counts["tests"]), int(counts["skipped"])
    failed = int(counts["failures"]) + int(counts["errors"])
    return Suite(
        place.name,
        place.version,
        device_of(place),
        total - skipped - failed,
        failed,
        skipped,
        float(counts["time"]),
    )


def _output(module: str, *arguments: str) -> str:
    """Run a module in a process of its own; return what it printed."""
    output, status = _run(module, *arguments)
    # 1 says that a digest differs, which the output tells.
    if status > 1 or not output:
        raise CliError(f"python -m {module} failed with exit status {status}", status=1)
    return output


def _run(module: str, *arguments: str) -> tuple[str, int]:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=_TESTS.parent, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout, done.returncode


def _options(name: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(argument for value in values for argument in (name, value))


def _last_line(text: str) -> str:
    return (text.strip() or "no output").splitlines()[-1]


def _slug(places: Sequence[Backend], cpu: str) -> str:
    """Name the GPU that was used, else the CPU, in letters and digits that files can have."""
    devices = [device_of(place) for place in places]
    gpus = [device.partition(" ")[2] for device in devices if device.startswith("cuda:")]
    device = re.sub(r"\((R|TM)\)", "", gpus[0] if gpus else cpu)
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _without_rounds(contest: dict[str, Any]) -> dict[str, Any]:
    """Keep medians and quartiles only."""
    rows = [
        {key: value for key, value in row.items() if key != "rounds"}
        for row in contest["contestants"]
    ]
    return contest | {"contestants": rows}


def _page(
    name: str, suites: Sequence[Suite], verified: Sequence[dict[str, Any]], tables: str
) -> str:
    out = Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, width=1000)
    table = make_table(*Suite._fields)
    for suite in suites:
        table.add_row(
            *(f"{field:.0f}" if isinstance(field, float) else str(field) for field in suite)
        )
    print_table(out, table)
    tests = _take(out)
    verify_table(out, [Verified(**row) for row in verified if row["numerics"] == "exact"])
    exact = _take(out)
    verify_table(out, [Verified(**row) for row in verified if row["numerics"] == "native"])
    native = _take(out)
    sections = (
        ("Tests", tests),
        ("Exact numerics against the digests of this repository", exact),
        ("Native numerics against the first row", native),
        ("Speed", tables),
    )
    blocks = (f"## {title}\n\n```text\n{text.rstrip()}\n```\n" for title, text in sections)
    return "\n".join((f"# {name}\n", *blocks, f"![time per step]({name}.png)\n"))


def _take(console: Console) -> str:
    """Return what was printed since the last time."""
    file: Any = console.file
    text: str = file.getvalue()
    file.seek(0)
    file.truncate()
    return text


if __name__ == "__main__":
    sys.exit(entry("benchmarks.record", record)())

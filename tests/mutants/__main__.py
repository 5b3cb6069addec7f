"""Make each mistake of mutants.toml in a copy of the project, and run the tests that it names."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

HERE = Path(__file__).parent
TOP = HERE.parent.parent
# What a copy needs; results of tests and environments are not among it.
COPIED = ("kernels", "backends", "benchmarks", "tests", "pyproject.toml", "README.md", "docs")
SECONDS = 120


def read():
    """Read the list of mistakes."""
    return tomllib.loads((HERE / "mutants.toml").read_text())["mutant"]


def mutated(mutant, text):
    """Replace the one place that a mistake names."""
    count = text.count(mutant["old"])
    if count != 1:
        raise ValueError(f"expected {mutant['old']!r} once in {mutant['file']}, found {count}")
    return text.replace(mutant["old"], mutant["new"])


def noticed(mutant, top):
    """Name the first test that fails in a copy with this mistake; None if all pass."""
    path = top / mutant["file"]
    before = path.read_text()
    path.write_text(mutated(mutant, before))
    try:
        found = run(shlex.split(mutant["tests"]), mutant.get("backend", "numpy"), top)
    finally:
        path.write_text(before)
    return found


def run(tests, backend, top):
    """Name the first test that fails; None if all pass."""
    options = ("-x", "-q", "-p", "no:cacheprovider", "--backend", backend)
    command = [sys.executable, "-m", "pytest", *options, *tests]
    # Bytecode of the same second and size would hide the change.
    env = os.environ | {"PYTHONPATH": str(top), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=top, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the tests did not end within {SECONDS} s"
    if done.returncode == 0:
        return None
    # A file that cannot be imported is no test that fails.
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", done.stdout, re.MULTILINE)
    if failed is None:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return failed[1]


def copy(folder):
    """Copy the project."""
    for name in COPIED:
        source = TOP / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "words", nargs="*", help="only mistakes whose name or file has one of these"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    chosen = parser.parse_args()
    mutants = [
        mutant
        for mutant in read()
        if not chosen.words
        or any(word in f"{mutant['name']} {mutant['file']}" for word in chosen.words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        copies = Queue()
        for i in range(chosen.jobs):
            copies.put(copy(Path(folder) / str(i)))

        def result(mutant):
            top, start = copies.get(), time.monotonic()
            try:
                return noticed(mutant, top), time.monotonic() - start
            finally:
                copies.put(top)

        survivors = 0
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for mutant, (test, seconds) in zip(mutants, pool.map(result, mutants), strict=True):
                survivors += test is None
                said = "NOT NOTICED" if test is None else test
                print(f"{seconds:4.0f} s  {mutant['file']}: {mutant['name']}: {said}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mistakes noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

"""The same digest for any number of workers, as a user starts, disturbs and misuses them."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
from _params import thorough

import backends
import kernels
from kernels.reference import training as reference

pytestmark = pytest.mark.library("torch", "jax", "dask")

COUNTS = (1, 2, 3, 4)
TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "scale.md").read_text()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
SHORT = ("--problem", "tutorial", "--numerics", "exact", "--steps", "10")
COMMITTED = reference.committed()["tutorial"]["float32"][10]


@pytest.fixture(scope="module", autouse=True)
def worker():
    """What a worker runs, which needs the command line."""
    for module in ("typer", "rich", "safetensors"):
        pytest.importorskip(module, reason="the command line needs array-api-kernels[cli]")
    return importlib.import_module("_workers")


def start(*arguments, cwd=None, **environment):
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, status=0, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


def engine_of(backend):
    """The engine, how to name its device, and how many workers it can have here."""
    engine, _, device = backend.name.partition(":")
    device = device.partition(":")[0]
    here = [count for count in COUNTS if device in ("", "cpu") or count <= len(backend.devices)]
    return engine, f"{engine}:{device}" if device else engine, here


@pytest.fixture(scope="module", params=[3, *thorough(1, 2, 4)])
def found(backend, request):
    """What so many workers of `_workers.py` printed."""
    engine, name, counts = engine_of(backend)
    if request.param not in counts:
        pytest.skip(f"{backend.name} has fewer than {request.param} devices here")
    launcher = (*TORCHRUN, request.param) if engine == "torch" else ()
    seen = json.loads(run(*launcher, TESTS / "_workers.py", name, request.param)[0])
    assert seen["count"] == request.param
    return seen


@pytest.fixture
def train(backend):
    """Arguments of a training run on some of the engine's workers."""
    engine, name, counts = engine_of(backend)

    def train(*arguments, workers=3):
        if workers > counts[-1] and name not in (engine, f"{engine}:cpu"):
            pytest.skip(f"{name} has fewer than {workers} devices here")
        options = ("--engine", engine, "--backend", name, "--workers", workers)
        return ("-m", "kernels", "train", *options, *arguments)

    return train


def test_committed_digests(found, worker):
    """Workers train to the bits of one process; three divide no batch.

    With minibatches of real data in float64, and batches of fewer samples than workers.
    """
    assert found["tutorial"] == COMMITTED
    assert found["digits"] == reference.committed()["digits"]["float64"][worker.STEPS]
    numpy = backends.get("numpy")
    problem = worker.small(numpy.asarray, "float32")
    assert found["small"] == worker.digest_after(
        problem, kernels.fit, worker.STEPS_OF_SMALL, kernels.EXACT
    )


def test_native_numerics_differ(backend, found, worker):
    """It is not that the order of the sums was the same for any number of workers."""
    problem = reference.make("tutorial", backend, "float32")
    alone = worker.digest_after(problem, kernels.fit, worker.STEPS, kernels.NATIVE)
    assert found["native"] not in (COMMITTED, alone)


@pytest.mark.library("torch")
def test_bytes_sent(found):
    """In a step: the gradients and the loss; exact, one float64 for each, and few numbers more."""
    native, exact = found["sent"]
    if found["count"] == 1:
        assert (native, exact) == (0, 0)
        return
    gradients = 4 * (1000 * 100 + 100 * 10)
    # Parts that are not equal are gathered for the loss.
    assert gradients + 4 <= native <= 1.01 * gradients
    assert 2 * gradients <= exact <= 2.02 * gradients


def test_checkpoint_of_another_number_of_workers(train, tmp_path):
    """The first writes, all read; one report, and one file with the network."""
    kept, saved = tmp_path / "kept", tmp_path / "network.safetensors"
    run(*train(*SHORT[:-1], "6", "--checkpoint", kept, "--every", "4", workers=2))
    assert [path.name for path in sorted(kept.iterdir())] == [
        f"step-0000000{step}.safetensors" for step in (4, 6)
    ]
    out, err = run(*train("--resume", kept, "--steps", "10", "--save", saved, "--json"))
    assert json.loads(out)["digest"] == COMMITTED
    assert err == ""
    assert kernels.digest(kernels.load(saved, like=np.zeros(0, "float32"))) == COMMITTED


def test_more_workers_than_samples(train, tmp_path):
    """A fifth of the rows is held out."""
    np.savez(tmp_path / "data.npz", x=np.ones((5, 2)), y=np.ones(5))
    data = ("--data", tmp_path / "data.npz", "--target", "y")
    out, err = run(*train(*data, workers=5), status=2)
    assert out == ""
    assert err == "Error: expected at most as many workers as samples, 4, got 5.\n"


@pytest.mark.library("torch")
def test_torchrun(train):
    """Under a torchrun of the user's own, which says how many workers there are."""
    arguments = train(*SHORT[:-1], "1", "--json", workers=2)
    out, _ = run(*TORCHRUN, 2, *arguments)
    assert json.loads(out)["digest"] == reference.committed()["tutorial"]["float32"][1]
    _, err = run(*TORCHRUN, 1, *arguments, status=1)
    expected = "Error: expected the number of processes that torchrun started, 1, got 2 workers."
    assert expected in err.splitlines()


@pytest.mark.library("torch")
def test_worker_that_alone_fails(train, tmp_path):
    """One that reads other data says so itself, since the first does not."""
    other = tmp_path / "other"
    other.mkdir()
    for folder, n in ((tmp_path, 30), (other, 3)):
        np.savez(folder / "data.npz", x=np.ones((n, 2)), y=np.arange(n))
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nif os.environ.get('RANK') == '1':\n    os.chdir({str(other)!r})\n"
    )
    data = ("--data", "data.npz", "--target", "y", "--task", "regression")
    out, err = run(*train(*data), PYTHONPATH=str(tmp_path), status=1, cwd=tmp_path)
    assert out == ""
    told, ended = err.splitlines()
    assert told == "Error: expected at least 5 rows of data in data.npz, got 3."
    assert ended == "Error: worker 2 of 3 ended with status 2."


@pytest.mark.library("torch")
def test_worker_that_cannot_start(train, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '1':\n    os._exit(3)\n"
    )
    out, err = run(*train(*SHORT, workers=2), PYTHONPATH=str(tmp_path), status=1)
    assert out == ""
    assert err == "Error: worker 2 of 2 ended with status 3.\n"


# Ends the second worker in its 5th step, once.
KILL = """
import os
if os.environ.get("RANK") == "1" and not os.path.exists({flag!r}):
    import kernels.training
    take_step, steps = kernels.training.unchecked_step, []
    def dying(*arguments, **options):
        steps.append(None)
        if len(steps) == 5:
            open({flag!r}, "w").close()
            os.kill(os.getpid(), 9)
        return take_step(*arguments, **options)
    kernels.training.unchecked_step = dying
"""


@pytest.fixture
def killed(tmp_path):
    """The environment in which a worker is killed, and the file that tells that it was."""
    (tmp_path / "kill").mkdir()
    flag = tmp_path / "kill" / "done"
    (tmp_path / "kill" / "sitecustomize.py").write_text(KILL.format(flag=str(flag)))
    return {"PYTHONPATH": str(tmp_path / "kill")}, flag


@pytest.mark.library("torch")
def test_killed_worker(train, killed):
    """The others do not wait for it."""
    environment, flag = killed
    started = time.monotonic()
    out, err = run(*train(*SHORT, workers=2), **environment, status=1)
    assert flag.exists()
    assert out == ""
    assert err == "Error: worker 2 of 2 was killed by SIGKILL.\n"
    assert time.monotonic() - started < 120


@pytest.mark.library("torch")
def test_killed_worker_with_checkpoints(train, killed, tmp_path):
    """All start again from the last checkpoint and end with the digest of an undisturbed run."""
    environment, flag = killed
    checkpoint = ("--checkpoint", tmp_path / "checkpoints", "--every", "2")
    out, err = run(*train(*SHORT, *checkpoint, "--json", workers=2), **environment)
    assert flag.exists()
    report = json.loads(out)
    assert report["digest"] == COMMITTED
    assert report["resumed"] == str(tmp_path / "checkpoints")
    assert err == (
        "Worker 2 of 2 was killed by SIGKILL; starting again from the last checkpoint.\n"
    )


@pytest.mark.library("torch")
def test_ctrl_c(train, tmp_path):
    """Training ends at once, since workers notice it in different steps."""
    checkpoint = ("--checkpoint", tmp_path, "--every", "1")
    process = start(*train(*SHORT[:-1], "100000", *checkpoint, workers=2))
    while process.poll() is None and not any(tmp_path.glob("step-*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Error: stopped by Ctrl-C.\n")


def test_page(backend, tmp_path):
    """Every command and program of docs/scale.md for this engine."""
    engine = backend.name.partition(":")[0]
    commands = [
        line
        for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
        if f"--engine {engine}" in line
    ]
    assert commands
    for command in commands:
        program, *arguments = command.split()
        module = {"torchrun": ("-m", "torch.distributed.run"), "python": ()}[program]
        assert "digest" in run(*module, *arguments)[0]
    (program,) = (
        program
        for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if "from backends import workers" in program
    )
    path = tmp_path / "program.py"
    program_of_engine = program.replace('"torch"', f'"{engine}"')
    if engine == "dask":
        program_of_engine = f'if __name__ == "__main__":\n{indent(program_of_engine, " " * 4)}'
    path.write_text(program_of_engine)
    launcher = (*TORCHRUN, 2) if engine == "torch" else ()
    out, _ = run(*launcher, path, JAX_ENABLE_X64="1")
    assert out.split() == [re.findall(r"# (\w{16})$", program, re.MULTILINE)[0]]

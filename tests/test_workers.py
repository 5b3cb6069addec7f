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
from backends import workers
from kernels.reference import training as reference

pytestmark = pytest.mark.library("torch", "jax", "dask")

COUNTS = (1, 2, 3, 4)
TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "scale.md").read_text()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
SHORT = ("--problem", "tutorial", "--numerics", "exact", "--steps", "10")
# Of `train --numerics exact --steps 20` without an engine.
EXPECTED_OF_PAGE = "a29902bf9a5ed3f7daf8ff5ff23e86c0ba7e9e5cec94e35067b66248d80ab970"
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


def customized(folder, text):
    """The environment in which every process runs a text first."""
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


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


def test_committed_digests(backend, found, worker):
    """Workers train to the bits of one process; three divide no batch.

    With minibatches of real data in float64, batches of fewer samples than workers, and of one.
    Native numerics give others, so it is not that the order of the sums was the same for any
    number of workers. All that these workers found is looked at here, since each process of the
    tests would start them again.
    """
    assert found["tutorial"] == COMMITTED
    assert found["digits"] == reference.committed()["digits"]["float64"][worker.STEPS]
    numpy = backends.get("numpy")
    problem = worker.small(numpy.asarray, "float32")
    one = problem._replace(x=problem.x[:1], y=problem.y[:1], batch_size=None)
    trained = {"one": (one, {}), "adam": (problem, worker.ADAM)}
    for name, (expected, method) in trained.items():
        assert found[name] == worker.digest_after(
            expected, kernels.fit, worker.STEPS_OF_SMALL, kernels.EXACT, **method
        )
    # Arrays of Dask are NumPy's inside.
    place = numpy if backend.slow else backend
    problem = reference.make("tutorial", place, "float32")
    alone = worker.digest_after(problem, kernels.fit, worker.STEPS, kernels.NATIVE)
    assert found["native"] != COMMITTED
    if found["count"] > 1:
        assert found["native"] != alone
    if "sent" in found:
        assert_finite_as_alone(found, worker)
        assert_little_is_sent(found)


def assert_finite_as_alone(found, worker):
    """A NaN or infinity of one worker makes the same results not finite as without workers."""
    with np.errstate(all="ignore"):
        expected = worker.finite(np.asarray, kernels.EXACT)
    assert found["finite"] == expected
    assert expected[:4] == [[[False] * 2] * 3, [False] * 2, [[True], [False], [True]], [True]]


def assert_little_is_sent(found):
    """A step sends predictions, gradients (as products of slices if exact), and little more."""
    collectives = importlib.import_module("benchmarks.collectives")
    if found["count"] == 1:
        assert all(calls == 0 for calls, _ in found["sent"].values())
        return
    parameters, predictions = 1000 * 100 + 100 * 10, 64 * 10
    for dtype, size, products, exchanges in (("float32", 4, 1, 4), ("float64", 8, 5, 3)):
        native = size * (parameters + predictions)
        assert found["sent"][f"{dtype} native"] == [2, native]
        exact = 8 * products * parameters + size * predictions
        calls, total = found["sent"][f"{dtype} exact"]
        assert calls == exchanges
        # The scales, and in float32 the norms, of each input and each column of outputs.
        assert exact < total < exact + 8 * 500
        # What benchmarks/collectives.py simulates a thousand workers with.
        problem = reference.make("tutorial", backends.get("numpy"), dtype)
        simulated = collectives.exchanges(problem, kernels.EXACT, found["count"])
        assert [calls, total] == [len(simulated), sum(simulated)]


# Dask goes on from a checkpoint in test_lost_scheduler.
@pytest.mark.thorough("dask")
def test_checkpoint_of_one_process(train, tmp_path):
    """All workers read it, the first writes; one report, and one file with the network."""
    kept, saved = tmp_path / "kept", tmp_path / "network.safetensors"
    keep = ("--checkpoint", kept, "--every", "4")
    run("-m", "kernels", "train", *SHORT[:-1], "6", *keep)
    assert [path.name for path in sorted(kept.iterdir())] == [
        f"step-0000000{step}.safetensors" for step in (4, 6)
    ]
    resume = ("--resume", kept, "--steps", "10", "--save", saved, "--json")
    out, err = run(*train(*resume, workers=2))
    assert json.loads(out)["digest"] == COMMITTED
    assert err == ""
    assert kernels.digest(kernels.load(saved, like=np.zeros(0, "float32"))) == COMMITTED
    assert (kept / "step-00000010.safetensors").exists()


@pytest.mark.library("jax")
def test_more_workers_than_samples(train, tmp_path):
    """A fifth of the rows is held out."""
    np.savez(tmp_path / "data.npz", x=np.ones((5, 2)), y=np.ones(5))
    data = ("--data", tmp_path / "data.npz", "--target", "y")
    out, err = run(*train(*data, workers=5), status=2)
    assert out == ""
    assert err == "Error: expected at most as many workers as samples, 4, got 5.\n"


@pytest.mark.library("torch")
def test_another_number_of_processes(monkeypatch):
    """--workers must be the number that torchrun started."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = "^expected the number of processes that torchrun started, 3, got 2 workers$"
    with pytest.raises(ValueError, match=message), workers.join("torch", 2):
        pass
    monkeypatch.setenv("WORLD_SIZE", "many")
    message = "^expected a number in the environment's WORLD_SIZE, got 'many'$"
    with pytest.raises(ValueError, match=message), workers.join("torch", 2):
        pass


def test_a_join_inside_another(backend):
    engine, name, _ = engine_of(backend)
    message = f"^expected one join at a time, got one of {engine} inside another$"
    with (
        workers.join(engine, 1, name.partition(":")[2] or None),
        pytest.raises(ValueError, match=message),
        workers.join(engine, 1),
    ):
        pass


@pytest.mark.library("torch")
def test_errors_of_a_program_stay_its_own():
    error = RuntimeError("gloo is a word of mine")
    with pytest.raises(RuntimeError) as caught, workers.join("torch"):
        raise error
    assert caught.value is error


@pytest.mark.library("torch")
@pytest.mark.thorough
def test_compiled(train):
    """What is between the collectives is compiled where that is asked for."""
    out, _ = run(*train(*SHORT[:-1], "10", "--compile", "--json", workers=2))
    report = json.loads(out)
    assert report["digest"] == COMMITTED
    assert report["compiled"]


@pytest.mark.library("torch")
def test_worker_that_alone_fails(train, tmp_path):
    """A worker that reads other data prints its error itself, since the first has none."""
    other = tmp_path / "other"
    other.mkdir()
    for folder, n in ((tmp_path, 30), (other, 3)):
        np.savez(folder / "data.npz", x=np.ones((n, 2)), y=np.arange(n))
    environment = customized(
        tmp_path, f"import os\nif os.environ.get('RANK') == '1':\n    os.chdir({str(other)!r})\n"
    )
    data = ("--data", "data.npz", "--target", "y", "--task", "regression")
    out, err = run(*train(*data, workers=2), **environment, status=1, cwd=tmp_path)
    assert out == ""
    told, ended = err.splitlines()
    assert told == "Error: expected at least 5 rows of data in data.npz, got 3."
    assert ended == "Error: worker 2 of 2 ended with status 2."


@pytest.mark.library("torch")
def test_worker_that_cannot_start(train, tmp_path):
    environment = customized(
        tmp_path, "import os\nif os.environ.get('RANK') == '1':\n    os._exit(3)\n"
    )
    out, err = run(*train(*SHORT, workers=2), **environment, status=1)
    assert out == ""
    assert err == "Error: worker 2 of 2 ended with status 3.\n"


# Ends the second worker in its 5th step, once, as `kill` does.
KILL = """
import os
if os.environ.get("RANK") == "1" and not os.path.exists({flag!r}):
    import kernels.training
    take_step, steps = kernels.training.unchecked_step, []
    def dying(*arguments, **options):
        steps.append(None)
        if len(steps) == 5:
            open({flag!r}, "w").close()
            os.kill(os.getpid(), 15)
        return take_step(*arguments, **options)
    kernels.training.unchecked_step = dying
"""


@pytest.fixture
def killed(tmp_path):
    """The environment in which a worker is killed, and the file that tells that it was."""
    (tmp_path / "kill").mkdir()
    flag = tmp_path / "kill" / "done"
    return customized(tmp_path / "kill", KILL.format(flag=str(flag))), flag


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
        "Worker 2 of 2 was killed by SIGTERM; starting again from the last checkpoint.\n"
    )


@pytest.mark.library("torch")
@pytest.mark.thorough
def test_killed_worker_under_torchrun(train, killed, tmp_path):
    """A torchrun of the user's own starts all again, and they end on the same digest."""
    environment, flag = killed
    launcher = (*TORCHRUN, 3, "--max-restarts", 2)
    checkpoint = ("--checkpoint", tmp_path / "checkpoints", "--every", "2")
    out, err = run(*launcher, *train(*SHORT, *checkpoint, "--json"), **environment)
    assert flag.exists()
    report = json.loads(out)
    assert report["digest"] == COMMITTED
    assert report["resumed"] == str(tmp_path / "checkpoints")
    assert "exitcode: -15" in err


@pytest.mark.library("torch")
def test_killed_command(train, tmp_path):
    """Its workers end with it, and leave nothing behind but checkpoints."""
    kept, temporary = tmp_path / "kept", tmp_path / "temporary"
    temporary.mkdir()
    options = ("--checkpoint", kept, "--every", "1")
    arguments = train(*SHORT[:-1], "3000", *options, workers=2)
    process = start(*arguments, TMPDIR=str(temporary))
    while process.poll() is None and not any(kept.glob("step-*")):
        time.sleep(0.1)
    process.kill()
    # They have its output, which ends with the last of them.
    assert process.communicate(timeout=60) == ("", "")
    assert list(temporary.iterdir()) == []


@pytest.mark.library("torch")
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c(train, tmp_path):
    """Training ends at once, since workers notice it in different steps."""
    checkpoint = ("--checkpoint", tmp_path, "--every", "1")
    process = start(*train(*SHORT[:-1], "100000", *checkpoint, workers=2))
    while process.poll() is None and not any(tmp_path.glob("step-*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Error: stopped by Ctrl-C.\n")


@pytest.mark.thorough
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
        assert EXPECTED_OF_PAGE in run(*module, *arguments)[0]
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

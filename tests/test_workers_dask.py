"""Dask's workers on a scheduler of their own, with data larger than their memory, and killed."""

import importlib
import itertools
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from _params import thorough

import kernels
from backends import BackendUnavailable, workers
from backends.workers import WorkerLost
from kernels.reference import training as reference

pytestmark = pytest.mark.library("dask")

MEMORY_LIMIT = 250_000_000
# Dask's nanny would end a worker at 0.95 of its limit.
NO_NANNY = "--no-nanny"
TUTORIAL = ("--problem", "tutorial", "--numerics", "exact", "--steps", "10")
COMMITTED = reference.committed()["tutorial"]["float32"][10]
COMMAND = ("-m", "kernels")
# The command with shorter waiting times.
IMPATIENT = (
    "-c",
    """
import sys
from backends.workers import _dask_steps, dask
from kernels.__main__ import main

_dask_steps._SECONDS_BETWEEN_LOOKS = 2.0
dask._SECONDS_TO_CONNECT = 3
sys.exit(main())
""",
)
# Enough steps for something to happen to workers in between.
LONG = (*TUTORIAL[:-1], "100")


@pytest.fixture(scope="module", autouse=True)
def installed():
    for module in ("distributed", "typer", "rich", "safetensors"):
        pytest.importorskip(module, reason="Dask's workers need array-api-kernels[dask,cli]")


@contextmanager
def start(*arguments):
    """A process, and all that it starts, which do not outlive this."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(*arguments, command=COMMAND, status=0, timeout=900):
    with start(*command, "train", *arguments) as process:
        out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, out + err
    return out, err


def report(*arguments):
    out, err = run(*arguments, "--json")
    assert err == ""
    return json.loads(out)


@pytest.fixture
def worker_options():
    return ("--memory-limit", MEMORY_LIMIT)


@pytest.fixture
def scheduler(backend, tmp_path, worker_options):
    """A running scheduler with two workers: its process, and its address."""
    from distributed import Client

    file = tmp_path / "scheduler.json"
    common = ("--scheduler-file", file, "--no-dashboard")
    worker = ("--nthreads", 1, "--local-directory", tmp_path, *worker_options)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(start("-m", "dask", *arguments, *common))
            for arguments in (
                ("scheduler", "--host", "127.0.0.1", "--port", 0),
                ("worker", *worker),
                ("worker", *worker),
            )
        ]
        while not file.exists():
            assert processes[0].poll() is None, processes[0].communicate()
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with Client(address) as client:
            # Its own wait_for_workers does not count those that are paused.
            while len(client.nthreads()) < 2:
                assert all(process.poll() is None for process in processes)
                time.sleep(0.1)
        yield processes[0], address
        for process in reversed(processes):
            process.terminate()
            process.communicate(timeout=60)


def write(folder, n, width):
    """Write x.npy and y.npy: numbers that every version of NumPy makes, in pieces."""
    folder.mkdir()
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", (n, width))
    for start in range(0, n, 1000):
        index = np.arange(start * width, min(start + 1000, n) * width, dtype=np.uint64)
        bits = (index * 0x9E3779B97F4A7C15) >> np.uint64(40)
        x[start : start + 1000] = (bits.astype(np.float32) * 2.0**-23 - 1.0).reshape(-1, width)
    x.flush()
    np.save(folder / "y.npy", (x[:, 0] > x[:, 1]).astype(np.int64) + (x[:, 2] > 0.5))


@pytest.mark.parametrize(
    "options", [("--batch-size", "300"), *thorough(())], ids=["batches", "all"]
)
def test_data_that_is_read(backend, tmp_path, options):
    """In parts by three workers, and whole by NumPy: the same weights."""
    write(tmp_path / "data", 1000, 20)
    options = ("--data", tmp_path / "data", "--numerics", "exact", "--steps", "5", *options)
    expected = report(*options)
    found = report(*options, "--engine", "dask", "--workers", "3")
    assert found["digest"] == expected["digest"]
    assert found["final_loss"] == expected["final_loss"]
    assert found["samples"] == 1000


# Views of a map of shape (6, 4): those that its file holds as they are, and those it does not.
IN_FILE = {
    "whole": lambda m: m,
    "rows": lambda m: m[3:],
    "some rows": lambda m: m[2:4],
    "row": lambda m: m[3],
    "one row": lambda m: m[::5][1:],
    "reshaped": lambda m: m[1:].reshape(4, 5),
    "other dtype": lambda m: m[1:].view("u1"),
}
NOT_IN_FILE = {
    "reversed": lambda m: m[::-1],
    "transposed": lambda m: m.T,
    "columns": lambda m: m[:, 1:],
    "chosen": lambda m: m[[3, 1]],
    "converted": lambda m: m.astype("float64"),
    "sum": lambda m: m + m,
    "copy": lambda m: m.copy(),
    "empty": lambda m: m[6:],
    "number": lambda m: m[3, 1, ...],
    "plain": np.asarray,
}


@pytest.mark.parametrize("view", [*IN_FILE, *NOT_IN_FILE])
@pytest.mark.parametrize("offset", [0, 12, mmap.ALLOCATIONGRANULARITY, 3 * 2**16 + 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_place_in_the_file_of_a_memory_map(tmp_path, view, offset, dtype):
    module = pytest.importorskip("backends.workers.dask")
    path = tmp_path / "x"
    path.write_bytes(bytes(offset) + np.arange(24, dtype=dtype).tobytes())
    a = (IN_FILE | NOT_IN_FILE)[view](np.memmap(path, dtype, "r", offset, (6, 4)))
    found = module._offset_in_file(a)
    assert (found is not None) == (view in IN_FILE)
    if found is not None:
        same = module._identity(path.stat())
        read = module._read_block(path, same, a.dtype, found, a.shape, a.dtype)
        np.testing.assert_array_equal(read, a)


@pytest.mark.parametrize(
    ("mode", "rows", "expected"), [("r", 6, 0), ("r+", 6, 0), ("c", 6, None), ("r", 0, None)]
)
def test_memory_map_that_is_not_its_file(tmp_path, mode, rows, expected):
    """What is written to one of mode "c" is not in the file; an empty one has no address in it."""
    module = pytest.importorskip("backends.workers.dask")
    (tmp_path / "x").write_bytes(bytes(96))
    a = np.memmap(tmp_path / "x", "float32", mode, shape=(rows, 4))
    assert module._offset_in_file(a) == expected


def test_fits_of_parts_of_one_file(backend, tmp_path, monkeypatch):
    """Rows to train and to test on, other targets, weights that are read: the bits of NumPy.

    Parts are of so few bytes that inputs and targets have other numbers of them.
    """
    module = pytest.importorskip("backends.workers.dask")
    monkeypatch.setattr(module, "_BYTES_OF_PART", 20)
    rng = np.random.default_rng(1)
    for name, shape in (("x", (9, 3)), ("y", (9, 2)), ("z", (9, 2)), ("weight", (3, 2))):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=shape).astype("float32"))
    x, y, z, weight = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y", "z", "weight")
    )
    train, test = (x[:4], y[:4], z[:4]), (x[5:], y[5:], z[5:].astype("float32"))
    bias = np.zeros(2, "float32")

    def fit(asarray, x, y, compile=None):
        layers = (kernels.Layer(asarray(weight), asarray(bias)),)
        return kernels.fit(
            layers, x, y, learning_rate=0.1, steps=2, numerics=kernels.EXACT, compile=compile
        )

    # One worker reads each array whole, two read it in parts; what is sent is divided.
    for count in (1, 2):
        with workers.join("dask", count) as team:
            asarray = team.backend.asarray
            for rows, *targets in (train, test):
                for placed, target in itertools.product(
                    (asarray(rows), asarray(np.array(rows))), targets
                ):
                    got = fit(asarray, placed, asarray(target), team.backend.compile)
                    plain = fit(np.asarray, np.asarray(rows), np.asarray(target))
                    assert kernels.digest(got.layers) == kernels.digest(plain.layers)
                    losses = team.backend.to_numpy(got.losses)
                    np.testing.assert_array_equal(losses, plain.losses, strict=True)
            # What is computed from what is read and what is sent.
            mean = np.asarray([[0.5, -1.0, 2.0]], "float32")
            placed = asarray(x) - asarray(mean), asarray(y) * asarray(mean[:, :1])
            got = fit(asarray, *placed, team.backend.compile)
            plain = fit(np.asarray, x - mean, y * mean[:, :1])
            assert kernels.digest(got.layers) == kernels.digest(plain.layers)


@pytest.mark.thorough
def test_larger_than_memory(scheduler, tmp_path):
    """600 MB for two workers of 250 MB each."""
    folder = tmp_path / "data"
    write(folder, 150_000, 1000)
    assert (folder / "x.npy").stat().st_size > 2 * MEMORY_LIMIT
    options = ("--data", folder, "--hidden", "4", "--numerics", "exact", "--steps", "2")
    found = report(*options, "--engine", "dask", "--scheduler", scheduler[1])
    # What the same command gives without an engine, in 8 GB of memory.
    assert found["digest"] == "6a11c15f24b9eb3a427aa5f5c594f12c7bd890b0792630305369839213c59270"


@pytest.mark.parametrize("worker_options", [("--memory-limit", "10 MB", NO_NANNY)])
@pytest.mark.parametrize("labels", [True, *thorough(False)])
def test_too_little_memory(scheduler, tmp_path, labels):
    """Dask pauses workers that need more than their limit from the start; nobody waits for them.

    Labels are read before the first step, to check them.
    """
    write(tmp_path / "data", 100, 20)
    problem = ("--data", tmp_path / "data") if labels else TUTORIAL
    options = (*problem, "--engine", "dask", "--scheduler", scheduler[1])
    _, err = run(*options, command=IMPATIENT, status=1, timeout=150)
    assert err == (
        "Error: 2 of 2 workers of Dask are paused and nothing advances, since their memory limit, "
        "10 MB, is too small for the program and its data.\n"
    )


@pytest.mark.parametrize("worker_options", [("--memory-limit", "500 MB", NO_NANNY)])
def test_paused_worker(scheduler, monkeypatch):
    """Its tasks are waited for as long as another worker is busy."""
    from distributed import Client, get_worker

    from backends.workers import _dask_steps

    monkeypatch.setattr(_dask_steps, "_SECONDS_BETWEEN_LOOKS", 1.0)
    long = 5.0

    def fill():
        get_worker().held = b"1" * 450_000_000
        time.sleep(long)

    # A closed client ends the threads that still wait.
    with ThreadPoolExecutor() as pool, Client(scheduler[1]) as client:
        first, second = client.nthreads()
        cluster = _dask_steps.Cluster(client, [first, second])

        def wait_for(future):
            return pool.submit(_dask_steps._wait_for, future, cluster)

        filled = client.submit(fill, workers=[first])
        stuck = client.submit(int, workers=[first])
        wait_for(filled).result(timeout=100)
        wait_for(client.submit(time.sleep, long, workers=[second])).result(timeout=100)
        waiting = wait_for(stuck)
        end = time.monotonic() + long
        while time.monotonic() < end:
            client.submit(int, workers=[second], pure=False).result(timeout=100)
            time.sleep(0.1)
        assert not waiting.done()
        with pytest.raises(WorkerLost, match=r"^1 of 2 workers of Dask are paused .* 500 MB, is"):
            waiting.result(timeout=100)


def test_scheduler_with_too_few_workers(scheduler):
    _, address = scheduler
    options = (*TUTORIAL, "--engine", "dask", "--scheduler", address)
    assert report(*options)["digest"] == COMMITTED
    _, err = run(*options, "--workers", "3", status=2)
    assert err == (f"Error: expected 3 workers or more at the Dask scheduler {address}, got 2.\n")


def test_no_scheduler(backend):
    options = (*TUTORIAL, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    out, err = run(*options, command=IMPATIENT, status=2)
    assert (out, err) == ("", "Error: There is no Dask scheduler at 'tcp://127.0.0.1:9'.\n")


def test_loss_of_ones_own(backend, monkeypatch):
    """It may hold arrays and the namespace of Dask, and sees NumPy's; what it raises stays its."""
    rng = np.random.default_rng(1)
    x, y, weights = (rng.normal(size=shape).astype("float32") for shape in ((9, 3), (9, 2), (1, 2)))

    def trained(asarray, xp, compile=None):
        scale = asarray(weights)

        def largest_error(prediction, target, *, numerics):
            difference = numerics.subtract(prediction, target)
            scaled = numerics.multiply(difference, xp.broadcast_to(scale, prediction.shape))
            return xp.max(xp.abs(scaled)), xp.flip(scaled, axis=0)

        layers = kernels.init((3, 4, 2), like=asarray(x))
        settings = {"learning_rate": 0.1, "steps": 3, "numerics": kernels.EXACT}
        fit = kernels.fit(
            layers, asarray(x), asarray(y), loss=largest_error, compile=compile, **settings
        )
        return kernels.digest(fit.layers), fit.losses

    class Wrong(TimeoutError):
        pass

    def fail(prediction, target, *, numerics):
        raise Wrong("mine")

    def fail_deeply(prediction, target, *, numerics):
        return fail_deeply(prediction, target, numerics=numerics)

    expected, losses = trained(np.asarray, np)
    with workers.join("dask", 2) as team:
        place = team.backend
        found, found_losses = trained(place.asarray, place.xp, place.compile)
        assert found == expected
        np.testing.assert_array_equal(place.to_numpy(found_losses), losses, strict=True)
        placed = place.asarray(x), place.asarray(y)
        layers = kernels.init((3, 2), like=placed[0])
        monkeypatch.setattr("backends.workers._dask_steps._SECONDS_BETWEEN_LOOKS", 0.1)
        for loss, error, message in (
            (fail, Wrong, r"^mine$"),
            (fail_deeply, RuntimeError, "maximum recursion depth"),
        ):
            with pytest.raises(error, match=message):
                kernels.fit(
                    layers, *placed, learning_rate=0.1, steps=1, loss=loss, compile=place.compile
                )


def test_activation_that_changes_the_gradient(backend):
    """The kernel does not change what a worker keeps from task to task."""

    def change(_, gradient, __):
        gradient *= 0.5
        return gradient

    half = kernels.activations.Activation("half", lambda a, n: n.multiply(a, 0.5), change)
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=shape).astype("float32") for shape in ((9, 3), (9, 2)))

    def trained(asarray, compile=None):
        settings = {"learning_rate": 0.1, "steps": 3, "numerics": kernels.EXACT}
        layers = kernels.init((3, 4, 2), like=asarray(x))
        given = layers, asarray(x), asarray(y)
        return kernels.digest(kernels.fit(*given, activation=half, compile=compile, **settings)[0])

    expected = trained(np.asarray)
    with workers.join("dask", 2) as team:
        assert trained(team.backend.asarray, team.compile) == expected


def test_program_without_a_guard(backend, tmp_path):
    """Workers import the program, which would start workers."""
    program = tmp_path / "program.py"
    program.write_text('from backends import workers\nwith workers.join("dask", 2): pass\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    got = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )
    assert got.returncode == 1
    told = [line for line in got.stderr.splitlines() if "BackendUnavailable: " in line]
    assert told == [
        "backends._backend.BackendUnavailable: The workers of Dask cannot start: they import the "
        'program, which must join them below `if __name__ == "__main__":`.'
    ]


def test_cluster_without_this_package(backend, monkeypatch):
    """Workers that cannot import it are named in a sentence."""
    from distributed import Client

    def fail(*_, **__):
        raise ModuleNotFoundError("No module named 'backends'")

    monkeypatch.setattr(Client, "run", fail)
    message = r"^The workers of the Dask scheduler tcp://\S+ need this package: No module named"
    with pytest.raises(BackendUnavailable, match=message), workers.join("dask", 1):
        pass


def remove(path):
    path.unlink()


def replace(path):
    """Replace a file by a rename, as careful programs do."""
    np.save(path.with_name("new.npy"), np.full((9, 3), 2.0, "float32"))
    path.with_name("new.npy").rename(path)


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(3.0).tobytes())


REMOVED = r"^a worker of Dask cannot read \S+x.npy: No such file or directory$"
CHANGED = r"^\S+x.npy was replaced or changed since it was mapped into memory$"


def test_file_that_does_not_stay(backend, tmp_path):
    """It changes while workers read it, or before: they would read other rows unnoticed."""
    path = tmp_path / "x.npy"
    with workers.join("dask", 1) as team:
        asarray = team.backend.asarray
        y = asarray(np.ones((9, 2), "float32"))
        layers = kernels.init((3, 2), like=y)
        for first, change, message in (
            (False, remove, REMOVED),
            (False, replace, CHANGED),
            (True, replace, CHANGED),
            (False, overwrite, CHANGED),
        ):
            np.save(path, np.ones((9, 3), "float32"))
            # Clocks of file systems may stand still for some milliseconds.
            os.utime(path, (0, 0))
            x = np.load(path, mmap_mode="r")
            if first:
                change(path)
            placed = asarray(x)
            if not first:
                change(path)
            with pytest.raises(WorkerLost, match=message):
                kernels.fit(
                    layers, placed, y, learning_rate=0.1, steps=1, compile=team.backend.compile
                )


def wait_for_checkpoint(process, folder, step):
    while not (folder / f"step-{step:08}.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_worker(backend, tmp_path):
    """What it had is computed again, and the digest is that of an undisturbed run."""
    keep = ("--checkpoint", tmp_path, "--every", "1", "--json")
    options = (*LONG, "--engine", "dask", "--workers", "3", *keep)
    with start(*COMMAND, "train", *options) as process:
        wait_for_checkpoint(process, tmp_path, 2)
        # It comes with distributed.
        psutil = importlib.import_module("psutil")
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 3
        own = [psutil.Process(process.pid), *children]
        listens = [c.laddr.ip for one in own for c in one.net_connections() if c.status == "LISTEN"]
        assert set(listens) == {"127.0.0.1"}
        workers[0].kill()
        assert not (tmp_path / "step-00000100.safetensors").exists()
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out + err
    assert json.loads(out)["digest"] == report(*LONG)["digest"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c(backend, tmp_path):
    """A terminal sends it to the workers as well, which go on until the step is done."""
    keep = ("--checkpoint", tmp_path, "--every", "1")
    options = (*TUTORIAL[:-1], "100000", "--engine", "dask", "--workers", "2", *keep)
    with start(*COMMAND, "train", *options) as process:
        wait_for_checkpoint(process, tmp_path, 1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err
    assert err.startswith("Interrupted after ")
    assert err.endswith(f"go on with --resume {tmp_path}.\n")
    assert "digest" in out


def test_lost_scheduler(scheduler, tmp_path):
    """One sentence, and the last checkpoint goes on to the same digest."""
    running, address = scheduler
    keep = ("--checkpoint", tmp_path / "kept", "--every", "1", "--json")
    options = (*LONG, "--engine", "dask", "--scheduler", address, *keep)
    with start(*IMPATIENT, "train", *options) as process:
        wait_for_checkpoint(process, tmp_path / "kept", 2)
        running.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, "")
    assert err == f"Error: the connection to the Dask scheduler {address} was lost.\n"
    options = ("--resume", tmp_path / "kept", "--engine", "dask", "--workers", "2")
    assert report(*options)["digest"] == report(*LONG)["digest"]

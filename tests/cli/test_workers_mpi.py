"""The engine `mpi` under the mpiexec that is installed beside mpi4py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backends
import kernels
from backends import workers
from kernels.reference import training as reference

TESTS = Path(__file__).parent.parent
COMMITTED = reference.committed()["tutorial"]["float32"][10]
SHORT = ("-m", "kernels", "train", "--engine", "mpi", "--problem", "tutorial", "--numerics")
# Of Open MPI alone, which is careful with root and with more processes than cores.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}

installed = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed"
)


def run(count, *arguments, status=0, **environment):
    """Run Python in so many processes of mpiexec; alone if the number is None."""
    mpiexec = ()
    if count is not None:
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        program = shutil.which("mpiexec", path=beside)
        assert program is not None, "mpi4py is installed, and there is no mpiexec"
        mpiexec = (program, "-n", str(count))
    done = subprocess.run(
        [*mpiexec, sys.executable, *map(str, arguments)],
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status or (status is None and done.returncode), done.stderr
    return done.stdout, done.stderr


@installed
def test_committed_digests(monkeypatch):
    """Tutorial, minibatches of digits in float64, fewer samples than workers, one sample, Adam."""
    monkeypatch.syspath_prepend(TESTS)
    worker = importlib.import_module("_workers")
    found = json.loads(run(3, TESTS / "_workers.py", "mpi", 3)[0])
    assert found["count"] == 3
    assert found["tutorial"] == COMMITTED != found["native"]
    assert found["digits"] == reference.committed()["digits"]["float64"][worker.STEPS]
    problem = worker.small(np.asarray, "float32")
    one = problem._replace(x=problem.x[:1], y=problem.y[:1], batch_size=None)
    for name, given, method in (("one", one, {}), ("adam", problem, worker.ADAM)):
        assert found[name] == worker.digest_after(
            given, kernels.fit, worker.STEPS_OF_SMALL, kernels.EXACT, **method
        )
    with np.errstate(all="ignore"):
        assert found["finite"] == worker.finite(np.asarray, kernels.EXACT)


@installed
def test_command(tmp_path):
    """One report, one set of checkpoints, from which one process without MPI goes on."""
    kept = tmp_path / "kept"
    out, err = run(2, *SHORT, "exact", "--steps", "6", "--checkpoint", kept, "--json")
    assert json.loads(out)["backend"] == "numpy"
    assert err == ""
    assert [path.name for path in kept.glob("step-*")] == ["step-00000006.safetensors"]
    alone = ("-m", "kernels", "train", "--resume", kept, "--steps", "10", "--json")
    assert json.loads(run(None, *alone)[0])["digest"] == COMMITTED


@installed
def test_mistake():
    out, err = run(None, *SHORT, "exact", "--workers", "3", status=2)
    assert out == ""
    assert err == (
        "Error: expected the number of processes that mpiexec started, 1, got 3 workers: "
        "start them by mpiexec -n 3.\n"
    )


PROGRAM = """
import os, signal
import numpy
import kernels
from backends import workers
with workers.join("mpi") as team:
    def loss(prediction, y, *, numerics):
        if not team.first:
            {end}
        return kernels.squared_error(prediction, y, numerics=numerics)
    x = numpy.ones((8, 3))
    kernels.fit(
        kernels.init((3, 3), like=x), x, x, learning_rate=1e-3, steps=9, loss=loss,
        numerics=team.numerics(kernels.EXACT),
    )
print("done")
"""


@installed
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ('raise RuntimeError("a mistake of mine")', "RuntimeError: a mistake of mine"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ignal 9"),
    ],
    ids=["raise", "kill"],
)
def test_no_worker_waits_for_one_that_has_ended(end, told):
    out, err = run(2, "-c", PROGRAM.format(end=end), status=None)
    assert "done" not in out
    assert told in out + err


@installed
def test_mpiexec_of_another_library():
    """Its processes would each train alone."""
    code = "from backends import workers\nwith workers.join('mpi'): pass"
    _, err = run(None, "-c", code, status=1, SLURM_STEP_NUM_TASKS="3")
    assert "expected the mpiexec of " in err
    assert err.endswith(
        ", which mpi4py uses, got another, whose 3 processes do not see each other\n"
    )


def test_mpi_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    message = r'^mpi4py is not installed: pip install "array-api-kernels\[mpi\]"$'
    with pytest.raises(backends.BackendUnavailable, match=message), workers.join("mpi"):
        pass


def test_mpi4py_without_a_library(monkeypatch, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").touch()
    (tmp_path / "mpi4py" / "MPI.py").write_text('raise RuntimeError("cannot load MPI\\nlibmpi.so")')
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    message = "^mpi4py cannot load an MPI library: cannot load MPI$"
    with pytest.raises(backends.BackendUnavailable, match=message), workers.join("mpi"):
        pass

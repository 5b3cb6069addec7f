"""One suite for every backend: pytest --backend torch:cpu --backend jax:cpu."""

import os

# Before anything imports JAX, which reads it then.
os.environ["JAX_ENABLE_X64"] = "1"
# The matrices are small, and threads that wait for each other on a busy machine made torch a
# hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import re
from pathlib import Path

import _assert
import _known
import hypothesis
import numpy as np
import pytest

import backends

# Derandomised, so that a run can be repeated; no deadline, since the first call may compile.
hypothesis.settings.register_profile(
    "suite", max_examples=25, deadline=None, derandomize=True, database=None, print_blob=False
)
hypothesis.settings.register_profile(
    "slow", hypothesis.settings.get_profile("suite"), max_examples=2
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help="test this backend, or fail if it cannot run; may be given again "
        "(default: every backend that can run here)",
    )

    parser.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="write the one backend's version and devices, and the digests seen, as JSON",
    )


RECORD = pytest.StashKey()


def pytest_configure(config):
    config.stash[RECORD] = {"digests": []}
    config.addinivalue_line(
        "markers", "library(*names): only on the backends of these libraries, such as torch"
    )
    for name in config.getoption("backend") or ():
        try:
            backends.get(name)
        except (backends.BackendUnavailable, ValueError) as error:
            raise pytest.UsageError(f"--backend {name}: {error}") from None
    names = config.getoption("backend") or backends.available()
    if any(backends.get(name).slow for name in names):
        hypothesis.settings.load_profile("slow")


def pytest_collection_modifyitems(items):
    """Expect the failures that are known, and be told when one is gone."""
    for item in items:
        name = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        if name is None:
            continue
        for pattern, reason in _known.FAILURES.get(library_of(name), ()):
            # The identifier of a test without the backend, as it is listed there.
            identifier = re.sub(rf"-{name}\b|\b{name}-|\[{name}\]", "", item.name)
            if re.fullmatch(pattern, identifier):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def library_of(name):
    """Cut the device off a backend's name."""
    return name.partition(":")[0]


def pytest_sessionfinish(session):
    path = session.config.getoption("record")
    if path is not None:
        (name,) = session.config.getoption("backend")
        found = backends.get(name)
        record = {"version": found.version, "devices": found.devices}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record | session.config.stash[RECORD]))


@pytest.fixture(scope="session")
def record(request):
    """What goes into the file of --record."""
    return request.config.stash[RECORD]


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    names = metafunc.config.getoption("backend") or backends.names()
    marker = metafunc.definition.get_closest_marker("library")
    if marker is not None:
        names = [name for name in names if library_of(name) in marker.args]
    if names:
        chosen = [pytest.param(name, marks=_unavailable(name), id=name) for name in names]
    else:
        reason = f"no backend of {' or '.join(marker.args)} is selected"
        chosen = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    metafunc.parametrize("backend", chosen, indirect=True, scope="session")


def _unavailable(name):
    try:
        backends.get(name)
    except backends.BackendUnavailable as error:
        return pytest.mark.skip(reason=str(error))
    return ()


@pytest.fixture(scope="session")
def backend(request):
    """The backend under test."""
    found = backends.get(request.param)
    _assert.FETCH[found.xp.__name__] = found.to_numpy
    library = library_of(request.param)
    if library == "array-api-strict":
        found.xp.set_array_api_strict_flags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        )
    elif library == "jax":
        import jax

        # On CUDA the default is TF32, with 11 bits in a float32 product.
        jax.config.update("jax_default_matmul_precision", "highest")
        # As those have it who want no dimension guessed.
        jax.config.update("jax_numpy_rank_promotion", "raise")
    elif library == "dask":
        import dask

        # Threads cost more than the small tasks of the tests.
        dask.config.set(scheduler="synchronous")
    return found


@pytest.fixture(scope="session")
def xp(backend):
    """The array namespace of the backend under test."""
    return backend.xp


@pytest.fixture(scope="session")
def asarray(backend):
    """(host, dtype=None) -> array on the device of the backend under test."""
    return backend.asarray


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request):
    """The name of the parameters' dtype."""
    return request.param


@pytest.fixture(scope="session")
def like(asarray, dtype):
    """An empty array of the backend and dtype under test."""
    return asarray(np.zeros(0), dtype)

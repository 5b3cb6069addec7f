"""One suite for every backend: pytest --backend torch:cpu --backend jax:cpu.

NumPy runs every test with every parameter, and alone what depends on no library. Other libraries
run what depends on them, and leave out the parameters and examples that can only show a mistake of
the mathematics, unless --thorough asks for all.
"""

import os

# JAX reads this when it is imported.
os.environ["JAX_ENABLE_X64"] = "1"
# The matrices are small. On a busy machine threads that wait for each other made torch a hundred
# times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import itertools
import json
import operator
import re
import signal
from pathlib import Path

import _assert
import _known
import hypothesis
import numpy as np
import pytest

import backends

# Each call reads a file of every installed package, which every test with a backend would do.
backends.entry_points = functools.cache(backends.entry_points)

# Derandomised, so that a run can be repeated; no deadline, since the first call may compile.
COMMON = {"deadline": None, "derandomize": True, "database": None, "print_blob": False}
for profile, examples in (("numpy", 25), ("others", 5), ("slow", 2), ("thorough", 100)):
    hypothesis.settings.register_profile(profile, max_examples=examples, **COMMON)


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help="test this backend, or fail if it cannot run; may be given again "
        "(default: every backend that can run here)",
    )
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every parameter on every library, more examples, and all steps",
    )
    parser.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="write the one backend's version and devices, and the digests seen, as JSON",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "library(*names): only on these backends, such as torch or torch:cpu"
    )
    config.addinivalue_line("markers", "not_library(*names): on every backend but these")
    config.addinivalue_line(
        "markers",
        "thorough(*names): on NumPy, and elsewhere, or on these backends, only with --thorough",
    )
    config.addinivalue_line("markers", "every_dtype: in each dtype, also where that takes long")
    for name in config.getoption("backend") or ():
        try:
            backends.get(name)
        except (backends.BackendUnavailable, ValueError) as error:
            raise pytest.UsageError(f"--backend {name}: {error}") from None
    hypothesis.settings.load_profile(profile_of(config))
    # With pytest-xdist only in the process that distributes the tests.
    if config.getoption("record") and not hasattr(config, "workerinput"):
        (name,) = config.getoption("backend")
        config.pluginmanager.register(Recorder(config.getoption("record"), backends.get(name)))


def profile_of(config):
    """Name the hypothesis profile, which decides how many examples are drawn."""
    names = config.getoption("backend") or backends.available()
    if any(backends.get(name).slow for name in names):
        return "slow"
    if config.getoption("thorough"):
        return "thorough"
    return "numpy" if "numpy" in names else "others"


class Recorder:
    """Writes the file of --record."""

    def __init__(self, path, backend):
        self.path = path
        self.record = {"version": backend.version, "devices": backend.devices, "digests": []}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            found = (value for name, value in report.user_properties if name == "digests")
            self.record["digests"] += found

    def pytest_sessionfinish(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record))


def pytest_collection_modifyitems(config, items):
    """Select the tests of the libraries under test, and mark known failures."""
    names = config.getoption("backend") or backends.names()
    belong = [_belongs(item, names, config.getoption("thorough")) for item in items]
    config.hook.pytest_deselected(items=[*itertools.compress(items, map(operator.not_, belong))])
    # Tests of workers take longest. They come first, so that no process ends alone with them.
    items[:] = sorted(
        itertools.compress(items, belong), key=lambda item: "workers" not in item.path.name
    )
    for item in items:
        _expect_known_failures(item)


def _belongs(item, names, thorough):
    """Say whether a test with its parameters is to run for these backends."""
    only = [marker.args for marker in item.iter_markers("library")]
    if "backend" not in item.fixturenames:
        # For the libraries of its markers; without a marker it runs with NumPy alone.
        return all(any(_is_of(name, args) for name in names) for args in only or [("numpy",)]) and (
            thorough or not _left_to_thorough(item, "numpy")
        )
    name = item.callspec.params["backend"]
    others = [marker.args for marker in item.iter_markers("not_library")]
    if not all(_is_of(name, args) for args in only) or any(_is_of(name, args) for args in others):
        return False
    if thorough or _left_to_thorough(item, name):
        return thorough
    if name == "numpy":
        return True
    # JAX compiles every operation for every dtype, and Dask takes milliseconds for each.
    second = library_of(name) in ("jax", "dask") and item.callspec.params.get("dtype") == "float64"
    return not second or item.get_closest_marker("every_dtype") is not None


def _left_to_thorough(item, name):
    """Say whether a test runs on a backend only with --thorough."""
    return any(
        _is_of(name, marker.args) if marker.args else name != "numpy"
        for marker in item.iter_markers("thorough")
    )


def _is_of(name, libraries):
    """Say whether a backend is one of `libraries`, named with or without a device."""
    return any(f"{name}:".startswith(f"{library}:") for library in libraries)


def _expect_known_failures(item):
    """Expect known failures; one that passes is an error."""
    name = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    if name is None:
        return
    for pattern, reason in _known.FAILURES.get(library_of(name), ()):
        # The identifier of a test without the backend, as in tests/_known.py.
        identifier = re.sub(rf"-{name}\b|\b{name}-|\[{name}\]", "", item.name)
        if re.fullmatch(pattern, identifier):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def library_of(name):
    """Cut the device off a backend's name."""
    return name.partition(":")[0]


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    names = metafunc.config.getoption("backend") or backends.names()
    chosen = [pytest.param(name, marks=_unavailable(name), id=name) for name in names]
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
        # As in programs that refuse implicit changes of rank.
        jax.config.update("jax_numpy_rank_promotion", "raise")
    elif library == "dask":
        import dask

        # Threads cost more than the small tasks of the tests.
        dask.config.set(scheduler="synchronous")
    return found


@pytest.fixture(scope="session")
def thorough(request):
    """Whether --thorough is given."""
    return request.config.getoption("thorough")


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


@pytest.fixture
def ctrl_c():
    """Processes that a test starts notice Ctrl-C, even if a shell runs the tests in background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

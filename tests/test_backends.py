"""Backends: found by name, honest about what is missing, faithful with what they carry."""

import importlib
import importlib.abc
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from _assert import fetch

import backends
from backends import Backend, BackendUnavailable
from kernels import Layer
from kernels._host import placement


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "bool", "int8", "uint8", "int16", "int32", "int64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (4,), (2, 3), (2, 1, 3)])
def test_there_and_back(backend, dtype, shape):
    host = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    # A list of no rows does not say how many columns there are.
    for source in (host, host.tolist()) if host.size else (host,):
        placed = backend.asarray(source, dtype)
        back = backend.to_numpy(placed)
        assert placed.dtype == getattr(backend.xp, dtype)
        np.testing.assert_array_equal(back, host, strict=True)
    assert backend.asarray(host).dtype == placed.dtype


def test_dtype_is_converted(backend):
    placed = backend.asarray(np.asarray([1.0, 1 / 3]), "float32")
    np.testing.assert_array_equal(
        backend.to_numpy(placed), np.asarray([1.0, 1 / 3], np.float32), strict=True
    )


def test_lists_are_taken_as_numpy_takes_them(backend):
    assert backend.asarray([1.0]).dtype == backend.xp.float64
    assert backend.asarray([1]).dtype == backend.xp.int64


@pytest.mark.parametrize(
    "layout",
    [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::2], lambda a: a[1:, 1:], np.asfortranarray],
    ids=["transposed", "reversed", "strided", "offset", "fortran"],
)
def test_layouts_of_the_host(backend, layout):
    host = layout(np.arange(12.0).reshape(3, 4))
    host.flags.writeable = False
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(host)), host, strict=True)


def test_host_and_device_share_no_memory(backend):
    host = np.zeros(3)
    placed = backend.asarray(host)
    host[0] = 1.0
    back = backend.to_numpy(placed)
    np.testing.assert_array_equal(back, [0.0, 0.0, 0.0])
    back[1] = 1.0
    np.testing.assert_array_equal(backend.to_numpy(placed), [0.0, 0.0, 0.0])


def test_fields(backend, request):
    assert isinstance(backend, Backend)
    assert backend.name.startswith(request.node.callspec.params["backend"])
    assert backend.version[0].isdigit()
    assert backend.devices
    # None where arrays have no device.
    assert placement(backend.asarray([1.0])).get("device") == backend.device
    assert backend.synchronize() is None
    assert backend.synchronize((backend.asarray([1.0]), [None])) is None


@pytest.mark.library("mlx")
def test_synchronize_computes_what_is_lazy(backend):
    a = backend.asarray(np.ones(1000))
    backend.synchronize(a)
    before = backend.xp.get_active_memory()
    results = (a * 2.0, [None])
    assert backend.xp.get_active_memory() - before < 8000
    backend.synchronize(results)
    assert backend.xp.get_active_memory() - before >= 8000


def test_name_finds_the_backend_again(backend):
    assert backends.get(backend.name).name == backend.name


def test_compile_changes_no_result(backend):
    def function(pair, a):
        return (pair[0] + a, pair[1]), a * 2.0

    a = backend.asarray([1.0, 2.0])
    (first, second), third = backend.compile(function)((a, a), a)
    for got, desired in ((first, [2.0, 4.0]), (second, [1.0, 2.0]), (third, [2.0, 4.0])):
        np.testing.assert_array_equal(fetch(got), desired)


@pytest.mark.library("ndonnx")
def test_one_model_for_each_signature(backend):
    """Of the structure, dtypes and shapes; NamedTuples and None go in and come out."""
    traced = []

    def function(layer, a):
        traced.append(a)
        return Layer(layer.weight + a, layer.bias), a

    call = backend.compile(function)
    one, two = backend.asarray([1.0]), backend.asarray([2.0])
    for layer, a, count in (
        (Layer(one), one, 1),
        (Layer(two), one, 1),
        (Layer(one, one), one, 2),
        (Layer(one), backend.asarray([1.0, 2.0]), 3),
        (Layer(one), backend.asarray([1.0], "float32"), 4),
        (Layer(one), two, 4),
    ):
        new, same = call(layer, a)
        assert len(traced) == count
        assert isinstance(new, Layer)
        assert (new.bias is None) == (layer.bias is None)
        np.testing.assert_array_equal(fetch(new.weight), fetch(layer.weight) + fetch(a))
        np.testing.assert_array_equal(fetch(same), fetch(a), strict=True)


@pytest.mark.library("dask")
def test_graph_is_made_once(backend):
    """For each structure, dtype and division into blocks, and each value that is no array."""
    traced = []

    def function(layer, a, number):
        traced.append(a)
        return Layer(layer.weight * a + number, layer.bias), [a]

    call = backend.compile(function)
    one, two, three = (backend.asarray([value, value + 0.5]) for value in (1.0, 2.0, 3.0))
    results = []
    for weight, a, number, count in (
        (one, two, 1.0, 1),
        (two, three, 1.0, 1),
        (two.rechunk(-1), three, 1.0, 2),
        (one, two, 2.0, 3),
        (one, one, 1.0, 4),
        (one, backend.asarray([2.0, 2.5], "float32"), 1.0, 5),
        (two, one * 3.0, 1.0, 5),
    ):
        new, (same,) = call(Layer(weight), a, number)
        assert len(traced) == count
        assert isinstance(new, Layer)
        assert new.bias is None
        # What is kept needs nothing to be computed again.
        assert all(len(array.dask) == array.npartitions for array in (new.weight, same))
        results.append((new.weight, fetch(weight) * fetch(a) + number))
        np.testing.assert_array_equal(fetch(same), fetch(a), strict=True)
    for got, desired in results:
        np.testing.assert_array_equal(fetch(got), desired)


@pytest.mark.library("dask")
def test_calls_on_a_cluster_have_tasks_of_their_own(backend):
    """A cluster takes tasks of one name for the same, and keeps the first one's result."""
    dask, distributed = (importlib.import_module(name) for name in ("dask", "distributed"))
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "set_as_default": False}
    with distributed.Client(**options) as client, dask.config.set(scheduler=client):
        held = backend.asarray([3.0, 4.0]).persist()
        call = backend.compile(lambda a: (a * a + held, a, held))
        kept = [call(backend.asarray([value, -value])) for value in (1.0, 2.0)]
        for (square, same, other), value in zip(kept, (1.0, 2.0), strict=True):
            np.testing.assert_array_equal(square.compute(), [value**2 + 3.0, value**2 + 4.0])
            np.testing.assert_array_equal(same.compute(), [value, -value])
            np.testing.assert_array_equal(other.compute(), [3.0, 4.0])


@pytest.mark.library("dask")
def test_graph_of_a_function_that_changes_what_it_is_given(backend):
    def function(a):
        a[0] = 9.0
        return a, a * 2.0

    call = backend.compile(function)
    for value in (1.0, 2.0):
        a = backend.asarray([value, value])
        changed, double = map(fetch, call(a))
        np.testing.assert_array_equal(changed, [9.0, value])
        np.testing.assert_array_equal(double, [18.0, value * 2.0])
        np.testing.assert_array_equal(fetch(a), [value, value])


@pytest.mark.library("dask")
def test_value_that_a_graph_cannot_have(backend):
    call = backend.compile(lambda a: a if a[0] > 0.0 else -a)
    with pytest.raises(TypeError, match=r"expected a function that reads no value.*compile=None"):
        call(backend.asarray([1.0]))


def test_names():
    assert {"numpy", "array-api-strict", "torch:cpu", "torch:cuda", "cupy", "jax:cpu"} <= set(
        backends.names()
    )
    assert set(backends.available()) <= set(backends.names())
    assert "numpy" in backends.available()


@pytest.mark.parametrize("name", ["nunpy", "", "tinygrad:cpu"])
def test_name_that_is_not_known(name):
    with pytest.raises(ValueError, match=f"expected a backend of numpy, .*, got '{name}'"):
        backends.get(name)


@pytest.mark.parametrize(
    "library", [each.name for each in backends.known() if ":" not in each.name and not each.cuda]
)
def test_device_of_a_library_without_devices(library):
    with pytest.raises(ValueError, match=f"'{library}' without a device, got 'cuda'"):
        backends.get(f"{library}:cuda")


def test_what_is_known():
    """Each has its file, and its extra in pyproject.toml."""
    root = Path(backends.__file__).parent
    extras = tomllib.loads((root.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for each in backends.known():
        assert (root / f"{each.name.partition(':')[0].replace('-', '_')}.py").exists()
        assert each.extra in extras
        assert all((root.parent / path).exists() for path in each.suite if path.endswith(".py"))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_device_that_no_library_has(library):
    with pytest.raises(ValueError, match=f"'{library}:cpu' or '{library}:cuda', got .*abacus"):
        backends.get(f"{library}:abacus")


@pytest.mark.library("torch", "jax", "cupy")
@pytest.mark.parametrize("number", ["99", "x"])
def test_device_number_that_is_not_there(backend, number):
    library, _, rest = backend.name.partition(":")
    kind = rest.partition(":")[0]
    name = f"cupy:{number}" if library == "cupy" else f"{library}:{kind}:{number}"
    with pytest.raises(BackendUnavailable, match=rf"device\(s\) here, .*: there is no '{number}'"):
        backends.get(name)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("numpy", "numpy", "NumPy is not installed"),
        ("array-api-strict", "array_api_strict", "array-api-strict is not installed"),
        ("torch:cpu", "torch", "PyTorch is not installed"),
        ("jax:cpu", "jax", "JAX is not installed"),
        ("cupy", "cupy", "CuPy is not i.*"),
        ("mlx", "mlx", "MLX is not installed"),
        ("dask", "dask.array", "Dask is not installed"),
        ("marray", "marray", "marray is not installed"),
        ("ndonnx", "ndonnx", "ndonnx is not installed"),
        # The first that is missing is told.
        ("ndonnx", "onnxruntime", "(ndonnx|onnxruntime) is not installed"),
        ("dpnp", "dpnp", "dpnp is not installed"),
        ("quantity-array", "quantity_array", "quantity-array is not installed"),
        ("paddle", "paddle", "Paddle is not installed"),
        ("tensorflow", "tensorflow", "TensorFlow is not installed"),
    ],
)
def test_library_that_is_missing(monkeypatch, name, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=message) as caught:
        backends.get(name)
    # zsh takes square brackets without quotes for a pattern of files.
    hint = r'.*: pip install ("array-api-kernels\[[\w-]+\]"|cupy-cuda12x or cupy-cuda13x, .*\.)'
    assert re.fullmatch(hint, str(caught.value))
    assert name not in backends.available()


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_a_broken_library_hides_no_other(monkeypatch, error):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):  # noqa: ARG002
            if name == "marray":
                raise error("libnothing.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "marray", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(error, match="libnothing"):
        backends.get("marray")
    available = backends.available()
    assert "numpy" in available
    assert "marray" not in available


@pytest.mark.library("dpnp")
def test_dpnp_that_cannot_run(backend, monkeypatch):
    code = "import backends; backends.get('dpnp')"
    environment = os.environ | {"ONEAPI_DEVICE_SELECTOR": "cuda:*"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    message = f"dpnp {backend.version} is installed but finds no CPU with an OpenCL driver."
    assert done.stderr.splitlines()[-1].endswith(f"BackendUnavailable: {message}")
    monkeypatch.setitem(sys.modules, "dpctl", None)
    with pytest.raises(BackendUnavailable, match=r"dpnp is not importable \(.*dpctl.*\): pip inst"):
        backends.get("dpnp")


@pytest.mark.library("paddle")
def test_paddle_after_tensorflow(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert backends.get("paddle").name == backend.name
    monkeypatch.delitem(sys.modules, "paddle")
    with pytest.raises(BackendUnavailable, match="crashes when it is imported after TensorFlow"):
        backends.get("paddle")


class EntryPoint:
    """What `importlib.metadata.entry_points` returns of an installed package."""

    name = "abacus"

    def load(self):
        return self.get

    def get(self, device):
        if device == "broken":
            raise BackendUnavailable("The abacus has lost its beads.")
        return backends.get("numpy")._replace(name="abacus", device=device)


def test_backend_of_another_package(monkeypatch):
    def entry_points(*, group):
        return [EntryPoint()] if group == "array_api_kernels.backends" else []

    monkeypatch.setattr(backends, "entry_points", entry_points)
    assert backends.names()[-1] == "abacus"
    assert "abacus" in backends.available()
    assert backends.get("abacus").device is None
    assert backends.get("abacus:wood:1").device == "wood:1"
    with pytest.raises(BackendUnavailable, match="lost its beads"):
        backends.get("abacus:broken")
    assert backends.get("numpy").name == "numpy"
    with pytest.raises(ValueError, match=r"expected a backend of .*, abacus, got 'abakus'"):
        backends.get("abakus")


class BrokenEntryPoint(EntryPoint):
    """Of a package whose import fails, with a name like those of this package's backends."""

    name = "abacus:wood"
    value = "abacus.wood:get"

    def load(self):
        raise ImportError("no module named beads")


def test_backend_of_another_package_that_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(backends, "entry_points", lambda **_: [BrokenEntryPoint()])
    assert "abacus:wood" in backends.names()
    assert "abacus:wood" not in backends.available()
    message = "'abacus:wood' of another package, abacus.wood:get, cannot be imported: ImportError"
    for name in ("abacus:wood", "abacus:wood:1"):
        with pytest.raises(BackendUnavailable, match=message):
            backends.get(name)
    monkeypatch.setattr(BrokenEntryPoint, "load", EntryPoint.load)
    assert backends.get("abacus:wood:1").device == "1"
    with pytest.raises(ValueError, match="got 'abacus'"):
        backends.get("abacus")


@pytest.mark.library("jax")
def test_64_bits_of_jax_without_x64(backend):
    code = """
import os
os.environ["JAX_ENABLE_X64"] = "0"
import backends
b = backends.get("jax:cpu")
print(b.asarray([1.0], "float32").dtype)
for dtype in ("float64", None):
    try:
        print("no error:", b.asarray([1.0], dtype).dtype)
    except ValueError as error:
        print(error)
print(b.asarray([2**31 - 1, -3]).tolist())
for number in (2**31, -(2**40), 2**63):
    try:
        print("no error:", b.asarray([number]))
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    single, *reals, whole, a, b, c = done.stdout.splitlines()
    assert single == "float32"
    assert whole == "[2147483647, -3]"
    assert len(reals) == 2
    dtypes = ("float64", "float64", "int64", "int64", "uint64")
    for dtype, refusal in zip(dtypes, (*reals, a, b, c), strict=True):
        expected = f"expected a dtype that JAX has enabled, got {dtype} without x64"
        assert refusal.startswith(expected)
        assert "JAX_ENABLE_X64=1" in refusal


# The option --backend itself.


def run_pytest(tmp_path, *args):
    test = tmp_path / "test_one.py"
    test.write_text("def test_one(backend):\n    assert backend.name\n")
    (tmp_path / "conftest.py").write_text("from conftest_of_the_suite import *\n")
    for name in ("_assert", "_known", "conftest"):
        target = "conftest_of_the_suite" if name == "conftest" else name
        shutil.copy(Path(__file__).with_name(f"{name}.py"), tmp_path / f"{target}.py")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", str(test), *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_backend_asked_for_by_name_is_never_skipped(tmp_path):
    done = run_pytest(tmp_path, "--backend", "numpy", "--backend", "numpy:7")
    assert done.returncode == 4
    assert "--backend numpy:7: expected the backend 'numpy' without a device" in done.stderr
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('No module named x', name='x')\n")
    done = run_pytest(tmp_path, "--backend", "cupy")
    assert done.returncode == 4
    assert "--backend cupy: CuPy is not importable" in done.stderr


def test_backends_that_are_missing_are_skipped_with_their_reason(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('No module named x', name='x')\n")
    done = run_pytest(tmp_path)
    assert done.returncode == 0
    assert "CuPy is not importable (No module named x)" in done.stdout
    assert "passed" in done.stdout
    done = run_pytest(tmp_path, "--backend", "numpy")
    assert "1 passed" in done.stdout
    assert "skipped" not in done.stdout

"""`python -m kernels check`: what is broken is named, and nothing else."""

import json
import operator
import re
import sys
import types

import array_api_compat.numpy as np_xp
import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels import NATIVE
from kernels.__main__ import main
from kernels.cli import checkup, identity, parts
from kernels.cli.library import find
from kernels.cli.lockstep import Call, Lockstep, render

DTYPES = ("bool", "int8", "int16", "int32", "int64", "float32", "float64")
FUNCTIONS = ("abs", "all", "arange", "argsort", "asarray", "astype", "bitwise_left_shift")
FUNCTIONS += ("exp", "floor", "full_like", "isdtype", "isfinite", "log", "log2", "max", "maximum")
FUNCTIONS += ("min", "ones", "ones_like", "reshape", "round", "sqrt", "stack", "sum", "take")
FUNCTIONS += ("where", "zeros", "zeros_like")
BINARY = ("add", "sub", "mul", "truediv", "matmul", "and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")


class Array:
    """An array of mylib, which computes with NumPy."""

    def __init__(self, module, value):
        self.module = module
        self.value = value

    def __array_namespace__(self, *, api_version=None):
        return self.module

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype=dtype)

    dtype = property(lambda self: self.value.dtype)
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    device = "cpu"
    T = property(lambda self: self.module.call("T", self))


def method(name):
    def in_place(self, *args):
        self.value = self.module.call(name, self, *args).value
        return self

    def plain(self, *args):
        return self.module.call(name, self, *args)

    changes = name.startswith("__i") and name != "__int__"
    setattr(Array, name, in_place if changes else plain)


ENGINE = {"T": operator.attrgetter("T")}
for name in ("__neg__", "__getitem__"):
    ENGINE[name] = getattr(operator, name)
for name in (*BINARY, *COMPARISONS):
    ENGINE[f"__{name}__"] = getattr(operator, f"__{name}__")
for name in BINARY:
    ENGINE[f"__r{name}__"] = lambda a, b, f=ENGINE[f"__{name}__"]: f(b, a)
    ENGINE[f"__i{name}__"] = getattr(operator, f"__i{name}__")
ENGINE |= {"__bool__": bool, "__int__": int, "__float__": float}
for name in ENGINE:
    if name != "T":
        method(name)
ENGINE |= {name: getattr(np_xp, name) for name in FUNCTIONS}


@pytest.fixture
def mylib(monkeypatch):
    """Make a module `mylib` of the functions that the kernel uses, some of them replaced.

    A replacement takes and returns NumPy arrays; None takes the function out.
    """

    def mylib(**changes):
        module = types.ModuleType("mylib")
        module.__version__ = "0.1"
        engine = ENGINE | changes

        def unwrap(x):
            if isinstance(x, Array):
                return x.value
            return type(x)(map(unwrap, x)) if type(x) in (list, tuple) else x

        def call(name, *args, device=None, **kwargs):
            with np.errstate(all="ignore"):
                result = engine[name](*map(unwrap, args), **kwargs)
            if isinstance(result, np.ndarray | np.generic):
                return Array(module, np.asanyarray(result))
            return result

        module.call = call
        for name in FUNCTIONS:
            if engine[name] is not None:
                setattr(module, name, lambda *a, n=name, **k: call(n, *a, **k))
        for name in DTYPES:
            setattr(module, name, np.dtype(name))
        monkeypatch.setitem(sys.modules, "mylib", module)
        return module

    return mylib


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")

    def run(*arguments, status=0):
        got = main(["check", *arguments])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def report(run):
    def report(*arguments, status=0):
        return json.loads(run(*arguments, "--json", status=status)[0])

    return report


def test_numpy_passes(run):
    """Every part, and the digests are the committed ones."""
    out, err = run("numpy")
    assert err == ""
    committed = identity.committed()["tutorial"]
    for part in (*parts.PARTS, "committed digest"):
        assert [line.split()[-2:] for line in out.splitlines() if line.startswith(f"{part}  ")] == [
            ["passed", "passed"]
        ]
    for dtype in ("float32", "float64"):
        assert f"{dtype}: {committed[dtype][parts.STEPS]}, the committed one.\n" in out
    assert out.isprintable() or set(out) - {"\n"} == set(filter(str.isprintable, out))


def test_array_api_strict_passes(report):
    """With its own device by name, in one dtype."""
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    found = report("array_api_strict", "--device", "CPU_DEVICE", "--dtype", "float32")
    assert found["passed"]
    assert found["namespace"] == "array_api_strict"
    assert "CPU_DEVICE" in found["device"]
    assert found["differences"] == []
    assert {(part["dtype"], part["result"]) for part in found["parts"]} == {("float32", "passed")}
    assert list(found["digests"]) == ["float32"]


def test_a_library_that_nobody_registered_passes(mylib, report):
    """So that what the tests below find is what they broke."""
    mylib()
    found = report("mylib")
    assert found["differences"] == []
    assert found["passed"]
    assert not found["flushes_subnormals"]
    assert (found["module"], found["namespace"], found["version"]) == ("mylib", "mylib", "0.1")
    assert found["digests"] == {
        dtype: identity.committed()["tutorial"][dtype][parts.STEPS]
        for dtype in ("float32", "float64")
    }


def fail(*args, **kwargs):
    raise RuntimeError("out of order\nin detail")


def low_precision(a, b):
    half = a.astype(np.float16) @ b.astype(np.float16)
    return half.astype(a.dtype) if a.dtype.kind == "f" else a @ b


def wrong_maximum(a, axis=None, keepdims=False):
    if axis is None:
        return np.max(a)
    return np.take(a, [0], axis=axis) if keepdims else np.take(a, 0, axis=axis)


def same_dtype(a, dtype):
    return a.copy()


def default_dtype(shape, dtype):
    return np.zeros(shape)


def fewer_dimensions(a, axis, keepdims):
    return np.sum(a, axis=axis)


def nothing_added(a, b):
    return a


def next_number(a):
    return np.nextafter(np.sqrt(a), np.asarray(np.inf, a.dtype))


def rounded_to_zero(a, b):
    return np.where(a < 0, -(-a >> b), a >> b)


BROKEN = {
    "take missing": ("take", {"take": None}, "float64[3, 5]|nothing: there is no such function"),
    "asarray fails": ("asarray", {"asarray": fail}, "|RuntimeError: out of order"),
    "where swaps": ("where", {"where": lambda c, a, b: np.where(c, b, a)}, ""),
    "product in half precision": ("__matmul__", {"__matmul__": low_precision}, ""),
    "no product": ("__matmul__", {"__matmul__": fail}, "|RuntimeError: out of order"),
    "astype ignores the dtype": ("astype", {"astype": same_dtype}, ""),
    "maximum along an axis": ("max", {"max": wrong_maximum}, ""),
    "stack fails": ("stack", {"stack": fail}, "|RuntimeError: out of order"),
    "wrong dtype": ("zeros", {"zeros": default_dtype}, "float32[|float64["),
    "wrong shape": ("sum", {"sum": fewer_dimensions}, "[6, 1]|[6]"),
    "exp of float32": (
        "exp",
        {"exp": lambda a: np.exp(a.astype(np.float32)).astype(a.dtype)},
        "",
    ),
    "root off by a unit": ("sqrt", {"sqrt": next_number}, ""),
    "reflected operator": ("__rmul__", {"__rmul__": lambda a, b: b * a + a.dtype.type(1)}, ""),
    "in place": ("__iadd__", {"__iadd__": nothing_added}, ""),
    "not stable": ("argsort", {"argsort": lambda a: np.argsort(a)[::-1]}, ""),
    "negative zero": ("abs", {"abs": lambda a: np.where(a == 0, -a, np.abs(a))}, "0.0|-0.0"),
    "a truth": ("__bool__", {"__bool__": lambda a: not a}, "True|False"),
    "transpose": ("T", {"T": lambda a: a}, ""),
    "integers": (
        "__rshift__",
        {"__rshift__": rounded_to_zero},
        "",
    ),
    "no array": ("max", {"max": lambda a, **k: float(np.max(a)) if not k else np.max(a, **k)}, ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name, mylib, report):
    """It alone, with what was expected and what came."""
    function, changes, words = BROKEN[name]
    mylib(**changes)
    # Only there are other floats by default, and is a square root taken.
    dtype = "float32" if function in ("zeros", "sqrt") else "float64"
    found = report("mylib", "--dtype", dtype, status=1)
    assert [each["function"] for each in found["differences"]] == [function]
    assert {each["function"] for each in found["parts"]} <= {function, None}
    (difference,) = found["differences"]
    expected, _, got = words.partition("|")
    assert expected in difference["expected"]
    assert got in difference["got"]
    assert difference["expected"] != difference["got"]
    assert not found["passed"]


def test_two_that_are_broken_are_both_named(mylib, report):
    """The second is used on what the first returned."""
    mylib(where=lambda c, a, b: np.where(c, b, a), max=wrong_maximum)
    found = report("mylib", "--dtype", "float64", status=1)
    assert {each["function"] for each in found["differences"]} == {"where", "max"}


def test_program_shows_the_difference(mylib, report):
    """It is short, runs, and does not give what was expected."""
    module = mylib(where=lambda c, a, b: np.where(c, b, a))
    (difference,) = report("mylib", "--dtype", "float32", status=1)["differences"]
    *lines, last = difference["program"]
    scope = {"nan": float("nan")}
    exec("\n".join(lines), scope)
    assert scope["xp"] is module
    value = np.asarray(eval(last, scope))
    assert value.size == 1
    expected = difference["expected"].partition(" at ")[0]
    assert last.endswith(f"# expected {expected}")
    assert str(value.ravel()[0]) != expected


def test_a_composition_that_is_broken_is_told_with_its_parts(mylib):
    """As in a lazy library, where each function is right and one of another is not."""

    class Lazy(np.ndarray):
        pass

    def largest(a, **kwargs):
        return np.max(a, **kwargs) - (1 if isinstance(a, Lazy) else 0)

    mylib(abs=lambda a: np.abs(a).view(Lazy), max=largest)
    lockstep = Lockstep(find("mylib", None), exact=False)
    a = lockstep.put(np.asarray([[1.0, -2.0], [3.0, 4.0]]))
    largest = lockstep.max(lockstep.abs(lockstep.asarray(a)), axis=1)
    assert np.asarray(largest).tolist() == [2.0, 4.0]
    (difference,) = lockstep.differences
    assert difference.function == "max"
    assert "xp.abs(float64[" in difference.call
    assert difference.program


def test_report_in_sentences(mylib, run):
    mylib(take=None)
    out, err = run("mylib", "--dtype", "float64", status=1)
    assert "\ntraining           failed: take\n" in out
    assert "\nforward            passed\n" in out
    assert "take: expected float64[3, 5], got nothing: there is no such function.\n" in out
    assert "First seen in training, float64: xp.take(float64[6, 5], int64[3], axis=0).\n" in out
    assert "\n    import mylib as xp\n" in out
    assert err == "mylib: 4 of 14 parts did not pass\n"


def test_shared_memory(mylib, report):
    """Where astype makes no copy, the kernel's own temporaries are somebody else's arrays."""
    in_place = {"__iadd__": np.add, "__isub__": np.subtract, "__imul__": np.multiply}
    changes = {name: lambda a, b, f=f: f(a, b, out=a) for name, f in in_place.items()}
    mylib(astype=lambda a, dtype: a.astype(dtype, copy=False), **changes)
    found = report("mylib", "--dtype", "float64", status=1)
    assert [each["function"] for each in found["differences"]] == ["shared memory"]


def test_subnormals_taken_for_zero_are_allowed(mylib, report):
    """As in JAX: it is told, and all parts pass."""

    def flush(x):
        if not isinstance(x, np.ndarray | np.generic) or x.dtype.kind != "f":
            return x
        small = (x != 0) & (np.abs(x) < np.finfo(x.dtype).smallest_normal)
        return np.where(small, x.dtype.type(0), x)

    def flushing(function):
        return lambda *args, **kwargs: flush(function(*map(flush, args), **kwargs))

    names = ("__add__", "__sub__", "__mul__", "__lt__", "__matmul__", "astype", "abs", "where")
    mylib(**{name: flushing(ENGINE[name]) for name in names})
    found = report("mylib")
    assert found["differences"] == []
    assert found["passed"]
    assert found["flushes_subnormals"]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_either_of_two_zeros_is_their_maximum(mylib, report, zero):
    def maximum(a, b):
        return np.where((a == 0) & (b == 0), a.dtype.type(zero), np.maximum(a, b))

    mylib(maximum=maximum)
    assert report("mylib")["differences"] == []


def test_arrays_without_a_namespace(mylib, report, monkeypatch):
    """The kernel would not find its functions."""
    mylib()
    monkeypatch.delattr(Array, "__array_namespace__")
    found = report("mylib", "--dtype", "float32", status=1)
    assert {each["result"] for each in found["parts"]} == {"failed"}
    assert found["differences"][0]["got"] == "Array, which has no __array_namespace__"


def test_parts_that_cannot_run_say_so(mylib, report):
    """Nothing can be computed without arrays."""
    mylib(asarray=fail)
    found = report("mylib", status=1)
    results = [each["result"] for each in found["parts"] if each["dtype"] == "float32"]
    assert results == ["failed"] + ["not run"] * 13
    assert found["digests"] == {}


def test_a_digest_that_is_not_the_committed_one(run, monkeypatch):
    """Although every function is right."""
    committed = identity.committed()
    committed["tutorial"]["float32"][parts.STEPS] = "0" * 64
    monkeypatch.setattr(identity, "committed", lambda: committed)
    out, err = run("numpy", "--dtype", "float32", status=1)
    assert ", not the committed one.\n" in out
    assert f"no single function: expected {'0' * 64}, got " in out
    assert err == "numpy: 1 of 14 parts did not pass\n"


def test_a_library_that_takes_for_ever(mylib, report, monkeypatch):
    """It is stopped, and that is its failure."""
    monkeypatch.setattr(checkup, "_SECONDS", 1)

    def forever(dtype, numerics, make):
        while getattr(make, "__self__", None) == library:
            pass
        return []

    mylib()
    library = find("mylib", None)
    monkeypatch.setattr(checkup, "PARTS", {"forward": (forever, NATIVE)})
    found = report("mylib", "--dtype", "float32", status=1)
    assert found["differences"][0]["got"] == "TimeoutError: not done after 1 seconds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module"], "got 'no_such_module': there is no 'no_such_module' here"),
        (["numpy.no_such"], "got 'numpy.no_such': there is no 'numpy.no_such' here"),
        (["math"], "which has a function asarray, got the module 'math'"),
        (["numpy", "--device", "gpu:7"], r"expected a device of .*numpy \(cpu\), got 'gpu:7'"),
        (["numpy", "--dtype", "int8"], "expected --dtype to be float32 or float64, got 'int8'"),
        (["numpy.ma"], "expected arrays whose namespace is numpy.ma, got arrays of numpy"),
        (["broken_on_import"], "broken_on_import fails to load: no licence"),
        (["missing_a_part"], "missing_a_part fails to load: No module named 'no_such_module'"),
    ],
)
def test_refuses(arguments, message, run, tmp_path, monkeypatch):
    """In one sentence."""
    (tmp_path / "broken_on_import.py").write_text("raise RuntimeError('no licence\\nin detail')")
    (tmp_path / "missing_a_part.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    out, err = run(*arguments, status=2)
    assert out == ""
    assert re.search(message, err), err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call("__getitem__", (np.zeros(3), (slice(0, 2), 1)), {}, None), "a[0:2, 1]"),
        (Call("__getitem__", (np.zeros(3), ()), {}, None), "a[()]"),
        (Call("__rsub__", (np.zeros(3), 2.0), {}, None), "(2.0 - a)"),
        (Call("concat", ([np.zeros(3)] * 2,), {"axis": 0}, None), "xp.concat([a, a], axis=0)"),
        (
            Call("zeros", ((2,),), {"dtype": np.dtype("float32"), "device": "cpu"}, None),
            "xp.zeros((2,), dtype=xp.float32)",
        ),
    ],
)
def test_calls_are_written_as_python(call, text):
    assert render(call, lambda _: "a") == text

"""`python -m kernels check`: what is broken is named, and nothing else."""

import io
import json
import operator
import re
import signal
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import array_api_compat.numpy as np_xp
import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels import NATIVE
from kernels.__main__ import main
from kernels.conformance import checkup, find, parts
from kernels.conformance.lockstep import Call, Lockstep, render
from kernels.reference import training as reference

DTYPES = ("bool", "int8", "int16", "int32", "int64", "float32", "float64")
FUNCTIONS = ("abs", "all", "arange", "argsort", "asarray", "astype", "bitwise_left_shift")
FUNCTIONS += (
    "concat",
    "exp",
    "floor",
    "full_like",
    "isdtype",
    "isfinite",
    "log",
    "log2",
    "max",
    "maximum",
)
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
            several = type(x) in (list, tuple) and x and isinstance(x[0], Array)
            return type(x)(map(unwrap, x)) if several else x

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
def one_problem(monkeypatch):
    """Train on the tutorial alone, for what does not depend on the problem."""
    problems = {part: name for part, name in parts.COMMITTED.items() if name == "tutorial"}
    monkeypatch.setattr(checkup, "COMMITTED", problems)


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
    committed = reference.committed()
    for part in (*parts.PARTS, *parts.COMMITTED):
        assert [line.split()[-2:] for line in out.splitlines() if line.startswith(f"{part}  ")] == [
            ["float32", "passed"],
            ["float64", "passed"],
        ]
    for problem in parts.COMMITTED.values():
        for dtype, digests in committed[problem].items():
            said = (
                f"Digest of {problem} after 10 exact steps, {dtype}: {digests[10]}, the committed"
            )
            assert f"{said} one.\n" in out
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
    assert [*map(list, found["digests"].values())] == [["float32"]] * 3


def test_a_library_that_nobody_registered_passes(mylib, report):
    """So that what the tests below find is what they broke."""
    mylib()
    found = report("mylib")
    assert found["differences"] == []
    assert found["passed"]
    assert not found["flushes_subnormals"]
    assert (found["module"], found["namespace"], found["version"]) == ("mylib", "mylib", "0.1")
    assert found["digests"] == {
        problem: {
            dtype: reference.committed()[problem][dtype][parts.STEPS]
            for dtype in ("float32", "float64")
        }
        for problem in ("tutorial", "tutorial-momentum", "digits-adam")
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
    "take missing": ("take", {"take": None}, "float64[130, 5]|nothing: there is no such function"),
    "asarray fails": ("asarray", {"asarray": fail}, "|RuntimeError: out of order"),
    "where swaps": ("where", {"where": lambda c, a, b: np.where(c, b, a)}, ""),
    "product in half precision": ("__matmul__", {"__matmul__": low_precision}, ""),
    "no product": ("__matmul__", {"__matmul__": fail}, "|RuntimeError: out of order"),
    "astype ignores the dtype": ("astype", {"astype": same_dtype}, ""),
    "maximum along an axis": ("max", {"max": wrong_maximum}, ""),
    "stack fails": ("stack", {"stack": fail}, "|RuntimeError: out of order"),
    "wrong dtype": ("zeros", {"zeros": default_dtype}, "float32[|float64["),
    "wrong shape": ("sum", {"sum": fewer_dimensions}, "[4, 1]|[4]"),
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


# Defects of the same kind as others.
LIKE_OTHERS = (
    *("no product", "maximum along an axis", "stack fails", "exp of float32"),
    *("root off by a unit", "negative zero", "transpose", "integers"),
)


@pytest.mark.usefixtures("one_problem")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough("numpy")] if name in LIKE_OTHERS else [])
        for name in BROKEN
    ],
)
def test_what_is_broken_is_named(name, mylib, report):
    """Only that function is named, with what was expected and got."""
    function, changes, words = BROKEN[name]
    mylib(**changes)
    # Only these parts use default dtypes and square roots.
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


def last_of_equals_first(a):
    return a.size - 1 - np.argsort(a[::-1], kind="stable")


def not_the_last(function):
    """Leave out what comes last of more than 256 along an axis, as some loops do."""

    def left_out(a, axis=None, **kwargs):
        a = np.ravel(a) if axis is None else a
        few = a.shape[axis or 0] <= 256
        return function(a if few else np.delete(a, -1, axis or 0), axis=axis, **kwargs)

    return left_out


def not_a_number_is(value, function):
    return lambda *args: np.where(np.isnan(args[0]), value, function(*args)).astype(args[0].dtype)


def arithmetic_choice(condition, a, b):
    chosen = condition.astype(a.dtype)
    return chosen * a + (a.dtype.type(1) - chosen) * b


def finite_only(a, dtype):
    a = np.array(a, dtype)
    return np.nan_to_num(a, nan=np.nan) if a.dtype.kind == "f" else a


def nine_bits(n, dtype):
    a = np.arange(n, dtype=dtype)
    return np.where(a > 256, a - a % 2, a)


def in_single(function):
    return lambda a, b: function(np.float32(a), np.float32(b)).astype(getattr(a, "dtype", None))


# What is wrong with hard numbers and many terms only: a part that meets it, the function, and what
# it does instead. The first five broke the kernel and passed.
HARD = {
    "argsort is not stable": ("random", "argsort", last_of_equals_first),
    "argsort in single precision": (
        "random",
        "argsort",
        lambda a: np.argsort(a.astype(np.float32), kind="stable"),
    ),
    "maximum drops NaN": ("forward", "maximum", np.fmax),
    "exp(-inf) is NaN": (
        "losses",
        "exp",
        lambda a: np.where(a == -np.inf, a.dtype.type(np.nan), np.exp(a)),
    ),
    "sum drops the last term": ("losses", "sum", not_the_last(np.sum)),
    "sum drops NaN": ("losses", "sum", np.nansum),
    "sum drops infinities": (
        "losses",
        "sum",
        lambda a, **k: np.sum(np.where(np.isinf(a), a.dtype.type(0), a), **k),
    ),
    "max drops the last term": ("losses", "max", not_the_last(np.max)),
    "max drops NaN": ("losses", "max", lambda a, **k: np.fmax.reduce(a, **({"axis": None} | k))),
    "min drops the last term": ("training", "min", not_the_last(np.min)),
    "all looks at the first ones": (
        "digest",
        "all",
        lambda a: np.all(np.ravel(a)[: max(1, a.size // 3)]),
    ),
    "isfinite takes NaN": ("digest", "isfinite", lambda a: ~np.isinf(a)),
    "bool is True": ("digest", "__bool__", lambda _: True),
    "product drops the last term": (
        "forward",
        "__matmul__",
        lambda a, b: a[:, :256] @ b[:256, :],
    ),
    "product drops NaN": (
        "backward",
        "__matmul__",
        lambda a, b: np.nan_to_num(a, posinf=np.inf) @ b,
    ),
    "abs of NaN": ("forward", "abs", not_a_number_is(0.0, np.abs)),
    "where multiplies": ("exact functions", "where", arithmetic_choice),
    "zeros_like multiplies": ("forward", "zeros_like", lambda a: a * a.dtype.type(0)),
    "take in eight bits": (
        "training",
        "take",
        lambda a, i, axis: np.take(a, i.astype(np.uint8), axis=axis),
    ),
    "astype makes infinities finite": ("exact products", "astype", finite_only),
    "asarray makes infinities finite": ("forward", "asarray", finite_only),
    "arange in nine bits": ("random", "arange", nine_bits),
    "reshape by columns": ("losses", "reshape", lambda a, shape: np.reshape(a, shape, order="F")),
    "reshape drops the sign of zero": (
        "losses",
        "reshape",
        lambda a, shape: np.reshape(a + a.dtype.type(0), shape),
    ),
    "floor rounds": ("random", "floor", np.round),
    "round cuts": ("exact functions", "round", np.trunc),
    "log2 is off by one": ("exact functions", "log2", lambda a: np.log2(a) + (a < 1)),
    "log of nothing": ("losses", "log", lambda a: np.log(np.maximum(a, a.dtype.type(1e-30)))),
    "stack turns round": ("training", "stack", lambda a: np.stack(a[::-1])),
    "nothing is subtracted": ("exact products", "__isub__", nothing_added),
    "NaN is less or equal": ("backward", "__le__", lambda a, b: ~(a > b)),
    "NaN is less": ("exact products", "__lt__", lambda a, b: ~(a >= b)),
    "NaN is itself": (
        "exact functions",
        "__eq__",
        lambda a, b: (a == b) | (np.isnan(a) & np.isnan(b)),
    ),
    "compared in single precision": (
        "exact functions",
        "__le__",
        lambda a, b: np.float32(a) <= np.float32(b),
    ),
    "remainder towards zero": ("exact functions", "__and__", lambda a, b: np.fmod(a, b + 1)),
    "infinity times zero": (
        "update",
        "__mul__",
        lambda a, b: np.where(np.isinf(a), a.dtype.type(0), a * b),
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_what_is_broken_for_hard_numbers_is_named(name, mylib, report, monkeypatch):
    """Only that function is named, by the part that uses it."""
    part, function, broken = HARD[name]
    monkeypatch.setattr(checkup, "PARTS", {part: parts.PARTS[part]})
    monkeypatch.setattr(checkup, "_train", lambda *_: ([], None))
    mylib(**{function: broken})
    found = report("mylib", "--dtype", "float64", status=1)
    assert [each["function"] for each in found["differences"]] == [function]
    assert found["parts"][0]["function"] == function
    (difference,) = found["differences"]
    assert difference["expected"] != difference["got"]


def test_hard_numbers_are_told(mylib, report):
    """In words and as a program."""
    mylib(maximum=np.fmax)
    (difference,) = report("mylib", "--dtype", "float32", status=1)["differences"]
    assert difference["where"] == "forward, float32"
    assert difference["call"] == "xp.maximum(float32[1, 1], float32[1, 1]), with nan"
    assert difference["program"][-1] == "xp.maximum(a, b)  # expected nan"
    assert 'a = xp.asarray([[float("nan")]], dtype=xp.float32)' in difference["program"]


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
    """As in a lazy library where each function is right alone, but not on another's result."""

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
    mylib(stack=None)
    out, err = run("mylib", "--dtype", "float64", status=1)
    assert "\ntraining         float64  failed: stack\n" in out
    assert "\nforward          float64  passed\n" in out
    assert "stack: expected float64[2], got nothing: there is no such function.\n" in out
    assert "First seen in training, float64: xp.stack([float64[], float64[]]).\n" in out
    assert "\n    import mylib as xp\n" in out
    assert err == "mylib: 5 of 16 parts did not pass\n"


def test_a_slow_library_is_heard_of(mylib, run, monkeypatch):
    """The begin and end of a part are printed at once, even into a pipe."""
    seen = []

    class Pipe(io.StringIO):
        def flush(self):
            seen.append(self.getvalue())

    def slow(dtype, numerics, make):
        seen.append("computed")
        return []

    mylib()
    monkeypatch.setattr(checkup, "PARTS", {"forward": (slow, NATIVE)})
    monkeypatch.setattr(sys, "stdout", Pipe())
    run("mylib", "--dtype", "float32")
    begun, ended = seen[seen.index("computed") - 1], seen[-1 - seen[::-1].index("computed") + 1]
    assert begun.endswith("\nforward          float32  ")
    assert ended.endswith("\nforward          float32  passed\n")


def test_a_package_whose_namespace_is_inside(run, tmp_path, monkeypatch):
    """As rstsr_faer has rstsr_faer.api."""
    package = tmp_path / "thin_package"
    package.mkdir()
    (package / "__init__.py").write_text("import math\nfrom . import api, other\n")
    (package / "api.py").write_text("from numpy import asarray\n")
    (package / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    _, err = run("thin_package", status=2)
    assert err.endswith("got the module 'thin_package': thin_package.api inside it may be meant.\n")


def test_shared_memory(mylib, report):
    """Where astype makes no copy, the kernel's own temporaries are somebody else's arrays."""
    in_place = {"__iadd__": np.add, "__isub__": np.subtract, "__imul__": np.multiply}
    changes = {name: lambda a, b, f=f: f(a, b, out=a) for name, f in in_place.items()}
    mylib(astype=lambda a, dtype: a.astype(dtype, copy=False), **changes)
    found = report("mylib", "--dtype", "float64", status=1)
    assert [each["function"] for each in found["differences"]] == ["shared memory"]


@pytest.mark.usefixtures("one_problem")
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


@pytest.mark.usefixtures("one_problem")
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_what_libraries_may_do_otherwise_is_allowed(mylib, report, zero):
    """Either of two zeros, sums in another order, another index dtype, the last digit."""

    def of_zeros(function):
        def either(*args, **kwargs):
            a = function(*args, **kwargs)
            return np.where(a == 0, a.dtype.type(zero), a)

        return either

    def other_last_digit(function):
        def last_digit(a):
            a = function(a)
            near = np.nextafter(a, a.dtype.type(np.copysign(np.inf, zero)))
            return np.where(np.isfinite(a), near, a)

        return last_digit

    mylib(
        maximum=of_zeros(np.maximum),
        max=of_zeros(np.max),
        sum=lambda a, axis, **k: np.sum(np.flip(a, axis), axis=axis, **k),
        __matmul__=lambda a, b: a[:, ::-1] @ b[::-1, :],
        argsort=lambda a: np.argsort(a, kind="stable").astype(np.int32),
        **{name: other_last_digit(getattr(np, name)) for name in ("exp", "log", "log2")},
    )
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
    assert results == ["failed"] + ["not run"] * 15
    assert found["digests"] == {}


@pytest.mark.usefixtures("one_problem")
def test_a_digest_that_is_not_the_committed_one(run, monkeypatch):
    """Although every function is right."""
    committed = reference.committed()
    committed["tutorial"]["float32"][parts.STEPS] = "0" * 64
    monkeypatch.setattr(reference, "committed", lambda: committed)
    out, err = run("numpy", "--dtype", "float32", status=1)
    assert ", not the committed one.\n" in out
    assert f"no single function: expected {'0' * 64}, got " in out
    assert err == f"numpy: 1 of {len(parts.PARTS) + 1} parts did not pass\n"


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


@pytest.fixture
def one_part(monkeypatch):
    monkeypatch.setattr(checkup, "PARTS", {"digest": checkup.PARTS["digest"]})
    monkeypatch.setattr(checkup, "COMMITTED", {})


@pytest.mark.usefixtures("one_part")
def test_a_library_passes_in_any_thread():
    """Only the first can set a limit of time."""
    with ThreadPoolExecutor() as pool:
        found = pool.submit(checkup.examine, find("numpy", None), ("float32",)).result()
    assert found.passed, found.differences


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="only POSIX has alarms")
@pytest.mark.usefixtures("one_part")
def test_an_alarm_of_the_program_stays():
    signal.alarm(1000)
    try:
        assert checkup.examine(find("numpy", None), ("float32",)).passed
        assert 990 < signal.alarm(0) <= 1000
    finally:
        signal.alarm(0)


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

"""The hunter in tests/hunt finds what is planted, nothing else, and its oracle is right."""

import math
import re
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from _team import Member, by_team
from array_api_compat import array_namespace, is_numpy_array
from hunt import hunter, libraries, oracle
from hunt.hunter import TARGETS
from hunt.libraries import Failed, Library, execute
from hunt.programs import Line, Operand, Program

import backends
import kernels
from kernels import Exact, dual

# These tests need a library besides NumPy and do not depend on the backend under test.
pytestmark = pytest.mark.library("array-api-strict")


class Here:
    """A library in this process."""

    def __init__(self):
        self.sources = []

    def run(self, source, *_):
        self.sources.append(source)
        with warnings.catch_warnings(action="ignore"):
            try:
                return execute(source)
            except FloatingPointError as error:
                raise Failed("raises FloatingPointError", str(error)) from None


def target(name):
    (found,) = (t for t in TARGETS if t.name == name)
    return found


def hunt(name, examples, seed=0, shrinking=5.0, library=None, **scope):
    """Try some programs on a library: what is found, and the sources."""
    chosen = target(name)._replace(examples=examples, shrinking=shrinking)
    chosen = chosen._replace(scope=chosen.scope._replace(**scope))
    library = library or Here()
    end = time.monotonic() + 60
    return hunter._round(chosen, library, seed, end, set(), lambda _: None), library.sources


def plant(monkeypatch, operation, change):
    """Change what an operation of exact numerics returns, but for arrays of NumPy."""
    right = getattr(Exact, operation)

    def wrong(self, a, *others, **named):
        result = right(self, a, *others, **named)
        return result if is_numpy_array(a) else change(result)

    monkeypatch.setattr(Exact, operation, wrong)


@pytest.mark.parametrize("name", ["numpy eager", "array-api-strict eager"])
def test_nothing_is_found_where_nothing_is_wrong(name):
    assert hunt(name, 30)[0] is None


def test_a_planted_defect_is_found_and_made_small(monkeypatch):
    """Quotients that are a few units too large."""
    plant(monkeypatch, "divide", lambda a: a + a * 2.0**-22)
    # On a busy machine too it is made as small as it gets.
    find, _ = hunt("array-api-strict eager", 300, shrinking=60.0)
    assert find.key[:3] == ("array-api-strict eager", "divide", "bits")
    assert "numerics.divide(" in find.text
    # What is printed runs, alone, and gives what it says.
    names = {}
    exec(find.text, names)
    assert names["result"][-1].shape == names["a"].shape
    assert names["a"].size <= 7
    assert len(find.text.splitlines()) < 25


def test_a_planted_defect_of_the_dual_form_is_found(monkeypatch):
    """The rows of a batch's gradient one sample further on."""
    right = dual._spread

    def wrong(gradient, chosen, n):
        rows = right(gradient, chosen, n)
        return rows if is_numpy_array(rows) else array_namespace(rows).roll(rows, 1, axis=0)

    scope = {"families": ("training",), **SMALL}
    assert hunt("array-api-strict eager", 8, **scope)[0] is None
    monkeypatch.setattr(dual, "_spread", wrong)
    find, _ = hunt("array-api-strict eager", 200, shrinking=1.0, **scope)
    assert find.key[:3] == ("array-api-strict eager", "fit", "bits")
    assert "dual=True" in find.text
    assert "batch_size=None" not in find.text


class Threads(Here):
    """Workers that are threads of this process, and compute with NumPy."""

    def run(self, source, _, workers):
        self.sources.append(source)
        joining = source.replace("workers.join(", "join(").replace("import torch\n", "")

        def work(member):
            numerics = {"numerics": lambda n: replace(n, team=member), "shard": lambda a: a}
            team = SimpleNamespace(backend=backends.get("numpy"), compile=None, **numerics)
            # Settings of torch are none of NumPy's, and it need not be installed.
            names = {"__name__": "__main__", "torch": MagicMock()}
            names["join"] = lambda *_: nullcontext(team)
            exec(joining, names)
            return names["result"]

        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            answers, _ = by_team(workers, "at the front", np, work)
        return answers[0]


SMALL = {"sizes": (1, 3, 7, 2), "classes": (3, 1)}


def test_a_planted_defect_of_workers_is_found(monkeypatch):
    """One array is not summed over workers; without the defect nothing is found."""
    assert hunt("torch:cpu workers", 8, library=Threads(), **SMALL)[0] is None
    right = Member.total

    def wrong(self, arrays):
        arrays = list(arrays)
        return [*arrays[:1], *right(self, arrays[1:])]

    monkeypatch.setattr(Member, "total", wrong)
    find, _ = hunt("torch:cpu workers", 100, shrinking=1.0, library=Threads(), **SMALL)
    assert find.key[:3] == ("torch:cpu workers", "fit", "bits")
    assert re.search(r'workers.join\("torch", [234]\)', find.text)
    compile(find.text, "<found>", "exec")


def test_workers_that_differ_are_told(monkeypatch):
    """Each worker of torch is a process, with the environment that torchrun would set."""
    source = (
        "import os\n"
        "from types import SimpleNamespace\n"
        "backend = SimpleNamespace(to_numpy=lambda a: a)\n"
        "result = [float(os.environ['{}'])]\n"
    )
    library = Library("torch:cpu", compiled=False, workers=2)
    library.backend = "none"
    try:
        assert library.run(source.format("WORLD_SIZE"), 60.0, 2) == [2.0]
        assert library.run(source.format("RANK"), 60.0, 1) == [0.0]
        with pytest.raises(Failed, match="expected the same of all workers, got two results"):
            library.run(source.format("RANK"), 60.0, 2)
        with pytest.raises(Failed, match="the process ended with 3"):
            library.run("import os\nif os.environ['RANK'] == '1': os._exit(3)", 60.0, 2)
        # The first only says that it lost the second, which it would else wait for.
        lost = "class WorkerLost(Exception): pass\nraise WorkerLost('lost')"
        unlike = f"import os\nif os.environ['RANK'] == '1': raise ValueError('cause')\n{lost}"
        with pytest.raises(Failed, match="ValueError: cause"):
            library.run(unlike, 60.0, 2)
        monkeypatch.setitem(libraries._SECONDS, False, 1.5)
        with pytest.raises(Failed, match="expected a result, got none in 2 s"):
            library.run("import os, time\nif os.environ['RANK'] == '1': time.sleep(60)", 60.0, 2)
    finally:
        library.close()


def test_one_seed_gives_one_sequence_of_programs():
    first, again, other = (hunt("array-api-strict eager", 10, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert len(first) >= 5
    assert first != other


@pytest.mark.parametrize(("limit", "works"), [(0.0, "while True: pass"), (2.5, "time.sleep(60)")])
def test_a_process_that_hangs_is_told(monkeypatch, limit, works):
    """It computes for too long, or waits without computing."""
    monkeypatch.setitem(libraries._SECONDS, False, limit)
    library = Library("numpy", compiled=False)
    try:
        with pytest.raises(Failed, match="expected a result, got none in"):
            library.run(f"import time\n{works}", 60.0)
    finally:
        library.close()


def test_a_process_that_computes_little_is_waited_for(monkeypatch):
    """As on a busy machine: waiting does not count as computing."""
    monkeypatch.setitem(libraries._SECONDS, False, 2.5)
    source = (
        "import time\n"
        "from types import SimpleNamespace\n"
        "for _ in range(10):\n"
        "    time.sleep(0.4)\n"
        "    sum(range(10**6))\n"
        "backend, result = SimpleNamespace(to_numpy=lambda a: a), [1.0]\n"
    )
    library = Library("numpy", compiled=False)
    try:
        assert library.run(source, 60.0) == [1.0]
    finally:
        library.close()


def test_a_process_that_ends_is_told():
    library = Library("numpy", compiled=False)
    try:
        with pytest.raises(Failed, match="the process ended with 3"):
            library.run("import os; os._exit(3)", 60.0)
        with pytest.raises(Failed, match="expected 1, got 2"):
            library.run("raise ValueError('expected 1, got 2')", 60.0)
        with pytest.raises(hunter.OutOfTime):
            library.run("import time; time.sleep(60)", 0.5)
    finally:
        library.close()


# The oracle.

NUMBERS = {
    "matmul": ("numerics.matmul(a, b)", "left"),
    "sum": ("numerics.sum(a, axis=0)", 0),
    "add": ("numerics.add(a, b)", None),
    "subtract": ("numerics.subtract(a, b)", None),
    "multiply": ("numerics.multiply(a, b)", None),
    "divide": ("numerics.divide(a, b)", None),
    "exp": ("numerics.exp(a)", None),
    "log": ("numerics.log(a)", None),
    **{name: (f"numerics.{name}(a)", None) for name in oracle.ENDS},
}


def judge(operation, a, b, change=lambda result: result):
    """Say what the oracle thinks of an operation on arrays, after a change of its result."""
    text, detail = NUMBERS[operation]
    uses = ("a", "b") if "b)" in text else ("a",)
    line = Line("r0", operation, text, uses, detail, ("r0",))
    operands = (Operand("a", a), Operand("b", b))[: len(uses)]
    ran = oracle.run(Program(a.dtype.name, None, operands, (line,)))
    ran.values["r0"] = change(ran.values["r0"])
    return oracle.check(line, ran, a.dtype.name, Exact())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operation", NUMBERS)
def test_oracle_of_an_operation(operation, dtype):
    """It accepts the right result, and none next to it, infinite, or a negative zero."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.1, 2.0, (4, 4)).astype(dtype) for _ in range(2))
    assert judge(operation, a, b) is None
    # Products have a bound that is wider than a unit.
    units = 2**12 if operation in ("matmul", "sum") else 4 if operation in oracle.ENDS else 2
    for wrong in (
        lambda r: r + units * np.spacing(r),
        lambda r: r - units * np.spacing(r),
        lambda r: r * np.inf,
        lambda r: -0.0 * r,
    ):
        found = judge(operation, a, b, wrong)
        assert found.cause == "value"
    if operation != "exp":
        small = a * np.asarray(2.0 ** (-200 if dtype == "float64" else -40), dtype)
        assert judge(operation, small, b) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_oracle_of_what_is_not_finite(bad):
    a, b = np.full((2, 2), bad), np.full((2, 2), 2.0)
    for operation in NUMBERS:
        assert judge(operation, a, b) is None
        assert judge(operation, a, b, lambda r: np.full_like(r, 3.0)) is not None


def test_rounding_of_fractions():
    """As NumPy's and Python's own, ties to even; None where it overflows."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for _ in range(200):
            x = Fraction(
                int(rng.integers(2**62)), 2 ** int(rng.integers(80)) * 3 ** int(rng.integers(2))
            )
            assert float(oracle.nearest(x, "float64")) == float(x)
        tie = 1 + Fraction(float(np.finfo(dtype).eps)) / 2
        assert oracle.nearest(tie, dtype) == 1
        assert oracle.nearest(3 * tie - 2, dtype) == 1 + 2 * Fraction(float(np.finfo(dtype).eps))
        largest = Fraction(float(np.finfo(dtype).max))
        assert oracle.nearest(largest, dtype) == largest
        assert oracle.nearest(largest * (1 + Fraction(1, 2**25)), dtype) in (None, largest)
        assert oracle.nearest(largest * 2, dtype) is None
    assert oracle.nearest(Fraction(0), "float32") == 0


def labels(dtype):
    line = Line(
        "r0",
        "softmax_cross_entropy",
        "kernels.softmax_cross_entropy(a, b, numerics=numerics)",
        ("a", "b"),
        None,
        ("r0[0]", "r0[1]"),
    )
    logits = np.random.default_rng(0).normal(size=(3, 300)).astype("float32")
    target = np.asarray([3, 100, 40], dtype)
    return Program("float32", None, (Operand("a", logits), Operand("b", target)), (line,))


def test_labels_that_wrap_are_found(monkeypatch):
    program = labels("uint8")
    assert hunter._judged(program, oracle.run(program)) is None
    right = kernels.softmax_cross_entropy

    def wrong(logits, target, **named):
        """Take more for the label than there is."""
        if target.dtype == "uint8":
            target = target.astype("int64") + 1
        return right(logits, target, **named)

    monkeypatch.setattr(kernels, "softmax_cross_entropy", wrong)
    _, found = hunter._judged(program, oracle.run(program))
    assert found.sentence.startswith("expected a loss of ")
    monkeypatch.setattr(oracle, "_CHECKS", {})
    _, found = hunter._judged(program, oracle.run(program))
    assert found.cause == "depends on the labels' dtype"


def test_oracle_of_a_loss_that_overflows():
    """It may be infinite only if it is about that large."""
    text = "kernels.squared_error(a, b, numerics=numerics)"
    line = Line("r0", "squared_error", text, ("a", "b"), None, ("r0[0]", "r0[1]"))

    def found(size, change=lambda value: value):
        a, b = np.full((7, 300), size, "float32"), np.zeros((7, 300), "float32")
        ran = oracle.run(Program("float32", None, (Operand("a", a), Operand("b", b)), (line,)))
        value, gradient = ran.values["r0"]
        ran.values["r0"] = change(value), gradient
        return oracle.check(line, ran, "float32", Exact())

    assert found(2.0**59) is None
    assert found(1.0) is None
    assert found(1.0, lambda value: value * np.inf).sentence.endswith("got inf")


def test_an_argument_that_is_changed_is_found():
    line = Line("r0", "add", "numerics.add(a, b)", ("a", "b"), None, ("r0",))
    a = np.ones((2, 2))
    program = Program("float64", None, (Operand("a", a), Operand("b", a)), (line,))
    assert oracle.run(program).changed is None
    spoilt = line._replace(text="a.__iadd__(b)")
    assert oracle.run(program._replace(lines=(spoilt,))).changed == ("a", spoilt)
    assert np.all(a == 1.0)

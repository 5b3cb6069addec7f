"""What a program must give: documented bounds against Python's integers, and NumPy's bits.

`run` takes the lines one by one with NumPy, `check` compares an operation on its own with exact
arithmetic, and `difference` compares what a library gave with what NumPy did.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

import backends
import kernels
from kernels import Exact, Layer
from kernels.numerics import exact as of_exact

from .programs import Line, Program


class Limits(NamedTuple):
    """What docs/exact.md says of a dtype.

    Attributes
    ----------
    element
        A smaller element of a matrix counts as zero in products and sums.
    smallest
        A smaller result, and a smaller operand of multiply and divide, is zero.
    large
        From here on an element of a matrix makes results that are not finite.
    exp
        The range in which exp is neither 0 nor infinite.
    log
        The error of log: units in the last place, and beyond them.
    """

    element: float
    smallest: float
    large: float
    exp: tuple[float, float]
    log: tuple[float, float]


LIMITS = {
    "float32": Limits(2.0**-126, 2.0**-101, math.inf, (-86.0, 88.7228), (0.51, 0.0)),
    "float64": Limits(2.0**-510, 2.0**-850, 2.0**500, (-707.0, 709.7827), (1.0, 2.0**-56)),
}
# A factor that is a Python number counts as zero below the first and as infinite from the second.
FACTORS = 2.0**-850, 2.0**1000

# Operations of which every element that is finite has the bits of NumPy's, and no other is finite.
# Of the rest, which choose and combine, that is asked of the arrays that are all finite.
SINGLE = ("matmul", "sum", "add", "subtract", "multiply", "divide", "exp", "log")
SINGLE += ("expm1", "tanh", "logistic", "softplus", "sqrt")

# Of those that came later: what they are at the ends, None where they are not finite, and their
# errors in units in the last place of float32 and float64.
ENDS: dict[str, tuple[float | None, float | None]] = {
    "expm1": (-1.0, None),
    "tanh": (-1.0, 1.0),
    "logistic": (0.0, 1.0),
    "softplus": (0.0, None),
    "sqrt": (None, None),
}
ERRORS = {
    "expm1": (0.51, 2.0),
    "tanh": (0.51, 2.0),
    "logistic": (0.51, 2.7),
    "softplus": (0.51, 2.5),
    "sqrt": (0.5, 0.5),
}

# The most elements that are compared with exact arithmetic.
_SAMPLE = 20


class Wrong(NamedTuple):
    """What is wrong with a result: in a word, and in a sentence."""

    cause: str
    sentence: str


class Ran(NamedTuple):
    """What NumPy gave.

    Attributes
    ----------
    arrays
        By the expressions of the lines' outputs.
    values
        Copies by the names of operands and results, as they were before the next line.
    changed
        The name of what a line has changed that was not its own, and the line.
    """

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    changed: tuple[str, Line] | None


def run(program: Program) -> Ran:
    """Run a program with NumPy, line by line, on arrays of its own."""
    numpy = backends.get("numpy")
    values: dict[str, Any] = {
        operand.name: np.array(operand.host, order="C") for operand in program.operands
    }
    names = {"kernels": kernels, "Layer": Layer, "numerics": Exact(program.products)}
    names |= {"xp": numpy.xp, "compile": None, "shard": lambda a: a}
    if any(line.operation == "estimator" for line in program.lines):
        importlib.import_module("kernels.estimators")
    arrays: dict[str, np.ndarray] = {}
    kept: dict[str, Any] = {name: a.copy() for name, a in values.items()}
    own: set[str] = set()
    changed = None
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        for line in program.lines:
            values[line.name] = eval(line.text, {**names, **values})
            kept[line.name] = _copy(values[line.name])
            for output in line.outputs:
                arrays[output] = np.array(eval(output, {**names, **values}))
            for name, before in kept.items():
                if changed is None and name not in own and not _same(before, values[name]):
                    changed = name, line
            # A line may change arrays that nothing else uses.
            own |= {line.name} if not line.outputs else set()
    return Ran(arrays, kept, changed)


def _copy(tree: Any) -> Any:
    if isinstance(tree, tuple):
        return tuple(map(_copy, tree))
    return None if tree is None else np.array(tree)


def _same(a: Any, b: Any) -> bool:
    """Whether trees of arrays and numbers hold the same bits; the first is a copy."""
    if isinstance(a, tuple):
        return all(map(_same, a, b))
    b = b if b is None else np.asarray(b)
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


# Comparison with NumPy.


def difference(line: Line, got: list[np.ndarray], expected: list[np.ndarray]) -> Wrong | None:
    """Say how a line's arrays differ from NumPy's."""
    for a, b, output in zip(got, expected, line.outputs, strict=True):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            told = f"{b.dtype} of shape {b.shape}, got {a.dtype} of shape {a.shape}"
            return Wrong("dtype or shape", f"{output}: expected {told}")
    for a, b, output in zip(got, expected, line.outputs, strict=True):
        if line.operation in SINGLE or np.all(np.isfinite(b)):
            wrong = _first_difference(a, b, output)
            if wrong is not None:
                return wrong
        elif np.all(np.isfinite(a)):
            told = "expected something that is not finite, got nothing of it"
            return Wrong("finite", f"{output}: {told}")
    return None


def _first_difference(a: np.ndarray, b: np.ndarray, output: str) -> Wrong | None:
    finite = np.isfinite(b)
    differs = (finite != np.isfinite(a)) | (finite & (_bits(a) != _bits(b)))
    if not np.any(differs):
        return None
    place = tuple(int(i) for i in np.argwhere(differs)[0])
    x, y = float(b[place]), float(a[place])
    cause = "bits"
    if math.isfinite(x) != math.isfinite(y):
        cause = "finite" if math.isfinite(y) else "not finite"
    elif x == y == 0.0:
        cause = "sign of zero"
    count = f"{np.sum(differs)} of {a.size} differ"
    index = f"[{', '.join(map(str, place))}]"
    return Wrong(cause, f"{output}{index}: expected {x.hex()}, got {y.hex()}; {count}")


def _bits(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(f"i{a.dtype.itemsize}").reshape(a.shape)


# Exact arithmetic.


def nearest(x: Fraction, dtype: str) -> Fraction | None:
    """Round to the digits of a dtype, ties to even, whatever the exponent; None if it overflows."""
    if x == 0:
        return x
    limits = np.finfo(dtype)
    unit = _ulp(x, dtype)
    rounded = round(x / unit) * unit
    return None if abs(rounded) >= Fraction(2) ** int(limits.maxexp) else rounded


def _ulp(x: Fraction, dtype: str) -> Fraction:
    """A unit in the last place of a number that is not zero."""
    x = abs(x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if x < Fraction(2) ** exponent:
        exponent -= 1
    return Fraction(2) ** (exponent - int(np.finfo(dtype).nmant))


def check(line: Line, ran: Ran, dtype: str, numerics: Exact) -> Wrong | None:
    """Compare a line's result, given what it took, with exact arithmetic."""
    if line.operation not in _CHECKS:
        return None
    result = ran.values[line.name]
    operands = [ran.values[name] for name in line.uses if name is not None]
    with np.errstate(all="ignore"):
        for sentence in _CHECKS[line.operation](line, operands, result, dtype, numerics):
            return Wrong("value", sentence)
    return None


Found = Iterator[str]


def _judge(index: Any, got: float, allowed: list[Any], told: str = "") -> Found:
    """Complain unless `got` is allowed: a number, None for not finite, or a predicate."""
    for a in allowed:
        if a is None:
            fits = not math.isfinite(got)
        elif callable(a):
            fits = math.isfinite(got) and a(Fraction(got))
        else:
            fits = math.isfinite(got) and Fraction(got) == a
        if fits and not (got == 0.0 and math.copysign(1.0, got) < 0.0):
            return
    wanted = ", or ".join(
        "not finite" if a is None else told if callable(a) else float(a).hex() for a in allowed
    )
    yield f"at {list(index)}: expected {wanted}, got {float(got).hex()}"


def _sampled(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    places = list(np.ndindex(*shape))
    return places[:: max(1, -(-len(places) // _SAMPLE))]


def _elementwise(
    exact: Callable[[float, float], list[Any]],
) -> Callable[..., Found]:
    """Make a check of `exact`, which lists what an element may be."""

    def checked(line: Line, operands: Any, got: Any, dtype: str, numerics: Any) -> Found:
        a = operands[0]
        b = operands[1] if len(operands) > 1 else line.detail
        a, b = (np.broadcast_to(np.asarray(x), got.shape) for x in (a, 0.0 if b is None else b))
        for index in _sampled(got.shape):
            x, y = float(a[index]), float(b[index])
            allowed, told = exact(x, y, dtype, line)  # type: ignore[call-arg]
            yield from _judge(index, float(got[index]), allowed, f"{told} of {x.hex()}, {y.hex()}")

    return checked


def _zeros(x: float, smallest: float) -> list[float]:
    """What an operand may count as."""
    return [x] if x == 0.0 or abs(x) >= smallest else [0.0, x]


def _result(x: Fraction, dtype: str) -> list[Any]:
    """What the result of an operation that rounds correctly may be."""
    rounded = nearest(x, dtype)
    if rounded is not None and abs(rounded) < LIMITS[dtype].smallest:
        return [Fraction(0)]
    return [rounded]


def _sum_of(sign: int) -> Any:
    def exact(x: float, y: float, dtype: str, line: Line) -> tuple[list[Any], str]:
        told = "the sum" if sign > 0 else "the difference"
        if not (math.isfinite(x) and math.isfinite(y)):
            return [None], told
        tiny = float(np.finfo(dtype).tiny)
        allowed = [
            r
            for u in _zeros(x, tiny)
            for v in _zeros(y, tiny)
            for r in _result(Fraction(u) + sign * Fraction(v), dtype)
        ]
        return allowed, told

    return exact


def _product(x: float, y: float, dtype: str, line: Line) -> tuple[list[Any], str]:
    told = "the product within 0.51 units"
    smallest = LIMITS[dtype].smallest
    number = len(line.uses) == 1
    if not (math.isfinite(x) and math.isfinite(y)) or (number and abs(y) >= FACTORS[1]):
        return [None], told
    allowed: list[Any] = []
    for u in _zeros(x, smallest):
        for v in _zeros(y, FACTORS[0] if number else smallest):
            exact = Fraction(u) * Fraction(v)
            if exact == 0:
                allowed.append(exact)
                continue
            error = _ulp(exact, dtype) * 51 / 100
            if abs(exact) - error < smallest:
                allowed.append(Fraction(0))
            if abs(exact) + error >= Fraction(2) ** int(np.finfo(dtype).maxexp):
                allowed.append(None)
            allowed.append(_within(exact, error, smallest))
    return allowed, told


def _within(exact: Fraction, error: Fraction, smallest: float) -> Callable[[Fraction], bool]:
    return lambda got: abs(got - exact) <= error and abs(got) >= smallest


def _quotient(x: float, y: float, dtype: str, line: Line) -> tuple[list[Any], str]:
    told = "the quotient"
    if math.isinf(y) and math.isfinite(x):
        return [Fraction(0)], told
    if not (math.isfinite(x) and math.isfinite(y)):
        return [None], told
    smallest = LIMITS[dtype].smallest
    allowed: list[Any] = []
    for u in _zeros(x, smallest):
        for v in _zeros(y, smallest):
            allowed += [None] if v == 0.0 else _result(Fraction(u) / Fraction(v), dtype)
    return allowed, told


def _exponential(x: float, _: float, dtype: str, line: Line) -> tuple[list[Any], str]:
    low, high = LIMITS[dtype].exp
    if not math.isfinite(x):
        return [Fraction(0) if x < 0 else None], "exp"
    if x < low:
        return [Fraction(0)], "exp"
    if x > high:
        return [None], "exp"
    with localcontext(prec=40):
        exact = Fraction(Decimal(x).exp())
    return [_within(exact, _ulp(exact, dtype) * 55 / 100, 0.0)], "exp within 0.55 units"


def _logarithm(x: float, _: float, dtype: str, line: Line) -> tuple[list[Any], str]:
    if not math.isfinite(x) or x <= 0.0:
        return [None], "log"
    if x == 1.0:
        return [Fraction(0)], "log"
    with localcontext(prec=60):
        exact = Fraction(Decimal(x).ln())
    units, more = LIMITS[dtype].log
    error = _ulp(exact, dtype) * Fraction(units) + Fraction(more)
    allowed: list[Any] = [None] if x < LIMITS[dtype].smallest else []
    return [*allowed, _within(exact, error, 0.0)], "log within its error"


def _other(x: float, _: float, dtype: str, line: Line) -> tuple[list[Any], str]:
    name, limits = line.operation, LIMITS[dtype]
    told = f"{name} within its error"
    low, high = ENDS[name]
    if math.isnan(x):
        return [None], told
    if math.isinf(x):
        end = high if x > 0 else low
        return [None if end is None else Fraction(end)], told
    if name == "expm1" and x > limits.exp[1]:
        return [None], told
    if name in ("logistic", "softplus") and x < limits.exp[0]:
        return [Fraction(0)], told
    allowed: list[Any] = []
    tiny = limits.smallest if name == "sqrt" else float(np.finfo(dtype).tiny)
    for u in _zeros(x, tiny):
        if name == "sqrt" and u < 0.0:
            allowed.append(None)
            continue
        with localcontext(prec=60):
            exact = Fraction(_value_of(name, Decimal(u)))
        error = _ulp(exact, dtype) * Fraction(ERRORS[name][dtype == "float64"]) if exact else 0
        if abs(exact) - error < limits.smallest:
            allowed.append(Fraction(0))
        allowed.append(_within(exact, Fraction(error), limits.smallest))
    return allowed, told


def _value_of(name: str, x: Decimal) -> Decimal:
    """Compute to 30 digits or more, by the first terms of a series where digits would cancel."""
    small = abs(x) < Decimal("1e-12")
    if name == "sqrt":
        return x.sqrt()
    if name == "expm1":
        return x + x * x / 2 + x * x * x / 6 if small else x.exp() - 1
    if name == "tanh":
        # It is 1 to all digits long before.
        x = min(x, Decimal(1000))
        return x - x * x * x / 3 if small else 1 - 2 / ((2 * x).exp() + 1)
    z = (-abs(x)).exp()
    if name == "logistic":
        return 1 / (1 + z) if x >= 0 else z / (1 + z)
    return max(x, Decimal(0)) + (z - z * z / 2 if z < Decimal("1e-20") else (1 + z).ln())


def _check_matmul(line: Line, operands: Any, got: Any, dtype: str, numerics: Exact) -> Found:
    a, b = operands
    b = b.T if line.detail == "square" else b
    a = a.T if line.detail == "transposed" else a
    yield from _check_product(a, b, got, dtype, numerics)


def _check_sum(line: Line, operands: Any, got: Any, dtype: str, numerics: Exact) -> Found:
    (a,) = operands
    ones = np.ones((1, a.shape[line.detail]), a.dtype)
    a, b = (ones, a) if line.detail % 2 == 0 else (a, ones.T)
    yield from _check_product(a, b, got.reshape(a.shape[0], b.shape[1]), dtype, numerics)


def _check_product(a: Any, b: Any, got: Any, dtype: str, numerics: Exact) -> Found:
    limits, k = LIMITS[dtype], a.shape[1]
    outside_a, outside_b = (~(np.abs(m) < limits.large) for m in (a, b))
    # As multiples of a unit that divides every element.
    unit = Fraction(1, 2**1074)
    rows, columns = _integers(a), _integers(b.T)
    one = len(numerics._scheme(dtype, k).pairs) == 1
    bound = Fraction(numerics.error_bound(dtype, k))
    # No scale is smaller.
    slices = numerics._scheme(dtype, k).slices
    low, lowest_right = (
        Fraction(limits.element)
        * 2 ** (of_exact._kept(bits, count) + (of_exact._half_bits(k) if one else 0))
        for bits, count in zip(of_exact._bits(slices, k), slices, strict=True)
    )
    right = max((_norm(column) if one else _largest(column) for column in columns), default=0)
    right = max(right * unit, lowest_right)
    highest = Fraction(2) ** int(np.finfo(dtype).maxexp)
    for i, j in _sampled(got.shape):
        value = float(got[i, j])
        if k and (np.any(outside_a[i]) or np.any(outside_b)):
            yield from _judge((i, j), value, [None])
            continue
        row, column = rows[i], columns[j]
        exact = sum(x * y for x, y in zip(row, column, strict=True)) * unit**2
        left = max((_norm(row) if one else _largest(row)) * unit, low)
        error = left * right * (1 if one else k) * bound
        # Rounded last, perhaps up to the next power of two.
        error += _ulp(abs(exact) + error, dtype) / 2 if exact or error else 0
        allowed: list[Any] = [_within(exact, error, limits.smallest)]
        if abs(exact) - error < limits.smallest:
            allowed.append(Fraction(0))
        if abs(exact) + error >= highest:
            allowed.append(None)
        told = f"{_hex(exact)} within {_hex(error)}"
        yield from _judge((i, j), value, allowed, told)


def _integers(a: np.ndarray) -> list[list[int]]:
    """Write rows as whole numbers of 2**-1074, with 0 for what is not finite."""
    finite = np.where(np.isfinite(a), a, np.zeros_like(a)).tolist()
    ratios = ([x.as_integer_ratio() for x in row] for row in finite)
    return [[x * (2**1074 // y) for x, y in row] for row in ratios]


def _norm(numbers: list[int]) -> int:
    """The Euclidean norm, rounded up."""
    return math.isqrt(sum(x * x for x in numbers)) + 1


def _largest(numbers: list[int]) -> int:
    return max(map(abs, numbers), default=0)


def _hex(x: Fraction) -> str:
    try:
        return float(x).hex()
    except OverflowError:
        return "a number that is too large"


# Losses, with one-hot probabilities made in Python.


def _check_cross_entropy(line: Line, operands: Any, got: Any, dtype: str, numerics: Exact) -> Found:
    logits, target = operands
    n, c = logits.shape
    value, gradient = got
    if target.dtype.kind == "f":
        if np.any(target < 0.0) or np.any(target > 1.0) or not np.all(np.isfinite(target)):
            return
        p = [[Decimal(x) for x in row] for row in target.tolist()]
    else:
        p = [[Decimal(int(label) == i) for i in range(c)] for label in target.tolist()]
        outside = [not 0 <= int(label) < c for label in target.tolist()]
        if any(outside):
            if not math.isnan(float(value)):
                yield f"expected NaN for a label out of range, got {float(value)}"
            for row, wrong in zip(gradient, outside, strict=True):
                if wrong and not np.all(np.isnan(row)):
                    yield f"expected NaN for the gradient of a label out of range, got {row[0]}"
            return
    if not np.all(np.abs(logits) < 50.0) or np.any((logits != 0) & (np.abs(logits) < 2.0**-60)):
        return
    with localcontext(prec=40):
        total = Decimal(0)
        terms = math.sqrt(c) if len(numerics._scheme(dtype, n * c).pairs) == 1 else c
        relative = numerics.error_bound(dtype, n * c) * terms + 8 * float(np.finfo(dtype).eps)
        # The logits' differences are below 100.
        tolerance = Decimal(8 * relative * float(1 + np.max(logits) - np.min(logits)))
        expected = []
        for row, q in zip(logits.tolist(), p, strict=True):
            s = [Decimal(x) - Decimal(max(row)) for x in row]
            e = [x.exp() for x in s]
            mass = sum(q)
            total += mass * sum(e).ln() - sum(a * b for a, b in zip(q, s, strict=True))
            expected.append([x * mass / sum(e) - y for x, y in zip(e, q, strict=True)])
        if not abs(Decimal(float(value)) - total / n) <= tolerance * (1 + abs(total) / n):
            yield f"expected a loss of {float(total / n)!r}, got {float(value)!r}"
        for i, j in np.ndindex(n, c):
            x = expected[i][j] / n
            if not abs(Decimal(float(gradient[i, j])) - x) <= tolerance:
                yield f"expected a gradient [{i}, {j}] of {float(x)!r}, got {gradient[i, j]}"


def _check_squared_error(line: Line, operands: Any, got: Any, dtype: str, numerics: Exact) -> Found:
    prediction, target = operands
    value, gradient = got
    largest = math.sqrt(LIMITS[dtype].large) if dtype == "float64" else 2.0**60
    if not all(np.all(np.abs(a) < largest) for a in operands):
        return
    difference = prediction.astype("float64") - target
    if np.any((difference != 0) & (np.abs(difference) < 2.0**-40)) or difference.size == 0:
        return
    exact = sum(
        (Fraction(x) - Fraction(y)) ** 2
        for x, y in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True)
    )
    relative = numerics.error_bound(dtype, difference.size) * difference.size
    error = exact * Fraction(relative + 8 * float(np.finfo(dtype).eps))
    highest = Fraction(2) ** int(np.finfo(dtype).maxexp)
    if not math.isfinite(value):
        right = exact + error >= highest
    else:
        right = abs(Fraction(float(value)) - exact) <= error
    if not right:
        yield f"expected a loss of {_hex(exact)}, got {float(value).hex()}"
    if not np.array_equal(gradient, 2 * (prediction - target)):
        yield "expected a gradient of twice the difference"


_CHECKS: dict[str, Callable[..., Found]] = {
    "matmul": _check_matmul,
    "sum": _check_sum,
    "add": _elementwise(_sum_of(1)),
    "subtract": _elementwise(_sum_of(-1)),
    "multiply": _elementwise(_product),
    "divide": _elementwise(_quotient),
    "exp": _elementwise(_exponential),
    "log": _elementwise(_logarithm),
    **dict.fromkeys(ENDS, _elementwise(_other)),
    "softmax_cross_entropy": _check_cross_entropy,
    "squared_error": _check_squared_error,
}


def with_wide_labels(program: Program) -> Program | None:
    """Make labels int64, which must change nothing; None if there are no others."""
    narrow = [a for a in program.operands if a.host.dtype.kind in "iu" and a.host.dtype != "int64"]
    if not narrow or any(np.any(a.host.astype("int64") < 0) != np.any(a.host < 0) for a in narrow):
        return None
    operands = tuple(
        a._replace(host=a.host.astype("int64")) if a.host.dtype.kind in "iu" else a
        for a in program.operands
    )
    return program._replace(operands=operands)

"""Arrays of two libraries at once, compared after every operation.

The kernel computes with a `Pair`, an array of the library under test beside one of NumPy, as with
any array: its namespace, a `Lockstep`, calls both libraries' functions and compares the results.
IEEE 754 leaves elementary operations no choice, so their results must be NumPy's to the bit; sums
and transcendental functions must be within a bound. Either way both sides go on from the same
numbers, NumPy's where the library was wrong, so that one wrong function does not hide the next.
Each kind of operation is done once more on harder numbers than the kernel's.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import array_api_compat
import array_api_compat.numpy as np_xp
import numpy as np

from .hard import harder
from .library import DTYPES, Library, name_of

__all__ = ["SHARED", "Call", "Difference", "Lockstep", "Pair", "compare", "render"]

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "matmul": "@",
    "and": "&",
    "or": "|",
    "xor": "^",
    "lshift": "<<",
    "rshift": ">>",
}
_COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "gt": ">", "ge": ">="}


def _operators() -> Iterator[tuple[str, Callable[..., Any], str]]:
    """List the methods of the array object that the kernel uses, and how calls are written."""
    for name, sign in (*_INFIX.items(), *_COMPARISONS.items()):
        yield f"__{name}__", getattr(operator, f"__{name}__"), f"({{}} {sign} {{}})"
    for name, sign in _INFIX.items():
        function = getattr(operator, f"__{name}__")
        yield f"__r{name}__", lambda a, b, f=function: f(b, a), f"({{1}} {sign} {{0}})"
        yield f"__i{name}__", getattr(operator, f"__i{name}__"), f"operator.i{name}({{}}, {{}})"
    yield "__neg__", operator.neg, "(-{})"
    yield "__getitem__", operator.getitem, "{}[{}]"
    yield "T", operator.attrgetter("T"), "{}.T"
    yield "__bool__", bool, "bool({})"
    yield "__int__", int, "int({})"
    yield "__float__", float, "float({})"


_METHODS = {name: function for name, function, _ in _operators()}
_IN_PLACE = {f"__i{name}__" for name in _INFIX}
_TEXTS = {name: text for name, _, text in _operators()}

# Operations where the sign of a zero is open: a choice between -0 and +0, or a sum of -0.
_ANY_ZERO = {"__matmul__", "sum", "max", "min", "maximum"}

# Good vectorised libraries are within 4 units in the last place.
_TRANSCENDENTAL = {"exp", "log", "log2"}
_UNITS = 16

# Blamed where an array has changed that no operation was to change.
SHARED = "shared memory"

# How many nested operations are shown with a difference.
_DEPTH = 3

# A lazy library computes all that an array depends on each time it is compared, so after so many
# operations it gets a new one.
_FRESH_AFTER = 8

# The most elements along an axis, and characters in a line, of a program that shows a difference.
_FEW = 4
_LONGEST_LINE = 1000


class Call(NamedTuple):
    """An operation on NumPy arrays or on the results of other calls, and its result."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any


class _Problem(NamedTuple):
    """What was expected and got, in words, and the index of the first wrong element."""

    expected: str
    got: str
    where: tuple[int, ...] | None = None


class Difference(NamedTuple):
    """Something that the library does differently.

    Attributes
    ----------
    function
        The standard's name of the function or method.
    call
        What it was called with.
    expected, got
        What NumPy and the library returned, in words.
    program
        The lines of a program that shows it; empty if only the kernel as a whole does.
    where
        The part of the check that saw it first.
    """

    function: str
    call: str
    expected: str
    got: str
    program: tuple[str, ...]
    where: str = ""


class Pair:
    """An array of the library, and its equal in NumPy."""

    __slots__ = ("_depth", "_lockstep", "_origin", "_ours", "_theirs")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, lockstep: Lockstep, theirs: Any, ours: Any, origin: Any, depth: int) -> None:
        self._lockstep = lockstep
        self._theirs = theirs
        self._ours = ours
        self._origin = origin
        self._depth = depth

    def __array_namespace__(self, *, api_version: str | None = None) -> Lockstep:
        return self._lockstep

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self._ours, dtype=dtype, copy=copy)

    @property
    def dtype(self) -> Any:
        return self._ours.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._ours.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> Any:
        return array_api_compat.device(self._theirs)

    @property
    def T(self) -> Any:
        return self._lockstep.call("T", self)


def _method(name: str) -> Callable[..., Any]:
    """Make a method that calls both arrays' methods of that name."""

    def plain(self: Pair, *args: Any) -> Any:
        return self._lockstep.call(name, self, *args)

    def in_place(self: Pair, other: Any) -> Any:
        result = self._lockstep.call(name, self, other)
        if result._theirs is not self._theirs:
            return result
        self._ours, self._origin, self._depth = result._ours, result._origin, result._depth
        return self

    return in_place if name in _IN_PLACE else plain


for _name in _METHODS:
    if _name != "T":
        setattr(Pair, _name, _method(_name))


class Lockstep:
    """The namespace of pairs, which lists the differences that it sees.

    Parameters
    ----------
    library
        The library under test.
    exact
        Whether matrix products must be NumPy's to the bit, as in exact numerics.
    hard
        Differences seen on hard numbers, by operation, shared so that each is tried once.
    """

    def __init__(
        self, library: Library, *, exact: bool, hard: dict[str, list[Difference]] | None = None
    ) -> None:
        self.library = library
        self.exact = exact
        self._hard = {} if hard is None else hard
        self.differences: list[Difference] = []
        self.flushes = False
        self._composed: set[str] = set()
        self.__name__ = library.xp.__name__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in DTYPES:
            return np.dtype(name)
        return partial(self.call, name)

    def put(self, host: Any) -> Any:
        """Copy a NumPy array to both libraries."""
        placement = self.library.placement()
        pair = self.call("asarray", host.tolist(), dtype=host.dtype, **placement)
        return Pair(self, pair._theirs, pair._ours, pair._ours, 0)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method of both libraries and compare."""
        ours = _call_numpy(name, _replace(args, "_ours"), _replace(kwargs, "_ours"))
        origin: Any = Call(name, _replace(args, "_origin"), _replace(kwargs, "_origin"), ours)
        origin = _trim(origin, _DEPTH)
        given = _replace(args, "_theirs"), _replace(kwargs, "_theirs")
        theirs, problem, ours = self._call_library(origin, *given)
        if problem is not None:
            # The first operand of `a += b` may change.
            read = args[1:] if name in _IN_PLACE else args
            self._add(origin, problem, changed=any(map(self._has_changed, _pairs(read))))
        else:
            origin = origin._replace(value=ours)
            self._repeat(origin)
        if not isinstance(ours, np.ndarray):
            return ours
        depth = 1 + max((pair._depth for pair in _pairs(args)), default=0)
        if problem is not None or depth > _FRESH_AFTER:
            theirs, origin, depth = self.library.put(ours), ours, 0
        elif _rounds(name):
            # Computing it again might give other bits.
            origin = ours
        return Pair(self, theirs, ours, origin, depth)

    def _repeat(self, call: Call) -> None:
        """Compute a new kind of operation once more: on new arrays, and on hard numbers."""
        text = render(call, _kind_in_words)
        if text in self._composed:
            return
        self._composed.add(text)
        # A lazy library may compile several operations together, and be wrong only then.
        _, problem, _ = self._call_library(call, call.args, call.kwargs)
        if problem is not None:
            self._add(call, problem, changed=False)
        self._repeat_on_hard_numbers(_trim(call, 1))

    def _repeat_on_hard_numbers(self, call: Call) -> None:
        """Do an operation once more on ties, neighbours, NaN and infinities, each kind once."""
        text = render(call, _pattern_in_words)
        if text not in self._hard:
            # Not exact, since products of such numbers are rounded.
            other = Lockstep(self.library, exact=False)
            with warnings.catch_warnings():
                # Some libraries warn of infinities and NaN.
                warnings.simplefilter("ignore")
                for words, harder_call in _harder_calls(call):
                    _, problem, _ = other._call_library(harder_call, harder_call.args, call.kwargs)
                    if problem is not None:
                        other._add_hard(harder_call, problem, words)
                        break
            self.flushes |= other.flushes
            self._hard[text] = other.differences
        for each in self._hard[text]:
            if all(known.function != each.function for known in self.differences):
                self.differences.append(each)

    def _add_hard(self, call: Call, problem: _Problem, words: str) -> None:
        """Add a difference to an operation, or to `asarray` if that made an operand wrong."""
        for a in filter(_is_array, _leaves(call.args)):
            made = Call("asarray", (a.tolist(),), {"dtype": a.dtype}, a)
            _, found, _ = self._call_library(made, made.args, made.kwargs)
            if found is not None:
                call, problem = made, found
        self._add(call, problem, changed=False)
        self.differences = [
            each._replace(call=f"{each.call}, with {words}") for each in self.differences
        ]

    def _call_library(self, call: Call, args: Any, kwargs: Any) -> tuple[Any, _Problem | None, Any]:
        """Return what the library makes of its arguments, what is wrong, and what to go on from."""
        xp, name, ours = self.library.xp, call.name, call.value
        try:
            if name not in _METHODS and not hasattr(xp, name):
                return None, _Problem(_in_words(ours), "nothing: there is no such function"), ours
            function = _METHODS.get(name) or getattr(xp, name)
            theirs = function(*self._library_of(args), **self._library_of(kwargs))
            return theirs, *self._compare(call, theirs)
        except Exception as error:
            text = (str(error) or "-").splitlines()[0]
            return None, _Problem(_in_words(ours), f"{type(error).__name__}: {text}"), ours

    def _library_of(self, x: Any) -> Any:
        """Replace NumPy's dtypes and arrays, and calls, by the library's."""
        if isinstance(x, np.dtype):
            return self.library.dtype(name_of(x))
        if isinstance(x, np.ndarray):
            return self.library.put(x)
        if isinstance(x, Call):
            function = _METHODS.get(x.name) or getattr(self.library.xp, x.name)
            return function(*self._library_of(x.args), **self._library_of(x.kwargs))
        return _map(self._library_of, x)

    def _compare(self, call: Call, theirs: Any) -> tuple[_Problem | None, Any]:
        ours = call.value
        if not isinstance(ours, np.ndarray):
            same = type(theirs) is type(ours) and (theirs == ours or theirs != theirs)
            return None if same else _Problem(repr(ours), repr(theirs)), ours
        if not array_api_compat.is_array_api_obj(theirs):
            got = f"{type(theirs).__name__}, which has no __array_namespace__"
            return _Problem(_in_words(ours), got), ours
        dtype, shape = self.library.dtype_name(theirs), tuple(theirs.shape)
        if call.name == "argsort" and "int" in dtype:
            # The dtype of indices is the library's choice.
            ours = ours.astype(dtype)
        if (dtype, shape) != (name_of(ours.dtype), ours.shape):
            return _Problem(_kind_in_words(ours), f"{dtype}{list(shape)}"), ours
        host = self.library.fetch(theirs)
        problem = _first_wrong(ours, host, self._allowed(call._replace(value=ours), host))
        return problem, host if problem is None else ours

    def _allowed(self, call: Call, host: Any) -> Any:
        """Say for each element whether it is allowed."""
        ours = call.value
        with np.errstate(all="ignore"):
            bound = None if self.exact and call.name == "__matmul__" else _bound(call)
            if bound is not None:
                near = np.isfinite(ours) & (np.abs(ours - host) <= bound)
                return _equal(ours, host, any_zero=True) | near
            same = _equal(ours, host, any_zero=call.name in _ANY_ZERO)
            if same.all():
                return same
            for flushed in _flushed(call):
                same = same | _equal(flushed, host, any_zero=True)
        self.flushes |= bool(same.all())
        return same

    def _has_changed(self, pair: Pair) -> bool:
        """Say whether an array has changed since it was made."""
        with suppress(Exception):
            return not _equal(pair._ours, self.library.fetch(pair._theirs), any_zero=True).all()
        return False

    def _add(self, call: Call, problem: _Problem, *, changed: bool) -> None:
        name = SHARED if changed else call.name
        if any(known.function == name for known in self.differences):
            return
        if changed:
            text = f"an argument of {render(call, _kind_in_words)}"
            got = "one changed by an operation in place on another array"
            self.differences.append(Difference(name, text, "an array as it was made", got, ()))
            return
        program: tuple[str, ...] = ()
        for smaller in _smaller(call, problem.where):
            _, found, _ = self._call_library(smaller, smaller.args, smaller.kwargs)
            if found is not None:
                call, problem = smaller, found
                program = _program(call, problem, self.library.xp.__name__)
                break
        self.differences.append(
            Difference(call.name, render(call, _kind_in_words), *problem[:2], program)
        )


def compare(expected: Any, got: Any, *, exact: bool) -> tuple[str, str] | None:
    """Say what was expected and got if results of a whole computation differ.

    Without exact numerics they differ by rounding: within the square root of the dtype's precision,
    relative to their norm, is near enough where every operation was right.
    """
    if isinstance(expected, str):
        return None if got == expected else (expected, got)
    if (expected.dtype, expected.shape) != (got.dtype, got.shape):
        return _kind_in_words(expected), _kind_in_words(got)
    same = _equal(expected, got, any_zero=True)
    if not exact and expected.dtype.kind == "f":
        bound = np.finfo(expected.dtype).eps ** 0.5 * np.linalg.norm(expected)
        same = same | (np.abs(got - expected) <= bound)
    problem = _first_wrong(expected, got, same)
    return None if problem is None else (problem.expected, problem.got)


def _first_wrong(expected: Any, got: Any, same: Any) -> _Problem | None:
    if same.all():
        return None
    index = tuple(int(i) for i in np.argwhere(~same)[0])
    at = f" at {list(index)}" if same.size > 1 else ""
    wrong = f"; {np.count_nonzero(~same)} of {same.size} elements differ" if same.size > 1 else ""
    return _Problem(f"{expected[index]!s}{at}", f"{got[index]!s}{at}{wrong}", index)


def render(x: Any, leaf: Callable[[Any], str]) -> str:
    """Write a call as Python, with the arrays as `leaf` writes them.

    Examples
    --------
    >>> a = np.ones((2, 3))
    >>> render(Call("max", (Call("__neg__", (a,), {}, -a),), {"axis": 1}, None), lambda _: "a")
    'xp.max((-a), axis=1)'
    """
    if isinstance(x, np.ndarray):
        return leaf(x)
    if isinstance(x, np.dtype):
        return f"xp.{x.name}"
    if isinstance(x, slice):
        return ":".join("" if i is None else str(i) for i in (x.start, x.stop))
    if isinstance(x, Call):
        args = [render(arg, leaf) for arg in x.args]
        if x.name == "__getitem__" and isinstance(x.args[1], tuple):
            # Slices are not written in parentheses.
            args[1] = args[1][1:-1] or "()"
        if x.name in _TEXTS:
            return _TEXTS[x.name].format(*args)
        args += [f"{k}={render(arg, leaf)}" for k, arg in x.kwargs.items() if k != "device"]
        return f"xp.{x.name}({', '.join(args)})"
    if type(x) in (list, tuple) and not _is_row(x):
        inner = ", ".join(render(item, leaf) for item in x)
        return f"[{inner}]" if isinstance(x, list) else f"({inner}{',' * (len(x) == 1)})"
    return repr(x)


def _program(call: Call, problem: _Problem, namespace: str) -> tuple[str, ...]:
    """Write the program that makes a call, unless it is long."""
    arrays: dict[str, Any] = {}

    def leaf(a: Any) -> str:
        name = "abcdefghijklmnopqrstuvwxyz"[len(arrays)]
        arrays[name] = a
        return name

    expression = render(call, leaf)
    lines = [
        *(["import operator"] if "operator." in expression else []),
        f"import {namespace} as xp",
        *(f"{k} = xp.asarray({_literal(a)}, dtype=xp.{a.dtype.name})" for k, a in arrays.items()),
        f"{expression}  # expected {problem.expected}",
    ]
    return tuple(lines) if max(map(len, lines)) <= _LONGEST_LINE else ()


def _literal(a: Any) -> str:
    """Write nested lists, with as many digits as the dtype needs."""
    if a.ndim > 0:
        return f"[{', '.join(_literal(item) for item in a)}]"
    text = str(a[()])
    return text if np.isfinite(a) else f'float("{text}")'


def _kind_in_words(a: Any) -> str:
    return f"{name_of(a.dtype)}{list(a.shape)}"


def _pattern_in_words(a: Any) -> str:
    """Write the dtype, and which axes broadcast."""
    return f"{name_of(a.dtype)}{['1' if n == 1 else 'n' for n in a.shape]}"


def _in_words(value: Any) -> str:
    return _kind_in_words(value) if isinstance(value, np.ndarray) else repr(value)


def _map(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function to the items of a container."""
    if type(x) is dict:
        return {key: function(item) for key, item in x.items()} if x else x
    if type(x) not in (list, tuple) or _is_row(x):
        return x
    return type(x)([function(item) for item in x])


def _is_row(x: Any) -> bool:
    """Say whether a list begins with a number: a long one need not be searched further."""
    return type(x) is list and bool(x) and type(x[0]) in (bool, int, float)


def _replace(x: Any, field: str) -> Any:
    """Replace pairs by one of their fields."""
    return getattr(x, field) if isinstance(x, Pair) else _map(lambda y: _replace(y, field), x)


def _pairs(x: Any) -> Iterator[Pair]:
    if isinstance(x, Pair):
        yield x
    elif isinstance(x, list | tuple):
        for item in x:
            yield from _pairs(item)


def _leaves(x: Any) -> Iterator[Any]:
    """List the items of nested containers."""
    if type(x) in (list, tuple):
        for item in x:
            yield from _leaves(item)
    else:
        yield x


def _swap(x: Any, old: Any, new: Any) -> Any:
    return new if x is old else _map(lambda item: _swap(item, old, new), x)


def _harder_calls(call: Call) -> Iterator[tuple[str, Call]]:
    """Make calls with harder numbers for each array, and say what is hard."""
    operands = [x for x in _leaves(call.args) if _is_array(x) or type(x) in (int, float)]
    to_integers = _is_array(call.value) and call.value.dtype.kind in "iu"
    for a in filter(_is_array, operands):
        for words, b in harder(a, operands, to_integers=to_integers):
            args = _swap(call.args, a, b)
            try:
                value = _call_numpy(call.name, args, call.kwargs)
            except Exception:
                # The operation does not take such numbers.
                continue
            yield words, call._replace(args=args, value=value)


def _trim(x: Any, depth: int) -> Any:
    """Replace calls by their results, except `depth` nested ones."""
    if not isinstance(x, Call):
        return _map(lambda item: _trim(item, depth), x)
    if depth == 0:
        return x.value
    args, kwargs = (_map(lambda item: _trim(item, depth - 1), part) for part in (x.args, x.kwargs))
    return x._replace(args=args, kwargs=kwargs)


def _smaller(call: Call, index: tuple[int, ...] | None) -> Iterator[Call]:
    """List calls of fewer operations, on fewer elements, which may show the same difference."""
    for depth in range(1, _DEPTH + 1):
        trimmed = _trim(call, depth)
        # An error means that the operation is not elementwise, or does not take the first elements.
        if index:
            with suppress(Exception):
                key = tuple(slice(i, i + 1) for i in index)
                picked = _remake(trimmed, partial(_pick, shape=call.value.shape, key=key))
                if picked.value.size == 1:
                    yield picked
        with suppress(Exception):
            yield _remake(trimmed, lambda a: a[(..., *(slice(_FEW),) * a.ndim)])
        yield trimmed


def _remake(x: Any, leaf: Callable[[Any], Any]) -> Any:
    """Replace the arrays of a call, and compute again."""
    if isinstance(x, np.ndarray):
        return leaf(x)
    if not isinstance(x, Call):
        return _map(lambda item: _remake(item, leaf), x)
    args, kwargs = (_remake(part, leaf) for part in (x.args, x.kwargs))
    return Call(x.name, args, kwargs, _call_numpy(x.name, _trim(args, 0), _trim(kwargs, 0)))


def _pick(a: Any, shape: tuple[int, ...], key: tuple[slice, ...]) -> Any:
    """Cut an array that broadcasts to a shape down to one element."""
    if a.ndim != len(shape) or any(n not in (1, m) for n, m in zip(a.shape, shape, strict=True)):
        return a
    return a[tuple(part if n > 1 else slice(1) for part, n in zip(key, a.shape, strict=True))]


def _call_numpy(name: str, args: Any, kwargs: Any) -> Any:
    """Call NumPy, never in place."""
    name = f"__{name[3:]}" if name in _IN_PLACE else name
    function = _METHODS.get(name) or getattr(np_xp, name)
    with np.errstate(all="ignore"):
        result = function(*args, **{key: arg for key, arg in kwargs.items() if key != "device"})
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else result


def _rounds(name: str) -> bool:
    """Say whether an operation has more than one right result."""
    return name in _TRANSCENDENTAL or name in ("__matmul__", "sum")


def _bound(call: Call) -> Any:
    """Bound the distance of two right results; None where only one is right.

    A sum of k terms in any order is off by at most about k eps / 2 times the sum of magnitudes
    (Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1); so is NumPy's.
    """
    ours, args = call.value, [np.abs(arg) for arg in _trim(call.args, 0) if _is_float(arg)]
    if not _is_float(ours):
        return None
    if call.name == "__matmul__":
        units, size = args[0].shape[-1], args[0] @ args[1]
    elif call.name == "sum":
        size = np.sum(args[0], axis=call.kwargs.get("axis"), keepdims=ours.ndim == args[0].ndim)
        units = args[0].size // max(1, size.size)
    elif call.name in _TRANSCENDENTAL:
        units, size = _UNITS, np.abs(ours)
    else:
        return None
    limits = np.finfo(ours.dtype)
    return units * limits.eps * size + limits.smallest_normal


def _flushed(call: Call) -> Iterator[Any]:
    """List results that are right for a library that takes subnormal numbers for zero."""
    ours, args, kwargs = call.value, _trim(call.args, 0), _trim(call.kwargs, 0)
    dtypes = [x.dtype for x in (ours, *args) if _is_float(x)]
    if not dtypes:
        return
    tiny = max(float(np.finfo(dtype).smallest_normal) for dtype in dtypes)

    def flush(x: Any) -> Any:
        if isinstance(x, float):
            return x if abs(x) >= tiny else 0.0
        return np.where(np.abs(x) < tiny, x.dtype.type(0), x) if _is_float(x) else _map(flush, x)

    if not _has_subnormals((ours, args, kwargs), tiny):
        return
    other = _call_numpy(call.name, flush(args), flush(kwargs))
    yield from (flush(ours), other, flush(other))


def _has_subnormals(x: Any, tiny: float) -> bool:
    if isinstance(x, dict):
        return _has_subnormals(tuple(x.values()), tiny)
    if type(x) in (list, tuple):
        return any(_has_subnormals(item, tiny) for item in x)
    return (isinstance(x, float) or _is_float(x)) and bool(np.any((x != 0) & (np.abs(x) < tiny)))


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def _is_float(x: Any) -> bool:
    return _is_array(x) and x.dtype.kind == "f"


def _equal(a: Any, b: Any, *, any_zero: bool) -> Any:
    """Compare elements bit by bit; all NaN are equal, and with `any_zero` -0 and +0."""
    if a.dtype.kind != "f":
        return np.asarray(a == b)
    signs = np.signbit(a) == np.signbit(b)
    return np.asarray(((a == b) & (signs | any_zero)) | ((a != a) & (b != b)))

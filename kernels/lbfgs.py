"""L-BFGS: a minimum of a function, from its gradients, over arrays of any library.

The numerics compute on arrays; the few numbers that remain are computed on the host, with
operations that IEEE 754 fixes. So with exact numerics the minimum has the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from array_api_compat import array_namespace

from ._checks import check_alike, check_array, check_numerics, check_shape, to_positive, to_real
from ._host import placement, to_host
from ._typing import Array
from .numerics import NATIVE, Numerics

__all__ = ["Minimum", "minimize"]

# The Wolfe conditions with L-BFGS-B's numbers, and how many points of a line are tried.
_DECREASE, _CURVATURE, _MOST_POINTS = 1e-3, 0.9, 20
# The least and the most by which a step along a line grows, as in MINPACK-2's dcsrch, and the part
# of an interval that remains on either side of a point in it.
_LEAST, _MOST, _MARGIN = 1.1, 4.0, 0.1


class Minimum(NamedTuple):
    """What `minimize` found.

    Attributes
    ----------
    x
        The last point.
    value
        The function there.
    steps, calls
        How many steps were taken, and how often the function was called.
    reason
        Why it ended: "gradient" or "value" if it converged, "steps" or "calls" at a limit, "line"
        if no lower point was found.
    """

    x: Array
    value: float
    steps: int
    calls: int
    reason: str


class _Point(NamedTuple):
    """A point of a line, at `size` times its direction, with the slope along it."""

    size: float
    x: Array
    value: float
    gradient: Array
    slope: float


class _Pair(NamedTuple):
    """A step and the change of the gradient, each over a power of two, and the powers' ratio."""

    step: Array
    change: Array
    ratio: float


def minimize(
    function: Callable[[Array], tuple[Array, Array]],
    x: Array,
    *,
    max_steps: int = 15000,
    max_calls: int = 15000,
    gradient_tolerance: float = 1e-5,
    value_tolerance: float = 2.0**-52 * 1e7,
    memory: int = 10,
    numerics: Numerics = NATIVE,
    progress: Callable[[int, float], object] | None = None,
) -> Minimum:
    """Minimize a function by L-BFGS with a line search for the strong Wolfe conditions.

    The inverse of the Hessian is estimated from the last `memory` steps s and changes of the
    gradient y. Its product with the gradient is a sum of these vectors, whose coefficients follow
    from their inner products alone. So a step takes two matrix products on the device, however
    many pairs there are. Defaults are those of SciPy's L-BFGS-B.

    Parameters
    ----------
    function
        (x) -> (value, gradient), a 0-d array and an array like x.
    x
        Where to start, shape (n,), float32 or float64.
    max_steps, max_calls
        Limits of 1 or more; the number of calls is compared after each step.
    gradient_tolerance
        It has converged when no element of the gradient is larger in magnitude.
    value_tolerance
        It has converged when a step lowers the value by at most this times the largest of 1 and
        the magnitudes of both values.
    memory
        How many pairs (s, y) are kept, 1 or more.
    numerics
        What products and sums are.
    progress
        Called after each step with the number of steps done and the value.

    Returns
    -------
    A `Minimum`: the last point, its value, and why it ended there.

    Raises
    ------
    ValueError
        If x is not one-dimensional, a number is out of range, or the function returns a gradient of
        another shape or device than x.
    TypeError
        If x is not an array of float32 or float64, a number is of another type, `numerics` is not
        numerics, or the function returns a gradient of another library or dtype than x.

    References
    ----------
    Nocedal, Wright 2006, "Numerical Optimization", 2nd edition, chapters 3 and 7.
    Moré, Thuente 1994, "Line search algorithms with guaranteed sufficient decrease", ACM TOMS 20.
    Chen, Wang, Zhou 2014, "Large-scale L-BFGS using MapReduce", NIPS.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> def function(x):
    ...     return (x - 3.0) @ (x - 3.0), 2.0 * (x - 3.0)
    >>> found = kernels.lbfgs.minimize(function, np.zeros(2))
    >>> found.x, found.steps, found.reason
    (array([3., 3.]), 2, 'gradient')
    """
    check_array("x", x)
    if x.ndim != 1:
        raise ValueError(f"expected x of shape (n,), got shape {tuple(x.shape)}")
    max_steps, max_calls, memory = (
        to_positive(name, limit)
        for name, limit in (("max_steps", max_steps), ("max_calls", max_calls), ("memory", memory))
    )
    gradient_tolerance = to_real("gradient_tolerance", gradient_tolerance, least=0.0)
    value_tolerance = to_real("value_tolerance", value_tolerance, least=0.0)
    check_numerics(numerics)
    n, calls = numerics, 1
    value, gradient = _of(function, x)
    here = _Point(0.0, x, value, gradient, 0.0)
    pairs: tuple[_Pair, ...] = ()
    largest, steps = _largest(gradient), 0
    reason = "gradient" if largest <= gradient_tolerance else None
    if not (math.isfinite(here.value) and math.isfinite(largest)):
        reason = "line"
    while reason is None:
        direction, slope = _direction(pairs, here.gradient, largest, n)
        size = 1.0 if pairs or not slope < 0.0 else min(1.0, 1.0 / math.sqrt(-slope))
        before = here._replace(size=0.0, slope=slope)
        found, more = _search(function, before, direction, size, n)
        calls += more
        if found is None:
            # What the pairs say of the function may no longer hold here.
            pairs, reason = (), None if pairs else "line"
            continue
        pairs, here = (*pairs, *_pair(before, found, n))[-memory:], found
        largest, steps = _largest(here.gradient), steps + 1
        if progress is not None:
            progress(steps, here.value)
        size = max(abs(before.value), abs(here.value), 1.0)
        # In the order of L-BFGS-B.
        if steps >= max_steps:
            reason = "steps"
        elif calls > max_calls:
            reason = "calls"
        elif largest <= gradient_tolerance:
            reason = "gradient"
        elif before.value - here.value <= value_tolerance * size:
            reason = "value"
    return Minimum(here.x, here.value, steps, calls, reason)


def _of(function: Callable[[Array], tuple[Array, Array]], x: Array) -> tuple[float, Array]:
    """Call the function with a copy and copy the gradient, as it may use its arrays again."""
    value, gradient = function(x * 1.0)
    check_alike("the gradient that the function returns", gradient, "x", x)
    check_shape("the gradient that the function returns", gradient, tuple(x.shape))
    return float(value), gradient * 1.0


def _direction(
    pairs: Sequence[_Pair], gradient: Array, largest: float, n: Numerics
) -> tuple[Array, float]:
    """Multiply minus the gradient by the estimated inverse; also give the slope along it."""
    xp, k = array_namespace(gradient), len(pairs)
    unit = _power_of_two(largest)
    basis = [pair.step for pair in pairs] + [pair.change for pair in pairs]
    rows = xp.stack([*basis, gradient * (1.0 / unit)])
    size = len(basis) + 1
    flat = to_host(n.matmul(rows, rows.T))
    gram = [flat[i * size : (i + 1) * size] for i in range(size)]
    # A pair along which rounding hides that the function is convex changes nothing.
    curved = [gram[i][k + i] if gram[i][k + i] > 0.0 else math.inf for i in range(k)]
    # The coefficients of minus the direction in the basis.
    c = [0.0] * (2 * k) + [unit]

    def along(i: int) -> float:
        return _dot(c, gram[i])

    alphas = [0.0] * k
    for i in reversed(range(k)):
        alphas[i] = along(i) / curved[i]
        c[k + i] -= alphas[i]
    if k > 0 and curved[-1] < math.inf:
        scale = pairs[-1].ratio * curved[-1] / gram[2 * k - 1][2 * k - 1]
        c = [scale * each for each in c]
    for i, pair in enumerate(pairs):
        c[i] += alphas[i] * pair.ratio - along(k + i) / curved[i]
    c = [-each for each in c]
    row = xp.asarray([c], dtype=gradient.dtype, **placement(gradient))
    return cast(Array, xp.reshape(n.matmul(row, rows), (-1,))), along(2 * k) * unit


def _pair(here: _Point, new: _Point, n: Numerics) -> tuple[_Pair, ...]:
    """Make a pair of a step; none if the function is not convex along it."""
    step, change = n.subtract(new.x, here.x), n.subtract(new.gradient, here.gradient)
    if not new.slope > here.slope:
        return ()
    units = [_power_of_two(_largest(a)) for a in (step, change)]
    if 0.0 in units:
        return ()
    step, change = (a * (1.0 / unit) for a, unit in zip((step, change), units, strict=True))
    return (_Pair(step, change, units[0] / units[1]),)


def _search(
    function: Callable[[Array], tuple[Array, Array]],
    here: _Point,
    direction: Array,
    size: float,
    n: Numerics,
) -> tuple[_Point | None, int]:
    """Find a lower point along a direction, where it is less steep; count the calls."""
    low, high = here, None
    if not here.slope < 0.0:
        return None, 0
    for calls in range(1, _MOST_POINTS + 1):
        x = n.add(here.x, n.multiply(direction, size))
        value, gradient = _of(function, x)
        new = _Point(size, x, value, gradient, _inner(gradient, direction, n))
        finite = math.isfinite(new.value) and math.isfinite(new.slope)
        enough = here.value + _DECREASE * size * here.slope
        if not finite or new.value > enough or new.value >= low.value:
            high = new
        elif abs(new.slope) <= -_CURVATURE * here.slope:
            return new, calls
        else:
            ahead = math.inf if high is None else high.size
            if (new.slope < 0.0) != (new.size < ahead):
                high = low
            low = new
        size = _further(here, low) if high is None else _between(low, high)
        if high is not None and size in (low.size, high.size):
            # No number is left between them.
            break
    return (low if low.size > 0.0 else None), calls


def _further(here: _Point, low: _Point) -> float:
    """Go where the slopes say that the minimum is, but not too far."""
    bend = low.slope - here.slope
    least, most = _LEAST * low.size, _MOST * low.size
    size = low.size * (-here.slope / bend) if bend > 0.0 else most
    return min(max(size, least), most)


def _between(low: _Point, high: _Point) -> float:
    """Find the minimum of the cubic through two points, well between them."""
    a, b = low.size, high.size
    middle = a + 0.5 * (b - a)
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return a + _MARGIN * (b - a)
    if a == b:
        return a
    d = low.slope + high.slope - 3.0 * ((low.value - high.value) / (a - b))
    square = d * d - low.slope * high.slope
    if not 0.0 <= square < math.inf:
        return middle
    root = math.copysign(math.sqrt(square), b - a)
    divisor = high.slope - low.slope + 2.0 * root
    size = b - (b - a) * ((high.slope + root - d) / divisor) if divisor != 0.0 else middle
    first, last = sorted((a + _MARGIN * (b - a), b - _MARGIN * (b - a)))
    return min(max(size, first), last)


def _inner(a: Array, b: Array, n: Numerics) -> float:
    """Multiply vectors, as a matrix product with one row and one column."""
    xp = array_namespace(a)
    return float(xp.reshape(n.matmul(xp.reshape(a, (1, -1)), xp.reshape(b, (-1, 1))), ()))


def _largest(a: Array) -> float:
    xp = array_namespace(a)
    return float(xp.max(xp.abs(a)))


def _power_of_two(number: float) -> float:
    """Find the power of two above a number, or the largest: no library rounds a product with it."""
    return math.ldexp(1.0, min(math.frexp(number)[1], 1023)) if number > 0.0 else 0.0


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Sum products, rounded correctly: Python's `sum` rounds otherwise since 3.12."""
    try:
        return math.fsum(x * y for x, y in zip(a, b, strict=True))
    except (OverflowError, ValueError):
        return math.nan

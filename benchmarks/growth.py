"""How the time of a step, and of its matrix products alone, grows with the size of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from backends import Backend
from kernels.layer import Layer
from kernels.training import fit

from .contest import BENCH_NUMERICS
from .machine import memory_bytes
from .peers import matrix_products
from .timing import interleave, timed

__all__ = ["EXPECTED", "Growth", "Point", "estimate_bytes", "exponent", "grow"]

# The power with which the arithmetic of a step grows with each size.
EXPECTED = {"batch": 1, "width": 2, "depth": 1, "batch and width": 3}

_BASE = {"batch": 256, "width": 512, "depth": 2}
_START = {"batch": 32, "width": 64, "depth": 1, "batch and width": 64}

# The name of the series of the network's matrix products alone.
_PRODUCTS = "products alone"

_STEPS, _ROUNDS = 2, 3


class Point(NamedTuple):
    """The seconds per step at one size, and the memory estimated for it before it was tried."""

    size: int
    seconds: float
    estimated_bytes: int


class Growth(NamedTuple):
    """How the time per step grows with one size.

    Attributes
    ----------
    varied
        "batch", "width" (inputs, units of every hidden layer, outputs), "depth" (layers), or "batch
        and width", which are then equal.
    fixed
        The other sizes.
    backend, dtype, numerics, compiled
        What was timed. The numerics "products alone" are the matrix products of native numerics.
    points
        One for each size, ascending.
    exponent, expected
        The exponent of a power law through the larger half of the points, and of the arithmetic.
    stopped
        Why there are no larger sizes.
    """

    varied: str
    fixed: dict[str, int]
    backend: str
    dtype: str
    numerics: str
    compiled: bool
    points: list[Point]
    exponent: float | None
    expected: int
    stopped: str


def grow(
    varied: str,
    place: Backend,
    dtype: str,
    *,
    numerics: Sequence[str],
    compiled: bool,
    seconds: float,
    memory_fraction: float,
    largest: int | None,
    progress: Callable[[str], object],
) -> list[Growth]:
    """Time steps while doubling one size, until a limit of memory, time or size is reached.

    Parameters
    ----------
    varied
        A key of `EXPECTED`.
    place, dtype, numerics, compiled
        What to time; all numerics are timed in turn at each size.
    seconds
        The limit of time: a size that is expected to end later is not begun.
    memory_fraction
        The limit of memory, as a part of the machine's.
    largest
        The limit of size, or None.
    progress
        Called with a sentence before each size.
    """
    limit = memory_bytes() * memory_fraction
    names = (*numerics, _PRODUCTS)
    points: dict[str, list[Point]] = {name: [] for name in names}
    spent = last = 0.0
    for size in _doubled(_START[varied]):
        sizes = _BASE | dict.fromkeys(varied.split(" and "), size)
        needed = {
            name: estimate_bytes(sizes, dtype, exact=name not in ("native", _PRODUCTS))
            for name in names
        }
        if largest is not None and size > largest:
            stopped = f"{varied} {size} is above {largest}"
        elif max(needed.values()) > limit:
            stopped = (
                f"{varied} {size} needs about {max(needed.values()) / 2**30:.1f} GiB of "
                f"{limit / 2**30:.1f}"
            )
        elif points[names[0]] and spent + last * 2 ** EXPECTED[varied] > seconds:
            stopped = f"{varied} {size} would take longer than {seconds:.0f} s in all"
        else:
            progress(f"{varied} {size}")
            last, medians = timed(partial(_time, sizes, place, dtype, numerics, compiled))
            spent += last
            for name, per_step in zip(names, medians, strict=True):
                points[name].append(Point(size, per_step, needed[name]))
            continue
        break
    fixed = {name: size for name, size in _BASE.items() if name not in varied}
    return [
        Growth(
            varied,
            fixed,
            place.name,
            dtype,
            name,
            compiled,
            series,
            exponent(series),
            EXPECTED[varied],
            stopped,
        )
        for name, series in points.items()
    ]


def estimate_bytes(sizes: dict[str, int], dtype: str, *, exact: bool) -> int:
    """Estimate the most memory that a step takes.

    Three sets of weights (old, gradients, new) and of activations; with exact numerics also, in
    float64, two slices of every weight, six of every activation, and a few temporaries. NumPy and
    torch were seen to take 0.45 to 1.5 times as much, JAX, which runs ahead of its results, up to
    twice.
    """
    item = {"float32": 4, "float64": 8}[dtype]
    one = sizes["width"] ** 2
    weights, activations = sizes["depth"] * one, sizes["batch"] * sizes["width"] * sizes["depth"]
    native = 3 * item * (weights + activations)
    return native + 8 * (2 * weights + 6 * activations + 4 * one) if exact else native


def exponent(points: Sequence[Point]) -> float | None:
    """Fit a power law to the larger half of the points; None if that is fewer than two.

    Examples
    --------
    >>> round(exponent([Point(n, 3e-9 * n**2, 0) for n in (1, 2, 4, 8)]), 6)
    2.0
    """
    import numpy as np

    half = points[len(points) // 2 :]
    if len(half) < 2:
        return None
    x, y = (np.log([each[i] for each in half]) for i in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def _doubled(size: int) -> Iterator[int]:
    while True:
        yield size
        size *= 2


def _time(
    sizes: dict[str, int], place: Backend, dtype: str, numerics: Sequence[str], compiled: bool
) -> list[float]:
    """Time one size with all numerics, and its products; return the medians of seconds per step."""
    import numpy as np

    batch, width, depth = (sizes[name] for name in ("batch", "width", "depth"))
    draw = partial(np.random.default_rng(0).standard_normal, dtype=np.dtype(dtype))
    x, y = (place.asarray(draw((batch, width))) for _ in range(2))
    # The activations keep the variance of the input.
    scale = np.asarray(np.sqrt(2.0 / width), dtype)
    layers = [Layer(place.asarray(draw((width, width)) * scale)) for _ in range(depth)]

    def program(name: str) -> Callable[[], Any]:
        def run() -> None:
            trained = fit(
                layers,
                x,
                y,
                # So small that no size diverges: arithmetic with NaN can take another time.
                learning_rate=1e-12,
                steps=_STEPS,
                dual=False,
                numerics=BENCH_NUMERICS[name],
                compile=place.compile if compiled else None,
            )
            place.synchronize(trained.layers)

        return run

    products = matrix_products(layers, x)

    def floor() -> None:
        place.synchronize(products(_STEPS))

    programs = [*map(program, numerics), floor]
    for run in programs:
        run()
    return [median(rounds) / _STEPS for rounds in interleave(programs, _ROUNDS)]

"""Whether a compiler keeps what exact numerics need of one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

from array_api_compat import array_namespace

from .._host import check_rounding, placement, to_host
from .._typing import Array
from .elementary import float64_of

# Numbers with 24 bits, as float32 has. Adding a shift rounds some of these away, and quotients of
# the numbers differ from products with reciprocals.
_NUMBERS = tuple(n / 2**24 for n in (16777215, 11184811, 5592405, 13421773, 3355443, 9586981))
_SHIFT = 2.0**34


def check_compiler(compile: Callable[[Callable[..., Any]], Any], *, like: Array) -> None:
    """Raise unless what `compile` makes of sums and quotients of float64 has the right bits.

    Exact numerics need (a + s) - s to be rounded twice, and a / b once. Some settings let compilers
    replace the first by a and the second by a product with 1 / b: `--xla_cpu_enable_fast_math=true`
    in XLA_FLAGS, and `torch._inductor.config.cpp.enable_unsafe_math_opt_flag`. This compiles a few
    such sums and quotients and compares them with Python's. `fit` does so once for each compiler.

    Parameters
    ----------
    compile
        A compiler of pure functions, such as jax.jit.
    like
        An array of the library, on the device to compile for.

    Raises
    ------
    RuntimeError
        If a bit differs, or the thread does not round to nearest.
    TypeError
        If the library has no float64.

    Examples
    --------
    >>> import numpy as np
    >>> from kernels.numerics import check_compiler
    >>> check_compiler(lambda function: function, like=np.zeros(0))
    """
    check_rounding()
    xp = array_namespace(like)
    numbers = float64_of(xp.asarray(_NUMBERS, dtype=xp.float32, **placement(like)), xp)
    got = list(to_host(compile(_sums_and_quotients)(numbers)))
    shift = max(_NUMBERS) * _SHIFT
    changed = {
        "sums": got[: len(_NUMBERS)] != [(n + shift) - shift for n in _NUMBERS],
        "quotients": got[len(_NUMBERS) :] != [n / m for n, m in pairwise(_NUMBERS)],
    }
    if any(changed.values()):
        names = " and ".join(name for name, is_changed in changed.items() if is_changed)
        raise RuntimeError(
            "expected a compiler that rounds each sum and quotient of float64, as exact numerics "
            f"need, got one that changes the bits of {names}: look for settings such as "
            "--xla_cpu_enable_fast_math=true in XLA_FLAGS or "
            "torch._inductor.config.cpp.enable_unsafe_math_opt_flag"
        )


def _sums_and_quotients(a: Array) -> Array:
    xp = array_namespace(a)
    shift = xp.max(a) * _SHIFT
    # One array, since the engine of Dask returns one array from a function of one.
    return cast(Array, xp.concat([(a + shift) - shift, a[:-1] / a[1:]]))

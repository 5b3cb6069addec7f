"""What was compiled, and which compilers were tried, kept for the next call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeGuard

from ._typing import Compiler, Repeater
from .numerics import check_compiler


# So that a second fit like the first has nothing to compile.
@lru_cache(maxsize=32)
def compiled(
    compile: Compiler, function: Callable[..., Any], **settings: Any
) -> Callable[..., Any]:
    """Compile a function with some arguments fixed, or find what was compiled of it before."""
    return compile(partial(function, **settings))


@lru_cache
def try_compiler(compile: Compiler, xp: Any, device: Any) -> None:
    """Check a compiler for exact numerics, once for each library and device."""
    place = {} if device is None else {"device": device}
    check_compiler(compile, like=xp.zeros((0,), **place))


def repeats(compile: Compiler | None) -> TypeGuard[Repeater]:
    """Say whether a compiler has `repeat`; None is asked first, as the protocol's check is slow."""
    return compile is not None and isinstance(compile, Repeater)

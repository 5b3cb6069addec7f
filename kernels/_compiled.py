"""What compilers made, and that they were tried, kept for the next call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeGuard

from ._typing import Compiler, Repeater
from .numerics import check_compiler


# So that a second fit like the first has nothing to compile; compilers keep what they made of it.
@lru_cache(maxsize=32)
def compiled(
    compile: Compiler, function: Callable[..., Any], **settings: Any
) -> Callable[..., Any]:
    """Compile a function with some of its arguments, or find what was compiled of it before."""
    return compile(partial(function, **settings))


@lru_cache
def try_compiler(compile: Compiler, xp: Any, device: Any) -> None:
    """Try a compiler once for each library and device, as exact numerics need it."""
    place = {} if device is None else {"device": device}
    check_compiler(compile, like=xp.zeros((0,), **place))


def repeats(compile: Compiler | None) -> TypeGuard[Repeater]:
    """Say whether a compiler makes many calls one: of none at once, since to look takes long."""
    return compile is not None and isinstance(compile, Repeater)

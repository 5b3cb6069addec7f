"""In-place arithmetic on arrays that nobody else holds, where that is safe and faster."""

from __future__ import annotations

from collections.abc import Callable
from operator import iadd, imul
from typing import Any

from array_api_compat import is_numpy_array

from ._typing import Array
from .numerics import Native, Numerics
from .numerics.team import ALONE

_Operation = Callable[[Any, Any], Array]


def is_plain(numerics: Numerics, a: Array) -> bool:
    """Say whether this is plain NumPy, where nothing else can hold a result.

    torch's autograd keeps results, its vmap adds nothing batched in place to what is not batched, a
    team may keep what it returns, and a subclass may add and multiply in another way.
    """
    return type(numerics) is Native and numerics.team is ALONE and bool(is_numpy_array(a))


def in_place(numerics: Numerics, like: Array) -> tuple[_Operation, _Operation]:
    """Give `add` and `multiply` for a first argument that nobody else holds.

    With plain NumPy they change that argument, which saves memory and time.
    """
    return (iadd, imul) if is_plain(numerics, like) else (numerics.add, numerics.multiply)

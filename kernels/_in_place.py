"""Arithmetic in the place of arrays that nobody else has, where that is safe and pays."""

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
    """Say whether this is NumPy's arithmetic and no more: no library takes derivatives of it.

    torch's autograd keeps results, its vmap adds nothing batched in the place of what is not, a
    team may keep what it returns, and a subclass may add and multiply otherwise.
    """
    return type(numerics) is Native and numerics.team is ALONE and bool(is_numpy_array(a))


def in_place(numerics: Numerics, like: Array) -> tuple[_Operation, _Operation]:
    """Give `numerics.add` and `numerics.multiply` of an array like that, which nobody else has.

    Plain ones change it, which saves memory and time.
    """
    return (iadd, imul) if is_plain(numerics, like) else (numerics.add, numerics.multiply)

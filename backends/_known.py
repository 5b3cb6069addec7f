"""What is known of each backend before its library is imported."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import NamedTuple

__all__ = ["Known", "known"]


class Known(NamedTuple):
    """One entry of `known.toml`, which explains the fields."""

    name: str
    module: str
    extra: str
    cuda: bool = False
    engine: bool = False
    large: bool = False
    suite: tuple[str, ...] = ()


@cache
def known() -> tuple[Known, ...]:
    """Read `known.toml`."""
    text = resources.files(__package__).joinpath("known.toml").read_text()
    return tuple(
        Known(name, **{**fields, "suite": tuple(fields.get("suite", ()))})
        for name, fields in tomllib.loads(text).items()
    )

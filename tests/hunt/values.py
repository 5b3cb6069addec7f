"""Arrays of numbers that numerics find hard, from the whole range of a dtype."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

# Exponents where something changes: ends of the range, what counts as zero, what may overflow.
LANDMARKS = {
    "float32": (-149, -127, -126, -125, -103, -102, -100, -78, -64, -24, 24, 63, 64, 102, 126, 127),
    "float64": (
        *(-1074, -1023, -1022, -1021, -1020, -968, -915, -851, -850, -536, -511, -510, -465, -53),
        *(53, 419, 460, 499, 500, 501, 511, 512, 600, 970, 1022, 1023),
    ),
}

LABELS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


class Texture(NamedTuple):
    """How the elements of an array are drawn.

    Attributes
    ----------
    centre, spread
        Of the exponents; a spread of None is the whole range.
    rows
        Whether the elements of a row have one exponent.
    mantissas
        "one", "few" of few bits, "edges" next to a power of two, or "random".
    signs
        Whether there are negative elements.
    special
        What a third of the elements is replaced by: "none", "zeros", "subnormal", "not finite".
    constant
        Whether all elements are equal.
    seed
        Of all that is drawn.
    """

    centre: int
    spread: int | None
    rows: bool
    mantissas: str
    signs: bool
    special: str
    constant: bool
    seed: int


def textures(
    dtype: str, constant: bool = False, *, calm: bool = False
) -> st.SearchStrategy[Texture]:
    """Draw from the whole range of a dtype, or from near 1, where training stays finite."""
    limits = np.finfo(dtype)
    lowest, highest = limits.minexp - limits.nmant, limits.maxexp - 1
    centres = st.one_of(
        st.just(0),
        st.sampled_from((0, *LANDMARKS[dtype])),
        st.integers(lowest, highest),
    )
    return st.builds(
        Texture,
        centre=st.just(-2) if calm else centres,
        spread=st.sampled_from((0, 2) if calm else (0, 2, None, 30, None)),
        rows=st.booleans(),
        mantissas=st.sampled_from(("one", "random", "edges", "random", "few", "random")),
        signs=st.booleans(),
        special=st.sampled_from(("none",) * 7 + ("zeros", "subnormal", "not finite")),
        constant=st.just(True) if constant else st.sampled_from((False,) * 7 + (True,)),
        seed=st.integers(0, 999),
    )


def array(texture: Texture, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Draw the array that a texture describes."""
    limits = np.finfo(dtype)
    lowest, highest = int(limits.minexp) - limits.nmant, int(limits.maxexp) - 1
    rng = np.random.default_rng(texture.seed)
    drawn: tuple[int, ...] = () if texture.constant else shape
    mantissas = {
        "one": lambda: np.ones(drawn),
        "few": lambda: rng.choice([1.0, 1.5, 1.25, 1.75], drawn),
        "edges": lambda: rng.choice([1 + limits.eps, 2 - limits.eps, 2 - 3 * limits.eps], drawn),
        "random": lambda: rng.uniform(1.0, 2.0 - float(limits.eps), drawn),
    }[texture.mantissas]()
    places = (*drawn[:1], *(1 for _ in drawn[1:])) if texture.rows else drawn
    if texture.spread is None:
        exponents = rng.integers(lowest, highest + 1, places)
    else:
        spread = texture.spread
        exponents = texture.centre + rng.integers(-spread, spread + 1, places)
    signs = rng.choice([1.0, -1.0], drawn) if texture.signs else np.ones(drawn)
    special = {
        "none": [0.0],
        "zeros": [0.0, -0.0],
        "subnormal": [float(limits.smallest_subnormal), -3 * float(limits.smallest_subnormal)],
        "not finite": [math.inf, -math.inf, math.nan],
    }[texture.special]
    replaced = (rng.random(drawn) < 0.3) & (texture.special != "none")
    with np.errstate(all="ignore"):
        # To the dtype's digits before the exponent is there, as nothing may overflow.
        a = np.ldexp((signs * mantissas).astype(dtype).astype("float64"), 0)
        a = np.where(np.abs(a) >= 2.0, np.sign(a), a)
        a = np.ldexp(a, np.clip(exponents, lowest, highest))
        a = np.where(replaced, rng.choice(special, drawn), a).astype(dtype)
    return np.array(np.broadcast_to(a, shape), order="C")


def labels(
    rng: np.random.Generator, n: int, classes: int, dtype: str, *, valid: bool
) -> np.ndarray:
    """Draw class indices, the first and last ones more often; some out of range if not `valid`."""
    limits = np.iinfo(dtype)
    most = min(classes - 1, int(limits.max))
    drawn = [int(rng.choice([0, most, rng.integers(0, most + 1)])) for _ in range(n)]
    wrong = [w for w in (-1, classes, int(limits.min), int(limits.max)) if limits.min <= w]
    wrong = [w for w in wrong if w <= limits.max and not 0 <= w < classes]
    if not valid and wrong:
        drawn[0] = wrong[int(rng.integers(len(wrong)))]
    return np.asarray(drawn, dtype)
